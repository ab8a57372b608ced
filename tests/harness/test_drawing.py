import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
import torch

import flowzoo
from flowzoo import checkpoint
from flowzoo.bijectors import Columns, Compose, Log, Standardize
from flowzoo.config import ConfigError
from flowzoo.data import Data, Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.harness import _galaxies
from flowzoo.harness.drawing import draws, sample_catalogue
from flowzoo.harness.plan import Cell
from flowzoo.harness.single import fit_one
from flowzoo.harness.source import Source, open_sources
from flowzoo.seeding import generator

Plan = Callable[..., list[Cell]]
NAMES, CONTEXT = ["x", "y", "age"], ["mass", "age"]
COLUMNS = {"names": NAMES, "context_names": CONTEXT, "units": ["kpc", "kpc", "Gyr"], "context_units": ["Msun", "Gyr"]}
ENDINGS = [".h5", ".parquet", ".npz", ".csv"]


def maps(width: int = 3) -> dict[str, Standardize]:
    x, c = Standardize((width,)), Standardize((2,))
    x.mean.copy_(torch.arange(1.0, width + 1))
    x.std.copy_(torch.linspace(0.1, 30, width))
    c.mean.copy_(torch.tensor([10.0, 3.0]))
    c.std.copy_(torch.tensor([0.5, 2.0]))
    return {"x_map": x, "context_map": c}


def built(name: str = "maf", width: int = 3, **options: Any) -> ConditionalFlow:
    """Random weights, and far enough from the initial ones that the context matters."""
    flow = flowzoo.build(name, (width,), (2,), **maps(width), generator=torch.Generator().manual_seed(0), **options)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=noise)
    return flow.eval()


@pytest.fixture
def flow(tmp_path: Path) -> ConditionalFlow:
    made = built(num_steps=2, hidden_features=16)
    checkpoint.save(made, tmp_path / "flow.safetensors", columns=COLUMNS)
    return made


@pytest.fixture
def galaxies(tmp_path: Path) -> pd.DataFrame:
    table = pd.DataFrame(
        {"note": ["p", "q", "r"], "id": ["g1", "ngc 2", "g3"], "age": [1.0, 2.5, 4], "mass": [9.5, 10, 10.75],
         "n": [70, 0, 300]}
    )  # fmt: skip
    table.to_csv(tmp_path / "galaxies.csv", index=False)
    return table


def read(path: Path) -> dict[str, np.ndarray]:
    match path.suffix:
        case ".h5":
            with h5py.File(path) as file:
                return {k: v.asstr()[:] if v.dtype.kind in "SO" else v[:] for k, v in file.items()}
        case ".npz":
            with np.load(path) as archive:
                return dict(archive)
        case ".csv":
            frame = pd.read_csv(path, dtype=dict.fromkeys([*NAMES, "mass", "age_context"], np.float32))
        case _:
            frame = pd.read_parquet(path)
    return {name: frame[name].to_numpy() for name in frame}


def drawn(folder: Path, name: str = "out.npz", **options: Any) -> dict[str, np.ndarray]:
    given = {"galaxies": folder / "galaxies.csv", **options}
    if not {"n", "count"} & given.keys() and given["galaxies"]:
        given["n"] = 200
    sample_catalogue(folder / "flow.safetensors", folder / name, **given)
    return read(folder / name)


# -- the draws


def test_rows_are_the_draws_of_the_flow_from_the_noise_of_their_galaxy(
    tmp_path: Path, flow: ConditionalFlow, galaxies: pd.DataFrame
) -> None:
    table = drawn(tmp_path, seed=5)
    for galaxy, mass, age in zip(galaxies["id"], galaxies["mass"], galaxies["age"], strict=True):
        own = table["id"] == galaxy
        context = torch.tensor([mass, age], dtype=torch.float32)
        first = flow.sample(context, (64,), generator=generator(5, "sample", galaxy, 0))
        second = flow.sample(context, (128,), generator=generator(5, "sample", galaxy, 1))
        x = np.stack([table[name][own] for name in NAMES], 1)
        assert np.array_equal(x[:192], torch.cat([first, second]).numpy())
        assert np.array_equal(table["mass"][own], np.full(200, mass, np.float32))
        assert np.array_equal(table["age_context"][own], np.full(200, age, np.float32))


def test_fewer_draws_are_the_first_of_more(flow: ConditionalFlow) -> None:
    context = torch.tensor([10.0, 2.0])
    more = torch.cat(list(draws(flow, context, 20_000, seed=1, galaxy="a")))
    assert len(more) == 20_000
    for count in (1, 64, 65, 1000, 16_384):
        fewer = torch.cat(list(draws(flow, context, count, seed=1, galaxy="a")))
        assert torch.equal(fewer, more[:count])


def test_no_noise_is_used_twice(flow: ConditionalFlow) -> None:
    context = torch.tensor([10.0, 2.0])
    noise = torch.cat(
        [
            flow.to_latent(torch.cat(list(draws(flow, context, 1000, seed=seed, galaxy=galaxy))), context)[0]
            for seed, galaxy in ((0, "a"), (0, "b"), (1, "a"))
        ]
    )
    distance = torch.cdist(noise, noise) + 9 * torch.eye(3000)
    assert (
        float(distance.detach().min()) > 1e-3
    )  # of 4.5 million pairs in three dimensions the nearest is about 0.01 apart


def test_draws_do_not_depend_on_the_chunk_or_on_other_galaxies(
    tmp_path: Path, flow: ConditionalFlow, galaxies: pd.DataFrame
) -> None:
    whole = drawn(tmp_path, "a.npz")
    for chunk in (1, 7, 64, 199, 10_000):
        parts = drawn(tmp_path, f"{chunk}.npz", chunk=chunk)
        assert all(np.array_equal(parts[name], whole[name]) for name in whole)
    galaxies.iloc[[2]].to_csv(tmp_path / "one.csv", index=False)
    alone = drawn(tmp_path, "b.npz", galaxies=tmp_path / "one.csv")
    own = whole["id"] == "g3"
    assert all(np.array_equal(alone[name], whole[name][own]) for name in whole)


def test_seed_decides_the_draws(tmp_path: Path, flow: ConditionalFlow, galaxies: pd.DataFrame) -> None:
    first, again, other = (drawn(tmp_path, f"{i}.npz", seed=seed) for i, seed in enumerate((3, 3, 4)))
    assert np.array_equal(first["x"], again["x"])
    assert not np.isin(first["x"], other["x"]).any()


def test_id_is_a_name_and_not_a_type(tmp_path: Path, flow: ConditionalFlow) -> None:
    values = {"mass": [10.0, 10.5], "age": [1.0, 2.0]}
    np.savez(tmp_path / "whole.npz", id=np.array([7, 8]), **values)
    np.savez(tmp_path / "float.npz", id=np.array([7.0, 8.0]), **values)
    np.savez(tmp_path / "text.npz", id=np.array(["7", "8"]), **values)
    np.savez(tmp_path / "row.npz", **values)
    whole, real, text, row = (
        drawn(tmp_path, f"out_{n}.npz", galaxies=tmp_path / f"{n}.npz") for n in ("whole", "float", "text", "row")
    )
    assert np.array_equal(whole["x"], text["x"])
    assert np.array_equal(whole["x"], real["x"])
    assert whole["id"].dtype == real["id"].dtype == np.int64
    assert set(row["id"]) == {0, 1}
    assert not np.array_equal(whole["x"], row["x"])


def test_count_column_says_how_many(tmp_path: Path, flow: ConditionalFlow, galaxies: pd.DataFrame) -> None:
    table = drawn(tmp_path, count="n")
    assert pd.Series(table["id"]).value_counts().to_dict() == {"g1": 70, "g3": 300}


@pytest.mark.parametrize("name", ["sospf", "galacticflow"])
def test_draws_pile_up_nowhere(name: str) -> None:
    flow = built(name, num_steps=3)
    x = torch.cat(list(draws(flow, torch.tensor([10.5, 1.0]), 20_000, seed=0, galaxy="a")))
    assert bool(torch.isfinite(x).all())
    assert bool((x.std(0) > 0.05 * flow.x_map.std).all())  # else float32 itself repeats values

    def most(values: torch.Tensor) -> int:
        return max(int(torch.unique(column, return_counts=True)[1].max()) for column in values.T)

    # Of 20,000 floats in some spreads of 2^23 steps a few meet by chance, three of them hardly ever.
    assert most(x) <= 4
    assert most(x.clamp(*torch.quantile(x[:, 0], torch.tensor([0.001, 0.999])).tolist())) >= 20


def test_draws_without_a_finite_value_stay_and_are_counted_in_one_line(
    tmp_path: Path, flow: ConditionalFlow, galaxies: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = drawn(tmp_path, "sound.npz")
    inverse = type(flow)._to_data

    def fails(self: ConditionalFlow, z: torch.Tensor, c: torch.Tensor) -> Any:
        u, log_det = inverse(self, z, c)
        return torch.where((z[:, :1] > 1) & (c[:, :1] > 0.5), torch.nan, u), log_det

    monkeypatch.setattr(type(flow), "_to_data", fails)
    lines: list[str] = []
    done = sample_catalogue(
        tmp_path / "flow.safetensors", tmp_path / "o.npz", galaxies=tmp_path / "galaxies.csv", n=200, warn=lines.append
    )
    table = read(tmp_path / "o.npz")
    gone = np.isnan(table["x"])
    assert done.lost == gone.sum() > 0
    assert set(table["id"][gone]) == {"g3"}
    assert lines == [
        f"{done.lost} of 600 draws have no finite value, most of context 'g3' ({done.lost}): "
        "the inverse of the flow failed there, and they are NaN in the file"
    ]
    assert np.array_equal(table["x"][~gone], sound["x"][~gone])


# -- the file


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_holds_the_same_columns(
    tmp_path: Path, flow: ConditionalFlow, galaxies: pd.DataFrame, ending: str
) -> None:
    expected, found = drawn(tmp_path, "a.npz"), drawn(tmp_path, f"out{ending}", chunk=333)
    assert set(found) == {"id", "x", "y", "age", "mass", "age_context"}
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_units_and_origin_are_kept_where_there_is_a_place(
    tmp_path: Path, flow: ConditionalFlow, galaxies: pd.DataFrame
) -> None:
    drawn(tmp_path, "out.h5", seed=4)
    drawn(tmp_path, "out.parquet", seed=4)
    with h5py.File(tmp_path / "out.h5") as file:
        assert {name: file[name].attrs.get("units") for name in ("id", "x", "age", "mass")} == {
            "id": None, "x": "kpc", "age": "Gyr", "mass": "Msun"
        }  # fmt: skip
        about = json.loads(file.attrs["flowzoo"])
    schema = parquet.read_schema(tmp_path / "out.parquet")
    assert schema.field("mass").metadata == {b"units": b"Msun"}
    assert json.loads(schema.metadata[b"flowzoo"]) == about
    assert about == {
        "flow": "flow.safetensors", "model": "maf", "seed": 4, "version": flowzoo.__version__,
        "context": {"mass": "mass", "age_context": "age"},
    }  # fmt: skip


def test_columns_without_names_are_named_by_position(tmp_path: Path, galaxies: pd.DataFrame) -> None:
    checkpoint.save(built(num_steps=1, hidden_features=8), tmp_path / "flow.safetensors")
    with pytest.raises(ConfigError, match=r"lacks the columns c0, c1 .* columns are note, id, age, mass, n"):
        drawn(tmp_path)
    galaxies.rename(columns={"mass": "c0", "age": "c1"}).to_csv(tmp_path / "galaxies.csv", index=False)
    assert list(drawn(tmp_path)) == ["id", "x0", "x1", "x2", "c0", "c1"]


def test_flow_without_context_needs_only_ids(tmp_path: Path) -> None:
    made = flowzoo.build("maf", (3,), x_map=maps()["x_map"], generator=torch.Generator().manual_seed(0))
    checkpoint.save(made, tmp_path / "flow.safetensors", columns={"names": NAMES, "context_names": []})
    pd.DataFrame({"galaxy": ["a", "b"]}).to_csv(tmp_path / "galaxies.csv", index=False)
    table = drawn(tmp_path, id_column="galaxy")
    assert list(table) == ["galaxy", *NAMES]
    expected = made.sample(None, (64,), generator=generator(0, "sample", "b", 0))[:, 0].numpy()
    assert np.array_equal(table["x"][table["galaxy"] == "b"][:64], expected)
    with pytest.raises(ConfigError, match="each row needs an id; name its column with --id"):
        drawn(tmp_path, "o.npz")


def test_file_that_exists_is_kept(tmp_path: Path, flow: ConditionalFlow, galaxies: pd.DataFrame) -> None:
    (tmp_path / "out.npz").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"out\.npz exists already; give another, or --overwrite"):
        drawn(tmp_path)
    assert (tmp_path / "out.npz").read_bytes() == b"mine"
    assert len(drawn(tmp_path, overwrite=True)["x"]) == 600


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_broken_off_leaves_no_file_and_keeps_the_old_one(
    tmp_path: Path,
    flow: ConditionalFlow,
    galaxies: pd.DataFrame,
    ending: str,
    broken_off: Callable[..., list[int]],
) -> None:
    calls = broken_off(flow)
    (tmp_path / f"old{ending}").write_bytes(b"old")
    before = sorted(tmp_path.iterdir())
    for name in (f"new{ending}", f"old{ending}"):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            drawn(tmp_path, name, chunk=64, overwrite=True)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / f"old{ending}").read_bytes() == b"old"


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".h5", ".parquet"])
def test_memory_does_not_grow_with_the_number_of_particles(tmp_path: Path, ending: str) -> None:
    checkpoint.save(built("gaussian", width=40), tmp_path / "flow.safetensors")
    pd.DataFrame({"c0": [10.0], "c1": [3.0]}).to_csv(tmp_path / "galaxies.csv", index=False)
    code = (
        "import resource, sys; from flowzoo.harness.drawing import sample_catalogue\n"
        "sample_catalogue('flow.safetensors', sys.argv[1], galaxies='galaxies.csv', n=int(sys.argv[2]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    peaks = [
        float(
            subprocess.run(
                [sys.executable, "-c", code, f"{n}{ending}", str(n)],
                cwd=tmp_path, capture_output=True, text=True, check=True,
            ).stdout
        )
        for n in (200_000, 1_000_000)
    ]  # fmt: skip
    assert (tmp_path / f"1000000{ending}").stat().st_size > 150e6
    assert peaks[1] - peaks[0] < 50  # MB, where the draws that are more take 128


# -- the galaxies of the training data


@pytest.fixture
def trained(plan: Plan, tmp_path: Path) -> Cell:
    """maf after 20 steps on ten galaxies of 20 to 29 particles; galaxy k, called 4700 + k, has the context (k, k^2)."""
    source, counts = np.random.default_rng(0), 20 + np.arange(10)
    galaxy = np.repeat(np.arange(10), counts)
    table = {"x": source.normal(size=len(galaxy)), "y": source.normal(size=len(galaxy)), "k": galaxy, "k2": galaxy**2}
    table["name"] = 4700 + galaxy
    pd.DataFrame(table).to_csv(tmp_path / "particles.csv", index=False)
    options = {"path": str(tmp_path / "particles.csv"), "x": "x,y", "context": "k,k2", "group": "name"}
    cell = plan(data="table", options=options, split_seed=3)[0]
    fit_one(cell, tmp_path / "flow.safetensors")
    return cell


@pytest.mark.parametrize("part", ["test", "validation", "train", "all"])
def test_galaxies_of_the_training_data_are_drawn_in_their_own_numbers(trained: Cell, tmp_path: Path, part: str) -> None:
    splits = trained.source.splits
    parts = ["train", "validation", "test"] if part == "all" else [part]
    labels = torch.cat([getattr(splits, name).groups for name in parts])
    table = drawn(tmp_path, galaxies=None, part=part)
    assert np.array_equal(np.sort(table["id"]), np.sort(4700 + labels.numpy()))
    assert np.array_equal(table["k"], table["id"] - 4700)
    assert np.array_equal(table["k2"], table["k"] ** 2)


def test_flow_of_a_fold_has_the_test_galaxies_of_that_fold(trained: Cell, tmp_path: Path) -> None:
    tested, said, bench = [], list[str](), replace(trained.bench, folds=3)
    for source in open_sources("table", trained.source.options, bench):
        cell = replace(trained, source=source, bench=bench)
        fit_one(cell, tmp_path / "flow.safetensors", overwrite=True)
        ids = np.unique(drawn(tmp_path, f"{cell.source.fold}.npz", galaxies=None, warn=said.append)["id"])
        assert np.array_equal(ids, 4700 + np.unique(cell.source.splits.test.groups.numpy()))
        tested += ids.tolist()
    assert sorted(tested) == list(range(4700, 4710))
    # Of ten galaxies a fold may leave out those with the smallest k.
    assert all("far outside what the flow was trained on: in context" in line for line in said)


def test_numbers_of_the_training_data_give_way_to_n(trained: Cell, tmp_path: Path) -> None:
    table = drawn(tmp_path, galaxies=None, n=5)
    assert set(np.unique(table["id"], return_counts=True)[1]) == {5}


def test_table_of_the_same_contexts_gives_the_same_draws(trained: Cell, tmp_path: Path) -> None:
    own = drawn(tmp_path, galaxies=None, part="all", n=50)
    k = np.arange(10)
    pd.DataFrame({"id": 4700 + k, "k": k, "k2": k**2}).to_csv(tmp_path / "galaxies.csv", index=False)
    given = drawn(tmp_path, "given.npz", n=50)
    assert all(np.array_equal(own[name], given[name]) for name in own)


def test_training_data_that_are_gone_or_changed_are_refused_in_one_line(trained: Cell, tmp_path: Path) -> None:
    path = tmp_path / "particles.csv"
    frame = pd.read_csv(path)
    frame.iloc[:-1].to_csv(path, index=False)
    with pytest.raises(ConfigError, match=r"changed since .*flow\.safetensors was trained .* give --contexts"):
        drawn(tmp_path, galaxies=None)
    path.unlink()
    with pytest.raises(ConfigError, match=r"no such file: .*particles\.csv") as caught:
        drawn(tmp_path, galaxies=None)
    assert "\n" not in str(caught.value)


def test_galaxy_of_several_contexts_is_refused(plan: Plan, tmp_path: Path) -> None:
    table = {"x": np.random.default_rng(0).normal(size=60), "c": np.arange(60.0), "g": np.arange(60) // 6}
    pd.DataFrame(table).to_csv(tmp_path / "p.csv", index=False)
    options = {"path": str(tmp_path / "p.csv"), "x": "x", "context": "c", "group": "g"}
    fit_one(plan(data="table", options=options)[0], tmp_path / "flow.safetensors")
    with pytest.raises(ConfigError, match=r"table: group '\d' has events of several contexts; give --contexts"):
        drawn(tmp_path, galaxies=None)


def test_galaxies_with_an_image_are_drawn_by_name_and_without_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, galaxy = np.random.default_rng(0), torch.arange(6).repeat_interleave(10)
    x, images = (torch.from_numpy(values.normal(size=shape)).float() for shape in ((60, 2), (6, 1, 2, 2)))
    names = [f"ngc {k}" for k in range(6)]
    data = Data(x=x, context=images, context_index=galaxy, groups=galaxy, group_names=names)
    source = Source("mine", {}, Splits.make(data), "")
    monkeypatch.setattr(_galaxies, "source_of", lambda trained: source)
    flow = flowzoo.build("maf", (2,), (1, 2, 2), generator=torch.Generator().manual_seed(0))
    checkpoint.save(flow, tmp_path / "flow.safetensors")
    table = drawn(tmp_path, galaxies=None, part="all")
    assert list(table) == ["id", "x0", "x1"]
    assert pd.Series(table["id"]).value_counts().to_dict() == dict.fromkeys(names, 10)
    for k, name in enumerate(names):
        expected = flow.sample(images[k], (64,), generator=generator(0, "sample", name, 0))[:10].numpy()
        assert np.array_equal(table["x0"][table["id"] == name], expected[:, 0])


# -- what is wrong with a table, in one line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mass": [9.5, np.nan, 10]}, r"context 'ngc 2' has mass = nan; 1 of 3 contexts"),
        ({"mass": [9.5, 1e40, 10]}, r"context 'ngc 2' has mass = 1e\+40; 1 of 3 contexts"),
        ({"mass": ["heavy", "light", "light"]}, r"column 'mass' holds object, for example 'heavy'"),
        ({"mass": None}, r"galaxies\.csv lacks the column mass \(the context of flow\.safeten.* columns are note"),
        ({"mass": None, "age": None}, r"lacks the columns mass, age"),
        ({"id": ["a", "b", "a"]}, r"column 'id': id 'a' is there 2 times, in rows 0 and 2"),
        ({"id": ["a", None, "b"]}, r"column 'id': 1 of 3 rows have no id, the first is row 1"),
        ({"n": [1, -1, 2]}, r"column 'n': context 'ngc 2' has -1, where a whole number"),
        ({"n": [1, 1.5, 2]}, r"context 'ngc 2' has 1\.5"),
        ({"n": [0, 0, 0]}, r"no context of .*galaxies\.csv shall have an event"),
        ({"n": None}, r"lacks the column n \(--count\)"),
    ],
)  # fmt: skip
def test_bad_table_is_refused_by_the_name_of_the_galaxy(
    tmp_path: Path, flow: ConditionalFlow, galaxies: pd.DataFrame, change: dict[str, Any], words: str
) -> None:
    for name, values in change.items():
        galaxies = galaxies.drop(columns=name) if values is None else galaxies.assign(**{name: values})
    galaxies.to_csv(tmp_path / "galaxies.csv", index=False)
    with pytest.raises(ConfigError, match=words) as caught:
        drawn(tmp_path, count="n")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 3, "count": "n"}, "both say how many"),
        ({"galaxies": None, "count": "n"}, "which is not given"),
        ({"count": None, "n": None}, "how many events"),
        ({"n": 0}, "--n must be at least 1; got 0"),
        ({"n": 1, "chunk": 0}, "--chunk must be at least 1"),
        ({"galaxies": None}, "does not say what it was trained on; give --contexts"),
        ({"galaxies": None, "part": "tset"}, "--part must be one of test, validation, train, all; got 'tset'"),
        ({"n": 1, "id_column": "name"}, r"lacks the column name \(--id\)"),
        ({"n": 1, "id_column": "age"}, "the flow has a column 'age', which is no id"),
        ({"n": 1, "name": "out.fits"}, r"unknown ending '\.fits'; known are \.h5, \.hdf5, \.parquet, \.npz, \.csv"),
        ({"n": 1, "name": "flow.safetensors/out.h5"}, "cannot write to"),
    ],
)
def test_bad_option_is_refused_in_one_line(
    tmp_path: Path, flow: ConditionalFlow, galaxies: pd.DataFrame, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        drawn(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_far_contexts_are_drawn_with_a_warning(tmp_path: Path, flow: ConditionalFlow, galaxies: pd.DataFrame) -> None:
    reach = {"context": {"low": [8.0, 0.5], "high": [12.0, 5.0]}}
    checkpoint.save(flow, tmp_path / "flow.safetensors", columns=COLUMNS, reach=reach)
    galaxies.assign(mass=[9.5, 13.9, 20]).to_csv(tmp_path / "galaxies.csv", index=False)
    lines: list[str] = []
    sample_catalogue(
        tmp_path / "flow.safetensors", tmp_path / "o.npz", galaxies=tmp_path / "galaxies.csv", n=1, warn=lines.append
    )
    assert len(lines) == 1
    assert lines[0].startswith(
        "1 of 3 contexts lie far outside what the flow was trained on: in context 'g3' mass is 20, and in training it "
        "was 8 to 12; "
    )


def test_context_without_a_logarithm_is_refused(tmp_path: Path, galaxies: pd.DataFrame) -> None:
    given = maps()
    logs = Compose(Columns([0], Log()), given["context_map"])
    made = flowzoo.build(
        "maf", (3,), (2,), x_map=given["x_map"], context_map=logs, generator=torch.Generator().manual_seed(0)
    )
    checkpoint.save(made, tmp_path / "flow.safetensors", columns=COLUMNS)
    galaxies.assign(mass=[9.5, -1, 20]).to_csv(tmp_path / "galaxies.csv", index=False)
    with pytest.raises(
        ConfigError, match=r"1 of 3 contexts, the first 'ngc 2', are such that the flow cannot take them"
    ):
        drawn(tmp_path)


def test_contexts_that_are_images_are_no_tables(tmp_path: Path, galaxies: pd.DataFrame) -> None:
    made = flowzoo.build("maf", (3,), (1, 4, 4), generator=torch.Generator().manual_seed(0))
    checkpoint.save(made, tmp_path / "flow.safetensors")
    words = r"the context \(1, 4, 4\) is or holds an image, .* an array 'context' \(rows, 1, 4, 4\)"
    with pytest.raises(ConfigError, match=words):
        drawn(tmp_path)


@pytest.mark.parametrize("texts", [["12", "007"], ["12", "M 31"], ["12", "9" * 30], ["12", "4.0"]])
def test_labels_that_are_no_whole_numbers_stay_texts(texts: list[str]) -> None:
    assert _galaxies._as_numbers(np.array(texts)).tolist() == texts
    assert _galaxies._as_numbers(np.array(["12", "-4700"])).tolist() == [12, -4700]
