"""The suite of metrics: an honest one passes, and each planted fault is caught by the check that is named for it."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from flowzoo.config import ConfigError
from flowzoo.metrics import Column, NotComputed
from flowzoo.registry import METRICS, UnknownName
from flowzoo.testing import METRIC_CHECKS, check_metric, metric_case
from flowzoo.testing._chance import own_chance

MEANS = (
    Column("mean_distance", "lower", "distance of means, training spreads", "mean_distance_floor", 0.8, 3.0),
    Column("mean_distance_floor", "none", "the same between two halves of the test events"),
)


class Means:
    """Distance of the means of some draws and as many test events."""

    needs: ClassVar[tuple[str, ...]] = ("clouds",)
    columns: ClassVar[tuple[Column, ...]] = MEANS

    def __call__(self, evaluation):
        clouds = evaluation.clouds
        if clouds is None:
            raise NotComputed(evaluation.clouds_missing)
        self.look(clouds.drawn)
        chosen = self.chosen(clouds.real.shape[2], evaluation)
        (a, b), (_, other) = (self.mean(side[:, :, chosen]).unbind(1) for side in (clouds.real, clouds.drawn))
        value, floor = (a - other).norm(dim=-1), (a - b).norm(dim=-1)
        return {"mean_distance": float(value.mean()), "mean_distance_floor": float(floor.mean()), "by_group": value}

    def look(self, drawn):
        if not drawn.isfinite().all():
            raise NotComputed(f"{int((~drawn.isfinite()).sum())} numbers of draws are not finite")

    def chosen(self, count, evaluation):
        return torch.randperm(count, generator=evaluation.generator)[: self.points]

    def mean(self, points):
        return points.mean(2)


@dataclass(frozen=True)
class Honest(Means):
    points: int = 150


@dataclass
class Loose(Means):
    """Its options can be changed behind the back of the record."""

    points: int = 150


def declaring(name, *columns, **changes):
    """An honest metric that says something else of itself."""
    return dataclass(frozen=True)(type(name, (Honest,), {"columns": columns or MEANS, **changes}))


def returning(name, *added, **changes):
    """An honest metric that returns something else; ``added`` are columns that it declares."""

    def call(self, evaluation):
        return Honest.__call__(self, evaluation) | changes

    return dataclass(frozen=True)(type(name, (Honest,), {"__call__": call, "columns": (*MEANS, *added)}))


class Sneaky(Honest):
    """Looks at samples, of which it says nothing."""

    def __call__(self, evaluation):
        found = super().__call__(evaluation)
        more = 0.0 if evaluation.samples is None else float(evaluation.samples.mean())
        return found | {"mean_distance_floor": found["mean_distance_floor"] + more}


class Trusting(Honest):
    """Takes it for granted that there are clouds."""

    def __call__(self, evaluation):
        assert evaluation.clouds.real.ndim == 4
        return super().__call__(evaluation)


class Silent(Honest):
    """Has no reason."""

    def __call__(self, evaluation):
        if evaluation.clouds is None:
            raise NotComputed("")
        return super().__call__(evaluation)


class Zero(Honest):
    """Calls what it does not know perfect."""

    def __call__(self, evaluation):
        if evaluation.clouds is None:
            return {"mean_distance": 0.0}
        return super().__call__(evaluation)


class Global(Honest):
    """Draws from torch's process-wide generator."""

    def chosen(self, count, evaluation):
        return torch.randperm(count)[: self.points]


class Legacy(Honest):
    """Draws from numpy's."""

    def chosen(self, count, evaluation):
        return torch.from_numpy(np.random.permutation(count))[: self.points]  # noqa: NPY002


class Reseeding(Honest):
    """Seeds the process, as code that is to be reproducible likes to."""

    def chosen(self, count, evaluation):
        torch.manual_seed(0)
        return torch.arange(count)[: self.points]


class Counting(Honest):
    """Gives another number each time that it is asked."""

    asked: ClassVar[list[int]] = []

    def chosen(self, count, evaluation):
        self.asked.append(1)
        return torch.arange(count)[: self.points - len(self.asked)]


class Shifting(Honest):
    """Subtracts the first event in place."""

    def look(self, drawn):
        drawn -= drawn[:, :, :1].clone()


class Fragile(Honest):
    """Divides by the number of points less one."""

    def chosen(self, count, evaluation):
        assert 1 / (count - 1) > 0
        return super().chosen(count, evaluation)


class Single(Honest):
    """Takes the spread of one point."""

    def mean(self, points):
        return super().mean(points) + 0 * points.std(2).nan_to_num()


class Cleaner(Honest):
    """Leaves out what is not a number, and hides that the flow made it."""

    def look(self, drawn):
        pass

    def mean(self, points):
        return points.where(points.isfinite(), math.nan).nanmean(2)


class Blind(Honest):
    """Looks at real events alone."""

    def __call__(self, evaluation):
        found = super().__call__(evaluation)
        return found | {"mean_distance": found["mean_distance_floor"]}


COLUMN = {"better": "lower", "meaning": "something"}
FLIPPED = (Column("mean_distance", "higher", "distance of means", "mean_distance_floor"), MEANS[1])


@dataclass(frozen=True)
class Homebound(Means):
    """Weighs the points on the CPU, wherever they are."""

    points: int = 150

    def mean(self, points):
        return (points * torch.ones(points.shape[2], 1)).mean(2)


FAULTS = {
    "declares_its_columns": [
        declaring("Shouting", Column("Mean", **COLUMN)),
        declaring("Borrowed", Column("sw", **COLUMN)),
        declaring("Twice", MEANS[1], MEANS[1]),
        declaring("Floating", MEANS[0]),
        declaring("Sideways", Column("mean_distance", "up", "something")),
        declaring("Mute", Column("mean_distance", "lower", " ")),
        declaring("Swapped", Column("mean_distance", **COLUMN, good=0.2, bad=0.1)),
        declaring("Half", Column("mean_distance", **COLUMN, good=0.2)),
        declaring("Judging", Column("mean_distance", "none", "something", good=0.1, bad=0.2)),
        declaring("Negative", Column("mean_distance", "zero", "something", good=-0.1, bad=0.2)),
        Loose,
    ],
    "fills_what_it_declares": [
        returning("Numpy", mean_distance=np.float64(0.1)),
        returning("Integer", mean_distance=1),
        returning("Scalar", mean_distance=torch.tensor(0.1)),
        returning("Undeclared", median_distance=0.1),
        returning("Wordy", mean_distance="two\nlines"),
        returning("NotANumber", mean_distance=math.nan),
        returning("Empty", Column("mean_never", **COLUMN)),
    ],
    "looks_at_what_it_needs": [Sneaky],
    "says_what_is_missing": [Trusting, Silent, Zero],
    "works_on_a_gpu": [Homebound],
    "seed_repeats": [Global, Legacy, Reseeding, Counting],
    "changes_nothing": [Shifting],
    "few_events_do_not_break_it": [Fragile, Single],
    "what_is_not_finite_is_not_good": [Cleaner],
    "truth_is_not_bad": [declaring("Strict", Column("mean_distance", **COLUMN, good=1e-4, bad=1e-3), MEANS[1])],
    "wrong_flow_is_worse": [declaring("Flipped", *FLIPPED), Blind],
}


def planted_faults():
    return [pytest.param(check, fault, id=f"{check}-{fault.__name__}") for check, of in FAULTS.items() for fault in of]


@pytest.mark.usefixtures("_every_check_applies")
def test_honest_metric_passes_every_check(register):
    assert check_metric(register(METRICS, Honest)) == {}


@pytest.mark.parametrize(("check", "fault"), planted_faults())
def test_planted_fault_is_caught_by_the_check_named_for_it(register, check, fault):
    case = metric_case(register(METRICS, fault))
    with pytest.raises(AssertionError) as caught:
        METRIC_CHECKS[check](case)
    assert str(caught.value)


def test_every_check_has_a_planted_fault():
    assert set(METRIC_CHECKS) == set(FAULTS)


def test_message_names_the_column_and_the_figures(register):
    with pytest.raises(AssertionError, match=r"mean_distance is better if higher; of right and of wrong flows: 0\."):
        METRIC_CHECKS["wrong_flow_is_worse"](metric_case(register(METRICS, FAULTS["wrong_flow_is_worse"][0])))
    with pytest.raises(AssertionError, match=r"of vectors with nan in clouds\.drawn, mean_distance is") as caught:
        check_metric(register(METRICS, Cleaner))
    assert caught.value.__notes__ == ["in the check what_is_not_finite_is_not_good of cleaner"]


@pytest.mark.usefixtures("_every_check_applies")
def test_faulty_metric_leaves_the_evaluations_as_they_are(register):
    assert check_metric(register(METRICS, Honest)) == {}
    with pytest.raises(AssertionError, match=r"it changes clouds\.drawn of the evaluation in place"):
        check_metric(register(METRICS, Shifting))
    assert check_metric(register(METRICS, Honest)) == {}


@pytest.mark.usefixtures("_every_check_applies")
def test_check_that_a_metric_excuses_is_not_run_and_its_reason_is_returned(register):
    excuses = {"wrong_flow_is_worse": "it looks at real events alone"}
    Excused = type("Excused", (Blind,), {"exempt": excuses})
    assert check_metric(register(METRICS, Excused)) == excuses
    Misspelt = type("Misspelt", (Honest,), {"exempt": {"wrong_flow": "a misspelling would excuse nothing"}})
    with pytest.raises(ValueError, match=r"misspelt is exempt from unknown checks \['wrong_flow'\]; known are decl"):
        check_metric(register(METRICS, Misspelt))


def test_options_are_those_given_over_those_that_the_metric_states(register):
    name = register(METRICS, type("Stated", (Honest,), {"conformance": {"options": {"points": 100}}}))
    assert metric_case(name).metric.points == 100
    assert metric_case(name, points="120").metric.points == 120
    with pytest.raises(ConfigError, match="stated has no option 'point': did you mean 'points'"):
        metric_case(name, point=3)


@pytest.mark.usefixtures("_every_check_applies")
def test_metric_that_its_decorator_registered_needs_no_entry_point(monkeypatch):
    monkeypatch.setitem(METRICS._classes, "mine", None)  # taken out again after the test
    del METRICS._classes["mine"]
    METRICS.register(name="mine")(dataclass(frozen=True)(type("Mine", (Honest,), {"__module__": "elsewhere"})))
    assert check_metric("mine", points=100) == {}
    with pytest.raises(UnknownName, match="unknown metric 'yours'"):
        check_metric("yours")


@pytest.mark.usefixtures("_every_check_applies")
def test_what_does_not_apply_says_why():
    assert check_metric("context_use") == {
        "says_what_is_missing": "scores are never missing",
        "truth_is_not_bad": "its columns have no thresholds",
        "wrong_flow_is_worse": "its columns have no side",
    }


# -- the watch over chance --------------------------------------------------------------------------------------------


def test_process_wide_generators_are_as_before_whatever_is_done_inside():
    before = torch.get_rng_state()
    with pytest.raises(AssertionError, match="this moved the process-wide generator of torch"), own_chance("this"):
        torch.rand(3)
    with pytest.raises(AssertionError, match="this moved the process-wide generator of numpy"), own_chance("this"):
        np.random.rand(3)  # noqa: NPY002
    assert torch.equal(before, torch.get_rng_state())
    with own_chance("that"):
        torch.rand(3, generator=torch.Generator().manual_seed(0))
