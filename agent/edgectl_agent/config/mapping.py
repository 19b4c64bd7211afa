"""How records become readings: which column is what."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgectl_agent.connection import Strict

Column = Annotated[str, msgspec.Meta(min_length=1)]

PositiveInt = Annotated[int, msgspec.Meta(gt=0)]


class DeadLetter(Strict, frozen=True, kw_only=True):
    """Records that were no readings, a few of each reason, in ``dead-letters/SOURCE.jsonl`` of the data folder."""

    limit: str = "1M"
    """Of its size; ``0`` writes nothing."""


class Fields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a record becomes a reading: which column is the time, the stream, each channel and each category.

    A column is a CSV header or, in JSON, a key or a dotted path of keys. ``stream: "=press-3"`` names one stream for
    the whole source.
    """

    stream: Column
    time: Column
    channels: dict[str, Column] = {}
    """Numbers."""
    categories: dict[str, Column] = {}
    """Text, whole numbers or truth values that name something: a merchant, a country, a log level."""
    units: dict[str, Column] = {}
    """Channel → unit of its values: what `edgectl deploy` compares with the recipe's."""
    unit_columns: dict[str, Column] = {}
    """Channel → column in which each record says its unit: one that differs from `units` is refused."""
    zone: str = "UTC"
    """Of times without an offset."""
    dead_letter: DeadLetter = DeadLetter()
