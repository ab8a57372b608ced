import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from flowzoo import record as records
from flowzoo.record import Record
from flowzoo.report.table import LEADING, TRAILING, Cell, Table, make_table, read_cells

GROUPS = torch.arange(300) // 3


def scatter(seed: int, scale: float = 1.0, size: int = 300) -> Tensor:
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def cell(
    model: str,
    log_prob: Tensor,
    *,
    seed: int = 0,
    dataset: str = "maps",
    groups: Tensor = GROUPS,
    split: str = "abc",
    metrics: dict[str, float] | None = None,
    missing: dict[str, str] | None = None,
) -> Cell:
    nll = -log_prob.double().mean().item()
    values = {"nll_nats": nll, "nll_per_dim": nll / 2, **(metrics or {})}
    record = Record(
        dataset,
        model,
        seed,
        "h",
        "ok",
        metrics=values,
        missing=missing or {},
        split_hash=split,
        n_test=len(groups),
    )
    return Cell(record, {"log_prob": log_prob, "group": groups})


SHARED_SCORES = scatter(11)


def failed(model: str, reason: str | None, seed: int = 0, dataset: str = "maps") -> Cell:
    return Cell(Record(dataset, model, seed, "h", "failed", reason=reason), {})


def row(table: Table, model: str) -> pd.Series:
    return table.frame.set_index("model").loc[model]


def why(table: Table, model: str, column: str) -> list[str]:
    return [entry.reason for entry in table.missing if (entry.model, entry.column) == (model, column)]


def test_columns_stand_in_their_order():
    extra = {"zeta": 1.0, "sw": 0.1, "train_steps": 10, "alpha": 2.0, "context_use": 0.5}
    table = make_table([cell("maf", scatter(0), metrics=extra)])
    middle = ["context_use", "sw", "train_steps", "alpha", "zeta"]
    assert list(table.frame.columns) == [*LEADING, *middle, *TRAILING]


def test_rows_go_by_dataset_then_nll_with_failures_last():
    shared = scatter(0)
    table = make_table(
        [
            failed("cglow", "out of memory", dataset="zebra"),
            cell("maf", shared - 2, dataset="zebra"),
            cell("nsf", shared - 1, dataset="zebra"),
            cell("maf", shared, dataset="ape"),
        ]
    )
    assert list(zip(table.frame.dataset, table.frame.model, strict=True)) == [
        ("zebra", "nsf"),
        ("zebra", "maf"),
        ("zebra", "cglow"),
        ("ape", "maf"),
    ]


def test_nll_and_its_error_are_those_of_the_scores():
    scores = scatter(0)
    table = make_table([cell("maf", scores)])
    means = scores.double().reshape(100, 3).mean(1)
    assert row(table, "maf").nll_nats == pytest.approx(-scores.double().mean().item())
    assert row(table, "maf").nll_se == pytest.approx(means.std().item() / 10)


def test_pairing_finds_a_difference_that_two_error_bars_hide():
    shared = scatter(0, scale=20.0)
    table = make_table([cell("maf", shared), cell("nsf", shared - 0.2 + scatter(1, scale=0.1))])
    maf, nsf = row(table, "maf"), row(table, "nsf")
    assert nsf.nll_nats - maf.nll_nats < 0.2 * math.hypot(maf.nll_se, nsf.nll_se)
    assert nsf.delta_nll == pytest.approx(nsf.nll_nats - maf.nll_nats)
    assert nsf.delta_nll > 10 * nsf.delta_se
    assert not nsf.tied


def test_a_difference_within_two_standard_errors_is_a_tie():
    shared = scatter(0, scale=20.0)
    noise = scatter(1, scale=0.1)
    noise -= noise.mean()
    se = noise.reshape(100, 3).mean(1).std().item() / 10
    for offset, tied in ((1.9 * se, True), (2.1 * se, False)):
        table = make_table([cell("maf", shared), cell("nsf", shared - offset + noise)])
        assert row(table, "nsf").tied == tied
        assert row(table, "maf").best
        assert row(table, "maf").tied
        assert not row(table, "nsf").best


def test_the_gaussian_baseline_is_compared_like_all():
    shared = scatter(0)
    table = make_table([cell("gaussian", shared + 1), cell("maf", shared)])
    assert row(table, "gaussian").best
    assert row(table, "maf").delta_nll == pytest.approx(1.0)


def test_groups_widen_the_error():
    effect = scatter(2, size=100)[GROUPS]
    together = make_table([cell("maf", effect), cell("nsf", scatter(3) + effect - 1)])
    each = torch.arange(300)
    apart = make_table([cell("maf", effect, groups=each), cell("nsf", scatter(3) + effect - 1, groups=each)])
    assert row(together, "maf").nll_se == pytest.approx(math.sqrt(3) * row(apart, "maf").nll_se, rel=0.02)


def test_seed_error_apart_from_group_error():
    events = scatter(0, scale=5.0)
    offsets = torch.tensor([0.0, 1.0, 5.0])
    seeds = [cell("maf", events + offset, seed=i) for i, offset in enumerate(offsets)]
    found = row(make_table(seeds), "maf")
    assert found.seeds == 3
    assert found.nll_nats == pytest.approx(-(events.mean() + 2).item(), rel=1e-5)
    assert found.nll_seed_se == pytest.approx((offsets.std() / 3**0.5).item())
    # A constant by seed is no scatter between groups.
    assert found.nll_se == pytest.approx(row(make_table(seeds[:1]), "maf").nll_se, rel=1e-5)


def test_one_seed_has_no_seed_error():
    table = make_table([cell("maf", scatter(0))])
    assert math.isnan(row(table, "maf").nll_seed_se)
    assert why(table, "maf", "nll_seed_se") == ["one seed"]


def test_seeds_are_averaged_before_models_are_paired():
    shared = scatter(0, scale=10.0)
    noise = [scatter(10 + i) for i in range(4)]
    cells = [cell("maf", shared, seed=i) for i in range(4)]
    cells += [cell("nsf", shared - 1 + n, seed=i) for i, n in enumerate(noise)]
    averaged = torch.stack(noise).mean(0).double().reshape(100, 3).mean(1)
    assert row(make_table(cells), "nsf").delta_se == pytest.approx(averaged.std().item() / 10, rel=1e-4)


def test_failed_cell_is_a_row_with_its_reason():
    table = make_table([cell("maf", scatter(0)), failed("cglow", "out of memory"), failed("nsf", None)])
    found = row(table, "cglow")
    assert (found.status, found.reason, found.seeds) == ("failed", "out of memory", 0)
    assert found[["nll_nats", "nll_se", "delta_nll", "nll_per_dim"]].isna().all()
    assert not found.best
    assert not found.tied
    assert row(table, "nsf").reason == "no reason was recorded"
    assert row(table, "maf").status == "ok"
    assert row(table, "maf").reason == ""


def test_a_dataset_on_which_all_failed_has_rows_and_no_best():
    table = make_table([failed("maf", "no memory"), failed("nsf", "no memory")])
    assert list(table.frame.status) == ["failed", "failed"]
    assert not table.frame.best.any()


def test_a_seed_that_failed_makes_the_row_partial_and_is_named():
    table = make_table([cell("maf", scatter(0)), failed("maf", "no memory", 1), failed("maf", "no memory", 2)])
    found = row(table, "maf")
    assert (found.status, found.seeds, found.reason) == ("partial", 1, "seeds 1, 2: no memory")
    assert found.best


def test_seeds_that_fail_differently_are_told_apart():
    table = make_table([failed("maf", "no memory", 0), failed("maf", "diverged", 1)])
    assert row(table, "maf").reason == "seed 0: no memory; seed 1: diverged"


def test_missing_metric_is_empty_with_reason():
    lost = {"sw": "3 of 100 draws are not finite"}
    table = make_table(
        [cell("maf", scatter(0), metrics={"sw": 0.1}), cell("nsf", scatter(1), missing=lost)],
    )
    assert row(table, "maf").sw == 0.1
    assert math.isnan(row(table, "nsf").sw)
    assert why(table, "nsf", "sw") == ["3 of 100 draws are not finite"]


def test_a_metric_that_no_model_has_is_a_column_with_its_reason():
    table = make_table([cell("maf", scatter(0), missing={"context_use": "the data has no context"})])
    assert table.frame.context_use.isna().all()
    assert why(table, "maf", "context_use") == ["the data has no context"]


def test_every_empty_number_of_a_finished_model_has_a_reason():
    table = make_table([cell("maf", scatter(0)), cell("nsf", scatter(1), metrics={"sw": 1.0}), failed("nice", "x")])
    for _, found in table.frame[table.frame.status == "ok"].iterrows():
        for column in table.frame.columns:
            if pd.isna(found[column]):
                assert why(table, found.model, column), (found.model, column)


def test_a_metric_of_some_seeds_is_their_mean_and_says_so():
    cells = [cell("maf", scatter(0), seed=i, metrics={"sw": float(i)}) for i in (1, 3)]
    cells.append(cell("maf", scatter(0), seed=4, missing={"sw": "out of time"}))
    table = make_table(cells)
    assert row(table, "maf").sw == 2.0
    assert why(table, "maf", "sw") == ["mean over 2 of 3 seeds; seed 4: out of time"]


def test_seed_whose_posteriors_fail_is_not_averaged_away():
    p = (0.9, 1e-9, 0.8)
    table = make_table([cell("maf", scatter(0), seed=i, metrics={"sbc_p": each}) for i, each in enumerate(p)])
    assert row(table, "maf").sbc_p == pytest.approx(3e-9)
    lost = cell("maf", scatter(0), seed=3, missing={"sbc_p": "out of time"})
    table = make_table([cell("maf", scatter(0), metrics={"sbc_p": 0.4}), lost])
    assert row(table, "maf").sbc_p == pytest.approx(0.4)
    assert why(table, "maf", "sbc_p") == ["joint p over 1 of 2 seeds; seed 3: out of time"]


def test_an_infinite_nll_of_one_seed_is_not_averaged_away():
    bad = scatter(0)
    bad[7] = -math.inf
    broken = cell("nsf", bad, seed=1, missing={"nll_nats": "log q is not finite at 1 of 300 test events"})
    del broken.record.metrics["nll_nats"], broken.record.metrics["nll_per_dim"]
    table = make_table([cell("maf", scatter(0) - 9), cell("nsf", scatter(0)), broken])
    found = row(table, "nsf")
    assert found.status == "ok"
    assert found[["nll_nats", "nll_se", "nll_seed_se", "delta_nll", "delta_se"]].isna().all()
    assert not found.tied
    assert row(table, "maf").best
    assert why(table, "nsf", "nll_nats") == ["seed 1: log q is not finite at 1 of 300 test events"]
    assert why(table, "nsf", "delta_nll") == ["log q is not finite at 1 of 300 test events"]
    assert list(table.frame.model) == ["maf", "nsf"]


@pytest.mark.parametrize("what", ["split", "groups"])
def test_different_splits_are_not_compared(what):
    other = {"split": {"split": "def"}, "groups": {"groups": GROUPS.flip(0)}}[what]
    table = make_table([cell("maf", scatter(0)), cell("nsf", scatter(0) - 1, **other)])
    assert table.frame[["delta_nll", "delta_se"]].isna().all(axis=None)
    assert not table.frame.best.any()
    assert not table.frame.tied.any()
    for model in ("maf", "nsf"):
        (reason,) = why(table, model, "delta_nll")
        assert "splits differ" in reason


def test_the_models_that_share_a_split_are_compared_without_the_one_that_does_not():
    shared = scatter(0)
    table = make_table([cell("maf", shared), cell("nsf", shared - 1), cell("nice", shared + 5, split="def")])
    assert row(table, "maf").best
    assert row(table, "nsf").delta_nll == pytest.approx(1.0)
    assert math.isnan(row(table, "nice").delta_nll)
    assert "nice on def" in why(table, "nice", "delta_nll")[0]
    assert not why(table, "nsf", "delta_nll")


def test_seeds_on_different_splits_have_no_common_scores():
    table = make_table([cell("maf", scatter(0)), cell("maf", scatter(1), seed=1, split="def")])
    found = row(table, "maf")
    assert found.split_hash == "abc; def"
    assert math.isfinite(found.nll_nats)
    assert math.isnan(found.nll_se)
    assert not found.best
    assert "splits" in why(table, "maf", "nll_se")[0]


def test_a_single_group_claims_no_tie():
    one = torch.zeros(300, dtype=torch.long)
    shared = scatter(0)
    table = make_table([cell("maf", shared, groups=one), cell("nsf", shared - 1e-6, groups=one)])
    assert table.frame[["nll_se", "delta_se"]].isna().all(axis=None)
    assert list(table.frame.best) == [True, False]
    assert list(table.frame.tied) == [True, False]
    assert "one test group" in why(table, "nsf", "delta_se")[0]


def test_cells_without_scores_keep_their_metrics_and_are_not_compared():
    bare = Cell(cell("nsf", scatter(0)).record, {})
    table = make_table([cell("maf", scatter(1)), bare])
    assert math.isfinite(row(table, "nsf").nll_nats)
    assert math.isnan(row(table, "nsf").delta_nll)
    assert why(table, "nsf", "delta_nll") == ["its per-event scores are not there"]


def test_the_same_cell_twice_is_refused():
    with pytest.raises(ValueError, match=r"maps\.maf\.0"):
        make_table([cell("maf", scatter(0)), cell("maf", scatter(1))])


def test_no_cells_make_an_empty_table():
    table = make_table([])
    assert list(table.frame.columns) == [*LEADING, *TRAILING]
    assert len(table.frame) == 0


def test_records_on_disk_make_the_same_table(tmp_path: Path):
    cells = [
        cell("maf", scatter(0)),
        cell("nsf", scatter(1), metrics={"sw": 0.2}),
        failed("nice", "diverged"),
    ]
    for one in cells:
        records.save(one.record, tmp_path / "cells", one.scores or None)
    for folder in (tmp_path, tmp_path / "cells"):
        found, errors = read_cells(folder)
        assert errors == []
        pd.testing.assert_frame_equal(make_table(found).frame, make_table(cells).frame)


def test_an_unreadable_record_is_a_failed_row_and_an_error(tmp_path: Path):
    good = cell("maf", scatter(0))
    records.save(good.record, tmp_path / "cells", good.scores)
    (tmp_path / "cells" / "maps.nsf.3.json").write_text('{"dataset": "ma')
    (tmp_path / "cells" / "notes.json").write_text("[]")
    found, errors = read_cells(tmp_path)
    assert [Path(str(e).split(":")[0]).name for e in errors] == ["maps.nsf.3.json", "notes.json"]
    table = make_table(found)
    assert list(table.frame.model) == ["maf", "nsf"]
    assert row(table, "nsf").status == "failed"
    assert "delete it to run the cell again" in row(table, "nsf").reason


def test_unreadable_scores_cost_the_comparison_only(tmp_path: Path):
    good = cell("maf", scatter(0))
    path = records.save(good.record, tmp_path / "cells", good.scores)
    path.with_suffix(".safetensors").write_bytes(b"nonsense")
    found, errors = read_cells(tmp_path)
    assert "maps.maf.0.safetensors: not the scores of a cell" in str(errors[0])
    assert row(make_table(found), "maf").nll_nats == good.record.metrics["nll_nats"]
    assert not row(make_table(found), "maf").best


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere: expected the folder of a run"):
        read_cells(tmp_path / "nowhere")


def test_model_below_one_that_is_not_tied_is_not_tied_however_large_its_error():
    wild = SHARED_SCORES.clone()
    wild[:3] -= 1e6
    cells = [cell("best", SHARED_SCORES), cell("worse", SHARED_SCORES - 1.0), cell("wild", wild)]
    table = make_table(cells)
    assert row(table, "wild")["delta_nll"] < 2 * row(table, "wild")["delta_se"]
    assert not row(table, "worse")["tied"]
    assert not row(table, "wild")["tied"]
    assert row(make_table([cells[0], cells[2]]), "wild")["tied"]


def test_gain_of_tuning_is_paired_with_the_default_config_of_the_same_model():
    shared = scatter(0, scale=20.0)
    noise = scatter(1, scale=0.1)
    table = make_table(
        [
            cell("maf", shared, metrics={"validation_nll": 3.0}),
            cell("maf-tuned", shared + 0.5 + noise, metrics={"validation_nll": 2.5}),
            cell("nsf", shared + 1),
        ]
    )
    tuned = row(table, "maf-tuned")
    assert tuned.tuning_gain == pytest.approx(0.5 + noise.double().mean().item(), abs=1e-5)
    assert tuned.tuning_gain_se == pytest.approx(noise.reshape(100, 3).double().mean(1).std().item() / 10, rel=1e-5)
    assert math.isnan(row(table, "maf").tuning_gain)
    assert math.isnan(row(table, "nsf").tuning_gain)


def test_tables_without_tuned_configs_have_no_gain_of_tuning():
    assert "tuning_gain" not in make_table([cell("maf", scatter(0))]).frame


def test_a_tuned_config_alone_has_no_gain():
    table = make_table([cell("maf-tuned", scatter(0)), failed("maf", "out of memory")])
    assert math.isnan(row(table, "maf-tuned").tuning_gain)
