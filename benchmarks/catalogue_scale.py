"""What a large catalogue costs: seconds to load and standardise, and the memory that it takes.

    OMP_NUM_THREADS=1 python benchmarks/catalogue_scale.py --rows 1e6
    OMP_NUM_THREADS=1 python benchmarks/catalogue_scale.py --rows 35e6 --clean

Writes so many float32 particles of ten columns in 90 galaxies to a temporary folder, an ``.npy`` file each, and takes
them the way a bench does: ``load`` (with ``--clean``: radius cut, metallicity, minimum and rotation), ``Splits.make``
(checks, split by galaxy, hash) and ``maps`` (a logarithm of three columns, all standardised). **Read** is the time of
reading the same files into memory and nothing else. Seconds of the processor are of one thread, whatever else the
machine was doing. **Peak** is the most resident memory of the process until then, less what it had after its imports;
the first line says what the particles alone take.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from flowzoo.data import Splits
from flowzoo.data.catalogue import Catalogue

NAMES = ("x", "y", "z", "vx", "vy", "vz", "Z", "feh", "ofe", "age")
CUTS = {
    "radius_percentile": 98,
    "radius": 60.0,
    "metallicity_outliers": 10,
    "minimum": 500,
    "rotate": "angular_momentum",
}
R = TypeVar("R")


def main() -> None:
    """Write, load, split, fit; print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--galaxies", type=int, default=90)
    parser.add_argument("--clean", action="store_true")
    parser.add_argument("--folder", help="where the temporary files go")
    options = parser.parse_args()
    rows = int(options.rows)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write(Path(folder), rows, options.galaxies)
        config = Catalogue(
            path=folder,
            x=NAMES,
            columns=NAMES,
            position=NAMES[:3],
            velocity=NAMES[3:6],
            metallicity="Z",
            maps=dict.fromkeys(("Z", "ofe", "age"), "log10"),
            summaries=("log10 count()", "median(age)", "p10(age)", "mean(Z)"),
            **(CUTS if options.clean else {}),
        )
        size = rows * len(NAMES) * 4 / 2**30
        print(f"{rows} rows of {len(NAMES)} in {options.galaxies} galaxies: {size:.2f} GiB", flush=True)
        start = peak()
        read = timed("read the files", start, lambda: sum(len(np.load(file)) for file in Path(folder).iterdir()))
        assert read == rows
        data = timed("load", start, config.load)
        splits = timed("Splits.make", start, lambda: Splits.make(data))
        x_map, _ = timed("maps", start, splits.maps)
        index = torch.randint(len(splits.train), (1024,), generator=torch.Generator().manual_seed(0))
        x, _ = splits.train.batch(index, torch.Generator().manual_seed(0))
        assert bool(torch.isfinite(x_map.to_latent(x)[0]).all())
        print(f"{len(data)} particles left, contexts {tuple(splits.train.contexts.shape)}")


def write(folder: Path, rows: int, galaxies: int) -> None:
    """Galaxies of different sizes and tilts."""
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.2, 1.8, galaxies)
    ends = np.round(np.cumsum(shares) / shares.sum() * rows).astype(int)
    for g, count in enumerate(np.diff(ends, prepend=0)):
        particles = rng.standard_normal((count, len(NAMES)), dtype=np.float32)
        particles[:, :3] *= np.array([20, 20, 2], dtype=np.float32)
        particles[:, 3:5] += particles[:, 1::-1] * np.array([-1, 1], dtype=np.float32)
        np.exp(particles[:, 6:], out=particles[:, 6:])
        np.save(folder / f"{g}.npy", particles)


def peak() -> float:
    """The most memory that was resident, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed(what: str, start: float, function: Callable[[], R]) -> R:
    """Run it, print how long it took and the peak until now."""
    began, worked = time.perf_counter(), time.process_time()
    result = function()
    seconds, own = time.perf_counter() - began, time.process_time() - worked
    print(f"{what}: {seconds:.2f} s, of processor {own:.2f} s, peak {peak() - start:.2f} GiB", flush=True)
    return result


if __name__ == "__main__":
    main()
