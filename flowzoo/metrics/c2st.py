"""Classifier two-sample test: can a classifier tell draws from test events, or posteriors from exact ones?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._c2st_mlp import CLASSIFIER, accuracy_mlp
from flowzoo.metrics._metric import Column, Evaluation, NotComputed, ReferenceDraws
from flowzoo.metrics._points import compare, points, results
from flowzoo.progress import bar
from flowzoo.registry import METRICS

FOLDS = 5
TREES = {"max_iter": 50, "max_leaf_nodes": 8, "learning_rate": 0.2}
COLUMNS = 128  # of wider events the leading principal components


@METRICS.register
@dataclass(frozen=True)
class C2ST:
    """Cross-validated accuracy of a classifier between real and drawn points; 0.5 is a perfect flow.

    Where the dataset has reference posteriors, the points are draws of the flow's posterior and of the exact one, the
    column is the mean over their observations of the accuracy of sbibm's classifier (``_c2st_mlp.accuracy_mlp``), and
    ``c2st_published`` stands beside it: what others published of neural posterior estimation against the same
    references. Accuracies by observation are kept as ``by_observation`` (K,). Elsewhere the points are events:

    Lopez-Paz and Oquab 2017, arXiv:1610.06545, section 3: a classifier is trained on labelled points of both samples
    and scored on others, here in 5 folds with as many of both in each. If P = Q, any half of the points of a fold is
    as probable to be the drawn one as any other, whatever the other folds hold: the accuracy is exactly 1/2 on average,
    with a standard error near 0.62 / sqrt(2 m): a quarter more than that of 2 m coins, because classifiers of different
    folds learn from the same points. Else its expectation is at most (1 + TV(P, Q)) / 2, TV being the total variation
    distance. Kept is ``points``, m.

    Accuracies of different classifiers cannot be compared. This one is scikit-learn's
    ``HistGradientBoostingClassifier`` with 50 trees of at most 8 leaves, learning rate 0.2, no early stopping, seed 0.
    Trees ask for the order of the values of a column, so units do not matter. They see sharp edges, spikes and holes
    that a small network smooths over; of weak correlations among many columns they see less. Events of more than 128
    columns are first projected onto the 128 leading principal components of both samples together, each column in
    units of its spread: what differs beyond is not seen. (Components of one sample alone would give it away: its own
    spread is the largest along them.)

    Args:
        max_points: at most this many points of a half.
    """

    max_points: int = 2000

    conformance: ClassVar[dict[str, Any]] = {"options": {"max_points": 100}}
    needs: ClassVar[tuple[str, ...]] = ("clouds", "references")
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "c2st",
            "lower",
            "5-fold accuracy between draws and test events, boosted trees (50 of 8 leaves); of posteriors against "
            f"exact ones, {CLASSIFIER}; 0.5 is perfect",
            "c2st_floor",
            0.55,
            0.7,
        ),
        Column("c2st_floor", "none", "the same between two halves of the test events"),
        Column("c2st_observations", "none", "reference posteriors that c2st is the mean over; else it is of points"),
        Column("c2st_published", "none", "published C2ST of neural posterior estimation against the same references"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        if evaluation.references is not None:
            return _against_references(evaluation.references)
        found = points(evaluation, "a classifier", least=4 * FOLDS, most=self.max_points)
        value, floor = compare(found, accuracy)
        of_references = ("c2st_observations", "c2st_published")
        missing: dict[str, float | Tensor | str] = dict.fromkeys(of_references, evaluation.references_missing)
        return results(["c2st"], value, floor, found) | missing | {"points": torch.tensor(found.real.shape[2])}


def _against_references(references: ReferenceDraws) -> dict[str, float | Tensor | str]:
    """Columns from draws beside those of exact posteriors."""
    total = len(references.drawn)
    for side, which in ((references.drawn, "draws"), (references.reference, "reference draws")):
        finite = side.isfinite().all(-1)
        if not finite.all():
            raise NotComputed(f"{int((~finite).sum())} of {finite.numel()} posterior {which} are not finite")
    count = references.drawn.shape[1]
    if count < 4 * FOLDS:
        raise NotComputed(f"{count} draws of each reference posterior; {4 * FOLDS} are needed for a classifier")
    found = []
    with bar("C2ST against reference posteriors", total) as update:  # half a minute each of 10,000 draws
        for k, (reference, drawn) in enumerate(zip(references.reference, references.drawn, strict=True)):
            found.append(accuracy_mlp(reference, drawn))
            update(k + 1, f"{found[-1]:.3f}")
    value = torch.tensor(found, dtype=torch.float64)
    return {
        "c2st": float(value.mean()),
        "c2st_floor": "against exact posteriors 0.5 is perfect",
        "c2st_observations": float(total),
        "c2st_published": references.published.get("NPE", "no published C2ST of NPE against these references"),
        "by_observation": value,
    }


def accuracy(a: Tensor, b: Tensor) -> Tensor:
    """Cross-validated accuracy of the classifier between two samples of one size.

    Args:
        a: ``(N, D)``.
        b: ``(N, D)``.

    Returns:
        A scalar tensor.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    x = _narrow(torch.cat([a, b])).cpu().numpy()
    y = torch.arange(2).repeat_interleave(len(a)).numpy()
    # Points come in random order, so every fifth is a fair choice, with as many of both in each fold.
    fold = torch.arange(len(a)).repeat(2).numpy() % FOLDS
    right = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of two OpenMP libraries in one process
        # Fits of a tenth of a second are slower on many threads than on one.
        with threadpool_limits(1, user_api="openmp"):
            for k in range(FOLDS):
                trees = HistGradientBoostingClassifier(**TREES, early_stopping=False, random_state=0)
                trees.fit(x[fold != k], y[fold != k])
                right += int((trees.predict(x[fold == k]) == y[fold == k]).sum())
    return torch.tensor(right / len(y), dtype=torch.float64, device=a.device)


def _narrow(x: Tensor) -> Tensor:
    """Of wide events their leading principal components, columns standardised first."""
    if x.shape[1] <= COLUMNS:
        return x
    x = x - x.mean(0)
    spread = x.std(0)
    x = x / spread.where(spread > 0, 1.0)
    if x.shape[1] <= len(x):
        return x @ torch.linalg.eigh(x.T @ x).eigenvectors[:, -COLUMNS:]
    values, vectors = torch.linalg.eigh(x @ x.T)  # the smaller matrix: the components are scaled eigenvectors of it
    return vectors[:, -COLUMNS:] * values[-COLUMNS:].clamp_min(0).sqrt()
