"""``fit`` a flow on resident splits, or several at once; stop early on validation; survive a kill at any step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from torch import Tensor

from flowzoo import distributed, preempt
from flowzoo.data import Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.joint import Joint, NotTogether
from flowzoo.progress import bar
from flowzoo.train_config import FitConfig
from flowzoo.trainer import FitResult, Trainer, weights_of

__all__ = ["FitConfig", "FitResult", "NotTogether", "fit", "fit_together", "level_path"]


def fit(
    flow: ConditionalFlow,
    splits: Splits,
    config: FitConfig | None = None,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    label: str = "fit",
    show: bool | None = None,
    on_step: Callable[[int], None] | None = None,
    on_validation: Callable[[int, float], None] | None = None,
) -> FitResult:
    """Maximise the mean log-likelihood of the training split.

    The flow is initialised from data first (``flow.initialize``). With a ``checkpoint`` path the whole state is
    written every ``checkpoint_every`` steps, and a call with the same arguments goes on from there; on a CPU the
    result is bit-identical to an undisturbed run.

    Inside ``flowzoo.distributed.joined`` several processes train one flow: all call this with the same arguments, get
    the same result, and the first alone writes the checkpoint and shows the bar.

    Args:
        flow: built with ``splits.maps()``, on the device of the splits.
        splits: the data; the test part is not touched.
        config: how to train.
        seed: of the order of batches and of the dequantisation noise.
        checkpoint: where the state is kept while training goes on; removed by whoever owns the run. Where several
            values of ``context_noise`` are tried, that of each is at ``level_path``.
        label: name in the progress bar.
        show: force the progress bar on or off.
        on_step: called after every step, for tests and for schedulers.
        on_validation: called after every validation whose NLL is finite, with the step and that NLL, nats per event;
            what it raises ends the call, and the last checkpoint stays. A resumed run does not repeat what its
            checkpoint knows. Where several levels of ``context_noise`` are tried, the i-th begins at step
            ``i * (steps + 1)``.

    Raises:
        CheckpointError: if the checkpoint was written by a run with other options.
        DistributedError: if several processes cannot share a batch out, or do not have the same data and checkpoint.
        EngineError: if the config asks for an engine that this flow or this machine cannot have.
    """
    config = config or FitConfig()
    path = None if checkpoint is None else Path(checkpoint)
    levels = config.noise_levels
    if len(levels) == 1 or not prod(flow.context_shape) or not any(p.requires_grad for p in flow.parameters()):
        return Trainer(flow, splits, config, seed, path, on_validation).run(label, show, on_step)
    fresh = weights_of(flow)
    found: list[FitResult] = []
    weights: list[dict[str, Tensor]] = []
    for i, level in enumerate(levels):
        flow.load_state_dict(fresh)
        own = None if path is None else level_path(path, i)
        trainer = Trainer(flow, splits, config.at_level(i), seed, own, on_validation, i * (config.steps + 1))
        found.append(trainer.run(f"{label}, context noise {level:g}", show, on_step))
        weights.append(weights_of(flow))
    able = [i for i, result in enumerate(found) if result.status == "ok"] or list(range(len(found)))
    best = min(able, key=lambda i: found[i].validation_nll)
    flow.load_state_dict(weights[best])
    tried = ", ".join(
        f"{level:g}: {result.validation_nll:.4f}" if result.status == "ok" else f"{level:g}: {result.status}"
        for level, result in zip(levels, found, strict=True)
    )
    return replace(
        found[best],
        seconds=sum(result.seconds for result in found),
        reason=f"{found[best].reason}; context_noise {levels[best]:g} chosen by validation NLL ({tried})",
    )


def fit_together(
    flows: Sequence[ConditionalFlow],
    splits: Splits,
    config: FitConfig | None = None,
    *,
    seeds: Sequence[int],
    checkpoints: Sequence[Path] | None = None,
    label: str = "fit",
    show: bool | None = None,
) -> list[FitResult]:
    """Train flows of one architecture, that differ in their weights and seeds, at once (``torch.func.vmap``).

    Each has its own order of the events, early stop and checkpoint, and comes out as from ``fit`` alone, up to
    rounding. A checkpoint is one of ``fit`` too: what is begun here can go on there, and the other way round.

    Args:
        flows: as in ``fit``.
        splits: the data of all.
        config: how to train all.
        seeds: of each.
        checkpoints: of each.
        label: name in the progress bar.
        show: force the progress bar on or off.

    Raises:
        NotTogether: if these flows cannot be trained at once, with the reason; what was done so far is in the
            checkpoints.
        CheckpointError: as ``fit``.
    """
    config = config or FitConfig()
    obstacles = {
        "several levels of context_noise are tried one after another": len(config.noise_levels) > 1,
        "the engine compile is for one flow": config.engine == "compile",
        "several processes train one flow": distributed.world().size > 1,
        "there is nothing to train": not all(any(p.requires_grad for p in flow.parameters()) for flow in flows),
    }
    for reason, holds in obstacles.items():
        if holds:
            raise NotTogether(reason)
    paths: Sequence[Path | None] = checkpoints or [None] * len(flows)
    trainers = [Trainer(f, splits, config, seed, path) for f, seed, path in zip(flows, seeds, paths, strict=True)]
    loops = {trainer: trainer.loop(label, False) for trainer in trainers}
    found: dict[Trainer, FitResult] = {}
    joint, stopped = None, False
    try:
        with bar(label, config.steps, shown=show) as update:
            while True:
                for trainer in [*loops]:
                    try:
                        next(loops[trainer])
                    except StopIteration as end:
                        found[trainer] = replace(end.value, engine=joint.words) if joint else end.value
                        del loops[trainer]
                    except preempt.Preempted:  # it has written its checkpoint, and the others shall too
                        stopped = True
                        del loops[trainer]
                if not loops:
                    break
                if joint is None or len(joint.steppers) > len(loops):
                    if joint is not None:
                        joint.release()
                    joint = Joint([trainer.stepper for trainer in loops])
                    for trainer in trainers:
                        trainer.together = len(loops)
                joint.step()
                reached = min(trainer.state.step for trainer in loops)
                if reached % config.evaluate_every == 0:
                    best = min(trainer.state.best for trainer in trainers)
                    update(reached, f"{len(loops)} of {len(flows)} flows, best validation {best:.3f} nats")
    finally:
        for loop in loops.values():
            loop.close()
        if joint is not None:
            joint.release()
    if stopped:
        raise preempt.Preempted
    return [found[trainer] for trainer in trainers]


def level_path(path: Path, index: int) -> Path:
    """Where the state of one of several levels of ``context_noise`` is kept."""
    return path.with_suffix(f".noise{index}{path.suffix}")
