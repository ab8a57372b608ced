"""What is searched: the options that ``suggest`` asks for and that the user did not set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.models import ModelConfig
from flowzoo.nets import widths
from flowzoo.train_config import FitConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

C = TypeVar("C")
Answer = Callable[[str, "BaseDistribution", Any], Any]
TRAIN = "train."  # before the names of the training's options, in a study


@dataclass(frozen=True)
class Space:
    """The search space of one study, around a config as it stands.

    Args:
        model: the config as it stands; what is not searched keeps its value.
        fit: the same of the training.
        given_model: options of the model that the user set: they are not searched.
        given_train: the same of the training.
        training: whether the training's options are searched at all.

    Raises:
        ConfigError: if ``suggest`` asks for something that is no option.
    """

    model: ModelConfig
    fit: FitConfig
    given_model: frozenset[str] = frozenset()
    given_train: frozenset[str] = frozenset()
    training: bool = True
    #: what ``suggest`` asks for at the config as it stands, by name in the study
    asked: Mapping[str, BaseDistribution] = field(init=False, compare=False)
    #: the config as it stands, as values of the space; one that lies outside is left out
    present: Mapping[str, Any] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        asked: dict[str, BaseDistribution] = {}
        present: dict[str, Any] = {}

        def answer(name: str, distribution: BaseDistribution, value: Any) -> Any:
            asked[name] = distribution
            found = within(distribution, value)
            if found is not None:
                present[name] = found[0]
            return value

        self._configs(answer)
        object.__setattr__(self, "asked", asked)
        object.__setattr__(self, "present", present)

    def drawn(self, trial: Trial, *, as_it_stands: bool = False) -> tuple[ModelConfig, FitConfig]:
        """The configs of a trial, which is asked for what is searched.

        Args:
            trial: of Optuna.
            as_it_stands: whether it is that of the present config, which it then only takes down.
        """

        def answer(name: str, distribution: BaseDistribution, value: Any) -> Any:
            if not as_it_stands:
                return _ask(trial, name, distribution)
            if name in self.present:
                _ask(trial, name, distribution)
            return value

        return self._configs(answer)

    def of_params(self, params: Mapping[str, Any]) -> tuple[ModelConfig, FitConfig]:
        """The configs that the parameters of a finished trial mean."""
        return self._configs(lambda name, distribution, value: params.get(name, value))

    def _configs(self, answer: Answer) -> tuple[ModelConfig, FitConfig]:
        model = _merged(self.model, self.given_model, "", answer)
        if not self.training:
            return model, self.fit
        return model, _merged(self.fit, self.given_train, TRAIN, answer)


class _StandIn:
    """What ``suggest`` takes for Optuna's trial."""

    def __init__(self, config: Any, given: Iterable[str], prefix: str, answer: Answer) -> None:
        self.config, self.given, self.prefix, self.answer = config, frozenset(given), prefix, answer
        self.searched: list[str] = []

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        from optuna.distributions import IntDistribution

        return self._value(name, IntDistribution(low, high, log=log, step=step))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        from optuna.distributions import FloatDistribution

        return self._value(name, FloatDistribution(low, high, log=log, step=step))

    def suggest_categorical(self, name: str, choices: Iterable[Any]) -> Any:
        from optuna.distributions import CategoricalDistribution

        return self._value(name, CategoricalDistribution(tuple(choices)))

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        kind = type(self.config)
        if name not in configs.fields(kind):
            known = ", ".join(configs.fields(kind)) or "none"
            raise ConfigError(f"{kind.__name__}.suggest asks for '{name}', which is none of its options: {known}")
        value = getattr(self.config, name)
        if name in self.given:
            return value
        self.searched.append(name)
        return self.answer(f"{self.prefix}{name}", distribution, value)


def _merged(config: C, given: Iterable[str], prefix: str, answer: Answer) -> C:
    """The config, with what its ``suggest`` asked for and the user did not set."""
    suggest = getattr(type(config), "suggest", None)
    if suggest is None:
        return config
    stand_in = _StandIn(config, given, prefix, answer)
    suggested = suggest(stand_in)
    changes = {name: getattr(suggested, name) for name in stand_in.searched}
    return replace(config, **changes) if changes else config  # type: ignore[type-var]


def within(distribution: BaseDistribution, value: Any) -> tuple[Any] | None:
    """A value as the distribution knows it, in a tuple of one; None if it lies outside.

    >>> from optuna.distributions import CategoricalDistribution
    >>> within(CategoricalDistribution((64, 128)), (128, 128))
    (128,)
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    forms = [value]
    if isinstance(value, tuple | list) and value and type(value[0]) is int and widths(value[0]) == tuple(value):
        forms.append(value[0])  # an int stands for that many equal layers
    for form in forms:
        if isinstance(distribution, CategoricalDistribution):
            if any(type(form) is type(choice) and form == choice for choice in distribution.choices):
                return (form,)
        elif isinstance(distribution, IntDistribution | FloatDistribution):
            if isinstance(form, bool) or not isinstance(form, int | float):
                continue
            steps = 0.0 if not distribution.step else (form - distribution.low) / distribution.step
            if distribution.low <= form <= distribution.high and abs(steps - round(steps)) < 1e-6:
                return (form,)
    return None


def _ask(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    d = distribution
    if isinstance(d, IntDistribution):
        return trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
    if isinstance(d, FloatDistribution):
        return trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
    assert isinstance(d, CategoricalDistribution)
    return trial.suggest_categorical(name, d.choices)
