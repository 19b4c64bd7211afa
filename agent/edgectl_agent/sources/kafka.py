"""Reads topics of a Kafka cluster as a member of a consumer group.

A message is one record. Its stream is a column, the message's key (``stream: "@key"``) or one name for all; headers
are ignored. Messages that are no reading are counted by reason and never hold up those behind them: those of the
decoder, and ``tombstone`` (no value), ``empty``, ``too-long`` (more than `MAX_LINE_BYTES`), ``corrupt``,
``deleted-upstream`` and ``offset-reset`` (see `core.offsets.lost`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress

import msgspec
import numpy as np

from edgectl_agent.config import KafkaConfig
from edgectl_agent.core import offsets
from edgectl_agent.core.units import size_bytes
from edgectl_agent.sources.cells import stream_name
from edgectl_agent.sources.decode import MAX_LINE_BYTES, Records
from edgectl_agent.sources.interface import Chunk, Position, Source, SourceError
from edgectl_agent.sources.kafka_inbox import Inbox
from edgectl_agent.sources.kafka_member import Member
from edgectl_agent.sources.kafka_settings import settings
from edgectl_agent.sources.payloads import decoder

_CLOSE_S = 5.0
"""How long the worker waits for its last commit."""


class KafkaSource(Source):
    """Position: ``{"cluster": ID, "TOPIC:PARTITION": next offset, …}``, also of partitions that others read now.

    Args:
        config: what agent.yaml says.
        member: unique in the group and the same after a restart.
    """

    replayable = True

    def __init__(self, config: KafkaConfig, member: str, clock: Callable[[], int] = time.time_ns) -> None:
        self.live = config.live
        self._config, self._name, self._clock = config, member, clock
        self._by_key = config.stream == "@key"
        self._decoder = decoder(msgspec.structs.replace(config, stream="=key") if self._by_key else config)
        self._inbox = Inbox(1, {})
        self._member: Member | None = None

    def open(self, position: Position | None) -> None:
        self.close()
        cluster, known = offsets.unpack(position or {})
        self._inbox = Inbox(size_bytes(self._config.buffer) // 2, known)
        self._member = Member(
            settings(self._config, self._name), self._config.topics, self._config.start == "end", cluster,
            self._inbox, lambda: self.on_arrival(),
        )  # fmt: skip
        self._member.start()
        self.waiting = True

    def poll(self, limit: int, timeout_s: float) -> Chunk:
        assert self._member is not None
        if self._member.failure:
            raise SourceError(self._member.failure)
        taken = self._inbox.take(limit, timeout_s)
        self.waiting, self.trouble = self._member.idle, self._member.trouble
        rejected = Counter(taken.skipped)
        records = self._records(taken.values, taken.keys, rejected)
        return records.chunk(offsets.pack(self._member.cluster, taken.offsets), self._clock(), rejected)

    @property
    def urgent(self) -> bool:
        return self._member is not None and self._member.urgent

    def covered(self, position: Position) -> None:
        if self._member is not None:
            self._member.covered(offsets.unpack(position)[1])

    def close(self) -> None:
        if self._member is not None:
            self._member.stop(_CLOSE_S)
            self._member = None

    def _records(self, values: Sequence[bytes | None], keys: Sequence[bytes | None], rejected: Counter[str]) -> Records:
        """The readings; notes in `rejected` what is none and not among the records' own rejects."""
        if None in values or max(map(len, values), default=0) > MAX_LINE_BYTES:  # type: ignore[arg-type]
            rejected["tombstone"] += values.count(None)
            rejected["too-long"] += sum(value is not None and len(value) > MAX_LINE_BYTES for value in values)
            keep = [value is not None and len(value) <= MAX_LINE_BYTES for value in values]
            values, keys = list(compress(values, keep)), list(compress(keys, keep))
        lines: Sequence[bytes] = values  # type: ignore[assignment]
        if self._config.format == "csv":
            lines = list(map(bytes.rstrip, lines))  # producers often leave the line's end
        records = self._decoder.decode(lines)
        rejected["empty"] += len(lines) - len(records) - sum(records.rejected.values())
        return _by_key(records, keys, rejected) if self._by_key else records


def _by_key(records: Records, keys: Sequence[bytes | None], rejected: Counter[str]) -> Records:
    """Each reading under its message's key; one that is no stream's name is refused."""
    known = {key: _name(key) for key in dict.fromkeys(keys)}
    streams = tuple(known[keys[i]] for i in records.line)
    found = replace(records, streams=streams)
    if "" not in streams:
        return found
    rejected["bad-stream"] += streams.count("")
    return found.where(np.array(list(map(bool, streams))))


def _name(key: bytes | None) -> str:
    try:
        return stream_name((key or b"").decode())
    except UnicodeDecodeError:
        return ""
