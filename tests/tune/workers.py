"""Several workers on one study, each a process; a script, so that what is forked is nothing but them.

    python workers.py FOLDERS URL TRIALS [HEARTBEAT]

FOLDERS are separated by commas, one for each worker. It prints their numbers, waits, and prints their statuses.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flowzoo import FitConfig, data, models
from flowzoo.data import Splits
from flowzoo.seeding import generator
from flowzoo.tune import Task, TuneConfig, search

FIT = FitConfig(steps=6, evaluate_every=2, checkpoint_every=2, batch_size=64, ema=0.5)


def work(folder: Path, splits: Splits, config: TuneConfig) -> None:
    def build(model: Any) -> Any:
        time.sleep(0.1)  # so that trials overlap
        shapes = splits.data.event_shape, splits.data.context_shape
        return models.build_from(model, *shapes, *splits.maps(), generator(0, "init"))

    model = models.configure("nice", {"num_steps": 2, "hidden_features": 8})
    given = {"given_model": ("num_steps", "hidden_features", "activation")}
    task = Task(model, FIT, splits, build, config, folder, "two_moons.nice", **given)
    search(task, show=False)


def main() -> None:
    folders, url, trials, *rest = sys.argv[1:]
    config = TuneConfig(
        trials=int(trials), storage=None if url == "default" else url, heartbeat=int(rest[0]) if rest else 15
    )
    splits = Splits.make(data.configure("two_moons", {"num_events": 200}).load())
    with tempfile.TemporaryDirectory() as first:  # what is imported at first use is imported once
        work(Path(first), splits, TuneConfig(trials=1))
    workers = []
    for folder in folders.split(","):
        number = os.fork()
        if not number:
            status = 1
            try:
                work(Path(folder), splits, config)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        workers.append(number)
    print(*workers, flush=True)
    print(*(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in workers), flush=True)


if __name__ == "__main__":
    main()
