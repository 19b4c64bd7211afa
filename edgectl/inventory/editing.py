"""Adds nodes to fleet.yaml and removes them, without touching any other byte of it.

A person's file keeps its comments, its order and its spacing: the edit is an insertion or deletion of text at places
that the YAML parser names. Whatever the edit, the result is read again and must be the old fleet with exactly this
change; where a file is too unusual for that, the edit is refused and nothing is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml
from edgectl_agent import yamlfile

from edgectl.core.errors import ConfigError
from edgectl.files import write_file
from edgectl.inventory.layers import settle
from edgectl.inventory.reading import parse
from edgectl.inventory.types import FleetFile, NodeEntry


def add(text: str, entry: dict[str, Any]) -> str:
    """fleet.yaml with `entry` as its last node.

    Raises:
        ConfigError: a node of that name is there already; `entry` is wrong; the file cannot be edited safely.
    """
    before = yamlfile.parse(text, FleetFile, "fleet.yaml")
    if any(node.name == entry["name"] for node in before.nodes or ()):
        name = entry["name"]
        raise ConfigError(f"fleet.yaml: a node {name!r} is there already", hint=f"edgectl nodes start {name} starts it")
    edited = _added(text, entry)
    parse(edited)
    wanted = msgspec.convert(entry, NodeEntry)
    return _verified(edited, before, [*(before.nodes or ()), wanted])


def remove(text: str, name: str) -> str:
    """fleet.yaml without the node `name`. Raises `NothingMatched` or `ConfigError` as `add` does."""
    before = yamlfile.parse(text, FleetFile, "fleet.yaml")
    names = [node.name for node in before.nodes or ()]
    settle(before).node(name)
    edited = _removed(text, names.index(name))
    return _verified(edited, before, [node for node in before.nodes or () if node.name != name])


def save(path: Path, text: str) -> None:
    """Replace `path` (or what it links to) by `text`, completely or not at all. Raises `StorageError`."""
    target = path.resolve()
    write_file(target, text.encode(), target.stat().st_mode & 0o777)


def _verified(edited: str, before: FleetFile, nodes: list[NodeEntry]) -> str:
    """`edited`, if it reads as `before` with exactly these nodes."""
    try:
        after = yamlfile.parse(edited, FleetFile, "fleet.yaml")
    except ConfigError as e:
        raise _refused(e.message) from e
    rest = all(getattr(before, f) == getattr(after, f) for f in FleetFile.__struct_fields__ if f != "nodes")
    if not rest or list(after.nodes or ()) != nodes:
        raise _refused("the edited file would not read as expected")
    return edited


def _refused(why: str) -> ConfigError:
    return ConfigError(f"fleet.yaml cannot be edited safely: {why}", hint="change its nodes by hand")


def _added(text: str, entry: dict[str, Any]) -> str:
    key, nodes = _find_nodes(text)
    if key is None:
        gap = "" if text.endswith("\n") else "\n"
        return f"{text}{gap}nodes:\n{_block(entry, 2)}"
    if not isinstance(nodes, yaml.SequenceNode) or not nodes.value:  # null or []
        start, end = nodes.start_mark.index, nodes.end_mark.index
        text = (text[:start].rstrip(" ") if end > start else text[:start]) + text[end:]
        return _insert(text, _line_end(text, key.end_mark.index), _block(entry, 2))
    last = nodes.value[-1]
    if nodes.flow_style:
        return text[: last.end_mark.index] + ", " + _inline(entry) + text[last.end_mark.index :]
    return _insert(text, _content_end(text, last), _block(entry, nodes.start_mark.column))


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
    top: Any = yaml.compose(text, yaml.SafeLoader)
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


def _block(entry: dict[str, Any], indent: int) -> str:
    """`entry` as a list item: a line per setting, small mappings in braces."""
    lines = yaml.safe_dump([entry], sort_keys=False, default_flow_style=None, allow_unicode=True, width=10**6)
    return "".join(f"{' ' * indent}{line}\n" for line in lines.rstrip("\n").split("\n"))


def _inline(entry: dict[str, Any]) -> str:
    text = yaml.safe_dump(entry, sort_keys=False, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.strip()
