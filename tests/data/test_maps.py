"""maps: which map belongs to which simulation, what is done to the pixels, and files that do not fit."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flowzoo.config import ConfigError
from flowzoo.data import Splits, configure
from flowzoo.data.maps import Maps

SIMULATIONS, PER, SIZE = 5, 3, 8


def raw():
    """Positive maps with exact zeros, as gas has; map i of simulation s is of order 1e4."""
    rng = np.random.default_rng(0)
    maps = rng.lognormal(9, 1, (SIMULATIONS * PER, SIZE, SIZE)).astype(np.float32)
    maps[:, :3] = 0
    return maps


def rows(count=SIMULATIONS):
    return "".join(f"{0.1 * i:.2f} {0.8 + 0.01 * i:.2f} {10 + i}\n" for i in range(count))


HEADER = "# Omega_m sigma_8 log10_M[Msun]\n"
TEXT = HEADER + rows()


def write(folder, maps=None, text=TEXT, name="Maps_HI_Toy_LH_z=0.00.npy"):
    np.save(folder / name, raw() if maps is None else maps)
    (folder / "params_LH_Toy.txt").write_text(text)
    return str(folder)


def load(**options):
    return configure("maps", options).load()


def test_map_belongs_to_the_row_of_its_simulation(tmp_path):
    data = load(root=write(tmp_path))
    assert data.x.shape == (15, 1, SIZE, SIZE)
    assert data.x.dtype == torch.float32
    assert data.context.shape == (SIMULATIONS, 3)
    assert data.context_index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert data.groups.tolist() == data.context_index.tolist()
    assert data.context[:, 2].tolist() == [10, 11, 12, 13, 14]


def test_simulation_never_spans_two_splits(tmp_path):
    splits = Splits.make(load(root=write(tmp_path)))
    parts = [set(s.groups.tolist()) for s in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == SIMULATIONS


def test_names_and_units_come_from_the_files(tmp_path):
    data = load(root=write(tmp_path))
    assert data.names == ("log10 HI",)
    assert data.units == ("dex",)
    assert data.context_names == ("Omega_m", "sigma_8", "log10_M")
    assert data.context_units == ("", "", "Msun")


def test_event_is_the_logarithm_of_the_map_with_floor_and_noise(tmp_path):
    root = write(tmp_path)
    clean = load(root=root, noise_dex=0, floor="1e3")
    assert np.allclose(clean.x[:, 0].numpy(), np.log10(raw().astype(float) + 1e3), atol=1e-6)
    noisy = load(root=root)
    added = noisy.x - clean.x
    assert float(added.std()) == pytest.approx(0.05, rel=0.08)
    assert abs(float(added.mean())) < 5 * 0.05 / added.numel() ** 0.5
    layout = "params_LH_Toy.txt: map i belongs to row i // 3, 5 simulations"
    assert noisy.notes == ("log10(map + 1000), plus N(0, 0.05 dex), seed 0", layout)


def test_empty_pixels_are_an_atom_without_noise_and_none_with_it(tmp_path):
    root = write(tmp_path)
    with pytest.raises(ValueError, match=r"'log10 HI': 360 of 960 pixels \(38%\) are exactly 3.*`noise_dex`"):
        Splits.make(load(root=root, noise_dex=0))
    Splits.make(load(root=root))


def test_noise_repeats_by_seed_and_does_not_depend_on_which_maps_are_read(tmp_path):
    root = write(tmp_path)
    every, again, other = load(root=root), load(root=root), load(root=root, seed=1)
    assert torch.equal(every.x, again.x)
    assert not torch.equal(every.x, other.x)
    first = load(root=root, num_maps="1")
    assert torch.equal(first.x, every.x[::PER])
    assert first.groups.tolist() == [0, 1, 2, 3, 4]


def test_downsampling_takes_the_mean_before_the_logarithm(tmp_path):
    data = load(root=write(tmp_path), downsample="2", noise_dex=0)
    pooled = raw().astype(float).reshape(15, 4, 2, 4, 2).mean((2, 4))
    assert np.allclose(data.x[:, 0].numpy(), np.log10(pooled + 1e3), atol=1e-6)
    assert data.notes[0] == "mean over 2 x 2 pixels"


@pytest.mark.parametrize("factor", [0, 3])
def test_downsampling_by_a_factor_that_does_not_divide_is_refused(tmp_path, factor):
    with pytest.raises(ConfigError, match=f"must divide 8 x 8 pixels; got {factor}"):
        load(root=write(tmp_path), downsample=factor)


@pytest.mark.parametrize("parameters", ["log10_M,Omega_m", ["log10_M[Msun]", "Omega_m"], "2,0", [2, 0]])
def test_parameters_are_chosen_by_name_or_position(tmp_path, parameters):
    data = load(root=write(tmp_path), parameters=parameters)
    assert data.context_names == ("log10_M", "Omega_m")
    assert data.context[1].tolist() == pytest.approx([11, 0.1])


def test_one_parameter_can_be_given_as_its_name_in_python(tmp_path):
    assert Maps(root=write(tmp_path), parameters="sigma_8", augment="flip").load().context_names == ("sigma_8",)


@pytest.mark.parametrize(
    ("parameters", "text"), [("A_SN1", "it has Omega_m, sigma_8"), ("3", "it has"), ("0,0", "twice")]
)
def test_parameters_that_do_not_exist_are_refused(tmp_path, parameters, text):
    with pytest.raises(ConfigError, match=text):
        load(root=write(tmp_path), parameters=parameters)


def test_names_and_seeds_of_camels_are_no_parameters(tmp_path):
    text = "#Name  Omega_m  sigma_8 A_SN1 seed\n" + "".join(f"  LH_{i} 0.{i}1 0.8{i} 1.0 {i}\n" for i in range(5))
    data = load(root=write(tmp_path, text=text))
    assert data.context_names == ("Omega_m", "sigma_8", "A_SN1")
    assert data.context[:, 0].tolist() == pytest.approx([0.01, 0.11, 0.21, 0.31, 0.41])


def test_parameters_without_a_header_are_named_by_position(tmp_path):
    data = load(root=write(tmp_path, text="# written on 2026-01-01 by hand\n" + rows()))
    assert data.context_names == ("p0", "p1", "p2")
    for one in ("1", "p1"):
        assert load(root=str(tmp_path), parameters=one).context[0].tolist() == pytest.approx([0.8])
    for keys in ("012", ("p0", "p1", "p2")):  # a prior by name, or as older runs have it by position
        texts = ("uniform(0, 1)", "norm(0.8, 1)", "uniform(9, 20)")
        data = load(root=str(tmp_path), prior=dict(zip(keys, texts, strict=True)))
        assert data.prior.low.tolist()[::2] == [0, 9]


def test_names_without_a_header_are_dropped_too(tmp_path):
    data = load(root=write(tmp_path, text="".join(f"LH_{i} 0.{i}1 0.8{i}\n" for i in range(5))))
    assert data.context_names == ("p0", "p1")


@pytest.mark.parametrize("header", ["", "# A,n\n", "A,n\n", "A n\n", "#A, n\n"])
@pytest.mark.parametrize("between", [",", ", ", " , ", " "])
def test_parameters_may_have_commas_and_a_header_without_a_sign(tmp_path, header, between):
    text = header + "".join(f"0.{i}{between}{10 + i}\n" for i in range(5))
    data = load(root=write(tmp_path, text=text))
    assert data.context_names == (("A", "n") if header else ("p0", "p1"))
    assert data.context[:, 1].tolist() == [10, 11, 12, 13, 14]
    assert not any("header" in note for note in data.notes)


@pytest.mark.parametrize("header", ["# A n tau\n", "A,n,tau\n", "# made by hand, of 5 runs\n# A, n, tau\n"])
def test_header_of_another_width_is_ignored_aloud(tmp_path, header):
    data = load(
        root=write(tmp_path, text=header + "".join(f"0.{i},{10 + i}\n" for i in range(5)) + "# this is the end\n")
    )
    assert data.context_names == ("p0", "p1")
    assert "params_LH_Toy.txt: the header names 3 columns, the rows have 2: ignored" in data.notes


def test_rows_of_equal_parameters_are_one_simulation_where_there_is_a_prior(tmp_path):
    text = HEADER + "".join(f"0.{i // 3}5 0.8 {10 + i // 3}\n" for i in range(15))
    root, prior = write(tmp_path, text=text), "Omega_m: uniform(0, 1), sigma_8: norm(0.8, 1), log10_M: uniform(9, 20)"
    data = load(root=root, prior=prior)
    assert data.groups.tolist() == [i // 3 for i in range(15)]
    assert any("3 rows for each of 5 different parameter rows" in note for note in data.notes)
    assert data.groups.tolist() == load(root=root, prior=prior, direction="posterior").groups.tolist()


def by_map(text):
    """A row for each map: three equal ones for each simulation."""
    return HEADER + "".join(text.format(i=i, s=i // 3, p=0.1 + i // 3 / 10) + "\n" for i in range(15))


@pytest.mark.parametrize("row", ["{p} 0.8 {p}", "{p}, 0.8, {p}"])
def test_row_for_each_map_makes_one_simulation_of_equal_rows(tmp_path, row):
    root = write(tmp_path, text=by_map(row))
    for options in ({}, {"parameters": "0"}, {"parameters": "none"}):
        data = load(root=root, **options)
        labels = data.groups.tolist()
        assert [labels.index(label) // 3 for label in labels] == [i // 3 for i in range(15)]
    splits = Splits.make(load(root=root))
    parts = [
        set(part.contexts[part.context_index, 0].tolist()) for part in (splits.train, splits.validation, splits.test)
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 5
    assert "params_LH_Toy.txt: a row for each map, 5 of them different: each of these is a simulation" in data.notes


@pytest.mark.parametrize(
    ("header", "row", "groups"),
    [
        ("# a seed\n", "{p} {i}", 15),  # other initial conditions
        ("# a seed\n", "{p} {s}", 5),
        ("#Name a\n", "LH_{s} 0.3", 5),
        ("#Name a\n", "map_{i} {p}", 5),
        (",a\n", "{i},{p}", 5),  # as pandas writes it
        ("a\n", "0.3", 15),  # nothing tells them apart
    ],
)
def test_what_is_no_parameter_tells_simulations_apart_too(tmp_path, header, row, groups):
    text = header + by_map(row).removeprefix(HEADER)
    assert len(load(root=write(tmp_path, text=text), parameters="a").groups.unique()) == groups


@pytest.mark.parametrize("header", ["sim,A,n\n", ",A,n\n", "# sim A n\n", ""])
@pytest.mark.parametrize("first", [0, 1])
def test_number_of_the_row_is_no_parameter(tmp_path, header, first):
    text = header + "".join(f"{i + first},0.{i},{10 + i}\n" for i in range(5))
    data = load(root=write(tmp_path, text=text))
    assert data.context_names == (("A", "n") if header else ("p1", "p2"))
    assert data.context[:, 1].tolist() == [10, 11, 12, 13, 14]
    name = "p0" if not header else "sim" if "sim" in header else "row"
    assert f"params_LH_Toy.txt: the first column, {name}, numbers the rows: no parameter" in data.notes
    assert load(root=str(tmp_path), parameters="0,1").context[:, 0].tolist() == [first + i for i in range(5)]


@pytest.mark.parametrize(
    ("header", "name"), [("#Name A n\n", "LH_{}"), ("", "run{}"), ("sim A n\n", "{}"), (",A,n\n", "{}"), ("A n\n", "")]
)
def test_rows_in_another_order_than_their_names_are_refused(tmp_path, header, name):
    between = "," if header.startswith(",") else " "
    rows = [between.join((name.format(i), f"0.{i}", str(10 + i))).strip() for i in (0, 1, 3, 2, 4)]
    text = header + "\n".join(rows)
    if not name:  # without names rows are in the order of the maps
        assert load(root=write(tmp_path, text=text)).context[2].tolist() == pytest.approx([0.3, 13])
        return
    what = f"{name.format(2)} stands below {name.format(3)}, and map i belongs to row i // k"
    with pytest.raises(ValueError, match=what):
        load(root=write(tmp_path, text=text), parameters="A,n" if header else "p0")


def test_names_of_parameters_may_have_blanks_and_units_that_stand_apart(tmp_path):
    text = "Omega m, sigma 8, M [Msun]\n" + rows().replace(" ", ", ")
    data = load(root=write(tmp_path, text=text))
    assert (data.context_names, data.context_units) == (("Omega m", "sigma 8", "M"), ("", "", "Msun"))
    data = load(root=write(tmp_path, text='"Omega_m","sigma_8","M"\n' + rows().replace(" ", ",")))
    assert data.context_names == ("Omega_m", "sigma_8", "M")
    data = load(root=write(tmp_path, text="# Omega_m sigma_8 M [Msun]\n" + rows()))
    assert (data.context_names, data.context_units) == (("Omega_m", "sigma_8", "M"), ("", "", "Msun"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no rows"),
        ("1,,3\n" * 5, "'' in row 1 of the parameters is not a number"),
        ("# a b\n", "no rows"),
        ("1 2\n3\n" + rows(3), "1 or 2 or 3 columns"),
        ("1 2 x\n" + rows(4), "'x' in row 1 of the parameters is not a number"),
        ("LH_0\nLH_1\nLH_2\nLH_3\nLH_4\n", "no column of numbers"),
        ("a;b\n" + "0.1;0.2\n" * 5, "row 1 has ';'; blanks or commas must stand between its columns"),
        ("a b\n" + "0,1 0,25\n" * 5, "0,1 is two columns, or a decimal comma; write 0.1"),
        ("a b a\n" + rows(), "the header names 'a' 2 times"),
        (HEADER + rows(4), "has 15 maps and params_LH_Toy.txt 4 rows"),
        (HEADER + rows(16), "must be a multiple"),
        (HEADER + rows(4) + "0.1 nan 3\n", "'sigma_8' in row 5 of the parameters is nan; every simulation needs a n"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        load(root=write(tmp_path, text=text))


def test_table_in_another_encoding_is_refused_by_name(tmp_path):
    root = write(tmp_path)
    (tmp_path / "params_LH_Toy.txt").write_bytes("# \u03a9_m \u00e5 b\n".encode("utf-8") + rows().encode())
    assert load(root=root).context_names == ("\u03a9_m", "\u00e5", "b")
    (tmp_path / "params_LH_Toy.txt").write_bytes(b"# M\xfcller a b\n" + rows().encode())
    with pytest.raises(ValueError, match=r"params_LH_Toy\.txt: not text in UTF-8 \(byte 3 is 0xfc\)"):
        load(root=root)


@pytest.mark.parametrize("count", [0, 4])
def test_more_maps_than_a_simulation_has_are_refused(tmp_path, count):
    with pytest.raises(ConfigError, match=f"num_maps must be from 1 to 3.*got {count}"):
        load(root=write(tmp_path), num_maps=count)


def test_pixels_without_a_logarithm_are_counted_over_all_maps(tmp_path):
    maps = raw()
    maps[2, 0, :2] = -5000
    maps[9, 5, 5] = -1000
    with pytest.raises(ValueError, match="3 of 960 pixels are <= 0 after adding the floor of 1000"):
        load(root=write(tmp_path, maps))
    assert len(load(root=str(tmp_path), floor=6000)) == 15


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_counted_over_all_maps(tmp_path, value):
    maps = raw()
    maps[4, 1, 1] = value
    nan = int(value != value)
    says = rf"npy: 1 of 960 pixels are not finite \({nan} NaN\), in 1 of the maps, the first of them map 4"
    with pytest.raises(ValueError, match=says):
        load(root=write(tmp_path, maps))
    maps[:, 0] = -1e9  # counted first, whatever else there is
    with pytest.raises(ValueError, match=r"npy: 1 of 960 pixels are not finite"):
        load(root=write(tmp_path, maps))
    with pytest.raises(ValueError, match=r"npy: 960 of 960 pixels are not finite"):
        load(root=write(tmp_path, np.full_like(maps, value)))


def test_maps_of_elsewhere_become_events_as_those_of_the_files_did(tmp_path):
    options = {"downsample": 2, "noise_dex": 0.0, "floor": 500}
    data, maps = load(root=write(tmp_path), **options), configure("maps", options)
    assert torch.equal(maps.events(raw()), data.x)
    assert torch.equal(maps.events(raw()[3]), data.x[3:4])
    noisy = configure("maps", {**options, "noise_dex": 0.2})
    added = noisy.events(raw()) - data.x
    assert float(added.std()) == pytest.approx(0.2, rel=0.15)
    assert torch.equal(noisy.events(raw()), noisy.events(raw(), seed=0))
    assert not torch.equal(noisy.events(raw()), noisy.events(raw(), seed=1))
    noise = load(root=str(tmp_path), **{**options, "noise_dex": 0.2}).x - data.x
    assert abs(float((noise * added).mean())) < 0.2**2 / 4  # that of the files is another
    smooth = np.full((SIZE, SIZE), 7e4)
    assert noisy.events(smooth).shape == (1, 1, SIZE // 2, SIZE // 2)  # one map may be smooth


def test_channels_of_maps_of_elsewhere_are_the_fields(tmp_path):
    options = {"field": "HI,Mgas", "noise_dex": 0.0, "floor": "1e3,0"}
    data = load(root=write_two(tmp_path), **options)
    maps = configure("maps", options)
    assert torch.equal(maps.events(np.stack([raw(), second()], 1)), data.x)
    with pytest.raises(ValueError, match="maps must have the channels HI, Mgas; got 1"):
        maps.events(raw())
    with pytest.raises(ValueError, match=r"maps must be numbers \(n, H, W\) or \(n, C, H, W\); got float64 \(8,\)"):
        maps.events(np.ones(8))
    with pytest.raises(ValueError, match="map: 64 of 64 pixels are <= 0 after adding the floor of 1000"):
        configure("maps", {}).events(np.full((SIZE, SIZE), -1e3))


def test_constant_parameter_is_refused_by_name(tmp_path):
    text = HEADER + "".join(f"{i} 0.8 {10 + i}\n" for i in range(5))
    splits = Splits.make(load(root=write(tmp_path, text=text)))
    with pytest.raises(ValueError, match="column 'sigma_8': constant"):
        splits.maps()


def test_square_maps_are_flipped_and_turned_by_default_and_oblong_ones_flipped(tmp_path):
    assert load(root=write(tmp_path)).augment == ("flip", "quarter_turn")
    root = write(tmp_path, raw()[:, :, :6])
    assert load(root=root).augment == ("flip",)
    assert load(root=root).event_shape == (1, 8, 6)
    with pytest.raises(ConfigError, match="square maps; these have 8 x 6"):
        load(root=root, augment="flip,quarter_turn")


def test_symmetries_and_periodic_axes_can_be_chosen(tmp_path):
    data = load(root=write(tmp_path), augment="shift,flip", periodic="1,2")
    assert data.augment == ("shift", "flip")
    assert data.periodic == (1, 2)
    assert load(root=str(tmp_path), augment="").augment == ()
    assert load(root=str(tmp_path), augment="none").augment == ()
    with pytest.raises(ConfigError, match="unknown symmetry 'spin'; known are flip"):
        load(root=str(tmp_path), augment="spin")


def test_maps_that_are_periodic_along_both_axes_are_shifted_too(tmp_path):
    root = write(tmp_path)
    assert load(root=root, periodic="2,1").augment == ("flip", "quarter_turn", "shift")
    assert load(root=root, periodic="2,1").periodic == (1, 2)
    # A quarter turn would exchange the periodic axis and the other one.
    assert load(root=root, periodic=2).augment == ("flip",)
    with pytest.raises(ConfigError, match=r"periodic must be 1 \(height\), 2 \(width\) or both; got 0"):
        load(root=root, periodic="0,1")


@pytest.mark.parametrize("side", ["25 Mpc/h", "25.0,Mpc/h", [25, "Mpc/h"], (25.0, "Mpc/h")])
def test_side_is_a_length_and_its_unit(tmp_path, side):
    assert load(root=write(tmp_path), side=side).side == (25.0, "Mpc/h")
    assert Maps(root=str(tmp_path), side=side).side == (25.0, "Mpc/h")


def test_side_is_not_guessed(tmp_path):
    assert load(root=write(tmp_path)).side is None
    assert load(root=str(tmp_path), side=25).side == (25.0, "")


@pytest.mark.parametrize("side", ["-1 kpc", "kpc", "nan kpc", "0", (1, "kpc", "high")])
def test_side_that_is_no_length_is_refused(tmp_path, side):
    with pytest.raises(ConfigError, match="side must be a positive length and its unit, such as '25 Mpc/h'; got"):
        load(root=write(tmp_path), side=side)


def test_one_scale_for_all_pixels_of_a_channel(tmp_path):
    splits = Splits.make(load(root=write(tmp_path)))
    x_map, context_map = splits.maps()
    u, _ = x_map.to_latent(splits.train.x)
    assert x_map.mean.shape == (1, 1, 1)
    assert float(u.mean()) == pytest.approx(0, abs=1e-4)
    used = torch.unique(splits.train.context_index)
    assert torch.allclose(context_map.mean, splits.train.contexts[used].mean(0), atol=1e-4)


# -- several fields as channels


def second():
    """Another field of the same simulations, of another order of magnitude."""
    return (raw()[:, ::-1] * 1e-3 + 1e-2).astype(np.float32)


def write_two(folder):
    np.save(folder / "Maps_Mgas_Toy_LH_z=0.00.npy", second())
    return write(folder)


def test_fields_are_the_channels_in_the_order_asked_for(tmp_path):
    data = load(root=write_two(tmp_path), field="Mgas,HI", floor="0,1e3", noise_dex=0)
    assert data.x.shape == (15, 2, SIZE, SIZE)
    assert data.names == ("log10 Mgas", "log10 HI")
    assert data.units == ("dex", "dex")
    assert np.allclose(data.x[:, 0].numpy(), np.log10(second().astype(float)), atol=1e-6)
    assert np.allclose(data.x[:, 1].numpy(), np.log10(raw().astype(float) + 1e3), atol=1e-6)
    assert data.notes[:-1] == (
        "log10(Mgas + 0), plus N(0, 0 dex), seed 0",
        "log10(HI + 1000), plus N(0, 0 dex), seed 0",
    )


def test_noise_of_each_channel_is_its_own_and_that_of_the_first_is_that_of_a_single_field(tmp_path):
    root = write_two(tmp_path)
    both, clean = (load(root=root, field="HI,Mgas", floor="1e3,0", noise_dex=n) for n in ("0.05,0.1", "0"))
    assert torch.equal(both.x[:, :1], load(root=root, field="HI").x)
    noise = both.x - clean.x
    assert float(noise[:, 0].std()) == pytest.approx(0.05, rel=0.1)
    assert float(noise[:, 1].std()) == pytest.approx(0.1, rel=0.1)
    correlation = torch.corrcoef(noise.transpose(0, 1).flatten(1))[0, 1]
    assert abs(float(correlation)) < 5 / noise[:, 0].numel() ** 0.5


def test_one_floor_serves_all_fields_and_another_number_of_them_is_refused(tmp_path):
    root = write_two(tmp_path)
    data = load(root=root, field="HI,Mgas", floor=1, noise_dex=0)
    assert np.allclose(data.x[:, 1].numpy(), np.log10(second().astype(float) + 1), atol=1e-6)
    with pytest.raises(ConfigError, match=r"floor must be one number or one for each of HI, Mgas; got 1, 2, 3"):
        load(root=root, field="HI,Mgas", floor="1,2,3")
    with pytest.raises(ConfigError, match=r"noise_dex must be one number or one for each of HI; got 1, 2"):
        load(root=root, field="HI", noise_dex=[1, 2])


def test_each_channel_has_one_scale(tmp_path):
    splits = Splits.make(load(root=write_two(tmp_path), field="HI,Mgas", floor="1e3,0"))
    x_map, _ = splits.maps()
    assert x_map.mean.shape == (2, 1, 1)
    u, _ = x_map.to_latent(splits.train.x)
    assert torch.allclose(u.mean((0, 2, 3)), torch.zeros(2), atol=1e-4)


@pytest.mark.parametrize("shape", [(15, SIZE, SIZE // 2), (10, SIZE, SIZE)])
def test_fields_of_different_number_or_size_are_refused(tmp_path, shape):
    np.save(tmp_path / "Maps_Mgas_Toy_LH_z=0.00.npy", np.ones(shape))
    with pytest.raises(ValueError, match=r"equal in number and size.*_HI_.*\(15, 8, 8\), Maps_Mgas_.* is \("):
        load(root=write(tmp_path), field="HI,Mgas")


def test_field_named_twice_and_a_file_beside_a_field_are_refused(tmp_path):
    root = write_two(tmp_path)
    with pytest.raises(ConfigError, match="must name each field once"):
        load(root=root, field="HI,HI")
    with pytest.raises(ConfigError, match="give `maps`, which is one file, or `field`"):
        load(root=root, field="HI", maps=str(tmp_path / "Maps_HI_Toy_LH_z=0.00.npy"))


def test_one_file_twice_is_refused_however_it_is_named(tmp_path):
    root = write_two(tmp_path)
    with pytest.raises(ConfigError, match=r"^field names Maps_HI_Toy_LH_z=0\.00\.npy 2 times; name each file once"):
        load(root=root, field="HI,Maps_HI_*")
    with pytest.raises(ConfigError, match=r"^context_field names Maps_Mgas_.* 2 times"):
        load(root=root, field="HI", context_field="Mgas,Maps_Mgas*", context_floor=0)


@pytest.mark.parametrize("factors", [(1, 1), (2, 2), (4, 2)])
def test_event_as_its_own_context_is_refused_unless_it_is_coarser(tmp_path, factors):
    root = write_two(tmp_path)
    options = {"downsample": factors[0], "context_downsample": factors[1], "context_floor": "0,1e3"}
    reason = rf"Maps_HI_.* is both event and context_field.* downsample = {factors[0]}; got {factors[1]}"
    with pytest.raises(ConfigError, match=reason):
        load(root=root, field="HI", context_field="Mgas,Maps_HI*", **options)
    file = {"maps": str(tmp_path / ".." / tmp_path.name / "Maps_HI_Toy_LH_z=0.00.npy")}
    with pytest.raises(ConfigError, match=reason):
        load(root=root, **file, context_field="Mgas,HI", **options)


def test_options_that_would_have_no_effect_are_refused(tmp_path):
    root = write_two(tmp_path)
    for options in ({"context_floor": 1}, {"context_downsample": 2}):
        with pytest.raises(ConfigError, match=f"^{next(iter(options))} is of the maps of `context_field`"):
            load(root=root, field="HI", **options)
    file = str(tmp_path / "Maps_HI_Toy_LH_z=0.00.npy")
    for option in ("suite", "set"):
        with pytest.raises(ConfigError, match=f"give `maps`, which is one file, or `{option}`, which chooses in"):
            load(root=root, maps=file, **{option: "LH"})


def test_floor_above_all_pixels_is_noted_and_one_that_hides_the_field_is_refused(tmp_path):
    root = write_two(tmp_path)
    largest = float(second().max())
    data = load(root=root, field="HI,Mgas", floor=[1e3, 2 * largest], noise_dex="0.05,1e-3")
    assert data.notes[-2] == f"the floor of {2 * largest:g} is above every pixel of Mgas"
    with pytest.raises(ValueError, match=r"Maps_Mgas.*largest pixel, .* is far below the floor of .*; lower `floor`"):
        load(root=root, field="Mgas", floor=2000 * largest, noise_dex=0)


def test_maps_are_not_read_as_a_whole(tmp_path, monkeypatch):
    root = write(tmp_path)
    asked = []
    original = np.load
    monkeypatch.setattr(np, "load", lambda *a, **k: asked.append(k.get("mmap_mode")) or original(*a, **k))
    load(root=root)
    assert asked == ["r"]


# -- a map as context


def test_context_is_the_parameters_and_then_the_map_of_the_other_field(tmp_path):
    data = load(root=write_two(tmp_path), field="HI", context_field="Mgas", context_floor=0, parameters="2,0")
    assert data.context_image == (1, SIZE, SIZE)
    assert data.context.shape == (15, 2 + SIZE * SIZE)
    assert data.context_index.tolist() == list(range(15))
    assert data.groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert data.context[:, 0].tolist() == [10, 10, 10, 11, 11, 11, 12, 12, 12, 13, 13, 13, 14, 14, 14]
    image = data.context[:, 2:].reshape(15, SIZE, SIZE).numpy()
    assert np.allclose(image, np.log10(second().astype(float)), atol=1e-6)
    assert data.context_names == ("log10_M", "Omega_m", "log10 Mgas")
    assert data.context_units == ("Msun", "", "dex")
    assert data.notes[-1] == "context image: log10(Mgas + 0)"


def test_event_is_the_same_with_and_without_a_map_as_context(tmp_path):
    root = write_two(tmp_path)
    alone, given = load(root=root, field="HI"), load(root=root, field="HI", context_field="Mgas", context_floor=0)
    assert torch.equal(alone.x, given.x)


def test_low_resolution_of_the_same_field_is_a_context_for_super_resolution(tmp_path):
    options = {"field": "HI", "context_field": "HI", "context_downsample": "4", "parameters": "none", "num_maps": 2}
    data = load(root=write_two(tmp_path), **options)
    assert data.context_image == (1, 2, 2)
    kept = raw()[[0, 1, 3, 4, 6, 7, 9, 10, 12, 13]].astype(float)
    pooled = kept.reshape(10, 2, 4, 2, 4).mean((2, 4))
    assert np.allclose(data.context.reshape(10, 2, 2).numpy(), np.log10(pooled + 1e3), atol=1e-6)
    assert data.notes[-2:] == ("context image: mean over 4 x 4 pixels", "context image: log10(HI + 1000)")


def test_several_fields_can_be_the_channels_of_the_context(tmp_path):
    write(tmp_path, name="Maps_T_Toy_LH_z=0.00.npy")
    options = {"context_field": "Mgas,T", "context_floor": "0,1", "parameters": "none"}
    data = load(root=write_two(tmp_path), field="HI", **options)
    assert data.context_image == (2, SIZE, SIZE)
    channels = data.context.reshape(15, 2, SIZE, SIZE)
    assert np.allclose(channels[:, 1].numpy(), np.log10(raw().astype(float) + 1), atol=1e-6)


def test_image_of_the_context_has_one_scale_per_channel_and_the_parameters_one_each(tmp_path):
    write(tmp_path, name="Maps_T_Toy_LH_z=0.00.npy")
    options = {"context_field": "Mgas,T", "context_floor": "0,1e3"}
    splits = Splits.make(load(root=write_two(tmp_path), field="HI", **options))
    _, context_map = splits.maps()
    assert context_map.pixels.mean.shape == (2, 1, 1)
    u, _ = context_map.to_latent(splits.train.context)
    assert torch.allclose(u[:, :3].mean(0), torch.zeros(3), atol=1e-4)
    image = u[:, 3:].reshape(-1, 2, SIZE, SIZE)
    assert torch.allclose(image.mean((0, 2, 3)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(image.square().mean((0, 2, 3)), torch.ones(2), atol=1e-4)
    # The pattern of the mean map survives: a scale for each pixel would have taken it away.
    assert float(image.mean(0).std()) > 0.1


def test_no_parameters_and_no_map_is_no_context(tmp_path):
    data = load(root=write(tmp_path), parameters="none")
    assert data.context_shape == (0,)
    assert data.groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_maps_beside_a_map_are_not_turned_without_it(tmp_path):
    root = write_two(tmp_path)
    options = {"root": root, "field": "HI", "context_field": "Mgas", "context_floor": 0, "periodic": "1,2"}
    assert load(**options).augment == ()
    with pytest.raises(ConfigError, match=r"augment \(flip\) would turn the maps and not the context_field"):
        load(**options, augment="flip")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"context_field": "T"}, r"no Maps_\*.npy of field 'T'; Maps_\*.npy there: Maps_HI"),
        (
            {"context_field": "Mgas", "context_floor": "0", "context_downsample": 3},
            "context_downsample must divide 8 x",
        ),
        ({"context_field": "Mgas", "context_floor": 1e9}, "largest pixel.*lower `context_floor`"),
        ({"context_field": "Mgas", "context_floor": "-5"}, "<= 0 after adding.*raise `context_floor`"),
        ({"context_field": "Mgas", "context_floor": "nan"}, "context_floor must be finite; got nan"),
        ({"context_field": "Mgas", "context_floor": "1,2"}, "context_floor must be one number or one for each of Mgas"),
    ],
)
def test_context_maps_that_do_not_fit_are_refused(tmp_path, options, reason):
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        load(root=write_two(tmp_path), field="HI", **options)


def test_context_maps_of_another_number_are_refused(tmp_path):
    np.save(tmp_path / "Maps_Mgas_Toy_LH_z=0.00.npy", np.ones((10, 4, 4)))
    with pytest.raises(ValueError, match=r"Maps_Mgas_.* has 10 maps and Maps_HI_.* 15; they must be equal in number"):
        load(root=write(tmp_path), field="HI", context_field="Mgas", context_floor=0)


def test_context_maps_need_a_folder(tmp_path):
    write_two(tmp_path)
    files = {"maps": str(tmp_path / "Maps_HI_Toy_LH_z=0.00.npy"), "params": str(tmp_path / "params_LH_Toy.txt")}
    with pytest.raises(ConfigError, match="needs `root`, the folder where context_field is to be found"):
        load(**files, context_field="Mgas")
    assert load(**files, root=str(tmp_path), context_field="Mgas", context_floor=0).context_image == (1, SIZE, SIZE)


# -- files


def test_several_fields_must_be_told_apart(tmp_path):
    write(tmp_path, name="Maps_T_Toy_LH_z=0.00.npy")
    root = write(tmp_path)
    with pytest.raises(ConfigError, match=r"has 2 Maps_\*.npy, say which by `field` or `maps`: Maps_HI_.*Maps_T_"):
        load(root=root)
    assert load(root=root, field="T").names == ("log10 T",)
    assert load(root=root, field="Maps_HI*").names == ("log10 HI",)
    with pytest.raises(FileNotFoundError, match=r"no Maps_\*.npy of field 'Mgas'; .* there: Maps_HI.*Maps_T"):
        load(root=root, field="Mgas")


def test_several_parameter_files_must_be_told_apart(tmp_path):
    root = write(tmp_path)
    (tmp_path / "params_1P_Toy.txt").write_text("1 2 3\n")
    with pytest.raises(ConfigError, match=r"2 params_\*.txt, say which by `params`"):
        load(root=root)
    assert len(load(root=root, params=str(tmp_path / "params_LH_Toy.txt"))) == 15


def test_files_can_be_named_without_a_folder(tmp_path, monkeypatch):
    write(tmp_path, name="gas.npy")
    data = load(maps=str(tmp_path / "gas.npy"), params=str(tmp_path / "params_LH_Toy.txt"))
    assert data.names == ("log10 map",)
    monkeypatch.setenv("MY_MAPS", str(tmp_path))
    assert torch.equal(load(maps="$MY_MAPS/gas.npy", params="$MY_MAPS/params_LH_Toy.txt").x, data.x)
    with pytest.raises(FileNotFoundError, match=r"no such file: nowhere\.npy"):
        load(maps="nowhere.npy", params=str(tmp_path / "params_LH_Toy.txt"))


def test_missing_folders_and_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder: nowhere"):
        load(root="nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no Maps_\*.npy"):
        load(root=str(tmp_path))
    with pytest.raises(ConfigError, match="maps needs `root`"):
        load()


@pytest.mark.parametrize(
    ("maps", "reason"),
    [
        (np.zeros((15, 8)), "must be an array of numbers"),
        (np.zeros((15, 1, 8, 8)), "must be an array of numbers"),
        (np.zeros((0, 8, 8)), "has no maps"),
        (np.full((15, 2, 2), "a"), "must be an array of numbers"),
        (np.full((15, 2, 2), {}, dtype=object), "not a readable .npy"),
    ],
)
def test_arrays_that_are_no_maps_are_refused(tmp_path, maps, reason):
    with pytest.raises(ValueError, match=reason):
        load(root=write(tmp_path, maps))


@pytest.mark.parametrize("content", [b"", b"nothing of the kind"])
def test_damaged_maps_are_refused_in_one_line(tmp_path, content):
    root = write(tmp_path)
    (tmp_path / "Maps_HI_Toy_LH_z=0.00.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"not a readable \.npy") as error:
        load(root=root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"noise_dex": -0.1}, {"floor": "nan"}, {"noise_dex": "inf"}])
def test_floor_and_noise_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(ConfigError, match=f"^{next(iter(options))} must be finite"):
        load(root=write(tmp_path), **options)


def write_camels(folder):
    """Two suites, with and without gas, two sets and two redshifts, as the public folder has them side by side."""
    for suite in ("IllustrisTNG", "SIMBA"):
        for name in (
            f"HI_{suite}_LH",
            f"Mcdm_{suite}_LH",
            f"Mtot_{suite}_LH",
            f"Mtot_Nbody_{suite}_LH",
            f"HI_{suite}_CV",
        ):
            np.save(folder / f"Maps_{name}_z=0.00.npy", raw() * (2 if suite == "SIMBA" else 1))
        for name in (f"LH_{suite}", f"LH_Nbody_{suite}", f"CV_{suite}"):
            (folder / f"params_{name}.txt").write_text("0.1 0.8 1 2 3 4\n0.2 0.9 1 1 1 1\n" + "0.3 0.7 1 1 1 1\n" * 3)
    return str(folder)


def test_suite_and_set_choose_the_maps_and_their_table(tmp_path):
    root = write_camels(tmp_path)
    chosen = {"root": root, "field": "HI", "noise_dex": 0, "set": "LH"}
    tng, simba = load(**chosen, suite="IllustrisTNG"), load(**chosen, suite="SIMBA")
    assert float(simba.x.max()) > float(tng.x.max()) + 0.2
    # The tables that come with the maps have no header; their columns are documented.
    assert tng.context_names == ("Omega_m", "sigma_8", "A_SN1", "A_AGN1", "A_SN2", "A_AGN2")
    two = load(**chosen, suite="SIMBA", parameters="Omega_m,sigma_8")
    assert two.context[:2].flatten().tolist() == pytest.approx([0.1, 0.8, 0.2, 0.9])
    assert len(load(root=root, field="Mtot", suite="Nbody_SIMBA", set="LH")) == 15


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"field": "HI"}, "`suite` or `set` or `maps`"),
        ({"field": "HI", "suite": "SIMBA"}, "`set` or `maps`"),
        ({"suite": "SIMBA", "set": "LH"}, "`field` or `maps`"),
        ({"field": "HI", "suite": "SIMBA", "set": "LH", "context_field": "Maps_M*"}, "`context_field`: Maps_Mcdm"),
    ],
)
def test_what_tells_the_maps_apart_is_named(tmp_path, options, hint):
    with pytest.raises(ConfigError, match=f"say which by {hint}"):
        load(root=write_camels(tmp_path), **options)


def test_other_fields_are_of_the_run_of_the_first(tmp_path):
    root = write_camels(tmp_path)
    data = load(root=root, field="HI,Mtot", suite="SIMBA", set="LH", context_field="Mcdm", noise_dex=0)
    assert np.allclose(data.x[:, 1].numpy(), np.log10(2 * raw().astype(float) + 1e3), atol=1e-6)
    pixels = data.context[:, 6:].reshape(15, SIZE, SIZE).numpy()
    assert np.allclose(pixels, np.log10(2 * raw().astype(float) + 1e3), atol=1e-6)


def test_twin_without_gas_is_a_context_and_another_suite_is_none(tmp_path):
    root = write_camels(tmp_path)
    chosen = {"root": root, "field": "HI", "suite": "SIMBA", "set": "LH"}
    assert load(**chosen, context_field="Maps_Mtot_Nbody_SIMBA_*").context_image == (1, SIZE, SIZE)
    with pytest.raises(
        ValueError, match=r"Maps_HI_SIMBA.* and Maps_Mtot_Nbody_Ill.* are maps of different simulations"
    ):
        load(**chosen, context_field="Maps_Mtot_Nbody_IllustrisTNG_*")


@pytest.mark.parametrize("table", ["params_LH_SIMBA.txt", "params_CV_IllustrisTNG.txt"])
def test_table_of_another_suite_or_set_is_refused_though_its_rows_would_fit(tmp_path, table):
    np.save(tmp_path / "Maps_HI_IllustrisTNG_LH_z=0.00.npy", raw())
    (tmp_path / table).write_text(rows())
    with pytest.raises(ValueError, match=f"{table} is not the table of Maps_HI_IllustrisTNG_LH"):
        load(root=str(tmp_path))
    assert len(load(root=str(tmp_path), params=str(tmp_path / table))) == 15


def test_table_of_the_simulations_is_found_where_there_is_no_other(tmp_path):
    np.save(tmp_path / "Maps_HI_IllustrisTNG_LH_z=0.00.npy", raw())
    with pytest.raises(FileNotFoundError, match=r"has no params_\*.txt and no CosmoAstroSeed_\*.txt"):
        load(root=str(tmp_path))
    text = "#Name  Omega_m  sigma_8 seed\n" + "".join(f"  LH_{i} 0.{i}1 0.8{i} {i}\n" for i in range(5))
    (tmp_path / "CosmoAstroSeed_IllustrisTNG_L25n256_LH.txt").write_text(text)
    assert load(root=str(tmp_path)).context_names == ("Omega_m", "sigma_8")
    (tmp_path / "params_LH_IllustrisTNG.txt").write_text(rows())
    assert load(root=str(tmp_path)).context_names == ("p0", "p1", "p2")


# -- images that have no logarithm


def images(kind="signed"):
    """Images of order 1, as they come from anywhere: signed, or positive."""
    found = np.random.default_rng(1).normal(0, 1, (SIMULATIONS * PER, SIZE, SIZE)).astype(np.float32)
    return found if kind == "signed" else np.exp(found)


@pytest.mark.parametrize("kind", ["signed", "positive"])
def test_images_that_the_noise_would_hide_are_refused_with_what_to_set(tmp_path, kind):
    root = write(tmp_path, images(kind))
    with pytest.raises(
        ValueError, match=r"log10\(map \+ 1000\) spreads by 0.000\d+ dex .* the noise of 0.05 dex"
    ) as error:
        load(root=root)
    assert "`log=false`" in str(error.value)
    assert "\n" not in str(error.value)
    assert load(root=root, log="false").x.std() > 0.9


def test_noise_of_two_spreads_is_refused_and_of_less_is_said(tmp_path):
    root = write(tmp_path, raw() + 1)
    spread = float(load(root=root, noise_dex=0).x.double().std(correction=0))
    with pytest.raises(ValueError, match="would hide; lower `floor` and `noise_dex`"):
        load(root=root, noise_dex=0.501 * spread)
    said = f"the pixels of map spread by {spread:.2g} dex before that noise"
    assert load(root=root, noise_dex=0.499 * spread).notes[1] == said
    assert load(root=root, noise_dex=0.101 * spread).notes[1] == said
    assert said not in load(root=root, noise_dex=0.099 * spread).notes
    assert len(load(root=root, noise_dex=0.099 * spread).notes) == 2


def test_without_the_logarithm_pixels_stay_as_they_are(tmp_path):
    root = write(tmp_path, images())
    data = load(root=root, log="false", downsample=2)
    pooled = images().astype(float).reshape(15, 4, 2, 4, 2).mean((2, 4))
    assert np.allclose(data.x[:, 0].numpy(), pooled, atol=1e-6)
    assert (data.names, data.units) == (("HI",), ("",))
    assert data.notes[:-1] == ("mean over 2 x 2 pixels", "map as it is, no logarithm")
    noisy = load(root=root, log="false", noise=0.3)
    assert float((noisy.x[:, 0] - torch.from_numpy(images())).std()) == pytest.approx(0.3, rel=0.08)
    assert noisy.notes[0] == "map as it is, no logarithm, plus N(0, 0.3), seed 0"
    assert load(root=root, log="false", noise=0.3, num_maps=1).x.equal(noisy.x[::PER])
    with pytest.raises(ValueError, match=r"its pixels spread by .* the noise of 0.6 would hide; lower `noise`"):
        load(root=root, log="false", noise=0.6)


def test_context_without_the_logarithm(tmp_path):
    np.save(tmp_path / "Maps_T_Toy_LH_z=0.00.npy", images())
    data = load(root=write(tmp_path), field="HI", context_field="T", context_log="no", parameters="none")
    assert np.array_equal(data.context.numpy().reshape(-1, SIZE, SIZE), images())
    assert (data.context_names, data.context_units) == (("T",), ("",))
    assert data.units == ("dex",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log": "false", "floor": 1}, "^floor is nothing with log=false; leave it out"),
        ({"log": "false", "noise_dex": 0}, "^noise_dex is nothing with log=false"),
        ({"noise": 0.1}, "^noise is nothing with log=true; with the logarithm it is noise_dex"),
        ({"log": "false", "noise": -1}, "^noise must be finite, and at least 0; got -1"),
        ({"context_log": "false"}, "^context_log is of the maps of `context_field`, which is missing"),
        ({"field": "HI", "context_field": "HI", "context_log": "false", "context_floor": 2}, "^context_floor is noth"),
    ],
)
def test_amounts_of_a_logarithm_that_is_not_taken_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        load(root=write(tmp_path), **options)


def test_exact_zeros_without_the_logarithm_are_cured_by_noise(tmp_path):
    maps = images()
    maps[:, :3] = 0
    root = write(tmp_path, maps)
    with pytest.raises(ValueError, match=r"exactly 0, an atom, which has no density. Give it noise \(`noise`\)."):
        Splits.make(load(root=root, log="false"))
    Splits.make(load(root=root, log="false", noise=0.01))


def test_pixels_that_float32_cannot_resolve_are_refused(tmp_path):
    root = write(tmp_path, 1e7 + images().astype(np.float64))
    with pytest.raises(ValueError, match=r"'HI': near 1e\+07 float32 goes in steps of 1, .* subtract an offset"):
        load(root=root, log="false")


def test_images_and_parameters_of_an_archive(tmp_path):
    theta = np.random.default_rng(2).uniform(size=(SIMULATIONS, 2))
    file = tmp_path / "mine.npz"
    np.savez(file, images=images(), theta=theta, cubes=np.zeros((2, 3, 4)))
    np.save(tmp_path / "theta.npy", theta)
    data = load(maps=f"{file}:images", params=str(file), log="false")
    assert np.array_equal(data.x[:, 0].numpy(), images())
    assert np.allclose(data.context.numpy(), theta)
    assert data.context_names == ("p0", "p1")
    assert load(maps=f"{file}:images", params=str(tmp_path / "theta.npy"), log="false").context.equal(data.context)
    np.savez(tmp_path / "one.npz", images=images())
    assert load(maps=str(tmp_path / "one.npz"), params=f"{file}:theta", log="false").x.equal(data.x)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", r"mine.npz: say which array, as mine.npz:NAME; it has a \(15, 8, 8\), b \(15, 8, 8\)"),
        (":c", r"mine.npz has no array 'c'; it has a, b"),
    ],
)
def test_array_of_an_archive_that_there_is_not_is_one_line(tmp_path, key, message):
    write(tmp_path)
    np.savez(tmp_path / "mine.npz", a=images(), b=images())
    with pytest.raises(ConfigError, match=message):
        load(maps=f"{tmp_path / 'mine.npz'}{key}", params=str(tmp_path / "params_LH_Toy.txt"), log="false")


# -- real data


@pytest.fixture
def real():
    if "FLOWZOO_DATA" not in os.environ:
        pytest.skip("FLOWZOO_DATA is not set: no real maps")
    return Path(os.environ["FLOWZOO_DATA"])


def test_hydrogen_maps_load_and_split_by_galaxy(real):
    data = load(root=str(real / "hi_maps"))
    assert data.x.shape == (744, 1, 64, 64)
    assert data.context.shape == (31, 4)
    assert data.context_names == ("log10_Mstar", "log10_Mvir", "t_last_major_merger", "log10_MHI")
    splits = Splits.make(data)
    assert [len(torch.unique(s.groups)) for s in (splits.train, splits.validation, splits.test)] == [22, 3, 6]
    # Nearly half of the pixels are empty: without the noise they sit on the floor, at 3 dex exactly.
    clean = load(root=str(real / "hi_maps"), noise_dex=0)
    assert float((clean.x == 3).double().mean()) == pytest.approx(0.449, abs=1e-3)
    assert float((data.x - clean.x).std()) == pytest.approx(0.05, rel=1e-2)


def test_parameters_of_camels_are_read_with_real_maps_of_15_a_row(real, tmp_path):
    path = next((real / "camels_params").glob("*.txt"))
    np.save(tmp_path / "Maps_Mgas_Toy_LH_z=0.00.npy", np.ones((15_000, 1, 2), dtype=np.float32))
    data = load(root=str(tmp_path), params=str(path), floor=0, noise_dex=0)
    assert data.context_names == ("Omega_m", "sigma_8", "A_SN1", "A_AGN1", "A_SN2", "A_AGN2")
    assert data.context.shape == (1000, 6)
    assert int(data.context_index[-1]) == 999


def test_two_of_six_parameters_of_camels_with_its_table_in_the_folder(real, tmp_path):
    table = next((real / "camels_params").glob("CosmoAstroSeed_*.txt"))
    (tmp_path / table.name).write_text(table.read_text())
    np.save(tmp_path / "Maps_Mgas_IllustrisTNG_LH_z=0.00.npy", np.ones((15_000, 1, 2), dtype=np.float32))
    data = load(root=str(tmp_path), floor=0, noise_dex=0, parameters="Omega_m,sigma_8", side="25 Mpc/h", periodic="1,2")
    assert data.context_names == ("Omega_m", "sigma_8")
    assert data.context[0].tolist() == pytest.approx([0.309, 0.979])
    assert data.side == (25.0, "Mpc/h")


def test_hydrogen_maps_can_be_given_their_own_low_resolution(real):
    root = str(real / "hi_maps")
    data = load(root=root, downsample=4, context_field="HI", context_downsample=16, num_maps=2)
    assert data.context_image == (1, 4, 4)
    splits = Splits.make(data)
    context = splits.maps()[1].to_latent(splits.train.context)[0]
    assert float(context[:, 4:].square().mean()) == pytest.approx(1, abs=1e-4)
