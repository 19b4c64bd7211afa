"""Writes a node's slice of the repository into a folder, to be carried there, and reads what is carried back."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path

import msgspec
from edgectl_agent.core.airgap import MANIFEST, Export, Slice, SliceFile, read_export
from edgectl_agent.core.messages import Report
from edgectl_agent.core.units import iso

from edgectl.core.errors import ConfigError, StorageError, TrustError
from edgectl.core.names import unknown
from edgectl.files import write_file
from edgectl.store.alerts import Position
from edgectl.store.store import Store


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """One slice. `until`: when the first signature in it ends; the node must have taken it in before."""

    node: str
    folder: str
    files: int
    bytes: int
    until: str


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """What one file brought.

    Attributes:
        alerts: records that were new or replaced an earlier state.
        report: whether its report is the newest that is known of the node; an older one is not kept.
        made: when the node's clock wrote it.
        ahead_s: how far that is in our future, at least; the clock's error cannot be told otherwise.
    """

    file: str
    node: str
    alerts: int
    report: bool
    made: str
    ahead_s: float


def write(
    to: Path, node: str, files: Mapping[str, bytes | Path], *, fleet: str, now: datetime, until: datetime
) -> Written:
    """Put the slice into ``to/<node>``; ``slice.json`` comes last, and without it no node takes anything.

    What is there already is not written again; what an earlier slice left is removed.

    Raises:
        StorageError: the disk refuses.
    """
    folder, listed, size = to / node, dict[str, SliceFile](), 0
    _unlink(folder / MANIFEST)
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else content.read_bytes()
        write_file(folder / name, raw)
        listed[name] = SliceFile(sha256=hashlib.sha256(raw).hexdigest(), length=len(raw))
        size += len(raw)
    for stale in [p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).as_posix() not in listed]:
        _unlink(stale)
    said = Slice(fleet=fleet, node=node, made=_iso(now), until=_iso(until), files=listed)
    write_file(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(said)))
    return Written(node=node, folder=str(folder), files=len(listed), bytes=size, until=_iso(until))


def read(file: Path, names: Collection[str], roots: Collection[str]) -> Export:
    """An export of one of this fleet's nodes, whole.

    Args:
        names: nodes of the fleet.
        roots: SHA-256 of every root that a node of this fleet may have been enrolled with.

    Raises:
        ConfigError: not an export, damaged, or cut short.
        TrustError: of another fleet.
        NothingMatched: of a node that is not in the fleet.
    """
    try:
        raw = file.read_bytes()
    except OSError as e:
        raise ConfigError(f"{file}: cannot be read: {(e.strerror or str(e)).lower()}") from e
    export = read_export(raw, str(file))
    name = export.head.report.node
    if export.head.root_sha256 not in roots:
        raise TrustError(f"{file}: node {name} trusts another fleet than this one", reason="fleet")
    if name not in names:
        error = unknown("node", name, names)
        error.message = f"{file}: {error.message}"
        raise error
    foreign = next((r for r in export.records if r.alert.node != name), None)
    if foreign is not None:
        raise ConfigError(f"{file}: node {name} gives an alert of node {foreign.alert.node}", reason="no-export")
    return export


def merge(file: Path, export: Export, store: Store, now_ns: int) -> Merged:
    """Put an export into the store; the same one again changes nothing, an older one takes nothing back.

    Raises:
        LockHeld, StorageError: the store cannot be written.
    """
    report = export.head.report
    record = store.nodes.all().get(report.node)
    fresh = record is None or record.report is None or newer(report, record.report)
    position = store.alerts.position(report.node)
    last = export.records[-1].seq if export.records else 0
    ahead = fresh and (position.log_id != export.head.log_id or last > position.after)
    reached = [Position(node=report.node, after=last, lost=export.lost, log_id=export.head.log_id)] if ahead else []
    changed = store.alerts.save((r.alert for r in export.records), reached, now_ns)
    if fresh:
        # When the file was made is known by the node's clock alone: that is the report's age, and a clock that is
        # ahead of ours is the only error that shows.
        skew_ns = max(0, report.clock_ns - now_ns)
        store.nodes.save(report, min(report.clock_ns, now_ns), skew_ns=skew_ns)
    return Merged(
        file=str(file),
        node=report.node,
        alerts=len(changed),
        report=fresh,
        made=iso(report.clock_ns),
        ahead_s=max(0, report.clock_ns - now_ns) / 1e9,
    )


def newer(report: Report, known: Report) -> bool:
    """Whether `report` was made after `known`, or is it: by the uptime of one boot, by the outbox's head, by clock."""
    if report.boot == known.boot:
        return report.uptime_s >= known.uptime_s
    mine, theirs = report.outbox, known.outbox
    if mine.log_id == theirs.log_id and mine.head_seq != theirs.head_seq:
        return mine.head_seq > theirs.head_seq
    return report.clock_ns >= known.clock_ns


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as e:
        raise StorageError(f"{path}: cannot be removed: {(e.strerror or str(e)).lower()}") from e


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
