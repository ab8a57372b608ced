"""Which flow of a run directory is used, and what is said of it."""

from pathlib import Path

import pytest
import torch

import flowzoo
from flowzoo import checkpoint, record
from flowzoo.config import ConfigError
from flowzoo.harness.chosen import find_flow
from flowzoo.record import Record


def run_directory(folder: Path, **nll: float | None) -> Path:
    """Flows of ``dataset__model__seed``, with this validation NLL; None: the training failed."""
    (folder / "checkpoints").mkdir(parents=True)
    for name, value in nll.items():
        data, model, seed = name.split("__")
        history = [{"validation_nll": (value or 0) + 1}, {"validation_nll": value or 0}, {"validation_nll": 99.0}]
        flow = flowzoo.build(model, (2,), (1,), generator=torch.Generator().manual_seed(0))
        fit = {"status": "failed" if value is None else "ok", "history": history}
        path = folder / "checkpoints" / f"{data}.{model}.{seed}.safetensors"
        checkpoint.save(flow, path, data={"name": data}, fit=fit)
    return folder


def scored(run: Path, **nll: float) -> Path:
    """The same with records of ``dataset__model__seed`` of this test NLL."""
    for name, value in nll.items():
        data, model, seed = name.split("__")
        log_prob = -value + 0.01 * torch.randn(300, generator=torch.Generator().manual_seed(0))
        metrics = {"nll_nats": -float(log_prob.double().mean())}
        cell = Record(data, model, int(seed), "h", "ok", metrics=metrics, split_hash="abc", n_test=300)
        record.save(cell, run / "cells", {"log_prob": log_prob, "group": torch.arange(300)})
    return run


def said(run: Path, model: str | None = None) -> str:
    path, text = find_flow(run, model)
    assert text.startswith(f"{path.name.split('.')[1]} from {path.name}")
    return text


def test_the_flow_is_that_of_the_verdict(tmp_path: Path) -> None:
    run = scored(run_directory(tmp_path, d__maf__0=1.0, d__nsf__0=3.0, d__nsf__1=2.0), d__maf__0=1.5, d__nsf__0=1.2)
    assert said(run) == (
        "nsf from d.nsf.1.safetensors: nsf is what the verdict of the run takes; "
        "the lowest validation NLL (2 nats) of 2 flows"
    )
    assert said(run, "maf") == "maf from d.maf.0.safetensors"


def test_what_the_verdict_takes_may_have_no_flow(tmp_path: Path) -> None:
    run = scored(run_directory(tmp_path, d__maf__0=1.0), d__maf__0=1.5, d__nsf__0=1.2)
    assert said(run) == "maf from d.maf.0.safetensors"


def test_without_a_verdict_it_is_the_flow_of_the_lowest_validation(tmp_path: Path) -> None:
    run = run_directory(tmp_path, d__maf__0=2.0, d__maf__1=1.5, d__gaussian__0=3.0, d__nsf__0=None)
    assert said(run) == "maf from d.maf.1.safetensors: the lowest validation NLL (1.5 nats) of 3 flows"
    assert said(run, "gaussian") == "gaussian from d.gaussian.0.safetensors"
    with pytest.raises(ConfigError, match="no flow of nsf whose training ended well; there are gaussian, maf"):
        find_flow(run, "nsf")
    file = run / "checkpoints" / "d.maf.0.safetensors"
    assert said(file) == "maf from d.maf.0.safetensors"
    with pytest.raises(ConfigError, match="is a flow of maf, not of gaussian"):
        find_flow(file, "gaussian")


def test_folds_are_not_compared_with_one_another(tmp_path: Path) -> None:
    run = run_directory(tmp_path, d__maf__0=2.0, d__maf__1=1.0)
    for name, fold in (("d.maf.0", 0), ("d.maf.1", 1)):
        path = run / "checkpoints" / f"{name}.safetensors"
        tensors, meta = checkpoint.load_tensors(path)
        checkpoint.save_tensors(path, tensors, {**meta, "split": {"fold": fold, "folds": 2}})
    assert said(run) == "maf from d.maf.0.safetensors: the lowest validation NLL (2 nats) of 1 flow of fold 0"


def test_run_of_several_datasets_has_no_best_flow(tmp_path: Path) -> None:
    run = run_directory(tmp_path, gas__maf__0=2.0, stars__maf__0=1.5)
    with pytest.raises(ConfigError, match=r"flows of gas, stars, whose NLL do not compare; give one file"):
        find_flow(run)


def test_directory_without_flows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no trained flows"):
        find_flow(tmp_path)
