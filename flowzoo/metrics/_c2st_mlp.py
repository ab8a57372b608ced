"""The classifier two-sample test of the simulation-based inference benchmark, to the letter."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

CLASSIFIER = "sbibm's MLP, two layers of 10 D"


def accuracy_mlp(reference: Tensor, drawn: Tensor, seed: int = 1) -> float:
    """Cross-validated accuracy of a small network between two samples; 0.5 if it cannot tell them apart.

    Lueckmann et al. 2021, arXiv:2101.04653, with the settings of their code, so that its numbers can stand beside those
    that were published: both samples in units of mean and standard deviation of the reference, scikit-learn's
    ``MLPClassifier`` of two hidden layers of 10 D rectified units, Adam, at most 10,000 epochs, all else as it comes;
    five shuffled folds, the mean of their accuracies. On one thread.

    Args:
        reference: ``(n, D)``.
        drawn: ``(n, D)``.
        seed: of folds and network; theirs is 1.

    Raises:
        ValueError: unless both are finite, of one shape, and the reference varies in every column.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if reference.ndim != 2 or reference.shape != drawn.shape:
        raise ValueError(
            f"reference and drawn must be (n, D) alike; got {tuple(reference.shape)} and {tuple(drawn.shape)}"
        )
    lost = int((~torch.cat([reference, drawn]).isfinite().all(1)).sum())
    if lost:
        raise ValueError(f"{lost} of {2 * len(reference)} points are not finite; leave them out")
    centre, spread = reference.double().mean(0), reference.double().std(0)
    if not bool((spread > 0).all()):
        raise ValueError(f"column {int(spread.argmin())} of the reference is constant; give one that varies")
    both = ((torch.cat([reference, drawn]).double() - centre) / spread).float().cpu().numpy()
    label = torch.arange(2).repeat_interleave(len(reference)).numpy()
    units = 10 * reference.shape[1]
    network = MLPClassifier(
        activation="relu", hidden_layer_sizes=(units, units), max_iter=10_000, solver="adam", random_state=seed
    )
    folds = KFold(n_splits=5, shuffle=True, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # theirs are counted as they stand after 10,000 epochs
        warnings.simplefilter("ignore", RuntimeWarning)  # of two OpenMP libraries in one process
        return float(cross_val_score(network, both, label, cv=folds, scoring="accuracy").mean())
