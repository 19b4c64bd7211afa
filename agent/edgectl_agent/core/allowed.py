"""Which actions a node may take: the rules that its operator signed, and whether one covers an action. Pure.

A rule that this version does not know, or cannot read, allows nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from edgectl_agent.core.messages import Sha256

Text = Annotated[str, msgspec.Meta(min_length=1)]
Path = Annotated[str, msgspec.Meta(pattern=r"^/")]
_URL = re.compile(r"([a-z]+)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?(/[^?#]*)?(?:\?[^#]*)?", re.IGNORECASE)
_PORTS = {"mqtt": 1883, "mqtts": 8883, "http": 80, "https": 443}


class _Rule(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"
):
    """Unknown fields are refused: one that this version does not know may take back what the others allow."""


class MqttRule(_Rule, frozen=True, kw_only=True, tag="mqtt"):
    """Publish to topics at or below `topic`."""

    url: Text
    topic: Text

    def covers(self, reach: Reach) -> bool:
        server, topic = _split(self.url)[0], self.topic.removesuffix("#").rstrip("/")
        at_or_below = _below(reach.text, topic) if reach.constant else reach.text.startswith(f"{topic}/")
        return bool(server) and server == _split(reach.url)[0] and at_or_below


class WebhookRule(_Rule, frozen=True, kw_only=True, tag="webhook"):
    """Call URLs at or below `url`."""

    url: Text

    def covers(self, reach: Reach) -> bool:
        server, path = _split(self.url)
        wanted, below = _split(reach.url)
        plain = ".." not in below and "%2e" not in below.lower()  # a server may follow them upwards
        return plain and bool(server) and server == wanted and _below(below.rstrip("/"), path.rstrip("/"))


class ExecRule(_Rule, frozen=True, kw_only=True, tag="exec"):
    """Run the program `path`; with `sha256` only with that content, with `args` only with those arguments, fields of
    the alert in braces as agent.yaml has them."""

    path: Path
    sha256: Sha256 | None = None
    args: tuple[str, ...] | None = None

    def covers(self, reach: Reach) -> bool:
        return reach.text == self.path and self.args in (None, reach.args)


class FileRule(_Rule, frozen=True, kw_only=True, tag="file"):
    """Append to the file `path`, or to files below the folder `path`."""

    path: Path

    def covers(self, reach: Reach) -> bool:
        return ".." not in reach.text.split("/") and _below(reach.text, self.path.rstrip("/"))


Rule = MqttRule | WebhookRule | ExecRule | FileRule


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """What an action wants to touch. `text` is a path, or what its topic is certain to begin with; the whole topic if
    it is `constant`."""

    kind: str
    url: str = ""
    text: str = ""
    args: tuple[str, ...] = ()
    constant: bool = True

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind, self.url, self.text, *self.args) if part)


def read(rules: Iterable[Any]) -> tuple[Rule, ...]:
    """Signed rules as values; those that cannot be read are left out."""
    found = []
    for plain in rules:
        try:
            found.append(msgspec.convert(plain, Rule))
        except msgspec.ValidationError:
            continue
    return tuple(found)


def covering(reach: Reach, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules that allow `reach`."""
    return tuple(r for r in rules if r.__struct_config__.tag == reach.kind and r.covers(reach))


def _split(url: str) -> tuple[str, str]:
    """(scheme, host and port; path) of a URL; empty ones of what is none."""
    found = _URL.fullmatch(url)
    if found is None:
        return "", ""
    scheme, host, port, path = found.groups()
    return f"{scheme}://{host}:{int(port) if port else _PORTS.get(scheme.lower(), 0)}".lower(), path or "/"


def _below(text: str, folder: str) -> bool:
    return text == folder or text.startswith(f"{folder}/")
