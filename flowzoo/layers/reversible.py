r"""Backpropagation through invertible layers without storing what is between them.

Autograd keeps the activations of every layer until the backward pass, so memory grows with depth. A layer that can be
inverted does not need that: from its output the backward pass computes its input again, and its graph with it, one
layer at a time (Gomez, Ren, Urtasun and Grosse 2017, The Reversible Residual Network, arXiv:1707.04585, algorithm 1;
Kingma and Dhariwal 2018, arXiv:1807.03039, name the same saving for Glow in section 1). What is held is the output of
the chain, whatever its depth, and one layer's graph during the backward pass.

Two things differ from the paper. The network of a coupling runs once in the backward pass, not twice: the half that it
sees leaves the layer as it entered, so the pass with gradient also gives what the inversion needs (the layer's
``recompute``). And since floating point inverts only to rounding, which a layer that contracts on the way to the
latent amplifies on the way back, the activations at chosen places, *anchors*, can be stored, from which inversion
starts afresh: ``drift`` measures what is lost and ``choose_anchors`` places them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowzoo.layers.chain import Layer


def reversible(layers: Sequence[Layer], x: Tensor, c: Any, *, anchors: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """``Chain.to_latent`` with memory that does not grow with the number of layers.

    The values are those of the plain pass; the gradients are, up to the rounding of the inversion. Layers must be
    deterministic and must not change state in the forward pass, because they run again in the backward pass, under the
    autocast state of the forward pass. Gradients of gradients are not supported: the backward pass raises. A network
    in bfloat16 rounds a reconstructed input now and then to the other side, so that the drift is of the order of 1e-3;
    its gradients then differ from the plain ones by less than bfloat16 costs those.

    A layer may have ``recompute(y, c) -> (x, y_again, log_det)``: from its output, its input as a detached leaf that
    requires gradient, and the output and log|det| computed from it with graph. Without it the input comes from
    ``to_data`` and the rest from ``to_latent``.

    Args:
        layers: in the order from data to latent.
        x: ``(N, C, ...)``.
        c: the context: a tensor, or a tuple (named or not) of tensors and None.
        anchors: indices of layers whose inputs are stored.

    Returns:
        The output, and log|det| ``(N,)`` in float32 or wider.

    Raises:
        TypeError: a context that holds something else than tensors and None.
        ValueError: an anchor that is no index of a layer.

    >>> from flowzoo.layers.linear import LULinear
    >>> layers = [LULinear(3) for _ in range(8)]
    >>> x = torch.randn(5, 3, requires_grad=True)
    >>> y, log_det = reversible(layers, x, torch.zeros(5, 0))
    >>> (y.square().sum() - log_det.sum()).backward()
    >>> x.grad.shape
    torch.Size([5, 3])
    """
    layers, at = tuple(layers), frozenset(anchors)
    if wrong := sorted(index for index in at if not 0 <= index < len(layers)):
        raise ValueError(f"anchors must be indices of the {len(layers)} layers, 0 to {len(layers) - 1}; got {wrong}")
    given, join = _split(c)
    if not layers:
        return x, _zeros(x)
    parameters, slots = _parameters(layers)
    plan = _Plan(layers, slots, len(given), join, at, _autocast(x.device.type))
    return _Reversible.apply(plan, x, *given, *parameters)


@torch.no_grad()
def drift(layers: Sequence[Layer], x: Tensor, c: Any) -> Tensor:
    r"""How far inversion from the output misses the activations.

    .. math:: d_i = \max \lvert \hat x_i - x_i \rvert \,/\, \mathrm{rms}(x_i)

    for the input :math:`x_i` of layer i and :math:`\hat x_i`, its reconstruction from the output of the last layer
    through layers n - 1 to i. It stores every activation: measure it now and then, on a batch, not at every step.

    Args:
        layers: in the order from data to latent.
        x: ``(N, C, ...)``.
        c: the context, as in ``reversible``.

    Returns:
        ``(len(layers),)``, in float64 on the CPU.
    """
    inputs, y = _inputs(layers, x, c)
    errors = []
    for layer, true in zip(reversed(layers), reversed(inputs), strict=True):
        y, _ = layer.to_data(y, c)
        errors.append(_miss(y, true))
    return torch.tensor(errors[::-1], dtype=torch.float64)


@torch.no_grad()
def choose_anchors(layers: Sequence[Layer], x: Tensor, c: Any, tolerance: float = 1e-5) -> list[int]:
    """As few anchors as keep the drift between them below a tolerance, for this batch and these parameters.

    It inverts from the output and sets an anchor wherever the drift passes the tolerance; from there it goes on from
    the true activation, as ``reversible`` will. A drift that is not finite sets an anchor too. Training changes the
    conditioning of the layers, so choose again from time to time.

    Args:
        layers: in the order from data to latent.
        x: ``(N, C, ...)``.
        c: the context, as in ``reversible``.
        tolerance: largest drift, as ``drift`` measures it.

    Returns:
        Indices for ``reversible``, in ascending order.
    """
    inputs, y = _inputs(layers, x, c)
    anchors = []
    for index in reversed(range(len(layers))):
        y, _ = layers[index].to_data(y, c)
        if not _miss(y, inputs[index]) <= tolerance:  # not: so that NaN counts as a miss
            y = inputs[index]
            anchors.append(index)
    return anchors[::-1]


def _inputs(layers: Sequence[Layer], x: Tensor, c: Any) -> tuple[list[Tensor], Tensor]:
    """What enters each layer, and what leaves the last."""
    inputs = []
    for layer in layers:
        inputs.append(x)
        x, _ = layer.to_latent(x, c)
    return inputs, x


def _miss(reconstructed: Tensor, true: Tensor) -> float:
    error = (reconstructed.double() - true.double()).abs().amax()
    return float(error / true.double().square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny))


@dataclass(frozen=True)
class _Slot:
    """Where a module of a layer keeps a parameter, and which of the inputs of the function it is."""

    table: dict[str, Any]
    name: str
    index: int


@dataclass(frozen=True)
class _Plan:
    """What the backward pass needs beside tensors."""

    layers: tuple[Layer, ...]
    slots: list[list[_Slot]]
    num_given: int
    join: Callable[[Sequence[Tensor]], Any]
    anchors: frozenset[int]
    autocast: Callable[[], AbstractContextManager[Any]]


class _Reversible(torch.autograd.Function):
    """The chain as one operation.

    Context and parameters are its inputs, so that autograd itself accumulates their gradients: hooks fire once each,
    and DistributedDataParallel reduces what it should.
    """

    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        c = plan.join(tensors[: plan.num_given])
        log_det, stored = _zeros(x), []
        with plan.autocast():
            for index, layer in enumerate(plan.layers):
                if index in plan.anchors:
                    stored.append(x)
                x, each = layer.to_latent(x, c)
                log_det = log_det + each
        ctx.plan = plan
        # The parameters cost nothing here, and autograd then refuses a backward pass after they were written to.
        ctx.save_for_backward(x, *stored, *tensors)
        return x, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        _, needs_x, *needs = ctx.needs_input_grad
        y, *saved = ctx.saved_tensors
        stored = dict(zip(sorted(plan.anchors), saved, strict=False))
        # Aliases, because a gradient taken for a parameter itself would run its hooks here and again at the end.
        leaves = [t.detach().requires_grad_(n) for t, n in zip(saved[len(stored) :], needs, strict=True)]
        given, parameters = leaves[: plan.num_given], leaves[plan.num_given :]
        c = plan.join(given)
        grads: list[Tensor | None] = [None] * len(leaves)
        with plan.autocast(), _replaced(plan.slots, parameters):
            for index in reversed(range(len(plan.layers))):
                places = [*range(plan.num_given), *sorted({plan.num_given + s.index for s in plan.slots[index]})]
                places = [place for place in places if needs[place]]
                wanted = [leaves[place] for place in places]
                y, grad_y, found = _one(plan.layers[index], y, stored.pop(index, None), c, wanted, grad_y, grad_log_det)
                for place, grad in zip(places, found, strict=True):
                    if grad is not None:
                        before = grads[place]
                        grads[place] = grad if before is None else before + grad
        return None, grad_y if needs_x else None, *grads


def _one(
    layer: Layer,
    y: Tensor,
    x: Tensor | None,
    c: Any,
    wanted: Sequence[Tensor],
    grad_y: Tensor,
    grad_log_det: Tensor,
) -> tuple[Tensor, Tensor, Sequence[Tensor | None]]:
    """One layer back: its input, the gradient there, and the gradients of ``wanted``.

    A function of its own, so that nothing of this layer's graph is alive when the next one's is built.
    """
    recompute = getattr(layer, "recompute", None)
    with torch.enable_grad():
        if x is None and recompute is not None:
            x, *outputs = recompute(y, c)
        else:
            if x is None:
                with torch.no_grad():
                    x, _ = layer.to_data(y, c)
            x = x.detach().requires_grad_()
            outputs = list(layer.to_latent(x, c))
    # The log|det| of, for example, an additive coupling is a constant without a graph.
    pairs = [(o, g.to(o.dtype)) for o, g in zip(outputs, (grad_y, grad_log_det), strict=True) if o.requires_grad]
    grad_x, *grads = torch.autograd.grad(
        [output for output, _ in pairs], [x, *wanted], [grad for _, grad in pairs], allow_unused=True
    )
    return x.detach(), grad_x, grads


def _zeros(x: Tensor) -> Tensor:
    """Where log-determinants are summed: float32 or wider."""
    return x.new_zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32))


def _split(c: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors of a context, and what makes the context of such tensors again."""
    if isinstance(c, Tensor):
        return [c], lambda tensors: tensors[0]
    if not isinstance(c, tuple) or not all(item is None or isinstance(item, Tensor) for item in c):
        raise TypeError(f"c must be a tensor or a tuple of tensors and None; got {type(c).__name__}")
    kind: Any = type(c)
    present = [item is not None for item in c]

    def join(tensors: Sequence[Tensor]) -> Any:
        left = iter(tensors)
        items = [next(left) if there else None for there in present]
        return kind(*items) if hasattr(kind, "_fields") else kind(items)

    return [item for item in c if item is not None], join


def _parameters(layers: Sequence[Layer]) -> tuple[list[Tensor], list[list[_Slot]]]:
    """Every parameter once, and for each layer where its modules keep them."""
    position: dict[Tensor, int] = {}
    slots: list[list[_Slot]] = []
    for layer in layers:
        tables = [module._parameters for module in layer.modules()] if isinstance(layer, nn.Module) else []
        slots.append(
            [
                _Slot(table, name, position.setdefault(parameter, len(position)))
                for table in tables
                for name, parameter in table.items()
                if parameter is not None
            ]
        )
    return list(position), slots


@contextmanager
def _replaced(slots: Sequence[Sequence[_Slot]], parameters: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the modules compute with ``parameters``; these are also right if the modules' own were swapped since."""
    flat = [slot for each in slots for slot in each]
    before = [slot.table[slot.name] for slot in flat]
    try:
        for slot in flat:
            slot.table[slot.name] = parameters[slot.index]
        yield
    finally:
        for slot, own in zip(flat, before, strict=True):
            slot.table[slot.name] = own


def _autocast(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """The autocast state of now, to be entered again.

    Without its cache: a weight that the cache met without gradient, as both passes here do, would come out of it
    without gradient.
    """
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)
