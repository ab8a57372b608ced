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
    assert noisy.notes == ("log10(map + 1000), plus N(0, 0.05 dex), seed 0",)


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
    assert data.context_names == ("0", "1", "2")
    assert load(root=str(tmp_path), parameters="1").context[0].tolist() == pytest.approx([0.8])


def test_names_without_a_header_are_dropped_too(tmp_path):
    data = load(root=write(tmp_path, text="".join(f"LH_{i} 0.{i}1 0.8{i}\n" for i in range(5))))
    assert data.context_names == ("0", "1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no rows"),
        ("# a b\n", "no rows"),
        ("1 2\n3\n" + rows(3), "1 or 2 or 3 columns"),
        ("1 2 x\n" + rows(4), "'x' in row 1 of the parameters is not a number"),
        ("LH_0\nLH_1\nLH_2\nLH_3\nLH_4\n", "no column of numbers"),
        (HEADER + rows(4), "has 15 maps and params_LH_Toy.txt 4 rows"),
        (HEADER + rows(16), "must be a multiple"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        load(root=write(tmp_path, text=text))


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
def test_pixels_that_are_not_finite_are_refused_by_the_split(tmp_path, value):
    maps = raw()
    maps[4, 1, 1] = value
    with pytest.raises(ValueError, match="'log10 HI': 1 of 15 rows are not finite"):
        Splits.make(load(root=write(tmp_path, maps)))


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
    with pytest.raises(ConfigError, match="unknown symmetry 'mirror'; known are flip"):
        load(root=str(tmp_path), augment="mirror")


def test_one_scale_for_all_pixels_of_a_channel(tmp_path):
    splits = Splits.make(load(root=write(tmp_path)))
    x_map, context_map = splits.maps()
    u, _ = x_map.to_latent(splits.train.x)
    assert x_map.mean.shape == (1, 1, 1)
    assert float(u.mean()) == pytest.approx(0, abs=1e-4)
    used = torch.unique(splits.train.context_index)
    assert torch.allclose(context_map.mean, splits.train.contexts[used].mean(0), atol=1e-4)


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


def test_files_can_be_named_without_a_folder(tmp_path):
    write(tmp_path, name="gas.npy")
    data = load(maps=str(tmp_path / "gas.npy"), params=str(tmp_path / "params_LH_Toy.txt"))
    assert data.names == ("log10 map",)
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
    with pytest.raises(ConfigError, match="noise_dex"):
        load(root=write(tmp_path), **options)


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
    data = load(root=str(tmp_path), params=str(path), floor=0)
    assert data.context_names == ("Omega_m", "sigma_8", "A_SN1", "A_AGN1", "A_SN2", "A_AGN2")
    assert data.context.shape == (1000, 6)
    assert int(data.context_index[-1]) == 999
