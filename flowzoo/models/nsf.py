"""Neural spline flow, autoregressive, by zuko."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flowzoo.models._zuko import ZukoModel, flows
from flowzoo.nets import Activation, activation, widths
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class NSF(ZukoModel):
    r"""Autoregressive rational-quadratic splines on [-5, 5], the identity outside.

    Durkan, Bekasov, Murray and Papamakarios 2019, arXiv:1906.04032, section 3 (RQ-NSF (AR), without the linear layers
    between the transforms).

    Args:
        num_steps: autoregressive transforms.
        hidden_features: widths of each masked network; an int is two equal layers.
        activation: between them: ``relu``, ``silu``, ``elu`` or ``tanh``.
        num_bins: bins of each spline.
    """

    num_steps: int = 3
    hidden_features: int | tuple[int, ...] = (128, 128)
    num_bins: int = 8
    activation: Activation = "relu"

    family: ClassVar[str] = "autoregressive, spline"
    inverse: ClassVar[str] = "one network pass a transform, in D steps"
    paper: ClassVar[str] = "Durkan et al. 2019, arXiv:1906.04032"

    def make(self, features: int, context: int) -> Any:
        """zuko's transforms; see ``ZukoModel``."""
        return flows.NSF(
            features,
            context,
            transforms=self.num_steps,
            hidden_features=widths(self.hidden_features),
            activation=activation(self.activation),
            bins=self.num_bins,
        )

    @classmethod
    def suggest(cls, trial: Any) -> NSF:
        """Depth, width and bins."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 1, 6),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256, 512]),
            activation=trial.suggest_categorical("activation", ["relu", "silu"]),
            num_bins=trial.suggest_categorical("num_bins", [4, 8, 16]),
        )
