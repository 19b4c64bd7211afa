"""Reads and alters a store behind its back, whatever database it is in."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from edgectl.store.engine import Database


def raw(url: str, root: Path, *statements: str) -> list[tuple[object, ...]]:
    """Run `statements` in one transaction; the rows of the last one, if it has any."""
    database = Database(url, root)
    database.connect()
    try:
        with database.write() as connection:
            for statement in statements:
                result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        database.close()
