"""Records what a node's source delivers: fetch blocks, store a part, only then let the node forget them.

Whatever cuts it (Ctrl-C, the link, the node's agent), the same call again goes on behind the newest part: nothing is
there twice, and what is missing is counted.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgectl_agent.core.recordings import Block, RecordingOrder, RecordingPage, RecordingStatus

from edgectl.core.errors import ConfigError, NodeUnreachable, RemoteRefused, UsageError
from edgectl.history.parts import DAMAGED, Begun, Gap, Parts, Progress, Summary, summary, table

_PART_READINGS = 500_000
_PART_S = 15.0
"""A part is stored when it has so many readings, or is so old."""
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


class Node(Protocol):
    """What is asked of a node (`edgectl.connectors.client.NodeClient`)."""

    name: str

    def record(self, order: RecordingOrder) -> RecordingStatus: ...

    def recorded(self, id_: str, after: int) -> RecordingPage: ...

    def release_recorded(self, id_: str, through: int) -> None: ...

    def end_recording(self, id_: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line asks for."""

    source: str
    for_s: float
    max_bytes: int
    spool_bytes: int
    file: Path


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The world."""

    clock_ns: Callable[[], int]
    monotonic_s: Callable[[], float]
    sleep: Callable[[float], None]
    say: Callable[[str], None]
    told: Callable[[RecordingStatus, int], None]
    """How far it is: the node's word, and how many readings are here."""


def merged(progress: Progress, block: Block, replayable: bool) -> Progress:
    """`progress` with `block` behind it, and a gap where something between them is missing."""
    gaps = list(progress.gaps)
    lost = block.first - progress.taken
    if lost > 0:
        gaps.append(Gap(after_ns=progress.end_ns, before_ns=block.begin_ns, readings=lost, why=_why_lost(progress)))
    if progress.boot and block.boot != progress.boot and not replayable:
        why = "the agent was restarted, and the source does not bring readings again"
        gaps.append(Gap(after_ns=progress.end_ns, before_ns=block.begin_ns, readings=None, why=why))
    return Progress(
        head=block.seq,
        taken=block.first + block.count,
        readings=progress.readings + block.count,
        end_ns=block.end_ns,
        boot=block.boot,
        gaps=tuple(gaps),
    )


def ended_with(progress: Progress, status: RecordingStatus) -> Progress:
    """`progress` at the end, with a gap if the last readings never came."""
    lost = status.readings - progress.taken
    if lost <= 0:
        return progress
    gap = Gap(after_ns=progress.end_ns, before_ns=0, readings=lost, why=_why_lost(progress))
    return Progress(
        head=status.head, taken=status.readings, readings=progress.readings, end_ns=progress.end_ns,
        boot=progress.boot, gaps=(*progress.gaps, gap),
    )  # fmt: skip


def _why_lost(progress: Progress) -> str:
    return DAMAGED if progress.torn else "the node's spool was full before they were fetched, or its disk lost them"


def record(node: Node, wanted: Wanted, tools: Tools) -> tuple[Summary, bool]:
    """Record until the time is up, the size is reached or the source ends.

    Returns what the file is, and whether it is new; a complete recording that is there already is left as it is.

    Raises:
        UsageError: another file, or the beginning of another recording, has the name.
        NodeUnreachable: it does not answer when asked first; later it is waited for.
        RemoteRefused: it does not know the source, or cannot record.
        StorageError: this machine's disk refuses.
    """
    there = summary(wanted.file)
    if there is not None and (there.node, there.source) == (node.name, wanted.source):
        return there, False
    if wanted.file.exists():
        raise UsageError(f"{wanted.file} is there already", hint="remove it, or give another --out")
    return _Run(node, wanted, tools).result(), True


@dataclass
class _Run:
    node: Node
    wanted: Wanted
    tools: Tools
    waiting: list[Block] = field(default_factory=list)

    def result(self) -> Summary:
        self.parts = Parts(self.wanted.file)
        self.begun = self._begun()
        self.progress = self.parts.progress()
        self.size = self.parts.size_bytes
        self.status = self.node.record(self._order())
        self._check(self.status)
        self.part_s = self.tools.monotonic_s()
        why = self._until_done()
        self.progress = ended_with(self.progress, self.status) if why != "size" else self.progress
        found = self._summary(why)
        self.parts.join(self.status, found)
        self._end()
        return found

    def _begun(self) -> Begun:
        begun = self.parts.begun()
        if begun is not None:
            if (begun.node, begun.source) != (self.node.name, self.wanted.source):
                raise UsageError(
                    f"{self.parts.folder} is of {begun.node}'s source {begun.source}",
                    hint="finish that one, remove the folder, or give another --out",
                )
            return begun
        return Begun(
            id=f"rec-{secrets.token_hex(8)}", node=self.node.name, source=self.wanted.source, for_s=self.wanted.for_s,
            started_ns=self.tools.clock_ns(),
        )  # fmt: skip

    def _order(self) -> RecordingOrder:
        """The rest of the time is asked for; a node that has the recording goes on with its own end."""
        gone_s = (self.tools.clock_ns() - self.begun.started_ns) / 1e9
        return RecordingOrder(
            id=self.begun.id,
            source=self.wanted.source,
            for_s=max(self.begun.for_s - gone_s, 1.0),
            spool_bytes=self.wanted.spool_bytes,
        )

    def _check(self, status: RecordingStatus) -> None:
        table_columns = [*status.channels, *status.categories]
        if not table_columns:
            raise ConfigError(f"node {self.node.name}: source {self.wanted.source} has no channels")
        if not self.parts.fits(status):
            raise UsageError(
                f"{self.parts.folder}: source {status.source} has other channels now than when it was begun",
                hint="give another --out, or remove the folder",
            )
        if self.parts.begun() is None:
            self.parts.begin(self.begun)
        elif self._forgotten(status):
            self._begin_anew(status)

    def _forgotten(self, status: RecordingStatus) -> bool:
        """Whether the node has less than what is here: it lost its snapshots, or the recording."""
        return status.head < self.progress.head or status.readings < self.progress.taken

    def _begin_anew(self, status: RecordingStatus) -> None:
        why = "the node has forgotten the recording, and began anew"
        gap = Gap(after_ns=self.progress.end_ns, before_ns=status.started_ns, readings=None, why=why)
        self.progress = Progress(
            readings=self.progress.readings, end_ns=self.progress.end_ns, gaps=(*self.progress.gaps, gap)
        )
        self.tools.say(f"{self.node.name}: {why}")

    def _until_done(self) -> str:
        """Fetch until there is no more; returns why."""
        pause_s, cut = _PAUSE_S, False
        try:
            while True:
                try:
                    done = self._fetch()
                except NodeUnreachable as e:
                    if not cut:
                        self.tools.say(f"{e.message}; it goes on recording, and is asked again")
                    cut, done = True, None
                else:
                    if cut:
                        self.tools.say(f"{self.node.name} answers again")
                    cut, pause_s = False, _PAUSE_S
                if done:
                    return done
                if done is None:
                    self.tools.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if cut else _PAUSE_S
        finally:
            self._store()

    def _fetch(self) -> str | None:
        """One page. Returns why this was the last, "" if there may be more at once, None if there is none now."""
        page = self.node.recorded(self.begun.id, self.progress.head)
        self.status = page.status
        taken_again = any(block.first < self.progress.taken for block in page.blocks)
        if taken_again or self._forgotten(page.status):
            self._begin_anew(page.status)
            return ""
        for block in page.blocks:
            if block.seq > self.progress.head and block.chunks:
                known = len(self.progress.gaps)
                self.progress = merged(self.progress, block, self.status.replayable)
                self.waiting.append(block)
                for gap in self.progress.gaps[known:]:
                    self.tools.say(f"gap: {_count(gap)} missing: {gap.why}")
        self.tools.told(self.status, self.progress.readings)
        if sum(block.count for block in self.waiting) >= _PART_READINGS or self._old() or self._nearly_full():
            self._store()
        if self.size >= self.wanted.max_bytes:
            return "size"
        if page.blocks:
            return ""
        if self.status.state == "running":
            return None
        return self.status.detail or ("time" if self.tools.clock_ns() >= self._until_ns() else "source ended")

    def _until_ns(self) -> int:
        return self.status.until_ns - 2_000_000_000  # the clocks of two machines

    def _old(self) -> bool:
        return self.tools.monotonic_s() - self.part_s >= _PART_S

    def _nearly_full(self) -> bool:
        """Whether what waits could reach the size; a part is never larger than its readings are here."""
        waiting = sum(len(chunk.values) + len(chunk.event_time) for block in self.waiting for chunk in block.chunks)
        return waiting > 0 and self.size + waiting >= self.wanted.max_bytes

    def _store(self) -> None:
        """Store what was fetched as a part, and let the node forget it."""
        self.part_s = self.tools.monotonic_s()
        if not self.waiting:
            return
        self.size += self.parts.add(table(self.waiting, self.status), self.progress)
        self.waiting = []
        with suppress(NodeUnreachable, RemoteRefused):  # it is released with the next part, or with the recording
            self.node.release_recorded(self.begun.id, self.progress.head)

    def _summary(self, why: str) -> Summary:
        status, progress = self.status, self.progress
        damaged, lost = self.parts.damaged(progress.readings)
        for part in damaged:
            self.tools.say(f"{part} is damaged and left out: the file names the gap, the part is kept beside it")
        return Summary(
            node=self.node.name, source=status.source, started_ns=self.begun.started_ns,
            ended_ns=self.tools.clock_ns(), readings=progress.readings - sum(gap.readings or 0 for gap in lost),
            gaps=(*progress.gaps, *lost),
            channels={channel: status.units.get(channel, "") for channel in status.channels},
            categories=status.categories, ended=why,
        )  # fmt: skip

    def _end(self) -> None:
        try:
            self.node.end_recording(self.begun.id)
        except (NodeUnreachable, RemoteRefused) as e:
            self.tools.say(f"{e.message}; the node deletes its copy by itself a day after its end")


def _count(gap: Gap) -> str:
    return "an unknown number of readings is" if gap.readings is None else f"{gap.readings:,} readings are"
