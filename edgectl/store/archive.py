"""The file of a backup: gzip over JSON Lines, the same for every kind of database.

```
{"edgectl-store-backup": 1, "fleet": "acme", "schema": 3, "made_ns": …, "tables": [{"name": "nodes", …}]}
{"table": "nodes"}
["pi-1", "{…}", 1764000000000000000, …]          one row, in the order of the table's columns
…
{"rows": {"nodes": 1, …}, "sha256": "…"}          over every byte before this line
```

A file appears under its name complete or not at all. The digest finds what is torn or altered by accident; it is no
signature: keep backups where only operators write.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.durable import sync_folder

from edgectl.core.errors import ConfigError, StorageError
from edgectl.store.shapes import TableShape

FORMAT = 1
LEVEL = 4
"""Of compression: twice as fast as gzip's own default and a few per cent larger."""
LONGEST_LINE = 64_000_000

Row = Sequence[Any]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of."""

    format: int = msgspec.field(name="edgectl-store-backup")
    fleet: str
    schema: int
    made_ns: int
    edgectl: str = ""
    """Version of the edgectl that made it."""
    source: str = ""
    """``sqlite`` or ``postgresql``; for people, a backup fits both."""
    tables: tuple[TableShape, ...] = ()


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    table: str


class _End(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rows: dict[str, int]
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A backup in short."""

    file: str
    fleet: str
    schema: int
    made_ns: int
    edgectl: str
    source: str
    bytes: int
    rows: dict[str, int]
    sha256: str


def write(path: Path, header: Header, content: Iterable[tuple[str, Iterable[Row]]]) -> Manifest:
    """Put a backup at `path`: table by table, each with its rows.

    Raises:
        StorageError: the disk refuses; what was at `path` before is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            with gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed:
                end = _write(packed, header, content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
        size = path.stat().st_size
    except BaseException as e:
        temporary.unlink(missing_ok=True)
        if not isinstance(e, OSError):
            raise
        hint = "make room there, or name another file"
        raise StorageError(f"cannot write {path}: {(e.strerror or str(e)).lower()}", hint=hint) from e
    return _manifest(path, header, end, size)


def _write(out: gzip.GzipFile, header: Header, content: Iterable[tuple[str, Iterable[Row]]]) -> _End:
    digest, counts = hashlib.sha256(), {}
    encoder = msgspec.json.Encoder()

    def line(value: object) -> None:
        raw = encoder.encode(value) + b"\n"
        digest.update(raw)
        out.write(raw)

    line(header)
    for name, rows in content:
        line(_Table(table=name))
        counts[name] = 0
        for row in rows:
            line(row)
            counts[name] += 1
    end = _End(rows=counts, sha256=digest.hexdigest())
    out.write(encoder.encode(end) + b"\n")
    return end


class Reader:
    """A backup that is read once, from beginning to end; `manifest` is there after the last row.

    Raises:
        ConfigError: it is no backup, of a format that this edgectl does not know, torn or altered.
        StorageError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._lines = self._read()
        self.manifest: Manifest | None = None
        first = next(self._lines, b"")
        try:
            self.header = msgspec.json.decode(first, type=Header)
        except UNREADABLE as e:
            raise ConfigError(f"{path} is not a backup of a store", hint="`edgectl store backup` makes one") from e
        if self.header.format > FORMAT:
            raise ConfigError(
                f"{path} has backup format {self.header.format}, this edgectl knows {FORMAT}",
                hint="use the newer edgectl",
            )

    def rows(self) -> Iterator[tuple[str, list[Any]]]:
        """(table, row) for each row. Only when this has ended without an error is the backup known to be whole."""
        counts: dict[str, int] = {}
        width, table = {t.name: len(t.columns) for t in self.header.tables}, ""
        decoder = msgspec.json.Decoder()
        for line, before in self._hashed():
            try:
                value = decoder.decode(line)
            except UNREADABLE as e:
                raise self._broken("a line is not JSON") from e
            if isinstance(value, list) and table and len(value) == width[table]:
                counts[table] += 1
                yield table, value
            elif isinstance(value, dict) and value.get("table") in width and value["table"] not in counts:
                table = value["table"]
                counts[table] = 0
            elif isinstance(value, dict) and "sha256" in value:
                return self._finish(value, counts, before)
            else:
                raise self._broken("a line fits no table")
        raise self._broken("its end is missing")

    def _finish(self, value: dict[str, Any], counts: dict[str, int], found: str) -> None:
        try:
            end = msgspec.convert(value, _End)
        except msgspec.ValidationError as e:
            raise self._broken("its last line is not what it should be") from e
        if end.sha256 != found or end.rows != counts or set(counts) != {t.name for t in self.header.tables}:
            raise self._broken("its digest is another one")
        if next(self._lines, None) is not None:
            raise self._broken("something follows its end")
        self.manifest = _manifest(self._path, self.header, end, self._path.stat().st_size)

    def _hashed(self) -> Iterator[tuple[bytes, str]]:
        """(line, digest of everything before it)."""
        for line in self._lines:
            before = self._digest.copy()
            self._digest.update(line)
            yield line, before.hexdigest() if line.startswith(b'{"rows"') else ""

    def _read(self) -> Iterator[bytes]:
        try:
            with gzip.open(self._path, "rb") as file:
                first = True
                while line := file.readline(LONGEST_LINE):
                    if first:
                        self._digest.update(line)
                        first = False
                    yield line
        except (EOFError, zlib.error, gzip.BadGzipFile) as e:
            if first:
                raise ConfigError(f"{self._path} is not a backup of a store", hint="name another file") from e
            raise self._broken("the file is torn or altered") from e
        except OSError as e:
            raise ConfigError(f"{self._path} cannot be read: {(e.strerror or str(e)).lower()}") from e

    def _broken(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self._path} is not a whole backup: {why}; the store was not touched", hint="take another backup"
        )


def check(path: Path) -> Manifest:
    """Read `path` to its end. Raises as `Reader`."""
    reader = Reader(path)
    for _ in reader.rows():
        pass
    assert reader.manifest is not None, "rows() ends with the manifest or raises"
    return reader.manifest


def _manifest(path: Path, header: Header, end: _End, size: int) -> Manifest:
    return Manifest(
        file=str(path), fleet=header.fleet, schema=header.schema, made_ns=header.made_ns, edgectl=header.edgectl,
        source=header.source, bytes=size, rows=end.rows, sha256=end.sha256,
    )  # fmt: skip
