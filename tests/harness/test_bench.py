import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from torch import Tensor

import flowzoo
from flowzoo import checkpoint, record
from flowzoo.harness import RunDirectoryError, execute
from flowzoo.harness.plan import Cell, default_out
from flowzoo.models.maf import MAF
from flowzoo.record import Record, RecordError
from flowzoo.registry import UnknownName

Plan = Callable[..., list[Cell]]
Break = Callable[[Exception | Callable[[Tensor], Tensor]], None]

TINY = {"maf": {"num_steps": 1, "hidden_features": 16}}
TRAIN = {"steps": 20}
TIMING = ["train_seconds", "sample_seconds_per_1000", "posterior_seconds", "peak_memory_mb"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# -- what a run leaves


@pytest.mark.usefixtures("figures")
def test_run_directory_holds_the_tables_the_records_and_the_flows(plan: Plan, tmp_path: Path) -> None:
    done = execute(
        plan(["gaussian", "maf"], seeds=(0, 1), posteriors=50), tmp_path / "run", command="flowzoo bench --models maf"
    )
    assert done.failed == []
    stems = [f"two_moons.{model}.{seed}" for model in ("gaussian", "maf") for seed in (0, 1)]
    expected = {"README.md", "report.html", "table.csv", "table.md", "table.tex", ".lock"}
    expected |= {f"figures/{kind}.two_moons.png" for kind in ("nll", "training", "calibration")}
    expected |= {f"cells/{stem}{end}" for stem in stems for end in (".json", ".safetensors")}
    expected |= {f"checkpoints/{stem}.safetensors" for stem in stems}
    found = {str(p.relative_to(done.path)) for p in done.path.rglob("*") if p.is_file()}
    assert found - {".lock"} == expected - {".lock"}
    assert "    flowzoo bench --models maf\n" in (done.path / "README.md").read_text()

    frame = pd.read_csv(done.path / "table.csv")
    assert list(frame.columns[:5]) == ["dataset", "model", "seeds", "nll_nats", "nll_se"]
    assert {"nll_seed_se", "nll_per_dim", "bits_per_dim", "excess_nll", "delta_nll", "status", "reason"} <= set(frame)
    for row in frame.to_dict("records"):
        records = [json.loads((done.path / "cells" / f"two_moons.{row['model']}.{s}.json").read_text()) for s in (0, 1)]
        nlls = [r["metrics"]["nll_nats"] for r in records]
        assert row["nll_nats"] == pytest.approx(np.mean(nlls), rel=1e-12)
        assert row["nll_seed_se"] == pytest.approx(np.std(nlls, ddof=1) / 2**0.5, rel=1e-9, abs=1e-12)
        assert row["nll_per_dim"] == pytest.approx(row["nll_nats"] / 2, rel=1e-12)
        assert row["seeds"] == 2
        assert row["status"] == "ok"
    assert frame["bits_per_dim"].isna().all()  # two_moons is continuous
    for model in ("gaussian", "maf"):
        assert model in (done.path / "table.md").read_text()
        assert model in (done.path / "table.tex").read_text()


def test_default_folder_is_that_of_the_plan(plan: Plan) -> None:
    cells = plan(["gaussian"])
    assert execute(cells).path == Path(default_out(cells))
    assert execute(plan(["gaussian"])).path == Path(default_out(cells))
    assert [p.name for p in Path("runs").iterdir()] == [Path(default_out(cells)).name]


# -- what is run again


def test_finished_cells_are_not_run_again(plan: Plan, fits: list[str]) -> None:
    seen: list[tuple[str, bool]] = []

    def on_record(found: Record, known: bool) -> None:
        seen.append((found.model, known))

    first = execute(plan(["gaussian", "maf"]), "run", on_record=on_record)
    again = execute(plan(["gaussian", "maf"]), "run", on_record=on_record)
    assert len(fits) == 2
    assert seen == [("gaussian", False), ("maf", False), ("gaussian", True), ("maf", True)]
    pd.testing.assert_frame_equal(first.table, again.table)  # the times too: nothing was measured anew


def test_a_model_more_runs_that_model_alone(plan: Plan, fits: list[str]) -> None:
    execute(plan(["gaussian"]), "run")
    assert execute(plan(["gaussian", "maf"]), "run").table["model"].nunique() == 2
    assert fits == ["two_moons gaussian seed 0", "two_moons maf seed 0"]


def test_table_is_of_the_plan_and_not_of_all_that_lies_there(plan: Plan) -> None:
    execute(plan(["gaussian", "maf"]), "run")
    Path("run/cells/notes.json").write_text("[not a record")
    done = execute(plan(["maf"]), "run")
    assert list(done.table["model"]) == list(done.flows) == ["maf"]


@pytest.mark.parametrize("fault", [RuntimeError("no"), torch.OutOfMemoryError("no room"), MemoryError("no room"), None])
def test_failed_cell_is_a_row_and_the_only_one_that_runs_again(
    plan: Plan, fits: list[str], break_maf: Break, monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    cells = plan(["gaussian", "maf", "nice"])
    build = MAF.build
    break_maf(fault if fault is not None else lambda z: z * torch.nan)
    done = execute(cells, "run")
    rows = done.table.set_index("model")
    assert dict(rows["status"]) == {"gaussian": "ok", "nice": "ok", "maf": "failed"}
    assert rows.loc["maf", "reason"] == done.failed[0].reason
    assert str(fault or "not finite") in rows.loc["maf", "reason"]
    assert np.isnan(rows.loc["maf", "nll_nats"])
    assert list(done.flows) == ["gaussian", "nice"]
    assert "failed" in (done.path / "table.md").read_text()

    del fits[:]
    monkeypatch.setattr(MAF, "build", build)
    again = execute(cells, "run")
    assert fits == ["two_moons maf seed 0"]
    assert again.failed == []
    assert set(again.table["status"]) == {"ok"}
    assert np.isfinite(again.table["nll_nats"]).all()


# -- what is refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": {"steps": 21}}, "train.steps was 20, now 21"),
        ({"train": {"lr": 0.1}}, "train.lr was .*, now 0.1"),
        ({"draws": 10}, "bench.draws was 30, now 10"),
        ({"split_seed": 4}, "bench.split_seed was 0, now 4"),
        ({"options": {"num_events": 301}}, "data.num_events was 300, now 301"),
    ],
)
def test_other_options_for_a_run_directory_are_refused_by_name(
    plan: Plan, fits: list[str], change: dict[str, Any], words: str
) -> None:
    first = execute(plan(), "run")
    before = {p: p.read_bytes() for p in first.path.rglob("*") if p.is_file()}
    with pytest.raises(RunDirectoryError, match=words) as caught:
        execute(plan(**change), "run")
    assert "give another --out" in str(caught.value)
    assert len(fits) == 1
    assert {p: p.read_bytes() for p in first.path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [({"train": {"steps": 60, "checkpoint_every": 5}}, r"train\.steps was 50, now 60"), ({"split_seed": 1}, "split")],
)
def test_other_options_are_refused_where_a_killed_run_left_a_state(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    train = {"steps": 50, "checkpoint_every": 5}
    real = checkpoint.save

    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(plan(train=train), "run")
    state = Path("run/checkpoints/two_moons.maf.0.state.safetensors")
    before = state.read_bytes()
    monkeypatch.setattr(checkpoint, "save", real)
    with pytest.raises(RunDirectoryError, match=words):
        # The baseline has no record yet: it may not be run and so spoil the folder for the first command.
        execute(plan(["gaussian", "maf"], **{"train": train, **change}), "run")
    assert state.read_bytes() == before
    assert not list(Path("run/cells").iterdir())
    assert execute(plan(train=train), "run").failed == []
    assert not state.exists()


def test_run_directory_in_use_is_refused_and_free_afterwards(plan: Plan) -> None:
    Path("run/cells").mkdir(parents=True)
    with FileLock("run/.lock"), pytest.raises(RunDirectoryError, match=r"run is in use by another flowzoo process"):
        execute(plan(["gaussian"]), "run")
    assert execute(plan(["gaussian"]), "run").failed == []


def test_lock_is_free_after_an_error(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(found: Record, known: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(plan(["gaussian"]), "run", on_record=interrupted)
    assert execute(plan(["gaussian"]), "run").failed == []


def test_folder_that_cannot_be_made_is_refused(plan: Plan, fits: list[str]) -> None:
    Path("file").touch()
    for out in ("/dev/null/x", "file", "file/x/y"):
        with pytest.raises(RunDirectoryError, match=f"cannot write to {out} .*give another --out"):
            execute(plan(["gaussian"]), out)
    assert fits == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_refused(plan: Plan) -> None:
    Path("fixed").mkdir(mode=0o555)
    with pytest.raises(RunDirectoryError, match=r"cannot write to fixed/run \(Permission denied\)"):
        execute(plan(["gaussian"]), "fixed/run")


@pytest.mark.parametrize("name", ["README.md", "table.csv"])
def test_files_of_somebody_else_are_not_overwritten(plan: Plan, name: str) -> None:
    Path("project").mkdir()
    Path("project", name).write_text("precious")
    with pytest.raises(RunDirectoryError, match=f"project holds a {name} and no run of flowzoo"):
        execute(plan(["gaussian"]), "project")
    assert [p.name for p in Path("project").iterdir()] == [name]
    assert Path("project", name).read_text() == "precious"


@pytest.mark.parametrize("room", [0, 1, 2, 4, 7, 9])
def test_full_disk_is_one_line_and_the_same_command_goes_on(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    cells = plan(["gaussian", "maf"], train={"checkpoint_every": 5})
    whole = execute(cells, "undisturbed")
    real, left = os.fsync, [room]

    def fsync(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(RunDirectoryError, match=r"cannot write to full \(No space left on device\)") as caught:
            execute(cells, "full")
    assert "\n" not in str(caught.value)
    for path in Path("full/cells").glob("*.json"):
        assert record.load(path).status == "ok"
    assert not [p for p in Path("full").rglob(".*.tmp")]
    done = execute(cells, "full")
    pd.testing.assert_frame_equal(done.table.drop(columns=TIMING), whole.table.drop(columns=TIMING))


# -- torn and foreign files


def spoil_json(text: str) -> Callable[[Path], None]:
    return lambda cells: (cells / "two_moons.maf.0.json").write_text(text) and None


def truncate(cells: Path) -> None:
    path = cells / "two_moons.maf.0.json"
    path.write_bytes(path.read_bytes()[:300])


def of_another_cell(cells: Path) -> None:
    (cells / "two_moons.maf.0.json").write_bytes((cells / "two_moons.gaussian.0.json").read_bytes())


def truncate_scores(cells: Path) -> None:
    path = cells / "two_moons.maf.0.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def scores_of_another_cell(cells: Path) -> None:
    (cells / "two_moons.maf.0.safetensors").write_bytes((cells / "two_moons.gaussian.0.safetensors").read_bytes())


@pytest.mark.parametrize(
    "spoil",
    [
        truncate,
        spoil_json(""),
        spoil_json("[]"),
        spoil_json("{}"),
        spoil_json('{"metrics": {"nll_nats": -99}}'),
        of_another_cell,
        truncate_scores,
        scores_of_another_cell,
        lambda cells: (cells / "two_moons.maf.0.safetensors").unlink(),
    ],
)
def test_damaged_cell_is_refused_before_training_and_the_line_says_what_to_delete(
    plan: Plan, fits: list[str], spoil: Callable[[Path], None]
) -> None:
    cells = plan(["gaussian", "maf"])
    whole = execute(cells, "run")
    spoil(Path("run/cells"))
    with pytest.raises((RunDirectoryError, RecordError)) as caught:
        execute(plan(["nice", "gaussian", "maf"]), "run")
    assert "run/cells/two_moons.maf.0.json" in str(caught.value)
    assert "delete" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(fits) == 2
    Path("run/cells/two_moons.maf.0.json").unlink()  # what it says
    again = execute(cells, "run")
    pd.testing.assert_frame_equal(again.table.drop(columns=TIMING), whole.table.drop(columns=TIMING))
    assert len(fits) == 3


def test_damaged_state_is_refused_and_the_line_says_to_delete_it(plan: Plan, fits: list[str]) -> None:
    state = Path("run/checkpoints/two_moons.maf.0.state.safetensors")
    state.parent.mkdir(parents=True)
    Path("run/cells").mkdir()
    state.write_bytes(b"torn")
    with pytest.raises(RunDirectoryError, match=f"{state}: .*delete it"):
        execute(plan(["gaussian", "maf"]), "run")
    assert fits == []
    state.unlink()
    assert execute(plan(["gaussian", "maf"]), "run").failed == []


def test_what_a_killed_process_left_half_written_is_swept(plan: Plan) -> None:
    execute(plan(["gaussian"]), "run")
    for folder in ("run", "run/cells", "run/checkpoints"):
        Path(folder, ".two_moons.json.abc.tmp").write_bytes(b"half")
    execute(plan(["gaussian"]), "run")
    assert not list(Path("run").rglob("*.tmp"))


# -- from Python


def bench(**arguments: Any) -> flowzoo.harness.BenchResult:
    return flowzoo.bench(**{"models": TINY, "train": TRAIN, "baseline": False, "draws": 20, **arguments})


def test_arrays_tensors_and_both_precisions_give_the_same_run() -> None:
    x, context, groups = normal(200, 3), normal(200, 2, seed=1), np.arange(200) // 4
    kinds: list[Callable[[np.ndarray], Any]] = [
        lambda a: a,
        lambda a: a.astype(np.float32) if a.dtype.kind == "f" else a,
        lambda a: torch.from_numpy(a.copy()),
        lambda a: torch.from_numpy(a.copy()).float() if a.dtype.kind == "f" else torch.from_numpy(a.copy()),
        lambda a: a.astype(a.dtype.newbyteorder(">")),  # as FITS files hold them
        lambda a: a[::-1].copy()[::-1],
        lambda a: np.broadcast_to(a, a.shape),  # read-only
        lambda a: a.tolist(),
    ]
    nlls = []
    for i, kind in enumerate(kinds):
        done = bench(x=kind(x), context=kind(context), groups=kind(groups), out=f"run{i}")
        nlls.append(float(done.table["nll_nats"].iloc[0]))
    assert nlls == [nlls[0]] * len(kinds)
    table = pd.DataFrame(x, columns=["a", "b", "c"])
    assert float(bench(x=table, context=context, groups=[f"g{g}" for g in groups]).table["nll_nats"].iloc[0]) == nlls[0]


def test_groups_from_python_are_not_torn_apart() -> None:
    groups = torch.arange(200) // 20
    done = bench(x=normal(200, 2), groups=groups, models="gaussian")
    test = record.load_scores(done.path / "cells" / "data.gaussian.0.json")["group"]
    labels, counts = torch.unique(test, return_counts=True)
    assert len(labels) == 2  # a fifth of ten groups, each of them whole
    assert counts.tolist() == [20, 20]


def test_one_column_without_context() -> None:
    done = bench(x=normal(200), models=["maf", "gaussian"])
    flow = done.flows["maf"]
    assert (flow.event_shape, flow.context_shape) == ((1,), (0,))
    assert flow.sample(shape=(7,)).shape == (7, 1)
    assert done.table["context_use"].isna().all()
    assert "the data has no context" in {m.reason for m in done.comparison.missing if m.column == "context_use"}


def test_one_column_of_context_and_an_image_of_context() -> None:
    assert bench(x=normal(200, 2), context=normal(200)).flows["maf"].context_shape == (1,)
    assert bench(x=normal(200, 2), context=normal(200, 1, 3, 3)).flows["maf"].context_shape == (1, 3, 3)


def test_context_for_another_number_of_events_is_refused_and_never_reshaped() -> None:
    with pytest.raises(ValueError, match="one row per event; got 400 rows for 200 events"):
        bench(x=normal(200, 2), context=normal(400, 3))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": np.arange(200)}, r"levels=\(low, step, count\)"),
        ({"x": np.array(["a", "b"])}, "x must hold numbers"),
        ({"x": normal(200), "groups": [0.0, float("nan")] * 100}, "100 of 200 events have none"),
        ({"x": normal(200), "groups": [0, 1, 2]}, "groups must have one entry per event"),
        ({"x": normal(200), "steps": 5}, "bench has no option 'steps'"),
        ({"x": normal(200), "train": {"step": 5}}, "did you mean 'steps'"),
        ({"x": normal(200), "models": []}, "no models to compare"),
        ({"x": np.full(200, np.nan)}, "200 of 200 rows are not finite"),
        ({"x": 2459000.5 + 0.3 * normal(200)}, "x: float32 does not resolve its scatter"),
        ({"x": normal(200), "groups": normal(200, 2)}, r"groups must be \(N,\)"),
        ({"data": []}, "no data to compare on"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    arguments: dict[str, Any], words: str, fits: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        bench(**arguments)
    assert "\n" not in str(caught.value)
    assert fits == []
    assert not list(tmp_path.iterdir())


def test_name_as_text_is_one_model() -> None:
    assert list(bench(x=normal(200), models="gaussian").table["model"]) == ["gaussian"]
    with pytest.raises(UnknownName, match="did you mean maf"):
        bench(x=normal(200), models="maff")


def test_data_of_ones_own_is_benched_and_sampled_from() -> None:
    x = torch.randint(0, 4, (300, 2), generator=torch.Generator().manual_seed(0))
    context = torch.eye(3)
    data = flowzoo.Data(
        x=x, context=context, context_index=torch.arange(300) % 3, levels=flowzoo.data.Levels(0, 1, 4), names=("a", "b")
    )
    done = bench(data=data, models=["gaussian"], seeds=(0, 1))
    assert done.path.parts[0] == "runs"
    row = done.table.iloc[0]
    assert (row["dataset"], row["model"], row["seeds"]) == ("data", "gaussian", 2)
    # Uniform levels: two bits each, and an upper bound on them.
    assert 2 - 0.05 < row["bits_per_dim"] < 2.2
    drawn = done.flows["gaussian"].sample(context, (500,))
    assert drawn.shape == (500, 3, 2)
    assert abs(float(drawn.mean()) - 2) < 0.2
    again = bench(data=data, models=["gaussian"], seeds=(0, 1))
    assert again.path == done.path


def test_flow_by_name_is_that_of_the_best_validation() -> None:
    done = bench(x=normal(200, 2), seeds=(0, 1, 2))
    files = sorted((done.path / "checkpoints").glob("*.safetensors"))
    best = min(files, key=lambda f: min(h["validation_nll"] for h in checkpoint.read_meta(f)["fit"]["history"]))
    want, got = flowzoo.load(best).state_dict(), done.flows["maf"].state_dict()
    assert len(files) == 3
    assert all(torch.equal(want[k], got[k]) for k in want)


def test_readme_of_a_run_from_python_shows_the_call_and_not_the_interpreter() -> None:
    text = (bench(x=normal(200, 2), seeds=(0, 1)).path / "README.md").read_text()
    assert "flowzoo.bench(models={'maf': {'num_steps': 1, 'hidden_features': 16}}, x=<ndarray of 200x2>" in text
    assert "seeds=(0, 1)" in text
    assert "pytest" not in text


def test_several_datasets_give_a_section_each(plan: Plan) -> None:
    done = execute(
        [*plan(["gaussian"]), *plan(["gaussian"], data="linear_gaussian", posteriors=0, reference_draws=0)], "run"
    )
    assert list(done.table["dataset"]) == ["two_moons", "linear_gaussian"]
    assert list(done.table["best"]) == [True, True]


def test_cell_without_an_nll_is_a_row_without_a_number(plan: Plan, break_maf: Break) -> None:
    cells = plan(["gaussian", "maf"])

    def fault(z: Tensor) -> Tensor:
        # finite in training and validation (batches of 210 and 30), not on the 60 test events
        return z * torch.nan if len(z) == 60 else z

    break_maf(fault)
    done = execute(cells, "run")
    row = done.table.set_index("model").loc["maf"]
    assert row["status"] == "ok"
    assert np.isnan(row["nll_nats"])
    reasons = {m.column: m.reason for m in done.comparison.missing if m.model == "maf"}
    assert reasons["nll_nats"] == "log q is not finite at 60 of 60 test events"
    assert execute(cells, "run").table["model"].tolist() == ["gaussian", "maf"]
