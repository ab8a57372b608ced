"""Tuning inside a bench, and ``flowzoo tune``."""

import math
from functools import partial
from pathlib import Path

import optuna
import pytest
import torch
import yaml

import flowzoo
from flowzoo import cli
from flowzoo.config import ConfigError
from flowzoo.harness import jobs
from flowzoo.harness.plan import Cell
from flowzoo.harness.settings import Settings, read
from flowzoo.harness.studies import studies_of, tuned_cells
from flowzoo.harness.tuning import run_studies
from flowzoo.models.maf import MAF
from flowzoo.train import FitConfig
from flowzoo.tune import TuneConfig

optuna.logging.set_verbosity(optuna.logging.WARNING)
QUICK = {"draws": 20, "posteriors": 0}
TRAIN = {"steps": 20, "evaluate_every": 10}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def search_only(monkeypatch, **spaces):
    """A search space of one learning rate, far from the default one."""
    monkeypatch.setattr(MAF, "suggest", classmethod(lambda cls, trial: cls(num_steps=1, hidden_features=16)))
    monkeypatch.setattr(
        FitConfig,
        "suggest",
        classmethod(lambda cls, trial: cls(lr=trial.suggest_categorical("lr", spaces.get("lr", [0.05])))),
    )


def flags(*more: str) -> list[str]:
    return [
        *("--models", "maf", "--data", "two_moons", "--set", "data.num_events=300", "--set", "maf.num_steps=1"),
        *("--set", "maf.hidden_features=[16]", "--steps", "20", "--set", "train.evaluate_every=10", *more),
    ]


def run(*args: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["flowzoo", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


def test_table_has_the_default_and_the_tuned_config_with_what_tuning_gained(monkeypatch):
    search_only(monkeypatch)
    result = flowzoo.bench(
        {"maf": {"num_steps": 1, "hidden_features": [16]}},
        "two_moons",
        seeds=(0, 1),
        train=TRAIN,
        tune=3,
        out="run",
        baseline=False,
        together=False,  # as a trial is trained
        **QUICK,
    )
    rows = result.table.set_index("model")
    assert set(rows.index) == {"maf", "maf-tuned"}
    default, tuned = rows.loc["maf"], rows.loc["maf-tuned"]
    # Twenty steps at 2e-3 go nowhere; at 0.05 they go far.
    assert tuned.nll_nats < default.nll_nats - 0.1
    assert tuned.tuning_gain == pytest.approx(default.nll_nats - tuned.nll_nats, rel=1e-5)
    assert tuned.tuning_gain_se > 0
    assert math.isnan(default.tuning_gain)
    records = {known.stem: known for known in result.records}
    assert len(records) == 4
    assert records["two_moons.maf-tuned.1"].config["train"]["lr"] == 0.05
    assert records["two_moons.maf.1"].config["train"]["lr"] == 2e-3
    study = optuna.load_study(study_name="two_moons.maf", storage="sqlite:///run/study.db")
    assert len(study.trials) == 3
    # A trial trains as the cell of the first seed does.
    assert -study.trials[0].value == pytest.approx(records["two_moons.maf.0"].metrics["validation_nll"], abs=1e-9)
    assert -study.best_value == pytest.approx(records["two_moons.maf-tuned.0"].metrics["validation_nll"], abs=1e-9)


def test_same_command_goes_on_and_trains_nothing_again(monkeypatch, capsys):
    search_only(monkeypatch)
    call = flags("--tune", "2", "--out", "run", "--set", "bench.draws=20", "--set", "bench.posteriors=0")
    assert run("bench", *call) == 0
    first = Path("run/table.csv").read_bytes()
    capsys.readouterr()

    def refuse(*args, **kwargs):
        raise AssertionError("it trains again")

    monkeypatch.setattr("flowzoo.train.fit", refuse)
    assert run("bench", *call) == 0
    assert capsys.readouterr().out.count("known from before") == 3  # the baseline, and both configs
    assert Path("run/table.csv").read_bytes() == first


def test_default_that_is_the_best_is_not_trained_again(monkeypatch):
    search_only(monkeypatch, lr=[1e-5])
    result = flowzoo.bench(
        {"maf": {"num_steps": 1, "hidden_features": [16]}},
        "two_moons",
        train=TRAIN,
        tune={"trials": 2, "pruner": "none"},
        out="run",
        baseline=False,
        **QUICK,
    )
    default, tuned = result.records
    assert (default.model, tuned.model) == ("maf", "maf-tuned")
    assert tuned.metrics == default.metrics
    assert "the best of its study" in tuned.notes[-1]
    one, other = (flowzoo.load(f"run/checkpoints/two_moons.{name}.0.safetensors") for name in ("maf", "maf-tuned"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_models_without_anything_to_train_have_no_study(plan):
    cells = plan(["maf", "gaussian"])
    assert [s.name for s in studies_of(cells, {}, {}, TuneConfig())] == ["two_moons.maf"]


def test_each_fold_has_a_study_of_its_own():
    settings = Settings(
        [("linear_gaussian", {"num_events": 300})],
        {"maf": {"num_steps": 1}},
        TRAIN,
        bench={"folds": 3, "baseline": False, "seeds": [0, 1]},
    )
    cells = jobs.plan_of(settings)
    studies = jobs.studies_from(settings, cells)
    assert [s.name for s in studies] == [f"linear_gaussian.maf.fold{i}" for i in range(3)]
    assert all(len(s.own(cells)) == 2 for s in studies)
    assert studies[0].given_model == {"num_steps"}
    assert studies[0].given_train == set(TRAIN)


def test_tuned_cell_is_another_cell_only_where_its_config_is(plan):
    cells = plan(["maf"])
    study = studies_of(cells, {}, {}, TuneConfig())[0]
    assert tuned_cells(cells, [study], {study.name: "no trial was completed"}) == []
    cell = Cell(**{**vars(cells[0]), "tuned": True})
    assert cell.stem == "two_moons.maf-tuned.0"
    assert cell.hash == cells[0].hash


def test_study_that_finds_nothing_is_a_failed_record_with_its_reason(monkeypatch):
    search_only(monkeypatch)

    def broken(*args, **kwargs):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("flowzoo.tune.trial.train.fit", broken)
    result = flowzoo.bench(
        {"maf": {"num_steps": 1}}, "two_moons", train=TRAIN, tune=2, out="run", baseline=False, **QUICK
    )
    tuned = result.records[-1]
    assert (tuned.model, tuned.status) == ("maf-tuned", "failed")
    assert "no trial was completed (2 failed): RuntimeError: no such kernel" in str(tuned.reason)


def test_tune_writes_a_config_that_fit_takes(monkeypatch, capsys):
    search_only(monkeypatch)
    assert run("tune", *flags("--trials", "3", "--out", "run")) == 0
    said = capsys.readouterr().out
    assert said.count("  trial ") == 3
    path = Path("run/tuned/two_moons.maf.yaml")
    assert str(path) in said
    values = yaml.safe_load(path.read_text())
    assert values["models"] == {"maf": {"num_steps": 1, "hidden_features": [16]}}
    assert values["train"] == {"steps": 20, "evaluate_every": 10, "lr": 0.05}
    assert read(path, sections={"train": FitConfig}).datasets == [("two_moons", {"num_events": 300})]
    assert run("fit", "--model", "maf", "--config", str(path), "--out", "maf.safetensors") == 0
    nll = float(capsys.readouterr().out.split("validation NLL ")[1].split()[0])
    study = optuna.load_study(study_name="two_moons.maf", storage="sqlite:///run/study.db")
    assert nll == pytest.approx(-study.best_value, abs=1e-3)


def test_tune_of_nothing_says_so(capsys):
    assert run("tune", "--models", "gaussian", "--data", "two_moons") == 2
    assert "nothing to tune" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--trials", "0"], "trials must be at least 1"),
        (["--set", "tune.sampler=tea"], "tpe"),
        (["--storage", "mysqlite://x"], "storage"),
        (["--study", "../x"], "study must be letters"),
    ],
)
def test_wrong_options_of_tuning_are_one_line(capsys, more, said):
    assert run("tune", *flags("--out", "run", *more)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_data_from_python_can_be_tuned(monkeypatch):
    search_only(monkeypatch)
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    result = flowzoo.bench("maf", x=x, train=TRAIN, tune=2, out="run", baseline=False, **QUICK)
    assert {known.model for known in result.records} == {"maf", "maf-tuned"}
    assert "data:" not in Path("run/tuned/data.maf.yaml").read_text()


def test_executor_gets_jobs_of_studies_and_tuned_cells_that_are_text(monkeypatch):
    search_only(monkeypatch)
    sent = []

    def elsewhere(work, on_done, workers):
        for job in work:
            sent.append(job)
            on_done(job, jobs.do(job, False))

    settings = Settings(
        [("two_moons", {"num_events": 300})],
        {"maf": {"num_steps": 1, "hidden_features": [16]}},
        TRAIN,
        {"trials": 2},
        bench={"baseline": False, **QUICK},
    )
    cells = jobs.plan_of(settings)
    studies = jobs.studies_from(settings, cells)
    text = jobs.as_text(settings)
    Path("run").mkdir()
    jobs.remember("", [])  # another process knows nothing
    found = run_studies(studies, Path("run"), settings=settings, text=text, executor=partial(elsewhere, workers=5))
    assert [(job.kind, job.name) for job in sent] == [
        ("study", "two_moons.maf"),
        ("study", "two_moons.maf worker 1"),  # and no third: there are two trials
    ]
    (best,) = found.values()
    assert best.fit.lr == 0.05
    (cell,) = tuned_cells(cells, studies, found)
    known = jobs.do(jobs.cell_job(cell, Path("run"), text), False)
    assert known["model"] == "maf-tuned"
    assert known["config"]["train"]["lr"] == 0.05
    assert known["hash"] == cell.hash


def test_option_of_tuning_that_does_not_exist_is_named(plan):
    settings = Settings([], {}, {}, {"trails": 3})
    with pytest.raises(ConfigError, match="tune has no option 'trails': did you mean 'trials'"):
        jobs.studies_from(settings, plan(["maf"]))
