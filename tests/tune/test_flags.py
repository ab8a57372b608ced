"""The flags of ``flowzoo tune``, and what it says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from flowzoo import config as configs
from flowzoo.cli.tuning import report_study, tune_flags
from flowzoo.config import ConfigError
from flowzoo.harness import settings
from flowzoo.tune import TuneConfig


def config_of(flags: list[str], file: Path | None = None) -> TuneConfig:
    found = settings.read(file, models="maf", data="two_moons", sets=flags, sections={"tune": TuneConfig})
    return configs.make(TuneConfig, found.tune, "tune")


@pytest.mark.parametrize("name", ["42", "yes", "null", "1e3", "2024-11", "mine.too"])
def test_study_may_be_called_what_yaml_takes_for_something_else(name: str) -> None:
    assert config_of(tune_flags(3, None, None, name)) == TuneConfig(trials=3, study=name)


def test_storage_is_a_text_whatever_is_in_it() -> None:
    for url in ("journal: my log", "sqlite:///a b#c.db", 'journal:"x"'):
        assert config_of(tune_flags(None, None, url, None)).storage == url
    with pytest.raises(ConfigError, match="storage must be a URL"):
        config_of(tune_flags(None, None, "", None))


def test_two_budgets_are_refused_and_a_flag_wins_over_the_config_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--trials 3 and --minutes 2 are two budgets; give one"):
        tune_flags(3, 2.0, None, None)
    file = tmp_path / "tune.yaml"
    file.write_text("tune: {minutes: 5, trials: 7}")
    assert config_of(tune_flags(3, None, None, None), file) == TuneConfig(trials=3)
    assert config_of(tune_flags(None, 1e-5, None, None), file) == TuneConfig(trials=7, minutes=1e-5)


def test_study_that_found_nothing_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    report_study(SimpleNamespace(name="two_moons.maf"), "two_moons.maf: no trial was completed (2 failed): why", None)
    assert capsys.readouterr().out == "  two_moons.maf: no trial was completed (2 failed): why\n"
