"""Tables as data: what a backup says about its tables, so that any later edgectl can build them again.

Rows of an older schema need that schema's tables before the migrations can bring them forward.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
)
from sqlalchemy.types import TypeEngine

Kind = Literal["integer", "bigint", "text", "boolean"]


class ColumnShape(msgspec.Struct, frozen=True, kw_only=True):
    """One column. `length` is that of a text with a limit, else 0."""

    name: str
    kind: Kind
    length: int = 0
    required: bool = True
    key: bool = False


class IndexShape(msgspec.Struct, frozen=True, kw_only=True):
    """One index."""

    name: str
    columns: tuple[str, ...]


class TableShape(msgspec.Struct, frozen=True, kw_only=True):
    """One table."""

    name: str
    columns: tuple[ColumnShape, ...]
    indexes: tuple[IndexShape, ...] = ()


def shapes_of(connection: Connection) -> tuple[TableShape, ...]:
    """The store's tables as they are now, whatever their schema, by name."""
    found = MetaData()
    found.reflect(connection)
    keys = {name: inspect(connection).get_pk_constraint(name)["constrained_columns"] for name in found.tables}
    return tuple(_shape(table, keys[table.name]) for table in sorted(found.tables.values(), key=lambda t: str(t.name)))


def _shape(table: Table, keys: list[str]) -> TableShape:
    columns = tuple(
        ColumnShape(
            name=str(column.name),
            kind=_kind(column.type),
            length=getattr(column.type, "length", None) or 0,
            required=not column.nullable,
            key=column.name in keys,
        )
        for column in table.columns
    )
    indexes = sorted(table.indexes, key=lambda index: str(index.name))
    return TableShape(
        name=str(table.name),
        columns=columns,
        indexes=tuple(IndexShape(name=str(i.name), columns=tuple(str(c.name) for c in i.columns)) for i in indexes),
    )


def tables(shapes: tuple[TableShape, ...]) -> MetaData:
    """`shapes` as tables that can be made. Foreign keys are left out: rows come in any order."""
    made = MetaData()
    for shape in shapes:
        columns: list[Column[object]] = [
            Column(c.name, _type(c), primary_key=c.key, nullable=not c.required, autoincrement=False)
            for c in shape.columns
        ]
        Table(shape.name, made, *columns, *(Index(index.name, *index.columns) for index in shape.indexes))
    return made


_BASES: dict[Kind, type[TypeEngine[Any]]] = {
    "boolean": Boolean, "bigint": BigInteger, "integer": Integer, "text": String,
}  # fmt: skip
"""BigInteger is an Integer too: the narrower type is asked for first."""


def _kind(found: TypeEngine[Any]) -> Kind:
    for kind, base in _BASES.items():
        if isinstance(found, base):
            return kind
    raise TypeError(f"the store has a column of the type {found!r}, which backups do not know")


def _type(column: ColumnShape) -> TypeEngine[Any]:
    if column.kind == "text":
        return String(column.length) if column.length else Text()
    return _BASES[column.kind]()
