"""What there is, and what each option means: nothing that can be set is without a word."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest

from flowzoo import cli
from flowzoo.autoencoder import AutoencoderConfig
from flowzoo.cli import _docstrings
from flowzoo.cli.lists import NEEDS
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.registry import DATASETS, EMBEDDINGS, METRICS, MODELS
from flowzoo.train import FitConfig
from flowzoo.tune import TuneConfig

SECTIONS = {"train": FitConfig, "bench": BenchConfig, "tune": TuneConfig, "embed": AutoencoderConfig}
REGISTRIES = (MODELS, DATASETS, METRICS, EMBEDDINGS)
ENTRIES = {f"{registry.kind} {name}": (registry, name) for registry in REGISTRIES for name in registry.names()}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: status, stdout, stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flowzoo", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return (int(caught.value.code or 0), *capsys.readouterr())

    return command


Run = Callable[..., tuple[int, str, str]]


def config_of(entry: str) -> type:
    if entry in SECTIONS:
        return SECTIONS[entry]
    registry, name = ENTRIES[entry]
    found: type = registry.get(name)
    return found


@pytest.mark.parametrize("entry", [*SECTIONS, *ENTRIES])
def test_every_option_has_a_meaning(entry: str) -> None:
    cls = config_of(entry)
    options = _docstrings.options(cls)
    assert {option.name for option in options} == {field.name for field in fields(cls)}
    assert [option.name for option in options if not option.meaning] == []
    assert _docstrings.summary(cls)


@pytest.mark.parametrize("entry", [*SECTIONS, *ENTRIES])
def test_docstring_explains_no_option_that_is_not_there(entry: str) -> None:
    cls = config_of(entry)
    assert _docstrings._entries(cls).keys() <= {field.name for field in fields(cls)}


@pytest.mark.parametrize("entry", [*SECTIONS, *ENTRIES])
def test_options_prints_all_of_anything_that_has_a_name(run: Run, entry: str) -> None:
    status, out, err = run("options", entry.split()[-1])
    assert (status, err) == (0, "")
    for option in _docstrings.options(config_of(entry)):
        (line,) = [line for line in out.splitlines() if re.match(rf"{option.name}  ", line)]
        assert [part for part in re.split("  +", line)] == list(option)


def test_names_are_of_one_thing_each() -> None:
    names = [*SECTIONS, *(name for _, name in ENTRIES.values())]
    assert sorted(names) == sorted(set(names))  # else `flowzoo options NAME` would hide one of two


# -- the docstrings


@dataclass(frozen=True)
class Parent:
    """A parent.

    Args:
        far: it is inherited, and its meaning
            goes on: for three
            lines. None: nothing.
    """

    far: float | None = None


@dataclass(frozen=True)
class Child(Parent):
    r"""A child: :math:`x_i`. Of ``two`` sentences.

    | a | b |
    | - | - |

    Args:
        near: of the child; ``"a"`` or
            ``"b"``.
        far_off: (needed: no) a word,

            and a paragraph.

    Returns:
        nothing: this is no option.
    """

    near: Literal["a", "b"] = "a"
    far_off: tuple[int, ...] = (1, 2)
    silent: dict[str, bool] | str = ""


def test_docstring_is_read_whole() -> None:
    assert _docstrings.summary(Child) == "A child: x_i."
    assert _docstrings.about(Child) == ["A child: x_i. Of two sentences.", "| a | b |\n| - | - |"]
    assert [tuple(option) for option in _docstrings.options(Child)] == [
        ("near", "a or b", "a", 'of the child; "a" or "b".'),
        ("far_off", "[integer, ...]", "[1, 2]", "(needed: no) a word, and a paragraph."),
        ("silent", "{text: true or false} or text", "''", ""),
        ("far", "number or null", "null", "it is inherited, and its meaning goes on: for three lines. null: nothing."),
    ]


def test_class_without_a_docstring_is_listed_all_the_same() -> None:
    bare: Any = type("Bare", (), {})
    assert _docstrings.summary(bare) == ""
    assert _docstrings.about(bare) == [""]


# -- the commands


def test_model_is_described_with_what_it_takes_and_how_it_is_set(run: Run) -> None:
    status, out, _ = run("models", "cnf")
    assert status == 0
    assert out.startswith("galacticflow: Steps of an LU-linear map")
    for fact in ("family", "backend", "events", "contexts", "inverse", "paper"):
        assert re.search(rf"^{fact} +{re.escape(getattr(MODELS.get('galacticflow'), fact))}$", out, re.MULTILINE)
    assert "--set galacticflow.OPTION=VALUE" in out
    assert out.index("\nnum_bins") < out.index("\nembed ")  # its own options before those of every model


def test_dataset_is_described_with_what_is_needed(run: Run) -> None:
    out = run("datasets", "table")[1]
    assert "--data table --set data.OPTION=VALUE" in " ".join(out.split())
    assert re.search(r"^path +text +\(needed\) +the file\.$", out, re.MULTILINE)


def test_metric_is_described_by_its_name_and_by_that_of_a_column(run: Run) -> None:
    out = run("metrics", "hpd")[1]
    assert run("metrics", "coverage_error")[1] == out
    assert NEEDS["posteriors"] in out
    assert re.search(r"^coverage_error +zero +0\.05 +0\.1 ", out, re.MULTILINE)
    assert re.search(r"^sw +lower +sw_floor ", run("metrics", "sw")[1], re.MULTILINE)
    assert "context_gain_se" not in run("metrics", "context_gain")[1]


def test_what_metrics_need_is_said_in_words() -> None:
    assert {need for name in METRICS.names() for need in METRICS.get(name).needs} <= NEEDS.keys()


def test_options_alone_names_the_sections(run: Run) -> None:
    out = run("options")[1]
    assert [line.split()[0] for line in out.splitlines()[1:5]] == [*SECTIONS]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("options tran", "nothing is called 'tran': did you mean train? there are train, bench, tune, embed, and"),
        ("options galacticflwo", "did you mean galacticflow?"),
        ("models maff", "unknown model 'maff': did you mean maf?"),
        ("datasets tabel", "unknown dataset 'tabel': did you mean table?"),
        ("metrics pqmas", "unknown metric 'pqmas': did you mean pqmass or peaks?"),
    ],
)
def test_unknown_name_is_one_line_that_says_what_there_is(run: Run, command: str, said: str) -> None:
    status, out, err = run(*command.split())
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["bench", "fit", "tune", "embed"])
def test_help_of_what_takes_set_names_the_command_that_explains_it(run: Run, command: str) -> None:
    assert "flowzoo options" in " ".join(run(command, "--help")[1].replace("│", " ").split())
