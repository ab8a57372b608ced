"""Files of a run directory that the disk or a hand has changed: a named error or what was there, no wrong number."""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flowzoo
from flowzoo import checkpoint, record, train
from flowzoo.record import Record, RecordError
from flowzoo.tune import StudyError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from chaos_parts import folder

SCORES = {"log_prob": torch.linspace(-1, 1, 50, dtype=torch.float64), "group": torch.arange(50)}


@pytest.fixture
def path(tmp_path):
    made = Record(
        dataset="digits", model="maf", seed=0, hash="abc", status="ok", metrics={"nll_nats": -1.5, "sw": 2.25e-7}
    )
    return record.save(made, tmp_path / "cells", SCORES)


def test_every_byte_of_a_record_counts(path):
    good, wanted, said = path.read_bytes(), record.load(path), []
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        try:
            assert record.load(path) == wanted
        except RecordError as error:
            said.append(str(error))
    assert len(said) > 0.98 * len(good)  # what is left are line breaks that became other white space
    assert all(str(path) in words for words in said)


@pytest.mark.parametrize("number", ["-1.5", "2.25e-07"])
def test_changed_digit_is_noticed(path, number):
    text = path.read_text()
    assert number in text
    path.write_text(text.replace(number, number.replace("5", "6")))
    with pytest.raises(RecordError, match=r"digits\.maf\.0\.json: its checksum does not match.*delete both"):
        record.load(path)


@pytest.mark.parametrize("key", ["sha256", "scores_sha256", "nll_nats"])
def test_line_that_was_taken_out_is_noticed(path, key):
    values = json.loads(path.read_text())
    (values["metrics"] if key in values["metrics"] else values).pop(key)
    path.write_text(json.dumps(values))
    with pytest.raises(RecordError, match="checksum"):
        record.load(path)


def test_record_laid_out_otherwise_is_the_same(path):
    wanted = record.load(path)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    assert record.load(path) == wanted


def test_every_byte_of_the_scores_counts(path):
    scores = path.with_suffix(".safetensors")
    good = scores.read_bytes()
    for place in range(0, len(good), 7):
        scores.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        with pytest.raises(RecordError, match=r"digits\.maf\.0\.safetensors: not the scores"):
            record.load_scores(path)
    for length in (0, 1, 100, len(good) - 1):
        scores.write_bytes(good[:length])
        with pytest.raises(RecordError, match=r"digits\.maf\.0\.safetensors: not the scores"):
            record.load_scores(path)


def test_scores_of_another_cell_are_refused(path):
    other = record.save(
        Record(dataset="digits", model="maf", seed=1, hash="abd", status="ok"), path.parent, {"a": torch.ones(3)}
    )
    path.with_suffix(".safetensors").write_bytes(other.with_suffix(".safetensors").read_bytes())
    with pytest.raises(RecordError, match="not the scores that"):
        record.load_scores(path)


def test_scores_that_are_gone_are_missed(path):
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(RecordError, match=r"digits\.maf\.0\.safetensors: the scores of a cell cannot be read"):
        record.load_scores(path)


def test_record_nested_without_end_is_an_error_of_ours(path):
    path.write_text("[" * 100_000)
    with pytest.raises(RecordError, match="not a record"):
        record.load(path)


FORGED = {
    "a list": [],
    "no model": {"event_shape": [2]},
    "a dtype that is a function": {"dtype": "load"},
    "a dtype of whole numbers": {"dtype": "int64"},
    "a dtype that is a number": {"dtype": 3},
    "a shape that is text": {"event_shape": "ab"},
    "a shape that is nothing": {"event_shape": None},
    "a map without a kind": {"x_map": {}},
    "a map of no known kind": {"x_map": {"kind": "../exec"}},
    "a map with other options": {"x_map": {"kind": "log", "path": "/etc/passwd"}},
    "options that are a list": {"config": [1]},
    "an option that there is not": {"config": {"__class__": "os"}},
    "a model by its path": {"model": "../../evil"},
}


@pytest.mark.parametrize("what", FORGED)
def test_flow_with_forged_metadata_is_refused_in_one_line(tmp_path, what):
    path = tmp_path / "flow.safetensors"
    flow = flowzoo.build("maf", (2,), (1,), num_steps=1, hidden_features=4, generator=torch.Generator().manual_seed(0))
    flowzoo.save(flow, path)
    tensors, meta = checkpoint.load_tensors(path)
    spec = FORGED[what]
    forged = {k: v for k, v in meta["flow"].items() if what != "no model" or k != "model"}
    checkpoint.save_tensors(path, tensors, meta | {"flow": forged | spec if isinstance(spec, dict) else spec})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - of whichever class of ours
        flowzoo.load(path)
    assert "\n" not in str(caught.value)
    assert type(caught.value).__module__.startswith("flowzoo.")  # so that the command line says it without a traceback


def test_metadata_that_is_no_mapping_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "dict", list, raising=False)
    checkpoint.save_tensors(tmp_path / "a.safetensors", {}, {"a": 1})
    monkeypatch.undo()
    with pytest.raises(checkpoint.CheckpointError, match="a list instead of a mapping"):
        checkpoint.load_tensors(tmp_path / "a.safetensors")


@pytest.mark.slow
def test_no_file_of_a_run_directory_gives_a_wrong_number():
    rows = folder.run(short=True, seed=0)
    assert [words for row in rows for words in row.faults] == []
    assert {row.what.split(",")[0] for row in rows} >= {"cells/*.json", "table.*", "README.md", "*.state.safetensors"}
    assert all(row.counts.total() for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["changed", "studies"])
def test_other_data_or_options_and_damaged_studies_are_refused_and_nothing_is_lost(part):
    found = subprocess.run(
        [sys.executable, str(Path(folder.__file__).parents[1] / "chaos.py"), part, "--short"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert " 0 faults." in found.stdout


TUNED = {"models": {"nice": {"num_steps": 2, "hidden_features": 4}}, "draws": 20, "device": "cpu", "show": False}
TUNED |= {"train": {"steps": 4, "evaluate_every": 2}, "baseline": False, "tune": {"trials": 2, "pruner": "none"}}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A tuned bench, and how to do it again in a copy of its folder."""
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    made = tmp_path_factory.mktemp("tuned") / "run"
    flowzoo.bench(**TUNED, x=x, out=made)

    def again(out, **other):
        if not out.exists():
            shutil.copytree(made, out)
        return flowzoo.bench(**{**TUNED, "x": x, **other}, out=out)

    return again


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE trial_values SET value = value + 1",
        "UPDATE trial_params SET param_value = param_value * 1.01 WHERE trial_id = 2 AND param_name = 'train.lr'",
        "UPDATE trial_intermediate_values SET intermediate_value = 0",
        "UPDATE trials SET state = 'PRUNED' WHERE number = 1",
        "DELETE FROM trial_user_attributes WHERE key = 'flowzoo.sha256'",
    ],
)
def test_number_in_a_study_that_somebody_changed_is_refused(tuned, tmp_path, change):
    tuned(tmp_path / "run")
    with sqlite3.connect(tmp_path / "run" / "study.db") as database:
        assert database.execute(change).rowcount
    database.close()
    before = (tmp_path / "run" / "study.db").read_bytes()
    with pytest.raises(StudyError, match=r"trial [01] of study 'data.nice' in .*study.db was altered or damaged"):
        tuned(tmp_path / "run")
    assert tuned(tmp_path / "run", force=True).failed == []
    assert (tmp_path / "run" / "replaced" / "1" / "study.db").read_bytes() == before


def test_study_of_something_else_is_refused_before_anything_trains(tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "fit", lambda *given, **options: pytest.fail("it trained"))
    other = {"tune": {"trials": 2, "pruner": "none", "seed": 1}}
    with pytest.raises(StudyError, match=r"has hash [0-9a-f]{16}, this command [0-9a-f]{16} .*or add --force"):
        tuned(tmp_path / "run", **other)


def test_force_moves_the_studies_and_their_configs(tuned, tmp_path):
    tuned(tmp_path / "run")
    files = [tmp_path / "run" / name for name in ("study.db", "tuned/data.nice.yaml")]
    before = [file.read_bytes() for file in files]
    found = tuned(tmp_path / "run", tune={"trials": 3, "pruner": "none", "seed": 1}, force=True)
    assert found.failed == []
    moved = tmp_path / "run" / "replaced" / "1"
    assert [(moved / file.relative_to(tmp_path / "run")).read_bytes() for file in files] == before
    assert all(file.exists() for file in files)
