"""Adapter to nflows 0.14 (Durkan, Bekasov, Murray and Papamakarios 2020).

nflows provides the transforms. Its ``Flow`` is left out, because its base draws float32 from the process-wide
generator; ``SplineCouplingFlow`` has the base and the noise.
"""

from __future__ import annotations

from nflows.nn.nets import ResidualNet
from nflows.transforms import (
    CompositeTransform,
    PiecewiseRationalQuadraticCouplingTransform,
    RandomPermutation,
    Transform,
)
from nflows.utils import create_alternating_binary_mask
from torch import nn

from flowzoo.models._spline_coupling import SplineCouplingConfig


def spline_chain(config: SplineCouplingConfig, features: int, context_features: int) -> nn.Module:
    """Rational-quadratic couplings with linear tails, from data to latent.

    The couplings come in pairs with opposite masks and a fixed random permutation between the pairs, so that
    two steps reach every dimension whatever is drawn: a permutation after each coupling can undo the
    alternation (for two dimensions, a swap would let all couplings move the same one). nflows' LU layer is
    not used, because its inverse calls ``torch.triangular_solve``, which torch is about to remove.

    Args:
        config: the options.
        features: length D of the flattened event.
        context_features: length C of the flattened context, 0 for none.

    Returns:
        An nflows transform on ``(N, D)`` and ``(N, C)`` or None.
    """

    def network(in_features: int, out_features: int) -> nn.Module:
        net: nn.Module = ResidualNet(
            in_features,
            out_features,
            hidden_features=config.hidden_features,
            context_features=context_features or None,
            num_blocks=config.num_blocks,
        )
        return net

    transforms: list[Transform] = []
    for step in range(config.num_steps):
        if step > 0 and step % 2 == 0:
            transforms.append(RandomPermutation(features))
        transforms.append(
            PiecewiseRationalQuadraticCouplingTransform(
                create_alternating_binary_mask(features, even=step % 2 == 0),
                network,
                num_bins=config.num_bins,
                tails="linear",
                tail_bound=config.tail_bound,
            )
        )
    chain: nn.Module = CompositeTransform(transforms)
    return chain
