"""What is said of a table: which flow to take, and why."""

import dataclasses
import math

import pytest
import torch

from flowzoo.record import Record
from flowzoo.report import verdicts
from flowzoo.report.figures_training import HISTORY
from flowzoo.report.table import Cell, make_table

SHARED = 20 * torch.randn(300, generator=torch.Generator().manual_seed(0))
SE = {"log_posterior_truth_se": 0.025}
NOISE = 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(1))
TIE = SHARED + NOISE - NOISE.mean() - 1e-4


def cell(model, log_prob, *, groups=100, history=None, **metrics):
    values = {"nll_nats": -float(log_prob.double().mean()), **metrics}
    record = Record("maps", model, 0, "h", "ok", metrics=values, split_hash="abc", n_test=300)
    scores = {"log_prob": log_prob, "group": torch.arange(300) % groups}
    if history is not None:
        scores[HISTORY] = torch.tensor([[step, 0.0, nll] for step, nll in history], dtype=torch.float64)
    return Cell(record, scores)


def said(*cells):
    (found,) = verdicts(make_table(cells), cells)
    return found


def test_best_is_taken_with_its_lead():
    found = said(cell("far", SHARED - 3), cell("near", SHARED - 1 + NOISE), cell("best", SHARED))
    assert found.take == "best"
    assert found.lines[0].startswith("best has the lowest NLL of events that no training saw")
    assert found.lines[0].endswith("less than near")
    assert "0.9954 ± 0.0066 less" in found.lines[0]


def test_ties_are_named_and_the_first_without_a_bad_column_is_taken():
    cells = [cell("best", SHARED, calibration_p=1e-9, sbc_p=1e-9), cell("tie", TIE, calibration_p=0.5, sbc_p=1e-4)]
    found = said(*cells, cell("far", SHARED - 3, calibration_p=0.4))
    assert found.take == "tie"
    assert found.lines[0].endswith("; tie is within two standard errors of it")
    assert "best is bad in calibration, and tie in nothing" in found.lines
    assert "The posteriors of tie pass the calibration tests (p = 0.50)" in found.lines


def test_best_that_is_bad_is_taken_where_no_other_is_as_good_and_who_passes_is_named():
    found = said(cell("best", SHARED, calibration_p=1e-9), cell("far", SHARED - 3, calibration_p=0.4))
    assert found.take == "best"
    assert "It is bad in calibration" in found.lines
    wrong = [line for line in found.lines if line.startswith("The posteriors of best fail")]
    assert wrong == [
        "The posteriors of best fail the calibration tests: their error bars are not to be believed "
        "(p = 1.0e-09); those of far pass"
    ]


@pytest.mark.parametrize(
    ("gaussian", "words"),
    [
        (SHARED - 2 + NOISE, "maf has the lowest NLL of events that no training saw"),
        (TIE, "The linear-Gaussian baseline is as good within two standard errors"),
        (SHARED + 2, "No flow is better than this linear-Gaussian baseline"),
    ],
)
def test_baseline_is_what_a_flow_must_beat(gaussian, words):
    found = said(cell("maf", SHARED), cell("gaussian", gaussian))
    assert any(line.startswith(words) for line in found.lines)


def test_lead_over_the_baseline_is_said_once():
    behind = cell("gaussian", SHARED - 2 + NOISE)
    alone = said(cell("maf", SHARED), behind).lines
    assert alone[0].endswith("less than the linear-Gaussian baseline")
    assert not [line for line in alone[1:] if "baseline" in line]
    for other in (SHARED - 1 + NOISE, TIE):
        lines = said(cell("maf", SHARED), cell("nsf", other), behind).lines
        assert "baseline" not in lines[0]
        assert [line for line in lines if "nats behind it" in line]


def of_fields(**ratios):
    """A cell of images, with each field statistic so many times its floor."""
    names = ("pk_error", "pixel_w1", "peaks_error", "minkowski_error", "bispectrum_error", "scattering_distance")
    metrics = {name: 0.1 * ratios.get(name, 1.1) for name in names}
    return cell(
        "maf", SHARED, **metrics, **{f"{name}_floor": 0.1 for name in names}, pk_mean_r2=0.1, pk_mean_r2_floor=0.9
    )


def test_maps_are_judged_by_their_distance_in_floors():
    near = "Its maps are off by less than twice the floor (real from real) in all 6 field statistics"
    assert near in said(of_fields(peaks_error=1.9)).lines
    far = "Its maps are off by twice the floor (real from real) or more in "
    found = said(of_fields(peaks_error=2.5, pk_error=9.0)).lines
    assert far + "P(k) error (9.0 floors) and peaks (2.5 floors)" in found
    many = dict.fromkeys(("pk_error", "pixel_w1", "peaks_error", "minkowski_error"), 3.0)
    (line,) = [line for line in said(of_fields(**many)).lines if line.startswith(far)]
    assert line.endswith("peaks (3.0 floors) and 1 more")
    only = cell("maf", SHARED, pixel_w1=0.1, pixel_w1_floor=0.1)
    assert [line for line in said(only).lines if line.endswith("(real from real) in pixel W1")]
    assert not [line for line in said(cell("maf", SHARED)).lines if "maps" in line]


@pytest.mark.parametrize(
    ("reason", "is_said"), [("12 observations; calibration needs 20", True), ("the dataset has no prior", False)]
)
def test_why_posteriors_were_not_judged_is_said_where_they_could_be(reason, is_said):
    maf = cell("maf", SHARED)
    record = dataclasses.replace(maf.record, missing={"calibration_p": reason})
    lines = said(maf._replace(record=record)).lines
    assert (f"Whether posteriors by it are calibrated is not known: {reason}" in lines) == is_said
    assert len(lines) == 1 + is_said


def test_one_test_group_claims_no_order():
    found = said(cell("maf", SHARED, groups=1), cell("nsf", SHARED - 1, groups=1))
    assert "of one test group no error is known" in found.lines[0]


def test_few_test_groups_are_said():
    assert said(cell("a", SHARED, groups=4)).lines[-1] == (
        "Its test groups are 4: errors from so few are themselves guesses"
    )
    assert not [line for line in said(cell("a", SHARED, groups=10)).lines if "guesses" in line]


def test_gain_of_context_draws_and_excess_are_said_of_the_one_taken():
    cells = [
        cell("maf", SHARED, context_gain=0.1, context_gain_se=0.2, c2st=0.9, c2st_floor=0.5, excess_nll=0.3),
        cell("nsf", SHARED - 1, context_gain=5.0, context_gain_se=0.2, c2st=0.6, c2st_floor=0.5, excess_nll=1.3),
    ]
    lines = said(*cells).lines
    assert "Trained without its context it is 0.10 ± 0.20 nats worse: no gain that is sure" in lines
    assert "A classifier tells its draws from test events in 0.900 of the cases (0.500: real from real)" in lines
    assert "maf is 0.300 nats an event above the exact density" in lines
    assert not any("c2st" in line for line in lines)  # beside its floor no threshold speaks


def test_who_was_still_learning_is_said():
    done = [(0, 50.0), (90, 20.0), (100, 19.99)]
    learning = [(0, 50.0), (90, 30.0), (100, 20.0)]
    found = said(cell("maf", SHARED, history=done), cell("nsf", SHARED - 1, history=learning))
    assert [line for line in found.lines if "More steps" in line] == [
        "More steps are worth it: the last tenth of them gained nsf more than the error of the NLL"
    ]


def test_failures_are_said_and_nothing_is_taken_where_nothing_can_be_compared():
    broken = Cell(Record("maps", "broken", 0, "h", "failed", reason="it broke"), {})
    assert said(cell("maf", SHARED), broken).lines[-1].startswith("broken failed: the reasons")
    found = said(broken)
    assert found.take == ""
    assert found.lines == ("broken failed: the reasons are beside the table",)


def on(split, found):
    return found._replace(record=dataclasses.replace(found.record, split_hash=split))


def test_flows_of_different_events_are_told_apart_by_the_truth_of_their_posteriors():
    of_theta = [on("theta", cell(name, SHARED - i, log_posterior_truth=20.0, **SE)) for i, name in enumerate("ab")]
    of_x = on("x", cell("c", SHARED - 9, log_posterior_truth=20.29, calibration_p=0.5, **SE))
    found = said(*of_theta, of_x)
    assert found.take == "c"
    assert found.lines[0].endswith("c has the highest, 20.290 ± 0.025 nats, before a with 20.000 ± 0.025")
    near = on("x", cell("c", SHARED - 9, log_posterior_truth=20.05, **SE))
    assert said(*of_theta, near).lines[0].endswith("20.000 ± 0.025, which these errors do not tell apart")
    assert "The posteriors of c pass the calibration tests (p = 0.50)" in found.lines


def test_flows_of_different_events_without_posteriors_are_said_not_to_compare():
    found = said(*(cell(name, SHARED - i) for i, name in enumerate("ab")), on("x", cell("c", SHARED + 9)))
    assert found.take == "a"
    assert found.lines[-1] == "c was scored on other events than a: their NLLs do not compare"


def test_nothing_is_said_of_what_is_not_there():
    (line,) = said(cell("maf", SHARED)).lines
    assert line.startswith("maf has the lowest NLL")
    assert "nan" not in line
    assert math.isfinite(float(line.split(", ")[1].split(" ±")[0]))
