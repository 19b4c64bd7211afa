"""A configured source as the worker sees it: what it brought, where it stands, and whether it failed."""

from __future__ import annotations

import hashlib
import math
import random
import traceback
from collections import Counter
from dataclasses import replace
from typing import Any, Literal

import msgspec
import numpy as np

from edgectl_agent.config import HOST_CHANNELS, Fields, Mapping, OpcuaConfig, SourceConfig
from edgectl_agent.core.batch import Int64
from edgectl_agent.core.clock import ClockWatch
from edgectl_agent.core.errors import SourceError
from edgectl_agent.core.messages import SourceStatus
from edgectl_agent.core.units import SECOND_NS
from edgectl_agent.deadletters import DeadLetters
from edgectl_agent.logs import warn
from edgectl_agent.sources.interface import Chunk, Position, Source
from edgectl_agent.sources.repeated import Passes

_RETRY_S = 5.0
"""At most; less a random half, so that what failed for several at a time is not tried by them at a time."""
_AHEAD_NS = 600 * SECOND_NS
"""How far a live reading's event time may be ahead of this node's clock."""

_FEW = 6
"""So many numbers are compared sooner by Python."""

State = Literal["running", "waiting", "ended", "failed"]


class Feed:
    """Opens its source when it is first polled, and again a while after a failure, where it stopped."""

    def __init__(
        self, name: str, config: SourceConfig, source: Source, watch: ClockWatch | None = None,
        letters: DeadLetters | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.channels = tuple(config.channels) if isinstance(config, Fields | OpcuaConfig) else HOST_CHANNELS
        self.categories = tuple(config.categories) if isinstance(config, Fields) else ()
        self._never = list(range(len(self.channels)))
        """Channels, by place, that have had no value yet."""
        self.units = dict(config.units) if isinstance(config, Fields) else {}
        self.recipes: tuple[str, ...] = ()
        """That it feeds."""
        self.replayable = source.replayable
        self.accepted = 0
        self.rejected: Counter[str] = Counter()
        self.newest_ns = 0
        self.state: State = "waiting"
        self.detail = "no model reads it yet"
        self.behind = True
        """Whether it may have more to read at once: it brought something when it was asked last, or never was."""
        self._times: Int64 = np.zeros(1, np.int64)
        """Of what came last; only their median, once that was asked for."""
        self._source = source
        self._watch = watch or ClockWatch()
        self._letters = letters
        self._rng = random.Random()
        self._now_s = 0.0
        self._position: Position | None = None
        self._stored: Position | None = None
        """The position in the newest stored snapshot."""
        self._passes = Passes()
        self._open = False
        self._next_try_s = -math.inf
        path = config.path if isinstance(config, Mapping) else ""
        what = msgspec.json.encode([config.__struct_config__.tag, path])
        self._identity = hashlib.sha256(what).hexdigest()[:16]

    def poll(self, limit: int, now_s: float) -> Chunk | None:
        """What has arrived, without waiting; None if there is nothing new. Failures are kept in `state`."""
        self._now_s, self.behind = now_s, False
        if self.state == "ended" or now_s < self._next_try_s:
            return None
        try:
            if not self._open:
                self._source.open(self._position)
                self._open = True
                if self._stored is not None:
                    self._source.covered(self._stored)
            chunk = self._source.poll(limit, 0.0)
        except SourceError as e:
            self._fail(str(e), "")
            return None
        except Exception as e:  # a bug of ours or of a library: this source alone shall suffer from it
            self._fail(f"{type(e).__name__}: {e}: a bug of the agent; its log has the place", traceback.format_exc())
            return None
        if len(chunk):
            time = self._passes.settle(chunk.streams, chunk.event_time, chunk.again)
            chunk = replace(chunk, event_time=time, again=None) if chunk.again is not None else chunk
        self._note(chunk)
        return chunk if len(chunk) or chunk.rejected or chunk.ended else None

    def _fail(self, why: str, exception: str) -> None:
        if self.detail != why:
            warn("source-failed", source=self.name, message=why, **({"exception": exception} if exception else {}))
        self.state, self.detail = "failed", why
        self._next_try_s = self._now_s + _RETRY_S * (1 - self._rng.random() / 2)
        self.close()

    @property
    def source(self) -> Source:
        return self._source

    @property
    def polled_s(self) -> float:
        """When it was last asked, on the monotonic clock."""
        return self._now_s

    @property
    def reached_ns(self) -> int:
        """Event time that it has been read up to: the median of what came last, since one clock may be wrong; 0 before
        anything came."""
        if len(self._times) > 1:  # a turn asks for it several times
            middle = len(self._times) // 2
            self._times = np.partition(self._times, middle)[middle : middle + 1].copy()
        return int(self._times[0])

    @property
    def pending(self) -> bool:
        """Whether readings that cannot be asked for again wait in memory."""
        return self._open and self._source.pending

    def horizon_ns(self, accepted_ns: int) -> int | None:
        """The latest event time that is not from the future; None where that cannot be told."""
        if not self._source.live:
            return None
        latest_ns = self._watch.latest_ns(accepted_ns, int(self._now_s * 1e9))
        return None if latest_ns is None else latest_ns + _AHEAD_NS

    def snapshot(self) -> dict[str, Any]:
        passes = self._passes.snapshot()
        return {"identity": self._identity, "position": self._position} | ({"passes": passes} if passes else {})

    def covered(self) -> None:
        """What `snapshot` gave last is stored, and the alerts up to there are recorded."""
        self._stored = self._position
        if self._open and self._stored is not None:
            self._source.covered(self._stored)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `snapshot` was taken, unless that was another file or kind of source."""
        if state["identity"] == self._identity:
            self._position = self._stored = state["position"]
            self._passes.restore(state.get("passes", {}))

    def status(self) -> SourceStatus:
        return SourceStatus(
            name=self.name,
            state=self.state,
            accepted=self.accepted,
            rejected=dict(self.rejected),
            newest_event_ns=self.newest_ns,
            detail=self.detail,
            channels={channel: self.units.get(channel, "") for channel in self.channels},
            categories=self.categories,
            recipes=self.recipes,
            never=tuple(self.channels[c] for c in self._never) if self.accepted else (),
        )

    def close(self) -> None:
        if self._open:
            self._open = False
            self._source.close()

    def _note(self, chunk: Chunk) -> None:
        self._position, self.behind = chunk.position, bool(len(chunk) or chunk.rejected) and not chunk.ended
        self.accepted += len(chunk)
        if chunk.rejected:
            self.rejected.update(chunk.rejected)
            if self._letters is not None:
                self._letters.add(chunk)
        if len(chunk):
            if self._never:
                self._never = [c for c in self._never if np.isnan(chunk.values[:, c]).all()]
            times = chunk.event_time
            newest = max(times.tolist()) if len(times) <= _FEW else int(np.max(times))
            self.newest_ns, self._times = max(self.newest_ns, newest), times
        if chunk.ended:
            self.state, self.detail = "ended", ""
        elif self._source.trouble:
            if self.state != "failed":
                warn("source-failed", source=self.name, message=self._source.trouble)
            self.state, self.detail = "failed", self._source.trouble
        elif self._source.waiting:
            self.state, self.detail = "waiting", "there is nothing to read yet"
        else:
            self.state, self.detail = "running", ""
