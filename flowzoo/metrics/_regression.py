"""Parameters told from observations, and observations of many columns cut to a few."""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS = 50  # that a regression needs
COLUMNS = 32  # of wider observations the leading principal components
TREES = 50


def regressed(known_x: Tensor, known_theta: Tensor, x: Tensor, source: torch.Generator) -> Tensor:
    """Theta as 50 extremely randomised trees (Geurts et al. 2006, Mach. Learn. 63, 3) predict it from x.

    How good they are decides what the test sees, and not whether it is valid. Observations of more than 32 columns are
    projected on the leading principal components of the known ones, found with a random projection.

    Args:
        known_x: ``(M, F)``.
        known_theta: ``(M, D)``.
        x: ``(N, F)``.
        source: of projection and trees.

    Returns:
        ``(N, D)``.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    seed = int(torch.randint(2**31, (), generator=source, device=source.device))
    known_x, x = leading(known_x, x, source)
    trees = ExtraTreesRegressor(TREES, min_samples_leaf=5, random_state=seed, n_jobs=1)
    # One column is given as a vector, or scikit-learn warns.
    target = known_theta[:, 0] if known_theta.shape[1] == 1 else known_theta
    trees.fit(known_x.cpu().numpy(), target.cpu().numpy())
    found = torch.as_tensor(trees.predict(x.cpu().numpy()), dtype=known_theta.dtype)
    return found.reshape(len(x), -1).to(known_theta.device)


def leading(known: Tensor, x: Tensor, source: torch.Generator, columns: int = COLUMNS) -> tuple[Tensor, Tensor]:
    """Wide observations projected on the leading principal components of the known ones; others as they are.

    Halko, Martinsson and Tropp 2011, SIAM Rev. 53, 217, algorithm 4.4 with two iterations.
    """
    if known.shape[1] <= columns:
        return known, x
    centre = known.mean(0)
    known, x = known - centre, x - centre
    width = min(columns + 8, len(known), known.shape[1])
    start = torch.randn(known.shape[1], width, generator=source, device=source.device).to(known)
    basis = torch.linalg.qr(known @ start).Q
    for _ in range(2):
        basis = torch.linalg.qr(known @ torch.linalg.qr(known.T @ basis).Q).Q
    axes = torch.linalg.svd(basis.T @ known, full_matrices=False).Vh[:columns]
    return known @ axes.T, x @ axes.T
