"""A bench with folds: every group tested once, resumed, joined in the table; weights where groups are balanced."""

import pandas as pd
import pytest
import torch

import flowzoo
from flowzoo.config import ConfigError
from flowzoo.data import Data, Fold
from flowzoo.harness import RunDirectoryError
from flowzoo.harness.single import evaluate_one
from flowzoo.record import load_scores
from flowzoo.seeding import generator
from flowzoo.stats import clustered_mean

pytestmark = pytest.mark.xdist_group(__name__)  # one worker: what it begins with takes long

TRAIN = {"steps": 30, "evaluate_every": 10, "batch_size": 64}
MAF = {"maf": {"num_steps": 1, "hidden_features": 8}}


def galaxies(balanced=False, count=9, **options):
    """Groups of unequal sizes about their contexts."""
    sizes = torch.arange(count) * 40 + 230
    groups = torch.arange(count).repeat_interleave(sizes)
    source = generator(0, "galaxies")
    context = torch.randn(count, 1, generator=source)
    x = context[groups] + torch.randn(len(groups), 2, generator=source)
    return Data(x, context, groups, groups, names=("x", "y"), balanced=balanced, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("folds") / "run"
    return flowzoo.bench(MAF, galaxies(), out=out, train=TRAIN, folds=3, context_gain=True, show=False)


def test_every_fold_is_a_cell_and_every_group_is_tested_once(run):
    assert len(run.records) == 6
    assert sorted(known.stem for known in run.records if known.model == "maf") == [
        f"data.maf.0.fold{k}" for k in range(3)
    ]
    assert run.table["model"].tolist() in (["maf", "gaussian"], ["gaussian", "maf"])
    tested = torch.cat([torch.tensor(known.n_test)[None] for known in run.records if known.model == "maf"])
    assert int(tested.sum()) == len(galaxies())
    row = run.table.set_index("model").loc["maf"]
    nlls = [known.metrics["nll_nats"] for known in run.records if known.model == "maf"]
    assert row["nll_nats"] == pytest.approx(sum(n * v for n, v in zip(tested, nlls, strict=True)) / tested.sum())
    kept = [load_scores(run.path / "cells" / f"data.maf.0.fold{k}.json") for k in range(3)]
    gain, groups = (torch.cat([part[name] for part in kept]) for name in ("context_gain.by_event", "group"))
    assert (row["context_gain"], row["context_gain_se"]) == pytest.approx(clustered_mean(gain, groups))
    assert pd.read_csv(run.path / "table.csv")["seeds"].tolist() == [1, 1]


def test_bench_with_folds_goes_on_where_it_stopped(run, fits):
    lost = run.path / "cells" / "data.maf.0.fold1.json"
    before = lost.read_text()
    lost.unlink()
    again = flowzoo.bench(MAF, galaxies(), out=run.path, train=TRAIN, folds=3, context_gain=True, show=False)
    assert fits == ["data maf seed 0 fold 1", "data maf seed 0 fold 1, no context"]
    assert again.table["nll_nats"].tolist() == run.table["nll_nats"].tolist()
    assert lost.exists()
    assert before


def test_point_statistics_are_of_test_groups_and_pictures_of_the_first_fold(run):
    scores = {
        c.stem: flowzoo.report.table.records.load_scores(run.path / "cells" / f"{c.stem}.json") for c in run.records
    }
    first, second = scores["data.maf.0.fold0"], scores["data.maf.0.fold1"]
    assert first["examples.real"].shape == first["examples.drawn"].shape
    assert first["examples.real"].shape[0] == 2
    assert "examples.real" not in second
    notes = next(c.notes for c in run.records if c.stem == "data.maf.0.fold0")
    assert any("events a half, of 3 of 3 test groups" in note for note in notes)


def test_flow_of_a_fold_is_evaluated_on_what_it_left_out(run):
    known = next(c for c in run.records if c.stem == "data.maf.0.fold2")
    with pytest.raises(ConfigError, match="was trained on data given in Python"):
        evaluate_one(run.path / "checkpoints" / "data.maf.0.fold2.safetensors")
    found = flowzoo.load(run.path / "checkpoints" / "data.maf.0.fold2.safetensors")
    test = flowzoo.Splits.make(galaxies(), fold=(2, 3)).test
    with torch.no_grad():
        assert -float(found(test.x, test.context).double().mean()) == pytest.approx(known.metrics["nll_nats"], abs=1e-6)


def test_flow_of_a_fold_of_a_registered_dataset_is_evaluated_with_the_same_split(tmp_path):
    options = {"folds": 2, "baseline": False}
    done = flowzoo.bench(MAF, "two_moons", out=tmp_path / "run", train={"steps": 5}, show=False, **options)
    for known in done.records:
        found = evaluate_one(tmp_path / "run" / "checkpoints" / f"{known.stem}.safetensors")
        assert found.metrics["nll_nats"] == pytest.approx(known.metrics["nll_nats"], abs=1e-6)


def test_balanced_groups_count_the_same_in_the_table(tmp_path):
    data = galaxies(balanced=True)
    done = flowzoo.bench({"gaussian": {}}, data, out=tmp_path / "run", folds=3, show=False)
    values, groups = [], []
    for k, known in enumerate(done.records):
        test = flowzoo.Splits.make(data, fold=(k, 3)).test
        flow = flowzoo.load(tmp_path / "run" / "checkpoints" / f"{known.stem}.safetensors")
        with torch.no_grad():
            values.append(flow(test.x, test.context))
        groups.append(test.groups)
    scores, labels = torch.cat(values).double(), torch.cat(groups)
    by_group = torch.stack([scores[labels == g].mean() for g in range(9)])
    row = done.table.iloc[0]
    assert row["nll_nats"] == pytest.approx(-float(by_group.mean()), rel=1e-6)
    # of equal weights for groups: the error of a mean of nine numbers
    assert row["nll_se"] == pytest.approx(float(by_group.std()) / 3, rel=1e-6)
    assert row["nll_nats"] != pytest.approx(-clustered_mean(scores, labels)[0], rel=1e-6)


def test_folds_of_the_data_decide_how_many_there_are(tmp_path):
    data = galaxies(count=8)
    folds = [Fold((data.groups % 2 == k) * 2, data.context + k) for k in range(2)]
    data = galaxies(count=8, folds=folds)
    with pytest.raises(ConfigError, match="has 2 folds of its own, and none was asked for; ask for 2"):
        flowzoo.bench({"gaussian": {}}, data, out=tmp_path / "run")
    done = flowzoo.bench({"gaussian": {}}, data, out=tmp_path / "run", folds=2)
    assert [known.status for known in done.records] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("folds", "says"), [(1, "folds must be 2 or more"), (40, "9 groups can be cut into 2 to 9 folds")]
)
def test_folds_that_there_cannot_be_are_refused_before_training(tmp_path, folds, says):
    with pytest.raises(ConfigError, match=says):
        flowzoo.bench({"gaussian": {}}, galaxies(), out=tmp_path / "run", folds=folds)


def test_leave_one_group_out_has_a_gain_whose_error_is_over_all_groups(tmp_path):
    data = galaxies(count=5)
    done = flowzoo.bench(
        {"gaussian": {}}, data, out=tmp_path / "run", folds=5, context_gain=True, fractions=(0.6, 0.2, 0.2), show=False
    )
    assert [known.status for known in done.records] == ["ok"] * 5
    assert all("context_gain_se" not in known.metrics for known in done.records)
    assert done.table["context_gain_se"].iloc[0] > 0
    assert done.table["nll_se"].iloc[0] > 0


@pytest.mark.parametrize(
    ("first", "second", "says"), [(0, 3, "without folds, and this one is with"), (3, 0, "with folds")]
)
def test_folder_of_another_folding_is_refused(tmp_path, first, second, says):
    flowzoo.bench({"gaussian": {}}, galaxies(), out=tmp_path / "run", folds=first, show=False)
    with pytest.raises(RunDirectoryError, match=says):
        flowzoo.bench({"gaussian": {}}, galaxies(), out=tmp_path / "run", folds=second, show=False)


def test_readme_of_a_run_with_folds_has_the_hash_of_the_table(run):
    text = (run.path / "README.md").read_text()
    assert f"3 folds, together {run.table['split_hash'].iloc[0]}" in text


def test_states_of_other_levels_of_noise_are_refused_and_those_of_finished_cells_removed(tmp_path):
    folder = tmp_path / "run"
    flowzoo.bench(MAF, galaxies(), out=folder, train=TRAIN, baseline=False, show=False)
    left = folder / "checkpoints" / "data.maf.0.state.noise1.safetensors"
    left.write_bytes(b"left")
    flowzoo.bench(MAF, galaxies(), out=folder, train=TRAIN, baseline=False, show=False)
    assert not left.exists()
    (folder / "cells" / "data.maf.0.json").unlink()
    left.write_bytes(b"left")
    with pytest.raises(RunDirectoryError, match=r"noise1.safetensors was left by a run with other levels"):
        flowzoo.bench(MAF, galaxies(), out=folder, train=TRAIN, baseline=False, show=False)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 8), (4, 6)])
def test_events_of_several_channels_are_evaluated(tmp_path, shape):
    x = torch.randn(120, *shape, generator=generator(0, "x"))
    data = Data(x, torch.randn(120, 2, generator=generator(0, "c")))
    done = flowzoo.bench({"gaussian": {}}, data, out=tmp_path / "run", show=False)
    assert done.records[0].status == "ok", done.records[0].reason
