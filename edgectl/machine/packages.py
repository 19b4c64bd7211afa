"""The agent as a package: its wheel and the versions of its dependencies that it is tested with.

An installed edgectl carries both; in a clone the wheel is built from ``agent/``, without a network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from edgectl_agent.config import EXTRAS

from edgectl.core.errors import ConfigError, StorageError, UsageError

_PACKAGE = Path(__file__).parents[1]
_CARRIED = _PACKAGE / "_wheels"
_CLONE = _PACKAGE.parent
CONSTRAINTS = "constraints.txt"


def agent_wheel(cache: Path) -> Path:
    """The agent's wheel of this edgectl; in a clone it is built into `cache`, once for the same sources.

    Raises:
        ConfigError: this installation has neither the wheel nor what it takes to build it.
        StorageError: `cache` cannot be written.
    """
    carried = sorted(_CARRIED.glob("edgectl_agent-*.whl"))
    if carried:
        return carried[-1]
    source = _CLONE / "agent"
    if not (source / "pyproject.toml").is_file():
        raise ConfigError("this installation lacks the agent's wheel", hint="install edgectl again")
    folder = cache / _digest(source)
    built = sorted(folder.glob("edgectl_agent-*.whl"))
    return built[-1] if built else _build(source, folder)


def constraints() -> bytes:
    """The tested versions, as pip's ``-c`` takes them. Raises `ConfigError` if this installation lacks them."""
    for folder in (_CARRIED, _CLONE):
        if (folder / CONSTRAINTS).is_file():
            return (folder / CONSTRAINTS).read_bytes()
    raise ConfigError(f"this installation lacks {CONSTRAINTS}", hint="install edgectl again")


def parse_extras(names: Iterable[str]) -> tuple[str, ...]:
    """The agent's extras of these names, each once. Raises `UsageError` for one that it does not have."""
    known = sorted(set(EXTRAS.values()))
    for name in names:
        if name not in known:
            raise UsageError(f"--extra: expected one of {', '.join(known)}, found {name!r}")
    return tuple(sorted(set(names)))


def version(wheel: Path) -> str:
    """The version of an agent's wheel, as its own metadata says. Raises `ConfigError` if it is not one."""
    try:
        with ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            fields = HeaderParser().parsestr(archive.read(name).decode())
    except (OSError, BadZipFile, StopIteration, UnicodeDecodeError) as e:
        raise ConfigError(f"{wheel} is not a wheel: {getattr(e, 'strerror', None) or e or 'no metadata'}") from e
    if fields["Name"] != "edgectl-agent" or not fields["Version"]:
        raise ConfigError(f"{wheel} is the wheel of {fields['Name'] or 'nothing'}, expected that of edgectl-agent")
    return str(fields["Version"])


def _build(source: Path, folder: Path) -> Path:
    try:
        from hatchling.builders.wheel import WheelBuilder
    except ImportError as e:
        raise ConfigError(
            "a clone needs hatchling to build the agent's wheel, and it is not installed", hint="pip install hatchling"
        ) from e
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as building:
            (built,) = WheelBuilder(str(source)).build(directory=building, versions=["standard"])
            folder.mkdir(exist_ok=True)
            wheel = folder / Path(built).name
            os.replace(built, wheel)
        for old in folder.parent.iterdir():  # of sources that have changed since
            if old != folder and not old.name.startswith("."):
                shutil.rmtree(old, ignore_errors=True)
    except OSError as e:
        raise StorageError(f"cannot build the agent's wheel in {folder}: {e.strerror or e}") from e
    return wheel


def _digest(source: Path) -> str:
    """Of everything that the wheel is built from."""
    total = hashlib.sha256()
    files = [source / "pyproject.toml", source / "README.md", *(source / "edgectl_agent").rglob("*")]
    for path in sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts):
        total.update(f"{path.relative_to(source)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]
