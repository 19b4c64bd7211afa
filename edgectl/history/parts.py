"""A recording on the operator's disk: parts that are each whole or not there, at last one Parquet file.

While it is recorded, ``FILE.parquet.parts/`` holds ``recording.json`` (which recording this is) and the parts. Each
says in its schema's metadata up to which block of the node it goes and what is missing before it, so that the newest
part alone tells where to go on. `Parts.join` makes the one file: a row group per part, under its name only when it is
complete and synced. A damaged part is left out, counted as a gap, and kept beside the file.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.recordings import Block, RecordingStatus
from edgectl_agent.durable import sync_folder

from edgectl.core.errors import ConfigError, StorageError
from edgectl.files import write_file
from edgectl.training.columns import RECORDING
from edgectl.training.tables import RECORDED_STREAM, RECORDED_TIME

KEY = RECORDING
_BEGUN = "recording.json"
DAMAGED = "a part on this machine's disk is damaged"
T = TypeVar("T")


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Readings that the node took and the file lacks; times are the node's clock, 0 where unknown."""

    after_ns: int
    before_ns: int
    readings: int | None
    """None where nobody can count them."""
    why: str


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """Which recording a folder of parts belongs to."""

    id: str
    node: str
    source: str
    for_s: float
    started_ns: int


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the parts go."""

    head: int = 0
    """The newest block of the node's in them."""
    taken: int = 0
    """Readings that the recording had taken up to there, those of gaps included."""
    readings: int = 0
    end_ns: int = 0
    boot: str = ""
    gaps: tuple[Gap, ...] = ()
    torn: bool = False
    """Parts behind these are damaged: what is missing next was lost here."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a complete file is: also its metadata under `KEY`."""

    node: str
    source: str
    started_ns: int
    ended_ns: int
    readings: int
    gaps: tuple[Gap, ...] = ()
    channels: dict[str, str]
    """Channel → unit, empty where the node says none."""
    categories: tuple[str, ...] = ()
    ended: str = ""
    """Why it is complete: time is up, the size is reached, the source has ended."""


def schema(status: RecordingStatus) -> pa.Schema:
    """The file's columns: event time, stream, channels with their units, categories."""
    fields = [pa.field(RECORDED_TIME, pa.timestamp("ns", "UTC")), pa.field(RECORDED_STREAM, pa.string())]
    for channel in status.channels:
        unit = status.units.get(channel, "")
        fields.append(pa.field(channel, pa.float64(), metadata={"unit": unit} if unit else None))
    fields += [pa.field(category, pa.string()) for category in status.categories]
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"source {status.source}: expected no channel or category called {name!r} in a recording")
    return pa.schema(fields)


def table(blocks: Sequence[Block], status: RecordingStatus) -> pa.Table:
    """The readings of `blocks` in their order. Missing values are null."""
    chunks = [chunk for block in blocks for chunk in block.chunks]
    wide = len(status.channels)
    times = np.concatenate([np.frombuffer(chunk.event_time, "<i8") for chunk in chunks])
    values = np.concatenate([np.frombuffer(chunk.values, "<f8").reshape(-1, wide) for chunk in chunks])
    columns = [pa.array(times).cast(pa.timestamp("ns", "UTC"))]
    columns.append(pa.array([name for chunk in chunks for name in chunk.streams], pa.string()))
    columns += [pa.array(values[:, i], from_pandas=True) for i in range(wide)]
    for k in range(len(status.categories)):
        texts = [text or None for chunk in chunks for text in chunk.texts[k]]
        columns.append(pa.array(texts, pa.string()))
    return pa.Table.from_arrays(columns, schema=schema(status))


def summary(path: Path) -> Summary | None:
    """What a recording at `path` says of itself; None if that file is none. Raises `StorageError`: cannot be read."""
    return _described(path, Summary) if os.path.exists(path) else None


class Parts:
    """The folder beside `file`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.folder = file.with_name(file.name + ".parts")

    def begun(self) -> Begun | None:
        """Which recording this is, if one was begun. Raises `StorageError`."""
        try:
            return msgspec.json.decode((self.folder / _BEGUN).read_bytes(), type=Begun)
        except FileNotFoundError:
            return None
        except (OSError, *UNREADABLE) as e:
            raise StorageError(
                f"{self.folder / _BEGUN} cannot be read: {e}", hint=f"remove {self.folder}, or give another --out"
            ) from e

    def begin(self, begun: Begun) -> None:
        """Remember it, before anything is asked of the node. Raises `StorageError`."""
        write_file(self.folder / _BEGUN, msgspec.json.encode(begun))

    def progress(self) -> Progress:
        """How far the parts go that are sound: what a damaged one behind them held is missing from there on.

        Raises `StorageError`, as `damaged`, `join` and `fits`, where this machine does not let a part be read.
        """
        parts = self._parts()
        for part in reversed(parts):
            if (found := _described(part, Progress)) is not None:
                return msgspec.structs.replace(found, torn=part != parts[-1])
        return Progress(torn=bool(parts))

    def damaged(self, readings: int) -> tuple[tuple[Path, ...], tuple[Gap, ...]]:
        """The parts that are damaged, and what is missing because of them.

        Reads all of them. Every part says how many readings there are up to its end, so what lies between two sound
        ones is known.

        Args:
            readings: how many the parts should hold together.
        """
        damaged: list[Path] = []
        gaps: list[Gap] = []
        before = Progress()
        for part in self._parts():
            found, rows = _described(part, Progress), _table(part)
            if found is None or rows is None:
                damaged.append(part)
                continue
            gaps += _lost(before, found.readings - len(rows))
            before = found
        gaps += _lost(before, readings)
        return tuple(damaged), tuple(gaps)

    @property
    def size_bytes(self) -> int:
        return sum(part.stat().st_size for part in self._parts())

    def add(self, readings: pa.Table, reached: Progress) -> int:
        """Store a part; returns its size in bytes. Raises `StorageError`: then there is none."""
        parts = self._parts()
        number = int(parts[-1].stem) + 1 if parts else 1
        marked = readings.replace_schema_metadata({KEY: msgspec.json.encode(reached)})
        return _write(self.folder / f"{number:08}.parquet", [marked])

    def join(self, status: RecordingStatus, found: Summary) -> int:
        """Make the one file of the parts that are sound, and forget them; returns its size in bytes.

        Damaged ones are kept beside it as ``FILE.NUMBER.parquet.damaged``. Raises `StorageError`.
        """
        damaged: list[Path] = []

        def readable() -> Iterator[pa.Table]:
            for part in self._parts():
                one = _table(part)
                if one is None:
                    damaged.append(part)
                else:
                    yield one.replace_schema_metadata(described.metadata)

        described = schema(status).with_metadata({KEY: msgspec.json.encode(found)})
        size = _write(self.file, readable(), described)
        for part in damaged:
            _set_aside(part, self.file.with_name(f"{self.file.name}.{part.name}.damaged"))
        shutil.rmtree(self.folder, ignore_errors=True)
        return size

    def fits(self, status: RecordingStatus) -> bool:
        """Whether the source still has the columns that the parts have."""
        there = (found for part in reversed(self._parts()) if (found := _schema(part)) is not None)
        wanted = schema(status)
        return bool(next(there, wanted).equals(wanted))

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.parquet"))


def _described(path: Path, kind: type[T]) -> T | None:
    """What a file says of itself; None if it is damaged or says nothing."""
    found = _schema(path)
    try:
        return None if found is None else msgspec.json.decode((found.metadata or {})[KEY], type=kind)
    except (KeyError, *UNREADABLE):
        return None


def _schema(part: Path) -> pa.Schema | None:
    return _sound(pq.read_schema, part)


def _table(part: Path) -> pa.Table | None:
    return _sound(pq.read_table, part)


def _sound(read: Callable[[Path], T], part: Path) -> T | None:
    """What `read` finds, None if the part is damaged. Raises `StorageError` where nobody can tell."""
    try:
        return read(part)
    except OSError as e:
        if e.errno in (None, errno.EIO):  # no errno: what Arrow says of content
            return None
        raise StorageError(
            f"cannot read {part}: {os.strerror(e.errno).lower()}",
            hint="make it readable; the same command then goes on",
        ) from e
    except (pa.ArrowException, *UNREADABLE):
        return None


def _set_aside(part: Path, target: Path) -> None:
    try:
        os.replace(part, target)
    except OSError as e:
        raise StorageError(
            f"the recording is complete, but its damaged part {part} cannot become {target}: "
            f"{(e.strerror or str(e)).lower()}",
            hint=f"move it by hand, and remove {part.parent}",
        ) from e


def _lost(before: Progress, readings: int) -> Iterator[Gap]:
    """What is missing behind `before`, if the next part begins after so many readings."""
    if readings > before.readings:
        yield Gap(after_ns=before.end_ns, before_ns=0, readings=readings - before.readings, why=DAMAGED)


def _write(path: Path, tables: Iterable[pa.Table], described: pa.Schema | None = None) -> int:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            writer: pq.ParquetWriter | None = None
            for one in tables:
                writer = writer or pq.ParquetWriter(file, described or one.schema, compression="zstd")
                writer.write_table(one, row_group_size=max(len(one), 1))
            if writer is None:
                writer = pq.ParquetWriter(file, described, compression="zstd")
            writer.close()
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {(e.strerror or str(e)).lower()}", hint="make room on this disk"
        ) from e
    except BaseException:  # Ctrl-C too leaves no litter
        temporary.unlink(missing_ok=True)
        raise
    return size
