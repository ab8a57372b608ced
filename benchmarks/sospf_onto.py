"""SOSPF: does the inverse find every preimage, and how much mass does zuko's stack lose to its Softclip?

    python benchmarks/sospf_onto.py [--tails 5]

**Round trip** of one transform, forth and back, of a trained flow: the largest |x' - x| / max(1, |x|) over a grid of
each feature, beside the largest that one rounding of z makes of x where the transform is nearly flat; and how many of
the grid come back as NaN.
**Lost mass**: the share of draws of the base that have no preimage under zuko's own flow, trained on the same data
(transforms with ``SoftclipTransform(11)`` between them, whose range is bounded), and under ours; a draw counts as lost
if forth again it is not itself within 1e-2. What is lost of the base's mass is missing in the density. The NLL of both
on the same test events, their mean and their median, says what an onto map costs.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
import zuko
from torch import Tensor, nn

import flowzoo
from flowzoo.data import Data, Splits

DIM, CONTEXT, DRAWS = 10, 2, 20_000


def bent(count: int, tails: int, source: torch.Generator) -> Data:
    """Features of which each bends the next: normal, or with the tails of Student's t of so many degrees of freedom."""
    context = torch.randn(count, CONTEXT, generator=source)
    x = torch.randn(count, DIM, generator=source)
    if tails:
        x = x / (torch.randn(count, tails, generator=source).square().sum(1, keepdim=True) / tails).sqrt()
    x[:, 1:] += 0.5 * (x[:, :-1] ** 2 - 1)
    return Data(x=x + context[:, :1], context=context)


def make(splits: Splits, **options: Any) -> flowzoo.ConditionalFlow:
    """Our SOSPF, in the units of the data."""
    x_map, context_map = splits.maps()
    source = torch.Generator().manual_seed(0)
    return flowzoo.build("sospf", (DIM,), (CONTEXT,), x_map=x_map, context_map=context_map, generator=source, **options)


def train(flow: nn.Module, score: Callable[[Tensor, Tensor], Tensor], splits: Splits, steps: int) -> None:
    """The same loop for both: AdamW, a cosine down to a hundredth, clipped gradients."""
    optimizer = torch.optim.AdamW(flow.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=2e-5)
    source = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(len(splits.train), (256,), generator=source)
        loss = -score(splits.train.x[rows], splits.train.context[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    flow.eval()


@torch.no_grad()
def round_trip(flow: flowzoo.ConditionalFlow, reach: float) -> str:
    """A row of the first table; in network units, one feature after another, the others at the mean."""
    dtype = next(flow.parameters()).dtype
    along = torch.linspace(-reach, reach, 2001, dtype=dtype)
    u = torch.zeros(DIM, len(along), DIM, dtype=dtype)
    u[torch.arange(DIM), :, torch.arange(DIM)] = along
    u = u.flatten(0, 1)
    c = torch.zeros(len(u), CONTEXT, dtype=dtype)
    z = flow._to_latent(u, c)[0]
    back = flow._to_data(z, c)[0]
    error = ((back - u).abs() / u.abs().clamp_min(1)).amax(1)
    lost = int((~back.isfinite()).any(1).sum())
    # What a rounding of z alone is worth, by an inverse in float64.
    fine, precise = copy.deepcopy(flow).double(), z.double() * (1 + torch.finfo(dtype).eps)
    moved = fine._to_data(precise, c.double())[0] - fine._to_data(z.double(), c.double())[0]
    worth = float((moved.abs() / u.abs().clamp_min(1)).max())
    kind = str(dtype).removeprefix("torch.")
    return f"| {kind} | {reach:g} | {float(error.max()):.1e} | {worth:.1e} | {lost} of {len(u)} |"


@torch.no_grad()
def lost(forth: Any, back: Any) -> float:
    """The share of draws of the base that are not themselves again, back and forth."""
    z = torch.randn(DRAWS, DIM, generator=torch.Generator().manual_seed(2))
    again = forth(back(z))
    return float(((again - z).abs() < 1e-2).all(1).logical_not().double().mean())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--tails", type=int, default=0, help="degrees of freedom; 0 for normal ones")
    options = parser.parse_args()
    splits = Splits.make(bent(20_000, options.tails, torch.Generator().manual_seed(0)))
    one = make(splits, num_steps=1)
    print("| one transform | of it | up to | largest relative error | a rounding of z is worth | without a preimage |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    print("| as made", round_trip(one.eval(), 40.0))
    train(one.train(), one.log_prob, splits, options.steps)
    print("| trained", round_trip(one, 40.0))
    print("| trained", round_trip(one.double(), 1000.0))

    ours = make(splits, hidden_features=(64, 64))
    train(ours, ours.log_prob, splits, options.steps)
    torch.manual_seed(0)
    theirs = zuko.flows.SOSPF(DIM, CONTEXT, transforms=3, degree=4, polynomials=3, hidden_features=(64, 64))
    spread = splits.train.x.std(0)

    def score(x: Tensor, c: Tensor) -> Tensor:
        return theirs(c).log_prob((x - splits.train.x.mean(0)) / spread) - spread.log().sum()

    train(theirs, score, splits, options.steps)
    x, c = splits.test.x, splits.test.context
    given = c[torch.arange(DRAWS) % len(c)]
    with torch.no_grad():
        transform = theirs.transform(given)
        rows = {
            "ours, asinh between them": (
                ours.log_prob(x, c),
                lost(lambda u: ours._to_latent(u, given)[0], lambda z: ours._to_data(z, given)[0]),
            ),
            "zuko, softclip between them": (score(x, c), lost(transform, transform.inv)),
        }
    print("\n| three transforms | NLL (nats) | median | lost mass |\n| --- | ---: | ---: | ---: |")
    for name, (scores, share) in rows.items():
        print(f"| {name} | {float(-scores.mean()):.3f} | {float(-scores.median()):.3f} | {100 * share:.3f} % |")


if __name__ == "__main__":
    main()
