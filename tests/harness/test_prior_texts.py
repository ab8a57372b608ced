"""A prior of columns such as theta[0], as a person writes it on the command line and in a config file."""

from pathlib import Path

import numpy as np
import pytest

from flowzoo.config import ConfigError
from flowzoo.data import configure
from flowzoo.harness.settings import read


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "sims.npz", theta=rng.uniform(size=(50, 2)), flux=rng.normal(size=(50, 32)))
    return tmp_path / "sims.npz"


def sets(table: Path, prior: str) -> list[str]:
    return [f"data.path={table}", "data.x=theta", "data.context=flux", f"data.prior={prior}"]


@pytest.mark.parametrize(
    "prior",
    [
        "theta[0]: uniform(0, 1), theta[1]: uniform(0, 1)",
        "{theta[0]: uniform(0, 1), theta[1]: uniform(0, 1)}",
        "{theta[0]: 'uniform(0, 1)', theta[1]: 'uniform(0, 1)'}",
        "{'theta[0]': 'uniform(0, 1)', 'theta[1]': 'uniform(0, 1)'}",
        "{'theta[0]': uniform(0, 1), 'theta[1]': uniform(0, 1)}",
    ],
)
def test_prior_of_columns_of_an_array_is_read_from_the_command_line(table: Path, prior: str) -> None:
    ((name, options),) = read(None, models="maf", data="table", sets=sets(table, prior)).datasets
    data = configure(name, options).load()
    assert data.theta == "event"
    assert data.prior is not None
    assert data.prior.describe() == {"kind": "box", "low": [0, 0], "high": [1, 1]}


@pytest.mark.parametrize(
    ("prior", "cure"),
    [
        ("{theta[0]: 'uniform(0, 1)'}", "got '['; within {...} a name with brackets needs quotes: {'theta[0]': ...}"),
        ("{a: uniform(0, 1), b: uniform(0, 1)}", "a text with a comma needs quotes: {a: 'uniform(0, 1)'}"),
    ],
)
def test_what_yaml_makes_of_braces_in_a_file_is_said_with_the_cure(tmp_path: Path, prior: str, cure: str) -> None:
    (tmp_path / "bench.yaml").write_text(f"data:\n  name: table\n  prior: {prior}\n")
    with pytest.raises(ConfigError) as error:
        read(tmp_path / "bench.yaml", models="maf")
    assert cure in str(error.value)
    assert "bench.yaml:3: " in str(error.value)


def test_other_broken_yaml_is_refused_as_before() -> None:
    with pytest.raises(ConfigError, match=r"--set maf.num_steps=\[1: expected ',' or '\]'"):
        read(None, models="maf", data="digits", sets=["maf.num_steps=[1"])
    with pytest.raises(ConfigError, match=r"expected ',' or '}'"):
        read(None, models="maf", data="digits", sets=["maf.num_steps={a: 1"])
