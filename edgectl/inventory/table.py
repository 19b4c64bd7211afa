"""Nodes from a table (CSV): a line per node, a column per setting. Pure.

Columns are ``name`` and what else a node's entry may say as one value: ``site``, ``tier``, ``profiles``, ``groups``,
``host``, ``port``, ``user``, ``jump``, ``key``, ``url``, ``via``, ``connect.every``, ``agent.cpu`` … and ``labels.X``
for the label X. An empty cell says nothing.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from edgectl.core.errors import ConfigError
from edgectl.core.names import closest
from edgectl.inventory.types import AgentEntry, ConnectEntry, ReportEntry

_SHORT = {key: f"connect.{key}" for key in ("host", "port", "user", "jump", "key", "url", "via")}
_LISTS = ("profiles", "groups")
_SECRETS = ("key_passphrase", "sudo_password", "token")
COLUMNS = (
    "name",
    "site",
    "tier",
    *_LISTS,
    *_SHORT,
    *(f"connect.{key}" for key in ConnectEntry.__struct_fields__ if key not in _SECRETS),
    *(f"agent.{key}" for key in AgentEntry.__struct_fields__),
    *(f"report.{key}" for key in ReportEntry.__struct_fields__),
)


def entries(text: str, name: str) -> Iterator[tuple[dict[str, Any], int]]:
    """(entry of fleet.yaml with text for values, line) of every node; `name` is the file, for messages.

    Raises:
        ConfigError: no header, an unknown or doubled column, a line without a name or with too many cells.
    """
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in first and "," not in first else ",")
    try:
        header = [_column(cell.strip(), name) for cell in next(reader, [])]
        _check(header, name)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _entry(header, cells, f"{name} line {reader.line_num}"), reader.line_num
    except csv.Error as e:
        raise ConfigError(f"{name} line {reader.line_num}: {e}") from e


def _column(cell: str, name: str) -> str:
    if cell in COLUMNS or re.fullmatch(r"labels\.[A-Za-z0-9][A-Za-z0-9._-]*", cell):
        return _SHORT.get(cell, cell)
    near = closest(cell, COLUMNS) if cell not in _SECRETS else "secrets stand in fleet.yaml by reference"
    raise ConfigError(f"{name}: unknown column {cell!r}", hint=f"{near}; labels.{cell or 'X'} makes it a label")


def _check(header: list[str], name: str) -> None:
    if "name" not in header:
        raise ConfigError(f"{name}: expected a first line with the names of the columns, one of them name")
    for column in header:
        if header.count(column) > 1:
            raise ConfigError(f"{name}: column {column!r} is there twice")


def _entry(header: list[str], cells: list[str], where: str) -> dict[str, Any]:
    if any(cell.strip() for cell in cells[len(header) :]):
        raise ConfigError(f"{where}: expected {len(header)} cells, found {len(cells)}")
    found: dict[str, Any] = {}
    for column, cell in zip(header, map(str.strip, cells), strict=False):
        if not cell:
            continue
        group, dot, key = column.partition(".")
        value = [item for item in re.split(r"[;,\s]+", cell) if item] if column in _LISTS else cell
        if dot:
            found.setdefault(group, {})[key] = value
        else:
            found[column] = value
    if "name" not in found:
        raise ConfigError(f"{where}: expected a name")
    return found
