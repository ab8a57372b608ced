"""What the spline couplings of nflows and normflows share: both carry the code of Durkan et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.models._embeds import Embeds
from flowzoo.registry import MODELS


@dataclass(frozen=True)
class SplineCouplingConfig(Embeds):
    """The options of a rational-quadratic coupling flow, the same for either backend.

    Args:
        num_steps: couplings, each of which moves half of the event.
        hidden_features: width of the residual network of a coupling.
        num_blocks: residual blocks of that network, two layers each.
        num_bins: bins of a spline.
        tail_bound: the splines act on [-tail_bound, tail_bound], in network units; outside is the identity.
    """

    num_steps: int = 4
    hidden_features: int = 64
    num_blocks: int = 2
    num_bins: int = 8
    tail_bound: float = 5.0

    family: ClassVar[str] = "coupling, spline"
    events: ClassVar[str] = "vectors of 2 or more; images flattened"
    contexts: ClassVar[str] = "any; flattened"
    inverse: ClassVar[str] = "closed form, one pass"
    paper: ClassVar[str] = "Durkan et al. 2019, arXiv:1906.04032"

    conformance: ClassVar[dict[str, object]] = {"line": None}  # a coupling has two parts
    exempt: ClassVar[dict[str, str]] = {
        "step_does_not_wait": "its splines select the events inside the tails by a boolean mask, and wait for the count"
    }

    def __post_init__(self) -> None:
        for name in ("num_steps", "hidden_features", "num_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        # Every bin keeps 1e-3 of the box, so 1000 of them leave nothing to learn.
        if not 2 <= self.num_bins < 1000:
            raise ValueError(f"num_bins must be from 2 to 999; got {self.num_bins}")
        # The backends catch an event on the bound itself by adding 1e-6 to the last knot: at 32 and above
        # float32 loses that addition, and such an event is an index error.
        if not 0 < self.tail_bound < 32:
            raise ValueError(f"tail_bound must be above 0 and below 32 (network units); got {self.tail_bound:g}")

    @classmethod
    def suggest(cls, trial: Any) -> Self:
        """See ``ModelConfig``."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 4, 10, step=2),
            hidden_features=trial.suggest_categorical("hidden_features", [32, 64, 128]),
            num_blocks=trial.suggest_int("num_blocks", 1, 2),
            num_bins=trial.suggest_categorical("num_bins", [4, 8, 16]),
        )

    def _features(self, event_shape: Sequence[int]) -> int:
        """The length of the flattened event, or a refusal."""
        features = prod(event_shape)
        if features < 2:
            raise ValueError(
                f"{MODELS.name_of(self)} needs events of 2 or more dimensions (a coupling moves one half by "
                f"the other); got event_shape {tuple(event_shape)}. For one take nsf or galacticflow."
            )
        return features


class SplineCouplingFlow(ConditionalFlow):
    r"""A backend's chain of rational-quadratic couplings on flattened events, as a ``ConditionalFlow``.

    The inverse of a spline solves a quadratic whose discriminant, relative to its terms, is as small as
    :math:`(s / d)^2`, with s the mean slope of a bin and d that at its knots. In float32 rounding drowns it
    where a bin is much flatter than its knots, and the backends then lose digits or fail their own assertion
    (nflows issue 87). ``to_data`` therefore runs in float64 and rounds at the end: with s above 1e-3 and a
    resolution of 1e-16 there is room for knots as steep as 1e5. A draw beyond even that is NaN, and the base
    class counts it.

    Args:
        transform: data to latent by ``transform(u, context)``, back by ``transform.inverse(z, context)``;
            both take ``(N, D)`` and ``(N, C)`` or None, and return ``(value, log|det|)``.
        event_shape: what the density is over.
        context_shape: what it is conditioned on.
        x_map: see ``ConditionalFlow``.
        context_map: see ``ConditionalFlow``.
    """

    def __init__(
        self,
        transform: nn.Module,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape, x_map=x_map, context_map=context_map)
        self.transform = transform

    def _to_latent(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.transform(u.flatten(1), self._flat(c))
        return z.reshape(u.shape), log_det

    def _to_data(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        flat, context = z.flatten(1), self._flat(c)
        # The backends assert over the whole batch, so one NaN would take every other draw with it.
        good = torch.isfinite(flat).all(1)
        if context is not None:
            good = good & torch.isfinite(context).all(1)
            context = torch.where(good[:, None], context, 0.0)
        u, log_det = self._invert(torch.where(good[:, None], flat, 0.0), context)
        u = torch.where(good[:, None], u, torch.nan).reshape(z.shape)
        return u, torch.where(good, log_det, torch.nan)

    def _flat(self, c: Tensor) -> Tensor | None:
        return c.flatten(1) if prod(self.context_shape) > 0 else None

    def _invert(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The backend's inverse in float64, with NaN in the rows that it cannot invert."""
        # Apple's GPUs have no float64; there the backend's own precision has to do.
        wide = z.dtype if z.device.type == "mps" else torch.float64
        inverse = _Inverse(self.transform)
        tensors = [*inverse.named_parameters(), *inverse.named_buffers()]
        weights = {name: tensor.to(wide) for name, tensor in tensors if tensor.is_floating_point()}

        def invert(z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
            try:
                return functional_call(inverse, weights, (z, context))
            except AssertionError:
                if len(z) == 1 or not all(bool(torch.isfinite(w).all()) for w in weights.values()):
                    return torch.full_like(z, torch.nan), z.new_full((len(z),), torch.nan)
            # Halve the batch until the rows that fail stand alone.
            half = len(z) // 2
            contexts = (None, None) if context is None else (context[:half], context[half:])
            (head, head_det), (tail, tail_det) = invert(z[:half], contexts[0]), invert(z[half:], contexts[1])
            return torch.cat([head, tail]), torch.cat([head_det, tail_det])

        u, log_det = invert(z.to(wide), None if context is None else context.to(wide))
        return u.to(z.dtype), log_det.to(z.dtype)


class _Inverse(nn.Module):
    """The inverse of a transform as a ``forward``, which is what ``functional_call`` can call."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.transform.inverse(z, context)  # type: ignore[operator]
