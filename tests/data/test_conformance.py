"""Every registered dataset passes the conformance suite, with small options: a dataset is tested by existing."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flowzoo.registry import DATASETS
from flowzoo.testing import NotApplicable, check_dataset

POSTERIOR = {"direction": "posterior"}
FIELDS = {"size": 8, "num_contexts": 300, "maps_per_context": 2}
BOXES = {"grid": 8, "slabs": 2, "num_simulations": 40, "maps_per_simulation": 2}
PRIOR = "{Omega_m: uniform(0.1, 0.5), sigma_8: uniform(0.6, 1.0)}"

# Options by dataset; texts in braces are folders of the files that are written below.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "linear_gaussian": [{"num_events": 2000}, {"num_events": 2000, **POSTERIOR}, {"num_events": 500, "context_dim": 0}],
    "two_moons": [{"num_events": 2000}],
    "fields": [FIELDS, {**FIELDS, "kind": "lognormal"}, {**FIELDS, **POSTERIOR}],
    "galaxies": [{"num_galaxies": 60, "stars_per_galaxy": 40}],
    "hi_sim": [BOXES, {**BOXES, **POSTERIOR}],
    "sbibm": [
        {"task": task, "direction": direction, "simulations": 800, "tests": 200}
        for task in ("two_moons", "slcp", "sir", "lotka_volterra", "gaussian_linear", "gaussian_linear_uniform")
        for direction in ("posterior", "likelihood")
    ]
    + [{"task": "gaussian_mixture", "simulations": 800, "tests": 200}]
    + [{"task": "bernoulli_glm_raw", "simulations": 800, "tests": 200, "direction": "likelihood"}],
    "mnist": [
        {"root": "{images}"},
        {"root": "{images}", "n_bits": 5, "pad": 2, "transform": "scale", "classes": False},
    ],
    "cifar10": [{"root": "{images}"}],
    "table": [
        {"path": "{tables}/all.npz", "x": "u,v", "context": "mag", "group": "galaxy", "missing": "99", "log": "v"},
        {"path": "{tables}/all.npz", "x": "u", "noise": "u=0.1"},
        {"path": "{tables}/all.npz", "x": "a,b", "context": "u", "prior": "{a: uniform(0, 1), b: norm(0, 1)}"},
    ],
    "maps": [
        {"root": "{maps}", "field": "HI", "side": "25 Mpc/h", "periodic": "1,2", "prior": PRIOR},
        {"root": "{maps}", "field": "HI,Mgas", "context_field": "Mdm", "context_downsample": "2"},
        {"root": "{maps}", "field": "HI", "prior": PRIOR, **POSTERIOR},
    ],
    "catalogue": [
        {
            "path": "{galaxies}",
            "x": "x,y,z,mass",
            "position": "x,y,z",
            "mass": "mass",
            "maps": "mass=log10",
            "centre": "mean",
            "radius_percentile": "90",
            "rotate": "inertia",
            "summaries": "log10 sum(mass), count()",
        },
    ],
}

SLOW = {"bernoulli_glm_raw"}  # a quarter of a minute of exact posteriors


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small files of every kind, by the name of their folder."""
    root, rng = tmp_path_factory.mktemp("conformance"), np.random.default_rng(0)
    folders = {name: root / name for name in ("images", "tables", "maps", "galaxies")}
    for folder in folders.values():
        folder.mkdir()
    _write_images(folders["images"], rng)
    _write_table(folders["tables"] / "all.npz", rng)
    _write_maps(folders["maps"], rng)
    for galaxy in range(12):
        table = rng.normal(size=(80 + galaxy, 4)) * [3.0, 2.0, 1.0, 0.5]
        table[:, 3] = np.exp(table[:, 3])
        pd.DataFrame(table.astype(np.float32), columns=["x", "y", "z", "mass"]).to_csv(
            folders["galaxies"] / f"{galaxy}.csv", index=False
        )
    return {name: str(folder) for name, folder in folders.items()}


def _write_images(folder: Path, rng: np.random.Generator) -> None:
    """Both mnist's and cifar10's: the official names and layouts."""
    for name, count in (("train", 60), ("t10k", 20)):
        for kind, array in (
            ("images-idx3", rng.integers(256, size=(count, 28, 28))),
            ("labels-idx1", np.arange(count) % 10),
        ):
            head = np.array([0x800 + array.ndim, *array.shape], dtype=">u4").tobytes()
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))
    for name in ("data_batch_1", "test_batch"):
        records = rng.integers(256, size=(40, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def _write_table(path: Path, rng: np.random.Generator) -> None:
    """Two columns that depend on three magnitudes, some of them missing, and two parameters."""
    galaxy = np.arange(600) // 3
    mag = rng.normal(22, 1, size=(200, 3))[galaxy]
    mag[::50, 1] = 99
    u = mag[:, 0] + rng.normal(size=600)
    np.savez(
        path,
        u=u,
        v=np.exp(rng.normal(size=600)),
        mag=mag,
        galaxy=galaxy,
        a=rng.uniform(size=600),
        b=rng.normal(size=600),
    )


def _write_maps(folder: Path, rng: np.random.Generator) -> None:
    """Four maps of each of 40 simulations."""
    theta = rng.uniform([0.1, 0.6], [0.5, 1.0], size=(40, 2))
    for field in ("HI", "Mgas", "Mdm"):
        maps = rng.lognormal(9, 1, size=(160, 8, 8)).astype(np.float32)
        np.save(folder / f"Maps_{field}_Toy_LH_z=0.00.npy", maps)
    rows = "".join(f"{a:.6f} {b:.6f}\n" for a, b in theta)
    (folder / "params_LH_Toy.txt").write_text("# Omega_m sigma_8\n" + rows)


def cases() -> list[Any]:
    """A dataset with each of its options, and those that have none as they are."""
    return [
        pytest.param(
            name, options, id=f"{name}{i or ''}", marks=pytest.mark.slow if options.get("task") in SLOW else ()
        )
        for name in DATASETS.names()
        for i, options in enumerate(OPTIONS.get(name, [{}]))
    ]


@pytest.mark.parametrize(("name", "options"), cases())
def test_dataset_conforms(name: str, options: dict[str, Any], written: dict[str, str]) -> None:
    for folder, path in written.items():
        options = {k: v.replace(f"{{{folder}}}", path) if isinstance(v, str) else v for k, v in options.items()}
    try:
        check_dataset(name, **options)
    except NotApplicable as reason:
        pytest.skip(str(reason))


NO_LEVELS, NO_IMAGE = "levels_are_respected", "symmetries_leave_the_density_alone"


@pytest.mark.parametrize(
    ("name", "options", "left_out"),
    [
        ("linear_gaussian", {"num_events": 2000}, {NO_LEVELS, NO_IMAGE}),
        ("fields", FIELDS, {NO_LEVELS, "true_density_integrates_to_one"}),
        ("sbibm", {"task": "gaussian_mixture"}, {NO_LEVELS, NO_IMAGE, "best_nll_is_that_of_the_density"}),
    ],
)
def test_what_a_dataset_knows_of_the_truth_is_looked_at(name: str, options: dict[str, Any], left_out: set[str]) -> None:
    assert set(check_dataset(name, **options)) == left_out
