"""Texts with fields of an alert in braces: ``press {stream}: {score}``; ``{{`` and ``}}`` are braces. No code.

A payload is such a text, or a mapping of them, which becomes one JSON object: a value that is one field alone keeps its
type there, and every text is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from string import Formatter

import msgspec

from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.messages import Alert
from edgectl_agent.core.units import iso

Value = str | float
Values = Mapping[str, Value]

FIELDS = ("id", "node", "stream", "recipe", "version", "bundle", "variant", "severity", "state", "score", "threshold",
          "surprise", "onset", "time", "raised", "channels", "runbook")  # fmt: skip
"""``onset``, ``time`` (of this state) and ``raised`` (by the node's clock) are ISO 8601; ``channels`` are the features
that were furthest from usual, with commas."""


def values_of(alert: Alert) -> dict[str, Value]:
    """What `alert` puts in the place of each field."""
    found = {name: getattr(alert, name) for name in FIELDS if name in Alert.__struct_fields__}
    times = {"onset": iso(alert.onset_ns), "time": iso(alert.changed_ns), "raised": iso(alert.raised_ns)}
    return found | times | {"channels": ",".join(c.feature for c in alert.contributions)}


_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")


def control(text: str) -> bool:
    """Whether it holds what ends lines or steers terminals and brokers, or is no text at all."""
    return _CONTROL.search(text) is not None


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text: pairs of (what stands before, field or empty)."""

    parts: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises `ConfigError` for a field that is none, and for anything but its name in the braces."""
        parts = []
        try:
            for before, field, form, conversion in Formatter().parse(text):
                if form or conversion or (field is not None and field not in FIELDS):
                    more = f"{'!' + conversion if conversion else ''}{':' + form if form else ''}"
                    raise ConfigError(f"expected one of the fields {', '.join(FIELDS)}, found {{{field}{more}}}")
                parts.append((before, field or ""))
        except ValueError as e:
            raise ConfigError(f"expected braces in pairs ({{{{ is a brace), found {text!r}: {e}") from None
        return cls(tuple(parts))

    @property
    def fixed(self) -> str:
        """What is certain to stand at the beginning."""
        known = takewhile(lambda part: not part[1], self.parts)  # braces that are text begin a part of their own
        return "".join(before for before, _ in known) + next((before for before, field in self.parts if field), "")

    @property
    def text(self) -> str:
        """As it was written, its fields' names in braces."""
        return "".join(f"{before}{{{field}}}" if field else before for before, field in self.parts)

    @property
    def constant(self) -> bool:
        return not any(field for _, field in self.parts)

    def brought(self, values: Values) -> str:
        """Only what the alert puts in."""
        return "".join(str(values[field]) for _, field in self.parts if field)

    def render(self, values: Values) -> str:
        return "".join(f"{before}{values[field] if field else ''}" for before, field in self.parts)

    def value(self, values: Values) -> Value:
        """A field alone with its type; else as `render`."""
        if len(self.parts) == 1 and not self.parts[0][0] and self.parts[0][1]:
            return values[self.parts[0][1]]
        return self.render(values)


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes made from an alert: a text, or a JSON object; empty ones are a JSON object of all fields."""

    text: Template | None
    members: tuple[tuple[str, Template], ...]

    @classmethod
    def parse(cls, payload: str | Mapping[str, str]) -> Payload:
        """Raises `ConfigError` as `Template.parse`."""
        if isinstance(payload, str) and payload:
            return cls(Template.parse(payload), ())
        members = payload if isinstance(payload, Mapping) and payload else {name: f"{{{name}}}" for name in FIELDS}
        return cls(None, tuple((key, Template.parse(text)) for key, text in members.items()))

    def render(self, values: Values) -> bytes:
        if self.text is not None:
            return self.text.render(values).encode(errors="replace")
        return msgspec.json.encode({key: template.value(values) for key, template in self.members})
