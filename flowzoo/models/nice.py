"""NICE: additive couplings and one diagonal scale, by zuko."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flowzoo.models._zuko import AdditiveTransform, DiagonalScale, ZukoModel, coupling
from flowzoo.nets import widths
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class NICE(ZukoModel):
    r"""Additive couplings :math:`z_b = x_b + t(x_a, c)`, volume-preserving, and one learned diagonal scale on top.

    Dinh, Krueger and Bengio 2015, arXiv:1410.8516, sections 3.2 and 3.3. zuko's class of this name is affine (see
    ``realnvp``).

    Args:
        num_steps: couplings.
        hidden_features: widths of each network; an int is two equal layers.
    """

    num_steps: int = 10
    hidden_features: int | tuple[int, ...] = (128, 128)

    family: ClassVar[str] = "coupling, additive"
    inverse: ClassVar[str] = "closed form, one pass"
    paper: ClassVar[str] = "Dinh et al. 2015, arXiv:1410.8516"

    def make(self, features: int, context: int) -> Any:
        """zuko's transforms; see ``ZukoModel``."""
        hidden = {"hidden_features": widths(self.hidden_features)} if features > 1 or context else {}
        additive = coupling(features, context, self.num_steps, univariate=AdditiveTransform, shapes=[()], **hidden)
        return [*additive, DiagonalScale(features)]

    @classmethod
    def suggest(cls, trial: Any) -> NICE:
        """Depth and width."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 4, 20),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256, 512]),
        )
