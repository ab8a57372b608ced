"""Gaussianization flow, by zuko."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flowzoo.models._zuko import ZukoModel, flows
from flowzoo.nets import widths
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class GF(ZukoModel):
    r"""Elementwise mixtures of normal CDFs given the context, and learned rotations between them.

    .. math:: z_i = \Phi^{-1}\Bigl(\frac1K \sum_k \Phi(s_{ik}(c)\, x_i + b_{ik}(c))\Bigr)

    Meng, Song, Song and Ermon 2020, arXiv:2003.01941, section 3. Evaluated in log space; the inverse is iterated.

    Args:
        num_steps: elementwise transforms.
        hidden_features: widths of the networks of the context; an int is two equal layers.
        components: normal CDFs in each mixture.
    """

    num_steps: int = 5
    hidden_features: int | tuple[int, ...] = (128, 128)
    components: int = 8

    family: ClassVar[str] = "Gaussianization"
    inverse: ClassVar[str] = "one pass, iterated"
    exempt: ClassVar[dict[str, str]] = {"step_does_not_wait": "torch.linalg.matrix_exp of the rotations reads a norm"}
    paper: ClassVar[str] = "Meng et al. 2020, arXiv:2003.01941"

    def make(self, features: int, context: int) -> Any:
        """zuko's transforms; see ``ZukoModel``."""
        # without a context there is no network, and zuko refuses its options
        options = {"hidden_features": widths(self.hidden_features)} if context else {}
        return flows.GF(features, context, transforms=self.num_steps, components=self.components, **options)

    @classmethod
    def suggest(cls, trial: Any) -> GF:
        """Depth, width and components."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 2, 10),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256, 512]),
            components=trial.suggest_categorical("components", [4, 8, 16]),
        )
