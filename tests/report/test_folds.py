"""Folds joined: every group once, means over events, one fault spoils the whole."""

import pytest
import torch

from flowzoo.record import Record, from_stem
from flowzoo.report import join_folds, make_table
from flowzoo.report.table import Cell
from flowzoo.stats import clustered_mean, joint_p

GROUPS = (torch.tensor([0, 0, 0, 0, 3, 3]), torch.tensor([1, 1, 2]))


def scores(model, fold):
    size = len(GROUPS[fold])
    return torch.randn(size, generator=torch.Generator().manual_seed(10 * fold + len(model)), dtype=torch.float64)


def cell(model, fold, *, status="ok", reason=None, weight=None, folds=2, **metrics):
    log_prob = scores(model, fold)
    counted = log_prob if weight is None else weight * log_prob
    values = {"nll_nats": -float(counted.mean()), "train_seconds": 1.0 + fold, **metrics}
    record = Record(
        *("stars", model, 0, "h", status, reason),
        metrics=values if status == "ok" else {},
        n_test=len(log_prob),
        split_hash=f"split{fold}",
        config={"bench": {"folds": folds}},
        fold=fold,
    )
    tensors = {"log_prob": log_prob, "group": GROUPS[fold]} | ({} if weight is None else {"weight": weight})
    return Cell(record, tensors if status == "ok" else {})


def test_nll_of_folds_is_over_all_events_and_its_error_over_all_groups():
    (joined,) = join_folds([cell("maf", 1, roundtrip_error=1e-5), cell("maf", 0, roundtrip_error=1e-3)])
    both, groups = torch.cat([scores("maf", 0), scores("maf", 1)]), torch.cat(GROUPS)
    assert joined.record.metrics["nll_nats"] == pytest.approx(-float(both.mean()))
    assert joined.record.metrics["train_seconds"] == 1.5
    assert joined.record.metrics["roundtrip_error"] == 1e-3
    assert joined.record.fold is None
    assert torch.equal(joined.scores["group"], groups)
    row = make_table([joined]).frame.iloc[0]
    assert row["nll_se"] == pytest.approx(clustered_mean(both, groups)[1])


def test_margin_between_models_is_paired_over_the_events_of_all_folds():
    table = make_table(join_folds([cell(model, fold) for fold in (0, 1) for model in ("maf", "nsf-x")]))
    rows = table.frame.set_index("model")
    worse = rows.index[~rows["best"]][0]
    best = rows.index[rows["best"]][0]
    difference = torch.cat([scores(best, k) - scores(worse, k) for k in (0, 1)])
    mean, error = clustered_mean(difference, torch.cat(GROUPS))
    assert rows.loc[worse, "delta_nll"] == pytest.approx(mean)
    assert rows.loc[worse, "delta_se"] == pytest.approx(error)


def test_balanced_folds_count_every_group_once():
    weights = (torch.tensor([0.75] * 4 + [1.5] * 2), torch.tensor([0.75, 0.75, 1.5]))
    (joined,) = join_folds([cell("maf", k, weight=weights[k].double()) for k in (0, 1)])
    both, groups = torch.cat([scores("maf", 0), scores("maf", 1)]), torch.cat(GROUPS)
    by_group = torch.stack([both[groups == g].mean() for g in range(4)])
    assert joined.record.metrics["nll_nats"] == pytest.approx(-float(by_group.mean()))
    assert float((joined.scores["weight"] * both).mean()) == pytest.approx(float(by_group.mean()))


def test_gain_of_folds_has_its_error_over_all_groups():
    cells = []
    for k in (0, 1):
        found = cell("maf", k, context_gain=float(k), context_gain_se=9.0)
        found.scores["context_gain.by_event"] = torch.full((len(GROUPS[k]),), float(k), dtype=torch.float64)
        cells.append(found)
    (joined,) = join_folds(cells)
    gain = torch.cat([c.scores["context_gain.by_event"] for c in cells])
    mean, error = clustered_mean(gain, torch.cat(GROUPS))
    assert joined.record.metrics["context_gain"] == pytest.approx(mean)
    assert joined.record.metrics["context_gain_se"] == pytest.approx(error)


def test_fold_that_failed_or_was_not_run_leaves_no_mean_over_the_lucky_ones():
    failed = cell("maf", 1, status="failed", reason="the loss was not finite at step 3")
    (joined,) = join_folds([cell("maf", 0), failed])
    assert joined.record.status == "failed"
    assert joined.record.reason == "fold 1: the loss was not finite at step 3"
    assert "nll_nats" not in joined.record.metrics
    (joined,) = join_folds([cell("maf", 0, folds=4), cell("maf", 1, folds=4)])
    assert joined.record.reason == "folds not run: 2, 3"


def test_figure_that_one_fold_lacks_is_missing_with_its_reason():
    first, second = cell("maf", 0, mmd=0.1), cell("maf", 1)
    second.record.missing["mmd"] = "3 draws are not finite"
    (joined,) = join_folds([first, second])
    assert "mmd" not in joined.record.metrics
    assert joined.record.missing["mmd"] == "fold 1: 3 draws are not finite"


def test_tensors_of_groups_are_joined_and_pictures_are_those_of_the_first_fold():
    cells = [cell("maf", k) for k in (0, 1)]
    for k, found in enumerate(cells):
        found.scores["mmd.by_group"] = torch.full((2,), float(k))
        found.scores["mmd.floor_by_group"] = torch.full((2,), 10.0 + k)
        found.scores["mmd.to_population"] = torch.full((2, 4), float(k))
        found.scores["examples.group"] = torch.tensor([k])
    (joined,) = join_folds(cells)
    assert joined.scores["mmd.by_group"].tolist() == [0, 0, 1, 1]
    assert joined.scores["mmd.floor_by_group"].tolist() == [10, 10, 11, 11]
    assert joined.scores["mmd.to_population"].shape == (4, 4)
    assert joined.scores["examples.group"].tolist() == [0]


def test_cells_without_folds_stay_as_they_are():
    plain = Cell(Record("stars", "maf", 0, "h", "ok"), {})
    assert join_folds([plain]) == [plain]


@pytest.mark.parametrize("fold", [None, 0, 12])
def test_file_name_says_which_cell_it_is(fold):
    record = Record("a.b", "nflows-nsf", 3, "h", "ok", fold=fold)
    assert from_stem(record.stem) == {"dataset": "a.b", "model": "nflows-nsf", "seed": 3, "fold": fold}
    assert from_stem("table") == {}


def test_folds_and_a_run_without_them_are_no_one_table():
    plain = Cell(Record("stars", "maf", 0, "h", "ok"), {})
    with pytest.raises(ValueError, match="a run with folds and one without"):
        join_folds([plain, cell("maf", 0)])
    with pytest.raises(ValueError, match=r"stars.maf.0.fold0 is one fold; join_folds"):
        make_table([cell("maf", 0)])


def test_error_of_the_joined_record_is_that_of_the_table():
    (joined,) = join_folds([cell("maf", k, nll_se=9.0) for k in (0, 1)])
    assert joined.record.metrics["nll_se"] == pytest.approx(make_table([joined]).frame["nll_se"].iloc[0])


def test_fold_whose_posteriors_fail_is_not_averaged_away():
    (joined,) = join_folds([cell("maf", k, calibration_p=p) for k, p in enumerate((0.6, 1e-9))])
    assert joined.record.metrics["calibration_p"] == pytest.approx(2e-9)


def test_joint_p_of_folds_without_fault_is_below_a_level_as_often_as_it_says():
    p = torch.rand(4000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    below = sum(joint_p(row) < 0.05 for row in p.tolist()) / len(p)
    assert below == pytest.approx(1 - 0.99**5, abs=3 * (0.05 * 0.95 / len(p)) ** 0.5)


def test_errors_of_folds_are_those_of_a_mean_over_them():
    """Observations of all folds are one sample: four folds halve the error of one."""
    scores = torch.randn(4, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    names = ("log_posterior_truth", "log_posterior_truth_se")
    each = [dict(zip(names, (float(s.mean()), float(s.std() / 200**0.5)), strict=True)) for s in scores]
    records = [
        Record("stars", "maf", 0, "h", "ok", metrics={**value, "calibration_observations": 200.0}, n_test=200, fold=k)
        for k, value in enumerate(each)
    ]
    (joined,) = join_folds([Cell(record, {}) for record in records])
    assert joined.record.metrics["log_posterior_truth"] == pytest.approx(float(scores.mean()))
    assert joined.record.metrics["log_posterior_truth_se"] == pytest.approx(float(scores.std() / 800**0.5), rel=0.01)
    assert joined.record.metrics["calibration_observations"] == 800


def test_brier_score_of_folds_is_over_all_events():
    (joined,) = join_folds([cell("maf", k, class_brier=float(k)) for k in (0, 1)])
    assert joined.record.metrics["class_brier"] == pytest.approx(len(GROUPS[1]) / 9)
