"""The suite of datasets: an honest one passes, and each planted fault is caught by the check that is named for it."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from flowzoo.bijectors import Compose, Log, Logit, Standardize
from flowzoo.config import ConfigError
from flowzoo.data import Data, Levels, References
from flowzoo.inference import Box, Gaussian
from flowzoo.registry import DATASETS
from flowzoo.seeding import generator
from flowzoo.testing import DATASET_CHECKS, NotApplicable, check_dataset, dataset_case

NOISE = 0.5
SPREAD = (1 + NOISE**2) ** 0.5  # of x, whatever theta
ENTROPY = math.log(2 * math.pi * math.e * NOISE**2)  # of two numbers


class Line:
    """x = theta + noise, two of each: theta ~ N(0, 1), three observations at each."""

    seed: int

    def load(self):
        theta = self.theta(generator(self.seed, "theta"))
        index = torch.arange(len(theta)).repeat_interleave(3)
        data = Data(
            x=self.draw(theta[index], generator(self.seed, "x")),
            context=theta,
            context_index=index,
            groups=index,
            names=("a", "b"),
            units=("m", "m"),
            context_names=("alpha", "beta"),
            prior=Gaussian([0.0, 0.0], [1.0, 1.0]),
            simulate=self.simulate,
            true_log_prob=self.true_log_prob,
            references={"nll": ENTROPY},
            reference_posteriors=self.references,
            notes=("made of nothing",),
        )
        return replace(data, **self.changes(data))

    def theta(self, source):
        return torch.randn(200, 2, generator=source)

    def draw(self, theta, source):
        return theta + NOISE * torch.randn(theta.shape, generator=source)

    simulate = draw

    def true_log_prob(self, x, context):
        return torch.distributions.Normal(context, NOISE).log_prob(x).sum(-1)

    def references(self):
        truth = torch.randn(20, 2, generator=generator(0, "truth"))
        x = self.draw(truth, generator(0, "observed"))
        # Of the precisions 1 and 1 / noise^2 the posterior has the sum.
        spread = (1 + NOISE**-2) ** -0.5
        noise = torch.randn(20, 500, 2, generator=generator(0, "posterior"))
        return References(x, (x * spread**2 / NOISE**2)[:, None] + spread * noise, truth, {"NPE": 0.6})

    def changes(self, data):
        return {}


class Counted(Line):
    """Integers with a uniform law, given nothing."""

    def load(self):
        x = torch.randint(8, (300, 2), generator=generator(self.seed, "x"))
        return replace(Data(x=x, levels=Levels(0, 1, 8)), **self.changes(None))


class Painted(Line):
    """White images, which do not change if they are flipped, given how bright they are."""

    def load(self):
        context = torch.rand(100, 1, generator=generator(self.seed, "context"))
        x = context[..., None, None] + torch.randn(100, 1, 4, 4, generator=generator(self.seed, "x"))
        return Data(
            x=x, context=context, augment=("flip",), side=(1.0, "m"), periodic=(1, 2), true_log_prob=self.true_log_prob
        )

    def true_log_prob(self, x, context):
        return torch.distributions.Normal(context[..., None, None], 1.0).log_prob(x).flatten(1).sum(1)


def dataset(name, base=Line, said=None, **members):
    """A kind of class with other members, or whose ``Data`` says something else."""
    if said is not None:
        members["changes"] = lambda self, data: said
    return dataclass(frozen=True)(type(name, (base,), members | {"seed": 0, "__annotations__": {"seed": int}}))


class OneWay(Standardize):
    """Comes back to another place."""

    def to_data(self, u):
        x, slope = super().to_data(u)
        return x + 0.1, slope


class Flat(Standardize):
    """Forgets half of its slope, both ways."""

    def to_latent(self, x):
        u, slope = super().to_latent(x)
        return u, 0.5 * slope

    def to_data(self, u):
        x, slope = super().to_data(u)
        return x, 0.5 * slope


def globally(self, theta, source):
    return theta + NOISE * torch.randn(theta.shape)


def wider(self, theta, source):
    return theta + 2 * NOISE * torch.randn(theta.shape, generator=source)


def scored(spread, offset=0.0):
    """A density of another width, or not normalised."""
    return lambda self, x, context: torch.distributions.Normal(context, spread).log_prob(x).sum(-1) + offset


def brighter_above(self, x, context):
    return Painted.true_log_prob(self, x, context + x[..., :1, :1].flatten(1))


def references(**changes):
    def made(self):
        known = Line.references(self)
        return replace(known, **{name: change(getattr(known, name)) for name, change in changes.items()})

    return made


FAULTS = {
    "loads_the_same_twice": [
        dataset("Fickle", theta=lambda self, source: torch.randn(200, 2)),
        dataset("Seeding", theta=lambda self, source: torch.randn(200, 2, generator=torch.manual_seed(0))),
    ],
    "says_what_columns_are": [
        dataset("Nameless", said={"names": ("a",)}),
        dataset("Twins", said={"names": ("a", "a")}),
        dataset("Units", said={"context_units": ("m",)}),
        dataset("Axes", said={"periodic": (1,)}),
        dataset("Flipped", said={"augment": ("flip",)}),
        dataset("Lines", said={"notes": ("one\ntwo",)}),
        dataset("Ids", said={"group_names": ("first",)}),
    ],
    "splits_keep_groups_whole": [dataset("Torn", said={"groups": torch.arange(600)})],
    "maps_come_back": [
        dataset("There", said={"x_map": OneWay((2,))}),
        dataset("Given", said={"context_map": OneWay((2,))}),
    ],
    "maps_have_their_log_det": [
        dataset("Slope", said={"x_map": Flat((2,))}),
        dataset("Slopes", said={"context_map": Flat((2,))}),
    ],
    "levels_are_respected": [
        dataset("Ends", Counted, said={"x_map": Compose(Log(), Standardize((2,)))}),
        dataset("Narrow", Counted, said={"x_map": Compose(Logit(0, 8, 1e-9), Standardize((2,)))}),
    ],
    "prior_covers_theta": [
        dataset("Outside", said={"prior": Box([-0.5, -0.5], [0.5, 0.5])}),
        dataset("Wider", said={"prior": Gaussian([0.0, 0.0], [9.0, 9.0])}),
    ],
    "simulator_repeats": [
        dataset("Chance", simulate=globally),
        dataset("Shaped", simulate=lambda self, theta, source: Line.draw(self, theta, source)[:, :1]),
        dataset("Moving", simulate=lambda self, theta, source: Line.draw(self, theta.mul_(2), source)),
        dataset("Fixed", simulate=lambda self, theta, source: theta + NOISE),
    ],
    "simulator_makes_the_events": [dataset("Noisy", simulate=wider)],
    "true_density_integrates_to_one": [dataset("Unnormalised", true_log_prob=scored(NOISE, 0.1))],
    "true_density_is_that_of_the_events": [
        dataset("Sharp", true_log_prob=scored(0.7 * NOISE)),
        dataset("Blunt", true_log_prob=scored(1.4 * NOISE)),
        dataset("Deaf", true_log_prob=lambda self, x, c: torch.distributions.Normal(0.0, SPREAD).log_prob(x).sum(-1)),
        dataset("Lost", true_log_prob=lambda self, x, c: scored(NOISE)(self, x, c) + torch.inf * (x[:, 0] > 2)),
    ],
    "symmetries_leave_the_density_alone": [dataset("Lit", Painted, true_log_prob=brighter_above)],
    "best_nll_is_that_of_the_density": [dataset("Hopeful", said={"references": {"nll": ENTROPY - 0.3}})],
    "reference_posteriors_fit": [
        dataset("Turned", references=references(theta=lambda t: t.transpose(0, 1))),
        dataset("Shifted", references=references(theta=lambda t: t + 1)),
        dataset("Shuffled", references=references(truth=lambda t: 3 * t.roll(1, 0))),
        dataset("Perfect", references=references(published=lambda p: {"NPE": 1.2})),
    ],
}

HONEST = [dataset("Honest"), dataset("Honest", Counted), dataset("Honest", Painted)]


def planted_faults():
    return [pytest.param(check, fault, id=f"{check}-{fault.__name__}") for check, of in FAULTS.items() for fault in of]


@pytest.mark.parametrize("honest", HONEST, ids=lambda cls: cls.__base__.__name__)
def test_honest_dataset_passes_every_check_that_applies(register, honest):
    excused = check_dataset(register(DATASETS, honest))
    assert (
        set(excused)
        == {
            "Line": {"levels_are_respected", "symmetries_leave_the_density_alone"},
            "Counted": set(list(DATASET_CHECKS)[6:]),
            "Painted": set(list(DATASET_CHECKS)[5:]) - {"symmetries_leave_the_density_alone", TRUE},
        }[honest.__base__.__name__]
    )


TRUE = "true_density_is_that_of_the_events"


@pytest.mark.parametrize(("check", "fault"), planted_faults())
def test_planted_fault_is_caught_by_the_check_named_for_it(register, check, fault):
    case = dataset_case(register(DATASETS, fault))
    with pytest.raises(AssertionError) as caught:
        DATASET_CHECKS[check](case)
    assert str(caught.value)


def test_every_check_has_a_planted_fault():
    assert set(DATASET_CHECKS) == set(FAULTS)


def test_message_has_the_figures_and_the_check(register):
    name = register(DATASETS, FAULTS["best_nll_is_that_of_the_density"][0])
    with pytest.raises(AssertionError, match=r"said to be 1\.1516; over the events it is 1\.4\d+ \+- 0\.0") as caught:
        check_dataset(name)
    assert caught.value.__notes__ == ["in the check best_nll_is_that_of_the_density of hopeful"]


def test_check_that_a_dataset_excuses_is_not_run_and_its_reason_is_returned(register):
    excuses = {"simulator_makes_the_events": "it simulates another epoch"}
    found = check_dataset(register(DATASETS, dataset("Excused", simulate=wider, exempt=excuses)))
    assert found["simulator_makes_the_events"] == "it simulates another epoch"
    with pytest.raises(ValueError, match=r"misspelt is exempt from unknown checks \['simulate'\]; known are loads_the"):
        check_dataset(register(DATASETS, dataset("Misspelt", exempt={"simulate": "nothing"})))


def test_options_are_those_given_over_those_that_the_dataset_states(register):
    name = register(DATASETS, dataset("Stated", conformance={"options": {"seed": 3}}))
    assert dataset_case(name).config.seed == 3
    assert dataset_case(name, seed="4").config.seed == 4
    with pytest.raises(ConfigError, match="stated has no option 'seeds': did you mean 'seed'"):
        dataset_case(name, seeds=1)


def test_dataset_without_its_files_says_so_and_nothing_passes(tmp_path):
    with pytest.raises(NotApplicable, match="a file of mnist is not there: no such folder: /nowhere"):
        check_dataset("mnist", root="/nowhere")
    with pytest.raises(NotApplicable, match="mnist needs options: mnist needs `root`, the folder with"):
        check_dataset("mnist")
    with pytest.raises(NotApplicable, match="table needs options: table needs path; "):
        check_dataset("table")
    with pytest.raises(ConfigError, match="num_train must be at least 1"):
        check_dataset("mnist", root=str(tmp_path), num_train=0)


def test_data_without_a_density_are_refused_as_by_the_harness(register):
    with pytest.raises(ValueError, match=r"column 'b': all 600 rows are 0; a constant has no density"):
        check_dataset(register(DATASETS, dataset("Constant", draw=lambda self, t, s: t * torch.tensor([1.0, 0.0]))))
