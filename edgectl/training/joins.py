"""What a recipe says under ``join``, checked; and a history whose streams are joined as a node joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from edgectl_agent.core.batch import StreamTable
from edgectl_agent.core.bundle import MAX_LATENESS_NS, FeatureSpec, Join, JoinMember
from edgectl_agent.core.join import Joiner, Membership

from edgectl.core.errors import ConfigError
from edgectl.training.recipe_checks import duration, wrong
from edgectl.training.recipe_file import ChannelEntry, RecipeFile

if TYPE_CHECKING:
    from edgectl.training.tables import Table

_CHUNK = 16_384


def join_of(raw: RecipeFile) -> Join | msgspec.UnsetType:
    """Raises `ConfigError`."""
    if raw.join is None:
        return msgspec.UNSET
    _refuse_without_streams(raw)
    keyed = _keyed(raw.join.streams)
    stream = raw.join.stream or ("*" if keyed else raw.recipe)
    if stream.count("*") != keyed:
        expected = "a name with one * for the key" if keyed else "a name without *, since no stream has one"
        raise wrong("join.stream", expected, repr(stream))
    within, every = duration("join.within", raw.join.within), raw.join.every and duration("join.every", raw.join.every)
    idle = duration("join.idle", raw.join.idle) if raw.join.idle else within
    for key, ns, text in (("within", within, raw.join.within), ("idle", idle, raw.join.idle)):
        if ns > MAX_LATENESS_NS:
            raise wrong(f"join.{key}", "at most 7d", text)
    if every and not every <= within <= 1000 * every:
        raise wrong("join.every", f"from a thousandth of within ({raw.join.within}) to all of it", raw.join.every)
    members: dict[str, list[str]] = {}
    for channel, pattern in raw.join.streams.items():
        members.setdefault(pattern, []).append(channel)
    return Join(
        stream=stream,
        members=tuple(JoinMember(streams=p, channels=tuple(channels)) for p, channels in members.items()),
        within_ns=within,
        every_ns=every or 0,
        idle_ns=idle,
        columns=_shared_columns(raw.channels),
    )


def _refuse_without_streams(raw: RecipeFile) -> None:
    assert raw.join is not None
    if not raw.stream:
        raise wrong("stream", "the column that names the streams, which join.streams tells apart", "none")
    if raw.categories:
        raise wrong("join", "a recipe of channels alone, since only numbers are joined", "categories")
    for name in raw.channels:
        if name not in raw.join.streams:
            raise wrong("join.streams", f"the streams that bring each channel, also {name!r}", "none for it")
    for name in raw.join.streams:
        if name not in raw.channels:
            raise wrong(f"join.streams.{name}", f"one of the channels {', '.join(raw.channels)}", f"{name!r}")


def _keyed(streams: Mapping[str, str]) -> bool:
    """Whether the streams have a key; the first one has, if any has."""
    for name, pattern in streams.items():
        if not pattern or pattern.count("*") > 1:
            raise wrong(f"join.streams.{name}", "a stream, or a pattern with one *", repr(pattern))
    first = next(iter(streams))
    keyed = any("*" in pattern for pattern in streams.values())
    if keyed and "*" not in streams[first]:
        raise wrong(f"join.streams.{first}", "a pattern with *, since the first one leads and others have a key",
                    repr(streams[first]))  # fmt: skip
    return keyed


def _shared_columns(channels: Mapping[str, ChannelEntry | None]) -> tuple[str, ...]:
    """By which name a source has each channel, where several have one column: the column's; else nothing."""
    columns = [(entry.column if entry else "") or name for name, entry in channels.items()]
    return () if len(set(columns)) == len(columns) else tuple(columns)


def joined(table: Table, spec: FeatureSpec) -> Table:
    """The rows that a node makes of these readings; `table` itself where nothing is joined.

    Raises:
        ConfigError: no stream is what a member names; no row comes of it.
    """
    if isinstance(spec.join, msgspec.UnsetType):
        return table
    names, member = Membership(spec.join).place(table.streams)
    _refuse_missing_members(spec.join, table.streams, set(member.tolist()))
    streams = StreamTable()
    index = np.array([streams.intern(name) for name in names], np.int32)
    joiner, found = Joiner(spec), []
    for at in range(0, len(table), _CHUNK):
        batch = table.batch(slice(at, at + _CHUNK))
        of_row = member[batch.stream]
        batch = replace(batch, stream=index[batch.stream], member=of_row).take(of_row >= 0)
        found.append(joiner.push(batch, np.arange(len(batch))).batch)
    found.append(joiner.flush().batch)
    time = np.concatenate([batch.event_time for batch in found])
    if not len(time):
        raise ConfigError("join: no row has a value, so there is nothing to learn from")
    order = np.argsort(time, kind="stable")
    stream, values = np.concatenate([b.stream for b in found])[order], np.concatenate([b.values for b in found])[order]
    present, stream = np.unique(stream, return_inverse=True)
    left = tuple(streams.names[i] for i in present)
    return replace(table, streams=left, stream=stream.astype(np.int32), event_time=time[order], values=values)


def _refuse_missing_members(join: Join, streams: Sequence[str], present: set[int]) -> None:
    for i, member in enumerate(join.members):
        if i not in present:
            have = ", ".join(streams[:5]) + (f" and {len(streams) - 5} more" if len(streams) > 5 else "")
            what = f"join.streams.{member.channels[0]}"
            raise ConfigError(f"{what}: the data has no stream {member.streams!r}, it has {have}")
