"""GalacticFlow-style conditional flow: linear mixing and double spline couplings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.layers.chain import Chain
from flowzoo.layers.coupling import SplineCoupling
from flowzoo.layers.linear import LULinear
from flowzoo.layers.spline import num_parameters, rational_quadratic
from flowzoo.models._embeds import Embeds
from flowzoo.nets import Given, Shared, mlp, vector_of, widths, zero_
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class GalacticFlow(Embeds):
    r"""Steps of an LU-linear map and a rational-quadratic coupling with a product conditioner.

    A double coupling transforms the second half of the features given the first, then the first given the second; its
    parameters are :math:`\mathrm{MLP}_c(c) \odot \mathrm{MLP}_x(x_{half})`, elementwise. Wolf and Buck 2023,
    arXiv:2312.05960, section 3, after the GLOW-convolution and the NSF_CL2 layers of its code; their settings are in
    ``configs/galacticflow.yaml``. Unlike that code, bins and slopes have a minimum, so no width can vanish and no NaN
    arise; any number of features works (of one feature it is a spline given the context); and without a context the
    product has one factor.

    Args:
        num_steps: pairs of linear map and coupling.
        hidden_features: widths of both MLPs; an int is three equal layers, as published.
        num_bins: bins of each spline, K.
        bound: half-width of the interval that the splines transform, B.
        coupling: ``"double"`` (NSF_CL2), or ``"single"`` (NSF_CL): the second half given the first, and no more.
        negative_slope: of the leaky ReLU of both MLPs; 0.2 as published.
        activate_output: apply it after the last layer of both MLPs too, as published: a factor of the product is then
            ``negative_slope`` times smaller where it is negative.
    """

    num_steps: int = 6
    hidden_features: int | tuple[int, ...] = (128, 128)
    num_bins: int = 10
    bound: float = 3.0
    coupling: Literal["double", "single"] = "double"
    negative_slope: float = 0.01
    activate_output: bool = False

    family: ClassVar[str] = "coupling, spline"
    backend: ClassVar[str] = "flowzoo"
    events: ClassVar[str] = "any (flattened)"
    contexts: ClassVar[str] = "any (flattened)"
    inverse: ClassVar[str] = "closed form, one pass"
    paper: ClassVar[str] = "Wolf and Buck 2023, arXiv:2312.05960"

    def build(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> ConditionalFlow:
        """See ``flowzoo.models.ModelConfig``."""
        # The output starts at the kink, where a slope of 0 would let no gradient through.
        if not 0 <= self.negative_slope < 1 or (self.activate_output and not self.negative_slope):
            raise ValueError(
                "galacticflow.negative_slope must lie in [0, 1), and above 0 with activate_output; "
                f"got {self.negative_slope:g}"
            )
        features, context = prod(event_shape), prod(context_shape)
        hidden = widths(self.hidden_features, depth=3)
        half = features // 2
        first, second = slice(0, half), slice(half, features)
        layers: list[nn.Module] = []
        for _ in range(self.num_steps):
            layers.append(LULinear(features))
            for kept, moved in ((first, second), (second, first))[: 2 if self.coupling == "double" else 1]:
                sizes = kept.stop - kept.start, moved.stop - moved.start
                if sizes[1]:
                    out = sizes[1] * num_parameters(self.num_bins)
                    net = _ProductNet(sizes[0], context, out, hidden, self.negative_slope, self.activate_output)
                    layers.append(_ProductCoupling(kept, moved, net, self.bound))
        return _GalacticFlow(event_shape, context_shape, Chain(layers), x_map=x_map, context_map=context_map)

    @classmethod
    def suggest(cls, trial: Any) -> GalacticFlow:
        """Depth, width and bins."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 4, 16),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256]),
            num_bins=trial.suggest_categorical("num_bins", [6, 10, 16]),
            bound=trial.suggest_float("bound", 2.5, 5.0),
        )


class _ProductNet(nn.Module):
    """``MLP_c(context) * MLP_x(half)``; starts at zero, which is the identity spline."""

    def __init__(
        self,
        in_features: int,
        context_features: int,
        out_features: int,
        hidden: Sequence[int],
        slope: float = 0.01,
        activate_output: bool = False,
    ) -> None:
        super().__init__()
        # In place: a step of networks as small as these waits for memory.
        leaky: Any = partial(nn.LeakyReLU, negative_slope=slope, inplace=slope > 0)
        self.of_half = mlp(in_features, out_features, hidden, activation=leaky) if in_features else None
        self.of_context = mlp(context_features, out_features, hidden, activation=leaky) if context_features else None
        self.last: nn.Module = leaky() if activate_output else nn.Identity()
        factors = [net for net in (self.of_half, self.of_context) if net is not None]
        if factors:
            # One factor at zero and the other not: the product is zero, and its gradient is not.
            zero_(factors[0][-1])  # type: ignore[arg-type]
        else:
            self.constant = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor, context: Given) -> Tensor:
        """``(N, in_features)``, ``(N, context_features)`` to ``(out_features, N)``."""
        factors = []
        if self.of_half is not None:
            factors.append(self.last(_events_last(self.of_half, x)))
        if self.of_context is not None:
            rows = context.rows if isinstance(context, Shared) else vector_of(context)
            factor = self.last(_events_last(self.of_context, rows))
            factors.append(factor.index_select(1, context.index) if isinstance(context, Shared) else factor)
        if not factors:
            return self.constant[:, None].expand(-1, len(x))
        return factors[0] if len(factors) == 1 else factors[0] * factors[1]


def _events_last(net: nn.Sequential, x: Tensor) -> Tensor:
    """``(N, in)`` to ``(out, N)``. Hidden layers have events first: so their products are the faster ones."""
    h, last = x, cast(nn.Linear, net[-1])
    for layer in itertools.islice(net, len(net) - 1):
        if not isinstance(layer, nn.Linear):
            h = layer(h)
        elif h is x:
            # The bias is the weight of a one: of so few inputs that is cheaper than to add it.
            h = torch.mm(F.pad(x, (0, 1), value=1.0), torch.cat([layer.weight.t(), layer.bias[None]]))
        else:
            # Not addmm, which first fills its output with the bias.
            h = torch.mm(h, layer.weight.t()).add_(layer.bias)
    return torch.mm(last.weight, h.t()).add_(last.bias[:, None])


class _ProductCoupling(SplineCoupling):
    """With the events last, so that the splines need no copy of what is most of the memory of a step."""

    def _transform(self, x: Tensor, c: Given, inverse: bool) -> tuple[Tensor, Tensor]:
        moved_first = self.moved.stop <= self.kept.start
        parts = (self.moved, self.kept) if moved_first else (self.kept, self.moved)
        halves = x.t().split([part.stop - part.start for part in parts])
        moved, kept = halves if moved_first else halves[::-1]
        parameters = self.net(kept.t(), c).unflatten(0, (len(moved), -1))
        moved, log_slope = rational_quadratic(moved, parameters, bound=self.bound, inverse=inverse, dim=1)
        return torch.cat([moved, kept] if moved_first else [kept, moved]).t(), log_slope.sum(0)


class _GalacticFlow(ConditionalFlow):
    """A chain of layers on the flattened event and context."""

    shares_contexts: ClassVar[bool] = True

    def __init__(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        chain: Chain,
        *,
        x_map: Bijector | None,
        context_map: Bijector | None,
    ) -> None:
        super().__init__(event_shape, context_shape, x_map=x_map, context_map=context_map)
        self.chain = chain

    def _to_latent(self, u: Tensor, c: Tensor | Shared) -> tuple[Tensor, Tensor]:
        z, log_det = self.chain.to_latent(u.flatten(1), _flat(c))
        return z.reshape(u.shape), log_det

    def _to_data(self, z: Tensor, c: Tensor | Shared) -> tuple[Tensor, Tensor]:
        u, log_det = self.chain.to_data(z.flatten(1), _flat(c))
        return u.reshape(z.shape), log_det


def _flat(c: Tensor | Shared) -> Tensor | Shared:
    return Shared(c.rows.flatten(1), c.index) if isinstance(c, Shared) else c.flatten(1)
