"""Log messages → templates: what stays of a message when its numbers, addresses and identifiers are left out.

`masked` is the first step and needs nothing but the message. The second is a list of templates that training mined from
a history: `Matcher` finds the one that a masked message is an instance of, word by word, where ``<*>`` stands for any
one word; the most specific wins. It is a function of the list and the message alone, so a template means the same in
training, on every node and after every restart, and there is no state to keep.

A message that fits no template is *unseen*. It is named by its number of words and its first two, which is the leaf
that the Drain algorithm would put it into (He et al., "Drain: An Online Log Parsing Approach with Fixed Depth Tree",
ICWS 2017): so messages that differ in later words alone are one kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

PARAMETER = "<*>"
UNSEEN = "unseen"
"""How the name of a kind begins that training did not see; no template begins with it, because none has its blank."""
_LEAF_WORDS = 2
MAX_CHARS = 400
"""Of a masked message; what follows is cut off."""
_MAX_RAW_CHARS = 1000
"""Of a message that is looked at: hostile ones cost no more time."""

# Bounded where each character may begin a try, so that 4,000 colons or slashes take no time by their square.
_MASK = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"  # UUID
    r"|(?=[a-fA-F:]{0,39}[0-9])[0-9a-fA-F]{1,4}:(?:[0-9a-fA-F]{0,4}:){1,6}[0-9a-fA-F]{1,4}"  # IPv6, MAC, times
    r"|0[xX][0-9a-fA-F]+"
    r"|(?=[a-fA-F]*[0-9])[0-9a-fA-F]{6,}(?![A-Za-z0-9])"  # hexadecimal identifiers
    r"|\d+(?:[.,:]\d+)*"  # numbers, IPv4, ports
    r")"
    r"|(?:/[\w.@%+-]{1,64}){2,12}\.[A-Za-z]{1,5}(?![\w/])"  # files
)


def masked(messages: Sequence[str]) -> list[str]:
    """Messages without line feeds, each with its variable parts as ``<*>``, cut to `MAX_CHARS`; in one pass."""
    if not messages:
        return []
    raw = [message[:_MAX_RAW_CHARS] for message in messages]
    return [text[:MAX_CHARS] for text in _MASK.sub(PARAMETER, "\n".join(raw)).split("\n")]


def masked_one(message: str) -> str:
    """One message, which may have line feeds."""
    return masked([message.replace("\n", " ")])[0]


def unseen(words: Sequence[str]) -> str:
    """The name of a message's kind that fits no template."""
    return " ".join((UNSEEN, str(len(words)), *words[:_LEAF_WORDS]))


class Matcher:
    """Finds templates; those that come first win among equally specific ones."""

    def __init__(self, templates: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._by_shape: dict[tuple[int, str], list[tuple[str, ...]]] = {}
        for template in templates:
            words = tuple(template.split())
            self._exact.add(" ".join(words))
            self._by_shape.setdefault((len(words), words[0] if words else ""), []).append(words)
        for kept in self._by_shape.values():
            kept.sort(key=lambda words: words.count(PARAMETER))

    def template(self, text: str) -> str:
        """The template of a message, masked or not; the name of its kind if there is none; ``""`` of an empty one."""
        words = masked_one(text).split()
        if not words:
            return ""
        if (plain := " ".join(words)) in self._exact:
            return plain
        shapes = dict.fromkeys(((len(words), words[0]), (len(words), PARAMETER)))
        for shape in shapes:
            for template in self._by_shape.get(shape, ()):
                if all(word in (PARAMETER, found) for word, found in zip(template, words, strict=True)):
                    return " ".join(template)
        return unseen(words)
