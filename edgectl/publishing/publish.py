"""Brings a place up to date with the repository, so that clients see a valid state at every moment.

Targets and metadata have immutable names, so they are added first, each before what names it, and read back. Then
``timestamp.json`` is replaced, the only file that ever is. Ended anywhere, the next run writes what is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgectl.core.errors import LockHeld
from edgectl.publishing import state as states
from edgectl.publishing.interface import Place, PlaceError
from edgectl.publishing.state import TIMESTAMP, State

Told = Callable[[int], None]
"""Called with the bytes that went over since the last call."""
_ROOT = "metadata/1.root.json"


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What publishing does to a place.

    Attributes:
        write: names, in order; `timestamp` is last if it is among them.
        delete: names that nobody needs any more.
        bytes: to write.
        held: files that were there already.
        version: of the timestamp that clients then see; `before` is the one they see now, 0 for none.
        seen: SHA-256 of the timestamp that is there now, empty without one.
    """

    where: str
    write: tuple[str, ...]
    delete: tuple[str, ...]
    bytes: int
    held: int
    version: int
    before: int
    seen: str


def plan(state: State, place: Place, *, prune: bool = False, verify: bool = False) -> Changes:
    """What is to do at `place`; nothing is written.

    With `verify`, files that are there already are read back and compared, instead of their size alone.

    Raises:
        TrustError, LockHeld: as `edgectl.publishing.state.check_place`.
        PlaceError, ConfigError: the place does not answer, or wants another credential.
    """
    theirs = place.read(TIMESTAMP)
    before = states.check_place(place.where, theirs, place.read(_ROOT), state)
    held = _held(state, place, before, verify)
    write = [name for name in state.files[:-1] if name not in held]
    if theirs != state.timestamp:
        write.append(TIMESTAMP)
    delete: tuple[str, ...] = ()
    if prune:
        there = place.sizes()
        if there is None:
            raise PlaceError(
                f"{place.where}: cannot list its files, so nothing can be pruned", hint="leave out --prune"
            )
        delete = states.superfluous(there, state)
    return Changes(
        where=place.where,
        write=tuple(write),
        delete=delete,
        bytes=sum(state.path(name).stat().st_size for name in write),
        held=len(state.files) - len(write),
        version=state.chain.timestamp.version,
        before=states.version_of(theirs),
        seen=_digest(theirs),
    )


def carry_out(changes: Changes, state: State, place: Place, told: Told = lambda done: None) -> None:
    """Do what `plan` found.

    Raises:
        PlaceError: the place refuses, or does not give back what was written; clients still see the state before.
        LockHeld: somebody else has published since the plan was made.
    """
    _unchanged(place, changes)  # two operators who signed the same version would overwrite each other's metadata
    files = [name for name in changes.write if name != TIMESTAMP]
    for name in files:
        place.write(name, state.path(name))
        _read_back(place, name, state.path(name))
        told(state.path(name).stat().st_size)
    if TIMESTAMP in changes.write:
        seen = _unchanged(place, changes)
        place.write(TIMESTAMP, state.path(TIMESTAMP), after=seen)
        _read_back(place, TIMESTAMP, state.path(TIMESTAMP))
        told(state.path(TIMESTAMP).stat().st_size)
    for name in changes.delete:
        place.delete(name)


def _held(state: State, place: Place, before: int | None, verify: bool) -> set[str]:
    """Files of the state that need not be written."""
    files = state.files[:-1]
    if verify:
        return {name for name in files if place.read(name) == state.path(name).read_bytes()}
    there = place.sizes()
    if there is None and before is not None:  # the last publication ended with its timestamp: it is complete
        roots = {name for name in files if name.endswith(".root.json") and place.size(name) is not None}
        return roots | (states.needed_by(state.folder, before) & set(files))
    size = there.get if there is not None else place.size
    return {name for name in files if size(name) == state.path(name).stat().st_size}


def _read_back(place: Place, name: str, file: Path) -> None:
    if place.read(name) != file.read_bytes():
        raise PlaceError(
            f"{place.where}: {name} reads back otherwise than it was written",
            hint="look at caches and the disk there, then publish again",
        )


def _unchanged(place: Place, changes: Changes) -> bytes | None:
    """The timestamp that is there, which must be the one of the plan. Raises `LockHeld`."""
    seen = place.read(TIMESTAMP)
    if _digest(seen) != changes.seen:
        raise LockHeld(f"{place.where}: somebody else has just published there", hint="look, then publish again")
    return seen


def _digest(raw: bytes | None) -> str:
    return "" if raw is None else hashlib.sha256(raw).hexdigest()
