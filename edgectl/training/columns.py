"""Columns of CSV, Parquet and JSON Lines files, still as the file has them; `cells` converts them.

Rows are counted as an editor or spreadsheet shows them: the header of a CSV file is row 1; in JSON Lines and Parquet
the first reading is row 1.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from edgectl_agent.core.foreign import UNREADABLE

from edgectl.core.errors import ConfigError

RECORDING = b"edgectl.recording"
"""Key of the metadata that a recording has."""


@dataclass(frozen=True)
class Columns:
    """Some columns of one file, in file order; `names` are all that the file has."""

    path: Path | str
    first_row: int
    names: tuple[str, ...]
    found: dict[str, pa.Array]
    units: Mapping[str, str] = field(default_factory=dict)
    """Column → unit, where the file says one."""

    def __len__(self) -> int:
        return len(next(iter(self.found.values()))) if self.found else 0

    def cell(self, row: int, column: str) -> str:
        """``press.csv row 7, column 'temp'``: how messages name a cell; `row` counts from 0."""
        return f"{self.path} row {row + self.first_row}, column {column!r}"


def read(path: Path, wanted: Sequence[str], recorded: Mapping[str, str] | None = None) -> Columns:
    """Those of the `wanted` columns that the file has.

    A file of `edgectl data record` has them by the names that `recorded` says: wanted → recorded.

    Raises:
        ConfigError: no such file, no known ending, not readable as what its ending says.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"{path}: expected a file that ends in {', '.join(_READERS)}, found {path.suffix or path.name}"
        )
    try:
        if path.stat().st_size == 0:
            raise ConfigError(f"{path}: the file is empty")
        names = tuple(dict.fromkeys(wanted))
        if reader is _read_parquet and recorded and is_recording(path):
            return _renamed(_read_parquet(path, tuple(recorded.get(name, name) for name in names)), recorded)
        return reader(path, names)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: expected text in UTF-8, found other bytes at position {e.start}") from e
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror or e}") from e


# ── the three formats ───────────────────────────────────────────────────────────────────────────────────────────────


def _read_csv(path: Path, wanted: tuple[str, ...]) -> Columns:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
    delimiter = max(",;\t", key=first.count)
    names = tuple(next(csv.reader([first], delimiter=delimiter), []))
    for name in wanted:
        if names.count(name) > 1:
            raise ConfigError(
                f"{path}: expected each column once, found {name!r} {names.count(name)} times in the header"
            )
    present = [n for n in wanted if n in names]
    ragged: list[Any] = []

    def refuse(row: Any) -> str:
        ragged.append(row)
        return "error"

    try:
        table = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(use_threads=False),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, invalid_row_handler=refuse),
            convert_options=pa.csv.ConvertOptions(
                include_columns=present, column_types=dict.fromkeys(present, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as e:
        if ragged:
            row = ragged[0]
            counts = f"expected {row.expected_columns} cells, found {row.actual_columns}"
            raise ConfigError(f"{path} row {row.number}: {counts}: {shown(row.text)}") from None
        raise ConfigError(f"{path}: not a readable CSV file: {_first_line(e)}") from e
    return Columns(path, 2, names, {n: _flat(table.column(n)) for n in present})


def _read_parquet(path: Path, wanted: tuple[str, ...]) -> Columns:
    try:
        names = tuple(pa.parquet.read_schema(path).names)
        present = [n for n in wanted if n in names]
        table = pa.parquet.read_table(path, columns=present)
    except pa.ArrowException as e:
        raise ConfigError(f"{path}: not a readable Parquet file: {_first_line(e)}") from e
    units = {f.name: (f.metadata or {}).get(b"unit", b"").decode() for f in table.schema}
    found = {n: _flat(table.column(n)) for n in present}
    return Columns(path, 1, names, found, {name: unit for name, unit in units.items() if unit})


def is_recording(path: Path) -> bool:
    """Whether `edgectl data record` made it."""
    try:
        return RECORDING in (pa.parquet.read_schema(path).metadata or {})
    except pa.ArrowException:
        return False


def _renamed(source: Columns, recorded: Mapping[str, str]) -> Columns:
    """A recording's columns by the recipe's names."""
    found = {wanted: source.found[name] for wanted, name in recorded.items() if name in source.found}
    units = {wanted: source.units[name] for wanted, name in recorded.items() if name in source.units}
    wanted_of = {name: wanted for wanted, name in recorded.items()}
    return Columns(source.path, 1, tuple(wanted_of.get(name, name) for name in source.names), found, units)


def _read_json_lines(path: Path, wanted: tuple[str, ...]) -> Columns:
    """A wanted name with dots also finds nested objects: ``v.rms`` in ``{"v": {"rms": 1}}``."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            raise ConfigError(f"{path} row {number}: expected one JSON object per line, found an empty line")
        try:
            rows.append(decode(line))
        except UNREADABLE as e:
            raise ConfigError(
                f"{path} row {number}: expected one JSON object per line, found {shown(line)}: {e}"
            ) from e
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    found: dict[str, pa.Array] = {}
    for name in wanted:
        cells = [_dig(row, name) for row in rows]
        if any(c is not None for c in cells):
            found[name] = _typed(cells)
    return Columns(path, 1, names, found)


def _dig(row: dict[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    here: Any = row
    for step in name.split("."):
        here = here.get(step) if isinstance(here, dict) else None
    return here


def _typed(cells: list[Any]) -> pa.Array:
    """An Arrow array of JSON cells: whole numbers, numbers, or each cell's text as JSON writes it."""
    kinds = {type(c) for c in cells} - {type(None)}
    try:
        if kinds <= {int}:
            return pa.array(cells, pa.int64())
        if kinds <= {int, float}:
            return pa.array([None if c is None else float(c) for c in cells], pa.float64())
    except (OverflowError, pa.ArrowInvalid):
        pass  # a whole number beyond 64 bits: shown as text below
    texts = [c if isinstance(c, str) or c is None else msgspec.json.encode(c).decode() for c in cells]
    return pa.array(texts, pa.string())


_READERS: dict[str, Callable[[Path, tuple[str, ...]], Columns]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
}


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def shown(cell: Any) -> str:
    """A cell as a message quotes it: at most 60 characters."""
    text = repr(cell.decode(errors="replace") if isinstance(cell, bytes) else cell)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
