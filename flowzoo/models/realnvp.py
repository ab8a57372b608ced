"""RealNVP on vectors, by zuko."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flowzoo.models._zuko import ZukoModel, coupling
from flowzoo.nets import widths
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class RealNVP(ZukoModel):
    r"""Affine couplings :math:`z_b = x_b\, e^{s(x_a, c)} + t(x_a, c)` with alternating masks.

    Dinh, Sohl-Dickstein and Bengio 2017, arXiv:1605.08803, section 3. zuko calls this class NICE too; ours of that
    name is additive. Of one feature it is a conditional Gaussian.

    Args:
        num_steps: couplings.
        hidden_features: widths of each network; an int is two equal layers.
    """

    num_steps: int = 10
    hidden_features: int | tuple[int, ...] = (128, 128)

    family: ClassVar[str] = "coupling, affine"
    inverse: ClassVar[str] = "closed form, one pass"
    paper: ClassVar[str] = "Dinh et al. 2017, arXiv:1605.08803"

    def make(self, features: int, context: int) -> Any:
        """zuko's transforms; see ``ZukoModel``."""
        return coupling(features, context, self.num_steps, hidden_features=widths(self.hidden_features))

    @classmethod
    def suggest(cls, trial: Any) -> RealNVP:
        """Depth and width."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 4, 20),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256, 512]),
        )
