"""Bernstein polynomial flow, by zuko."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flowzoo.models._zuko import ZukoModel, flows
from flowzoo.nets import Activation, activation, widths
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class BPF(ZukoModel):
    r"""Autoregressive increasing Bernstein polynomials on [-5, 5], the identity outside.

    Ramasinghe, Fernando, Khan and Barnes 2021, arXiv:2102.03509, section 3. The inverse is iterated.

    Args:
        num_steps: autoregressive transforms.
        hidden_features: widths of each masked network; an int is two equal layers.
        activation: between them: ``relu``, ``silu``, ``elu`` or ``tanh``.
        degree: of the polynomials.
    """

    num_steps: int = 3
    hidden_features: int | tuple[int, ...] = (128, 128)
    degree: int = 16
    activation: Activation = "relu"

    family: ClassVar[str] = "autoregressive, polynomial"
    inverse: ClassVar[str] = "one network pass a transform, in D steps, each iterated"
    paper: ClassVar[str] = "Ramasinghe et al. 2021, arXiv:2102.03509"

    def make(self, features: int, context: int) -> Any:
        """zuko's transforms; see ``ZukoModel``."""
        return flows.BPF(
            features,
            context,
            transforms=self.num_steps,
            hidden_features=widths(self.hidden_features),
            activation=activation(self.activation),
            degree=self.degree,
        )

    @classmethod
    def suggest(cls, trial: Any) -> BPF:
        """Depth, width and degree."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 1, 6),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256, 512]),
            activation=trial.suggest_categorical("activation", ["relu", "silu"]),
            degree=trial.suggest_int("degree", 8, 32),
        )
