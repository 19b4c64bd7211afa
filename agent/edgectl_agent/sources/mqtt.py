"""Reads topics of an MQTT broker, version 3.1.1 or 5, with QoS 1 and a persistent session.

A message holds one record, a JSON array of them, or several lines. The broker may forget a message when a stored
snapshot covers it; until then, after a lost connection or a kill, it delivers the message again, and this source leaves
out what the snapshot has. A retained message is taken as any other: its event time decides.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec

from edgectl_agent.config import MqttConfig
from edgectl_agent.core.topics import level_of
from edgectl_agent.core.units import size_bytes
from edgectl_agent.sources.interface import Chunk, Position, Source
from edgectl_agent.sources.mqtt_inbox import Inbox
from edgectl_agent.sources.mqtt_link import Link
from edgectl_agent.sources.payloads import decoder

_LONGEST_S = 10.0
"""A source does not know how often snapshots are saved; this is the default."""


class MqttSource(Source):
    """Position: ``taken`` (messages so far), ``held`` (what of them may be delivered again), ``topics``, and of a
    message that is partly taken ``part`` and ``part_of``.

    Args:
        config: what agent.yaml says.
        node: the node's name.
        name: the source's name; client id and messages are made of both.
    """

    replayable = True
    tells = gathers = True

    def __init__(self, config: MqttConfig, node: str, name: str, clock: Callable[[], int] = time.time_ns) -> None:
        self.live = config.live
        self._config, self._name, self._clock = config, name, clock
        self._client_id = config.client_id or f"{node}.{name}"
        self._level = level_of(config.stream)
        self._decoder = decoder(config if self._level is None else msgspec.structs.replace(config, stream="=topic"))
        self._inbox = self._new_inbox({})
        self._link: Link | None = None

    def open(self, position: Position | None) -> None:
        self.close()
        self._inbox = self._new_inbox(position or {})
        self._link = Link(self._config, self._client_id, self._inbox, self._name, random.Random())
        self._link.start()

    def poll(self, limit: int, timeout_s: float) -> Chunk:
        assert self._link is not None
        was_full = self._inbox.full
        taken = self._inbox.take(limit, timeout_s)
        if was_full and not self._inbox.full:
            self._link.wake()
        self.trouble = self._link.trouble
        records = self._decoder.decode(taken.lines)
        if self._level is not None and len(records):
            records = replace(records, streams=tuple(map(taken.streams.__getitem__, records.line.tolist())))
        return records.chunk(taken.position, self._clock(), taken.rejected)

    @property
    def urgent(self) -> bool:
        return self._inbox.urgent

    def covered(self, position: Position) -> None:
        self._inbox.covered(position)
        if self._link is not None:
            self._link.wake()

    def seal(self) -> None:
        self._inbox.sealed = True

    def close(self) -> None:
        if self._link is not None:
            self._link.stop()
            self._link = None

    def _new_inbox(self, position: Position) -> Inbox:
        config = self._config
        return Inbox(
            config.receive_maximum, size_bytes(config.buffer), config.format, self._level, _LONGEST_S, position,
            lambda: self.on_arrival(),
        )  # fmt: skip
