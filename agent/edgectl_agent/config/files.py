"""Sources of files and of standard input: records, or the lines of a log."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from edgectl_agent.config.mapping import Fields, PositiveInt
from edgectl_agent.connection import Strict
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.units import duration_ns, size_bytes

Format = Literal["jsonl", "csv", "log"]

LOG_COLUMNS = ("time", "arrival", "level", "message", "length", "lines", "replaced")
"""Of an event: its time, that of reading it, its level, its message without its variable parts, bytes, lines, and how
many characters of its first line were none."""


class LogLines(Strict, frozen=True, kw_only=True):
    """How lines of a log become events, and what is found in an event's first line."""

    begins: str = ""
    """A regular expression that the first line of an event begins with; default: no blank, and nothing that belongs to
    a stack trace."""
    pattern: str = ""
    """One with named groups, which are columns; ``time``, ``level`` and ``message`` replace what is found without."""
    max_lines: PositiveInt = 200
    """Of an event; further ones are dropped."""
    max_event: str = "64k"
    wait: str = "2s"
    """How long an event may be continued."""


class Mapping(Fields, frozen=True, kw_only=True):
    """A file of records, or a log."""

    path: str
    format: Format = "jsonl"
    log: LogLines | msgspec.UnsetType = msgspec.UNSET
    """Of ``format: log``. Unset, it is not written into the agent.yaml of agents that do not know it."""


class TailConfig(Mapping, frozen=True, kw_only=True, tag_field="type", tag="tail"):
    """Follow a file that grows."""

    start: Literal["start", "end"] = msgspec.field(name="from", default="start")
    history: bool = False
    """At the first start, begin with the oldest rotated file beside it (``f.1``, ``f.2.gz``, ``f-20260314``)."""
    live: bool = True
    """Event times are the present: a reading from the future is refused. ``false`` for simulated time."""


class ReplayConfig(Mapping, frozen=True, kw_only=True, tag_field="type", tag="replay"):
    """Read a recorded file once, or again and again with shifted times."""

    speed: float | str = 1.0
    """Seconds of event time per second, or ``max``."""
    repeat: bool = False


class StdinConfig(Fields, frozen=True, kw_only=True, tag_field="type", tag="stdin"):
    """Read standard input until it ends."""

    format: Format = "jsonl"
    log: LogLines | msgspec.UnsetType = msgspec.UNSET
    """Of ``format: log``."""
    live: bool = True
    """Event times are the present: a reading from the future is refused. ``false`` for simulated time."""
    buffer: str = "4M"
    """Memory for lines that wait to be scored; beyond it the pipe fills."""


def log_of(source: Mapping | StdinConfig) -> LogLines:
    """What is said about the lines of a log."""
    return LogLines() if isinstance(source.log, msgspec.UnsetType) else source.log


def check_log(source: Mapping | StdinConfig) -> None:
    """That a log's patterns are such, and its columns are found by them. Raises `ConfigError`, which begins with the
    key within the source."""
    if source.format != "log":
        if not isinstance(source.log, msgspec.UnsetType):
            raise ConfigError(f"log: expected only with format: log, found format: {source.format}")
        return
    if isinstance(source, ReplayConfig):
        raise ConfigError("format: expected jsonl or csv in a replay, found log: follow the file with type tail")
    said, groups = log_of(source), set(LOG_COLUMNS)
    for name in ("begins", "pattern"):
        try:
            groups |= set(re.compile(getattr(said, name)).groupindex)
        except (re.error, RecursionError, OverflowError) as e:
            raise ConfigError(f"log.{name}: {getattr(said, name)!r} is no regular expression: {e}") from None
    for text, read, least, most, name in (
        (said.max_event, size_bytes, "256", "1M", "max_event"),
        (said.wait, duration_ns, "10ms", "1h", "wait"),
    ):
        try:
            fits = read(least) <= read(text) <= read(most)
        except ConfigError as e:
            raise ConfigError(f"log.{name}: {e.message}") from e
        if not fits:
            raise ConfigError(f"log.{name}: expected from {least} to {most}, found {text!r}")
    if source.time not in ("time", "arrival"):
        raise ConfigError(f"time: expected time or arrival, found {source.time!r}")
    stream = [] if source.stream.startswith("=") else [source.stream]
    for column in [*stream, *source.channels.values(), *source.categories.values()]:
        if column not in groups:
            known = ", ".join(sorted(groups))
            raise ConfigError(f"column: a log has no column {column!r}, expected one of {known}")
        if column in ("time", "arrival"):
            known = ", ".join(sorted(groups - {"time", "arrival"}))
            raise ConfigError(f"column: {column!r} is a log's time and nothing else, expected one of {known}")
