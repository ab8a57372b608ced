"""catalogue: galaxies of particles from every layout of files, their contexts, and errors that name file and galaxy."""

import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from flowzoo.config import ConfigError
from flowzoo.data import Splits, configure
from flowzoo.data._catalogue_files import in_order
from flowzoo.data._summaries import parse
from flowzoo.data.catalogue import Catalogue
from flowzoo.harness import BenchConfig, settings
from flowzoo.train import FitConfig

NAMES = ("x", "y", "z", "vx", "vy", "vz", "mass", "Z")
IDS = ("10", "9", "101", "7", "33")


def particles(galaxy):
    """``(n, 8)`` float32 of a galaxy: the same wherever it is written."""
    rng = np.random.default_rng(int(galaxy))
    table = rng.normal(size=(100 + int(galaxy), len(NAMES)))
    table[:, 6:] = np.exp(table[:, 6:])
    return table.astype(np.float32)


def columns(galaxy):
    return dict(zip(NAMES, particles(galaxy).T, strict=True))


def parameters():
    """Stellar mass 10 g and age g / 10 of galaxy g, in another order than the files, and one galaxy too many."""
    ids = np.array([101, 33, 7, 50, 10, 9])
    return pd.DataFrame({"id": ids, "M_star": ids * 10.0, "age": ids / 10, "name": [f"N{i}" for i in ids]})


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "galaxies"
    path.mkdir()
    for galaxy in IDS:
        np.savez(path / f"{galaxy}.npz", **columns(galaxy))
    parameters().to_csv(tmp_path / "parameters.csv", index=False)
    return path


def single_file(tmp_path, order=IDS, shuffle=None):
    """One file of all galaxies; shuffled, the rows of a galaxy stay in their order but no longer stand together."""
    rows = np.concatenate([particles(g) for g in order])
    group = np.concatenate([np.full(len(particles(g)), int(g)) for g in order])
    if shuffle is not None:
        places = np.random.default_rng(shuffle).permutation(group)
        taken = {g: iter(np.flatnonzero(group == int(g))) for g in order}
        rows = rows[[next(taken[str(g)]) for g in places]]
        group = places
    path = tmp_path / "all.npz"
    np.savez(path, cells=rows, cell_names=np.array(NAMES), galaxy=group)
    return str(path)


def load(path, **options):
    return configure("catalogue", {"path": str(path), "x": NAMES, **options}).load()


CONTEXT = {"context": "M_star, age", "summaries": "log10 sum(mass), count()"}
CLEAN = {
    **{"position": "x,y,z", "velocity": "vx,vy,vz", "mass": "mass", "metallicity": "Z"},
    **{"radius_percentile": 90, "metallicity_outliers": 2, "centre": "mean", "rotate": "inertia"},
}


def same(one, other):
    """Whether two datasets are the same in everything that a result depends on."""
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.context, other.context)
    assert torch.equal(one.context_index, other.context_index)
    assert torch.equal(one.groups, other.groups)
    for name in ("names", "units", "context_names", "context_units", "group_names", "roles", "notes"):
        assert getattr(one, name) == getattr(other, name)
    assert Splits.make(one).hash == Splits.make(other).hash


# -- files


def test_galaxies_are_sorted_by_their_ids_and_whole_numbers_by_value(folder):
    data = load(folder)
    assert data.group_names == ("7", "9", "10", "33", "101")
    assert np.array_equal(data.x.numpy(), np.concatenate([particles(g) for g in data.group_names]))
    assert torch.bincount(data.groups).tolist() == [107, 109, 110, 133, 201]
    assert in_order(["b2", "10", "b10", "9"]) == ["9", "10", "b10", "b2"]


def test_folder_and_single_file_are_the_same_data(folder, tmp_path):
    options = {**CONTEXT, **CLEAN, "parameters": str(tmp_path / "parameters.csv"), "noise": "Z=0.01"}
    whole = load(single_file(tmp_path), columns="cell_names", group="galaxy", **options)
    same(load(folder, **options), whole)


@pytest.mark.parametrize(("order", "shuffle"), [(IDS[::-1], None), (IDS, 0), (IDS, 1)])
def test_order_of_the_rows_of_a_file_is_of_no_account(folder, tmp_path, order, shuffle):
    path = single_file(tmp_path, order, shuffle)
    same(load(folder, **CLEAN), load(path, columns="cell_names", group="galaxy", **CLEAN))


@pytest.mark.parametrize("ending", ["npy", "npz", "csv", "parquet", "h5", "structured"])
def test_every_kind_of_file_is_the_same_data(folder, tmp_path, ending):
    other = tmp_path / "other"
    other.mkdir()
    for galaxy in IDS:
        path, table = other / f"{galaxy}.{ending}", particles(galaxy)
        frame = pd.DataFrame(columns(galaxy))
        if ending == "npy":
            np.save(path, table)
        elif ending == "npz":
            np.savez(path, stars=table)
        elif ending == "csv":
            frame.to_csv(path, index=False)
        elif ending == "parquet":
            frame.to_parquet(path)
        elif ending == "h5":
            with h5py.File(path, "w") as file:
                file["stars"] = table
        else:
            np.save(path.with_suffix(".npy"), frame.to_records(index=False))
    names = {"columns": ", ".join(NAMES)} if ending in ("npy", "npz", "h5") else {}
    same(load(folder), load(other, **names))


def test_text_groups_and_ids_with_zeros_before_them_find_their_row(tmp_path):
    path, table = tmp_path / "all.csv", tmp_path / "table.csv"
    frame = pd.DataFrame({"u": np.arange(60.0), "galaxy": np.repeat(["g2", "g10", "g1"], 20)})
    frame.to_csv(path, index=False)
    pd.DataFrame({"name": ["g1", "g2", "g10"], "m": [1.0, 2, 10]}).to_csv(table, index=False)
    data = load(path, x="u", group="galaxy", parameters=str(table), id="name", context="m")
    assert data.group_names == ("g1", "g10", "g2")
    assert data.context[:, 0].tolist() == [1, 10, 2]
    frame["galaxy"] = np.repeat(["007", "08", "9"], 20)
    frame.to_parquet(tmp_path / "zeros.parquet")
    pd.DataFrame({"id": [9, 8, 7], "m": [9.0, 8, 7]}).to_csv(table, index=False)
    data = load(tmp_path / "zeros.parquet", x="u", group="galaxy", parameters=str(table), context="m")
    assert data.group_names == ("007", "08", "9")
    assert data.context[:, 0].tolist() == [7, 8, 9]


@pytest.mark.parametrize("dtype", ["Int64", "UInt64"])
def test_ids_beyond_float64_stay_those_of_different_galaxies(tmp_path, dtype):
    b = 1237648720693755918 if dtype == "Int64" else 2**64 - 3
    frame = pd.DataFrame({"u": np.arange(9.0), "g": pd.array(np.repeat([b, b + 1, b + 2], 3), dtype=dtype)})
    frame.to_parquet(tmp_path / "all.parquet")
    assert load(tmp_path / "all.parquet", x="u", group="g").group_names == (str(b), str(b + 1), str(b + 2))


@pytest.mark.parametrize("large", [np.array([1.0, 2.0**53]), np.array([1, -(2**24)], np.float32), np.array([1, 1e19])])
def test_floats_so_large_that_ids_would_merge_are_refused(tmp_path, large):
    np.savez(tmp_path / "all.npz", u=np.arange(2.0), g=large)
    with pytest.raises(ValueError, match=r"column 'g' holds .* as float(32|64), .*ids must be integers or text"):
        load(tmp_path / "all.npz", x="u", group="g")
    np.savez(tmp_path / "all.npz", u=np.arange(2.0), g=np.array([1, large[1] / 2 + 1], large.dtype))
    if abs(large[1]) < 1e19:
        assert len(load(tmp_path / "all.npz", x="u", group="g").group_names) == 2


@pytest.mark.parametrize("ids", [["7", "08", "x"], ["7.0", "8.", "x"], [7.0, 8.0, 8.5]])
def test_one_galaxy_is_found_whether_its_id_is_a_number_or_text(tmp_path, ids):
    np.savez(tmp_path / "all.npz", u=np.arange(30.0), g=np.repeat(["007", "8.00"], 15))
    pd.DataFrame({"id": ids, "m": [7.0, 8, 9]}).to_parquet(tmp_path / "table.parquet")
    data = load(tmp_path / "all.npz", x="u", group="g", parameters=str(tmp_path / "table.parquet"), context="m")
    assert data.context[:, 0].tolist() == [7, 8]


def test_folder_within_the_folder_is_no_galaxy_and_only_named_arrays_are_read(folder, monkeypatch):
    plain = load(folder)
    (folder / "sub.npz").mkdir()
    for galaxy in IDS:
        file = {"stars": particles(galaxy), "labels": np.array(NAMES), "more": np.zeros((500, 3)), "n": np.array(3)}
        np.savez(folder / f"{galaxy}.npz", **file, about=np.array([{}], dtype=object))
    members, archive = [], np.lib.npyio.NpzFile
    read = archive.__getitem__
    monkeypatch.setattr(archive, "__getitem__", lambda self, name: members.append(name) or read(self, name))
    same(plain, load(folder, columns="labels"))
    assert sorted(members) == ["labels"] * 5 + ["stars"] * 5


def test_tables_in_the_same_folder_are_no_galaxies(folder):
    parameters().to_csv(folder / "parameters.csv", index=False)
    (folder / "README.md").write_text("about")
    data = load(folder, parameters=str(folder / "parameters.csv"), context="age")
    assert data.group_names == ("7", "9", "10", "33", "101")


def test_environment_variables_in_paths_are_put_in(folder, monkeypatch):
    monkeypatch.setenv("GALAXIES", str(folder))
    same(load("$GALAXIES"), load(folder))
    with pytest.raises(FileNotFoundError, match="the environment variable NOT_SET_ANYWHERE is not set"):
        load("$NOT_SET_ANYWHERE/galaxies")


# -- contexts


def test_parameters_join_by_id_and_summaries_follow_them(folder, tmp_path):
    data = load(folder, parameters=str(tmp_path / "parameters.csv"), units="M_star=Msun, mass=Msun", **CONTEXT)
    assert data.context_names == ("M_star", "age", "sum(mass)", "count()")
    assert data.context_units == ("Msun", "", "Msun", "")
    expected = [
        [int(g) * 10, int(g) / 10, particles(g)[:, 6].astype(float).sum(), 100 + int(g)] for g in data.group_names
    ]
    np.testing.assert_allclose(data.context.numpy(), expected, rtol=1e-6)
    assert data.context_index is data.groups


def test_column_of_ids_may_be_in_capitals(folder, tmp_path):
    table = {"context": "M_star", "parameters": str(tmp_path / "parameters.csv")}
    data = load(folder, **table)
    parameters().rename(columns={"id": "ID"}).to_csv(tmp_path / "parameters.csv", index=False)
    same(data, load(folder, **table))


def test_rows_are_counted_from_0_where_there_is_no_id(tmp_path):
    folder = tmp_path / "galaxies"
    folder.mkdir()
    for galaxy in (2, 0, 1):
        np.savez(folder / f"{galaxy}.npz", u=np.arange(10.0) + galaxy)
    np.savez(tmp_path / "table.npz", props=np.array([[5.0, 50], [6, 60], [7, 70]]))
    table = {"parameters": str(tmp_path / "table.npz"), "parameter_columns": "a, b"}
    data = load(folder, x="u", context="b", **table)
    assert data.context[:, 0].tolist() == [50, 60, 70]
    assert data.notes == ("table.npz: galaxy i has row i, from 0; no column of ids (`id`) was given",)
    np.savez(folder / "3.npz", u=np.arange(10.0))
    with pytest.raises(ValueError, match=r"no row for galaxy '3' \(.*3.npz\): 3 rows, galaxy i in row i; give .* `id`"):
        load(folder, x="u", context="b", **table)


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("sum(a)", 15),
        ("mean(a)", 3),
        ("median(a)", 2),
        ("min(a)", 1),
        ("max(a)", 8),
        ("std(a)", np.sqrt(6.8)),
        ("p25( a )", 1.0),
        ("p62.5(a)", 2.5),
        ("count()", 5),
    ],
)
def test_summaries_are_the_statistics_that_they_say(text, truth):
    assert parse(text)({"a": np.array([8, 1, 1, 2, 3], dtype=np.float32)}) == pytest.approx(truth)


def test_sums_of_many_small_masses_are_exact():
    assert parse("sum(m)")({"m": np.full(10**7, 0.1, dtype=np.float32)}) == pytest.approx(10**6, rel=1e-6)


def test_statistics_of_flags_are_those_of_0_and_1():
    flags = {"a": np.array([True] * 3 + [False])}
    found = [parse(f"{s}(a)")(flags) for s in ("p10", "p90", "mean", "median", "max")]
    assert found == pytest.approx([0.3, 1, 0.75, 1, 1])


def test_summaries_are_of_the_particles_that_are_left_and_of_columns_outside_x(folder):
    data = load(folder, x="x,y", position="x,y,z", radius=1.0, summaries="max(Z), count()", minimum=1)
    rows = data.references["cleaning"].rows_of("33")
    inside = np.linalg.norm(particles("33")[:, :3].astype(float), axis=1) <= 1
    assert rows.tolist() == np.flatnonzero(inside).tolist()
    assert data.context[3].tolist() == [particles("33")[inside, 7].max(), inside.sum()]
    assert data.roles == {"position": ["x", "y"]}


def test_log10_of_a_context_is_a_map_and_the_context_stays_what_it_is(folder, tmp_path):
    data = load(folder, parameters=str(tmp_path / "parameters.csv"), context_maps="M_star=log10", **CONTEXT)
    logs = data.context_map.maps[0].to_latent(data.context)[0]
    torch.testing.assert_close(logs[:, [0, 2]], data.context[:, [0, 2]].log10())
    assert torch.equal(logs[:, [1, 3]], data.context[:, [1, 3]])


def latents(tmp_path, folds):
    """One split, or two folds of which the second tests galaxies 0 and 3."""
    parts = {1: (("train", "test", "validation"),), 2: (("train", "test", "test"), ("test", "train", "train"))}[folds]
    lines = [
        {"id": g, "fold": f, "part": parts[f][i % 3], "latent_0": 10 * f + i}
        for f in range(folds)
        for i, g in enumerate(("7", "9", "10", "33", "101"))
    ]
    path = tmp_path / "latents.csv"
    pd.DataFrame(lines).to_csv(path, index=False)
    return str(path)


def test_latents_of_one_fold_are_context_and_the_split(folder, tmp_path):
    data = load(folder, latents=latents(tmp_path, 1), parameters=str(tmp_path / "parameters.csv"), context="age")
    assert data.context_names == ("age", "latent_0")
    assert data.context[:, 1].tolist() == [0, 1, 2, 3, 4]
    splits = Splits.make(data)
    assert splits.train.groups.unique().tolist() == [0, 3]
    assert splits.test.groups.unique().tolist() == [1, 4]


def test_latents_of_several_folds_go_with_their_fold(folder, tmp_path):
    data = load(folder, latents=latents(tmp_path, 2))
    splits = Splits.make(data, fold=(1, 2))
    assert splits.test.groups.unique().tolist() == [0, 3]
    assert splits.train.contexts[:, 0].tolist() == [10, 11, 12, 13, 14]
    cure = "data.latents has so many: --folds 2; for `fit`, write one without --folds"
    with pytest.raises(ValueError, match=f"the data has 2 folds of its own, and none was asked for; .* {cure}"):
        Splits.make(data)
    official = r"official split \(a table of data.latents without folds gives one\), .* leave them out: --folds 0"
    with pytest.raises(ValueError, match=official):
        Splits.make(load(folder, latents=latents(tmp_path, 1)), fold=(0, 5))


# -- what is done to the events


def test_maps_leave_the_density_that_of_the_columns_themselves(folder):
    data = load(folder, maps="mass=log10, Z=log10, vx=signed_log(1)")
    x_map, _ = Splits.make(data).maps()
    u, log_slope = x_map.to_latent(data.x)
    torch.testing.assert_close(x_map.to_data(u)[0], data.x, rtol=1e-4, atol=1e-5)
    scale = x_map.maps[-1].std[6]
    torch.testing.assert_close(log_slope[:, 6].exp(), 1 / (data.x[:, 6] * np.log(10) * scale), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match=r"maps: column 'x': \d+ of 660 rows are <= 0"):
        load(folder, maps="x=log10")


def test_cleaning_is_reported_galaxy_by_galaxy(folder):
    config = Catalogue(path=str(folder), x=NAMES, **CLEAN, minimum=100)
    data, table = config.load(), config.report()
    assert table["galaxy"].tolist() == ["7", "9", "10", "33", "101"]
    assert table["left"].tolist() == [0, 0, 0, 117, 179]
    assert data.group_names == ("33", "101")
    assert data.notes[2] == (
        "cleaning, minimum of 100 particles: left out 3 of 5 galaxies: '7' with 94, '9' with 96, '10' with 97"
    )
    done = data.references["cleaning"]
    pd.testing.assert_frame_equal(done.report(), table)
    original = np.concatenate([particles(g)[done.rows_of(g)] for g in done.galaxies])
    np.testing.assert_allclose(done.restore(data.x).numpy(), original, atol=1e-5)


def with_rates(folder):
    """The same galaxies with a column that is 0 in two of three rows."""
    for galaxy in IDS:
        rate = np.where(np.arange(100 + int(galaxy)) % 3 > 0, 0, particles(galaxy)[:, 6])
        np.savez(folder / f"{galaxy}.npz", **columns(galaxy), SFR=rate)
    return folder


def test_atom_is_refused_by_name_value_and_share_and_all_three_ways_out_work(folder):
    x = (*NAMES, "SFR")
    share = r"column 'SFR': 43\d of 660 rows \(6\d%\) are exactly 0, an atom, which has no density"
    with pytest.raises(ValueError, match=f"{share}. Leave the column out of x, .*`noise` .*`floor`, `noise_dex`"):
        Splits.make(load(with_rates(folder), x=x))
    assert Splits.make(load(folder)).train.x.shape[1] == 8
    noisy = load(folder, x=x, noise="SFR=0.01")
    assert "added 0.01 * U(0, 1) to 'SFR', seed 0" in noisy.notes
    floored = load(folder, x=x, floor="SFR=1e-4", noise_dex="SFR=0.1", maps="SFR=log10")
    assert "multiplied 'SFR' by 10^(0.1 N(0, 1)), seed 0" in floored.notes
    for data in (noisy, floored):
        splits = Splits.make(data)
        assert bool(torch.isfinite(splits.maps()[0].to_latent(splits.train.x)[0]).all())


def test_declarations_reach_the_data(folder):
    data = load(folder, position="x,y,z", metallicity="Z", units="x=kpc,Z=", balanced="true")
    assert data.balanced
    assert data.units == ("kpc", *[""] * 7)
    assert data.roles == {"position": ["x", "y", "z"], "metallicity": ["Z"]}
    assert data.context_shape == (0,)
    assert data.notes == ()


# -- what is wrong, named


def spoil(folder, galaxy, **changes):
    table = {**columns(galaxy), **changes}
    np.savez(folder / f"{galaxy}.npz", **{name: column for name, column in table.items() if column is not None})


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"Z": None}, {}, r"galaxy '33': .*33.npz has no column 'Z'.* its columns are x, y"),
        ({name: np.zeros(0) for name in NAMES}, {}, r"galaxy '33' \(.*33.npz\): the file has no rows"),
        ({"Z": np.full(133, "a")}, {}, r"galaxy '33' \(.*33.npz\): column 'Z' holds text, for example 'a'"),
        ({"Z": np.full(133, np.nan)}, {}, r"galaxy '33' \(.*33.npz\): column 'Z': 133 of 133 rows are not finite"),
        ({"Z": np.zeros(7)}, {}, r"galaxy '33': .*33.npz: 'Z' has shape \(7,\)"),
        ({"Z": np.ones((133, 2))}, {}, r"galaxy '33' \(.*33.npz\): x has 9 columns here, and 8 in the first galaxy"),
        ({"Z": np.ones(133)}, {"ranges": "Z=2.."}, r"galaxy '33' \(.*33.npz\): cleaning left none of its 133 part"),
        ({}, {"summaries": "sum(masss)"}, r"galaxy '7': .*7.npz has no column 'masss': did you mean 'mass'"),
        ({}, {"age": "tau"}, r"galaxy '7': .*7.npz has no column 'tau'"),
    ],
)
def test_what_is_wrong_with_a_galaxy_names_it_and_its_file(folder, changes, options, message):
    spoil(folder, "33", **changes)
    # Z of the other galaxies is always above 0.02
    for galaxy in set(IDS) - {"33"}:
        spoil(folder, galaxy, Z=columns(galaxy)["Z"] + 2)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[t.id != 33], r"parameters.csv: no row for galaxy '33' \(.*33.npz\): 'id' has none such"),
        (lambda t: pd.concat([t, t[1:2]]), r"parameters.csv: galaxy '33' has 2 rows in column 'id'; one is needed"),
        (lambda t: t.assign(age=t.age.where(t.id != 33)), r"parameters.csv: 'age' of galaxy '33' \(.*33.npz\) is nan"),
        (lambda t: t.assign(id=t.id.where(t.id != 50)), r"parameters.csv: column 'id': 1 of 6 rows have no value"),
        (lambda t: t.assign(age=t.name), "parameters.csv: column 'age' holds text, for example 'N101'"),
        (lambda t: t[:0], "parameters.csv: the file has no rows"),
        (lambda t: t.drop(columns="age"), "parameters.csv has no column 'age'"),
    ],
)
def test_what_is_wrong_with_the_parameters_names_table_and_galaxy(folder, tmp_path, change, message):
    change(parameters()).to_csv(tmp_path / "parameters.csv", index=False)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder, parameters=str(tmp_path / "parameters.csv"), context="M_star, age")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.assign(u=t.s), {}, "all.parquet: column 'u' holds text, for example 'a'"),
        (
            lambda t: t.assign(g=t.g.astype("string").mask(t.u % 10 < 4)),
            {},
            "t: column 'g': 24 of 60 rows have no v",
        ),
        (
            lambda t: t.assign(g=t.g.astype("Int64").mask(t.u < 5)),
            {},
            "t: column 'g': 5 of 60 rows have no v",
        ),
        (lambda t: t[:0].astype(object), {}, "all.parquet: the file has no rows"),
    ],
)
def test_what_is_wrong_with_one_file_names_it(tmp_path, change, options, message):
    table = pd.DataFrame({"u": np.arange(60.0), "s": "a", "g": np.repeat([1, 2, 3], 20)})
    change(table).to_parquet(tmp_path / "all.parquet")
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "all.parquet", x="u", group="g", **options)
    assert "\n" not in str(caught.value)


def test_names_of_columns_that_cannot_be_read_are_named(tmp_path):
    np.savez(tmp_path / "all.npz", cells=np.ones((4, 2)), names=np.array(["u", "v"], dtype=object), g=np.arange(4))
    with pytest.raises(ValueError, match=r"all.npz: 'names' cannot be read"):
        load(tmp_path / "all.npz", x="u", group="g", columns="names")


def test_galaxy_without_particles_is_left_out_where_a_minimum_says_so(folder):
    data = load(folder)
    (folder / "8.csv").write_text(",".join(NAMES) + "\n")
    np.savez(folder / "11.npz", **{name: np.zeros(0) for name in NAMES})
    fewer = load(folder, minimum=1)
    assert torch.equal(fewer.x, data.x)
    assert fewer.notes[-1].endswith("left out 2 of 7 galaxies: '8' with 0, '11' with 0")


def test_file_of_a_header_alone_has_no_rows(tmp_path):
    (tmp_path / "1.csv").write_text("u,v\n")
    with pytest.raises(ValueError, match=r"galaxy '1' \(.*1.csv\): the file has no rows; minimum=1 leaves"):
        load(tmp_path, x="u")


def test_amounts_may_be_text_in_python_and_floors_negative(folder):
    options = {"noise": "Z=0.5", "floor": "vx=-1, mass: 0.5", "noise_dex": "mass=0.1", "units": "x=kpc"}
    config = Catalogue(path=str(folder), x=NAMES, **options)
    assert (config.noise, config.floor, config.units) == ({"Z": 0.5}, {"vx": -1.0, "mass": 0.5}, {"x": "kpc"})
    data, other = config.load(), load(folder, **options)
    assert torch.equal(data.x, other.x)
    assert data.notes == other.notes
    assert float(data.x[:, 3].min()) == -1
    with pytest.raises(ConfigError, match="expected a number for 'Z'; got 'much'"):
        Catalogue(path=str(folder), x=NAMES, noise="Z=much")


def test_maps_of_the_context_leave_its_scale_as_it_is_without(tmp_path):
    # 14 galaxies are 10 for training and 4 more: enough to whiten one column, whichever way they are counted; with
    # 13, 10 are not counted, and 13 would be.
    for count, kind in ((14, "whiten"), (13, "standardize")):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"u": rng.exponential(size=50 * count), "g": np.repeat(np.arange(count), 50)})
        frame.to_csv(tmp_path / "all.csv", index=False)
        kinds = []
        for options in ({"summaries": "mean(u)"}, {"summaries": "log10 mean(u)"}):
            _, context_map = Splits.make(load(tmp_path / "all.csv", x="u", group="g", **options)).maps()
            kinds.append(context_map.describe())
        assert kinds[0]["kind"] == kind
        assert kinds[1]["maps"][-1] == kinds[0]


@pytest.mark.parametrize("name", ["33.h5", "033.npz"])
def test_two_files_of_one_galaxy_are_refused(folder, name):
    (folder / name).write_bytes((folder / "33.npz").read_bytes())
    with pytest.raises(ValueError, match=r"has two files in .*galaxies: (33|033).(npz|h5) and 33.(npz|h5)"):
        load(folder)


def test_one_id_written_in_two_ways_is_refused(tmp_path):
    pd.DataFrame({"u": np.arange(4.0), "g": ["7", "07", "a", "a"]}).to_parquet(tmp_path / "all.parquet")
    with pytest.raises(ValueError, match="'7' and '07' in 'g' are the same galaxy"):
        load(tmp_path / "all.parquet", x="u", group="g")


def test_no_galaxy_left_is_an_error_with_the_most_that_any_had(folder):
    with pytest.raises(ValueError, match=r"none of its 5 galaxies has 500 particles left .*\(at most 201\)"):
        load(folder, minimum=500)
    table = Catalogue(path=str(folder), x=NAMES, minimum=500).report()
    assert table["minimum"].tolist() == [107, 109, 110, 133, 201]
    assert table["left"].tolist() == [0] * 5


def test_a_column_that_float32_cannot_hold_is_refused_though_each_galaxy_could(folder):
    for galaxy in IDS:
        spoil(folder, galaxy, Z=2.46e6 + np.random.default_rng(0).uniform(0, 1e-2, 100 + int(galaxy)))
    with pytest.raises(ValueError, match=r"column 'Z': near 2.46e\+06 float32 goes in steps of 0.25"):
        load(folder)
    for galaxy in IDS:  # constant in each, but the galaxies differ by more than a step
        spoil(folder, galaxy, Z=2.46e6 + np.full(100 + int(galaxy), 100.0 * int(galaxy)))
    assert load(folder).x[:, 7].unique().tolist() == [2.46e6 + 100 * int(g) for g in ("7", "9", "10", "33", "101")]
    spoil(folder, "9", Z=np.full(109, 1e39))
    with pytest.raises(ValueError, match=r"column 'Z': 1e\+39 is beyond float32"):
        load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": ""}, "x names no column"),
        ({"context": "age"}, "context is given and parameters is not"),
        ({"parameters": "t.csv"}, "parameters is given and context is not"),
        ({"id": "id"}, "id is of the table `parameters`, which is not given"),
        ({"group": "galaxy"}, "group is of one file; in the folder .* every file is a galaxy"),
        ({"units": "mas=kg"}, "units names 'mas', which is neither in x nor in the context"),
        ({"summaries": "mode(Z)"}, r"no statistic 'mode'; they are count\(\), sum, mean, .*p0 to p100"),
        ({"summaries": "p101(Z)"}, "no statistic 'p101'"),
        ({"summaries": "Z"}, r"a summary is \[log10\] statistic\(column\)"),
        ({"summaries": "sum()"}, r"sum\(\) needs a column"),
        ({"summaries": "count(Z)"}, r"count\(\) counts particles and takes no column"),
        ({"summaries": "sum(Z), log10 sum(Z)"}, r"summary 'sum\(Z\)' is given twice"),
        ({"summaries": "log10 sum(x)", "context_maps": "sum(x)=log"}, "has log10 as a summary and a map"),
        ({"summaries": "log10 min(x)"}, r"context_maps: column 'min\(x\)': 5 of 5 rows are <= 0"),
        ({"context_maps": "Z=log"}, "context_maps is given and there is no context"),
        ({"x": "x,Z", "group": "Z"}, "group 'Z' is in x"),
        ({"columns": "a,b,c"}, r"3 names of columns \(a, b, c, ...\) need one 2-D array"),
        ({"maps": "Z=log11"}, "unknown map 'log11'"),
        ({"minimum": -2}, "minimum must be 0 or more"),
        ({"floors": "Z=1"}, "catalogue has no option 'floors': did you mean 'floor'"),
        ({"ranges": "Z=3"}, r"ranges: a range must be low..high"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(folder, options, message):
    with pytest.raises(ConfigError if "<= 0" not in message else ValueError, match=message) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)


def test_one_name_in_x_and_in_the_context_is_refused(folder, tmp_path):
    parameters().rename(columns={"age": "Z"}).to_csv(tmp_path / "parameters.csv", index=False)
    with pytest.raises(ConfigError, match="'Z' is in x and in the context; columns need names of their own"):
        load(folder, parameters=str(tmp_path / "parameters.csv"), context="Z")


def test_missing_places_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: nowhere\.npz"):
        load("nowhere.npz")
    with pytest.raises(FileNotFoundError, match=r"no galaxy in .*: it has no file that ends in .npz"):
        load(tmp_path)
    path = single_file(tmp_path)
    with pytest.raises(ConfigError, match=r"all\.npz is one file: give `group`"):
        load(path, columns="cell_names")
    with pytest.raises(ConfigError, match=r"all\.npz has no column 'galaxi': did you mean 'galaxy'"):
        load(path, columns="cell_names", group="galaxi")


# -- real data


@pytest.fixture
def real():
    if "FLOWZOO_DATA" not in os.environ:
        pytest.skip("FLOWZOO_DATA is not set: no real catalogue")
    return Path(os.environ["FLOWZOO_DATA"])


def test_gas_loads_by_its_config_alone(real):
    config = Path(__file__).parents[2] / "configs" / "gas.yaml"
    sections = {"train": FitConfig, "bench": BenchConfig}
    name, options = settings.read(config, models="gaussian", sections=sections).datasets[0]
    data = configure(name, options).load()
    with np.load(real / "gas_catalogue" / "gas.npz") as file:
        cells, props, galaxy = file["cells"], file["halo_props"], file["galaxy_index"]
    assert data.names == ("x", "y", "z", "vx", "vy", "vz", "mass", "neutral_H_frac", "Z")
    assert np.array_equal(data.x.numpy(), np.delete(cells, 8, axis=1))
    assert data.groups.tolist() == galaxy.tolist()
    expected = np.stack(
        [
            *(props[:, [9, 7, 10]].T),
            *(np.bincount(galaxy, cells[:, 6])[None]),
            *([np.bincount(galaxy, cells[:, i]) / np.bincount(galaxy) for i in (9, 7)]),
        ],
        1,
    )
    np.testing.assert_allclose(data.context.numpy(), expected, rtol=1e-5)
    splits = Splits.make(data, fold=(0, 5))
    x_map, context_map = splits.maps()
    u = x_map.to_latent(splits.train.x)[0]
    assert float(u.mean(0).abs().max()) < 1e-4
    torch.testing.assert_close(u.std(0), torch.ones(9), rtol=1e-3, atol=0)
    back = x_map.to_data(u)[0]
    assert float(((back - splits.train.x).abs() / splits.train.x.std(0)).max()) < 1e-4
    assert bool(torch.isfinite(context_map.to_latent(data.context)[0]).all())
    assert [note.split(":")[0] for note in data.notes] == ["gas.npz"]
