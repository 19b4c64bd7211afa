"""Which nodes a command means: one grammar for every verb.

``site=lyon,tier=far-edge,!line=press,name=~gw-.*`` keeps the nodes for which every term holds. A term is ``key=value``
(equal) or ``key=~pattern`` (the whole value matches a regular expression); ``!`` in front turns it round. Keys are
``name``, ``site``, ``tier``, ``via``, ``profile``, ``group``, ``state``, ``finding`` and the labels of the fleet. It
decides; it reads nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from edgectl.core.errors import NothingMatched, UsageError
from edgectl.core.names import closest

Fields = Mapping[str, tuple[str, ...]]
"""What a node is selected by: key → values (one, or several for ``finding``)."""

_TERM = re.compile(r"(?P<negated>!?)(?P<key>[A-Za-z_][\w.-]*)(?P<operator>=~|=)(?P<value>.*)")


@dataclass(frozen=True, slots=True)
class Term:
    """One condition."""

    key: str
    value: str
    regex: bool = False
    negated: bool = False

    def holds(self, fields: Fields) -> bool:
        values = fields.get(self.key, ())
        found = any(re.fullmatch(self.value, value) for value in values) if self.regex else self.value in values
        return found != self.negated

    def __str__(self) -> str:
        return f"{'!' if self.negated else ''}{self.key}{'=~' if self.regex else '='}{self.value}"


def parse(text: str) -> tuple[Term, ...]:
    """Terms of a selector; ``str`` of them joined by commas parses to the same terms. Empty text selects every node.

    A comma splits terms only where the next one begins, so that ``name=~pi-\\d{1,3}`` is one term.

    Raises:
        UsageError: a term that is not ``[!]key=value``, or a pattern that is not a regular expression.
    """
    if not text.strip():
        return ()
    parts = re.split(r",(?=\s*!?[A-Za-z_][\w.-]*=)", text)
    return tuple(_term(part.strip()) for part in parts)


def _term(text: str) -> Term:
    match = _TERM.fullmatch(text)
    if match is None or not match["value"] or (match["operator"] == "=" and "," in match["value"]):
        raise UsageError(
            f"selector term {text!r} is not of the form [!]key=value or [!]key=~pattern", hint=_meant(text)
        )
    if match["operator"] == "=~":
        try:
            re.compile(match["value"])
        except re.error as e:
            raise UsageError(f"selector term {text!r}: not a regular expression: {e}") from e
    return Term(match["key"], match["value"], match["operator"] == "=~", bool(match["negated"]))


def _meant(text: str) -> str | None:
    return f"a node by its name is name={text}" if re.fullmatch(r"[A-Za-z0-9][\w.-]*", text) else None


def select(
    nodes: Mapping[str, Fields],
    text: str = "",
    *,
    exclude: Sequence[str] = (),
    limit: str = "",
    order: Sequence[str] = (),
) -> tuple[str, ...]:
    """Names that match `text`, without those that a glob of `exclude` fits, the first `limit` of them.

    `order` says who comes first under a limit (default: by name). The result is sorted by name.

    Raises:
        UsageError: a malformed selector or limit, or a key that no node has.
        NothingMatched: no node is left; the message says which part removed the last one.
    """
    terms = parse(text)
    keys = {key for fields in nodes.values() for key in fields}
    for term in terms:
        if term.key not in keys and nodes:
            raise UsageError(f"selector key {term.key!r} is not a key of any node", hint=closest(term.key, keys))
    matched = [name for name, fields in nodes.items() if all(term.holds(fields) for term in terms)]
    if not matched:
        raise NothingMatched(f"no node of {len(nodes)} matches {text!r}", hint=_values(terms, nodes))
    _check_globs(exclude, nodes)
    kept = [name for name in matched if not any(fnmatchcase(name, glob) for glob in exclude)]
    if not kept:
        raise NothingMatched(f"--exclude removed all {len(matched)} matching nodes")
    rank = {name: i for i, name in enumerate(order)}
    kept.sort(key=lambda name: (rank.get(name, len(rank)), name))
    return tuple(sorted(kept[: amount(limit, len(kept)) if limit else len(kept)]))


def amount(text: str, total: int) -> int:
    """How many of `total` the text ``7`` or ``20%`` means: at least 1, at most `total`; percentages round up.

    Raises:
        UsageError: not a count above zero or a percentage above 0 and at most 100.
    """
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text.strip())
    if match and match[1] and int(match[1]) > 0:
        return min(int(match[1]), total)
    if match and match[2] and 0 < float(match[2]) <= 100:
        # 1e-9: 55 % of 100 is 55.000000000000007 in floating point, and must not become 56
        return min(total, max(1, math.ceil(float(match[2]) * total / 100 - 1e-9)))
    raise UsageError(f"expected a number of nodes such as 7, or a percentage such as 20%, found {text!r}")


def _check_globs(exclude: Sequence[str], nodes: Collection[str]) -> None:
    for glob in exclude:
        if not any(fnmatchcase(name, glob) for name in nodes):
            raise NothingMatched(f"--exclude {glob!r} fits no node", hint=closest(glob, nodes))


def _values(terms: Sequence[Term], nodes: Mapping[str, Fields]) -> str | None:
    """The closest value for the first term that matches nothing by itself."""
    for term in terms:
        if any(term.holds(fields) for fields in nodes.values()) or term.negated:
            continue
        values = sorted({value for fields in nodes.values() for value in fields.get(term.key, ()) if value})
        return f"{term.key}: {closest(term.value, values)}"
    return None
