"""How well an autoencoder gives its images back, beside principal components, in numbers and in pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.autoencoder import CHUNK, Autoencoder
from flowzoo.data import Split, Splits
from flowzoo.report import figures_latents
from flowzoo.seeding import generator

PARTS = ("train", "validation", "test")
SHOWN = 8  # test galaxies whose images are shown
COPIES = 8  # of the training images, augmented, that the principal components are of
PICTURES = ("reconstruction.png", "traversal.png")
_EXTRA, _ROUNDS = 8, 10  # directions and rounds of the subspace iteration beyond what is needed


@dataclass(frozen=True)
class Error:
    """How well the images of one part are reconstructed.

    Args:
        galaxies: in it.
        images: of these.
        mse: mean squared error over images, channels and pixels, in network units.
        unexplained: the same as a share of the squared distance to the mean training image.
        pca_mse: as ``mse``, by as many principal components of the training images.
        pca_unexplained: as ``unexplained``.
    """

    galaxies: int
    images: int
    mse: float
    unexplained: float
    pca_mse: float
    pca_unexplained: float


@dataclass(frozen=True)
class Components:
    """The best linear map to so many numbers and back: what an autoencoder must beat.

    Of the training images, flipped and turned as they are for the autoencoder. Block subspace iteration (Halko et al.
    2011, SIAM Review 53, algorithm 4.4) on parts of the images, so that no matrix of pixels by pixels is made.

    Args:
        mean: ``(C H H,)``.
        axes: ``(C H H, k)``, orthonormal.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def fit(cls, network: Autoencoder, train: Split, seed: int) -> Components:
        """As many as the network has latents."""
        count, device = network.config.latents, train.x.device

        def images() -> Iterator[Tensor]:
            for copy in range(COPIES if train.symmetries else 1):
                noise = generator(seed, "components", copy, device=device)
                for rows in torch.arange(len(train), device=device).split(CHUNK):
                    turned = train.batch(rows, noise)[0] if train.symmetries else train.x[rows] + network.middle
                    yield network.x_map.to_latent(turned)[0].flatten(1)

        total, sums = 0, torch.zeros(network.event_shape.numel(), dtype=torch.float64, device=device)
        for u in images():
            total += len(u)
            sums += u.double().sum(0)
        mean = (sums / total).float()
        width = min(count + _EXTRA, len(mean))
        axes = torch.randn(len(mean), width, generator=generator(seed, "components")).to(device)
        for _ in range(_ROUNDS):
            moved = torch.zeros_like(axes)
            for u in images():
                moved += (u - mean).T @ ((u - mean) @ axes)
            axes = torch.linalg.qr(moved)[0]
        along = axes.new_zeros(width, width, dtype=torch.float64)
        for u in images():
            projected = ((u - mean) @ axes).double()
            along += projected.T @ projected
        return cls(mean, axes @ torch.linalg.eigh(along)[1][:, -count:].float())

    def __call__(self, u: Tensor) -> Tensor:
        """Reconstruct ``(N, C, H, H)`` in network units."""
        flat = u.flatten(1) - self.mean
        return (flat @ self.axes @ self.axes.T + self.mean).view_as(u)


def errors(network: Autoencoder, splits: Splits, seed: int) -> dict[str, Error]:
    """The errors of a trained network on each part, none of them augmented."""
    components = Components.fit(network, splits.train, seed)
    sums = torch.zeros(network.event_shape, dtype=torch.float64, device=splits.train.x.device)
    for images in splits.train.x.split(CHUNK):
        sums += network.standard(images).double().sum(0)
    mean = (sums / len(splits.train)).float()
    found = {}
    for name, part in zip(PARTS, (splits.train, splits.validation, splits.test), strict=True):
        squares = torch.zeros(3, dtype=torch.float64, device=part.x.device)
        for images in part.x.split(CHUNK):
            u, again = reconstructed(network, images)
            squares += torch.stack([(u - other).double().square().sum() for other in (again, components(u), mean)])
        own, linear, spread = squares.tolist()
        size, galaxies = part.x.numel(), len(torch.unique(part.groups))
        found[name] = Error(galaxies, len(part), own / size, own / spread, linear / size, linear / spread)
    return found


@torch.no_grad()
def reconstructed(network: Autoencoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Some images and their reconstructions, in network units."""
    u = network.standard(images.to(next(network.parameters()).device))
    return u, network(u)


def joined(parts: Sequence[Error]) -> dict[str, float]:
    """The errors of several parts as one, each image counted once."""
    images = [error.images for error in parts]
    spread = sum(e.mse / e.unexplained * n for e, n in zip(parts, images, strict=True))
    sums: dict[str, float] = {}
    for kind in ("", "pca_"):
        squares = sum(getattr(e, f"{kind}mse") * n for e, n in zip(parts, images, strict=True))
        sums |= {f"{kind}mse": squares / sum(images), f"{kind}unexplained": squares / spread}
    return sums


def draw(network: Autoencoder, splits: Splits, ids: Mapping[int, str]) -> list[bytes]:
    """The ``PICTURES``: originals above reconstructions of some test galaxies, and what each latent does.

    Args:
        network: trained.
        splits: of its training.
        ids: what each group is called.
    """
    test, shown = splits.test, splits.data
    rows = [int((test.groups == group).nonzero()[0]) for group in torch.unique(test.groups)[:SHOWN]]
    again = network.decode(network.encode(test.x[rows]))
    titles = [ids[int(test.groups[row])] for row in rows]
    originals = test.x[rows] + network.middle
    pair = figures_latents.reconstruction(originals.cpu(), again.cpu(), titles, shown.names, shown.units)
    latents = network.encode(splits.train.x)
    mean, std = latents.mean(0), latents.std(0)
    chosen = std.argsort(descending=True)[: figures_latents.LATENTS]
    steps = torch.tensor(figures_latents.STEPS, device=std.device)
    moved = mean + steps[:, None] * torch.diag(std)[chosen][:, None]  # (latent, step, k)
    images = network.decode(moved.flatten(0, 1)).unflatten(0, moved.shape[:2])
    walk = figures_latents.traversal(images.cpu(), chosen.tolist(), std[chosen].tolist(), shown.names, shown.units)
    return [figures_latents.png(figure) for figure in (pair, walk)]
