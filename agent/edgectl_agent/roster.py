"""Which model runs for each recipe, and why one does not.

The worker owns it; `load` alone may be called from another thread.
"""

from __future__ import annotations

from typing import Any

from edgectl_agent.core.batch import StreamTable
from edgectl_agent.core.errors import AdmissionError, EdgeError
from edgectl_agent.core.limit import IDLE_NS
from edgectl_agent.core.messages import Alert, ModelStatus, UpdateResult
from edgectl_agent.engine import Engine, Observe, Trial
from edgectl_agent.feeds import Feed
from edgectl_agent.logs import note, warn
from edgectl_agent.slots import SlotContent, Slots
from edgectl_agent.sources.interface import Chunk
from edgectl_agent.updater import Updater


class Roster:
    """Engines by recipe."""

    def __init__(
        self, node: str, slots: Slots, updater: Updater, max_streams: int, observe: Observe, idle_ns: int = IDLE_NS
    ) -> None:
        self._node, self._max_streams, self._observe, self._idle_ns = node, max_streams, observe, idle_ns
        self._slots, self._updater = slots, updater
        self._engines: dict[str, Engine] = {}
        self._previous: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        """Recipe → why its model does not run."""
        self.trials: dict[str, Trial] = {}

    # ── loading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def load(self, raw: bytes, version: str, streams: StreamTable | None = None) -> Engine:
        """Build an engine from a bundle's bytes and check it. Raises as `Engine.load` does."""
        table = StreamTable() if streams is None else streams
        return Engine.load(raw, version, self._node, table, self._max_streams, self._observe, self._idle_ns)

    def open(self) -> None:
        """Load what the slots hold. A model that does not pass gives way to the other slot's, if that is permitted."""
        for recipe in self._slots.recipes():
            try:
                active = self._slots.active(recipe)
                if active is not None:
                    self._engines[recipe] = self._load_slot(active)
            except EdgeError as e:
                warn("model-refused", recipe=recipe, reason=e.reason, message=str(e))
                self._fall_back(recipe, str(e))
            self._look_at_slots(recipe)

    def _load_slot(self, content: SlotContent) -> Engine:
        engine = self.load(content.bundle_raw, content.release.version)
        engine.activated_ns = content.activated_ns
        note("model-loaded", recipe=engine.recipe, version=engine.version, bundle=engine.digest)
        return engine

    def _fall_back(self, recipe: str, why: str) -> None:
        found = self._updater.rollback(recipe, 0, why)
        if isinstance(found, UpdateResult):
            self.failed[recipe] = f"{why}; {found.message}"
            return
        try:
            (activation,) = found.activations
            engine = self.load(activation.bundle_raw, activation.version)
            self._updater.commit(found)
        except EdgeError as e:
            self.failed[recipe] = f"{why}; nor does the previous one run: {e}"
            return
        self._engines[recipe] = engine
        note("model-reverted", recipe=recipe, version=engine.version, bundle=engine.digest, reason=why)

    def _look_at_slots(self, recipe: str) -> None:
        try:
            other = self._slots.other(recipe)
        except EdgeError:
            other = None
        self._previous[recipe] = other.digest if other else ""

    # ── state ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self) -> dict[str, Any]:
        """State of every engine as plain values."""
        return {recipe: engine.snapshot() for recipe, engine in self._engines.items()}

    def restore(self, states: dict[str, Any], now_ns: int) -> list[Alert]:
        """Take up the state that `snapshot` gave.

        A state of the bundle in the other slot was saved just before a swap that a crash cut short: the swap is
        finished, and its alerts are returned. Any other state does not fit what runs and is left.
        """
        alerts: list[Alert] = []
        for recipe, state in states.items():
            engine = self._engines.get(recipe)
            if engine is None:
                continue
            try:
                if state["digest"] == engine.digest:
                    engine.restore(state)
                elif state["digest"] == self._previous[recipe]:
                    alerts += self._finish_swap(engine, state, now_ns)
                else:
                    warn("state-of-another-model", recipe=recipe, found=state["digest"], expected=engine.digest)
            except (EdgeError, LookupError, TypeError, ValueError) as e:
                warn("state-unusable", recipe=recipe, message=f"{type(e).__name__}: {e}")
                self._engines[recipe] = self.load(engine.raw, engine.version)
        return alerts

    def _finish_swap(self, engine: Engine, state: dict[str, Any], now_ns: int) -> list[Alert]:
        other = self._slots.other(engine.recipe)
        if other is None:
            return []
        before = self.load(other.bundle_raw, other.release.version, engine.detector.streams)
        before.restore(state)
        return list(self._last_words(before, engine, now_ns))

    def _last_words(self, before: Engine, engine: Engine, now_ns: int) -> tuple[Alert, ...]:
        """What `before` still has to say as `engine` takes over; readings that it holds and cannot hand over count."""
        alerts: tuple[Alert, ...] = ()
        if not engine.inherits(before):
            try:
                alerts = before.flush(now_ns).alerts
            except AdmissionError as e:
                warn("readings-not-scored", recipe=before.recipe, message=str(e))
        alerts += before.detector.end_open_alerts(now_ns)
        engine.succeed(before)
        return alerts

    def install(self, engine: Engine, now_ns: int) -> tuple[Alert, ...]:
        """Let `engine` take over its recipe; returns the clearing of what the one before had open."""
        before = self._engines.get(engine.recipe)
        alerts: tuple[Alert, ...] = ()
        if before is not None:
            alerts = self._last_words(before, engine, now_ns)
        engine.activated_ns = now_ns
        self._engines[engine.recipe] = engine
        self.failed.pop(engine.recipe, None)
        self._look_at_slots(engine.recipe)
        note("model-activated", recipe=engine.recipe, version=engine.version, bundle=engine.digest)
        return alerts

    # ── detecting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def engine(self, recipe: str) -> Engine | None:
        return self._engines.get(recipe)

    def reads(self, recipe: str) -> bool:
        """Whether a model is there to read the recipe's sources."""
        return recipe in self._engines and recipe not in self.failed

    def patience_ns(self, recipe: str) -> int | None:
        """How far the recipe's sources may be read ahead of each other; None if they are independent."""
        return self._engines[recipe].patience_ns if self.reads(recipe) else None

    def process(
        self, recipe: str, chunk: Chunk, feed: Feed, now_ns: int, until_ns: int | None = None
    ) -> tuple[Alert, ...]:
        """Let the recipe's model, and one on trial, see a chunk. A model that fails stops, and its sources with it.

        `until_ns`: as `Detector.process` has it.
        """
        engine = self._engines[recipe]
        horizon_ns = feed.horizon_ns(chunk.accepted_ns)
        alerts: list[Alert] = []
        try:
            for batch in engine.batches(chunk, feed.channels, feed.categories, horizon_ns):
                if recipe in self.trials:
                    self.trials[recipe].observe(batch, chunk.accepted_ns, now_ns, horizon_ns, until_ns)
                alerts += engine.process(batch, chunk.accepted_ns, now_ns, horizon_ns, until_ns).alerts
        except AdmissionError as e:
            self._stop(recipe, e)
        return tuple(alerts)

    def go_on(self, recipe: str, now_ns: int, until_ns: int | None) -> tuple[Alert, ...]:
        """Let the recipe's model score what waited only for a source that was behind."""
        engine = self._engines[recipe]
        try:
            return engine.process(engine.nothing, now_ns, now_ns, None, until_ns).alerts
        except AdmissionError as e:
            self._stop(recipe, e)
            return ()

    def flush(self, recipe: str, now_ns: int) -> tuple[Alert, ...]:
        """Let the recipe's model score what it holds: its sources have ended."""
        try:
            return self._engines[recipe].flush(now_ns).alerts
        except AdmissionError as e:
            self._stop(recipe, e)
            return ()

    def _stop(self, recipe: str, why: AdmissionError) -> None:
        self.failed[recipe] = str(why)
        warn("model-failed", recipe=recipe, message=str(why))

    def statuses(self) -> tuple[ModelStatus, ...]:
        """One per running model, for the report."""
        return tuple(engine.status(self._previous.get(recipe, "")) for recipe, engine in sorted(self._engines.items()))
