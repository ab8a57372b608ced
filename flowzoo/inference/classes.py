"""Which class is an event of? Bayes' rule over the contexts that there can be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def class_log_posterior(
    log_prob: Callable[[Tensor, Tensor], Tensor], x: Tensor, classes: Tensor, log_prior: Tensor | None = None
) -> Tensor:
    r"""The log posterior of each class given each event.

    .. math:: \log p(k \mid x) = \log q(x \mid c_k) + \log \pi_k - \log \sum_j q(x \mid c_j)\, \pi_j

    Args:
        log_prob: ``(x, context) -> log q``, such as a flow, in nats.
        x: ``(N, *event)``.
        classes: ``(K, *context)``, the context of each class: for one-hot classes ``torch.eye(K)``.
        log_prior: ``(K,)``; the same for every class by default.

    Returns:
        ``(N, K)`` whose exponentials add up to one. An event of density zero under every class has NaN.

    Raises:
        ValueError: if the prior does not have a number for each class.

    >>> import torch
    >>> flow = lambda x, c: -0.5 * (x[:, 0] - c[:, 1]) ** 2  # N(0, 1) and N(1, 1)
    >>> class_log_posterior(flow, torch.tensor([[0.5]]), torch.eye(2)).exp()
    tensor([[0.5000, 0.5000]])
    """
    count = len(classes)
    if log_prior is not None and log_prior.shape != (count,):
        raise ValueError(f"log_prior must be ({count},), a number for each class; got {tuple(log_prior.shape)}")
    scores = torch.stack([log_prob(x, c.expand(len(x), *c.shape)) for c in classes], 1)
    return torch.log_softmax(scores if log_prior is None else scores + log_prior.to(scores.device), 1)
