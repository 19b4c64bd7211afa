"""Wires the node together and runs it: one worker thread owns sources, detectors and alerts.

A turn of the worker: read what has arrived → score → record and acknowledge the alerts → act → now and then save
detectors and source positions in one document. Everything else (the API's threads, signals) only asks: `report` hands
out what the worker last published, and what changes something is carried out between two turns.

Order makes a kill harmless. A snapshot is saved only when every alert found so far is acknowledged, so a restart reads
the same readings again and finds the same alerts; the ledger leaves out those that were recorded. While the outbox
refuses, no replayable source is read on.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, TypeVar

from edgectl_agent import __version__, actions, sources
from edgectl_agent.action_config import LogAction
from edgectl_agent.changes import Changes
from edgectl_agent.config import Config
from edgectl_agent.core.clock import ClockWatch
from edgectl_agent.core.errors import StorageError, UsageError
from edgectl_agent.core.messages import Alert, Report, UpdateResult
from edgectl_agent.core.pacing import MANY, left_s
from edgectl_agent.core.recordings import RecordingOrder, RecordingStatus
from edgectl_agent.core.units import size_bytes
from edgectl_agent.deadletters import DeadLetters
from edgectl_agent.deposit import sweep
from edgectl_agent.feeds import Feed
from edgectl_agent.health import Health
from edgectl_agent.ledger import Ledger
from edgectl_agent.logs import warn
from edgectl_agent.metrics import Metrics
from edgectl_agent.outbox import Outbox
from edgectl_agent.recording import Recorder
from edgectl_agent.roster import Roster
from edgectl_agent.slots import Slots
from edgectl_agent.snapshots import SnapshotStore
from edgectl_agent.sources.http import HttpSource
from edgectl_agent.sources.interface import Chunk, Source
from edgectl_agent.updater import Updater
from edgectl_agent.uplink.interface import LinkStatus
from edgectl_agent.wake import Wake

T = TypeVar("T")
_FORMAT = 1
_PUBLISH_S, _PUBLISH_IDLE_S = 0.2, 1.0
"""Between two reports: with something new while somebody asks for them, and else."""
_ASKED_S = 5.0
"""So long after a question the next one is expected."""
_LOOK_S = 0.2
"""Between two looks at sources that tell when something arrives, for what else they have to say."""
_LONGEST_WAIT_S = 10.0
"""Between two looks at a source while another catches up with it."""
_RETRY_S = 1.0
"""Between two tries to write to a disk that refuses."""


class Runtime:
    """The thread that calls `open`, `run` and `close` is the worker; `stop` and the parts in `changes`, `outbox`,
    `metrics` and `report` are for the others."""

    def __init__(
        self,
        config: Config,
        config_sha256: str,
        boot: str,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        folder = config.folder
        self.boot = boot
        self._config, self._clock, self._monotonic = config, clock, monotonic
        self.outbox = Outbox(folder / "outbox", boot=boot, limit_bytes=config.outbox_bytes)
        self.slots = Slots(folder / "slots")
        # Between two turns no thread is inside of ONNX Runtime: models are loaded and scored by the worker, or by the
        # request that waits for this very child.
        self.updater = Updater(folder, config.node, self.slots, at_rest=self.on_worker)
        self._effects = actions.effects(config, clock)
        self._permitting = Lock()
        """Two requests at a time must not leave the rules that were read first."""
        logs = [(a, actions.build(a, folder)) for a in config.actions if isinstance(a, LogAction)]
        self._ledger = Ledger(self.outbox, logs, self._effects)
        self.metrics = Metrics(self.report, self._ledger.alerts.copy, lambda: self.links())
        for effect in self._effects:
            effect.observe = self.metrics.action.labels(effect.name).observe
        self._roster = Roster(
            config.node,
            self.slots,
            self.updater,
            config.limits.streams,
            self.metrics.called,
            config.stream_idle_ns,
        )
        self.changes = Changes(self.updater, self._roster, self, clock)
        self.changes.on_update = self._permit_now
        self._snapshots = SnapshotStore(folder / "snapshots")
        self.recorder = Recorder(folder / "recordings", config.node, boot, clock)
        self._watch = ClockWatch()
        self._feeds = {
            name: Feed(name, s, sources.build(s, config.node, name), self._watch, _letters(config, name))
            for name, s in config.sources.items()
        }
        self.spool = folder / "spool"
        sweep(self.spool)
        self.intakes = {name: feed.source for name, feed in self._feeds.items() if isinstance(feed.source, HttpSource)}
        """Sources that other programs feed, by name."""
        for name, feed in self._feeds.items():
            feed.recipes = tuple(recipe for recipe, names in config.models.items() if name in names)
        self._health = Health(config, config_sha256, boot, monotonic())
        self.on_commit: Callable[[], None] = lambda: None
        """Called by the worker whenever the outbox acknowledged something."""
        self.on_alert: Callable[[], None] = lambda: None
        """As `on_commit`, for what goes out by itself."""
        self.links: Callable[[], tuple[LinkStatus, ...]] = tuple
        """How what goes out by itself fares."""
        self.on_turn: Callable[[], None] = lambda: None
        """Called by the worker every turn, at least once a second: while it is called, the worker does not hang."""
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = Wake()
        self._stopping = False
        for feed in self._feeds.values():
            feed.source.on_arrival = partial(self._arrived, feed.source)
        self._arrival = self._sleeping = False
        self._arrived_s = 0.0
        self._brought_s = -math.inf
        """When the last turn began that read something."""
        self._snapshot_at_s = self._published_s = self._asked_s = self._flush_at_s = -math.inf
        self._closed = self._moved = self._news = False
        self._snapshot_failure = ""
        self._published: Report | None = None

    # ── the worker ──────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self) -> None:
        """Recover the outbox, load the models, take up the last snapshot. Raises `StorageError`."""
        found = self.outbox.open()
        if found.lost or found.damaged or found.failures:
            warn("outbox-recovered", lost=found.lost, damaged=found.damaged, failures=found.failures)
        self._roster.open()
        state = self._load_snapshot()
        self._permit()
        self._ledger.recover(state["ledger"])
        self._watch.restore(state.get("clock", 0))
        for name, feed in self._feeds.items():
            if name in state["sources"]:
                feed.restore(state["sources"][name])
        self.recorder.open(state.get("recordings", {}), self._feeds)
        self.settle(tuple(self._roster.restore(state["models"], self._clock())))
        self._snapshot_at_s = self._monotonic() + self._config.snapshot_ns / 1e9
        self.publish()

    def run(self) -> None:
        """Turn until `stop`; then save a last snapshot."""
        while not self._stopping:
            began_s = self._monotonic()
            brought = self._turn()
            self._run_tasks()
            self.on_turn()
            self._pause(brought, began_s)
        self._empty()
        self._flush(force=True)
        self._save_snapshot()

    def _pause(self, brought: int, began_s: float) -> None:
        """Until there is something to do again; see `core.pacing`."""
        if brought >= MANY:
            return
        if brought:
            self._brought_s = began_s
        feeds = self._feeds.values()
        # What was not asked, because it has to wait, would say again and again that it has something.
        tell = all(f.source.tells and (f.source.descriptor is None or f.polled_s >= began_s) for f in feeds)
        ears = tuple(d for feed in feeds if (d := feed.source.descriptor) is not None) if tell else ()
        gathered = tell and all(feed.source.gathers or feed.source.descriptor is not None for feed in feeds)
        if brought and not gathered and not self._gather(began_s, tell):
            return
        self._sleeping = True
        if not self._arrival:  # else it came before anybody could know that it has to wake
            if ears:
                self._listen(ears, gathered)
            else:
                self._wake.wait(_LOOK_S if tell else min(self._config.idle_s, _PUBLISH_IDLE_S))
        self._sleeping = False

    def _listen(self, ears: tuple[int, ...], gathered: bool) -> None:
        """Until one of these is readable; what comes one after the other then gathers, if it has not."""
        longest_s = self._config.idle_s
        more = any(feed.behind for feed in self._feeds.values())
        heard = self._wake.listen(min(longest_s, _LOOK_S) if more else _LOOK_S, ears)
        if heard and gathered and self._monotonic() - self._brought_s < 2 * longest_s:
            self._wake.wait(longest_s)

    def _gather(self, began_s: float, tell: bool) -> bool:
        """Let readings that come one after the other gather. Returns whether none came."""
        longest_s = self._config.idle_s
        if self._wake.wait(left_s(began_s, self._monotonic(), longest_s)) or not tell:
            return False
        if self._arrival:
            self._wake.wait(left_s(self._arrived_s, self._monotonic(), longest_s))
        return not self._arrival

    def _arrived(self, source: Source) -> None:
        """From any thread: there is something to read. Only a worker that sleeps, or has to hurry, is woken for it."""
        if not self._arrival:
            self._arrived_s = self._monotonic()
        self._arrival = True
        if self._sleeping or source.urgent:
            self._wake.set()

    def _empty(self) -> None:
        """Score what was accepted and cannot be asked for again; nothing more comes in."""
        for name, feed in self._feeds.items():
            feed.source.seal()
            while feed.pending and self._may_read(name, feed):
                self._read(name, feed, self._monotonic())
            if feed.pending:
                warn("readings-not-scored", source=name)

    def close(self) -> None:
        """Release everything; tasks that nobody will run are refused."""
        self._stopping = True
        self._closed = True
        self._run_tasks()
        for feed in self._feeds.values():
            feed.close()
        self._ledger.close()
        self.outbox.close()
        self._wake.close()

    def _turn(self) -> int:
        """Read each source once. Returns how many readings there were."""
        now_s = self._monotonic()
        self._arrival = False
        brought = 0
        for name, feed in self._feeds.items():
            if self._may_read(name, feed):
                brought += self._read(name, feed, now_s)
        self._flush()
        urgent = not self._snapshot_failure and any(feed.source.urgent for feed in self._feeds.values())
        if self._moved and (urgent or now_s >= self._snapshot_at_s):
            self._save_snapshot()
        asked = self._news and now_s < self._asked_s + _ASKED_S
        if now_s >= self._published_s + (_PUBLISH_S if asked else _PUBLISH_IDLE_S):
            self.publish()
        return brought

    def _may_read(self, name: str, feed: Feed) -> bool:
        """Not without a model that reads it, or a recording before there is one; not on, while alerts cannot be
        recorded and it can be read later."""
        if self._ledger.congested or (self._ledger.blocked and feed.replayable):
            return False
        if any(self._roster.reads(recipe) for recipe in feed.recipes):
            return not self._ahead(feed)
        return self.recorder.wants(name) and not any(recipe in self._roster.failed for recipe in feed.recipes)

    def _ahead(self, feed: Feed) -> bool:
        """Whether a model joins it with a source that has more to bring and is too far behind. What somebody pushes is
        not held up, nor is anything for long: the other's clocks may be wrong."""
        if not feed.replayable or self._monotonic() - feed.polled_s > _LONGEST_WAIT_S:
            return False
        for recipe in feed.recipes:
            patience_ns = self._roster.patience_ns(recipe)
            if patience_ns is not None and feed.reached_ns - patience_ns > (self._until_ns(recipe) or feed.reached_ns):
                return True
        return False

    def _until_ns(self, recipe: str) -> int | None:
        """Up to which event time the recipe's sources have been read; None if none of them may have more."""
        feeds = (self._feeds[name] for name in self._config.models[recipe])
        return min((feed.reached_ns for feed in feeds if feed.behind), default=None)

    def _read(self, name: str, feed: Feed, now_s: float) -> int:
        state, was_behind = feed.state, feed.behind
        joins = [recipe for recipe in feed.recipes if self._roster.patience_ns(recipe) is not None]
        until = {recipe: self._until_ns(recipe) for recipe in joins}  # before what comes now
        chunk = feed.poll(self._config.batch.max, now_s)
        self._news |= chunk is not None or feed.state != state
        if chunk is not None:
            self._moved = True
            self.recorder.take(name, chunk)
            self._process(chunk, feed, until)
        if was_behind and not feed.behind:
            self._go_on(joins)
        return 0 if chunk is None else len(chunk)

    def _process(self, chunk: Chunk, feed: Feed, until: dict[str, int | None]) -> None:
        """Let the models that read the source see what it brought."""
        for recipe in feed.recipes:
            if len(chunk) and self._roster.reads(recipe):
                self._ledger.offer(self._roster.process(recipe, chunk, feed, self._clock(), until.get(recipe)))
            if chunk.ended and self._roster.reads(recipe) and self._ended(recipe):
                self._ledger.offer(self._roster.flush(recipe, self._clock()))

    def _go_on(self, joins: list[str]) -> None:
        """A source is no longer behind: let these models score what waited for it."""
        for recipe in filter(self._roster.reads, joins):
            self._moved = True
            self._ledger.offer(self._roster.go_on(recipe, self._clock(), self._until_ns(recipe)))

    def _ended(self, recipe: str) -> bool:
        """Whether no source of this recipe will ever bring a reading again."""
        return all(self._feeds[name].state == "ended" for name in self._config.models[recipe])

    def _flush(self, force: bool = False) -> None:
        now_s = self._monotonic()
        if self._ledger.settled or (self._ledger.blocked and now_s < self._flush_at_s and not force):
            return
        if self._ledger.flush(self._clock()):
            self.on_commit()
            self.on_alert()
        self._news = True
        if self._ledger.blocked:
            self._flush_at_s = now_s + _RETRY_S

    def secure(self) -> None:
        """Save a snapshot of this moment, before a swap; on the worker. Raises `StorageError` if the disk refuses it.

        While the outbox refuses alerts there can be none, and the last one stands: a model that fills the outbox must
        still give way to another.
        """
        self._flush(force=True)
        self._save_snapshot()
        if self._snapshot_failure and self._ledger.settled:
            raise StorageError(self._snapshot_failure)

    def settle(self, alerts: tuple[Alert, ...]) -> None:
        """Record `alerts` and save a snapshot; on the worker."""
        self._ledger.offer(alerts)
        self._flush(force=True)
        self._moved = True
        self._save_snapshot()
        self.publish()

    # ── snapshots ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _load_snapshot(self) -> dict[str, Any]:
        nothing: dict[str, Any] = {"ledger": None, "sources": {}, "models": {}}
        state = self._snapshots.load()
        if self._snapshots.problem:
            warn("snapshot-damaged", message=self._snapshots.problem)
        if state is None:
            return nothing
        if state.get("format") != _FORMAT:
            warn("snapshot-of-another-format", found=state.get("format"), expected=_FORMAT)
            return nothing
        return state

    def _save_snapshot(self) -> None:
        """Detectors, source positions and what is recorded, in one document; only when every alert is recorded."""
        self._snapshot_at_s = self._monotonic() + self._config.snapshot_ns / 1e9
        if not (self._moved and self._ledger.settled):
            return
        try:
            self._snapshots.save(
                {
                    "format": _FORMAT,
                    "ledger": self._ledger.snapshot(),
                    "clock": self._watch.snapshot(),
                    "sources": {name: feed.snapshot() for name, feed in self._feeds.items()},
                    "models": self._roster.snapshot(),
                    "recordings": self.recorder.snapshot(),
                }
            )
            self._moved, self._snapshot_failure = False, ""
            for feed in self._feeds.values():
                feed.covered()
            self.recorder.covered()
        except StorageError as e:
            if not self._snapshot_failure:
                warn("snapshot-failed", message=str(e))
            self._snapshot_failure = str(e)

    # ── for other threads ───────────────────────────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Let `run` end after this turn. May be called from a signal handler."""
        self._stopping = True
        self._wake.set()

    def on_worker(self, task: Callable[[], T]) -> T:
        """Run `task` between two turns and return its answer or raise its error; `StorageError` if the agent ends."""
        future: Future[T] = Future()

        def run() -> None:
            if self._stopping:
                future.set_exception(StorageError("the agent is stopping", reason="stopping"))
                return
            try:
                future.set_result(task())
            except Exception as e:
                future.set_exception(e)

        self._tasks.put(run)
        self._wake.set()
        if self._closed:
            self._run_tasks()
        return future.result()

    def _run_tasks(self) -> None:
        with suppress(queue.Empty):
            while not self._tasks.empty():
                self._tasks.get_nowait()()

    def report(self) -> Report:
        """The node's health: models and sources as last published, clock and outbox as of now. After `open`."""
        assert self._published is not None
        self._asked_s = self._monotonic()
        return self._health.current(self._published, self.outbox.status(), self._clock(), self._monotonic())

    def headline(self) -> str:
        """The node's state and the worst reason for it, in one line; after `open`."""
        assert self._published is not None
        return " ".join(": ".join([self._published.state, *self._published.reasons[:1]]).split())

    def update(self) -> UpdateResult:
        """What ``POST /v1/update`` does."""
        return self.changes.update()

    def record(self, order: RecordingOrder) -> RecordingStatus:
        """Begin to record a source beside its models. Raises `UsageError` and `StorageError` as `Recorder.start`."""
        feed = self._feeds.get(order.source)
        if feed is None:
            known = ", ".join(self._feeds) or "none"
            raise UsageError(f"{self._config.node} has no source {order.source!r}, known are: {known}")
        return self.on_worker(lambda: self.recorder.start(order, feed))

    def end_recording(self, id_: str) -> None:
        """End a recording and delete what is left of it on this node. Raises `UsageError` if there is none."""
        self.on_worker(lambda: self.recorder.remove(id_))

    def _permit_now(self) -> None:
        """As `_permit`, and who asked for the update shall see it in the next report."""
        self._permit()
        if self._effects:
            with suppress(StorageError):
                self.on_worker(self.publish)

    def _permit(self) -> None:
        """Let actions do what the newest signed assignment allows; nothing, where it cannot be read."""
        if not self._effects:
            return
        with self._permitting:
            try:
                rules = self.updater.allowed()
            except StorageError as e:
                warn("allowance-unreadable", message=str(e))
                rules = ()
            for effect in self._effects:
                effect.allow(rules)

    def have(self) -> dict[str, Any]:
        """What an operator need not send again: undamaged bundles in the slots, and the newest trusted root; and
        whether this agent is one that he can update: its version."""
        held = [self.slots.active(recipe) for recipe in self.slots.recipes()]
        held += [self.slots.other(recipe) for recipe in self.slots.recipes()]
        trust = self.updater.trust()
        return {
            "bundles": sorted({slot.digest for slot in held if slot and not slot.damage()}),
            "root": trust.root if trust else 0,
            "agent": __version__,
        }

    def publish(self) -> None:
        """Put together what `report` hands out; on the worker."""
        self._published_s, self._news = self._monotonic(), False
        self.metrics.settle()
        self.recorder.forget_old()
        blocked = self._ledger.blocked
        storage = [str(blocked) if blocked else "", self._snapshot_failure]
        self._published = self._health.report(
            self._roster,
            list(self._feeds.values()),
            self.updater,
            self.slots,
            storage,
            self.outbox.status(),
            self.links(),
            [effect.status() for effect in self._effects],
        )


def _letters(config: Config, name: str) -> DeadLetters:
    """Where refused records of a source are written down."""
    limit = size_bytes(config.sources[name].dead_letter.limit)
    return DeadLetters(config.folder / "dead-letters" / f"{name}.jsonl", limit)
