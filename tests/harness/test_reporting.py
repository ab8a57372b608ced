"""Reports of finished runs, one or several, without any training."""

import shutil

import pytest
import torch

import flowzoo
from flowzoo import trainer
from flowzoo.harness.folder import RunDirectoryError
from flowzoo.harness.reporting import report
from flowzoo.seeding import generator

X = torch.randn(300, 2, generator=generator(0, "x"))
C = torch.randn(300, 1, generator=generator(0, "c"))


def bench(out, models, **options):
    return flowzoo.bench(models, x=X + C, context=C, out=out, train={"steps": 20, "evaluate_every": 10}, **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    bench(folder / "a", {"maf": {"num_steps": 1}})
    bench(folder / "b", {"maf": {"num_steps": 2}, "nice": {}}, baseline=False)
    return folder


@pytest.fixture(autouse=True)
def _nothing_trains(runs, monkeypatch):
    monkeypatch.setattr(trainer.Trainer, "run", lambda *given: pytest.fail("a training began"))


@pytest.mark.usefixtures("figures")
def test_report_of_a_run_is_what_the_bench_wrote(runs, tmp_path):
    run = tmp_path / "a"
    shutil.copytree(runs / "a", run)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix in (".csv", ".md", ".tex")}
    figures = {path.name: path.read_bytes() for path in (run / "figures").iterdir()}
    assert set(figures) == {"nll.data.png", "training.data.png"}
    for path in [*run.glob("table.*"), *run.glob("figures/*"), run / "report.html"]:
        path.unlink()
    found, faults = report([run])
    assert faults == []
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name in before} == before
    assert {path.name: path.read_bytes() for path in found.figures} == figures
    assert "flowzoo.bench(" in found.page.read_text()
    assert [verdict.dataset for verdict in found.verdicts] == ["data"]


def test_runs_side_by_side_tell_models_of_one_name_apart(runs, tmp_path):
    found, _ = report([runs / "a", runs / "b"], tmp_path / "both")
    assert set(found.table.frame["model"]) == {"maf@a", "maf@b", "nice", "gaussian"}
    assert found.table.frame["delta_nll"].notna().all()  # on one split, so compared by event
    text = found.page.read_text()
    take = found.verdicts[0].take
    assert f"checkpoints/data.{take.partition('@')[0]}.0.safetensors" in text
    again, _ = report([runs / "a", runs / "b"], tmp_path / "both")
    assert again.page.read_text() == text


def test_damaged_record_is_named_and_the_rest_stands(runs, tmp_path):
    run = tmp_path / "b"
    shutil.copytree(runs / "b", run)
    (run / "cells" / "data.nice.0.json").write_text("{")
    found, (fault,) = report([run])
    assert "data.nice.0.json" in fault
    assert found.table.frame.set_index("model").loc["nice", "status"] == "failed"


def test_what_is_no_run_is_one_line(runs, tmp_path):
    (tmp_path / "empty" / "cells").mkdir(parents=True)
    for given, out, words in (
        ([tmp_path / "none"], None, "expected the folder of a run"),
        ([tmp_path / "empty"], None, "no record of a finished cell"),
        ([runs / "a", runs / "b"], None, "give --out"),
        ([runs / "a", runs / "b"], runs / "a", "holds something else"),
    ):
        with pytest.raises(RunDirectoryError, match=words) as caught:
            report(given, out)
        assert "\n" not in str(caught.value)
