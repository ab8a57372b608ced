import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

import flowzoo
from flowzoo import checkpoint
from flowzoo.bijectors import Columns, Compose, Log, Standardize
from flowzoo.config import ConfigError
from flowzoo.data._readers import open_table
from flowzoo.flow import ConditionalFlow
from flowzoo.harness._rows import rebatched
from flowzoo.harness.drawing import sample_catalogue
from flowzoo.harness.scoring import BLOCK, Scored, score_file

ENDINGS = [".h5", ".parquet", ".npz", ".csv"]
MEAN, STD = [1.0, -20.0], [0.5, 40.0]


def built(name: str, **options: Any) -> ConditionalFlow:
    x, c = Standardize((2,)), Standardize((1,))
    x.mean.copy_(torch.tensor(MEAN))
    x.std.copy_(torch.tensor(STD))
    c.mean.fill_(10.0)
    flow = flowzoo.build(
        name, (2,), (1,), x_map=x, context_map=c, generator=torch.Generator().manual_seed(0), **options
    )
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=noise)
    return flow.eval()


def save(flow: ConditionalFlow, folder: Path) -> ConditionalFlow:
    columns = {"names": ["x", "age"], "context_names": ["age"]}
    checkpoint.save(flow, folder / "flow.safetensors", columns=columns)
    return flow


@pytest.fixture
def flow(tmp_path: Path) -> ConditionalFlow:
    return save(built("maf", num_steps=2, hidden_features=16), tmp_path)


@pytest.fixture
def particles(tmp_path: Path, flow: ConditionalFlow) -> dict[str, Any]:
    """Drawn for three galaxies, in every format; what is returned are the columns."""
    pd.DataFrame({"id": ["a", "b", "ngc 3"], "age": [9.0, 10.5, 11]}).to_csv(tmp_path / "galaxies.csv", index=False)
    for ending in ENDINGS:
        sample_catalogue(
            tmp_path / "flow.safetensors", tmp_path / f"particles{ending}", galaxies=tmp_path / "galaxies.csv", n=7000
        )
    with np.load(tmp_path / "particles.npz") as archive:
        return dict(archive)


def score(folder: Path, file: str = "particles.npz", out: str = "out.npz", **options: Any) -> Scored:
    return score_file(folder / "flow.safetensors", folder / file, folder / out, overwrite=True, **options)


def column(path: Path, name: str = "log_prob") -> np.ndarray:
    with open_table(str(path)) as table:
        return table.column(name)


def write(folder: Path, **columns: Sequence[Any]) -> None:
    np.savez(folder / "particles.npz", **{name: np.asarray(values) for name, values in columns.items()})


# -- what is computed


def test_density_is_in_nats_over_the_units_of_the_columns(tmp_path: Path) -> None:
    save(built("gaussian"), tmp_path)  # not trained: a standard normal in network units
    x, age = np.array([1.0, 1.5, 0.25]), np.array([-20.0, -20.0, 60.0])
    write(tmp_path, x=x, age=age, age_context=[10.0, 9.0, 12.0])
    score(tmp_path)
    u = np.stack([(x - MEAN[0]) / STD[0], (age - MEAN[1]) / STD[1]])
    exact = -0.5 * (u**2).sum(0) - math.log(2 * math.pi) - math.log(STD[0] * STD[1])
    assert np.allclose(column(tmp_path / "out.npz"), exact, rtol=1e-6)


@pytest.mark.parametrize("ending", ENDINGS)
def test_density_of_drawn_particles_is_that_of_the_flow(
    tmp_path: Path, flow: ConditionalFlow, particles: dict[str, Any], ending: str
) -> None:
    done = score(tmp_path, f"particles{ending}", f"out{ending}")
    found = column(tmp_path / f"out{ending}").astype(np.float32)
    x = torch.from_numpy(np.stack([particles["x"], particles["age"]], 1))
    with torch.no_grad():
        exact = flow.log_prob(x, torch.from_numpy(particles["age_context"])[:, None]).numpy()
    assert np.allclose(found, exact, rtol=1e-5, atol=1e-5)
    ids = pd.Series(column(tmp_path / f"out{ending}", "id"))
    names = ids.str.decode("utf-8") if ending == ".h5" else ids
    assert np.array_equal(names.to_numpy(str), particles["id"])
    assert done.rows == 21_000
    assert done.mean == pytest.approx(float(exact.astype(float).mean()), rel=1e-6)
    for galaxy, (count, mean) in done.galaxies.items():
        assert count == 7000
        assert mean == pytest.approx(float(exact[particles["id"] == galaxy].astype(float).mean()), rel=1e-6)
    assert list(done.galaxies) == ["a", "b", "ngc 3"]


def test_contexts_of_a_table_are_joined_by_id_in_any_order(
    tmp_path: Path, flow: ConditionalFlow, particles: dict[str, Any]
) -> None:
    score(tmp_path)
    expected = column(tmp_path / "out.npz")
    mixed = np.random.default_rng(0).permutation(21_000)
    write(tmp_path, **{name: particles[name][mixed] for name in ("x", "age", "id")})
    table = pd.read_csv(tmp_path / "galaxies.csv").iloc[[2, 0, 1]]
    table.to_csv(tmp_path / "galaxies.csv", index=False)
    score(tmp_path, galaxies=tmp_path / "galaxies.csv")
    assert np.allclose(column(tmp_path / "out.npz"), expected[mixed], rtol=1e-5, atol=1e-5)


def test_whole_numbers_and_text_are_the_same_id(tmp_path: Path, flow: ConditionalFlow) -> None:
    pd.DataFrame({"g": ["3", "4"], "age": [9.0, 11]}).to_csv(tmp_path / "galaxies.csv", index=False)
    found = []
    for ids in ([3, 4, 4], [3.0, 4.0, 4.0], ["3", "4", "4"], np.array([b"3", b"4", b"4"])):
        write(tmp_path, x=[1.0, 2, 3], age=[0.0, 1, 2], g=ids)
        score(tmp_path, galaxies=tmp_path / "galaxies.csv", id_column="g")
        found.append(column(tmp_path / "out.npz"))
    assert all(np.array_equal(found[0], other) for other in found)
    assert len(set(found[0])) == 3


@pytest.mark.parametrize("ending", ENDINGS)
def test_scores_do_not_depend_on_the_chunk(
    tmp_path: Path, flow: ConditionalFlow, particles: dict[str, Any], ending: str
) -> None:
    whole = score(tmp_path, f"particles{ending}", "whole.npz")
    for chunk in (999, 16_384, 20_000):
        parts = score(tmp_path, f"particles{ending}", "parts.npz", chunk=chunk)
        assert np.array_equal(column(tmp_path / "whole.npz"), column(tmp_path / "parts.npz"))
        assert (parts.mean, parts.galaxies) == (whole.mean, whole.galaxies)


def test_rows_that_are_not_finite_have_no_score_and_spoil_no_other(
    tmp_path: Path, flow: ConditionalFlow, particles: dict[str, Any]
) -> None:
    score(tmp_path)
    sound = column(tmp_path / "out.npz")
    spoilt = {name: particles[name][:5000].copy() for name in ("x", "age", "age_context", "id")}
    spoilt["x"][3], spoilt["age"][[4, 4999]], spoilt["age_context"][7] = np.nan, np.inf, np.nan
    write(tmp_path, **spoilt)
    lines: list[str] = []
    done = score(tmp_path, warn=lines.append)
    found, bad = column(tmp_path / "out.npz"), [3, 4, 7, 4999]
    assert np.flatnonzero(np.isnan(found)).tolist() == bad
    good = np.setdiff1d(np.arange(5000), bad)
    assert np.allclose(found[good], sound[good], rtol=1e-5, atol=1e-5)
    assert (done.rows, done.missing, done.outside) == (5000, 4, 0)
    assert done.mean == pytest.approx(float(found[good].astype(float).mean()), rel=1e-6)
    assert done.galaxies["a"][0] == 4996
    assert len(lines) == 1
    assert "4 of 5000 rows of" in lines[0]
    assert "hold a value that is not finite" in lines[0]


def test_contexts_far_off_are_named_by_their_row_or_their_id(tmp_path: Path, flow: ConditionalFlow) -> None:
    columns = {"names": ["x", "age"], "context_names": ["age"]}
    reach = {"context": {"low": [8.0], "high": [12.0]}}
    checkpoint.save(flow, tmp_path / "flow.safetensors", columns=columns, reach=reach)
    x, age = np.zeros(BLOCK + 4), np.full(BLOCK + 4, 13.9)
    x[2], age[3], age[-3:] = np.nan, 15.0, (np.nan, 97, 40)
    write(tmp_path, x=x, age=np.full(len(x), 10.0), age_context=age)
    said: list[str] = []
    score(tmp_path, warn=said.append)
    assert said[0].startswith(
        f"3 of {BLOCK + 2} contexts lie far outside what the flow was trained on: in row {BLOCK + 2} age is 97, and in "
        "training it was 8 to 12; "
    )
    assert len(said) == 2
    pd.DataFrame({"id": ["a", "b"], "age": [9.0, 97]}).to_csv(tmp_path / "galaxies.csv", index=False)
    write(tmp_path, x=[0.0, 0], age=[10.0, 10], id=["b", "b"])
    said.clear()
    score(tmp_path, galaxies=tmp_path / "galaxies.csv", warn=said.append)
    (line,) = said
    assert line.startswith("1 of 2 contexts lie far outside what the flow was trained on: in context 'b' age is 97")


def test_rows_where_the_flow_has_no_density_are_counted_apart(tmp_path: Path) -> None:
    made = flowzoo.build(
        "gaussian", (2,), (1,), x_map=Compose(Columns([0], Log()), Standardize((2,))),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    save(made, tmp_path)
    write(tmp_path, x=[1.0, -1.0, 2.0], age=[0.0, 0.0, np.nan], age_context=[1.0, 1.0, 1.0])
    lines: list[str] = []
    done = score(tmp_path, warn=lines.append)
    assert (done.missing, done.outside) == (1, 1)
    assert np.isfinite(column(tmp_path / "out.npz")).tolist() == [True, False, False]
    assert [("not finite" in line, "no finite value" in line) for line in lines] == [(True, False), (True, True)]


# -- how files are read


def test_columns_of_two_dimensional_and_compound_arrays_are_found(tmp_path: Path, flow: ConditionalFlow) -> None:
    rng = np.random.default_rng(0)
    both, context = rng.normal(size=(500, 2)).astype(np.float32), np.full(500, 9.5, np.float32)
    columns = {"names": ["pos[0]", "pos[1]"], "context_names": ["table/age"]}
    checkpoint.save(flow, tmp_path / "flow.safetensors", columns=columns)
    compound = np.zeros(500, [("age", "f4"), ("other", "i4")])
    compound["age"] = context
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["pos"], file["table"] = both, compound
    done = score(tmp_path, "p.h5", chunk=77)
    with torch.no_grad():
        exact = flow.log_prob(torch.from_numpy(both), torch.from_numpy(context)[:, None]).numpy()
    assert np.allclose(column(tmp_path / "out.npz"), exact, rtol=1e-5, atol=1e-5)
    assert done.galaxies == {}


def test_text_of_unknown_width_is_written_to_hdf5(tmp_path: Path, flow: ConditionalFlow) -> None:
    ids = ["a", "Å-galaxy with a long name", "b"]
    frame = pd.DataFrame({"x": [1.0, 2, 3], "age": [0.0, 1, 2], "age_context": [9.0, 9, 9], "id": ids})
    frame.to_parquet(tmp_path / "p.parquet")
    score(tmp_path, "p.parquet", "out.h5")
    assert [text.decode() for text in column(tmp_path / "out.h5", "id")] == ids


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_rebatching_keeps_every_row_in_order(size: int) -> None:
    rows = np.arange(40)
    parts = [[rows[a:b], -rows[a:b]] for a, b in ((0, 5), (5, 5), (5, 6), (6, 30), (30, 40))]
    batches = list(rebatched(parts, size))
    assert all(len(batch[0]) == size for batch in batches[:-1])
    assert 0 < len(batches[-1][0]) <= size
    assert np.array_equal(np.concatenate([batch[0] for batch in batches]), rows)
    assert np.array_equal(np.concatenate([batch[1] for batch in batches]), -rows)


# -- what is wrong, in one line


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        (
            {"x": None},
            {},
            r"particles\.npz lacks the column x \(the events of flow\.safetensors\); its columns are age, ",
        ),
        ({"x": None, "age": None}, {}, r"lacks the columns x, age "),
        ({"age_context": None}, {}, r"lacks the column age_context \(the context of .*; or give --contexts\)"),
        ({"x": ["p", "q"]}, {}, r"column 'x' holds <U1, for example '?.*p.*where numbers are needed"),
        ({"x": [1.0]}, {}, r"has shape \(2,\), so it is no column beside 'x' \(1 rows\)"),
        ({}, {"galaxies": "galaxies.csv", "id_column": "g"}, r"lacks the column g \(--id\)"),
        ({"id": None}, {"galaxies": "galaxies.csv"}, r"has no column 'id' to join with .*; name it with --id"),
        ({"id": ["a", "z"]}, {"galaxies": "galaxies.csv"}, r"events of context 'z', which is not in .*galaxies\.csv"),
        ({}, {"file": "particles.root"}, r"unknown ending '\.root'"),
        ({}, {"out": "out.fits"}, r"unknown ending '\.fits'"),
        ({}, {"chunk": 0}, "--chunk must be at least 1"),
        ({"x": [], "age": [], "age_context": [], "id": []}, {}, "has no rows"),
    ],
)
def test_bad_file_is_refused_in_one_line(
    tmp_path: Path, flow: ConditionalFlow, columns: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    sound: dict[str, Any] = {"x": [1.0, 2.0], "age": [1.0, 2.0], "age_context": [9.0, 9.0], "id": ["a", "a"]}
    write(tmp_path, **{k: v for k, v in {**sound, **columns}.items() if v is not None})
    pd.DataFrame({"id": ["a", "b"], "age": [9.0, 10.5]}).to_csv(tmp_path / "galaxies.csv", index=False)
    if "galaxies" in options:
        options = {**options, "galaxies": tmp_path / options["galaxies"]}
    with pytest.raises(ConfigError, match=words) as caught:
        score(tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.glob("*out*")) + list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("ending", [".h5", ".parquet"])
def test_columns_missing_in_a_file_read_in_parts_are_named(tmp_path: Path, flow: ConditionalFlow, ending: str) -> None:
    frame = pd.DataFrame({"x": [1.0], "other": [2.0]})
    if ending == ".parquet":
        frame.to_parquet(tmp_path / "p.parquet")
    else:
        with h5py.File(tmp_path / "p.h5", "w") as file:
            file["x"], file["other"] = [1.0], [2.0]
    with pytest.raises(ConfigError, match=r"lacks the column age \(.*\); its columns are (x, other|other, x)$"):
        score(tmp_path, f"p{ending}")


def test_hdf5_columns_of_different_lengths_are_refused(tmp_path: Path, flow: ConditionalFlow) -> None:
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["x"], file["age"], file["age_context"] = np.zeros(5), np.zeros(4), np.zeros(5)
    with pytest.raises(ConfigError, match="'age' has 4 rows, 'x' 5"):
        score(tmp_path, "p.h5")


def test_damaged_files_are_refused(tmp_path: Path, flow: ConditionalFlow) -> None:
    for ending in (".h5", ".parquet", ".npz"):
        (tmp_path / f"p{ending}").write_bytes(b"not a table")
        with pytest.raises(ConfigError, match=rf"p\{ending}: not a readable"):
            score(tmp_path, f"p{ending}")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.csv"):
        score(tmp_path, "gone.csv")
