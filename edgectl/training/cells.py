"""Cells of a column → numbers, names and times; whatever does not fit is named by file, row and column.

The meaning of a time is that of `edgectl_agent.core.units.event_time_ns`, which the node applies to single readings.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.units import event_time_ns
from edgectl_agent.sources.cells import MAX_TEXT_CHARS

from edgectl.core.errors import ConfigError
from edgectl.training.columns import Columns, shown

_MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Texts that stand for no value."""
_OFFSET = re.compile(r":\d\d(?:\.\d+)?\s*(?:[Zz]|[+-]\d\d:?\d\d(?::?\d\d)?)$")
_SCALES = ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3))
"""Bounds below which a number is seconds, milliseconds, microseconds, as `event_time_ns` has them."""
_LAST_NS = 9_200_000_000_000_000_000


def numbers(columns: Columns, name: str) -> Float64:
    """A column as float64; missing cells are NaN.

    Raises:
        ConfigError: a cell that is no number, or is infinite.
    """
    cells = columns.found[name]
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        cells = pc.utf8_trim_whitespace(cells)
        cells = pc.if_else(pc.is_in(cells, pa.array(_MISSING)), None, cells)
    elif not (pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type) or pa.types.is_null(cells.type)
              or pa.types.is_decimal(cells.type)):  # fmt: skip
        raise ConfigError(f"{columns.path} column {name!r}: expected numbers, found values of type {cells.type}")
    try:
        values = np.array(pc.cast(cells, pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    except pa.ArrowInvalid:
        row = next(i for i, cell in enumerate(cells.to_pylist()) if cell is not None and not _is_number(cell))
        raise ConfigError(f"{columns.cell(row, name)}: expected a number, found {shown(cells[row].as_py())}") from None
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise ConfigError(f"{columns.cell(row, name)}: expected a finite number, found {cells[row].as_py()}")
    return values


def texts(columns: Columns, name: str) -> list[str]:
    """A column as text, for stream names.

    Raises:
        ConfigError: a cell is missing.
    """
    cells = pc.cast(columns.found[name], pa.string())
    empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(cells), ""), True)
    if pc.any(empty).as_py():
        row = pc.index(empty, True).as_py()
        raise ConfigError(f"{columns.cell(row, name)}: expected the name of a stream, found nothing")
    found: list[str] = cells.to_pylist()
    return found


def categories(columns: Columns, name: str) -> list[str]:
    """A column as the texts of a category, ``""`` for a missing one; spelled as the node's decoders do.

    Raises:
        ConfigError: fractions, dates or lists, which name nothing; a text that is longer than a node accepts.
    """
    cells = columns.found[name]
    kind = cells.type
    if pa.types.is_floating(kind):  # so are whole numbers stored that have gaps
        cells = pc.if_else(pc.is_nan(cells), None, cells)
        if pc.all(pc.equal(pc.floor(cells), cells)).as_py() is not False:
            cells = pc.cast(cells, pa.int64(), safe=False)
    elif pa.types.is_dictionary(kind):
        cells = pc.cast(cells, kind.value_type)
    kind = cells.type
    known = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    if not any(is_known(kind) for is_known in known):
        raise ConfigError(
            f"{columns.path} column {name!r}: expected texts or whole numbers, found values of type {kind}"
        )
    found = [text.strip() for text in pc.fill_null(pc.cast(cells, pa.string()), "").to_pylist()]
    longest = max(range(len(found)), key=lambda row: len(found[row]), default=0)
    if found and len(found[longest]) > MAX_TEXT_CHARS:
        raise ConfigError(
            f"{columns.cell(longest, name)}: expected at most {MAX_TEXT_CHARS} characters, found {len(found[longest])}"
        )
    return found


def times(columns: Columns, name: str) -> tuple[Int64, bool]:
    """A column as ns since 1970, and whether these are local times, which a zone must still be applied to.

    Raises:
        ConfigError: a cell that is missing or is no time; times with and without offset in one file.
    """
    cells = columns.found[name]
    if cells.null_count:
        row = pc.index(pc.is_null(cells), True).as_py()
        raise ConfigError(f"{columns.cell(row, name)}: expected a time, found nothing")
    kind = cells.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zoned = pa.types.is_timestamp(kind) and kind.tz is not None
        ns = pc.cast(pc.cast(cells, pa.timestamp("ns", kind.tz if zoned else None)), pa.int64())
        return ns.to_numpy(zero_copy_only=False), not zoned
    if pa.types.is_integer(kind):
        return _whole_times(columns, name, cells.to_numpy(zero_copy_only=False).astype(np.int64)), False
    if pa.types.is_floating(kind):
        return _fraction_times(numbers(columns, name)), False
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ConfigError(f"{columns.path} column {name!r}: expected times, found values of type {kind}")
    return _text_times(columns, name, pc.utf8_trim_whitespace(cells))


def _text_times(columns: Columns, name: str, cells: pa.Array) -> tuple[Int64, bool]:
    """The whole column at once where all cells have one form, else cell by cell with the same meaning."""
    try:
        return _whole_times(columns, name, pc.cast(cells, pa.int64()).to_numpy(zero_copy_only=False)), False
    except pa.ArrowInvalid:
        pass
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return pc.cast(pc.cast(cells, kind), pa.int64()).to_numpy(zero_copy_only=False) * 1000, kind.tz is None
        except pa.ArrowInvalid:
            continue
    found = np.empty(len(cells), np.int64)
    local: bool | None = None
    for row, text in enumerate(cells.to_pylist()):
        try:
            found[row] = event_time_ns(text)
        except (ValueError, OverflowError):
            where = columns.cell(row, name)
            raise ConfigError(
                f"{where}: expected a time such as 2026-03-14T09:12:00Z or seconds since 1970, found {shown(text)}"
            ) from None
        here = _OFFSET.search(text) is None and not _is_number(text)
        if local is not None and here != local:
            raise ConfigError(
                f"{columns.cell(row, name)}: expected times all with or all without an offset, found {text!r}"
            )
        local = here
    return found, bool(local)


def _whole_times(columns: Columns, name: str, values: Int64) -> Int64:
    factor = np.ones(len(values), np.int64)
    for bound, scale in reversed(_SCALES):
        factor[np.abs(values) < bound] = scale
    beyond = np.abs(values) >= _LAST_NS // factor
    if beyond.any():
        row = int(np.argmax(beyond))
        raise ConfigError(f"{columns.cell(row, name)}: expected a time before the year 2261, found {values[row]}")
    return values * factor


def _fraction_times(values: Float64) -> Int64:
    whole = np.trunc(values)
    out = whole.astype(np.int64)
    for bound, scale in reversed(_SCALES):
        small = np.abs(values) < bound
        fraction = np.round((values[small] - whole[small]) * scale).astype(np.int64)
        out[small] = whole[small].astype(np.int64) * scale + fraction
    return out


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
