"""``import flowzoo`` and ``flowzoo --help`` cost nothing, and every public name is there."""

import subprocess
import sys

import pytest

import flowzoo

HEAVY = {"torch", "numpy", "pandas", "sklearn", "zuko", "nflows", "normflows", "safetensors", "optuna"}


def imported(*args):
    """The modules that a Python process imports, and its exit code."""
    done = subprocess.run([sys.executable, "-X", "importtime", *args], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip() for line in lines[1:]}, done.returncode


@pytest.mark.parametrize(
    "args",
    [
        ("-c", "import flowzoo"),
        ("-c", "import flowzoo; dir(flowzoo); flowzoo.__version__"),
        ("-c", "import flowzoo; flowzoo.MODELS.names()"),
        ("-c", "import flowzoo.cli"),
        ("-m", "flowzoo.cli", "--help"),
        ("-m", "flowzoo.cli", "bench", "--help"),
    ],
)
def test_nothing_heavy_is_imported(args):
    modules, code = imported(*args)
    assert code == 0
    assert "flowzoo" in modules
    assert not {m for m in modules if m.split(".")[0] in HEAVY}


def test_every_public_name_resolves():
    for name in flowzoo.__all__:
        assert getattr(flowzoo, name) is not None
    assert set(dir(flowzoo)) == set(flowzoo.__all__)


def test_public_name_is_the_same_object_each_time():
    assert flowzoo.build is flowzoo.build


def test_name_that_does_not_exist_lists_those_that_do():
    with pytest.raises(AttributeError, match=r"has no attribute 'train_all'; it has ConditionalFlow, "):
        flowzoo.train_all  # noqa: B018


def test_import_has_no_side_effect_on_the_process_wide_generator():
    code = (
        "import torch; before = torch.get_rng_state()\n"
        "import flowzoo\n"
        "[getattr(flowzoo, n) for n in flowzoo.__all__]\n"
        "from flowzoo.registry import MODELS, DATASETS, METRICS\n"
        "[r.get(n) for r in (MODELS, DATASETS, METRICS) for n in r.names()]\n"
        "assert torch.equal(before, torch.get_rng_state())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
