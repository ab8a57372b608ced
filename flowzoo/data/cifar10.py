"""CIFAR-10: natural images of 3 x 32 x 32 given their class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowzoo.config import ConfigError
from flowzoo.data._data import Data
from flowzoo.data._levels import ByteImages
from flowzoo.data._pickles import read_pickle
from flowzoo.data._readers import expanded
from flowzoo.registry import DATASETS

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OFFICIAL = 50_000  # training images in the five batches

Part = tuple[np.ndarray, np.ndarray]


@DATASETS.register
@dataclass(frozen=True)
class Cifar10(ByteImages):
    r"""Natural images of 3 x 32 x 32 bytes, conditioned on their one-hot class (10), with the official split.

    Krizhevsky 2009, "Learning multiple layers of features from tiny images". The official layouts are read: the binary
    one (``data_batch_1.bin`` ... ``data_batch_5.bin``, ``test_batch.bin``; a record is the label and 3072 pixels, red,
    green, blue, row by row) and the one for Python (``data_batch_1`` ..., ``test_batch``: pickles, of which arrays
    alone are read, see ``flowzoo.data._pickles``). The batches that are there are taken, and how many is noted.
    Events are levels 0 to 2^n_bits - 1, stored as bytes; see ``flowzoo.data._levels.ByteImages`` for the equation.

    Args:
        n_bits: bits per pixel and channel, 1 to 8.
        alpha: distance of the logit from 0 and 1.
        transform: ``logit`` (then standardised per channel) or ``scale`` (to [-0.5, 0.5], as Glow does).
        classes: condition on the one-hot class; else unconditional.
        num_train: use the first of the training images only; None: all.
        num_test: the same for the test images.
        root: folder with the files.
        mirror: exchange left and right of half of the training images, the one symmetry that natural images have.
    """

    root: str = ""
    mirror: bool = True

    def load(self) -> Data:
        """Read the batches of one layout.

        Raises:
            FileNotFoundError: if the folder, the training batches or the test batch are not there.
            ValueError: if a file is empty, torn or not what its name says, or has a label beyond 9.
            ConfigError: if ``root`` is missing, or ``num_train`` or ``num_test`` are more than there are.
        """
        if not self.root:
            raise ConfigError("cifar10 needs `root`, the folder with data_batch_1.bin and so on")
        root = expanded(self.root)
        if not root.is_dir():
            raise FileNotFoundError(f"no such folder: {self.root}")
        ending = next((ending for ending in _READERS if _batches(root, ending)), None)
        if ending is None:
            raise FileNotFoundError(
                f"{self.root} has no data_batch_1.bin ... data_batch_5.bin, and none without the .bin (root must be "
                "cifar-10-batches-bin or cifar-10-batches-py, unpacked)"
            )
        read, batches, test_file = _READERS[ending], _batches(root, ending), root / f"test_batch{ending}"
        if not test_file.is_file():
            raise FileNotFoundError(f"{self.root} has training batches and no test_batch{ending}")
        parts = [read(root / f"data_batch_{k}{ending}") for k in batches]
        train = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        which = ", ".join(map(str, batches))
        return self._data(
            train,
            read(test_file),
            names=("red", "green", "blue"),
            class_names=_class_names(root / "batches.meta.txt"),
            augment=("mirror",) if self.mirror else (),
            notes=(f"training batches {which} of 5: {len(train[0])} of {OFFICIAL} training images",),
        )


def _binary(file: Path) -> Part:
    """Images and labels of a batch in the binary layout."""
    size = file.stat().st_size
    if size == 0 or size % (PIXELS + 1):
        raise ValueError(
            f"{file}: expected records of {PIXELS + 1} bytes (a label and {PIXELS} pixels), one at least; got {size} "
            "bytes: empty, torn, or not the binary layout"
        )
    records = np.fromfile(file, dtype=np.uint8).reshape(-1, PIXELS + 1)
    return records[:, 1:].reshape(-1, *SHAPE), _checked(records[:, 0], len(records), file)


def _python(file: Path) -> Part:
    """Images and labels of a batch in the layout for Python."""
    found = read_pickle(file)
    batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in found.items()} if isinstance(found, dict) else {}
    images, labels = batch.get("data"), batch.get("labels")
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 2
        or images.shape[1] != PIXELS
        or len(images) == 0
    ):
        what = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"{file}: 'data' must be bytes of shape (n, {PIXELS}); got {what}")
    try:
        numbers = np.array(labels, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{file}: 'labels' must be a list of whole numbers; got {type(labels).__name__}") from None
    return images.reshape(-1, *SHAPE), _checked(numbers, len(images), file)


#: by the ending of its files; the first layout that is there is read
_READERS: dict[str, Callable[[Path], Part]] = {".bin": _binary, "": _python}


def _batches(root: Path, ending: str) -> list[int]:
    return [k for k in range(1, 6) if (root / f"data_batch_{k}{ending}").is_file()]


def _checked(labels: np.ndarray, count: int, file: Path) -> np.ndarray:
    if labels.shape != (count,):
        raise ValueError(f"{file}: expected one label for each of {count} images; got {labels.size}")
    bad = np.flatnonzero((labels < 0) | (labels > 9))
    if len(bad):
        raise ValueError(f"{file}: labels must be 0 to 9; record {bad[0]} has {labels[bad[0]]} ({len(bad)} in all)")
    return labels


def _class_names(file: Path) -> tuple[str, ...]:
    """The official names, or those of the file if it has ten."""
    if not file.is_file():
        return CLASSES
    names = tuple(file.read_text(errors="replace").split())
    if len(names) != len(CLASSES):
        raise ValueError(f"{file}: expected the names of 10 classes; got {len(names)}")
    return names
