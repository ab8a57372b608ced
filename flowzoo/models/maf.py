"""Masked autoregressive flow, by zuko."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flowzoo.models._zuko import ZukoModel, flows
from flowzoo.nets import Activation, activation, widths
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class MAF(ZukoModel):
    r"""Affine autoregressive transforms :math:`z_i = x_i\, e^{s_i(x_{<i}, c)} + t_i(x_{<i}, c)`.

    Papamakarios, Pavlakou and Murray 2017, arXiv:1705.07057, section 3. The order of the features is reversed from one
    transform to the next. Of one feature it is a conditional Gaussian.

    Args:
        num_steps: autoregressive transforms.
        hidden_features: widths of each masked network; an int is two equal layers.
        activation: between them: ``relu``, ``silu``, ``elu`` or ``tanh``.
    """

    num_steps: int = 5
    hidden_features: int | tuple[int, ...] = (128, 128)
    activation: Activation = "relu"

    family: ClassVar[str] = "autoregressive, affine"
    inverse: ClassVar[str] = "one network pass a transform, in D steps"
    paper: ClassVar[str] = "Papamakarios et al. 2017, arXiv:1705.07057"

    def make(self, features: int, context: int) -> Any:
        """zuko's transforms; see ``ZukoModel``."""
        return flows.MAF(
            features,
            context,
            transforms=self.num_steps,
            hidden_features=widths(self.hidden_features),
            activation=activation(self.activation),
        )

    @classmethod
    def suggest(cls, trial: Any) -> MAF:
        """Depth and width."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 2, 10),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256, 512]),
            activation=trial.suggest_categorical("activation", ["relu", "silu"]),
        )
