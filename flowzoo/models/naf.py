"""Neural autoregressive flow, by zuko."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flowzoo.models._zuko import ZukoModel, flows
from flowzoo.nets import widths
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class NAF(ZukoModel):
    r"""Autoregressive transforms by small monotone networks, one per feature, steered by the masked one.

    Huang, Krueger, Lacoste and Courville 2018, arXiv:1804.00779, section 3. Between the transforms stands an asinh
    instead of zuko's Softclip, so that the flow is onto; the inverse is iterated.

    Args:
        num_steps: autoregressive transforms.
        hidden_features: widths of each masked network; an int is two equal layers.
        signal: numbers that the masked network sends to each monotone network.
        monotone_features: widths of the monotone networks.
    """

    num_steps: int = 2
    hidden_features: int | tuple[int, ...] = (128, 128)
    signal: int = 16
    monotone_features: tuple[int, ...] = (64, 64)

    family: ClassVar[str] = "autoregressive, neural"
    inverse: ClassVar[str] = "one network pass a transform, in D steps, each iterated"
    paper: ClassVar[str] = "Huang et al. 2018, arXiv:1804.00779"

    exempt: ClassVar[dict[str, str]] = {
        "starts_near_the_data": "zuko's monotone networks start with slopes of their own; a few steps bring them home"
    }

    def make(self, features: int, context: int) -> Any:
        """zuko's transforms; see ``ZukoModel``."""
        return flows.NAF(
            features,
            context,
            transforms=self.num_steps,
            hidden_features=widths(self.hidden_features),
            signal=self.signal,
            network={"hidden_features": self.monotone_features},
        )

    @classmethod
    def suggest(cls, trial: Any) -> NAF:
        """Depth, width and signal."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 1, 4),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256, 512]),
            signal=trial.suggest_categorical("signal", [8, 16, 32]),
        )
