r"""A convolutional autoencoder of images: a few numbers for each, learnt before the flow and apart from it.

.. math:: z = E(u) \in R^k,\qquad \hat u = D(z),\qquad \mathrm{loss} = \langle (u - \hat u)^2 \rangle

with u the image in network units and the mean over images, channels and pixels. The halving encoder (convolutions of
4 x 4 pixels with stride 2, a ReLU after each) and its mirror are those of GalacticForge (``final_AE.py``). We differ in
what it is trained on: training galaxies alone, the best weights by validation galaxies; the images are standardised by
the data's own map and the output is linear, where theirs was a sigmoid of values between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Size, Tensor, nn

from flowzoo import bijectors
from flowzoo import config as configs
from flowzoo.bijectors import Bijector, Identity
from flowzoo.checkpoint import CheckpointError, load_tensors, save_tensors, versions
from flowzoo.data import Split, Splits
from flowzoo.progress import bar
from flowzoo.seeding import generator, initialisation

FORMAT = "autoencoder 1"
CHUNK = 64  # images that are encoded at a time; the same everywhere, because rounding depends on it


class AutoencoderError(ValueError):
    """Images that cannot be halved, or a training that failed."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """The autoencoder of ``flowzoo embed``, and its training.

    The published one (92.7 million parameters for 3 x 448 x 448) is ``base=64, cap=2048, lr=3e-5, batch_size=4``.

    Args:
        latents: numbers that an image becomes.
        levels: halvings; None: while the side is even and more than 7, at least one.
        base: channels after the first; they double with every one after it.
        cap: most channels.
        steps: optimiser steps at most.
        batch_size: images per step.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW.
        warmup: share of the steps over which the rate rises linearly; it then falls along a cosine.
        lr_floor: lowest rate, as a share of ``lr``.
        clip: largest norm of the gradient; 0 does not clip.
        evaluate_every: steps between validations.
        patience: validations without improvement before stopping; 0 never stops early.
    """

    latents: int = 16
    levels: int | None = None
    base: int = 32
    cap: int = 256
    steps: int = 1000
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 1e-4
    warmup: float = 0.05
    lr_floor: float = 0.01
    clip: float = 1.0
    evaluate_every: int = 50
    patience: int = 10

    def __post_init__(self) -> None:
        for name in ("latents", "base", "cap", "steps", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.levels is not None and self.levels < 1:
            raise ValueError(f"levels must be at least 1, or null for as many as the side allows; got {self.levels}")
        for name, high in {"warmup": 1, "lr_floor": 1, "clip": math.inf, "weight_decay": math.inf}.items():
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in [0, {high:g}]; got {getattr(self, name)}")
        if not 0 < self.lr < math.inf or self.patience < 0:
            raise ValueError(f"lr must be positive and patience not negative; got {self.lr}, {self.patience}")

    def rate(self, step: int) -> float:
        """The learning rate of the step after ``step`` others."""
        rising = math.ceil(self.warmup * self.steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        along = (step - rising) / max(1, self.steps - rising)
        return self.lr * (self.lr_floor + (1 - self.lr_floor) * 0.5 * (1 + math.cos(math.pi * along)))


def halvings(shape: Sequence[int], levels: int | None = None) -> int:
    """How often the encoder halves images of a shape ``(C, H, W)``.

    Raises:
        AutoencoderError: unless they are square and their side can be halved so often.
    """
    if len(shape) != 3 or shape[1] != shape[2]:
        raise AutoencoderError(f"images must be square, (C, H, H); got {tuple(shape)}: crop or pad them")
    most = (shape[-1] & -shape[-1]).bit_length() - 1  # powers of two in it
    needed = levels or 1
    if most < needed:
        raise AutoencoderError(
            f"images of {shape[-1]} x {shape[-1]} pixels halve {most} times and {needed} are needed; the side must be "
            f"a multiple of {2**needed} (such as 64 or 448): crop or downsample them"
        )
    if levels is not None:
        return levels
    count, side = 1, shape[-1] // 2
    while side % 2 == 0 and side > 7:
        count, side = count + 1, side // 2
    return count


class Autoencoder(nn.Module):
    """Images in data units to latents and back; in between, network units.

    Args:
        event_shape: ``(C, H, H)``.
        config: see there.
        x_map: fitted map to network units, as of a flow; a part of this module.
        middle: half a step of integer data, which is added before the map; 0 for others.

    Raises:
        AutoencoderError: for images that are not square, or do not halve.
    """

    def __init__(
        self, event_shape: Sequence[int], config: AutoencoderConfig, x_map: Bijector | None = None, middle: float = 0.0
    ) -> None:
        super().__init__()
        self.event_shape, self.config, self.middle = Size(event_shape), config, middle
        self.x_map = Identity() if x_map is None else x_map
        count = halvings(event_shape, config.levels)
        widths = [event_shape[0], *(min(config.base * 2**i, config.cap) for i in range(count))]
        side = event_shape[-1] // 2**count
        flat = widths[-1] * side * side
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for i in range(count):
            down += [nn.Conv2d(widths[i], widths[i + 1], 4, 2, 1), nn.ReLU()]
        for i in reversed(range(count)):
            up += [nn.ConvTranspose2d(widths[i + 1], widths[i], 4, 2, 1), *([nn.ReLU()] if i else [])]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, config.latents))
        self.decoder = nn.Sequential(nn.Linear(config.latents, flat), nn.Unflatten(1, (widths[-1], side, side)), *up)

    def forward(self, u: Tensor) -> Tensor:
        """Reconstruct ``(N, C, H, H)`` in network units."""
        return self.decoder(self.encoder(u))

    def standard(self, images: Tensor) -> Tensor:
        """Images in data units to network units; integer levels are taken at their middle.

        Raises:
            ValueError: unless they have the shape that this was made for.
        """
        if images.shape[1:] != self.event_shape:
            raise ValueError(f"images must be (N, {', '.join(map(str, self.event_shape))}); got {tuple(images.shape)}")
        return self.x_map.to_latent(images.float() + self.middle)[0]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents ``(N, k)`` of images ``(N, C, H, H)`` in data units (integer data: the levels)."""
        device = next(self.parameters()).device
        return torch.cat([self.encoder(self.standard(part.to(device))) for part in images.split(CHUNK)])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images ``(N, C, H, H)`` in data units of latents ``(N, k)``."""
        device = next(self.parameters()).device
        return torch.cat([self.x_map.to_data(self.decoder(part.to(device)))[0] for part in latents.split(CHUNK)])


@dataclass(frozen=True)
class Trained:
    """What ``train_autoencoder`` did; the network has the weights of the best validation.

    Args:
        reason: why it stopped, in one line.
        steps: steps taken.
        best_step: the step whose weights were kept.
        validation_mse: of these, in network units.
        history: per validation: step, train_mse (mean since the last, of images as augmented), validation_mse, lr.
    """

    reason: str
    steps: int
    best_step: int
    validation_mse: float
    history: list[dict[str, float]]


def make_autoencoder(splits: Splits, config: AutoencoderConfig, seed: int) -> Autoencoder:
    """A network for the images of a split, with its maps fitted to the training part and seeded weights."""
    x_map = splits.without_context().maps()[0]
    levels = splits.data.levels
    with initialisation(generator(seed, "init")):
        network = Autoencoder(splits.data.event_shape, config, x_map, levels.step / 2 if levels else 0.0)
    return network.to(splits.train.x.device)


def train_autoencoder(
    network: Autoencoder, splits: Splits, *, seed: int = 0, label: str = "embed", show: bool | None = None
) -> Trained:
    """Minimise the squared error over the training images, augmented as the data declares; the test part is not seen.

    On a CPU the same seed gives the same weights bit for bit.

    Raises:
        AutoencoderError: if the loss became non-finite, naming the step.
    """
    config, train = network.config, splits.train
    device = train.x.device
    order, noise = (generator(seed, name, device=device) for name in ("order", "noise"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    size = min(config.batch_size, len(train))
    batches = len(train) // size
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    first_bad = torch.full((), -1, dtype=torch.long, device=device)
    best, best_step, stale, reason = math.inf, 0, 0, f"took all {config.steps} steps"
    weights: dict[str, Tensor] = {}
    history: list[dict[str, float]] = []
    permutation, before = torch.empty(0), 0
    with bar(label, config.steps, shown=show) as update:
        for step in range(1, config.steps + 1):
            position = (step - 1) % batches
            if position == 0:  # the remainder of an epoch waits for another one
                permutation = torch.randperm(len(train), generator=order, device=device)
            x = train.events(permutation[position * size : (position + 1) * size], noise)
            u = network.x_map.to_latent(x)[0]
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step - 1)
            optimizer.zero_grad(set_to_none=True)
            loss = (network(u) - u).square().mean()
            loss.backward()
            if config.clip:
                torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimizer.step()
            loss_sum += loss.detach()
            first_bad = torch.where((first_bad < 0) & ~torch.isfinite(loss.detach()), step, first_bad)
            if step % config.evaluate_every and step < config.steps:
                continue
            value = mse(network, splits.validation)
            bad = int(first_bad) if int(first_bad) >= 0 else step
            if int(first_bad) >= 0 or not math.isfinite(value):
                raise AutoencoderError(f"the error was not finite at step {bad}; a smaller embed.lr may help")
            train_mse, before = float(loss_sum) / (step - before), step
            loss_sum.zero_()
            history.append({"step": step, "train_mse": train_mse, "validation_mse": value, "lr": config.rate(step - 1)})
            stale += 1
            if value < best:
                best, best_step, stale = value, step, 0
                weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
            update(step, f"error {train_mse:.4f}, validation {best:.4f}")
            if config.patience and stale >= config.patience:
                reason = f"stopped at step {step}: no better validation in {stale} evaluations"
                break
    network.load_state_dict(weights)
    network.eval()
    return Trained(reason, step, best_step, best, history)


@torch.no_grad()
def mse(network: Autoencoder, split: Split) -> float:
    """Mean squared error over images, channels and pixels, in network units, without augmentation."""
    total = torch.zeros((), dtype=torch.float64, device=split.x.device)
    for part in split.x.split(CHUNK):
        u = network.standard(part)
        total += (network(u) - u).double().square().sum()
    return float(total) / split.x.numel()


def save_autoencoder(network: Autoencoder, path: Path, **meta: Any) -> None:
    """Write a network, whole or not at all, with whatever else should be known of it."""
    own = {
        "format": FORMAT,
        "event_shape": list(network.event_shape),
        "config": configs.to_dict(network.config),
        "x_map": network.x_map.describe(),
        "middle": network.middle,
        "versions": versions(),
    }
    save_tensors(path, network.state_dict(), {**meta, **own})


def load_autoencoder(path: str | Path, *, device: torch.device | str = "cpu") -> tuple[Autoencoder, Mapping[str, Any]]:
    """The network that ``save_autoencoder`` wrote, and what was said of it.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is damaged, or holds something else.
    """
    tensors, meta = load_tensors(Path(path))
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"{path}: holds no autoencoder of this version; give a file that flowzoo embed wrote")
    config = configs.make(AutoencoderConfig, meta["config"], "embed")
    with initialisation(torch.Generator().manual_seed(0)):  # the weights are replaced; the process-wide state is not
        network = Autoencoder(meta["event_shape"], config, bijectors.from_description(meta["x_map"]), meta["middle"])
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights do not fit ({str(error).splitlines()[-1].strip()})") from None
    return network.to(device).eval(), meta
