"""Reads the YAML files that people write, into typed values, with errors that name file and key.

Strict: unknown keys, wrong types and duplicate keys are refused. Used for agent.yaml on the node and for fleet.yaml and
recipes on the operator's side.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from edgectl_agent.core.errors import ConfigError

T = TypeVar("T")

UNREADABLE = (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""What PyYAML raises for text that is not YAML as we read it; all but the first for values: a number without digits, a
date without such a month, a list as a key, a word that is tagged as a time, thousands of brackets."""


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads a fleet of thousands ten times faster


class _UniqueKeys(_Base):  # type: ignore[misc]
    """YAML keeps the last of two equal keys without a word; an operator would lose the first."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = key_node.value
        if key in seen:
            raise ConfigError(f"line {key_node.start_mark.line + 1}: key {key!r} is there twice")
        seen.add(key)
    loader.flatten_mapping(node)
    found: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return found


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# A timestamp or a YAML 1.1 "on/off/yes/no" is text to us: `on: critical` is a key of agent.yaml.
_UniqueKeys.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":timestamp", ":bool"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_UniqueKeys.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))


def parse(text: str, into: type[T], name: str) -> T:
    """Decode YAML `text` into `into`; `name` is the file as the message should call it.

    Raises:
        ConfigError: not YAML, a key twice, an unknown or missing key, a wrong type, a value that `into` refuses.
    """
    return convert(plain(text, name), into, name)


def plain(text: str, name: str) -> Any:
    """YAML `text` as dicts, lists and scalars. Raises `ConfigError` if it is none or has a key twice."""
    try:
        return yaml.load(text, _UniqueKeys)
    except UNREADABLE as e:
        mark = getattr(e, "problem_mark", None)
        last = text.count("\n") + 1  # libyaml counts one more line at the end of a file
        where = f" line {min(mark.line + 1, last)}:" if mark else ""
        raise ConfigError(f"{name}:{where} not valid YAML: {getattr(e, 'problem', e)}") from e
    except ConfigError as e:
        raise ConfigError(f"{name}: {e.message}") from e


def convert(plain: Any, into: type[T], name: str, *, strict: bool = True) -> T:
    """Dicts, lists and scalars as `into`; not `strict`: numbers may be text. Raises `ConfigError` as `parse`."""
    try:
        return msgspec.convert(plain if plain is not None else {}, into, strict=strict)
    except msgspec.ValidationError as e:
        raise ConfigError(f"{name}: {_explain(str(e), plain, into)}") from e
    except ConfigError as e:
        raise ConfigError(f"{name}: {e.message}", hint=e.hint) from e


def load(path: Path, into: type[T]) -> T:
    """Read `path`. Raises `ConfigError` as `parse` does, and for a missing or unreadable file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read: {e}") from e
    return parse(text, into, str(path))


def _explain(error: str, plain: Any, into: type[Any]) -> str:
    """Turn msgspec's ``Expected `int`, got `str` - at `$.a[0].b` `` into ``a[0].b: expected int, found 'x'``."""
    text, _, where = error.partition(" - at `")
    a_key = where.startswith(_OF_A_KEY)
    where = where.removeprefix(_OF_A_KEY)
    path = _name_keys(where.rstrip("`").removeprefix("$").removeprefix("."), error, plain, into)
    unknown = re.search(r"contains unknown field `(.+)`", text)
    if unknown:
        key = f"{path}.{unknown[1]}" if path else unknown[1]
        known = _fields_at(path, plain, into)
        close = difflib.get_close_matches(unknown[1], known, 1)
        tail = f", did you mean {close[0]!r}?" if close else (f", expected one of {', '.join(known)}" if known else "")
        return f"{key}: unknown key{tail}"
    missing = re.search(r"missing required field `(.+)`", text)
    if missing:
        return f"{f'{path}.' if path else ''}{missing[1]}: required key is missing"
    if secret := _secret_at(path, plain, into):
        return f"{path}: {secret}"
    found = _value_at(path, plain)
    if a_key:
        odd = next((key for key in found if not isinstance(key, str)), "") if isinstance(found, dict) else ""
        return f"{path or 'top level'}: expected text as a key, found {odd!r} → write it in quotes"
    shown = "" if found is _ABSENT or isinstance(found, dict | list) else f", found {found!r}"
    choices = _choices_at(path, plain, into) if text.startswith("Invalid") else []
    text = (
        f"expected one of {', '.join(choices)}"
        if choices
        else re.sub(r", got `[^`]*`| \| null", "", text).replace("`", "")
    )
    return f"{path or 'top level'}: {text[:1].lower()}{text[1:]}{shown}"


_ABSENT = object()
_OF_A_KEY = "key` in `$"
"""How msgspec begins the place of a mapping's key."""
_STEP = re.compile(r"[^.\[\]]+")


def _name_keys(path: str, error: str, plain: Any, into: type[Any]) -> str:
    """Put the key where msgspec says ``[...]`` for a value of a mapping: the one that alone gives the same error."""
    while "[...]" in path:
        before, _, after = path.partition("[...]")
        mapping = _value_at(before, plain)
        keys = mapping if isinstance(mapping, dict) else ()
        key = next((k for k in keys if _fails_alike(plain, before, k, error, into)), None)
        if key is None:
            return path
        path = f"{before}.{key}{after}" if before else f"{key}{after}"
        plain = _replaced(plain, _STEP.findall(before), {key: mapping[key]})
    return path


def _fails_alike(plain: Any, before: str, key: Any, error: str, into: type[Any]) -> bool:
    steps = _STEP.findall(before)
    try:
        msgspec.convert(_replaced(plain, steps, {key: _value_at(before, plain)[key]}), into)
    except (msgspec.ValidationError, ConfigError) as e:
        return str(e) == error
    return False


def _replaced(plain: Any, steps: list[str], value: Any) -> Any:
    """A copy of `plain` with `value` at `steps`."""
    if not steps:
        return value
    if isinstance(plain, list):
        at = int(steps[0])
        return [*plain[:at], _replaced(plain[at], steps[1:], value), *plain[at + 1 :]]
    return {**plain, steps[0]: _replaced(plain[steps[0]], steps[1:], value)}


def _value_at(path: str, plain: Any) -> Any:
    here = plain
    for step in _STEP.findall(path):
        try:
            here = here[int(step)] if isinstance(here, list) else here[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return _ABSENT
    return here


def _type_at(path: str, plain: Any, into: type[Any]) -> Any:
    """msgspec's description of the type at `path`, None if it cannot be told without ambiguity."""
    here: Any = _unwrap(msgspec.inspect.type_info(into), plain)
    for step in _STEP.findall(path):
        plain = _value_at(step, plain)
        if isinstance(here, msgspec.inspect.StructType):
            here = next((f.type for f in here.fields if f.encode_name == step), None)
        elif isinstance(here, msgspec.inspect.DictType):
            here = here.value_type
        else:
            here = getattr(here, "item_type", None)
        here = _unwrap(here, plain)
    return here


def _secret_at(path: str, plain: Any, into: type[Any]) -> str:
    """What to say of a value at or below a Struct that keeps secrets (it has ``SECRET``): the value is never shown."""
    steps = _STEP.findall(path)
    for length in range(1, len(steps) + 1):
        here = _type_at(".".join(steps[:length]), plain, into)
        if isinstance(here, msgspec.inspect.StructType) and hasattr(here.cls, "SECRET"):
            return str(here.cls.SECRET)
    return ""


def _fields_at(path: str, plain: Any, into: type[Any]) -> list[str]:
    """Field names of the Struct at `path`."""
    here = _type_at(path, plain, into)
    if not isinstance(here, msgspec.inspect.StructType):
        return []
    tag = [here.tag_field] if here.tag_field else []
    return tag + [f.encode_name for f in here.fields]


def _choices_at(path: str, plain: Any, into: type[Any]) -> list[str]:
    """The values of a Literal, or the tags of a union of Structs whose tag field `path` names."""
    here = _type_at(path, plain, into)
    if isinstance(here, msgspec.inspect.LiteralType):
        return [str(v) for v in here.values]
    parent, _, field = path.rpartition(".")
    union = _type_at(parent, {}, into)
    types = union.types if isinstance(union, msgspec.inspect.UnionType) else ()
    return [str(t.tag) for t in types if isinstance(t, msgspec.inspect.StructType) and t.tag_field == field]


def _unwrap(info: Any, plain: Any) -> Any:
    """The one structured member of a union, or the one whose tag `plain` carries; the union itself if neither."""
    if not isinstance(info, msgspec.inspect.UnionType):
        return info
    inner = [t for t in info.types if not isinstance(t, msgspec.inspect.NoneType)]
    structs = [t for t in inner if isinstance(t, msgspec.inspect.StructType | msgspec.inspect.DictType)]
    tagged = [t for t in structs if isinstance(t, msgspec.inspect.StructType) and t.tag_field]
    if tagged and isinstance(plain, dict):
        structs = [t for t in tagged if t.tag == plain.get(t.tag_field)]
    if len(structs) == 1:
        return structs[0]
    return inner[0] if len(inner) == 1 else info
