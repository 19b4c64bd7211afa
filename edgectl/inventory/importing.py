"""Decides what an import writes into fleet.yaml: which nodes are new, which changed, which are left alone. Pure.

An import owns what it says and nothing else: a key that the other inventory does not have stays as it is in fleet.yaml.
The same import twice changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

State = Literal["new", "changed", "unchanged", "skipped"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the other inventory. `entry` is what fleet.yaml shall have, empty where nothing is written."""

    name: str
    state: State
    detail: str = ""
    entry: dict[str, Any] = {}


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One node as the other inventory has it, or why it cannot be taken."""

    name: str
    entry: dict[str, Any] = {}
    refused: str = ""


def plan(
    found: Iterable[Found],
    plain: Mapping[str, dict[str, Any]],
    standing: Mapping[str, str],
    commented: Callable[[str], bool],
    common: Mapping[str, Any],
) -> tuple[Change, ...]:
    """What becomes of each node of `found`, in its order.

    Args:
        plain: name → entry of fleet.yaml, of the nodes that have one of their own.
        standing: name → the entry of fleet.yaml that stands for it among others.
        commented: whether an entry holds comments, which rewriting it would lose.
        common: settings for each node of this import, such as its site.
    """
    return tuple(_change(one, plain, standing, commented, common) for one in found)


def _change(
    one: Found,
    plain: Mapping[str, dict[str, Any]],
    standing: Mapping[str, str],
    commented: Callable[[str], bool],
    common: Mapping[str, Any],
) -> Change:
    if one.refused:
        return Change(name=one.name, state="skipped", detail=one.refused)
    if one.name in standing:
        return Change(name=one.name, state="skipped", detail=f"fleet.yaml's entry {standing[one.name]} stands for it")
    wanted = merged(common, one.entry)
    before = plain.get(one.name)
    if before is None:
        return Change(name=one.name, state="new", detail=_said(wanted), entry=_ordered(wanted))
    after = merged(before, wanted)
    if after == before:
        return Change(name=one.name, state="unchanged")
    detail = ", ".join(differences(before, after))
    if commented(one.name):
        return Change(name=one.name, state="skipped", detail=f"its entry has comments, change by hand: {detail}")
    return Change(name=one.name, state="changed", detail=detail, entry=after)


def merged(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key; `strong` wins, and lists are joined. Law: ``merged(merged(a, b), b) == merged(a, b)``."""
    found = dict(weak)
    for key, value in strong.items():
        old = found.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            found[key] = merged(old, value)
        elif isinstance(old, Sequence) and isinstance(value, list) and not isinstance(old, str):
            found[key] = [*old, *(item for item in value if item not in old)]
        else:
            found[key] = value
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> list[str]:
    """``connect.host 10.0.0.5 → 10.0.0.6`` for each key that differs."""
    lines: list[str] = []
    for key, value in after.items():
        old, here = before.get(key), f"{path}{key}"
        if isinstance(value, Mapping):
            lines += differences(old if isinstance(old, Mapping) else {}, value, f"{here}.")
        elif value != old:
            lines.append(f"{here} {_text(old)} → {_text(value)}")
    return lines


def counted(changes: Collection[Change]) -> str:
    """``3 new, 1 changed, 12 unchanged``."""
    counts = {state: sum(change.state == state for change in changes) for state in State.__args__}  # type: ignore[attr-defined]
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no node"


def _said(entry: Mapping[str, Any]) -> str:
    return ", ".join(line.replace("nothing → ", "") for line in differences({}, entry) if not line.startswith("name "))


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _ordered(entry: dict[str, Any]) -> dict[str, Any]:
    """The name first: people look for it there."""
    return {"name": entry["name"]} | entry
