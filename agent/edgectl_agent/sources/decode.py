"""Lines of bytes → columns. Bounded, strict, and never raises on what a device sends.

Each line is one record and is judged alone, so the result does not depend on how lines are grouped into calls. A record
becomes a reading or is counted under one reason: ``unparsable``, ``columns`` (CSV cells ≠ header), ``bad-time``,
``bad-stream``, ``not-a-number``, ``not-finite``, ``bad-category``, ``unit-mismatch`` (the record says another unit than
`Fields.units`; one that says none has the source's). An absent, empty or null channel is a missing value
(NaN), and such a category a missing one (``""``), not a reject. Law: readings + rejects + blank lines = lines.

Of a key that is there twice the last value counts. A block is converted at once; only if something in it is wrong is it
judged cell by cell.
"""

from __future__ import annotations

import csv
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC
from itertools import chain, compress
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgectl_agent.config import Fields
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.errors import SourceError
from edgectl_agent.sources.block import Block
from edgectl_agent.sources.cells import Reasons, Time, numbers, refuse_other_units, stream_name, texts, times
from edgectl_agent.sources.interface import Chunk, Position, Sample
from edgectl_agent.sources.repeated import RepeatedHours, without_offset

MAX_LINE_BYTES = 1 << 20
_Number = float | None
_Category = str | int | bool | None
_MAX_KEPT_NAMES = 100_000
_OPTIONAL = (_Number, _Category)
_FEW = 6
"""So many records are converted sooner together than channel by channel."""
_SAMPLES = 8
"""Kept of each reason and call."""
MAX_SAMPLE_BYTES = 1024


class Rejected(Counter[str]):
    """How many records were refused, by reason, and some of them."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def add(self, reason: str, record: bytes) -> None:
        """Count `record`."""
        self[reason] += 1
        if self[reason] <= _SAMPLES:
            self.samples.append(Sample(reason, bytes(record[:MAX_SAMPLE_BYTES]), len(record)))


@dataclass(frozen=True, slots=True)
class Records:
    """The readings of some lines.

    Attributes:
        streams: n stream names.
        event_time: shape (n,), ns since 1970 UTC.
        values: shape (n, c) in the order of the mapping's channels.
        line: shape (n,), the index of the line that each reading came from, rising.
        rejected: records skipped, by reason.
        texts: n strings for each of the mapping's categories, ``""`` = missing.
        samples: a few of the skipped records.
        again: as `Chunk.again`.
    """

    streams: tuple[str, ...]
    event_time: Int64
    values: Float64
    line: Int64
    rejected: dict[str, int]
    texts: tuple[tuple[str, ...], ...] = ()
    samples: tuple[Sample, ...] = ()
    again: Int64 | None = None

    def __len__(self) -> int:
        return len(self.streams)

    def __getitem__(self, part: slice) -> Records:
        """Some consecutive readings; what was rejected stays with the whole."""
        columns = tuple(column[part] for column in self.texts)
        again = None if self.again is None else self.again[part]
        return Records(
            self.streams[part], self.event_time[part], self.values[part], self.line[part], {}, columns, again=again
        )

    def where(self, good: NDArray[np.bool_]) -> Records:
        """The readings that `good` says, shape (n,); what was rejected stays."""
        return replace(
            self,
            streams=tuple(compress(self.streams, good)),
            event_time=self.event_time[good],
            values=self.values[good],
            line=self.line[good],
            texts=tuple(tuple(compress(column, good)) for column in self.texts),
            again=None if self.again is None else self.again[good],
        )

    def judged(self, why: Reasons, rejected: Rejected, lines: Sequence[bytes]) -> Records:
        """Those of which `why` says nothing; the others are counted as well as what was `rejected` of `lines` before
        they became records."""
        if not why and not rejected:
            return self
        for row, reason in why.items():
            rejected.add(reason, lines[self.line[row]])
        good = np.ones(len(self), bool)
        good[list(why)] = False
        return replace(self.where(good), rejected=dict(rejected), samples=tuple(rejected.samples))

    def chunk(
        self, position: Position, accepted_ns: int, rejected: Mapping[str, int] | None = None, ended: bool = False,
        samples: Sequence[Sample] = (),
    ) -> Chunk:  # fmt: skip
        """As a source gives them; `rejected` and `samples` beside those among these records."""
        found = self.rejected
        if rejected:
            both = Counter(found)
            both.update(rejected)
            found = dict(+both)
        return Chunk(
            self.streams, self.event_time, self.values, position, accepted_ns, ended, found, self.texts,
            (*self.samples, *samples), self.again,
        )  # fmt: skip

    @staticmethod
    def join(parts: Sequence[Records]) -> Records:
        """The readings of `parts` in order; `line` means nothing any more."""
        if len(parts) == 1:
            return parts[0]
        return Records(
            tuple(chain.from_iterable(part.streams for part in parts)),
            np.concatenate([part.event_time for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.line for part in parts]),
            {},
            tuple(tuple(chain(*columns)) for columns in zip(*(part.texts for part in parts), strict=True)),
            again=_again(parts),
        )


def _again(parts: Sequence[Records]) -> Int64 | None:
    if all(part.again is None for part in parts):
        return None
    return np.concatenate([np.zeros(len(part), np.int64) if part.again is None else part.again for part in parts])


def no_records(mapping: Fields) -> Records:
    """None at all, with the mapping's channels and categories."""
    no_times: Int64 = np.empty(0, np.int64)
    return Records((), no_times, np.empty((0, len(mapping.channels))), no_times, {}, ((),) * len(mapping.categories))


def unit_columns(mapping: Fields) -> tuple[str, ...]:
    """The columns in which records say their units, each once."""
    return tuple(dict.fromkeys(mapping.unit_columns.values()))


@dataclass(frozen=True, slots=True)
class Columns:
    """Records as the format's reader left them, one entry per line that parsed."""

    line: Sequence[int]
    time: Sequence[Any]
    stream: Sequence[str | int] | None
    values: Sequence[Sequence[Any]]
    """Of the channels, then of the categories, then of `unit_columns`."""


class _StreamNames(dict[str | int, str]):
    """A bounded memory of `stream_name`: when it is full it begins anew.

    Attributes:
        refused: whether a name was asked for that is none; such are not kept.
    """

    refused = False

    def __missing__(self, cell: str | int) -> str:
        name = stream_name(cell)
        if not name:
            self.refused = True
            return ""
        if len(self) >= _MAX_KEPT_NAMES:
            self.clear()
        self[cell] = name
        return name


class Decoder(ABC):
    """Turns lines of one format into `Records`, by a mapping of columns."""

    def __init__(self, mapping: Fields) -> None:
        self._width, self._texts = len(mapping.channels), len(mapping.channels) + len(mapping.categories)
        places = {column: i for i, column in enumerate(unit_columns(mapping))}
        self._units = [(places[column], mapping.units[ch]) for ch, column in mapping.unit_columns.items()]
        self._constant = mapping.stream[1:] if mapping.stream.startswith("=") else None
        self._nothing = no_records(mapping)
        self._names = _StreamNames()
        self._zone = UTC if mapping.zone == "UTC" else ZoneInfo(mapping.zone)
        self._repeated = None if self._zone is UTC else RepeatedHours(self._zone)

    def decode(self, lines: Sequence[bytes]) -> Records:
        """Read complete lines, each at most `MAX_LINE_BYTES` long, with or without a trailing CR. Never raises."""
        if not lines:  # what an idle source asks for fifty times a second
            return self._nothing
        rejected = Rejected()
        columns = self._parse(lines, rejected)
        n = len(columns.line)
        why = Reasons()
        event_time = self._event_times(columns.time, why)
        values = self._matrix(columns.values[: self._width], n, why)
        found = tuple(texts(cells, why) for cells in columns.values[self._width : self._texts])
        for place, unit in self._units:
            refuse_other_units(texts(columns.values[self._texts + place], why), unit, why)
        streams = self._streams(columns.stream, n, why)
        again = None if self._repeated is None else self._repeated.again(columns.time, event_time, self._is_local)
        line = np.arange(n) if isinstance(columns.line, range) else np.asarray(columns.line, np.int64)
        return Records(tuple(streams), event_time, values, line, {}, found, again=again).judged(why, rejected, lines)

    @abstractmethod
    def _parse(self, lines: Sequence[bytes], rejected: Rejected) -> Columns:
        """Split records into cells, skipping blank lines and counting what has no such form."""

    def _matrix(self, columns: Sequence[Sequence[Any]], n: int, why: Reasons) -> Float64:
        """The channels' cells as numbers, shape (n, c)."""
        values = np.empty((n, self._width))
        for c, cells in enumerate(columns):
            values[:, c] = self._numbers(cells, why)
        return values

    @abstractmethod
    def _numbers(self, cells: Sequence[Any], why: Reasons) -> Float64:
        """One channel's cells as numbers, NaN for a missing one; notes in `why` where a cell is neither."""

    def _event_times(self, cells: Sequence[Any], why: Reasons) -> Int64:
        """The column of times in ns; notes in `why` where a cell is no time."""
        return times(cells, self._zone, why)

    def _is_local(self, cell: Any) -> bool:
        """Whether a time was told without an offset."""
        return without_offset(cell)

    def _streams(self, names: Sequence[str | int] | None, n: int, why: Reasons) -> list[str]:
        if names is None:
            return [self._constant or ""] * n
        known = self._names
        known.refused = False
        streams = list(map(known.__getitem__, names))
        if known.refused:
            for i, name in enumerate(streams):
                if not name:
                    why[i] = why[i] or "bad-stream"
        return streams


class JsonDecoder(Decoder):
    """One JSON object per line; columns are keys or dotted paths of keys."""

    def __init__(self, mapping: Fields) -> None:
        super().__init__(mapping)
        leaves: dict[str, tuple[Any, str]] = {mapping.time: (Time, "bad-time")}
        if self._constant is None:
            leaves[mapping.stream] = (str | int, "bad-stream")
        leaves |= dict.fromkeys(mapping.channels.values(), (_Number, "not-a-number"))
        leaves |= dict.fromkeys(mapping.categories.values(), (_Category, "bad-category"))
        leaves |= dict.fromkeys(unit_columns(mapping), (_Category, "unit-mismatch"))
        self._why = {path: reason for path, (_, reason) in leaves.items()}
        names: dict[str, str] = {}
        row = _row_type({path: kind for path, (kind, _) in leaves.items()}, names)
        decoder = msgspec.json.Decoder(row)
        self._decode, self._decode_lines = decoder.decode, decoder.decode_lines
        self._columns = [_column(names[path]) for path in leaves]

    def _parse(self, lines: Sequence[bytes], rejected: Rejected) -> Columns:
        try:
            rows: list[Any] = self._parse_all(lines)
            where: Sequence[int] = range(len(lines))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            rows, where = self._parse_each(lines, rejected)
        first = 1 if self._constant is not None else 2
        columns = [column(rows) for column in self._columns]
        return Columns(where, columns[0], columns[1] if first == 2 else None, columns[first:])

    def _parse_all(self, lines: Sequence[bytes]) -> list[Any]:
        """Raises where something is wrong in any line."""
        if not (isinstance(lines, Block) and lines.objects):
            return list(map(self._decode, lines))
        rows: list[Any] = self._decode_lines(lines.raw)  # it lets several records share a line
        if len(rows) != len(lines):
            raise ValueError("several records in a line")
        return rows

    def _parse_each(self, lines: Sequence[bytes], rejected: Rejected) -> tuple[list[Any], list[int]]:
        rows, where = [], []
        for i, line in enumerate(lines):
            try:
                rows.append(self._decode(line))
                where.append(i)
            except msgspec.ValidationError as e:
                rejected.add(self._reason(str(e)), line)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                if line.strip():
                    rejected.add("unparsable", line)
        return rows, where

    def _reason(self, error: str) -> str:
        """Tell from msgspec's words (``… - at `$.v.rms` ``, ``… required field `ts` ``) which column is wrong."""
        text, _, where = error.partition(" - at `$")
        path = where.rstrip("`").removeprefix(".")
        if "missing required field" in text:
            path = ".".join(filter(None, (path, text.split("`")[1])))
        reason = self._why.get(path, "unparsable")
        return "not-finite" if reason == "not-a-number" and "out of range" in text else reason

    def _matrix(self, columns: Sequence[Sequence[Any]], n: int, why: Reasons) -> Float64:
        if n <= _FEW:  # one call for all channels
            with suppress(struct.error):  # some are missing
                cells = chain(*zip(*columns, strict=True))
                return np.frombuffer(struct.pack(f"{n * self._width}d", *cells)).reshape(n, self._width)
        return super()._matrix(columns, n, why)

    def _numbers(self, cells: Sequence[Any], why: Reasons) -> Float64:
        try:  # the parser let through finite numbers and None only
            return np.frombuffer(struct.pack(f"{len(cells)}d", *cells))
        except struct.error:  # None becomes NaN
            return np.array(cells, np.float64)


class CsvDecoder(Decoder):
    """Comma-separated cells under a header; quoted cells as in RFC 4180, but a record never spans lines."""

    def __init__(self, mapping: Fields, header: bytes, name: str) -> None:
        """Find the mapping's columns in the file's first line.

        Raises:
            SourceError: a column is not there, or the header is not CSV; `name` is the file as the message calls it.
        """
        super().__init__(mapping)
        try:
            found = next(csv.reader([header.decode("utf-8-sig").rstrip("\r\n")], strict=True), [])
        except (UnicodeDecodeError, csv.Error) as e:
            raise SourceError(f"{name}: the first line is not a CSV header: {e}") from e
        position = {column.strip(): i for i, column in reversed(list(enumerate(found)))}
        wanted = [mapping.time, *([] if self._constant is not None else [mapping.stream])]
        wanted += [*mapping.channels.values(), *mapping.categories.values(), *unit_columns(mapping)]
        for column in wanted:
            if column not in position:
                raise SourceError(f"{name}: column {column!r} is missing, the header has: {', '.join(found)}")
        self._columns = len(found)
        self._cells: Callable[[list[str]], tuple[str, ...]] = itemgetter(*(position[column] for column in wanted))
        self._wanted = len(wanted)
        self._plain = True

    def _parse(self, lines: Sequence[bytes], rejected: Rejected) -> Columns:
        rows, where = self._rows(lines, rejected)
        columns = list(zip(*map(self._cells, rows), strict=True)) or [()] * self._wanted
        first = 1 if self._constant is not None else 2
        return Columns(where, columns[0], columns[1] if first == 2 else None, columns[first:])

    def _rows(self, lines: Sequence[bytes], rejected: Rejected) -> tuple[list[list[str]], Sequence[int]]:
        try:
            text = b"\n".join(lines).decode()
            self._plain = text.isascii() and "_" not in text
            if '"' not in text:
                rows = list(csv.reader(text.split("\n"), strict=True))
                if set(map(len, rows)) == {self._columns} and len(rows) == len(lines):
                    return rows, range(len(lines))
        except (UnicodeDecodeError, csv.Error):
            self._plain = False
        return self._rows_each(lines, rejected)

    def _rows_each(self, lines: Sequence[bytes], rejected: Rejected) -> tuple[list[list[str]], list[int]]:
        rows, where = [], []
        for i, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                (row,) = csv.reader([line.decode()], strict=True)
            except (UnicodeDecodeError, csv.Error, ValueError):
                rejected.add("unparsable", line)
                continue
            if len(row) == self._columns:
                rows.append(row)
                where.append(i)
            else:
                rejected.add("columns", line)
        return rows, where

    def _numbers(self, cells: Sequence[Any], why: Reasons) -> Float64:
        if self._plain:
            try:
                found = np.array(list(map(float, cells)), np.float64)
                if np.isfinite(found).all():
                    return found
            except ValueError:
                pass  # some cell is empty or no number: look at each
        return numbers(cells, why)


def _column(path: str) -> Callable[[Sequence[Any]], list[Any]]:
    """The cells at `path` (``f0.f2``, of our own making) of all rows.

    As text, because the interpreter reads an attribute that the code names in a third of the time of `attrgetter`.
    """
    if not all(step[:1] == "f" and step[1:].isdecimal() for step in path.split(".")):
        raise ValueError(f"not a path of fields: {path!r}")
    found: Callable[[Sequence[Any]], list[Any]] = eval(f"lambda rows: [row.{path} for row in rows]", {})
    return found


def _row_type(leaves: dict[str, Any], names: dict[str, str]) -> Any:
    """A Struct that holds exactly the wanted paths; fills `names` with path → dotted attribute.

    Times and streams are required; a channel or a category may be absent.
    """
    return _struct(((path.split("."), kind, path) for path, kind in leaves.items()), names, "")


def _struct(leaves: Iterable[tuple[list[str], Any, str]], names: dict[str, str], prefix: str) -> Any:
    groups: dict[str, list[tuple[list[str], Any, str]]] = {}
    for steps, kind, path in leaves:
        groups.setdefault(steps[0], []).append((steps[1:], kind, path))
    fields: list[Any] = []
    rename: dict[str, str] = {}
    for i, (key, members) in enumerate(groups.items()):
        attribute = f"f{i}"
        rename[attribute] = key
        steps, kind, path = members[0]
        if not steps:
            names[path] = prefix + attribute
            fields.append((attribute, kind, None) if kind in _OPTIONAL else (attribute, kind))
        else:
            inner = _struct(members, names, f"{prefix}{attribute}.")
            optional = all(member_kind in _OPTIONAL for _, member_kind, _ in members)
            fields.append((attribute, inner, msgspec.field(default_factory=inner)) if optional else (attribute, inner))
    return msgspec.defstruct("Row", fields, rename=rename, kw_only=True, gc=False)
