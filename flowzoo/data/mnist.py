"""MNIST: handwritten digits of 1 x 28 x 28 given their class."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowzoo.config import ConfigError
from flowzoo.data._data import Data
from flowzoo.data._levels import ByteImages
from flowzoo.data._numpy_files import unreadable
from flowzoo.data._readers import expanded
from flowzoo.registry import DATASETS

SIDE = 28


@DATASETS.register
@dataclass(frozen=True)
class Mnist(ByteImages):
    r"""Handwritten digits of 1 x 28 x 28 bytes, conditioned on their one-hot class (10), with the official split.

    LeCun, Bottou, Bengio and Haffner 1998, Proc. IEEE 86. The four official idx files are read, each as it is or with
    ``.gz``; others of the same layout and names are too (Fashion-MNIST: classes are then called by number all the
    same). Events are levels 0 to 2^n_bits - 1, stored as bytes; see ``flowzoo.data._levels.ByteImages`` for the
    equation. Writers are not recorded, so each image is its own group.

    Args:
        n_bits: bits per pixel, 1 to 8.
        alpha: distance of the logit from 0 and 1.
        transform: ``logit`` (then standardised) or ``scale`` (to [-0.5, 0.5], as Glow does).
        classes: condition on the one-hot class; else unconditional.
        num_train: use the first of the training images only; None: all.
        num_test: the same for the test images.
        root: folder with the files.
        pad: zeros added on each side, in pixels; 2 gives 32 x 32, which halves five times. Padding is part of the
            event: its pixels count in the bits per dimension.
    """

    root: str = ""
    pad: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.pad <= SIDE:
            raise ConfigError(f"pad must be from 0 to {SIDE} pixels; got {self.pad}")

    def load(self) -> Data:
        """Read the four files.

        Raises:
            FileNotFoundError: if the folder or one of the four is not there.
            ValueError: if a file is empty, torn or not what its name says, counts differ, or a label is beyond 9.
            ConfigError: if ``root`` is missing, or ``num_train`` or ``num_test`` are more than there are.
        """
        if not self.root:
            raise ConfigError("mnist needs `root`, the folder with train-images-idx3-ubyte(.gz) and so on")
        root = expanded(self.root)
        if not root.is_dir():
            raise FileNotFoundError(f"no such folder: {self.root}")
        train, test = (self._part(root, name) for name in ("train", "t10k"))
        return self._data(
            train,
            test,
            names=("ink",),
            class_names=[f"digit {k}" for k in range(10)],
            notes=(f"{self.pad} pixels of zeros added on each side",) if self.pad else (),
        )

    def _part(self, root: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
        image_file, label_file = (_find(root, f"{name}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        images, labels = _read_idx(image_file, 3), _read_idx(label_file, 1)
        if images.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"{image_file}: expected images of {SIDE} x {SIDE}; got {images.shape[1:]}")
        if len(images) != len(labels):
            raise ValueError(
                f"{label_file}: expected {len(images)} labels, as many as {image_file.name} has images; "
                f"got {len(labels)}"
            )
        bad = np.flatnonzero(labels > 9)
        if len(bad):
            raise ValueError(
                f"{label_file}: labels must be 0 to 9; label {bad[0]} is {labels[bad[0]]} ({len(bad)} in all)"
            )
        return np.pad(images[:, None], ((0, 0), (0, 0), (self.pad, self.pad), (self.pad, self.pad))), labels


def _find(root: Path, name: str) -> Path:
    for file in (root / name, root / f"{name}.gz"):
        if file.is_file():
            return file
    raise FileNotFoundError(f"{root} has no {name} and no {name}.gz")


def _read_idx(file: Path, rank: int) -> np.ndarray:
    """An array of bytes in the idx layout: magic number, sizes (big-endian, 4 bytes each), then the values."""
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(file, error) from None
    head = 4 * (rank + 1)
    if len(raw) < head:
        raise ValueError(f"{file}: expected a header of {head} bytes; the file has {len(raw)}: empty or torn")
    magic, *shape = np.frombuffer(raw, dtype=">u4", count=rank + 1).tolist()
    # 0, 0, 8 (bytes), rank
    if magic != 0x800 + rank:
        raise ValueError(f"{file}: expected the magic number {0x800 + rank} (bytes of rank {rank}); got {magic}")
    expected = int(np.prod(shape, dtype=object))
    if len(raw) - head != expected or not shape[0]:
        raise ValueError(
            f"{file}: its header says {' x '.join(map(str, shape))} = {expected} bytes; it has {len(raw) - head}"
            + (": empty or torn" if len(raw) - head <= expected else "")
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=head).reshape(shape)
