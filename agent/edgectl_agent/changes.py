"""Carries an update or a rollback out on the running node: check, try on live readings, make durable, swap.

Called from the API's threads; only the swap itself runs on the worker, between two turns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from edgectl_agent.core.errors import AdmissionError, EdgeError, StorageError
from edgectl_agent.core.messages import Alert, ModelStatus, UpdateResult
from edgectl_agent.engine import Engine, Trial
from edgectl_agent.logs import note, warn
from edgectl_agent.outbox import Outbox
from edgectl_agent.roster import Roster
from edgectl_agent.updater import Prepared, Updater

T = TypeVar("T")
_TRIAL_S = 1.0
"""How long a new model waits for readings to be tried on."""
_FLOWING_S = 10.0
"""Where none came for so long, none is likely to come within `_TRIAL_S`: nobody waits, the golden vectors must do."""
_SCORE_S = 1.0
"""How long the answer waits for the first score after the swap, when readings are flowing."""


class Worker(Protocol):
    """Whoever owns the roster and the outbox."""

    outbox: Outbox

    def on_worker(self, task: Callable[[], T]) -> T:
        """Run `task` between two turns and return its answer or raise its error."""

    def secure(self) -> None:
        """Save a snapshot of this moment; called on the worker. Raises `StorageError` if the disk refuses it."""

    def settle(self, alerts: tuple[Alert, ...]) -> None:
        """Record `alerts` and save a snapshot; called on the worker."""


class Changes:
    """One at a time; a second request is refused while one is at work."""

    def __init__(self, updater: Updater, roster: Roster, worker: Worker, clock: Callable[[], int]) -> None:
        self._updater, self._roster, self._worker, self._clock = updater, roster, worker, clock
        self._lock = threading.Lock()
        self.on_update: Callable[[], None] = lambda: None
        """Called after each update, also a refused one: it may have brought other orders than for models."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after each request that was carried out or refused for a reason."""

    def update(self) -> UpdateResult:
        """Run what the spool's signed assignment wants here. Never raises a deliberate error."""
        try:
            return self._release(self._carry_out(lambda: self._updater.prepare(self._clock())))
        finally:
            self.on_update()

    def rollback(self, recipe: str, epoch: int) -> UpdateResult:
        """Return to the other slot's bundle. Never raises a deliberate error."""
        return self._carry_out(lambda: self._updater.rollback(recipe, epoch, "rolled back by the operator"))

    def _carry_out(self, prepare: Callable[[], Prepared | UpdateResult]) -> UpdateResult:
        if not self._lock.acquire(blocking=False):
            return UpdateResult(
                state="refused", reason="busy", message="another change is at work → retry", exit_code=75
            )
        try:
            found = prepare()
            answer = self._answer(found) if isinstance(found, UpdateResult) else self._apply(found)
            (warn if answer.state == "refused" else note)("change", **_facts(answer))
            self.on_change()
            return answer
        finally:
            self._lock.release()

    def _release(self, result: UpdateResult) -> UpdateResult:
        """Forget the alerts that the operator has, if a signed receipt came with the update."""
        stored = self._updater.collected
        if stored is None:
            return result
        try:
            self._worker.outbox.release(stored.through, stored.log_id)
        except EdgeError as e:  # of an outbox that was begun anew since: nothing of this one may go
            warn("receipt-not-taken", reason=e.reason, message=str(e))
            return result
        return msgspec.structs.replace(result, released=stored.through)

    def _apply(self, prepared: Prepared) -> UpdateResult:
        try:
            engines = [self._load(a.recipe, a.bundle_raw, a.version) for a in prepared.activations]
            flowing = prepared.kind == "update" and self._try_out(engines)
        except EdgeError as e:
            return self._answer(self._updater.abandon(prepared, e))
        try:
            self._worker.on_worker(lambda: self._swap(prepared, engines))
        except EdgeError as e:
            refused = UpdateResult(state="refused", reason=e.reason, message=str(e), exit_code=e.exit_code)
            return self._answer(refused)
        if flowing:
            _wait(lambda: all(engine.inferences for engine in engines), _SCORE_S)
        state: Literal["reverted", "confirmed"] = "reverted" if prepared.kind == "rollback" else "confirmed"
        return self._answer(UpdateResult(state=state, epoch=prepared.epoch, trust=prepared.trust))

    def _load(self, recipe: str, raw: bytes, version: str) -> Engine:
        running = self._roster.engine(recipe)
        return self._roster.load(raw, version, running.detector.streams if running else None)

    def _try_out(self, engines: list[Engine]) -> bool:
        """Let every new model see what the running one sees. Returns whether all of them scored readings.

        Raises:
            AdmissionError: one failed.
        """
        trials: dict[str, Trial] = self._worker.on_worker(lambda: self._start_trials(engines))
        try:
            _wait(lambda: all(trial.over.is_set() for trial in trials.values()), _TRIAL_S)
        finally:
            self._worker.on_worker(self._roster.trials.clear)
        for recipe, trial in trials.items():
            if trial.failure:
                raise AdmissionError(f"{recipe}: on live readings {trial.failure}", reason="trial")
        return len(trials) == len(engines) and all(trial.scored for trial in trials.values())

    def _start_trials(self, engines: list[Engine]) -> dict[str, Trial]:
        for engine in engines:
            running = self._roster.engine(engine.recipe)
            if running is not None and self._roster.reads(engine.recipe) and _flowing(running):
                self._roster.trials[engine.recipe] = Trial(engine, running)
        return dict(self._roster.trials)

    def _swap(self, prepared: Prepared, engines: list[Engine]) -> None:
        """Snapshot, flip, swap: a restart after the flip finds what the old model had open, and ends it.

        Raises:
            StorageError: the disk refuses; the old model goes on.
        """
        try:
            self._worker.secure()
        except StorageError as e:
            self._updater.abandon(prepared, e)
            raise
        self._updater.commit(prepared)
        now_ns = self._clock()
        alerts: list[Alert] = []
        for engine in engines:
            alerts += self._roster.install(engine, now_ns)
        self._worker.settle(tuple(alerts))

    def _answer(self, result: UpdateResult) -> UpdateResult:
        models: tuple[ModelStatus, ...] = self._worker.on_worker(self._roster.statuses)
        return msgspec.structs.replace(result, models=models)


def _flowing(engine: Engine) -> bool:
    return time.monotonic() - engine.fed_s < _FLOWING_S


def _wait(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.005)


def _facts(answer: UpdateResult) -> dict[str, Any]:
    return {
        "state": answer.state,
        "reason": answer.reason,
        "message": answer.message,
        "epoch": answer.epoch.number if answer.epoch else None,
        "bundles": [model.bundle for model in answer.models],
    }
