"""Takes syslog messages from other machines and from this one, by TCP and UDP.

A message's parts are columns: ``time`` (of reception, where the sender says none), ``received``, ``host`` (the sender's
address, where it says none), ``app``, ``pid``, ``msgid``, ``severity``, ``facility``, ``msg``, and ``sd.ID.NAME`` for a
parameter of its structured data. ``severity`` and ``facility`` are numbers as channels, names otherwise. ``level`` and
``message`` are as a log has them, so that a recipe of logs reads syslog as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Any

from edgectl_agent.config import SyslogConfig, split_address
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.syslog import FACILITIES, LEVELS, SEVERITIES, Message, parameters, parse
from edgectl_agent.core.templates import masked_one
from edgectl_agent.core.units import size_bytes
from edgectl_agent.sources.cells import MAX_TEXT_CHARS, Reasons, numbers
from edgectl_agent.sources.decode import Columns, Decoder, Records, Rejected
from edgectl_agent.sources.intake import IntakeSource
from edgectl_agent.sources.interface import Chunk, Position
from edgectl_agent.sources.syslog_listener import Arrival, Listener

_Cell = str | int
_Get = Callable[[Message, Arrival], _Cell]

_TEXTS: dict[str, _Get] = {
    "time": lambda m, a: m.time or a.at_ns,
    "received": lambda m, a: a.at_ns,
    "host": lambda m, a: m.host or a.peer,
    "app": lambda m, a: m.app,
    "pid": lambda m, a: m.pid,
    "msgid": lambda m, a: m.msgid,
    "msg": lambda m, a: m.text[:MAX_TEXT_CHARS],
    "severity": lambda m, a: SEVERITIES[m.severity],
    "facility": lambda m, a: FACILITIES[m.facility],
    "level": lambda m, a: LEVELS[m.severity],
    "message": lambda m, a: masked_one(m.text),
}
_NUMBERS: dict[str, _Get] = _TEXTS | {"severity": lambda m, a: m.severity, "facility": lambda m, a: m.facility}


class SyslogDecoder(Decoder):
    """Arrivals → readings; a message without a priority is ``unparsable``."""

    def __init__(self, mapping: SyslogConfig) -> None:
        super().__init__(mapping)
        self._time = _TEXTS[mapping.time]
        self._stream = None if self._constant is not None else _getter(mapping.stream, _TEXTS)
        self._values = [_getter(column, _NUMBERS) for column in mapping.channels.values()]
        self._values += [_getter(column, _TEXTS) for column in mapping.categories.values()]

    def read(self, arrivals: Sequence[Arrival]) -> Records:
        """The `Records` of some arrivals. Never raises."""
        self._arrivals = arrivals
        return self.decode([arrival.data for arrival in arrivals])

    def _parse(self, lines: Sequence[bytes], rejected: Rejected) -> Columns:
        parsed = list(map(parse, lines))
        where = [i for i, message in enumerate(parsed) if message is not None]
        for message, line in zip(parsed, lines, strict=True):
            if message is None:
                rejected.add("unparsable", line)
        found = [(message, self._arrivals[i]) for i, message in enumerate(parsed) if message is not None]
        return Columns(
            where,
            [self._time(*one) for one in found],
            [self._stream(*one) for one in found] if self._stream else None,
            [[get(*one) for one in found] for get in self._values],
        )

    def _numbers(self, cells: Sequence[Any], why: Reasons) -> Float64:
        return numbers(cells, why)


def _getter(column: str, known: dict[str, _Get]) -> _Get:
    if column in known:
        return known[column]
    name = column.removeprefix("sd.")
    return lambda message, arrival: parameters(message.data).get(name, "") if message.data else ""


class SyslogSource(IntakeSource[Arrival]):
    """Messages that a `Listener` takes."""

    live = True

    def __init__(self, config: SyslogConfig, clock: Callable[[], int] = time.time_ns) -> None:
        super().__init__(config.buffer, clock)
        self._config, self._decoder = config, SyslogDecoder(config)
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """What it listens on, while it is open."""
        assert self._listener is not None
        return self._listener.port

    def open(self, position: Position | None) -> None:
        self.close()
        listener = Listener(
            split_address(self._config.listen),
            self._config.transport,
            tuple(ip_network(network) for network in self._config.allow),
            self._config.connections,
            size_bytes(self._config.max_message),
            self._intake,
            self._clock,
        )
        listener.start()
        self._listener = listener

    def poll(self, limit: int, timeout_s: float) -> Chunk:
        assert self._listener is not None
        taken = self._intake.take(limit, timeout_s)
        if self._listener.holds and not self._intake.full:
            self._listener.wake()
        return self._decoder.read(taken.records).chunk({}, self._clock(), taken.rejected)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
