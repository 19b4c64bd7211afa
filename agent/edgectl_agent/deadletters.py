"""Records that were no readings, a few of each reason, in a file of bounded size beside the agent's data.

One JSON object a line: when, why, how many of this reason since the line before, where in the source, and the record's
first bytes as ``text`` or, if they are no UTF-8, ``base64``. For its owner's eyes only, because records may be
confidential. The file is no queue and no proof: a full disk, or one that fails, costs lines and nothing else.
"""

from __future__ import annotations

import base64
import os
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from edgectl_agent.core.sampling import Sampler
from edgectl_agent.core.units import iso
from edgectl_agent.linefile import Lines
from edgectl_agent.logs import warn
from edgectl_agent.sources.interface import Chunk, Sample

_RETRY_NS = 60 * 10**9


class DeadLetters:
    """Of one source; `add` is called on the worker. Two files of half of `limit` bytes take turns.

    Args:
        path: made with its folder when the first record is refused.
        limit: 0 writes nothing.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._half = path, limit // 2
        self._lines = Lines(path, 0o600)
        self._sampler = Sampler()
        self._since: Counter[str] = Counter()
        self._retry_ns: int | None = None

    def add(self, chunk: Chunk) -> None:
        """Write down some of what `chunk` could not use. Never raises, and never waits for the disk's confirmation."""
        if not self._half:
            return
        now_ns = chunk.accepted_ns
        self._since.update(chunk.rejected)
        lines = b"".join(
            self._line(sample, chunk) for reason, count in chunk.rejected.items() if count > 0
            for sample in self._chosen(reason, count, chunk)
        )  # fmt: skip
        if not lines or (self._retry_ns is not None and 0 <= now_ns - self._retry_ns < _RETRY_NS):
            return
        try:
            self._write(lines[: self._half])
            self._retry_ns = None
        except OSError as e:
            if self._retry_ns is None:
                warn("dead-letter-failed", path=str(self._path), message=e.strerror or str(e))
            self._retry_ns = now_ns

    def _chosen(self, reason: str, count: int, chunk: Chunk) -> list[Sample]:
        """What is written of `reason` now; a source that has not kept the records has their reason at least."""
        due = self._sampler.due(reason, count, chunk.accepted_ns)
        kept = [sample for sample in chunk.samples if sample.reason == reason]
        return kept[:due] if kept or not due else [Sample(reason, b"", 0)]

    def _line(self, sample: Sample, chunk: Chunk) -> bytes:
        said: dict[str, Any] = {
            "time": iso(chunk.accepted_ns),
            "reason": sample.reason,
            "count": self._since.pop(sample.reason, 0),
            "position": chunk.position,
        }
        if sample.size:
            said |= {"bytes": sample.size, **_readable(sample)}
        return msgspec.json.encode(said) + b"\n"

    def _write(self, lines: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._size() + len(lines) > self._half and self._size():
            os.replace(self._path, self._path.with_name(self._path.name + ".1"))
            self._lines.torn = False
        self._lines.append(lines)

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_size
        except FileNotFoundError:
            return 0


def _readable(sample: Sample) -> dict[str, str]:
    try:
        return {"text": sample.record.decode()}
    except UnicodeDecodeError as e:
        if e.start >= len(sample.record) - 3 and sample.size > len(sample.record):  # cut within a character
            return {"text": sample.record[: e.start].decode()}
        return {"base64": base64.b64encode(sample.record).decode()}
