"""Reads static Ansible inventories, INI and YAML: groups, children, host ranges, variables and their precedence.

It fills in no templates, opens no vaults and runs no plugins: `Host.variables` holds such values as `Sealed`, and
whoever needs one refuses it by name. Ansible itself is not needed.

Precedence of variables, the weakest first, as Ansible has it: ``all`` in the inventory file, its other groups (parents
before children, then by ``ansible_group_priority`` and name), ``group_vars/all``, other ``group_vars``, the host's own
in the file, ``host_vars``.
"""

from __future__ import annotations

import ast
import math
import re
import shlex
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import yaml
from edgectl_agent.yamlfile import UNREADABLE

from edgectl.core.errors import ConfigError
from edgectl.core.names import closest
from edgectl.inventory.patterns import MOST

_PRIORITY = "ansible_group_priority"

VarsOf = Callable[[str, str], Mapping[str, Any]]
"""(``group_vars`` or ``host_vars``, name) → what the files beside the inventory say."""


@dataclass(frozen=True)
class Sealed:
    """A value that only Ansible can read: ``vaulted`` or ``templated``."""

    how: str


@dataclass(frozen=True, kw_only=True)
class Host:
    """One host with the groups that it is in (parents too, without ``all`` and ``ungrouped``)."""

    name: str
    groups: tuple[str, ...]
    variables: Mapping[str, Any]


@dataclass
class _Group:
    hosts: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Raw:
    """The file as it stands."""

    groups: dict[str, _Group] = field(default_factory=dict)
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def group(self, name: str) -> _Group:
        return self.groups.setdefault(name, _Group())

    def add(self, group: str, pattern: str, variables: Mapping[str, Any]) -> None:
        name, port = _port(pattern)
        for host in expand(name):
            self.hosts.setdefault(host, {}).update({**({"ansible_port": port} if port else {}), **variables})
            if host not in self.group(group).hosts:
                self.group(group).hosts.append(host)


def hosts(text: str, name: str, group: str = "", vars_of: VarsOf = lambda kind, name: {}) -> tuple[Host, ...]:
    """The hosts of `group` (default: all) in the order of the file.

    Args:
        text: the inventory.
        name: of its file, for messages; its suffix tells the format.
        vars_of: variables from files beside it.

    Raises:
        ConfigError: not an inventory, a group that is not there, groups in a circle.
    """
    if text.startswith("#!"):
        raise ConfigError(
            f"{name}: a program makes this inventory, and edgectl runs none",
            hint=f"ansible-inventory -i {name} --list --yaml > hosts.yml writes it out",
        )
    raw = _yaml(text, name) if _is_yaml(text, name) else _ini(text, name)
    tree = _Tree(raw, name)
    if group and group not in ("all", *raw.groups):
        raise ConfigError(f"{name}: there is no group {group!r}", hint=closest(group, raw.groups))
    return tuple(
        tree.host(host, vars_of) for host in raw.hosts if group in ("", "all") or group in tree.groups_of(host)
    )


class _Tree:
    """Which group is in which."""

    def __init__(self, raw: _Raw, name: str) -> None:
        self._raw, self._name = raw, name
        self._parents: dict[str, set[str]] = {group: set() for group in raw.groups}
        for parent, group in raw.groups.items():
            for child in group.children:
                self._parents.setdefault(child, set()).add(parent)
        self._depth: dict[str, int] = {}
        for group_name in self._parents:
            self._measure(group_name, ())
        self._direct: dict[str, list[str]] = {}
        for group_name, group in raw.groups.items():
            for host in group.hosts:
                self._direct.setdefault(host, []).append(group_name)

    def _measure(self, group: str, below: tuple[str, ...]) -> int:
        if group in below:
            raise ConfigError(f"{self._name}: group {group!r} is inside itself: {' → '.join((*below, group))}")
        if group not in self._depth:
            parents = (self._measure(parent, (*below, group)) for parent in self._parents[group] if parent != "all")
            self._depth[group] = 0 if group == "all" else 1 + max(parents, default=0)
        return self._depth[group]

    def groups_of(self, host: str) -> set[str]:
        """Every group that `host` is in, directly or through children."""
        found: set[str] = set()
        left = list(self._direct.get(host, ()))
        while left:
            group = left.pop()
            if group not in found:
                found.add(group)
                left += self._parents[group]
        return found

    def host(self, name: str, vars_of: VarsOf) -> Host:
        mine = sorted(self.groups_of(name) - {"all"}, key=self._rank)
        variables: dict[str, Any] = {}
        for group in ("all", *mine):
            variables |= self._raw.groups[group].variables if group in self._raw.groups else {}
        for group in ("all", *mine):
            variables |= vars_of("group_vars", group)
        variables.pop(_PRIORITY, None)
        variables |= {**self._raw.hosts[name], **vars_of("host_vars", name)}
        groups = tuple(group for group in mine if group != "ungrouped")
        return Host(name=name, groups=groups, variables={key: _sealed(value) for key, value in variables.items()})

    def _rank(self, group: str) -> tuple[int, int, str]:
        priority = self._raw.groups[group].variables.get(_PRIORITY, 1)
        return (self._depth[group], int(priority) if str(priority).isdigit() else 1, group)


# ── the two formats ─────────────────────────────────────────────────────────────────────────────────────────────────


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # Python's takes quadratic time for open brackets


class _Loader(_Base):  # type: ignore[misc]
    """Values that only Ansible can read stay what they are."""


_Loader.add_constructor("!vault", lambda loader, node: Sealed("vaulted"))
_Loader.add_constructor("!vault-encrypted", lambda loader, node: Sealed("vaulted"))
_Loader.add_constructor("!unsafe", lambda loader, node: str(node.value))


def load_yaml(text: str, name: str) -> Any:
    """YAML as Ansible writes it. Raises `ConfigError`."""
    try:
        return yaml.load(text, _Loader)
    except UNREADABLE as e:
        mark = getattr(e, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        raise ConfigError(f"{name}:{where} not valid YAML: {getattr(e, 'problem', e)}") from e


def _is_yaml(text: str, name: str) -> bool:
    if re.search(r"\.(ya?ml|json)$", name):
        return True
    if name.endswith((".ini", ".cfg")):
        return False
    try:
        found = load_yaml(text, name)
    except ConfigError:
        return False
    return isinstance(found, dict)


def _yaml(text: str, name: str) -> _Raw:
    found = load_yaml(text, name)
    if isinstance(found, dict) and "plugin" in found:
        raise ConfigError(
            f"{name}: the plugin {found['plugin']!r} makes this inventory, and edgectl runs none",
            hint=f"ansible-inventory -i {name} --list --yaml > hosts.yml writes it out",
        )
    if not isinstance(found, dict):
        raise ConfigError(f"{name}: expected groups such as all: {{hosts: …}}, found {type(found).__name__}")
    raw = _Raw()
    for group, body in found.items():
        _yaml_group(raw, str(group), body, name)
    return raw


def _yaml_group(raw: _Raw, name: str, body: Any, file: str) -> None:
    group = raw.group(name)
    body = {} if body is None else body
    unknown = set(body) - {"hosts", "vars", "children"} if isinstance(body, dict) else {"?"}
    if unknown:
        raise ConfigError(
            f"{file}: group {name!r}: expected hosts, vars and children, found {min(map(str, unknown))!r}"
        )
    for pattern, variables in _mapping(body.get("hosts"), f"{file}: hosts of {name!r}"):
        raw.add(name, pattern, _variables(variables, f"{file}: host {pattern!r}"))
    group.variables.update(_variables(body.get("vars"), f"{file}: vars of {name!r}"))
    for child, inner in _mapping(body.get("children"), f"{file}: children of {name!r}"):
        group.children.append(child)
        _yaml_group(raw, child, inner, file)


def _mapping(found: Any, where: str) -> Iterator[tuple[str, Any]]:
    """A mapping, a list of names or one name."""
    if isinstance(found, str):
        found = [found]
    if isinstance(found, list):
        found = dict.fromkeys(found)
    if not isinstance(found, dict | None):
        raise ConfigError(f"{where}: expected names, found {type(found).__name__}")
    yield from ((str(key), value) for key, value in (found or {}).items())


def _variables(found: Any, where: str) -> dict[str, Any]:
    if not isinstance(found, dict | None):
        raise ConfigError(f"{where}: expected variables, found {type(found).__name__}")
    return {str(key): value for key, value in (found or {}).items()}


_SECTION = re.compile(r"\[([^:\]\s]+)(?::(\w+))?\]\s*(?:[#;].*)?")


def _ini(text: str, name: str) -> _Raw:
    raw = _Raw()
    group, kind = "ungrouped", "hosts"
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        where = f"{name}: line {number}"
        if not line or line[0] in "#;":
            continue
        if section := _SECTION.fullmatch(line):
            group, kind = section[1], section[2] or "hosts"
            if kind not in ("hosts", "children", "vars"):
                raise ConfigError(f"{where}: expected [{group}], [{group}:children] or [{group}:vars], found {line!r}")
            raw.group(group)
        elif line.startswith("[") and line.endswith("]"):
            raise ConfigError(f"{where}: expected [GROUP], [GROUP:children] or [GROUP:vars], found {line!r}")
        elif kind == "vars":
            key, equals, value = line.partition("=")
            if not equals:
                raise ConfigError(f"{where}: expected NAME=VALUE, found {line!r}")
            raw.group(group).variables[key.strip()] = _literal(value.strip())
        elif kind == "children":
            child = line.split("#")[0].strip()
            raw.group(child)
            raw.group(group).children.append(child)
        else:
            _ini_host(raw, group, line, where)
    return raw


def _ini_host(raw: _Raw, group: str, line: str, where: str) -> None:
    try:
        pattern, *pairs = shlex.split(line, comments=True)
    except ValueError as e:
        raise ConfigError(f"{where}: {str(e).lower()}") from e
    variables = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{where}: expected NAME=VALUE after the host, found {pair!r}")
        variables[key] = _literal(value)
    try:
        raw.add(group, pattern, variables)
    except ConfigError as e:
        raise ConfigError(f"{where}: {e.message}") from e


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


# ── names and values ────────────────────────────────────────────────────────────────────────────────────────────────

_RANGE = re.compile(r"\[(\w*):(\w+)(?::(\d+))?\]")


def expand(pattern: str) -> tuple[str, ...]:
    """``web[01:03]`` → web01, web02, web03; letters and a step (``[0:8:2]``) too. Raises `ConfigError`."""
    pieces: list[tuple[str, ...]] = []
    at = 0
    for found in _RANGE.finditer(pattern):
        pieces += [(pattern[at : found.start()],), _ranged(pattern, found[1], found[2], int(found[3] or 1))]
        at = found.end()
    if math.prod(map(len, pieces)) > MOST:
        raise _too_many(pattern)
    return tuple("".join(chosen) for chosen in product(*pieces, (pattern[at:],)))


def _too_many(pattern: str) -> ConfigError:
    return ConfigError(f"host {pattern!r} stands for more than {MOST:,} names")


def _ranged(pattern: str, first: str, last: str, step: int) -> tuple[str, ...]:
    letters = string.ascii_letters
    if step < 1:
        raise ConfigError(f"host {pattern!r}: expected a step above 0")
    if (first or "0").isdigit() and last.isdigit():
        if first.startswith("0") and len(first) > 1 and len(first) != len(last):
            raise ConfigError(f"host {pattern!r}: expected ends of equal width in [{first}:{last}]")
        width = len(first) if first.startswith("0") and len(first) > 1 else 0
        if len(last) > 12 or len(range(int(first or 0), int(last) + 1, step)) > MOST:
            raise _too_many(pattern)
        found = tuple(f"{n:0{width}}" for n in range(int(first or 0), int(last) + 1, step))
    elif first in letters and last in letters and len(first) == len(last) == 1:
        found = tuple(letters[letters.index(first) : letters.index(last) + 1 : step])
    else:
        raise ConfigError(f"host {pattern!r}: expected numbers or letters in [{first}:{last}]")
    if not found:
        raise ConfigError(f"host {pattern!r}: the range [{first}:{last}] runs backwards")
    return found


def _port(pattern: str) -> tuple[str, int]:
    """``host:2222`` → (host, 2222); 0 without a port."""
    found = re.fullmatch(r"([^:]+|[^:]*\[\w*:\w+(?::\d+)?\][^:]*):(\d{1,5})", pattern)
    return (found[1], int(found[2])) if found else (pattern, 0)


def _sealed(value: Any) -> Any:
    if isinstance(value, str) and ("{{" in value or "{%" in value):
        return Sealed("templated")
    if isinstance(value, str) and value.startswith("$ANSIBLE_VAULT"):
        return Sealed("vaulted")
    return value
