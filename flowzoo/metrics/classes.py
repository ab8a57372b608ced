"""How well a class-conditional density tells the classes apart, by Bayes' rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from flowzoo.inference import class_log_posterior
from flowzoo.metrics._metric import Column, Evaluation, NotComputed
from flowzoo.registry import METRICS


@METRICS.register
@dataclass(frozen=True)
class Classes:
    r"""Accuracy and log score of :math:`p(k \mid x) \propto q(x \mid k)`, every class as probable as the others.

    A generative classifier, never trained to discriminate: a flow that models the class well scores high, and one
    whose density ignores the class is at chance, 1/K and log K.

    Args:
        max_events: at most this many test events, in the order of the draws: each is scored under every class.
    """

    max_events: int = 2000

    needs: ClassVar[tuple[str, ...]] = ("scores",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("class_accuracy", "higher", "share of test events whose most probable class is theirs"),
        Column("class_log_score", "lower", "mean -log p(class | x), nats; log K is chance"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
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
        right = (log_posterior.argmax(1) == truth).double().mean()
        score = -log_posterior.gather(1, truth[:, None]).mean()
        return {"class_accuracy": float(right), "class_log_score": float(score)}
