"""What one of the workers on a study does to it: takes trials over, begins new ones, tells what came of them.

Imported late, because it imports Optuna.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna import create_trial
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from flowzoo.lease import Lease, take
from flowzoo.tune.sampling import origin
from flowzoo.tune.storage import Opened
from flowzoo.tune.study import SEAL, seal
from flowzoo.tune.task import Task
from flowzoo.tune.trial import Lost, Outcome, forget, run_trial

BEYOND = "beyond the budget: others were faster"
POLL = 0.5  # seconds between two looks at what others do
# A training that the system kills for its memory would be begun again for ever.
ATTEMPTS = 20
STILL = 40  # heartbeats without a validation, after which a trial whose worker nobody can see is taken over


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial ended on its own merits, and so uses the budget; one that was lost with its worker does not."""
    if trial.state.name == "FAIL":
        # The storage fails a trial too, when it loses sight of its worker. That one may have been about to tell an end
        # of another kind, and have written its reason down: the seal is of the end that was meant.
        meant = trial.user_attrs.get(SEAL) == seal(trial, "FAIL", None)
        return meant and trial.user_attrs.get("reason", BEYOND) != BEYOND
    return trial.state.is_finished()


class Worker:
    """One of the workers on a study, of any number of them in this process or elsewhere.

    Args:
        study: opened.
        opened: its storage.
        task: what is tuned, and how.
    """

    def __init__(self, study: Study, opened: Opened, task: Task) -> None:
        self.study, self.opened, self.task = study, opened, task
        self.storage, self.config = opened.storage, task.config
        self.study_id = self.storage.get_study_id_from_name(study.study_name)
        self.nudged: set[int] = set()
        self.seen: dict[int, tuple[int, float]] = {}

    def state(self, number: int) -> Path:
        """Where the training of a trial keeps its state."""
        return self.task.folder / f"{self.study.study_name}.{number}.state.safetensors"

    def trials(self) -> Iterator[tuple[Trial, Lease]]:
        """The trials that this worker shall run, one after another, until the study is done."""
        waits = False
        while True:
            found = self._take_over() or self._again() or self._new()
            if found is not None:
                waits = False
                yield found
                continue
            trials = self._all()
            running = [t for t in trials if not t.state.is_finished()]
            if not running and self._is_used(trials):
                break
            if running and not waits:
                waits = True
                others = "a trial of another worker" if len(running) == 1 else f"{len(running)} trials of other workers"
                print(f"{self.study.study_name}: waiting for {others}", file=sys.stderr)
            time.sleep(POLL)
        self._sweep()

    def run(self, trial: Trial, lease: Lease, *, show: bool | None) -> bool:
        """Run a trial and tell the study; False if it became somebody else's. For the rest see ``run_trial``."""
        first = origin(self.storage.get_trial(trial._trial_id)) == 0
        with lease, self._heartbeat(trial):
            try:
                outcome = run_trial(trial, self.task, self.state(trial.number), lease, first=first, show=show)
            except Lost:
                return False
            return self.tell(trial, outcome)

    def tell(self, trial: Trial, outcome: Outcome) -> bool:
        """Tell the study what came of a trial, and forget its state; False if it is somebody else's by now."""
        try:
            for key, value in outcome.attributes.items():
                trial.set_user_attr(key, value)
            if outcome.reason or "reason" in trial.user_attrs:  # of an attempt before this one, whose end was not told
                trial.set_user_attr("reason", outcome.reason)
            now = self.storage.get_trial(trial._trial_id)
            trial.set_user_attr(SEAL, seal(now, outcome.state, outcome.value))
            self.study.tell(trial, outcome.value, state=TrialState[outcome.state])
        except (UpdateFinishedTrialError, ValueError):  # the second is of `tell`, if it was over before that looked
            if self.storage.get_trial(trial._trial_id).state is not TrialState.RUNNING:
                return False
            raise
        forget(self.state(trial.number), self.task.fit)
        return True

    @contextmanager
    def _heartbeat(self, trial: Trial) -> Iterator[None]:
        """Inside the block the storage knows that somebody is at the trial."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self.config.heartbeat):
                with contextlib.suppress(Exception):  # the next time, or the training meets the same trouble
                    self._beat(trial._trial_id)
            self.storage.remove_session()  # of this thread

        self._beat(trial._trial_id)
        thread = threading.Thread(target=beat, name=f"heartbeat {trial.number}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _beat(self, trial_id: int) -> None:
        if hasattr(self.storage, "record_heartbeat"):  # a journal has none
            self.storage.record_heartbeat(trial_id)

    def _stands_still(self, trial: FrozenTrial) -> bool:
        """Whether a trial of a storage without heartbeats has shown no validation for as long as we look on."""
        if hasattr(self.storage, "record_heartbeat"):
            return False
        now, reached = time.monotonic(), len(trial.intermediate_values)
        before, since = self.seen.setdefault(trial.number, (reached, now))
        if before != reached:
            self.seen[trial.number] = (reached, now)
            return False
        return now - since > STILL * self.config.heartbeat

    def _all(self, *states: TrialState) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self.study_id, deepcopy=False, states=states or None)

    def _lease_path(self, number: int) -> Path:
        return self.opened.leases / f"{self.study.study_name}.{number}.lease"

    def _lease(self, number: int) -> Lease | None:
        return take(self._lease_path(number), expiry=4.0 * self.config.heartbeat)

    def _take_over(self) -> tuple[Trial, Lease] | None:
        """A trial whose worker is gone and whose lease can be had."""
        for frozen in self._all(TrialState.RUNNING):
            if frozen.user_attrs.get("home") != self.opened.home:
                continue
            lease = self._lease(frozen.number)
            if lease is None:
                continue
            now = self.storage.get_trial(frozen._trial_id)
            # Of attempts since the last sign of progress.
            reached = max(now.intermediate_values, default=-1)
            before, count = now.user_attrs.get("attempts", (-1, 0))
            count = count + 1 if before == reached else 1
            try:
                self.storage.set_trial_user_attr(frozen._trial_id, "attempts", [reached, count])
            except UpdateFinishedTrialError:  # it ended while we looked
                lease.release()
                continue
            trial = Trial(self.study, frozen._trial_id)
            if count > ATTEMPTS:
                reason = f"its worker died {count} times without a new validation (killed for its memory?)"
                with lease:
                    self.tell(trial, Outcome("FAIL", reason=reason))
                return self._take_over()
            return self._within_budget(trial, lease)
        return None

    def _again(self) -> tuple[Trial, Lease] | None:
        """A trial that waits to be begun again, because the storage lost sight of its worker."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self.study)
        for frozen in self._all(TrialState.RUNNING):
            foreign = frozen.user_attrs.get("home") != self.opened.home
            if foreign and self._stands_still(frozen):
                # Of a journal whose leases were not moved with it: nobody can tell otherwise that its worker is gone.
                self.storage.set_trial_user_attr(frozen._trial_id, "home", self.opened.home)
            elif foreign and frozen.number not in self.nudged:
                # Its worker may have died before its first heartbeat: without one it would never count as lost.
                self.nudged.add(frozen.number)
                self._beat(frozen._trial_id)
        for frozen in self._all(TrialState.WAITING):
            lease = self._lease(frozen.number)
            if lease is None:
                continue
            try:
                if self.storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING):
                    self.storage.set_trial_user_attr(frozen._trial_id, "home", self.opened.home)
                    return self._within_budget(Trial(self.study, frozen._trial_id), lease)
            except UpdateFinishedTrialError:  # another was faster
                pass
            lease.release()
        return None

    def _new(self) -> tuple[Trial, Lease] | None:
        """A new trial, if the budget has one left."""
        if self._is_used(self._all()):
            return None
        # Its home is there from the first moment, so that whoever dies right here leaves nothing that nobody may take.
        template = create_trial(state=TrialState.RUNNING, user_attrs={"home": self.opened.home})
        trial_id = self.storage.create_new_trial(self.study_id, template_trial=template)
        frozen = self.storage.get_trial(trial_id)
        lease = self._lease(frozen.number)
        if lease is None:  # another one thought that we were dead
            return None
        return self._within_budget(Trial(self.study, trial_id), lease)

    def _within_budget(self, trial: Trial, lease: Lease) -> tuple[Trial, Lease] | None:
        """The same; or None if others use the budget up, which the study is then told.

        Two workers may begin a last trial at once, and one of them may die before it finds out.
        """
        number = origin(self.storage.get_trial(trial._trial_id))
        if not self._is_used([t for t in self._all() if t.state.is_finished() or origin(t) < number]):
            return trial, lease
        with lease:
            self.tell(trial, Outcome("FAIL", reason=BEYOND))
        return None

    def _is_used(self, trials: Collection[FrozenTrial]) -> bool:
        """Whether these trials, finished or not, use the budget up."""
        running = [t for t in trials if not t.state.is_finished()]  # or waits: somebody will take it
        if not self.task.space.asked:
            return bool(running) or any(counts(t) for t in trials)
        if self.config.minutes is None:
            return len(running) + sum(counts(t) for t in trials) >= self.config.trials
        spent = sum(float(t.user_attrs.get("seconds", 0.0)) for t in trials if counts(t))
        now = time.time()
        spent += sum(max(0.0, now - t.datetime_start.timestamp()) for t in running if t.datetime_start)
        return spent >= 60 * self.config.minutes

    def _sweep(self) -> None:
        """Remove what trials left that ended elsewhere, or right before a kill."""
        for frozen in self._all():
            if frozen.state.is_finished():
                forget(self.state(frozen.number), self.task.fit)
                lease = self._lease(frozen.number) if self._lease_path(frozen.number).exists() else None
                if lease is not None:
                    lease.release()
