"""Which machines have wheels of the agent's dependencies, and what a folder of them says of itself.

A platform is ``x86_64`` or ``aarch64`` with the GNU C library: ONNX Runtime is published for nothing else.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from edgectl.core.errors import ConfigError, UsageError

Platform = Literal["x86_64", "aarch64"]
PLATFORMS: tuple[Platform, ...] = ("x86_64", "aarch64")
NO_WHEELS: dict[str, str] = {
    "armv7l": "ONNX Runtime has no wheel for 32-bit ARM",
    "armv6l": "ONNX Runtime has no wheel for 32-bit ARM",
    "i686": "ONNX Runtime has no wheel for 32-bit x86",
    "riscv64": "ONNX Runtime has no wheel for RISC-V",
    "ppc64le": "ONNX Runtime has no wheel for POWER",
    "s390x": "ONNX Runtime has no wheel for IBM Z",
    "musl": "ONNX Runtime has no wheel for musl (Alpine, OpenWrt)",
}
"""Machine or C library → why the agent does not run there."""
_ALIASES: dict[str, str] = {
    "amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64", "armv8": "aarch64",
    "armv7": "armv7l", "armhf": "armv7l", "arm": "armv7l", "armv6": "armv6l", "i386": "i686", "x86": "i686",
}  # fmt: skip

MIN_PYTHON = (3, 11)
GLIBC = (2, 28)
"""Oldest C library that every wheel of the pinned versions runs with."""
_OLDEST: dict[Platform, int] = {"x86_64": 5, "aarch64": 17}
"""Minor version of the first glibc that a manylinux tag exists for."""
_LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_TAG = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)")


class WheelFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a wheelhouse."""

    name: str
    sha256: str
    bytes: Annotated[int, msgspec.Meta(ge=0)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest.json`` of a wheelhouse: what is in it and where it runs."""

    format: Literal[1] = 1
    agent: str
    """Version of the agent."""
    platform: Platform
    python: str
    """``3.11``: wheels are made for one minor version."""
    glibc: str
    """Oldest that all its wheels run with."""
    constraints: str
    """SHA-256 of the constraints that it was resolved with."""
    files: tuple[WheelFile, ...]

    @property
    def name(self) -> str:
        """Of its folder."""
        return folder_name(self.agent, self.platform, self.python)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def fits(self, machine: str, python: tuple[int, int], glibc: tuple[int, int]) -> bool:
        """Whether a machine can install from it."""
        wanted = (machine, f"{python[0]}.{python[1]}")
        return wanted == (self.platform, self.python) and glibc >= parse_version(self.glibc)


def folder_name(agent: str, platform: str, python: str) -> str:
    """``0.1.0-aarch64-py3.11``."""
    return f"{agent}-{platform}-py{python}"


def parse_platform(text: str) -> Platform:
    """The platform that `text` names, by any of its usual names. Raises `UsageError` with the reason if it has no
    wheels."""
    name = _ALIASES.get(text.strip().lower(), text.strip().lower())
    for platform in PLATFORMS:
        if name == platform:
            return platform
    reason = NO_WHEELS.get("musl" if "musl" in name or "alpine" in name else name, "no such platform is known")
    raise UsageError(f"--platform: {text!r} cannot run the agent: {reason}", hint=f"known are {', '.join(PLATFORMS)}")


def parse_python(text: str) -> tuple[int, int]:
    """(3, 11) of ``3.11``. Raises `UsageError` for anything else, and below `MIN_PYTHON`."""
    match = re.fullmatch(r"(\d)\.(\d{1,2})(\.\d+)?", text.strip())
    if match is None:
        raise UsageError(f"--python: expected a version such as 3.11, found {text!r}")
    version = (int(match[1]), int(match[2]))
    if version < MIN_PYTHON:
        raise UsageError(f"--python: the agent needs {'.'.join(map(str, MIN_PYTHON))} or newer, found {text}")
    return version


def parse_version(text: str) -> tuple[int, int]:
    """(2, 28) of ``2.28``. Raises ValueError."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def platform_tags(platform: Platform, glibc: tuple[int, int] = GLIBC) -> tuple[str, ...]:
    """Tags of all wheels that run on `platform` with `glibc`, the newest first."""
    tags = []
    for minor in range(glibc[1], _OLDEST[platform] - 1, -1):
        tags.append(f"manylinux_2_{minor}_{platform}")
        tags += [f"{old}_{platform}" for old, version in _LEGACY.items() if version == (2, minor)]
    return tuple(tags)


def oldest_glibc(file_name: str) -> tuple[int, int] | None:
    """Oldest glibc that a wheel runs with, by the tags in its name; None if it is pure Python.

    Raises:
        ConfigError: it is not a wheel's name, or runs on something else than Linux with glibc.
    """
    parts = file_name.removesuffix(".whl").split("-")
    if not file_name.endswith(".whl") or len(parts) not in (5, 6):
        raise ConfigError(f"{file_name} is not the name of a wheel")
    if parts[-1] == "any":
        return None
    found = []
    for tag in parts[-1].split("."):
        match = _TAG.fullmatch(tag)
        if match:
            found.append((int(match[1]), int(match[2])))
        found += [version for old, version in _LEGACY.items() if tag.startswith(f"{old}_")]
    if not found:
        raise ConfigError(f"{file_name} is no wheel for Linux with glibc")
    return min(found)


msgspec.json.Decoder(Manifest)  # not first in two threads at once: see edgectl_agent.core.messages
