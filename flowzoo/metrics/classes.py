"""How well a class-conditional density tells the classes apart, by Bayes' rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.inference import class_log_posterior
from flowzoo.metrics._metric import Column, Evaluation, NotComputed
from flowzoo.registry import METRICS

BINS = 15


@METRICS.register
@dataclass(frozen=True)
class Classes:
    r"""Accuracy, calibration and scores of :math:`p(k \mid x) \propto q(x \mid k)`, all K classes equally probable.

    A generative classifier, never trained to discriminate: a flow that models the class well scores high, and one
    whose density ignores the class is at chance, 1/K and log K.

    The Brier score (Brier 1950, Mon. Weather Rev. 78, 1) is the mean of
    :math:`\sum_k (p(k \mid x) - 1[k = k^*])^2`: 0 to 2, (K - 1)/K at chance. The expected calibration error (Guo et al.
    2017, arXiv:1706.04599, section 2) sorts events by the probability c of their most probable class into B = 15 bins
    of equal width and, with n_b events, mean probability c_b and accuracy a_b in bin b, is :math:`\sum_b \frac{n_b}{N}
    \lvert a_b - c_b \rvert`. It is above 0 for a calibrated flow too, by about sqrt(2 a (1 - a) / (pi n)) of each bin,
    and a flow at chance has none: it says whether probabilities can be believed, not whether they are of use.

    Args:
        max_events: at most this many test events, in the order of the draws: each is scored under every class.
    """

    max_events: int = 2000

    needs: ClassVar[tuple[str, ...]] = ("scores",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("class_accuracy", "higher", "share of test events whose most probable class is theirs"),
        Column("class_log_score", "lower", "mean -log p(class | x), nats; log K is chance"),
        Column("class_brier", "lower", "Brier score of p(class | x), 0 to 2; (K - 1)/K is chance"),
        Column(
            "class_ece",
            "lower",
            "expected calibration error of the most probable class, 15 bins of equal width",
            good=0.05,
            bad=0.15,
        ),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor]:
        """See the class."""
        context = evaluation.contexts
        one_hot = context.ndim == 2 and context.shape[1] > 1 and bool(((context == 0) | (context == 1)).all())
        if not one_hot or not bool((context.sum(1) == 1).all()):
            raise NotComputed("the context is not a one-hot class")
        rows = slice(None, self.max_events) if evaluation.rows is None else evaluation.rows[: self.max_events]
        classes = torch.eye(context.shape[1], dtype=context.dtype, device=context.device)
        log_posterior = class_log_posterior(evaluation.log_prob, evaluation.x[rows], classes).double()
        lost = int((~log_posterior.isfinite()).any(1).sum())
        if lost:
            raise NotComputed(f"log q is not finite at {lost} of {len(log_posterior)} test events under some class")
        truth = context[evaluation.context_index[rows]].argmax(1)
        right = log_posterior.argmax(1) == truth
        count, confidence, accuracy = reliability(log_posterior.amax(1).exp(), right)
        gap = (accuracy - confidence).abs().nan_to_num(0)  # an empty bin counts nothing
        return {
            "class_accuracy": float(right.double().mean()),
            "class_log_score": float(-log_posterior.gather(1, truth[:, None]).mean()),
            "class_brier": float((log_posterior.exp() - classes[truth].double()).square().sum(1).mean()),
            "class_ece": float((count * gap).sum() / len(truth)),
        }


def reliability(confidence: Tensor, right: Tensor, bins: int = BINS) -> tuple[Tensor, Tensor, Tensor]:
    """Events in bins of their confidence, of equal width from 0 to 1.

    Args:
        confidence: ``(N,)`` probability of the most probable class.
        right: ``(N,)`` whether it is the true one.
        bins: B.

    Returns:
        Number of events, mean confidence and accuracy of each bin, ``(B,)``; the latter NaN where there are none.
    """
    sums = torch.zeros(3, bins, dtype=torch.float64, device=confidence.device)
    values = torch.stack([torch.ones_like(confidence), confidence, right.to(confidence)]).double()
    sums.index_add_(1, (confidence * bins).long().clamp(0, bins - 1), values)
    return sums[0], sums[1] / sums[0], sums[2] / sums[0]
