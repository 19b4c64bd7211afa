"""Adds nodes to fleet.yaml and removes them, without touching any other byte of it.

A person's file keeps its comments, its order and its spacing: the edit is an insertion or deletion of text at places
that the YAML parser names. Whatever the edit, the result is read again and must be the old fleet with exactly this
change; where a file is too unusual for that, the edit is refused and nothing is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from edgectl.core.errors import ConfigError
from edgectl.files import write_file
from edgectl.inventory.layers import drafts, settle
from edgectl.inventory.reading import members_in, parse, parse_file
from edgectl.inventory.types import FleetFile, NodeEntry


def add(text: str, entry: dict[str, Any], folder: Path | None = None) -> str:
    """fleet.yaml with `entry` as its last node.

    Raises:
        ConfigError: a node of that name is there already; `entry` is wrong; the file cannot be edited safely.
    """
    before = parse_file(text)
    name = entry["name"]
    if name in drafts(before, members_in(folder)):
        raise ConfigError(f"fleet.yaml: a node {name!r} is there already", hint=f"edgectl nodes start {name} starts it")
    return put(text, [entry], {}, folder)


def put(
    text: str, new: Sequence[dict[str, Any]], changed: Mapping[str, dict[str, Any]], folder: Path | None = None
) -> str:
    """fleet.yaml with the entries `new` at its end, and those of the nodes in `changed` replaced. Raises as `add`."""
    before = parse_file(text)
    nodes, edited = list(before.nodes or ()), text
    for name, entry in changed.items():
        at = next(i for i, node in enumerate(nodes) if node.name == name)
        edited = _replaced(edited, at, entry)
        nodes[at] = msgspec.convert(entry, NodeEntry)
    edited = _added(edited, new) if new else edited
    parse(edited, folder=folder)
    return _verified(edited, before, [*nodes, *(msgspec.convert(entry, NodeEntry) for entry in new)])


def remove(text: str, name: str, folder: Path | None = None) -> str:
    """fleet.yaml without the node `name`; one of many that an entry stands for becomes an exception to it.

    Raises `NothingMatched` or `ConfigError` as `add` does.
    """
    before = parse_file(text)
    members = members_in(folder)
    settle(before, members).node(name)
    place, many = drafts(before, members)[name]
    nodes, edited = list(before.nodes or ()), text
    for at in (i for i in reversed(range(len(nodes))) if nodes[i].name == name):
        edited = _removed(edited, at)
        del nodes[at]
    if many:
        edited = _excluded(edited, place, name)
        nodes[place] = msgspec.structs.replace(nodes[place], exclude=(*nodes[place].exclude, name))
    return _verified(edited, before, nodes)


def save(path: Path, text: str) -> None:
    """Replace `path` (or what it links to) by `text`, completely or not at all. Raises `StorageError`."""
    target = path.resolve()
    write_file(target, text.encode(), target.stat().st_mode & 0o777)


def _verified(edited: str, before: FleetFile, nodes: list[NodeEntry]) -> str:
    """`edited`, if it reads as `before` with exactly these nodes."""
    try:
        after = parse_file(edited)
    except ConfigError as e:
        raise _refused(e.message) from e
    rest = all(getattr(before, f) == getattr(after, f) for f in FleetFile.__struct_fields__ if f != "nodes")
    if not rest or list(after.nodes or ()) != nodes:
        raise _refused("the edited file would not read as expected")
    return edited


def _refused(why: str) -> ConfigError:
    return ConfigError(f"fleet.yaml cannot be edited safely: {why}", hint="change its nodes by hand")


def _added(text: str, entries: Sequence[dict[str, Any]]) -> str:
    key, nodes = _find_nodes(text)
    if key is None:
        gap = "" if text.endswith("\n") else "\n"
        return f"{text}{gap}nodes:\n{_blocks(entries, 2)}"
    if not isinstance(nodes, yaml.SequenceNode) or not nodes.value:  # null or []
        start, end = nodes.start_mark.index, nodes.end_mark.index
        text = (text[:start].rstrip(" ") if end > start else text[:start]) + text[end:]
        return _insert(text, _line_end(text, key.end_mark.index), _blocks(entries, 2))
    last = nodes.value[-1]
    if nodes.flow_style:
        return text[: last.end_mark.index] + ", " + ", ".join(map(_inline, entries)) + text[last.end_mark.index :]
    return _insert(text, _content_end(text, last), _blocks(entries, nodes.start_mark.column))


def _replaced(text: str, at: int, entry: dict[str, Any]) -> str:
    _, nodes = _find_nodes(text)
    item = nodes.value[at]
    if nodes.flow_style or item.flow_style:
        return text[: item.start_mark.index] + _inline(entry) + text[item.end_mark.index :]
    start = text.rindex("\n", 0, item.start_mark.index) + 1
    return text[:start] + _block(entry, nodes.start_mark.column) + text[_content_end(text, item) :]


def commented(text: str, name: str) -> bool:
    """Whether the entry of the node `name` holds comments, which replacing it would lose."""
    _, nodes = _find_nodes(text)
    for item in nodes.value if nodes is not None else ():
        if any((key.value, value.value) == ("name", name) for key, value in item.value):
            end = item.end_mark.index if item.flow_style else _content_end(text, item)
            return re.search(r"(^|\s)#", text[item.start_mark.index : end]) is not None
    return False


def _excluded(text: str, at: int, name: str) -> str:
    """`text` with `name` among what the entry at `at` leaves out."""
    _, nodes = _find_nodes(text)
    item = nodes.value[at]
    said = next((value for key, value in item.value if key.value == "exclude"), None)
    last = item.value[-1][1].end_mark.index
    if said is None and item.flow_style:
        return f"{text[:last]}, exclude: {_inline([name])}{text[last:]}"
    if said is None:
        line = f"{' ' * item.value[0][0].start_mark.column}exclude: {_inline([name])}\n"
        return _insert(text, _content_end(text, item), line)
    if not said.flow_style:
        line = f"{' ' * said.start_mark.column}- {_inline([name])[1:-1]}\n"
        return _insert(text, _content_end(text, said), line)
    end = said.end_mark.index - 1
    comma = ", " if said.value else ""
    return text[:end].rstrip() + comma + _inline([name])[1:-1] + text[end:]


def _removed(text: str, at: int) -> str:
    key, nodes = _find_nodes(text)
    assert key is not None, "the caller found the node in this text"
    item = nodes.value[at]
    start, end = item.start_mark.index, item.end_mark.index
    if nodes.flow_style:
        if len(nodes.value) == 1:
            return text[: nodes.start_mark.index] + "[]" + text[nodes.end_mark.index :]
        if at + 1 < len(nodes.value):
            end = nodes.value[at + 1].start_mark.index
        else:
            start = nodes.value[at - 1].end_mark.index
        return text[:start] + text[end:]
    edited = text[: text.rindex("\n", 0, start) + 1] + text[_content_end(text, item) :]
    return (
        edited if len(nodes.value) > 1 else edited[: key.end_mark.index + 1] + " []" + edited[key.end_mark.index + 1 :]
    )


def _find_nodes(text: str) -> tuple[Any, Any]:
    """The key ``nodes`` and its value with their places in `text`; (None, None) without such a key."""
    top: Any = yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return next((pair for pair in top.value if pair[0].value == "nodes"), (None, None))


def _content_end(text: str, node: yaml.Node) -> int:
    """Where the line after the last line of `node` begins: comments and blank lines after it are not its own."""
    lines = text[: node.end_mark.index].splitlines(keepends=True)
    first = text.count("\n", 0, node.start_mark.index)
    while len(lines) > first + 1 and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return _line_end(text, sum(map(len, lines)) - 1)


def _line_end(text: str, index: int) -> int:
    """The start of the line after the one that holds `index`, or the end of the text."""
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _insert(text: str, at: int, block: str) -> str:
    gap = "" if at == 0 or text[at - 1] == "\n" else "\n"
    return text[:at] + gap + block + text[at:]


def _blocks(entries: Sequence[dict[str, Any]], indent: int) -> str:
    return "".join(_block(entry, indent) for entry in entries)


def _block(entry: dict[str, Any], indent: int) -> str:
    """`entry` as a list item: a line per setting, small mappings in braces."""
    lines = yaml.safe_dump([entry], sort_keys=False, default_flow_style=None, allow_unicode=True, width=10**6)
    return "".join(f"{' ' * indent}{line}\n" for line in lines.rstrip("\n").split("\n"))


def _inline(entry: dict[str, Any] | list[str]) -> str:
    text = yaml.safe_dump(entry, sort_keys=False, default_flow_style=True, allow_unicode=True, width=10**6)
    return str(text.strip())
