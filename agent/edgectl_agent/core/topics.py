"""Names and filters of MQTT topics (MQTT 5, section 4.7). Pure."""

from __future__ import annotations

import re

_SHARE = "$share/"
_LEVEL = re.compile(r"topic(?:\.(\d{1,3}))?")
MAX_TOPIC_BYTES = 65_535


def filter_problem(text: str) -> str:
    """What is wrong with a topic filter; empty if nothing is."""
    if text.startswith(_SHARE):
        group, slash, text = text.removeprefix(_SHARE).partition("/")
        if not group or not slash or not text or "+" in group or "#" in group:
            return "expected $share/GROUP/TOPIC"
    if not text:
        return "expected a topic, found nothing"
    if "\0" in text or len(text.encode(errors="replace")) > MAX_TOPIC_BYTES:
        return f"expected at most {MAX_TOPIC_BYTES} bytes without a zero byte"
    *inner, last = text.split("/")
    if any("#" in level for level in inner) or ("#" in last and last != "#"):
        return "expected # only as the last level"
    if any("+" in level and level != "+" for level in (*inner, last)):
        return "expected + only as a whole level"
    return ""


def level_of(column: str) -> int | None:
    """``topic.1`` → 1, counted from 0; ``topic`` → -1, the whole topic; None for any other column."""
    found = _LEVEL.fullmatch(column)
    return None if found is None else int(found[1]) if found[1] else -1


def part(topic: str, level: int) -> str:
    """The level of `topic` that `level_of` means; empty if it has none such."""
    if level < 0:
        return topic
    levels = topic.split("/")
    return levels[level] if level < len(levels) else ""
