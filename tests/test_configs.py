"""The files in configs/: every name and option in them exists, and they build what they say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from flowzoo.config import make
from flowzoo.data import configure as configure_data
from flowzoo.harness import BenchConfig
from flowzoo.harness.settings import read
from flowzoo.models import adapt, build_from, configure
from flowzoo.train import FitConfig

FOLDER = Path(__file__).parents[1] / "configs"
SECTIONS = {"train": FitConfig, "bench": BenchConfig}


def settings_of(name, *sets):
    return read(FOLDER / f"{name}.yaml", sets=sets, sections=SECTIONS)


@pytest.fixture
def camels(tmp_path):
    """Two simulations of two maps in the layout of CAMELS, at a quarter of its size."""
    rng = np.random.default_rng(0)
    maps = rng.lognormal(9, 1, (8, 256, 256)).astype(np.float32)
    np.save(tmp_path / "Maps_HI_IllustrisTNG_LH_z=0.00.npy", maps)
    names = "#Name Omega_m sigma_8 A_SN1 A_AGN1 A_SN2 A_AGN2 seed\n"
    rows = "".join(f"LH_{i} 0.{i}1 0.8{i} 1.{i} 1.1 1.2 0.9 {i}\n" for i in range(1, 5))
    (tmp_path / "CosmoAstroSeed_IllustrisTNG_L25n256_LH.txt").write_text(names + rows)
    return tmp_path


# Those of clusters are of another form (tests/harness/test_executors_dask.py).
RUNS = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.startswith("cluster-"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_file_names_nothing_that_does_not_exist_and_its_values_fit(path):
    settings = settings_of(path.stem)
    assert settings.models
    for name, options in settings.models.items():
        configure(name, options)
    make(FitConfig, settings.train, "train")
    make(BenchConfig, settings.bench, "bench")
    for name, options in settings.datasets:
        configure_data(name, options)


def built(settings, data):
    ((name, options),) = settings.models.items()
    config = adapt(configure(name, options), periodic=data.periodic, context_image=data.context_image)
    return config, build_from(config, data.event_shape, data.context_shape)


def test_higlow_is_the_published_architecture(camels):
    settings = settings_of("higlow", f"data.root={camels}")
    ((name, options),) = settings.datasets
    data = configure_data(name, options).load()
    assert data.event_shape == (1, 64, 64)
    assert data.context_names == ("Omega_m", "sigma_8")
    config, flow = built(settings, data)
    assert config.padding == "circular"
    assert [tuple(s) for s in flow._part_shapes()] == [
        *((2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2), (64, 1, 1), (64, 1, 1)),
    ]
    kinds = [[type(layer).__name__ for layer in chain] for chain in flow.chains]
    assert kinds == [["LULinear", "ActNorm", "AffineCoupling"] * 20] * 7
    assert flow.spectral is None


def test_hiflow_is_a_maf_over_the_pixels(camels):
    settings = settings_of("hiflow", f"data.root={camels}", "maf.num_steps=1", "maf.hidden_features=8")
    ((name, options),) = settings.datasets
    data = configure_data(name, options).load()
    config, flow = built(settings, data)
    assert type(config).__name__ == "MAF"
    assert flow.event_shape.numel() == 4096


def test_glow_cifar10_is_class_conditional_in_its_base_alone():
    settings = settings_of("glow-cifar10", "cglow.num_steps=2", "cglow.hidden_features=8")
    flow = build_from(configure("cglow", settings.models["cglow"]), (3, 32, 32), (10,))
    assert [tuple(s) for s in flow._part_shapes()] == [(6, 16, 16), (12, 8, 8), (48, 4, 4)]
    assert flow.embedding is None
    assert flow.top.net.linear.in_features == 10
    assert flow.regularization() is not None


@pytest.mark.parametrize(("context", "sets"), [((0,), ()), ((10,), ("cglow.conditioning=both",))])
def test_what_glow_cifar10_says_one_may_change_can_be_changed(context, sets):
    settings = settings_of("glow-cifar10", "cglow.num_steps=1", "cglow.hidden_features=8", *sets)
    flow = build_from(configure("cglow", settings.models["cglow"]), (3, 32, 32), context).train()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = -flow(x, torch.eye(10)[:2] if context == (10,) else None).mean() + flow.regularization()
    loss.backward()
    assert bool(torch.isfinite(loss))
