"""Where bundles live on a node: two slots per recipe, and one fsynced file that says which of them runs.

::

    slots/<recipe>/state.json   which slot is active, what each holds, the floor, the quarantine (state.bak: a copy)
    slots/<recipe>/a/           bundle.bin, release.json
    slots/<recipe>/b/

A new bundle goes into the slot that does not run (`Slots.stage`); only replacing ``state.json`` makes it the one that
runs (`Slots.activate`), so a crash between any two steps leaves the old bundle or the new one active. The bundle before
stays in the other slot for `Slots.revert`, which needs no network. Whether a bundle may run here is decided before, by
the updater; what is enforced here, once more, is that a node never goes below the newest release that it ran, unless
the running release lists the older bundle as a fallback.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from edgectl_agent import checked
from edgectl_agent.core import bundle as bundles
from edgectl_agent.core.errors import AttackError, EdgeError, StorageError, TrustError, UsageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import Epoch, Quarantine, Release
from edgectl_agent.durable import sync_folder, write_file

_Side = Literal["a", "b"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class SlotContent:
    """What one slot holds. ``activated_ns`` is 0 if it never ran."""

    digest: str
    release: Release
    release_raw: bytes = field(repr=False)
    epoch: Epoch | None
    activated_ns: int
    path: Path

    @property
    def bundle_raw(self) -> bytes:
        """The bundle's bytes, read now.

        Raises:
            StorageError: they are missing, cannot be read, or do not have the digest any more.
        """
        try:
            raw = self.path.read_bytes()
        except OSError as e:
            raise checked.storage_error(f"{self.path} cannot be read", e) from e
        found = bundles.digest(raw)
        if found != self.digest:
            raise StorageError(
                f"{self.path} is damaged: its digest is {found[:12]}, expected {self.digest[:12]}",
                reason="damaged",
                hint="deploy a release, this or another, or roll back",
            )
        return raw

    def damage(self) -> str:
        """Why the bundle cannot be used; empty if it can."""
        try:
            return "" if self.bundle_raw else f"{self.path} is empty"
        except StorageError as e:
            return e.message


class _Slot(msgspec.Struct, frozen=True):
    """``staged``: put here and not yet activated."""

    digest: str
    release: bytes
    epoch: Epoch | None
    activated_ns: int
    staged: bool


class _State(msgspec.Struct, frozen=True):
    """One recipe's ``state.json``. It carries the releases, so that damage in a slot cannot hide what is permitted."""

    generation: int = 0
    active: _Side | None = None
    a: _Slot | None = None
    b: _Slot | None = None
    floor: int = 0
    quarantined: tuple[Quarantine, ...] = ()

    def slot(self, side: _Side | None) -> _Slot | None:
        return None if side is None else self.a if side == "a" else self.b

    @property
    def free(self) -> _Side:
        """The slot that does not run."""
        return "b" if self.active == "a" else "a"


msgspec.json.Decoder(_State)  # its table must not be built in two threads at once (see core.messages)


class Slots:
    """All recipes of one node. One process writes; every call reads the disk, so there is nothing to go stale."""

    def __init__(self, folder: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self._folder = folder
        self._clock = clock

    # ── what is there ───────────────────────────────────────────────────────────────────────────────────────────────

    def recipes(self) -> tuple[str, ...]:
        """Recipes that ever had a bundle here, sorted. Raises `StorageError`."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return ()
        except OSError as e:
            raise checked.storage_error(f"{self._folder} cannot be read", e) from e
        return tuple(sorted(n for n in names if _NAME.fullmatch(n) and (self._folder / n).is_dir()))

    def active(self, recipe: str) -> SlotContent | None:
        """What runs, or should. Raises `StorageError` if the disk cannot be read."""
        state = self._load(recipe)
        return self._content(recipe, state, state.active)

    def other(self, recipe: str) -> SlotContent | None:
        """The slot that does not run: the bundle before, or one that is staged. Raises `StorageError`."""
        state = self._load(recipe)
        return self._content(recipe, state, state.free)

    def floor(self, recipe: str) -> int:
        """Highest `Release.counter` that ran here; 0 if none did. Raises `StorageError`."""
        return self._load(recipe).floor

    def quarantined(self) -> tuple[Quarantine, ...]:
        """Bundles that are refused until a higher epoch, of all recipes. Raises `StorageError`."""
        return tuple(q for recipe in self.recipes() for q in self._load(recipe).quarantined)

    # ── changes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def stage(self, recipe: str, bundle_raw: bytes, release_raw: bytes, epoch: Epoch | None) -> None:
        """Put a verified bundle into the slot that does not run. The active one is not touched.

        Room on the disk is needed for it beside the two that are there; if there is none, both stay as they are.

        Raises:
            TrustError: `release_raw` is no release of this recipe, or does not list this bundle.
            StorageError: the disk refuses.
        """
        slot = _Slot(bundles.digest(bundle_raw), release_raw, epoch, 0, staged=True)
        release = _release(release_raw)
        if release.recipe != recipe or slot.digest not in [v.sha256 for v in release.variants]:
            raise TrustError(f"{release.recipe} {release.version} has no bundle {slot.digest[:12]} of {recipe}")
        state = self._load(recipe)
        folder = self._path(recipe) / state.free
        try:
            checked.make_folder(folder)
            _write(folder / "bundle.bin.new", bundle_raw)
            _write(folder / "release.json.new", release_raw)
            state = self._save(recipe, _with(state, state.free, None))  # from here on its old content does not count
            for name in ("bundle.bin", "release.json"):
                os.replace(folder / f"{name}.new", folder / name)
            sync_folder(folder)
            self._save(recipe, _with(state, state.free, slot))
        except (OSError, StorageError) as e:
            for name in ("bundle.bin.new", "release.json.new"):
                with suppress(OSError):
                    (folder / name).unlink(missing_ok=True)
            raise checked.storage_error(f"bundle of {recipe} {release.version} cannot be written", e) from e

    def activate(self, recipe: str) -> None:
        """Make the staged bundle the one that runs after a restart.

        Raises the floor to its release's counter and lifts its quarantine.

        Raises:
            UsageError: nothing is staged.
            AttackError: its release is older than one that ran here, and the active one does not permit it.
            StorageError: it is damaged, or the disk refuses; what was active still is.
        """
        state = self._load(recipe)
        staged, running = state.slot(state.free), self._content(recipe, state, state.active)
        content = self._content(recipe, state, state.free)
        if staged is None or content is None or not staged.staged:
            raise UsageError(f"nothing is staged for {recipe}", reason="not-staged")
        release = content.release
        if release.counter < state.floor and (running is None or content.digest not in running.release.fallbacks):
            raise AttackError(
                f"{recipe} {release.version} has release counter {release.counter}, counter {state.floor} ran here and "
                "the running release does not list it as a fallback",
                reason="not-permitted",
            )
        self._flip(recipe, state, content)

    def revert(self, recipe: str) -> SlotContent:
        """Go back to the other slot's bundle. Returns what is active now.

        Raises:
            UsageError: there is no earlier bundle.
            AttackError: the active release does not list it as a fallback.
            StorageError: it is damaged, or the disk refuses; what was active still is.
        """
        state = self._load(recipe)
        running, target = self._content(recipe, state, state.active), self._content(recipe, state, state.free)
        if running is None or target is None:
            raise UsageError(f"there is no earlier bundle of {recipe} to return to", reason="no-fallback")
        if target.digest not in running.release.fallbacks:
            raise AttackError(
                f"{recipe} {running.release.version} does not permit to return to {target.release.version}",
                reason="not-permitted",
            )
        self._flip(recipe, state, target)
        active = self.active(recipe)
        if active is None:
            raise StorageError(f"the active slot of {recipe} is gone")
        return active

    def quarantine(self, recipe: str, bundle: str, epoch: int, reason: str) -> None:
        """Remember, durably, that `bundle` is refused until an epoch above `epoch`. Raises `StorageError`."""
        state = self._load(recipe)
        known = [q for q in state.quarantined if q.bundle == bundle]
        entry = Quarantine(recipe=recipe, bundle=bundle, epoch=max([epoch, *(q.epoch for q in known)]), reason=reason)
        others = tuple(q for q in state.quarantined if q.bundle != bundle)
        try:
            checked.make_folder(self._path(recipe))
        except OSError as e:
            raise checked.storage_error(f"quarantine of {recipe} cannot be written", e) from e
        self._save(recipe, msgspec.structs.replace(state, quarantined=(*others, entry)))

    def _flip(self, recipe: str, state: _State, target: SlotContent) -> None:
        """The other slot becomes the active one, in one step."""
        slot = state.slot(state.free)
        if slot is None or not target.bundle_raw:  # reading it checks its digest
            raise StorageError(f"the bundle of {recipe} {target.release.version} is empty", reason="damaged")
        ran = msgspec.structs.replace(slot, staged=False, activated_ns=self._clock())
        state = _with(state, state.free, ran)
        self._save(
            recipe,
            msgspec.structs.replace(
                state,
                active=state.free,
                floor=max(state.floor, target.release.counter),
                quarantined=tuple(q for q in state.quarantined if q.bundle != target.digest),
            ),
        )

    # ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _path(self, recipe: str) -> Path:
        if not _NAME.fullmatch(recipe):
            raise UsageError(f"{recipe!r} is no name of a recipe")
        return self._folder / recipe

    def _content(self, recipe: str, state: _State, side: _Side | None) -> SlotContent | None:
        slot = state.slot(side)
        if slot is None or side is None:
            return None
        path = self._path(recipe) / side / "bundle.bin"
        return SlotContent(slot.digest, _release(slot.release), slot.release, slot.epoch, slot.activated_ns, path)

    def _load(self, recipe: str) -> _State:
        """The newest intact state. With both files damaged or gone nothing is active, and the slots' releases give the
        floor: an update can repair that, and an older release still cannot come in."""
        folder = self._path(recipe)
        found: list[_State] = []
        for name in ("state.json", "state.bak"):
            try:
                found.append(checked.decode_checked(checked.read_damaged(folder / name), _State))
            except OSError as e:
                raise checked.storage_error(f"{folder / name} cannot be read", e) from e
            except StorageError:
                continue
        if found:
            return max(found, key=lambda s: s.generation)
        return _State(floor=max([0, *(_counter(folder / side / "release.json") for side in "ab")]))

    def _save(self, recipe: str, state: _State) -> _State:
        """Replace the state; that is the moment at which everything in it becomes true."""
        state = msgspec.structs.replace(state, generation=state.generation + 1)
        raw, folder = checked.encode_checked(state), self._path(recipe)
        write_file(folder / "state.json", raw, 0o600)
        with suppress(StorageError):  # it serves only if state.json is damaged later
            write_file(folder / "state.bak", raw, 0o600)
        return state


def _with(state: _State, side: _Side, slot: _Slot | None) -> _State:
    if side == "a":
        return msgspec.structs.replace(state, a=slot)
    return msgspec.structs.replace(state, b=slot)


def _release(raw: bytes) -> Release:
    try:
        return msgspec.json.decode(raw, type=Release)
    except UNREADABLE as e:
        raise TrustError(f"release manifest does not decode: {e}", reason="malformed") from e


def _counter(path: Path) -> int:
    try:
        return _release(path.read_bytes()).counter
    except (OSError, EdgeError):
        return 0


def _write(path: Path, data: bytes) -> None:
    """Write and sync a file that counts only after a rename. Raises `OSError`."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        checked.write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
