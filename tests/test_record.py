"""The record of a cell: one JSON that is whole, with its scores; no NaN in it, no half of it."""

import dataclasses
import json
import math
import os

import pytest
import torch

from flowzoo import record
from flowzoo.record import Record, RecordError


def made(**changes):
    values = {
        "dataset": "digits",
        "model": "maf",
        "seed": 3,
        "hash": "abc",
        "status": "ok",
        "metrics": {"nll_nats": -1.5},
        "missing": {"sw": "no draws"},
        "config": {"model": {"hidden_features": [8, 8]}},
        "notes": ["2 rows left out"],
    }
    return Record(**values | changes)


SCORES = {"log_prob": torch.tensor([-1.0, -2.0], dtype=torch.float64), "group": torch.tensor([0, 1])}


def test_record_comes_back_as_it_was(tmp_path):
    path = record.save(made(), tmp_path / "cells", SCORES)
    assert path == tmp_path / "cells" / "digits.maf.3.json"
    assert record.load(path) == made()
    found = record.load_scores(path)
    assert found.keys() == SCORES.keys()
    assert all(torch.equal(found[k], SCORES[k]) for k in SCORES)


def test_failed_cell_has_a_record_and_no_scores(tmp_path):
    path = record.save(made(status="failed", reason="no memory", metrics={}), tmp_path)
    assert record.load(path).reason == "no memory"
    assert record.load_scores(path) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_value_that_is_not_a_number_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.save(made(metrics={"nll_nats": value}), tmp_path)
    assert list(tmp_path.glob("*.json")) == []


def test_scores_are_whole_before_the_record_is_there(tmp_path, monkeypatch):
    written, replace = [], os.replace

    def noted(source, target):
        written.append(os.path.basename(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    record.save(made(), tmp_path, SCORES)
    assert written == ["digits.maf.3.safetensors", "digits.maf.3.json"]


def test_write_that_fails_midway_leaves_the_old_record(tmp_path, monkeypatch):
    path = record.save(made(), tmp_path)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        record.save(made(hash="new"), tmp_path)
    assert record.load(path).hash == "abc"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


BROKEN = {
    "empty": "",
    "half": '{"dataset": "digits", "mod',
    "a list": "[1, 2]",
    "a number": "3",
    "no hash": json.dumps({"dataset": "digits", "model": "maf", "seed": 0, "status": "ok"}),
    "metrics of no names": json.dumps(dataclasses.asdict(made()) | {"metrics": [1]}),
    "seed of no number": json.dumps(dataclasses.asdict(made()) | {"seed": "three"}),
    "notes of no list": json.dumps(dataclasses.asdict(made()) | {"notes": None}),
    "binary": "\udcff\udc80",
}


@pytest.mark.parametrize("what", BROKEN)
def test_file_that_is_no_record_is_an_error_in_one_line(tmp_path, what):
    path = tmp_path / "digits.maf.3.json"
    path.write_bytes(BROKEN[what].encode(errors="surrogateescape"))
    with pytest.raises(RecordError, match=r"digits\.maf\.3\.json: not a record of a cell") as caught:
        record.load(path)
    assert "\n" not in str(caught.value)


def test_missing_record_is_an_error_of_ours(tmp_path):
    with pytest.raises(RecordError, match="not a record of a cell"):
        record.load(tmp_path / "none.json")


def test_record_of_another_schema_says_which(tmp_path):
    path = record.save(made(schema=7), tmp_path)
    with pytest.raises(RecordError, match="schema 7; this version of flowzoo reads 2"):
        record.load(path)


def test_fields_of_a_later_version_are_passed_over(tmp_path):
    values = dataclasses.asdict(made()) | {"mood": "good"}
    path = tmp_path / "r.json"
    path.write_text(json.dumps(values | {"sha256": record._digest(values)}))
    assert record.load(path) == made()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (RuntimeError("CUDA out of memory.\nTried"), "RuntimeError: CUDA out of memory. Tried"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_error_as_one_line(error, line):
    assert record.one_line(error) == line
