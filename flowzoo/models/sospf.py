"""Sum-of-squares polynomial flow, by zuko."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flowzoo.models._zuko import ZukoModel, flows
from flowzoo.nets import Activation, activation, widths
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class SOSPF(ZukoModel):
    r"""Autoregressive integrals of sums of squares of polynomials, which are increasing by construction.

    .. math:: z_i = t_i + \int_0^{x_i} \frac1K \sum_k \Bigl(1 + \sum_d a_{ikd}\, (u / 10)^d\Bigr)^2 du

    Jaini, Selby and Yu 2019, arXiv:1905.02325, section 3. Beyond :math:`|x_i| = 10`, in network units, it goes on along
    its tangent, so that an outlier costs nats and not their ninth power. Between the transforms stands an asinh instead
    of zuko's Softclip, so that the flow is onto; the inverse is iterated in a bracket that grows until it holds.

    Args:
        num_steps: autoregressive transforms.
        hidden_features: widths of each masked network; an int is two equal layers.
        activation: between them: ``relu``, ``silu``, ``elu`` or ``tanh``.
        degree: of each polynomial that is squared.
        polynomials: squares that are summed.
    """

    num_steps: int = 3
    hidden_features: int | tuple[int, ...] = (128, 128)
    degree: int = 4
    polynomials: int = 3
    activation: Activation = "relu"

    family: ClassVar[str] = "autoregressive, polynomial"
    inverse: ClassVar[str] = "one network pass a transform, in D steps, each iterated"
    paper: ClassVar[str] = "Jaini et al. 2019, arXiv:1905.02325"

    def make(self, features: int, context: int) -> Any:
        """zuko's transforms; see ``ZukoModel``."""
        return flows.SOSPF(
            features,
            context,
            transforms=self.num_steps,
            hidden_features=widths(self.hidden_features),
            activation=activation(self.activation),
            degree=self.degree,
            polynomials=self.polynomials,
        )

    @classmethod
    def suggest(cls, trial: Any) -> SOSPF:
        """Depth, width and the polynomials."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 1, 6),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256, 512]),
            activation=trial.suggest_categorical("activation", ["relu", "silu"]),
            degree=trial.suggest_int("degree", 2, 6),
            polynomials=trial.suggest_int("polynomials", 1, 5),
        )
