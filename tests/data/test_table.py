"""table: columns by name from every kind of file, and one-line errors for whatever does not fit."""

import json
import math
import os
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.data import Splits, configure
from flowzoo.data.table import Table
from flowzoo.registry import MissingDependency

ROWS = 400


def arrays():
    """A small catalogue: redshift given magnitudes, with text and with arrays of other lengths."""
    rng = np.random.default_rng(0)
    return {
        "redshift": rng.gamma(2, 0.5, ROWS).astype(np.float32),
        "mag": rng.normal(24, 1, (ROWS, 3)).astype(np.float32),
        "sfr": np.where(np.arange(ROWS) % 4 > 0, 0.0, rng.gamma(2, 1, ROWS)),
        "galaxy": np.repeat(np.arange(20), 20),
        "survey": np.array(["deep", "wide"] * (ROWS // 2)),
        "bands": np.array(["u", "g", "r"]),
        "cube": rng.normal(size=(ROWS, 2, 2)),
        "version": np.array(3),
    }


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / "catalogue.npz"
    np.savez(path, **arrays())
    return str(path)


def write(tmp_path, **columns):
    """An .npz with these columns."""
    path = tmp_path / "table.npz"
    np.savez(path, **columns)
    return str(path)


def load(**options):
    return configure("table", options).load()


# -- columns


def test_two_dimensional_array_is_as_many_columns(npz):
    data = load(path=npz, x="redshift", context="mag")
    assert data.names == ("redshift",)
    assert data.context_names == ("mag[0]", "mag[1]", "mag[2]")
    assert np.array_equal(data.context.numpy(), arrays()["mag"])
    assert np.array_equal(data.x[:, 0].numpy(), arrays()["redshift"])


def test_single_columns_and_ranges_of_an_array_can_be_named(npz):
    data = load(path=npz, x=["mag[2]"], context="mag[0:2], redshift")
    assert np.array_equal(data.x[:, 0].numpy(), arrays()["mag"][:, 2])
    assert data.context_names == ("mag[0]", "mag[1]", "redshift")


@pytest.mark.parametrize("x", ["redshift,sfr", "redshift, sfr", ["redshift", "sfr"], ("redshift", "sfr")])
def test_columns_can_be_text_or_a_list(npz, x):
    assert load(path=npz, x=x).names == ("redshift", "sfr")
    assert Table(path=npz, x=x).load().names == ("redshift", "sfr")


def test_no_context_gives_an_unconditional_dataset(npz):
    data = load(path=npz, x="redshift")
    assert data.context_shape == (0,)
    assert Splits.make(data).maps()[1].to_latent(data.context)[0].shape == (1, 0)


def test_groups_may_be_numbers_or_text_and_are_kept_whole(npz):
    data = load(path=npz, x="redshift", context="mag", group="galaxy")
    assert data.groups.tolist() == arrays()["galaxy"].tolist()
    splits = Splits.make(data)
    assert not set(splits.train.groups.tolist()) & set(splits.test.groups.tolist())
    named = load(path=npz, x="redshift", group="survey")
    assert named.groups.tolist() == [0, 1] * (ROWS // 2)


def test_context_that_is_constant_in_each_group_is_stored_once_per_group(tmp_path):
    galaxy = np.repeat([7, 3, 5], 10)
    path = write(tmp_path, x=np.random.default_rng(0).normal(size=30), galaxy=galaxy, mass=galaxy * 2.0)
    data = load(path=path, x="x", context="mass", group="galaxy")
    assert data.context[:, 0].tolist() == [6, 10, 14]
    assert data.context[data.context_index][:, 0].tolist() == (galaxy * 2.0).tolist()


def test_split_of_a_table_does_not_depend_on_the_order_of_its_rows(tmp_path):
    x = np.random.default_rng(0).normal(size=60)
    galaxy = np.array([f"g{i // 3}" for i in range(60)])
    order = np.random.default_rng(1).permutation(60)
    tests = []
    for number, rows in enumerate((np.arange(60), order)):
        path = tmp_path / f"{number}.npz"
        np.savez(path, x=x[rows], galaxy=galaxy[rows])
        splits = Splits.make(load(path=str(path), x="x", group="galaxy"))
        tests.append(sorted(splits.test.x[:, 0].tolist()))
    assert tests[0] == tests[1]


@pytest.mark.parametrize(
    "column",
    [np.arange(30) % 3, np.array(["train", "Validation", "test"] * 10), np.array([0.0, 1.0, 2.0] * 10)],
)
def test_official_split_is_read(tmp_path, column):
    path = write(tmp_path, x=np.random.default_rng(0).normal(size=30), part=column)
    assert load(path=path, x="x", split="part").given_split.tolist() == [0, 1, 2] * 10


def test_official_split_with_other_values_is_refused(tmp_path):
    path = write(tmp_path, x=np.arange(3.0), part=np.array(["train", "dev", "test"]))
    with pytest.raises(ValueError, match="must hold 0, 1, 2 or train, validation, test; it also has dev"):
        load(path=path, x="x", split="part")


def test_units_reach_every_column(npz):
    data = load(path=npz, x="redshift", context="mag,sfr", units="mag=AB mag, sfr=Msun/yr")
    assert data.units == ("",)
    assert data.context_units == ("AB mag", "AB mag", "AB mag", "Msun/yr")
    with pytest.raises(ConfigError, match="no column 'sfq': did you mean 'sfr'"):
        load(path=npz, x="redshift", units="sfq=Msun/yr")


# -- missing values


def test_missing_context_is_filled_with_the_median_and_flagged(tmp_path):
    u = np.array([1.0, 99, 3, 99, 2, 5])
    path = write(tmp_path, z=np.arange(6.0), u=u, g=np.arange(6.0))
    data = load(path=path, x="z", context="u,g", missing="99")
    assert data.context_names == ("u", "g", "u missing")
    assert data.context[:, 0].tolist() == [1, 2.5, 3, 2.5, 2, 5]
    assert data.context[:, 2].tolist() == [0, 1, 0, 1, 0, 0]
    assert data.fills == {"u": 2.5}
    assert "'u' is missing in 2 of 6 rows: filled with the median of the others, 2.5" in data.notes[0]


def test_missing_flags_stay_zero_and_one_in_network_units(tmp_path):
    rng = np.random.default_rng(0)
    u = np.where(rng.random(200) < 0.3, 99, rng.normal(25, 1, 200))
    path = write(tmp_path, z=rng.normal(size=200), u=u)
    splits = Splits.make(load(path=path, x="z", context="u", missing=99, context_log="u"))
    c = splits.maps()[1].to_latent(splits.train.context)[0]
    assert set(c[:, 1].tolist()) == {0.0, 1.0}
    assert float(c[:, 0].mean()) == pytest.approx(0, abs=1e-4)
    assert float(c[:, 0].std()) == pytest.approx(1, abs=0.01)


def test_rows_with_missing_x_are_left_out_and_counted(tmp_path):
    x = np.array([0.5, -1, 2, -99.9, 4], dtype=np.float32)
    path = write(tmp_path, x=x, c=np.arange(5.0), g=np.array(["a", "b", "c", "d", "e"]), s=np.arange(5) % 3)
    data = load(path=path, x="x", context="c", group="g", split="s", missing=(-1, -99.9))
    assert data.x[:, 0].tolist() == [0.5, 2, 4]
    assert data.context[data.context_index][:, 0].tolist() == [0, 2, 4]
    assert data.given_split.tolist() == [0, 2, 1]
    assert len(data.groups) == 3
    assert data.notes == ("left out the 2 of 5 rows in which 'x' is missing",)


def test_nan_means_missing_only_if_declared(tmp_path):
    path = write(tmp_path, x=np.arange(8.0), c=np.array([1.0, np.nan, 3, 4, 5, 6, 7, 8]))
    with pytest.raises(ValueError, match=r"column 'c': 1 of 8 rows are not finite \(1 NaN\)"):
        Splits.make(load(path=path, x="x", context="c"))
    data = load(path=path, x="x", context="c", missing="nan")
    assert data.context[1].tolist() == [5, 1]


def test_sentinels_are_never_guessed(tmp_path):
    path = write(tmp_path, x=np.arange(5.0), c=np.array([20.0, 99, 21, 99, 22]))
    data = load(path=path, x="x", context="c")
    assert data.context_names == ("c",)
    assert data.context[1, 0] == 99
    assert data.notes == ()


def test_column_that_is_missing_everywhere_is_refused(tmp_path):
    path = write(tmp_path, x=np.arange(5.0), c=np.full(5, 99.0))
    with pytest.raises(ValueError, match="'c': all 5 rows are missing; leave it out of the context"):
        load(path=path, x="x", context="c", missing=99)
    with pytest.raises(ValueError, match="x is missing in all 5 rows"):
        load(path=path, x="c", missing=99)


def test_options_fit_into_a_strict_json_record(npz):
    config = configure("table", {"path": npz, "x": "redshift", "missing": "99, nan", "noise": {"redshift": "1e-3"}})
    assert json.loads(json.dumps(configs.to_dict(config), allow_nan=False))["missing"] == [99.0, "nan"]
    assert config.noise == {"redshift": 1e-3}


# -- atoms and noise


def test_atom_is_refused_and_both_remedies_of_the_message_work(npz):
    with pytest.raises(ValueError, match=r"'sfr': 300 of 400 rows \(75%\) are exactly 0.*`noise`"):
        Splits.make(load(path=npz, x="redshift,sfr"))
    assert Splits.make(load(path=npz, x="redshift")).train.x.shape == (280, 1)
    assert Splits.make(load(path=npz, x="redshift,sfr", noise="sfr=0.01")).train.x.shape == (280, 2)


def test_noise_is_uniform_recorded_and_seeded(npz):
    first, again, other = (load(path=npz, x="redshift,sfr", noise={"sfr": "0.5"}, seed=s) for s in ("0", "0", "1"))
    added = first.x[:, 1].numpy() - arrays()["sfr"]
    assert added.min() > -1e-6
    assert added.max() < 0.5 + 1e-6
    assert added.std() == pytest.approx(0.5 / 12**0.5, rel=0.1)
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x[:, 1], other.x[:, 1])
    assert torch.equal(first.x[:, 0], other.x[:, 0])
    assert first.notes == ("added 0.5 * U(0, 1) to 'sfr', seed 0",)


def test_noise_that_float32_swallows_is_refused_with_an_amount_that_works(tmp_path):
    x = np.random.default_rng(0).normal(size=300)
    x[:100] = 5000
    path = write(tmp_path, x=x)
    with pytest.raises(ValueError, match=r"frequent value 5000: give 0\.49 or more"):
        load(path=path, x="x", noise="x=0.001")
    assert len(Splits.make(load(path=path, x="x", noise="x=0.49")).train) == 210


@pytest.mark.parametrize("noise", [{"mag": 0.1}, {"nothing": 0.1}, {"redshift": 0}, {"redshift": "a"}, "redshift"])
def test_noise_on_other_columns_or_of_no_size_is_refused(npz, noise):
    with pytest.raises(ConfigError, match=r"which is not in x|has no column|greater than 0|valid number|column=value"):
        load(path=npz, x="redshift", noise=noise)


# -- maps


def test_log_of_a_column_keeps_the_density_in_its_own_units(tmp_path):
    x = np.exp(np.random.default_rng(0).normal(2, 1, (5000, 2)))
    path = write(tmp_path, x=x)
    splits = Splits.make(load(path=path, x="x", log="x[1]"))
    x_map, _ = splits.maps()
    u, slope = x_map.to_latent(splits.test.x)
    y = splits.test.x.requires_grad_()
    gradient = torch.autograd.grad(x_map.to_latent(y)[0].sum(), y)[0]
    assert torch.allclose(slope, gradient.log(), atol=1e-4)
    assert abs(float((u[:, 1] ** 3).mean())) < 0.3  # a normal has no skew, which the raw column has
    assert float((u[:, 0] ** 3).mean()) > 1
    assert torch.allclose(x_map.to_data(u)[0], splits.test.x, rtol=1e-4)


@pytest.mark.parametrize("option", ["log", "context_log"])
def test_log_of_a_value_that_has_none_is_refused_with_the_count(tmp_path, option):
    a, b = np.arange(1.0, 9), np.arange(1.0, 9)
    (a if option == "log" else b)[3:5] = 0
    path = write(tmp_path, a=a, b=b)
    with pytest.raises(ValueError, match="2 of 8 rows are <= 0, which has no logarithm"):
        load(path=path, x="a", context="b", **{option: "a" if option == "log" else "b"})


def test_log_of_a_column_that_is_not_there_is_refused(npz):
    with pytest.raises(ConfigError, match="log names 'sfr', which is not in x; x has redshift"):
        load(path=npz, x="redshift", log="sfr")
    with pytest.raises(ConfigError, match="context_log names 'sfr', which is not in context; context has no col"):
        load(path=npz, x="redshift", context_log="sfr")


def test_maps_leave_sentinels_and_test_rows_out_of_their_constants(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=90)
    part = np.arange(90) % 3
    x[part == 2] += 1000
    splits = Splits.make(load(path=write(tmp_path, x=x, part=part), x="x", split="part"))
    assert abs(float(splits.maps()[0].mean)) < 1


# -- what does not fit


def test_unknown_column_is_refused_with_those_that_exist(npz):
    with pytest.raises(ConfigError, match="no column 'redshft': did you mean 'redshift'") as error:
        load(path=npz, x="redshft")
    listing = str(error.value).split("its columns are ")[1]
    assert listing == "redshift, mag[0:3], sfr, galaxy, survey"


@pytest.mark.parametrize("name", ["mag[3]", "mag[2:9]", "mag[2:1]", "redshift[0]"])
def test_column_outside_its_array_is_refused(npz, name):
    with pytest.raises(ConfigError, match="has no column"):
        load(path=npz, x="sfr", context=name)


@pytest.mark.parametrize("name", ["bands", "cube", "version"])
def test_arrays_that_are_no_columns_are_refused_with_their_shape(npz, name):
    with pytest.raises(ConfigError, match=rf"'{name}' has shape .* so it is no column"):
        load(path=npz, x="redshift", context=name)


def test_text_in_x_or_context_is_refused(npz):
    with pytest.raises(ConfigError, match=r"column 'survey' holds text, for example .*deep"):
        load(path=npz, x="redshift", context="survey")


def test_cell_that_is_no_number_is_shown_with_its_row(tmp_path):
    cells = [f"{0.5 * i}" for i in range(300)]
    cells[1], cells[17], cells[40] = "", "bad", "worse"
    path = tmp_path / "a.csv"
    path.write_text("x,s3\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    with pytest.raises(
        ConfigError, match=r"'s3' holds text, for example 'bad' in row 18 \(2 of 300 rows have no number"
    ):
        load(path=str(path), x="x", context="s3")


def test_column_used_twice_is_refused(npz):
    with pytest.raises(ConfigError, match=r"'mag\[1\]' is both in x and in context"):
        load(path=npz, x="mag[1]", context="mag")
    with pytest.raises(ConfigError, match="'redshift' is named twice"):
        load(path=npz, x="redshift,redshift")


def test_groups_are_told_apart_by_what_they_say_and_not_by_blanks(tmp_path):
    names = np.array([f"NGC {i // 4}" + " " * (i % 2) for i in range(12)])
    assert load(path=write(tmp_path, a=np.arange(12.0), g=names), x="a", group="g").group_names == (
        *("NGC 0", "NGC 1", "NGC 2"),
    )
    spelt = np.array([b"\xe9%d" % (i // 4) for i in range(12)])  # not UTF-8
    assert load(path=write(tmp_path, a=np.arange(12.0), g=spelt), x="a", group="g").group_names == (
        *("\\xe90", "\\xe91", "\\xe92"),
    )


@pytest.mark.parametrize(
    ("group", "text"),
    [
        (["", "b", " "], "column 'g': 2 of 3 rows have no value"),
        ([2.0**53, 2.0**53 + 2, 1], "column 'g' holds 9007199254740992 as float64, which rounds ids so large"),
        (np.array([1, 2, 2**24], np.float32), "column 'g' holds 16777216 as float32, which rounds ids so large"),
    ],
)
def test_groups_that_may_have_become_one_are_refused(tmp_path, group, text):
    with pytest.raises(ValueError, match=text):
        load(path=write(tmp_path, a=np.arange(3.0), g=np.asarray(group)), x="a", group="g")


def test_group_must_be_one_column_with_a_value_in_each_row(npz, tmp_path):
    with pytest.raises(ConfigError, match="'mag' is 3 columns"):
        load(path=npz, x="redshift", group="mag")
    path = write(tmp_path, x=np.arange(3.0), g=np.array([1, np.nan, 2]))
    with pytest.raises(ValueError, match="column 'g': 1 of 3 rows have no value"):
        load(path=path, x="x", group="g")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (2_459_000 + np.linspace(0, 1, 50), "subtract an offset"),
        (10.0 ** np.linspace(0, 60, 50), "beyond float32"),
        (10.0 ** np.linspace(0, 300, 50), "1e\\+300 is beyond float32; rescale"),
        (1e-50 * np.linspace(1, 2, 50), "2e-50 is beyond float32; rescale"),
    ],
)
def test_columns_that_float32_cannot_hold_are_refused(tmp_path, values, text):
    path = write(tmp_path, t=values)
    with pytest.raises(ValueError, match=f"column 't'.*{text}"):
        load(path=path, x="t")


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no rows"):
        load(path=write(tmp_path, x=np.zeros(0)), x="x")


def test_x_must_name_a_column(npz):
    with pytest.raises(ConfigError, match="x names no column"):
        load(path=npz, x="")
    with pytest.raises(ConfigError, match=r"^table needs x; `flowzoo options table` says what it is$"):
        configure("table", {"path": npz})


def test_values_that_do_not_fit_an_option_are_refused_by_its_name(npz):
    with pytest.raises(ConfigError, match=r"table\.missing: .*must be a number or nan; got 'none'"):
        load(path=npz, x="redshift", missing="none")
    with pytest.raises(ConfigError, match="table has no option 'columns'"):
        load(path=npz, columns="redshift")


# -- files


@pytest.fixture
def frame():
    a = arrays()
    return pd.DataFrame({"redshift": a["redshift"], "u mag": a["mag"][:, 0], "survey": a["survey"], "n": a["galaxy"]})


@pytest.mark.parametrize("ending", ["csv", "semicolon.csv", "tsv", "ecsv", "parquet", "h5", "hdf5", "fits"])
def test_every_kind_of_file_gives_the_same_columns(tmp_path, frame, ending):
    path = tmp_path / f"catalogue.{ending}"
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "semicolon.csv":
        frame.to_csv(path, index=False, sep=";")
    elif ending == "tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif ending == "ecsv":  # as astropy writes it
        path.write_text("# %ECSV 1.0\n# ---\n# datatype:\n# - {name: redshift, datatype: float64}\n")
        frame.to_csv(path, index=False, sep=" ", mode="a")
    elif ending == "fits":
        table = pytest.importorskip("astropy.table", reason="astropy is not installed: no FITS tables")
        table.Table.from_pandas(frame).write(path)
    elif ending == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for name in frame:
                column = frame[name].to_numpy(dtype=object if name == "survey" else None)
                file[name] = column
    data = load(path=str(path), x="redshift", context="u mag,n", group="survey")
    assert np.allclose(data.x[:, 0].numpy(), arrays()["redshift"])
    assert np.allclose(data.context[data.context_index].numpy()[:, 0], arrays()["mag"][:, 0])
    assert data.context_names == ("u mag", "n")
    assert data.groups.tolist() == [0, 1] * (ROWS // 2)
    with pytest.raises(ConfigError, match=r"columns are .*redshift"):
        load(path=str(path), x="other")
    with pytest.raises(ConfigError, match="'survey' holds text"):
        load(path=str(path), x="survey")


def test_nested_and_compound_hdf5_datasets_are_columns(tmp_path):
    h5py = pytest.importorskip("h5py")
    table = np.zeros(50, dtype=[("mass", "f8"), ("age", "f4")])
    table["mass"] = np.random.default_rng(0).normal(size=50)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["gas/pos"] = np.random.default_rng(1).normal(size=(50, 3))
        file["stars"] = table
    data = load(path=str(tmp_path / "a.h5"), x="gas/pos", context="stars/mass")
    assert data.names == ("gas/pos[0]", "gas/pos[1]", "gas/pos[2]")
    assert np.allclose(data.context[:, 0].numpy(), table["mass"])


@pytest.mark.parametrize(
    ("ending", "package", "extra"),
    [("h5", "h5py", "hdf5"), ("parquet", "pyarrow", "parquet"), ("fits", "astropy", "fits")],
)
def test_missing_reader_names_the_extra_that_brings_it(tmp_path, monkeypatch, ending, package, extra):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"anything")
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"needs {package}.*pip install 'flowzoo\[{extra}\]'"):
        load(path=str(path), x="x")


@pytest.mark.parametrize("ending", ["npz", "csv", "tsv", "ecsv", "parquet", "h5"])
@pytest.mark.parametrize("content", [b"", b"\x89nothing\x00\xff\xfe of the kind"])
def test_empty_and_damaged_files_are_refused_in_one_line(tmp_path, ending, content):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.{ending}") as error:
        load(path=str(path), x="x")
    assert "\n" not in str(error.value)


def test_value_beyond_float32_means_nothing_in_a_column_of_float32(tmp_path):
    path = write(tmp_path, a=np.arange(4.0), b=np.array([1, 2, np.inf, 3], np.float32))
    assert load(path=path, x="a", context="b", missing="1e300").context_names == ("b",)
    assert load(path=path, x="a", context="b", missing="inf").context[:, 1].tolist() == [0, 0, 1, 0]


def test_array_without_columns_is_no_column(tmp_path):
    path = write(tmp_path, a=np.arange(4.0), none=np.zeros((4, 0)))
    for options in ({"x": "none"}, {"x": "a", "context": "none"}):
        with pytest.raises(ConfigError, match=r"'none' has shape \(4, 0\), so it is no column; the columns are a"):
            load(path=path, **options)


def test_name_of_two_columns_is_no_name(tmp_path):
    (tmp_path / "a.csv").write_text("a,a,b\n1,2,3\n4,5,6\n")
    assert load(path=str(tmp_path / "a.csv"), x="b").names == ("b",)
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: no parquet")
    table = pa.Table.from_arrays([pa.array([1.0, 2.0])] * 2, names=["a", "a"])
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    for ending in ("csv", "parquet"):
        with pytest.raises(ValueError, match=rf"a.{ending}: 'a' cannot be read \(the header names it 2 times"):
            load(path=str(tmp_path / f"a.{ending}"), x="a")


def test_index_of_pandas_is_a_column_of_its_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: no parquet")
    index = pd.MultiIndex.from_arrays([["n", "m", "n"], [1, 2, 3]], names=["galaxy", "star"])
    pd.DataFrame({"a.b": [1.0, 2, 3]}, index=index).to_parquet(tmp_path / "a.parquet")
    data = load(path=str(tmp_path / "a.parquet"), x="a.b", context="star", group="galaxy")
    assert (data.x[:, 0].tolist(), data.context[:, 0].tolist()) == ([1, 2, 3], [1, 2, 3])
    assert data.group_names == ("m", "n")


def test_decimals_and_flags_with_gaps_are_numbers(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: no parquet")
    ids = [Decimal(2**60), Decimal(2**60 + 1), Decimal(2**60 + 2)]
    table = pa.table({"a": [Decimal("1.25"), Decimal("2.5"), Decimal("-3.75")], "flag": [True, None, False], "id": ids})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    data = load(path=str(tmp_path / "a.parquet"), x="a", context="flag", group="id", missing="nan")
    assert data.x[:, 0].tolist() == [1.25, 2.5, -3.75]
    assert data.context.tolist() == [[1, 0], [0.5, 1], [0, 0]]
    assert data.group_names == tuple(map(str, ids))
    (tmp_path / "a.csv").write_text("a,flag\n1,True\n2,\n3,False\n")
    assert torch.equal(load(path=str(tmp_path / "a.csv"), x="a", context="flag", missing="nan").context, data.context)


def test_cells_that_are_no_numbers_are_called_what_they_are(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: no parquet")
    pd.DataFrame({"a": [[1.0, 2.0]] * 3}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"column 'a' holds values of type ndarray, for example array\(\[1., 2.\]\)"):
        load(path=str(tmp_path / "a.parquet"), x="a")


def test_text_in_another_encoding_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "a.csv").write_bytes("a,\xe9\n1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a.csv: not text in UTF-8 \(.* byte 0xe9 .*\); save it in that encoding"):
        load(path=str(tmp_path / "a.csv"), x="a")


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_arrays_of_objects_are_refused_with_what_to_do(tmp_path, ending):
    path, array = tmp_path / f"a.{ending}", np.array([1.0, 2.0], dtype=object)
    np.savez(path, array=array) if ending == "npz" else np.save(path, array)
    with pytest.raises(ValueError, match=r"it holds Python objects; save numbers or text, as by array.astype\(float\)"):
        load(path=str(path), x="array")


def test_pickled_arrays_are_never_unpickled(tmp_path):
    path = write(tmp_path, x=np.arange(5.0), bad=np.array([{}, {}, {}, {}, {}], dtype=object))
    with pytest.raises(ValueError, match="'bad' cannot be read"):
        load(path=path, x="x", context="bad")
    assert len(load(path=path, x="x")) == 5


def test_single_array_in_place_of_an_archive_is_refused(tmp_path):
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.arange(5.0))
    with pytest.raises(ValueError, match="a single array"):
        load(path=str(tmp_path / "a.npz"), x="x")


def test_csv_rows_longer_than_the_header_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2,3\n4,5,6\n")
    with pytest.raises(ValueError, match=r"not a readable \.csv file"):
        load(path=str(tmp_path / "a.csv"), x="a")


def test_csv_with_gaps_and_spaces_is_read(tmp_path):
    (tmp_path / "a.csv").write_text("z, u\n" + "".join(f"{i}, {'' if i % 3 == 0 else i / 7}\n" for i in range(9)))
    data = load(path=str(tmp_path / "a.csv"), x="z", context="u", missing="nan")
    assert data.context_names == ("u", "u missing")
    assert data.context[:, 1].tolist() == [1, 0, 0] * 3


def test_csv_without_rows_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="has no rows"):
        load(path=str(tmp_path / "a.csv"), x="a")


def test_missing_file_and_unknown_ending_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: nowhere/a\.npz"):
        load(path="nowhere/a.npz", x="x")
    with pytest.raises(ValueError, match=r"is a folder; give a file, whose name ends in \.npz, "):
        Table(path=str(tmp_path), x="a").load()
    with pytest.raises(ValueError, match=r"unknown ending '.root'; known are .npz, .csv, .tsv, .ecsv, .parquet, .h5, "):
        load(path="a.root", x="x")


def test_name_with_a_comma_is_listed_in_quotes_and_asked_for_in_a_list(tmp_path):
    (tmp_path / "a.csv").write_text('"x,y",z\n1,2\n3,4\n')
    assert load(path=str(tmp_path / "a.csv"), x=["x,y"]).names == ("x,y",)
    with pytest.raises(ConfigError, match=r"has no column 'x': its columns are \"x,y\", z"):
        load(path=str(tmp_path / "a.csv"), x="x,y")


def test_name_with_semicolons_does_not_tear_a_csv(tmp_path):
    (tmp_path / "a.csv").write_text("mass; log,z\n" + "".join(f"{i},{i / 7}\n" for i in range(9)))
    assert load(path=str(tmp_path / "a.csv"), x="z", context="mass; log").context_names == ("mass; log",)


def test_fits_columns_may_be_arrays_and_undefined_integers_are_nan(tmp_path):
    fits = pytest.importorskip("astropy.io.fits", reason="astropy is not installed: no FITS tables")
    rng = np.random.default_rng(0)
    flux, count = rng.normal(size=(50, 3)), rng.integers(0, 9, 50)
    columns = [
        fits.Column("flux", "3E", array=flux),
        fits.Column("n", "J", array=np.where(np.arange(50) % 5, count, -1), null=-1),
        fits.Column("field", "4A", array=np.array(["deep", "wide"] * 25)),
    ]
    image = fits.ImageHDU(np.zeros((4, 4)))
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(), image, fits.BinTableHDU.from_columns(columns)]).writeto(path)
    data = load(path=str(path), x="flux", context="n", group="field", missing="nan")
    assert np.allclose(data.x.numpy(), flux, atol=1e-6)
    assert data.context_names == ("n", "n missing")
    assert data.context[:, 1].tolist() == [1, 0, 0, 0, 0] * 10
    assert data.groups.tolist() == [0, 1] * 25


def test_fits_numbers_that_are_undefined_are_nan_though_scaled_or_of_text(tmp_path):
    fits = pytest.importorskip("astropy.io.fits", reason="astropy is not installed: no FITS tables")
    stored, path = np.arange(50), str(tmp_path / "a.fits")
    stored[::5] = -32768
    columns = [fits.Column(name, "I", array=stored.astype(np.int16), null=-32768) for name in ("scaled", "unsigned")]
    ids = fits.Column("id", "K", array=2**60 + np.arange(50) // 10, null=-1)
    fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.arange(50.0)), *columns, ids]).writeto(path)
    with fits.open(path, mode="update") as hdus:
        hdus[1].header.update(TSCAL2=0.5, TZERO2=100, TZERO3=32768)
    data = load(path=path, x="x", context="scaled, unsigned", group="id", missing="nan")
    assert data.context_names == ("scaled", "unsigned", "scaled missing", "unsigned missing")
    assert data.context[:, 2].tolist() == data.context[:, 3].tolist() == [1, 0, 0, 0, 0] * 10
    assert data.context[1, :2].tolist() == [100.5, 32769]
    assert data.group_names == tuple(str(2**60 + i) for i in range(5))  # none of them is undefined

    texts = [fits.Column("x", "F6.2", array=np.arange(50.0)), fits.Column("n", "I4", array=np.arange(50) + 1)]
    fits.TableHDU.from_columns(texts).writeto(path, overwrite=True)
    content = Path(path).read_bytes()
    assert content.count(b"  8.00   9") == 1
    Path(path).write_bytes(content.replace(b"  8.00   9", b"  8.00    "))
    data = load(path=path, x="x", context="n", missing="nan")
    assert data.context[:, 1].nonzero().flatten().tolist() == [8]


def test_fits_file_without_a_table_cut_off_or_of_something_else_is_refused_in_one_line(tmp_path):
    fits = pytest.importorskip("astropy.io.fits", reason="astropy is not installed: no FITS tables")
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(path)
    with pytest.raises(ValueError, match=r"a.fits: it has no table, but PrimaryHDU"):
        load(path=str(path), x="x")
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.arange(3000.0))])
    table.writeto(path, overwrite=True)
    path.write_bytes(path.read_bytes()[:8000])
    with pytest.raises(ValueError, match=r"a.fits: .*truncated") as error:
        load(path=str(path), x="x")
    assert "\n" not in str(error.value)
    path.write_bytes(b"\x89nothing of the kind")
    with pytest.raises(ValueError, match=r"a.fits: not a readable .fits file") as error:
        load(path=str(path), x="x")
    assert "\n" not in str(error.value)


# -- real data


@pytest.fixture
def real():
    if "FLOWZOO_DATA" not in os.environ:
        pytest.skip("FLOWZOO_DATA is not set: no real tables")
    return Path(os.environ["FLOWZOO_DATA"])


def test_photometric_redshifts_load_with_their_non_detections_flagged(real):
    path = str(real / "photoz_dc2" / "train.npz")
    data = load(path=path, x="redshift", context="mag", missing="99", log="redshift")
    assert data.event_shape == (1,)
    assert data.context_names[6:] == ("mag[0] missing", "mag[1] missing")
    assert int(data.context[:, 6].sum()) == 714
    assert float(data.context[:, :6].max()) < 99
    splits = Splits.make(data)
    c = splits.maps()[1].to_latent(splits.train.context)[0]
    assert float(c[:, :6].std()) == pytest.approx(1, abs=0.01)


def test_gas_cells_split_by_galaxy_once_the_star_formation_rate_is_left_out(real):
    path = str(real / "gas_catalogue" / "gas.npz")
    with pytest.raises(ValueError, match=r"'cells\[8\]': 253259 of 290416 rows \(87%\) are exactly 0"):
        Splits.make(load(path=path, x="cells", group="galaxy_index"))
    splits = Splits.make(load(path=path, x="cells[0:8],cells[9]", group="galaxy_index"))
    assert splits.train.x.shape[1] == 9
    assert len(torch.unique(splits.test.groups)) == 6
    assert not set(splits.train.groups.tolist()) & set(splits.test.groups.tolist())


def test_prior_says_which_columns_are_parameters(tmp_path):
    rng = np.random.default_rng(0)
    theta = rng.uniform(0.1, 0.5, 200)
    np.savez(tmp_path / "a.npz", Omega_m=theta, power=theta + rng.normal(size=200), age=rng.normal(size=200))
    prior = {"Omega_m": "uniform(0.1, 0.5)"}
    likelihood = Table(str(tmp_path / "a.npz"), x=("power", "age"), context=("Omega_m",), prior=prior).load()
    assert likelihood.theta == "context"
    assert likelihood.prior.describe() == {"kind": "box", "low": [0.1], "high": [0.5]}
    posterior = Table(str(tmp_path / "a.npz"), x=("Omega_m",), context=("power", "age"), prior=prior).load()
    assert posterior.theta == "event"
    # The support of the prior goes onto the whole line, so that nothing can be drawn outside of it.
    ends = posterior.x_map.to_data(torch.tensor([[-60.0], [60.0]]))[0]
    assert float(ends.min()) > 0.0999
    assert float(ends.max()) < 0.5001


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (
            {"age": "uniform(0, 1)"},
            r"prior must have a text for each column of x \(for a posterior flow: power\), or for each column of the "
            r"context \(for a likelihood flow: Omega_m\); it has age",
        ),
        (
            {"Omega_m": "uniform(0.2, 0.5)"},
            r"excludes the parameters of 13 of 50 simulations: 'Omega_m' \(0.1 to 0.5\) is outside uniform.* in 13$",
        ),
        ({"Omega_m": "flat(0, 1)"}, "no continuous distribution 'flat'"),
    ],
)
def test_prior_that_does_not_fit(tmp_path, prior, message):
    theta = np.linspace(0.1, 0.5, 50)
    np.savez(tmp_path / "a.npz", Omega_m=theta, power=theta)
    with pytest.raises(ConfigError, match=message):
        Table(str(tmp_path / "a.npz"), x=("power",), context=("Omega_m",), prior=prior).load()


def test_prior_that_lacks_a_parameter_names_it_and_both_sides(tmp_path):
    rng = np.random.default_rng(0)
    path = write(tmp_path, theta=rng.uniform(size=(50, 3)), flux=rng.normal(size=(50, 32)))
    prior = "theta[0]: uniform(0, 1), theta[1]: uniform(0, 1)"
    with pytest.raises(ConfigError) as error:
        load(path=path, x="theta", context="flux", prior=prior)
    assert str(error.value) == (
        "prior must have a text for each column of x (for a posterior flow: theta[0] to theta[2], of which it lacks "
        "theta[2]), or for each column of the context (for a likelihood flow: flux[0] to flux[31]); it has theta[0], "
        "theta[1]"
    )
    assert load(path=path, x="theta", context="flux", prior=f"{prior}, theta[2]: uniform(0, 1)").theta == "event"


def test_prior_that_excludes_says_which_parameters(tmp_path):
    theta = np.stack([np.linspace(0, 1, 50), np.linspace(0, 2, 50), np.linspace(0, 3, 50)], 1)
    path = write(tmp_path, theta=theta, y=np.arange(50.0))
    prior = {"theta[0]": "uniform(0, 1)", "theta[1]": "uniform(0, 1)", "theta[2]": "uniform(1, 3)"}
    message = r"of 42 of 50 simulations: 'theta\[1\]' \(0 to 2\) is .* in 25, 'theta\[2\]' \(0 to 3\) is .* in 17$"
    with pytest.raises(ConfigError, match=message):
        load(path=path, x="y", context="theta", prior=prior)


def simulations(**columns):
    """Columns of 400 simulations of one parameter."""
    rng = np.random.default_rng(0)
    theta = rng.uniform(60, 80, ROWS)
    return {"H0": theta, "y": theta + rng.normal(size=ROWS), "z": rng.normal(size=ROWS), **columns}


@pytest.mark.parametrize(("x", "context"), [("H0", "y"), ("y", "H0")])
def test_parameter_that_is_not_finite_is_named_as_such_and_not_as_outside_of_the_prior(tmp_path, x, context):
    columns, prior = simulations(), "H0: uniform(60, 80)"
    columns["H0"][:14] = np.nan
    data = load(path=write(tmp_path, **columns), x=x, context=context, prior=prior)
    with pytest.raises(ValueError, match=r"'H0': 14 of 400 rows are not finite \(14 NaN\)"):
        Splits.make(data)
    columns["H0"][20] = 90
    with pytest.raises(ConfigError, match=r"of 1 of 400 simulations: 'H0' \(60.* to 90\)"):
        load(path=write(tmp_path, **columns), x=x, context=context, prior=prior)


def test_row_without_a_parameter_is_left_out_and_other_context_is_still_filled(tmp_path):
    columns, prior = simulations(), "H0: uniform(60, 80)"
    columns["H0"][:14], columns["z"][10:20] = np.nan, np.nan
    path = write(tmp_path, **columns)
    data = load(path=path, x="y", context="H0", prior=prior, missing="nan")
    assert (len(data), data.context_names, dict(data.fills)) == (386, ("H0",), {})
    assert data.notes == ("left out the 14 of 400 rows in which 'H0' is missing",)
    data = load(path=path, x="H0", context="y,z", prior=prior, missing="nan")
    assert (len(data), data.context_names) == (386, ("y", "z", "z missing"))
    # Without a prior it is a context as any other.
    assert load(path=path, x="y", context="H0", missing="nan").context_names == ("H0", "H0 missing")
    columns["H0"][:] = np.nan
    with pytest.raises(ValueError, match="x or a parameter is missing in all 400 rows"):
        load(path=write(tmp_path, **columns), x="y", context="H0", prior=prior, missing="nan")


def test_rows_of_equal_parameters_are_a_group_unless_groups_or_a_split_are_given(tmp_path):
    rng = np.random.default_rng(0)
    theta = np.repeat(rng.uniform(60, 80, 100), 30)
    part = np.arange(3000) % 3
    path = write(tmp_path, H0=theta, y=theta + rng.normal(size=3000), own=np.arange(3000), part=part)
    options = {"path": path, "x": "y", "context": "H0", "prior": "H0: uniform(60, 80)"}
    data = load(**options)
    assert data.notes == ("30 rows for each of 100 different parameter rows: each of these is a group",)
    assert data.context.shape == (100, 1)  # each stored once
    splits = Splits.make(data)
    assert not set(splits.train.context[:, 0].tolist()) & set(splits.test.context[:, 0].tolist())
    for given, other in (({"group": "own"}, "group"), ({"split": "part"}, "part of the split")):
        data = load(**options, **given)
        assert len(data.groups.unique()) == 3000
        assert f"3000 of 3000 rows have the parameters of a row of another {other}" in Splits.make(data).data.notes[-1]
    assert len(load(path=path, x="y", context="H0").groups.unique()) == 3000
    assert Splits.make(load(path=path, x="y", context="H0")).data.notes == ()


# -- maps


def angles(tmp_path):
    rng = np.random.default_rng(0)
    return write(tmp_path, pa=rng.uniform(0, 360, 300), m=rng.lognormal(size=300), z=rng.normal(size=(300, 2)))


def test_columns_have_the_maps_of_a_catalogue(tmp_path):
    maps = {"maps": "pa=logit(0 360 1e-6), z=signed_log(2)", "context_maps": "m=log10"}
    data = load(path=angles(tmp_path), x="pa,z", context="m", **maps)
    x_map, context_map = Splits.make(data).maps()
    ends = x_map.to_data(torch.tensor([[-99.0, 0, 0], [99, 0, 0]]))[0][:, 0]
    assert float(ends[0]) > -1e-3  # the range of an angle, whatever a flow draws
    assert float(ends[1]) < 360.001
    z = x_map.to_latent(torch.tensor([[180.0, 0, 0], [180, 2, 0], [180, 200, 0]]))[0]
    assert float(z[2, 1] - z[0, 1]) < 10 * float(z[1, 1] - z[0, 1])  # an array has the map in each of its columns
    assert torch.equal(z[:, 2], z[:1, 2].expand(3))
    c = context_map.to_latent(torch.tensor([[1.0], [10.0], [100.0]]))[0][:, 0]
    assert float(c[1] - c[0]) == pytest.approx(float(c[2] - c[1]), rel=1e-4)


def test_map_of_a_column_is_in_its_density(tmp_path):
    data = load(path=angles(tmp_path), x="pa", maps={"pa": "logit(0 360)"})
    x_map = Splits.make(data).maps()[0].double()
    x = torch.linspace(-18, 378, 4001, dtype=torch.float64)[:, None]
    u, slope = x_map.to_latent(x)
    density = (-0.5 * u.square() + slope).exp() / math.sqrt(2 * math.pi)  # of a standard normal in network units
    assert float(torch.trapezoid(density[1:-1, 0], x[1:-1, 0])) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": "q=log"}, "has no column 'q'"),
        ({"maps": "m=log"}, "maps names 'm', which is not in x; x has pa"),
        ({"context_maps": "pa=log"}, "context_maps names 'pa', which is not in context; context has m"),
        ({"maps": "pa=logit(0 90)"}, r"maps: column 'pa': \d+ of 300 rows lie outside \[0, 90\]"),
        ({"maps": "pa=cosine"}, "unknown map 'cosine': known are"),
        ({"log": "pa", "maps": "pa=log10"}, "'pa' is in log and maps; name it in one of them"),
        ({"context_log": "m", "context_maps": "m=log"}, "'m' is in context_log and context_maps"),
        ({"maps": "pa=log", "prior": "pa: uniform(0, 360)"}, "log and maps are of x, which is the parameters here"),
        ({"log": "pa", "prior": "pa: uniform(0, 360)"}, "log and maps are of x, which is the parameters here"),
    ],
)
def test_maps_that_do_not_fit_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(path=angles(tmp_path), x="pa", context="m", **options)


def test_value_that_is_not_finite_is_named_as_such_and_not_as_outside_of_a_map(tmp_path):
    pa = np.random.default_rng(0).uniform(0, 360, 300)
    pa[7] = np.nan
    data = load(path=write(tmp_path, pa=pa), x="pa", maps="pa=logit(0 360)")
    with pytest.raises(ValueError, match=r"'pa': 1 of 300 rows are not finite \(1 NaN\)"):
        Splits.make(data)


def test_flags_of_gaps_have_no_map_and_are_not_scaled_beside_one(tmp_path):
    m = np.random.default_rng(0).lognormal(size=300)
    m[::3] = -99
    path = write(tmp_path, x=np.random.default_rng(1).normal(size=300), m=m)
    splits = Splits.make(load(path=path, x="x", context="m", missing=-99, context_maps="m=log10"))
    c = splits.maps()[1].to_latent(splits.train.context)[0]
    assert set(c[:, 1].tolist()) == {0, 1}
    assert float(c[:, 0].std()) == pytest.approx(1, abs=0.01)


def test_atom_of_a_sentinel_names_the_option_that_cures_it(tmp_path):
    x = np.random.default_rng(0).normal(size=300)
    x[::3] = -99
    path = write(tmp_path, x=x)
    with pytest.raises(ValueError, match=r"exactly -99, an atom.* declare it \(`missing=-99`\)") as error:
        Splits.make(load(path=path, x="x"))
    assert "floor" not in str(error.value)  # which table does not have
    assert len(Splits.make(load(path=path, x="x", missing=-99)).data) == 200


def test_fill_is_exact_in_the_notes_which_travel_with_a_flow(tmp_path):
    m = np.random.default_rng(0).normal(2459000.5, 3, 300)
    m[::3] = -99
    data = load(path=write(tmp_path, x=np.random.default_rng(1).normal(size=300), m=m - 2.4e6), context="m", x="x")
    assert data.fills == {}
    m[m > 0] -= 2.4e6
    data = load(path=write(tmp_path, x=np.random.default_rng(1).normal(size=300), m=m), context="m", x="x", missing=-99)
    found = data.context[data.context[:, 1] == 1, 0].unique()
    assert data.fills == {"m": float(found)}


def test_groups_keep_their_labels(tmp_path):
    rows = {"t": np.arange(6.0), "id": np.array([4707, 4700, 4707, 12, 12, 4700])}
    made = load(path=write(tmp_path, **rows), x="t", group="id")
    assert made.group_names == ("12", "4700", "4707")
    assert [made.group_names[g] for g in made.groups] == ["4707", "4700", "4707", "12", "12", "4700"]
    rows["id"] = np.array([0.5, 2.0, 0.5, 2.0, 2.0, 0.1])
    assert load(path=write(tmp_path, **rows), x="t", group="id").group_names == ("0.1", "0.5", "2.0")
    rows["id"] = np.array([5.0, 7.0, 5.0, 5.0, 7.0, 7.0])
    assert load(path=write(tmp_path, **rows), x="t", group="id").group_names == ("5", "7")
    rows["id"] = np.array(["NGC 1", "M 31", "M 31", "M 31", "M 31", "M 31"])
    assert load(path=write(tmp_path, **rows), x="t", group="id").group_names == ("M 31", "NGC 1")
