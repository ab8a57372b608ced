"""``FitConfig``: how to train; and the learning rate that it says at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class FitConfig:
    """How to train.

    Args:
        steps: optimiser steps at most.
        minutes: wall-clock budget, shared out where several levels of noise are tried; with it the result depends on
            the machine's speed.
        batch_size: events per step; of several processes, together.
        lr: peak learning rate.
        optimizer: ``"adamw"`` or ``"radam"`` (Liu et al. 2020, arXiv:1908.03265).
        weight_decay: decoupled from the gradient, of either.
        warmup: share of the budget over which the rate rises linearly.
        schedule: after the warm-up: ``"cosine"`` down to the floor, ``"plateau"`` (halved after every
            ``patience // 2`` evaluations without improvement), ``"exponential"`` or ``"constant"``.
        decay: of the exponential schedule, the factor per ten steps.
        lr_floor: lowest rate, as a share of ``lr``; it never reaches zero.
        clip: largest norm of the gradient; 0 does not clip.
        ema: decay per step of the running average of the weights (Polyak averaging), which is what is validated and
            kept; 0 keeps the weights themselves.
        evaluate_every: steps between validations.
        context_noise: standard deviation of the normal noise that is added to the contexts of every batch, in network
            units (mostly: standard deviations of the context). A flow that has seen a few galaxies a thousand times
            each knows a context as a name; noise makes it know a neighbourhood. Several values: the flow is trained
            with each, and the one with the best validation is kept, its level with it.
        context_dropout: share of the events of a batch whose context is replaced by 0 in network units, which is the
            mean context where contexts are scaled. Where an embedding network sees each context once a step, noise and
            dropout are of the context and so of all its events in that batch.
        patience: validations without improvement before stopping; 0 never stops early.
        validation_events: at most this many validation events, a fixed random choice, are scored each time.
        checkpoint_every: steps between checkpoints, when a path is given. Where so many steps take more than a minute
            there is one a minute too (``docs/clusters.md``).
        engine: ``"auto"``, on a GPU ``"graph"`` where there can be one, and where it takes the step that the flow
            takes, else ``"eager"``, and the record says why; ``"eager"``, one operation after another; ``"graph"``,
            a step as one CUDA graph; ``"compile"``, the forward pass of a step compiled by torch:
            half a minute and more before the first one, a C++ compiler (on a GPU, Triton), and results that differ in
            rounding, worth it from some thousands of steps on (``benchmarks/results/compile_gain.md``).
    """

    steps: int = 2000
    minutes: float | None = None
    batch_size: int = 256
    lr: float = 2e-3
    optimizer: Literal["adamw", "radam"] = "adamw"
    weight_decay: float = 0.0
    warmup: float = 0.02
    schedule: Literal["cosine", "plateau", "exponential", "constant"] = "cosine"
    decay: float = 0.998
    lr_floor: float = 0.01
    clip: float = 5.0
    ema: float = 0.99
    context_noise: float | tuple[float, ...] = 0.0
    context_dropout: float = 0.0
    evaluate_every: int = 50
    patience: int = 10
    validation_events: int = 5_000
    checkpoint_every: int = 500
    engine: Literal["auto", "eager", "compile", "graph"] = "auto"

    def __post_init__(self) -> None:
        for name in ("batch_size", "evaluate_every", "checkpoint_every", "validation_events"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        ends = {"warmup": 1.0, "lr_floor": 1.0, "clip": math.inf, "weight_decay": math.inf, "patience": math.inf}
        for name, high in ends.items():
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in [0, {high:g}]; got {getattr(self, name)}")
        for name in ("ema", "context_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1); got {getattr(self, name)}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be in (0, 1]; got {self.decay}")
        noise = self.noise_levels
        if len(noise) == 1:
            object.__setattr__(self, "context_noise", noise[0])
        if not noise or len(set(noise)) != len(noise) or not all(0 <= level < math.inf for level in noise):
            raise ValueError(f"context_noise must be a number >= 0, or different ones; got {self.context_noise}")
        if self.steps < 0 or self.lr <= 0 or (self.minutes is not None and self.minutes <= 0):
            raise ValueError("steps must not be negative, lr and minutes must be positive")

    @classmethod
    def suggest(cls, trial: Any) -> FitConfig:
        """What the training of every model has in common, drawn by an Optuna trial."""
        return cls(
            lr=trial.suggest_float("lr", 1e-4, 1e-2, log=True),
            batch_size=trial.suggest_categorical("batch_size", [64, 128, 256, 512]),
            weight_decay=trial.suggest_categorical("weight_decay", [0.0, 1e-4, 1e-3, 1e-2]),
        )

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """The values of ``context_noise`` that are tried."""
        return self.context_noise if isinstance(self.context_noise, tuple) else (self.context_noise,)

    def at_level(self, index: int) -> FitConfig:
        """The same with one of several levels of ``context_noise``, and its share of the time."""
        levels = self.noise_levels
        minutes = None if self.minutes is None else self.minutes / len(levels)
        return replace(self, context_noise=levels[index], minutes=minutes)


def rate_at(config: FitConfig, step: int, seconds: float, shrink: float) -> float:
    """The learning rate of the next step.

    Args:
        config: of the training.
        step: steps taken.
        seconds: time taken.
        shrink: what the plateau schedule has made of the rate so far.
    """
    done = step / max(config.steps, 1)
    if config.minutes is not None:
        done = max(done, min(1.0, seconds / (60 * config.minutes)))
    if done < config.warmup:
        by_step = (step + 1) / max(1, math.ceil(config.warmup * config.steps))
        return config.lr * min(1.0, max(by_step, done / config.warmup))
    factor = 1.0
    if config.schedule == "cosine":
        along = (done - config.warmup) / max(1e-9, 1 - config.warmup)
        factor = 0.5 * (1 + math.cos(math.pi * along))
    elif config.schedule == "exponential":
        factor = config.decay ** (step / 10)
    elif config.schedule == "plateau":
        factor = shrink
    return config.lr * (config.lr_floor + (1 - config.lr_floor) * factor)
