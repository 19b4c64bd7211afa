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
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_whole = msgspec.json.Decoder(msgspec.Raw)


def decoder(config: KafkaConfig | MqttConfig) -> Decoder:
    """What reads the records of a broker's messages."""
    if config.format == "json":
        return JsonDecoder(config)
    header = io.StringIO()
    csv.writer(header).writerow(config.columns)
    return CsvDecoder(config, header.getvalue().encode(), "columns")


def records(payload: bytes, form: PayloadFormat) -> Sequence[bytes]:
    """One record, the elements of a JSON array, or several lines; blank lines are left out.

    What is none of that comes back as it is: the decoder says why it is no reading.
    """
    if form == "json":
        start = payload.lstrip(b" \t\r\n")
        if start.startswith(b"["):
            try:
                return [bytes(element) for element in _elements.decode(payload)]
            except UNREADABLE:
                return (payload,)
        if b"\n" not in payload or _is_one(payload):
            return (payload,) if start else ()
    return [line.rstrip(b"\r") for line in payload.split(b"\n") if line.strip()]


def _is_one(payload: bytes) -> bool:
    """Whether it is one JSON value that was printed over several lines."""
    try:
        _whole.decode(payload)
    except UNREADABLE:
        return False
    return True
