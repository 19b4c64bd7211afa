"""A message's payload → the records in it → a `Decoder`; never raises on what a device sends."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal

import msgspec

from edgectl_agent.config import KafkaConfig, MqttConfig
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.sources.decode import CsvDecoder, Decoder, JsonDecoder

PayloadFormat = Literal["json", "csv"]
MAX_RECORDS = 20_000
"""Of one message. A MiB of ``1,1,1,…`` is half a million records, each of which would cost fifty times its own size."""
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_whole = msgspec.json.Decoder(msgspec.Raw)


class _Object(msgspec.Struct, gc=False):
    """Any JSON object."""


_objects = msgspec.json.Decoder(list[_Object])


def decoder(config: KafkaConfig | MqttConfig) -> Decoder:
    """What reads the records of a broker's messages."""
    if config.format == "json":
        return JsonDecoder(config)
    header = io.StringIO()
    csv.writer(header).writerow(config.columns)
    return CsvDecoder(config, header.getvalue().encode(), "columns")


def elements(text: bytes, most: int) -> list[bytes] | None:
    """The elements of a JSON array; None if they are more than `most`. Raises as `msgspec.json.decode` does.

    Of an array that may be so long, each must be an object, because that is told without making all of them.
    """
    if text.count(b",") >= most and len(_objects.decode(text)) > most:
        return None
    return [bytes(element) for element in _elements.decode(text)]


def records(payload: bytes, form: PayloadFormat) -> Sequence[bytes]:
    """One record, the elements of a JSON array, or several lines; blank lines are left out.

    What is none of that, or more than `MAX_RECORDS`, comes back as it is: the decoder says why it is no reading.
    """
    if form == "json":
        start = payload.lstrip(b" \t\r\n")
        if start.startswith(b"["):
            try:
                found = elements(payload, MAX_RECORDS)
            except UNREADABLE:
                found = None
            return (payload,) if found is None else found
        if b"\n" not in payload or _is_one(payload):
            return (payload,) if start else ()
    if payload.count(b"\n") > MAX_RECORDS:
        return (payload,)
    return [line.rstrip(b"\r") for line in payload.split(b"\n") if line.strip()]


def _is_one(payload: bytes) -> bool:
    """Whether it is one JSON value that was printed over several lines."""
    try:
        _whole.decode(payload)
    except UNREADABLE:
        return False
    return True
