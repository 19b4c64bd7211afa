"""Which actions a node may take: the rules that its operator signed, and whether one covers an action. Pure.

A rule that this version does not know, or cannot read, allows nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from edgectl_agent.core.messages import Sha256
from edgectl_agent.core.topics import filter_problem

Text = Annotated[str, msgspec.Meta(min_length=1)]
Path = Annotated[str, msgspec.Meta(pattern=r"^/")]
_URL = re.compile(
    r"([a-z]+)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?(/[^?#]*)?(?:\?([^#]*))?", re.IGNORECASE | re.ASCII
)
_QUOTED = re.compile("%([0-9a-fA-F]{2})")
_PORTS = {"mqtt": 1883, "mqtts": 8883, "http": 80, "https": 443}


class _Rule(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"
):
    """Unknown fields are refused: one that this version does not know may take back what the others allow."""


class MqttRule(_Rule, frozen=True, kw_only=True, tag="mqtt"):
    """Publish to topics at or below `topic`; ``#`` alone stands for all but those that begin with ``$``."""

    url: Text
    topic: Text

    def __post_init__(self) -> None:
        """A wildcard inside would have to be held against each topic that an alert makes, of which only the beginning
        is known here: such a rule would cover less than it seems to."""
        if filter_problem(self.topic) or "+" in self.topic or self.topic.startswith("$share/"):
            raise ValueError(f"expected a topic such as plant/alarms or plant/alarms/#, found {self.topic!r}")

    def covers(self, reach: Reach) -> bool:
        server = _split(self.url)[0]
        return bool(server) and server == _split(reach.url)[0] and self._at_or_below(reach)

    def _at_or_below(self, reach: Reach) -> bool:
        topic = self.topic.removesuffix("#").rstrip("/")
        if self.topic == "#":  # an action's topic begins with $ only if its text does
            return not reach.text.startswith("$")
        return _below(reach.text, topic) if reach.constant else reach.text.startswith(f"{topic}/")


class WebhookRule(_Rule, frozen=True, kw_only=True, tag="webhook"):
    """Call URLs at or below the path of `url` that have its query, of which ``?*`` means any, and none means none:
    a query may say what the server shall do."""

    url: Text

    def covers(self, reach: Reach) -> bool:
        server, path, query = _split(self.url)
        wanted, below, asked = _split(reach.url)
        plain = ".." not in _unquoted(below)  # a server may follow them upwards
        same = bool(server) and server == wanted and query in ("*", asked)
        return plain and same and _below(below.rstrip("/"), path.rstrip("/"))


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


def _split(url: str) -> tuple[str, str, str]:
    """(scheme, host and port; path; query) of a URL; empty ones of what is none."""
    found = _URL.fullmatch(url)
    if found is None:
        return "", "", ""
    scheme, host, port, path, query = found.groups()
    server = f"{scheme}://{host}:{int(port) if port else _PORTS.get(scheme.lower(), 0)}".lower()
    return server, path or "/", query or ""


def _unquoted(path: str) -> str:
    """However often it was quoted: servers behind each other take one layer each."""
    while (plain := _QUOTED.sub(lambda found: chr(int(found[1], 16)), path)) != path:
        path = plain
    return path


def _below(text: str, folder: str) -> bool:
    return text == folder or text.startswith(f"{folder}/")
