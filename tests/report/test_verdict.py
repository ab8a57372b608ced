"""What is said of a table: which flow to take, and why."""

import dataclasses
import math

import pytest
import torch

from flowzoo.metrics.c2st import accuracy
from flowzoo.record import Record
from flowzoo.report import verdicts
from flowzoo.report._floors import beside_floor
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
    assert "maf is 0.300 nats an event above the exact density" in lines
    assert not any("c2st" in line for line in lines)  # beside its floor no threshold speaks


def beside(name, value, floor, *, points=None, clouds=None):
    """The line on draws, of 300 test events in 100 groups."""
    maf = cell("maf", SHARED, **{name: value, f"{name}_floor": floor})
    one = (torch.tensor([value]), torch.tensor([floor]))
    maf.scores[f"{name}.by_group"], maf.scores[f"{name}.floor_by_group"] = clouds or one
    if points:
        maf.scores[f"{name}.points"] = torch.tensor(points)
    return said(maf).lines[1]


def test_draws_that_are_at_their_floor_are_said_to_be():
    """One cloud of 100 groups: twice 0.075 may be chance, whatever the number of their events."""
    text = "A classifier tells its draws from test events in {} of the cases, {} its floor ({}: real from real)"
    for points in (50, 150):
        assert beside("c2st", 0.811, 0.813, points=points) == text.format("0.811", "at", "0.813")
        assert beside("c2st", 0.64, 0.5, points=points) == text.format("0.640", "at", "0.500")
        assert beside("c2st", 0.66, 0.5, points=points) == text.format("0.660", "above", "0.500")
    assert beside("c2st", 0.66, 0.5, points=20) == text.format("0.660", "at", "0.500")
    assert beside("c2st", 0.9, 0.5) == text.format("0.900", "*", "0.500").replace(", * its floor", "")


def test_draws_of_many_clouds_are_judged_by_the_scatter_between_them():
    shift = torch.tensor([-0.1, 0.1]).repeat(50)
    error = float(shift.std() / 10)
    for name, start in (("c2st", "A classifier tells"), ("sw", "Its draws are")):
        for errors, word in ((1.9, "at"), (2.1, "above")):
            floors = 0.5 + 0.2 * torch.rand(100, generator=torch.Generator().manual_seed(0))
            clouds = (floors + shift + errors * error, floors)
            line = beside(name, float(clouds[0].mean()), float(floors.mean()), clouds=clouds)
            assert line.startswith(start)
            assert f", {word} its floor (0." in line


def test_distance_of_one_cloud_is_told_in_floors():
    start = "Its draws are 0.190 spreads from the test events by sliced Wasserstein, "
    assert beside("sw", 0.19, 0.1) == f"{start}less than twice its floor (0.100: real from real)"
    assert beside("sw", 0.19, 0.095) == f"{start}twice its floor or more (0.0950: real from real)"


def test_flow_without_fault_has_twice_the_floor_one_time_in_forty():
    half = torch.randn(4, 2000, 100, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real_a, real_b, drawn_a, drawn_b = half.sort(2).values

    def distance(a, b):
        return (a - b).abs().mean((1, 2))

    value, floor = (distance(real_a, drawn_b) + distance(real_b, drawn_a)) / 2, distance(real_a, real_b)
    words = [beside_floor("sw", v, f, []) for v, f in zip(value.tolist(), floor.tolist(), strict=True)]
    assert words.count("twice its floor or more") / 2000 == pytest.approx(1 / 40, abs=0.01)


@pytest.mark.slow
def test_classifier_finds_a_flow_without_fault_above_its_floor_rarely():
    found = []
    for seed in range(80):
        source = torch.Generator().manual_seed(seed)
        real_a, real_b, drawn_a, drawn_b = torch.randn(4, 40, 2, generator=source, dtype=torch.float64)
        value = float(accuracy(real_a, drawn_b) + accuracy(real_b, drawn_a)) / 2
        found.append("above" in beside("c2st", value, float(accuracy(real_a, real_b)), points=40))
    assert sum(found) <= 6  # of 2 expected


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
