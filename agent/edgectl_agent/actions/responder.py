"""Stands between the worker and one action: decides, hands over, and lets a thread of its own do it, at most once.

`submit` never waits: it writes a line and puts the alert into a short queue. The thread takes it from there. Outcomes:

=========== ===============================================================================
ok          done
failed      it did not happen, or ended badly; it is not tried again
unknown     begun, and nobody can say how it ended: no answer in time, or the agent was killed
dry-run     what would have happened is in the log and the status
cooldown    this stream has just had one
rate        too many of all streams together
late        the alert is older than `max_age`: a backlog, or a node that was off
dropped     too many wait already
not-allowed no signed rule covers the action
=========== ===============================================================================
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgectl_agent.action_config import EffectConfig
from edgectl_agent.actions.interface import EffectFailed, Effector, EffectUnknown, key_of
from edgectl_agent.actions.journal import BEGUN, INTENT, Journal, Line
from edgectl_agent.core.allowed import ExecRule, Rule, covering
from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.gate import decide
from edgectl_agent.core.messages import ActionStatus, Alert
from edgectl_agent.core.template import control, values_of
from edgectl_agent.logs import note, warn

_WAITING = 100
_MOST_STREAMS = 10_000
_MOST_SAID = 500
_FAREWELL_S = 5.0
_ABORT_S = 2.0


def close_all(responders: Sequence[Responder]) -> None:
    """End what is under way, soon, also if many are stuck: all of them have the same few seconds."""
    for each in responders:
        each.stop()
    end_s = time.monotonic() + _FAREWELL_S
    for each in responders:
        each.join(end_s - time.monotonic())
    ending = [each.abort() for each in responders]
    end_s = time.monotonic() + _ABORT_S
    for thread in ending:
        thread.join(max(0.0, end_s - time.monotonic()))


@dataclass(frozen=True, slots=True)
class _Permit:
    """Whether the action may act, and, for a program, which contents it may have (empty: any)."""

    refused: str
    digests: frozenset[str] = frozenset()


class Responder:
    """`open` and `submit` are the worker's; `allow`, `status` and `close` may be called from anywhere."""

    def __init__(
        self, config: EffectConfig, name: str, effector: Effector, journal: Path, clock: Callable[[], int]
    ) -> None:
        self.name, self._config, self._effector, self._clock = name, config, effector, clock
        self._when, self._rule, self._reach = config.when, config.rule, config.reach
        self._journal = Journal(journal)
        self._queue: queue.Queue[Alert | None] = queue.Queue(_WAITING + 1)  # the last place is for the end
        self._full_ns = 0
        self._last: dict[str, int] = {}
        self._counting = threading.Lock()
        self._outcomes: Counter[str] = Counter()
        self._failing, self._detail = 0, ""
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name=f"action-{name}", daemon=True)
        self.observe: Callable[[float], None] = lambda seconds: None
        """Told how long after the alert its action began."""
        self.allow(())

    # ── the worker ──────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self) -> None:
        """Take up what an earlier life left, and start."""
        try:
            for line in self._journal.open():
                self._resume(line)
        except StorageError as e:
            warn("action-journal", action=self.name, message=str(e))
        self._thread.start()

    def submit(self, alert: Alert) -> None:
        """Answer an acknowledged alert, unless it was answered before. Never waits, never raises."""
        key = key_of(alert)
        if not self._when.takes(alert) or key in self._journal:
            return
        now_ns = self._clock()
        outcome = self._decide(alert, now_ns)
        try:
            if outcome:
                self._journal.add(Line(key, outcome, now_ns, alert.stream))
                self._count(outcome)
            else:
                self._journal.add(Line(key, INTENT, now_ns, alert.stream, alert=alert))
                self._queue.put_nowait(alert)
        except StorageError as e:  # a line that came through in part, or at last, must not make the next life try it
            self._conclude(key, "failed", str(e), alert.stream)

    def sync(self) -> None:
        """Put on stable storage what was handed over. Raises `StorageError`."""
        self._journal.sync()

    def _decide(self, alert: Alert, now_ns: int) -> str:
        """Empty: it shall act. Counts against cooldown and rate if so."""
        if self._permit.refused and not self._config.dry_run:
            return "not-allowed"
        if self._queue.qsize() >= _WAITING:
            return "dropped"
        decision = decide(self._rule, self._full_ns, self._last.get(alert.stream), alert.changed_ns, now_ns)
        self._full_ns = decision.full_ns
        if decision.last_ns is not None and self._rule.cooldown_ns:
            self._remember(alert.stream, decision.last_ns, now_ns)
        return "" if decision.verdict == "fire" else decision.verdict

    def _remember(self, stream: str, last_ns: int, now_ns: int) -> None:
        self._last[stream] = last_ns
        if len(self._last) > _MOST_STREAMS:
            since_ns = now_ns - self._rule.cooldown_ns
            self._last = {name: at_ns for name, at_ns in self._last.items() if at_ns > since_ns}

    def _resume(self, line: Line) -> None:
        now_ns = self._clock()
        if line.fired:
            decision = decide(self._rule, self._full_ns, None, line.at_ns, line.at_ns)
            self._full_ns = max(self._full_ns, decision.full_ns)
            if self._rule.cooldown_ns:
                self._remember(line.stream, line.at_ns, now_ns)
        if line.step == BEGUN:
            self._conclude(line.key, "unknown", "the agent ended while it was under way", line.stream)
        elif line.step == INTENT and line.alert is not None:
            late = self._rule.late(line.alert.changed_ns, now_ns)
            if late or self._queue.qsize() >= _WAITING:
                self._conclude(line.key, "late" if late else "dropped", "", line.stream)
            else:
                self._queue.put_nowait(line.alert)

    # ── for other threads ───────────────────────────────────────────────────────────────────────────────────────────

    def allow(self, rules: Iterable[Rule]) -> None:
        """From now on these signed rules hold."""
        covers = covering(self._reach, rules)
        if not covers:
            self._permit = _Permit(f"not allowed: no signed rule covers {self._reach}")
            return
        digests = [rule.sha256 for rule in covers if isinstance(rule, ExecRule)]
        self._permit = _Permit("", frozenset() if None in digests else frozenset(d for d in digests if d))

    def status(self) -> ActionStatus:
        with self._counting:
            return ActionStatus(
                name=self.name,
                type=self._reach.kind,
                dry_run=self._config.dry_run,
                refused=self._permit.refused,
                outcomes=dict(self._outcomes),
                waiting=self._queue.qsize(),
                failing=self._failing,
                detail=self._detail,
            )

    def close(self) -> None:
        """As `close_all`."""
        close_all((self,))

    def stop(self) -> None:
        """Begin nothing more; what waits is done by the next life."""
        self._stopping = True
        if self._thread.is_alive():
            with suppress(queue.Full):  # it has been told before
                self._queue.put_nowait(None)

    def join(self, within_s: float) -> None:
        """Wait for what is under way, at most as long as it may take."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, min(within_s, self._config.timeout_s)))

    def abort(self) -> threading.Thread:
        """End what is under way, in a thread: a library may wait for its other side."""
        ending = threading.Thread(target=self._abort, name=f"abort-{self.name}", daemon=True)
        ending.start()
        return ending

    def _abort(self) -> None:
        self._effector.abort()
        if self._thread.ident is not None:
            self._thread.join()

    # ── the thread ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _serve(self) -> None:
        if not self._permit.refused and not self._config.dry_run:
            self._effector.start()
        while (alert := self._queue.get()) is not None and not self._stopping:
            try:
                self._do(alert)
            except Exception as e:  # whatever a library raises must not end the thread in silence
                key = key_of(alert)
                outcome = "unknown" if self._journal.step(key) == BEGUN else "failed"
                self._conclude(key, outcome, f"{type(e).__name__}: {e}", alert.stream)

    def _do(self, alert: Alert) -> None:
        key, values, permit = key_of(alert), values_of(alert), self._permit
        try:
            if self._config.dry_run:
                would = f"would {self._effector.describe(values)}"
                return self._conclude(key, "dry-run", would, alert.stream)
            if permit.refused:
                return self._conclude(key, "not-allowed", permit.refused, alert.stream)
            began_ns = self._clock()
            self._journal.add(Line(key, BEGUN, began_ns, alert.stream), durable=True)
            self.observe(max(0, self._clock() - alert.raised_ns) / 1e9)
            self._effector.run(values, "-".join(key), permit.digests)
        except (EffectFailed, StorageError) as e:
            return self._conclude(key, "failed", str(e), alert.stream)
        except EffectUnknown as e:
            return self._conclude(key, "unknown", str(e), alert.stream)
        return self._conclude(key, "ok", "", alert.stream)

    def _conclude(self, key: tuple[str, str, str], outcome: str, detail: str, stream: str) -> None:
        detail = _shown(detail)
        try:
            self._journal.add(Line(key, outcome, self._clock(), stream, detail=detail))
        except StorageError as e:
            warn("action-journal", action=self.name, message=str(e))
        if outcome in ("failed", "unknown"):
            self._failed(outcome, detail, key[0])
            return
        with self._counting:
            self._outcomes[outcome] += 1
            if outcome == "ok":
                self._failing, self._detail = 0, ""
            elif outcome == "dry-run":
                self._detail = detail
        note("action", action=self.name, outcome=outcome, alert=key[0], message=detail)

    def _count(self, outcome: str) -> None:
        with self._counting:
            self._outcomes[outcome] += 1

    def _failed(self, outcome: str, detail: str, alert: str = "") -> None:
        with self._counting:
            self._outcomes[outcome] += 1
            self._failing, self._detail = self._failing + 1, f"{outcome}: {detail}"
        warn("action", action=self.name, outcome=outcome, alert=alert, message=detail)


def _shown(detail: str) -> str:
    """Other sides say what they want, as long as they want: it goes into the status, reports and a terminal."""
    text = "".join("?" if control(c) else c for c in " ".join(detail.split()))
    return text if len(text) <= _MOST_SAID else f"{text[: _MOST_SAID - 1]}…"
