"""Small good files of every kind that a dataset reads, made here, and how each is loaded."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data import Data
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.source import open_sources
from flowzoo.seeding import derive

Arrays = dict[str, np.ndarray]
Options = Callable[[Path], dict[str, Any]]
CHECKSUMS = (".npz", ".gz")  # a flipped bit of the content of these is found out


def _npz(arrays: Arrays) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # of arrays by name
    return content.getvalue()


def _npy(arrays: Arrays) -> bytes:
    content = io.BytesIO()
    (array,) = arrays.values()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


def _structured(arrays: Arrays) -> bytes:
    rows = np.zeros(len(next(iter(arrays.values()))), [(name, array.dtype) for name, array in arrays.items()])
    for name, array in arrays.items():
        rows[name] = array
    return _npy({"rows": rows})


def _csv(arrays: Arrays) -> bytes:
    import pandas as pd

    return pd.DataFrame(arrays).to_csv(index=False).encode()


def _parquet(arrays: Arrays) -> bytes:
    import pandas as pd

    content = io.BytesIO()
    pd.DataFrame(arrays).to_parquet(content)
    return content.getvalue()


def _hdf5(arrays: Arrays) -> bytes:
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, array in arrays.items():
            file[name] = array.astype(bytes) if array.dtype.kind == "U" else array
    return content.getvalue()


def _text(arrays: Arrays) -> bytes:
    content = io.StringIO()
    np.savetxt(content, np.stack(list(arrays.values()), 1), header=" ".join(arrays))
    return content.getvalue().encode()


def _idx(arrays: Arrays) -> bytes:
    (array,) = arrays.values()
    if array.dtype != np.uint8:
        raise ValueError("bytes only")
    return np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes() + array.tobytes()


def _idx_gz(arrays: Arrays) -> bytes:
    return gzip.compress(_idx(arrays), mtime=0)


def _records(arrays: Arrays) -> bytes:
    return np.concatenate([arrays["labels"][:, None], arrays["data"]], 1).astype(np.uint8).tobytes()


def _python(arrays: Arrays) -> bytes:
    return pickle.dumps({b"data": arrays["data"], b"labels": arrays["labels"].tolist()}, protocol=2)


@dataclass(frozen=True)
class File:
    """A good file: what it holds and how that is written."""

    write: Callable[[Arrays], bytes]
    arrays: Arrays


@dataclass(frozen=True)
class Case:
    """A dataset, its files, and its options once they lie in a folder."""

    name: str
    dataset: str
    files: Mapping[str, File]
    options: Options
    references: bool = False  # whether its reference posteriors are read too
    folds: int = 0
    unharmed: Mapping[str, File] = field(default_factory=dict)  # files that are needed, and left alone

    def load(self, folder: Path) -> Data:
        """As every command loads and splits it."""
        bench = BenchConfig(device="cpu", folds=self.folds)
        data = open_sources(self.dataset, self.options(folder), bench)[0].splits.data
        if self.references:
            assert data.reference_posteriors is not None
            found = data.reference_posteriors()
            data.references["read"] = [found.x, found.theta, found.truth, found.published]
        return data

    @property
    def checksum(self) -> str:
        """Which of its formats have none, for the table."""
        plain = sorted({Path(name).suffix or "without ending" for name in self.files} - set(CHECKSUMS))
        return f"{', '.join(plain)}: no checksum" if plain else "checksummed"


def _normal(name: str, *shape: int) -> np.ndarray:
    return np.random.default_rng(derive(0, "chaos", name)).normal(size=shape)


def _bytes(name: str, *shape: int, top: int = 256) -> np.ndarray:
    return np.random.default_rng(derive(0, "chaos", name)).integers(0, top, shape, dtype=np.uint8)


def _columns(n: int) -> Arrays:
    return {
        **{name: _normal(name, n) for name in "abc"},
        "g": np.arange(n) // 3,
        "part": np.arange(n) // 3 % 5 % 3,
    }


def _root(folder: Path) -> dict[str, Any]:
    return {"root": str(folder)}


def _tables() -> list[Case]:
    written = {"npz": _npz, "csv": _csv, "parquet": _parquet, "h5": _hdf5, "npy": _structured}
    return [
        Case(
            f"table, .{ending}",
            "table",
            {f"t.{ending}": File(write, _columns(90))},
            lambda folder, ending=ending: {  # type: ignore[misc]
                "path": str(folder / f"t.{ending}"),
                "x": "a,b",
                "context": "c",
                "group": "g",
                "split": "part",
            },
        )
        for ending, write in written.items()
    ]


def _galaxies() -> list[Case]:
    ids = np.arange(6)
    particles = {f"stars/{i}.npz": {"pos": _normal(f"p{i}", 20, 3), "mass": np.exp(_normal(f"m{i}", 20))} for i in ids}
    stars = {name: File(_npz, arrays) for name, arrays in particles.items()}
    in_hdf5 = {name.replace("npz", "h5"): File(_hdf5, arrays) for name, arrays in particles.items()}
    parameters = {"galaxies.csv": File(_csv, {"id": ids, "M": _normal("M", 6), "Z": _normal("Z", 6)})}
    latents: Arrays = {"id": np.tile(ids, 2), "fold": np.repeat([0, 1], 6), "part": np.r_[[0, 0, 0, 1, 2, 2], [2] * 6]}
    latents["part"] = np.array([0, 0, 1, 2, 2, 2, 2, 2, 2, 0, 0, 1])
    latents |= {f"latent_{i}": _normal(f"latent{i}", 12) for i in range(2)}
    one = {name: np.concatenate([p[name] for p in particles.values()]) for name in ("pos", "mass")}
    one["galaxy"] = np.repeat(ids, 20)

    def common(folder: Path) -> dict[str, Any]:
        return {"path": str(folder / "stars"), "x": "pos", "mass": "mass"}

    return [
        Case("catalogue, folder of .npz", "catalogue", stars, common),
        Case("catalogue, folder of .h5", "catalogue", in_hdf5, common),
        Case(
            "catalogue, one .h5",
            "catalogue",
            {"all.h5": File(_hdf5, one)},
            lambda f: {"path": str(f / "all.h5"), "group": "galaxy", "x": "pos", "summaries": "log10 sum(mass)"},
        ),
        Case(
            "catalogue, parameters .csv",
            "catalogue",
            parameters,
            lambda f: common(f) | {"parameters": str(f / "galaxies.csv"), "context": "M,Z"},
            unharmed=stars,
        ),
        Case(
            "catalogue, latents .csv",
            "catalogue",
            {"latents.csv": File(_csv, latents)},
            lambda f: common(f) | {"latents": str(f / "latents.csv")},
            folds=2,
            unharmed=stars,
        ),
        Case(
            "catalogue, images .npy",
            "catalogue",
            {"images.npy": File(_npy, {"images": np.exp(_normal("images", 6, 8, 8))})},
            lambda f: common(f) | {"images": str(f / "images.npy"), "image_floor": 1e-3},
            unharmed=stars,
        ),
        Case(
            "catalogue, images in a folder",
            "catalogue",
            {f"images/{i}.npy": File(_npy, {"image": np.exp(_normal(f"image{i}", 8, 8))}) for i in ids},
            lambda f: common(f) | {"images": str(f / "images")},
            unharmed=stars,
        ),
    ]


def _images() -> list[Case]:
    hydrogen, mass = (File(_npy, {"maps": np.exp(_normal(name, 36, 8, 8)) * 1e4}) for name in ("HI", "Mgas"))
    maps = "Maps_{}_SIMBA_LH_z=0.00.npy"
    params = {"params_LH_SIMBA.txt": File(_text, {name: _normal(name, 12) for name in ("Omega_m", "sigma_8")})}

    def pictures(part: str, n: int) -> tuple[Arrays, Arrays]:
        return {"data": _bytes(f"{part} pictures", n, 28, 28)}, {"labels": _bytes(f"{part} labels", n, top=10)}

    idx: dict[str, Arrays] = {}
    for part, n in (("train", 20), ("t10k", 10)):
        idx[f"{part}-images-idx3-ubyte"], idx[f"{part}-labels-idx1-ubyte"] = pictures(part, n)

    def batch(part: str, n: int) -> Arrays:
        return {"data": _bytes(f"{part} data", n, 3072), "labels": _bytes(f"{part} label", n, top=10)}

    batches = {"data_batch_1": batch("train", 16), "test_batch": batch("test", 6)}
    posterior = {
        "observation": _normal("observation", 4, 2),
        "reference_posterior": _normal("draws", 4, 20, 2),
        "true_parameters": _normal("truth", 4, 2),
    }
    scores = (
        b"task,num_simulations,algorithm,C2ST\ntwo_moons,60,NPE,0.61\ntwo_moons,60,NPE,0.62\ntwo_moons,60,NLE,0.71\n"
    )
    return [
        Case(
            "maps, .npy and .txt",
            "maps",
            {maps.format("HI"): hydrogen, **params},
            lambda f: {"root": str(f), "parameters": "Omega_m,sigma_8"},
        ),
        Case(
            "maps, context_field",
            "maps",
            {maps.format("HI"): hydrogen, maps.format("Mgas"): mass, **params},
            lambda f: {"root": str(f), "field": "HI", "context_field": "Mgas", "parameters": "sigma_8"},
        ),
        Case("mnist, idx", "mnist", {n: File(_idx, a) for n, a in idx.items()}, _root),
        Case("mnist, idx.gz", "mnist", {f"{n}.gz": File(_idx_gz, a) for n, a in idx.items()}, _root),
        Case(
            "cifar10, .bin",
            "cifar10",
            {f"{name}.bin": File(_records, arrays) for name, arrays in batches.items()},
            _root,
        ),
        Case("cifar10, pickles", "cifar10", {n: File(_python, a) for n, a in batches.items()}, _root),
        Case(
            "sbibm, references .npz",
            "sbibm",
            {"two_moons.npz": File(_npz, posterior), "published_c2st.csv": File(lambda arrays: scores, {})},
            lambda f: {"task": "two_moons", "simulations": 60, "tests": 20, "references": str(f)},
            references=True,
        ),
        Case(
            "sbibm, design .npz",
            "sbibm",
            {"bernoulli_glm_design.npz": File(_npz, {"design_matrix": _normal("design", 100, 10)})},
            lambda f: {"task": "bernoulli_glm_raw", "simulations": 60, "tests": 20, "references": str(f)},
        ),
    ]


def cases() -> list[Case]:
    """Every loader that reads files."""
    return [*_tables(), *_galaxies(), *_images()]
