"""Images of bytes: fewer bits, the fixed map to network units, one-hot classes, the official split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from flowzoo.bijectors import Bijector, Compose, Identity, Logit, Rescale, Standardize
from flowzoo.config import ConfigError
from flowzoo.data._data import Data, Levels


@dataclass(frozen=True)
class ByteImages:
    r"""Options that all datasets of byte images share.

    The levels are k = 0 .. 2^n_bits - 1, each as wide as 1, and the density is that of k + U(0, 1):

    .. math:: k = \lfloor \mathrm{byte} / 2^{8 - n} \rfloor

    A uniform density over all levels has n bits per dimension. (Kingma and Dhariwal 2018, arXiv:1807.03039, section 5:
    5 bits for CelebA, 8 for CIFAR-10; Theis et al. 2016, arXiv:1511.01844, section 3.1, for the noise.)

    Args:
        n_bits: bits per pixel and channel, 1 to 8.
        alpha: distance of the logit from 0 and 1; see ``flowzoo.bijectors.Logit``.
        transform: fixed map to network units. ``logit``: logit, then standardised per channel (Dinh et al. 2017,
            arXiv:1605.08803, section 4.1). ``scale``: to [-0.5, 0.5] by a line, as Glow does.
        classes: condition on the one-hot class (10); else unconditional.
        num_train: use the first of the training images only; None: all.
        num_test: the same for the test images.
    """

    n_bits: int = 8
    alpha: float = 0.05
    transform: Literal["logit", "scale"] = "logit"
    classes: bool = True
    num_train: int | None = None
    num_test: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.n_bits <= 8:
            raise ConfigError(f"n_bits must be from 1 to 8; got {self.n_bits}")
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"alpha must be between 0 and 0.5, ends excluded; got {self.alpha}")
        if self.transform not in ("logit", "scale"):
            raise ConfigError(f"transform must be 'logit' or 'scale'; got '{self.transform}'")
        if self.transform == "scale" and self.alpha != ByteImages.alpha:
            raise ConfigError(f"alpha is of transform=logit, and transform is scale; leave it out (got {self.alpha:g})")
        for option in ("num_train", "num_test"):
            count = getattr(self, option)
            if count is not None and count < 1:
                raise ConfigError(f"{option} must be at least 1, or null for all; got {count}")

    def _data(
        self,
        train: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        *,
        names: Sequence[str],
        class_names: Sequence[str],
        augment: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> Data:
        """Images ``(N, C, H, W)`` of bytes and labels ``(N,)`` 0 to 9, both parts as the files have them."""
        parts = [self._first(part, option) for part, option in ((train, "num_train"), (test, "num_test"))]
        images = np.concatenate([part[0] for part in parts])
        labels = np.concatenate([part[1] for part in parts])
        levels = Levels(0, 1, 2**self.n_bits)
        if self.n_bits < 8:
            images >>= 8 - self.n_bits
            notes = [*notes, f"{self.n_bits} bits: byte / {2 ** (8 - self.n_bits)}, rounded down"]
        return Data(
            x=torch.from_numpy(images),
            context=torch.eye(len(class_names)) if self.classes else None,
            context_index=torch.from_numpy(labels).long() if self.classes else None,
            names=tuple(names),
            context_names=tuple(class_names) if self.classes else (),
            levels=levels,
            augment=tuple(augment),
            x_map=self._map(images.shape[1:], levels),
            context_map=Identity() if self.classes else None,
            given_split=torch.tensor([0, 2]).repeat_interleave(torch.tensor([len(part[0]) for part in parts])),
            notes=tuple(notes),
        )

    def _map(self, shape: Sequence[int], levels: Levels) -> Bijector:
        low, high = levels.low, levels.low + levels.step * levels.count
        if self.transform == "scale":
            return Rescale(low, high)
        return Compose(Logit(low, high, self.alpha), Standardize(shape))

    def _first(self, part: tuple[np.ndarray, np.ndarray], option: str) -> tuple[np.ndarray, np.ndarray]:
        count = getattr(self, option)
        if count is None:
            return part
        if count > len(part[0]):
            raise ConfigError(f"{option} must be at most {len(part[0])}, the images that there are; got {count}")
        return part[0][:count], part[1][:count]
