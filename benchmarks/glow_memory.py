"""What reversible backpropagation costs and saves: memory, time and gradients of a Glow, beside plain autograd.

    python benchmarks/glow_memory.py memory --steps 4,8,16,32       activations and time against depth
    python benchmarks/glow_memory.py gradients                      errors of the gradients after training
    python benchmarks/glow_memory.py memory --size 256 --levels 6 --batch 4 --steps 32 --ways reversible --repeats 1

Prints Markdown. **Activation memory** is what is alive at its peak in a training step (forward and backward pass,
the graphs that are made again in the backward pass included) apart from parameters, data, and gradients of
parameters. On the CPU it is the sum of the bytes of all storages that an operation returned and that are still alive,
followed through the step by a dispatch mode, each storage counted once and taken off when it is freed; it is
deterministic. What an operation uses and frees inside itself is not in it, and does not depend on the depth. With
CUDA it is ``torch.cuda.max_memory_allocated`` less what was allocated before and less the gradients that are left
after. **Time** is of forward and backward pass, the least of several, the ways taking turns; on the CPU it is processor
time of all threads, user and system, so that other work on the machine is not in it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowzoo.layers.actnorm import ActNorm
from flowzoo.layers.chain import Chain
from flowzoo.layers.coupling import AffineCoupling
from flowzoo.layers.linear import LULinear
from flowzoo.layers.multiscale import FactorOut, squeeze
from flowzoo.layers.reversible import choose_anchors, drift, reversible
from flowzoo.nets import ContextConv
from flowzoo.seeding import generator, initialisation

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONTEXT = 6
Anchors = list[list[int]]


class Stack(nn.Module):
    """The layers of cglow for images of one channel, with a choice of how each level is differentiated."""

    def __init__(self, steps: int, levels: int, width: int) -> None:
        super().__init__()
        self.chains, self.splits = nn.ModuleList(), nn.ModuleList()
        channels = 1
        for level in range(levels):
            channels *= 4
            layers: list[nn.Module] = []
            for _ in range(steps):
                net = ContextConv(channels // 2, CONTEXT, channels, width)
                layers += [ActNorm(channels, CONTEXT, (width,)), LULinear(channels), AffineCoupling(channels, net)]
            self.chains.append(Chain(layers))
            if level < levels - 1:
                self.splits.append(FactorOut(channels, ContextConv(channels // 2, CONTEXT, channels, width)))
                channels //= 2

    @torch.no_grad()
    def initialize(self, x: Tensor, c: Tensor) -> None:
        """Data-dependent initialisation."""
        for chain, split in self.levels():
            x = chain.initialize(squeeze(x), c)
            x = x if split is None else split.to_latent(x, c)[0]

    def loss(self, x: Tensor, c: Tensor, way: str = "plain", anchors: Anchors | None = None) -> Tensor:
        """Mean negative log-likelihood per pixel, in nats, up to a constant."""
        size, total = x[0].numel(), x.new_zeros(len(x))
        for level, (chain, split) in enumerate(self.levels()):
            if way == "plain":
                x, log_det = chain.to_latent(squeeze(x), c)
            else:
                at = anchors[level] if anchors is not None and way == "anchors" else ()
                x, log_det = reversible(list(chain), squeeze(x), c, anchors=at)
            total = total + log_det
            if split is not None:
                x, z, log_det = split.to_latent(x, c)
                total = total + log_det - 0.5 * z.square().flatten(1).sum(1)
        return -(total - 0.5 * x.square().flatten(1).sum(1)).mean() / size

    @torch.no_grad()
    def anchors(self, x: Tensor, c: Tensor, tolerance: float) -> tuple[Anchors, list[float]]:
        """For each level, where to store, and the largest drift without."""
        found, drifts = [], []
        for chain, split in self.levels():
            x = squeeze(x)
            found.append(choose_anchors(list(chain), x, c, tolerance))
            drifts.append(float(drift(list(chain), x, c).max()))
            x = chain.to_latent(x, c)[0]
            x = x if split is None else split.to_latent(x, c)[0]
        return found, drifts

    def levels(self) -> list[tuple[Any, Any]]:
        """Each level's steps, and what sets half of its channels aside; nothing does on the last."""
        return list(zip(self.chains, [*self.splits, None], strict=True))


class Live(TorchDispatchMode):
    """Follows the storages that operations make, from birth to death.

    Args:
        but: tensors that are there before and do not count.
    """

    def __init__(self, but: Sequence[Tensor]) -> None:
        super().__init__()
        self.log: list[tuple[int, int]] = []
        self.born = 0
        self.alive: dict[int, tuple[int, Any]] = {t.untyped_storage()._cdata: (-1, None) for t in but}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.see(tensor.untyped_storage())
        return out

    def see(self, storage: torch.UntypedStorage) -> None:
        """Note a storage that is new; its Python object lives as long as its memory."""
        key, size, number = storage._cdata, storage.nbytes(), self.born
        if key in self.alive:
            return

        def gone(_: Any) -> None:
            self.log.append((number, -size))
            del self.alive[key]

        self.born += 1
        self.alive[key] = (number, weakref.ref(storage, gone))
        self.log.append((number, size))

    def peak(self, but: Sequence[Tensor]) -> int:
        """Most bytes alive at once, apart from these tensors."""
        left_out = {self.alive[t.untyped_storage()._cdata][0] for t in but}
        held = highest = 0
        for number, size in self.log:
            held += size if number not in left_out else 0
            highest = max(highest, held)
        return highest


def activations(stack: Stack, x: Tensor, c: Tensor, way: str, anchors: Anchors | None) -> int:
    """Peak bytes of activations in one training step."""
    stack.zero_grad(set_to_none=True)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        stack.loss(x, c, way, anchors).backward()
        grads = sum(p.grad.nbytes for p in stack.parameters() if p.grad is not None)
        return torch.cuda.max_memory_allocated() - before - grads
    with Live([x, c, *stack.parameters(), *stack.buffers()]) as live:
        stack.loss(x, c, way, anchors).backward()
    return live.peak([p.grad for p in stack.parameters() if p.grad is not None])


def seconds(stack: Stack, x: Tensor, c: Tensor, way: str, anchors: Anchors | None) -> float:
    """Of one forward and backward pass."""
    clock = time.perf_counter if DEVICE == "cuda" else time.process_time
    stack.zero_grad(set_to_none=True)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    start = clock()
    stack.loss(x, c, way, anchors).backward()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def maps(count: int, size: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Correlated maps that are not Gaussian, with what sets their slope, amplitude and skewness; and idle columns."""
    c = 2 * torch.rand(count, CONTEXT, generator=source) - 1
    k = torch.sqrt(torch.fft.fftfreq(size)[:, None] ** 2 + torch.fft.rfftfreq(size)[None] ** 2).clamp_min(1 / size)
    slope, amplitude, skewness = 1.5 + 0.5 * c[:, :1, None], 1 + 0.3 * c[:, 1:2, None], 0.3 + 0.2 * c[:, 2:3, None]
    white = torch.fft.rfft2(torch.randn(count, size, size, generator=source))
    field = torch.fft.irfft2(white * k**-slope, s=(size, size))
    field = amplitude * field / field.std((1, 2), keepdim=True)
    x = torch.expm1(skewness * field) / skewness + 0.05 * torch.randn(count, size, size, generator=source)
    return x[:, None].to(DEVICE), c.to(DEVICE)


def make(options: argparse.Namespace, steps: int) -> tuple[Stack, Tensor, Tensor]:
    """A stack, initialised, and a batch. The last layers of the networks do not stay at zero."""
    x, c = maps(options.batch, options.size, generator(0, "data"))
    with initialisation(generator(0, "init")):
        stack = Stack(steps, options.levels, options.width)
        for module in stack.modules():
            if isinstance(module, ContextConv):
                nn.init.normal_(module.last.weight, 0.0, 0.01)
    stack.to(DEVICE).initialize(x, c)
    return stack, x, c


def memory(options: argparse.Namespace) -> None:
    """Activation memory and time against depth."""
    ways = options.ways.split(",")
    print(f"{options.size} x {options.size}, one channel, batch {options.batch}, L = {options.levels}, ", end="")
    print(f"width {options.width}, {DEVICE}, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    heads = ["K", *(f"{way}, MiB" for way in ways), *(f"{way}, s" for way in ways)]
    heads += [f"{way} / plain, time" for way in ways if way != "plain" and "plain" in ways]
    print("| " + " | ".join([*heads, "anchors"]) + " |")
    print("| " + " | ".join(["---"] * (len(heads) + 1)) + " |")
    for steps in (int(each) for each in options.steps.split(",")):
        stack, x, c = make(options, steps)
        anchors = None
        if "anchors" in ways:
            every = options.every
            anchors = [list(range(every, len(chain.layers), every)) for chain, _ in stack.levels()]
        used = [activations(stack, x, c, way, anchors) / 2**20 for way in ways]
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeats):
            for way in ways:
                times[way].append(seconds(stack, x, c, way, anchors))
        least = {way: min(each) for way, each in times.items()}
        cells = [str(steps), *(f"{each:.1f}" for each in used), *(f"{least[way]:.2f}" for way in ways)]
        cells += [f"{least[way] / least['plain']:.2f}" for way in ways if way != "plain" and "plain" in ways]
        cells += [f"{sum(map(len, anchors))}" if anchors else "0"]
        print("| " + " | ".join(cells) + " |", flush=True)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on Linux
    print(f"\nLargest resident set of the process: {resident / 2**20:.2f} GiB")


def gradients(options: argparse.Namespace) -> None:
    """Errors of the reversible gradients after training the plain way."""
    steps = int(options.steps)
    stack, _, _ = make(options, steps)
    optimizer = torch.optim.AdamW(stack.parameters(), lr=1e-3)
    source = generator(0, "batches")
    for step in range(options.train + 1):
        if step in (0, options.train):
            compare(stack, *maps(options.batch, options.size, generator(1, "data")), step, options.tolerance)
        optimizer.zero_grad(set_to_none=True)
        loss = stack.loss(*maps(options.batch, options.size, source))
        loss.backward()
        nn.utils.clip_grad_norm_(stack.parameters(), 10.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: {loss.item():.3f} nats per pixel", flush=True)


def compare(stack: Stack, x: Tensor, c: Tensor, step: int, tolerance: float) -> None:
    """Print the error of each way, and of plain autograd itself against float64."""

    def found(way: str, anchors: Anchors | None = None, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        stack.to(dtype).zero_grad(set_to_none=True)
        stack.loss(x.to(dtype), c.to(dtype), way, anchors).backward()
        grads = {name: p.grad for name, p in stack.named_parameters() if p.grad is not None}
        stack.zero_grad(set_to_none=True)
        stack.to(torch.float32)
        return grads

    plain, exact = found("plain"), found("plain", dtype=torch.float64)
    rows = {"reversible": (found("reversible"), plain)}
    for each in (tolerance, tolerance / 10):
        anchors, drifts = stack.anchors(x, c, each)
        count = "+".join(str(len(level)) for level in anchors)
        rows[f"reversible, {count} anchors (tolerance {each:g})"] = (found("anchors", anchors), plain)
    rows["plain, against float64"] = (plain, exact)
    rows["reversible, against float64"] = (rows["reversible"][0], exact)
    print(f"\nAfter {step} steps; largest drift per level: {', '.join(f'{each:.1e}' for each in drifts)}\n")
    print("| gradients | median error | worst error | where |")
    print("| --- | --- | --- | --- |")
    for name, (one, other) in rows.items():
        errors = {key: float((one[key] - g).norm() / g.norm()) for key, g in other.items() if g.any()}
        worst = max(errors, key=lambda key: errors[key])
        print(f"| {name} | {statistics.median(errors.values()):.1e} | {errors[worst]:.1e} | {worst} |")
    print(flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("memory", help="activation memory and time against depth")
    two = commands.add_parser("gradients", help="errors of the gradients after training")
    for command, run, size, levels, width, steps in (
        (one, memory, 64, 4, 64, "4,8,16,32"),
        (two, gradients, 32, 3, 32, "8"),
    ):
        command.set_defaults(run=run)
        command.add_argument("--size", type=int, default=size)
        command.add_argument("--levels", type=int, default=levels)
        command.add_argument("--width", type=int, default=width)
        command.add_argument("--batch", type=int, default=16)
        command.add_argument("--steps", default=steps, help="steps per level, K")
    one.add_argument("--ways", default="plain,reversible,anchors", help="of plain, reversible, anchors")
    one.add_argument("--every", type=int, default=12, help="layers from one anchor to the next")
    one.add_argument("--repeats", type=int, default=5)
    two.add_argument("--train", type=int, default=500, help="training steps")
    two.add_argument("--tolerance", type=float, default=1e-5, help="drift that sets an anchor")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
