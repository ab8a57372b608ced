"""The loop around a stepper: rate, validation, early stop, and checkpoints from which it goes on after a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowzoo import config as configs
from flowzoo import distributed, preempt
from flowzoo.checkpoint import CheckpointError, load_tensors, save_tensors
from flowzoo.data import Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.progress import bar
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper
from flowzoo.train_config import FitConfig, rate_at
from flowzoo.validation import Validation

# No options: they do not change a result, and an option is a part of what a finished run is recognised by.
SAVE_AFTER = 60.0  # seconds since the last checkpoint, after which there is another, whatever the step
SAVE_SHARE = 20  # as many times as long as one takes to write, if that is longer


@dataclass(frozen=True)
class FitResult:
    """What ``fit`` did. The flow holds the weights of the best validation.

    Args:
        status: ``"ok"``, or ``"diverged"`` if the loss became non-finite.
        reason: why it stopped, in one line.
        steps: steps taken.
        seconds: time spent training, all resumptions together; of several trained at once, its share.
        best_step: the step whose weights were kept.
        validation_nll: their validation NLL, nats per event.
        history: per validation: step, train_nll (mean since the last), validation_nll, lr.
        together: how many flows were trained at once, this one among them.
        engine: by which steps came by their gradients, in a few words; see ``flowzoo.engine``.
    """

    status: str
    reason: str
    steps: int
    seconds: float
    best_step: int
    validation_nll: float
    history: list[dict[str, float]]
    together: int = 1
    engine: str = "eager"


@dataclass
class Progress:
    """What must be known beside tensors to go on where a run stopped."""

    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_step: int = 0
    stale: int = 0
    shrink: float = 1.0
    history: list[dict[str, float]] = field(default_factory=list)
    together: int = 1


def weights_of(flow: ConditionalFlow) -> dict[str, Tensor]:
    """A copy of all that a flow has learnt."""
    return {name: value.detach().clone() for name, value in flow.state_dict().items()}


class Trainer:
    """One training: of a flow, with its own order of the events, early stop and checkpoint. See ``train.fit``."""

    def __init__(
        self,
        flow: ConditionalFlow,
        splits: Splits,
        config: FitConfig,
        seed: int,
        path: Path | None,
        on_validation: Callable[[int, float], None] | None = None,
        first_step: int = 0,
    ) -> None:
        self.flow, self.splits, self.config, self.seed, self.path = flow, splits, config, seed, path
        self.on_validation, self.first_step = on_validation, first_step
        self.state = Progress()
        self.validation = Validation(splits.validation, config.validation_events, seed)
        self.best_weights: dict[str, Tensor] = {}
        self.together = 1  # how many share the time that passes
        self.saved, self.saving = 0.0, 0.0  # when the last checkpoint was there, and how long it took to write

    def run(self, label: str, show: bool | None, on_step: Callable[[int], None] | None = None) -> FitResult:
        """Train to the end."""
        loop = self.loop(label, show, on_step)
        try:
            while True:
                next(loop)
                self.stepper.step()
        except StopIteration as end:
            result: FitResult = end.value
            return result
        finally:
            loop.close()

    def loop(
        self, label: str, show: bool | None, on_step: Callable[[int], None] | None = None
    ) -> Generator[None, None, FitResult]:
        """Train to the end; whoever goes through this takes a step of ``stepper`` at each turn."""
        distributed.agree(str(self._identity()), "the same options and data as the first")
        if not any(p.requires_grad for p in self.flow.parameters()):
            self._initialize()
            nll = self.validation.nll(self.flow)
            return FitResult("ok", "closed form: nothing to train", 0, 0.0, 0, nll, [])
        self.stepper = Stepper(self.flow, self.splits.train, self.config, self.seed)
        resumed = self._resume()
        distributed.agree(str(self.state.step), f"the first one's {self.path}: they need a file system in common")
        if not resumed:
            self._initialize()
            self.stepper.descent.restart_average()
            self._validate()
        state, config = self.state, self.config
        status, reason = "ok", ""
        self.flow.train()
        self._prepare()
        if distributed.world().rank:
            show = False
        began, before, last = state.step, state.seconds, time.monotonic()
        self.saved = last
        with bar(label, config.steps, shown=show) as update:
            while not reason:
                now = time.monotonic()
                state.seconds, last = state.seconds + (now - last) / self.together, now
                state.together = max(state.together, self.together)
                if config.minutes is not None:  # the clock decides: one clock for all
                    state.seconds = distributed.number_from_zero(state.seconds)
                reason = self._enough()
                if reason:
                    # The clock may stop between two validations; what was learnt since the last one counts.
                    trouble = self._validate() if state.step > self._validated() else ""
                    status, reason = ("diverged", trouble) if trouble else (status, reason)
                    break
                self.stepper.descent.set_rate(rate_at(config, state.step, state.seconds, state.shrink))
                yield
                state.step += 1
                if state.step % config.evaluate_every == 0 or state.step == config.steps:
                    trouble = self._validate()
                    if trouble:
                        status, reason = "diverged", trouble
                        break
                    rate = (state.step - began) / max(1e-9, state.seconds - before)
                    loss = state.history[-1]["train_nll"]
                    update(state.step, f"loss {loss:.3f}, validation {state.best:.3f} nats, {rate:.0f} steps/s")
                if state.step % config.checkpoint_every == 0 and state.step < config.steps:
                    self._save()
                if state.step % config.evaluate_every == 0 or state.step % config.checkpoint_every == 0:
                    self._prepare()  # at every checkpoint too: who resumes from it begins so
                # All processes or none: how many are asked to end, and a half if the first has its clock say so.
                asked = distributed.total(preempt.asked() + (0.5 if self._overdue() else 0.0))
                if asked and self._may_stop():
                    self._save()
                    if asked >= 1:
                        raise preempt.Preempted
                if on_step is not None:
                    on_step(state.step)
        if status == "ok":
            self._save()  # so that a kill after training does not train again
        self.flow.load_state_dict(self.best_weights)
        self.flow.eval()
        self.flow.zero_grad()  # they may lie in the memory of a graph, which is as large as a step's
        return FitResult(
            *(status, reason, state.step, state.seconds, state.best_step, state.best, state.history),
            together=state.together,
            engine=self.stepper.engine.words,
        )

    def _enough(self) -> str:
        """Why to stop now, or nothing."""
        state, config = self.state, self.config
        if state.step >= config.steps:
            return f"took all {config.steps} steps"
        if config.patience and state.stale >= config.patience:
            return f"stopped at step {state.step}: no better validation in {state.stale} evaluations"
        if config.minutes is not None and state.seconds > 60 * config.minutes:
            return f"stopped at step {state.step}: used all {config.minutes:g} minutes"
        return ""

    def _initialize(self) -> None:
        train = self.splits.train
        source = generator(self.seed, "initialize", device=train.x.device)
        rows = torch.randperm(len(train), generator=source, device=train.x.device)[: self.flow.init_events]
        used, index = torch.unique(train.context_index[rows], return_inverse=True)
        self.flow.initialize(train.events(rows, source), train.contexts[used], index)
        distributed.broadcast_from_zero(self.flow.state_dict().values())

    def _prepare(self) -> None:
        """Show the flow as many events as a step does: always the same, so that nothing depends on when."""
        train = self.splits.train
        rows = torch.arange(self.stepper.batch_size, device=train.x.device)[self.stepper.own]
        self.flow.prepare(*train.batch(rows, generator(self.seed, "prepare", device=train.x.device)))

    def _may_stop(self) -> bool:
        """Whether who resumes from here takes the very steps that this run would; on a GPU nobody does anyway."""
        prepares = self.flow.prepares(self.stepper.batch_size)
        exact = self.splits.train.x.device.type == "cpu"
        now = any(self.state.step % every == 0 for every in (self.config.evaluate_every, self.config.checkpoint_every))
        return now or not (prepares and exact)

    def _overdue(self) -> bool:
        """Whether so much work would be lost now that a checkpoint is worth its time."""
        due = self.saved + max(SAVE_AFTER, SAVE_SHARE * self.saving)
        return self.path is not None and not distributed.world().rank and time.monotonic() > due

    def _validate(self) -> str:
        """Score the validation split and keep the best weights; returns what is wrong, or nothing."""
        state, config = self.state, self.config
        if state.step:
            self.stepper.descent.pool()
            bad = int(self.stepper.descent.first_bad)
            if bad >= 0:
                return f"the loss was not finite at step {bad}"
        with self.stepper.descent.averaged():
            nll = self.validation.nll(self.flow)
            finite = math.isfinite(nll)
            better = (finite and nll < state.best) or not self.best_weights
            if better:
                self.best_weights = weights_of(self.flow)
        since = state.step - self._validated()
        train_nll = self.stepper.descent.take_loss() / since if since else nll
        if finite:
            row = {"step": state.step, "train_nll": train_nll, "validation_nll": nll, "lr": self.stepper.descent.rate}
            state.history.append(row)
        if better:
            # Infinite at the start: the first finite validation is better.
            state.best, state.best_step, state.stale = nll if finite else math.inf, state.step, 0
        else:
            state.stale += 1
            if config.patience and state.stale % max(1, config.patience // 2) == 0:
                state.shrink /= 2
        if finite and self.on_validation is not None:
            self.on_validation(self.first_step + state.step, nll)
        return "" if finite else f"the validation NLL was {nll} at step {state.step}"

    def _validated(self) -> int:
        """The step of the last validation."""
        return int(self.state.history[-1]["step"]) if self.state.history else 0

    def _save(self) -> None:
        if self.path is None:
            return
        self.stepper.descent.pool()
        if distributed.world().rank:
            return
        began = time.monotonic()
        tensors = {f"flow.{k}": v for k, v in self.flow.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best_weights.items()}
        tensors |= {f"stepper.{k}": v for k, v in self.stepper.tensors().items()}
        save_tensors(self.path, tensors, {"fit": self._identity(), "state": vars(self.state)})
        self.saved = time.monotonic()
        self.saving = self.saved - began

    def _resume(self) -> bool:
        """Take up the state of the checkpoint, if there is one."""
        if self.path is None or not self.path.exists():
            return False
        tensors, meta = load_tensors(self.path)
        if meta.get("fit") != self._identity():
            raise CheckpointError(
                f"{self.path}: written by a run with other options or other data; delete it, or give another path"
            )
        self.state = Progress(**meta["state"])
        device = self.splits.train.x.device
        self.flow.load_state_dict(_part(tensors, "flow."))
        self.best_weights = {k: v.to(device) for k, v in _part(tensors, "best.").items()}
        try:
            self.stepper.restore(_part(tensors, "stepper."))
        except RuntimeError as error:  # the state of a generator of another kind of device
            raise CheckpointError(
                f"{self.path}: not written on this kind of device, {device.type} ({error}); go on there, or delete it"
            ) from None
        return True

    def _identity(self) -> dict[str, Any]:
        return {
            "config": configs.to_dict(self.config),
            "seed": self.seed,
            "split": self.splits.hash,
            "recipe": self.flow.recipe,
            "x_map": self.flow.x_map.describe(),
        }


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
