"""Alerts from the detectors into the outbox, and from there to the local actions.

Order is the promise: an alert is acted upon only once the outbox has acknowledged it, and a record or an effect that a
killed agent had already made is not made again when a replay finds the same alert.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgectl_agent.action_config import LogAction
from edgectl_agent.actions.interface import Action, Key, key_of
from edgectl_agent.actions.responder import Responder, close_all
from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.messages import Alert
from edgectl_agent.logs import warn
from edgectl_agent.outbox import Outbox

_PAGE = 1000
_MOST_REMEMBERED = 10_000
"""Keys that wait for a replay to find them again. One that never comes, because its source cannot be replayed or its
model was replaced, is pushed out by newer ones."""
_MOST_UNSENT = 2000
"""Beyond it no source is read: what the outbox does not take must not fill the memory."""


@dataclass(slots=True)
class _Responder:
    """A configured action with what it did in an earlier life and a replay may ask of it again."""

    config: LogAction
    action: Action
    fired: dict[Key, None] = field(default_factory=dict)


class Ledger:
    """Owned by the worker; `counters` may be read from anywhere."""

    def __init__(
        self, outbox: Outbox, actions: Sequence[tuple[LogAction, Action]], effects: Sequence[Responder] = ()
    ) -> None:
        self._outbox, self._effects = outbox, effects
        self._responders = [_Responder(config, action) for config, action in actions]
        self._recorded: dict[Key, None] = {}
        self._unsent: deque[Alert] = deque()
        self._unacknowledged: list[Alert] = []
        self.blocked: StorageError | None = None
        """Why the outbox refused at the last try."""
        self.alerts: Counter[str] = Counter()
        """Acknowledged records by severity."""
        self.failed_actions = 0

    @property
    def settled(self) -> bool:
        """Whether every alert offered is acknowledged: the moment for a snapshot."""
        return not self._unsent and not self._unacknowledged

    @property
    def congested(self) -> bool:
        return len(self._unsent) + len(self._unacknowledged) > _MOST_UNSENT

    def snapshot(self) -> dict[str, Any]:
        """Up to where everything is recorded and acted upon, and what of it a replay may still find again.

        Valid while `settled`. Raises `StorageError`.
        """
        for effect in self._effects:
            effect.sync()
        return {
            "outbox": self._outbox.status().head_seq,
            "recorded": list(self._recorded),
            "actions": [{"position": r.action.sync(), "fired": list(r.fired)} for r in self._responders],
        }

    def recover(self, state: dict[str, Any] | None) -> None:
        """Learn what was done up to `snapshot` and since, and finish what was begun.

        An alert that was acknowledged but not acted upon is acted upon now: its reading may never come again.
        """
        state = state or {"outbox": 0, "recorded": [], "actions": []}
        before = [*state["actions"], *[{"position": 0, "fired": []}] * len(self._responders)]
        for responder, done in zip(self._responders, before, strict=False):
            _remember(responder.fired, _keys(done["fired"]))
            try:
                _remember(responder.fired, responder.action.open(done["position"]))
            except StorageError as e:
                self._action_failed(e)
        for effect in self._effects:
            effect.open()
        _remember(self._recorded, _keys(state["recorded"]))
        after = state["outbox"]
        while page := self._outbox.read(after, _PAGE):
            for record in page:
                alert = msgspec.json.decode(record.payload, type=Alert)
                _remember(self._recorded, [key_of(alert)])
                self._act(alert)
            after = page[-1].seq

    def offer(self, alerts: Iterable[Alert]) -> None:
        """Take alerts in; `flush` makes them durable. What an earlier life has recorded is left out."""
        for alert in alerts:
            key = key_of(alert)
            if key in self._recorded:
                self._forget(key)
            else:
                self._unsent.append(alert)

    def flush(self, now_ns: int) -> bool:
        """Record, make durable, act. Returns whether anything was acknowledged; `blocked` says what is in the way."""
        if self.settled:
            return False
        refused: StorageError | None = None
        try:
            while self._unsent:
                self._outbox.append(msgspec.json.encode(self._unsent[0]), now_ns)
                self._unacknowledged.append(self._unsent.popleft())
        except StorageError as e:
            refused = e
        done: list[Alert] = []
        try:
            if self._unacknowledged:
                self._outbox.commit()
                done, self._unacknowledged = self._unacknowledged, []
        except StorageError as e:
            refused = refused or e
        if refused and (self.blocked is None or self.blocked.reason != refused.reason):
            warn("outbox-refuses", reason=refused.reason, message=str(refused))
        self.blocked = refused
        for alert in done:
            self.alerts[alert.severity] += 1
            self._act(alert)
            self._forget(key_of(alert))
        return bool(done)

    def close(self) -> None:
        for responder in self._responders:
            responder.action.close()
        close_all(self._effects)

    def _act(self, alert: Alert) -> None:
        key = key_of(alert)
        for responder in self._responders:
            if not responder.config.when.takes(alert) or key in responder.fired:
                continue
            try:
                responder.action.fire(alert)
            except StorageError as e:
                self._action_failed(e)
        for effect in self._effects:
            effect.submit(alert)

    def _forget(self, key: Key) -> None:
        """The replay has found it: it does not come a third time."""
        self._recorded.pop(key, None)
        for responder in self._responders:
            responder.fired.pop(key, None)

    def _action_failed(self, error: StorageError) -> None:
        self.failed_actions += 1
        warn("action-failed", message=str(error))


def _remember(known: dict[Key, None], keys: Iterable[Key]) -> None:
    known.update(dict.fromkeys(keys))
    while len(known) > _MOST_REMEMBERED:
        del known[next(iter(known))]


def _keys(plain: Iterable[Sequence[str]]) -> list[Key]:
    return [(alert_id, state, severity) for alert_id, state, severity in plain]
