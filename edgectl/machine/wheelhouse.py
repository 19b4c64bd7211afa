"""A folder of wheels with which the agent installs on a machine that has no package index.

```
0.1.0-aarch64-py3.11/  edgectl_agent-0.1.0-py3-none-any.whl  onnxruntime-….whl  …  manifest.json
```
`build` downloads into a folder beside it, so that a wheelhouse is there complete or not at all, and an interrupted
download goes on where it stopped. pip chooses the wheels: for the platform asked for, not for this machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import is_zipfile

import msgspec
from edgectl_agent.core.foreign import UNREADABLE

from edgectl.core.errors import ConfigError, EdgeError, IndexUnreachable, StorageError
from edgectl.core.wheels import (
    Manifest,
    Platform,
    WheelFile,
    folder_name,
    oldest_glibc,
    platform_tags,
)
from edgectl.machine import packages, requirements

MANIFEST = "manifest.json"
Said = Callable[[str], None]
"""Told what is being done, in a few words, at each step."""

_COLLECTING = re.compile(r"Collecting ([A-Za-z0-9._-]+)")
_NONE_FOUND = re.compile(
    r"No matching distribution found for ([A-Za-z0-9._-]+)|The user requested \(constraint\) (\S+)"
)
_NO_NETWORK = re.compile(
    r"Failed to establish a new connection|Connection (?:refused|reset|aborted)|Name or service not known|"
    r"Temporary failure in name resolution|timed out|connection broken|ProxyError|SSLError|certificate verify failed|"
    r"Network is unreachable|HTTP error 5\d\d|Max retries exceeded"
)


@dataclass(frozen=True, kw_only=True)
class Wheelhouse:
    """One that is complete."""

    folder: Path
    manifest: Manifest

    @property
    def wheels(self) -> tuple[Path, ...]:
        """The agent's and those of its dependencies."""
        return tuple(self.folder / file.name for file in self.manifest.files)


def build(
    folder: Path, wheel: Path, constraints: bytes, platform: Platform, python: str, said: Said = lambda _: None,
    extras: Sequence[str] = (),
) -> tuple[Wheelhouse, bool]:  # fmt: skip
    """Fill `folder`; returns it and whether anything had to be done.

    Args:
        folder: replaced as a whole if it is another wheelhouse.
        wheel: the agent's.
        constraints: versions, as pip's ``-c`` takes them.
        platform: of the machines that will install from it.
        python: ``3.11``, theirs.
        said: hears of every package.
        extras: of the agent, for sources that need more: ``kafka``.

    Raises:
        ConfigError: a package has no wheel for this platform and Python; `folder` is something else than a wheelhouse.
        IndexUnreachable: the package index does not answer.
        StorageError: this machine's disk refuses.
    """
    agent, pins = packages.version(wheel), hashlib.sha256(constraints).hexdigest()
    there = read(folder)
    if there is not None and _is(there, wheel, pins, platform, python, extras) and not damaged(there):
        return there, False
    if there is None and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and no wheelhouse", hint="name another folder with --dir")
    part = folder.with_name(f".{folder.name}.{pins[:8]}.part")
    try:
        _clear(part, folder)
        (part / packages.CONSTRAINTS).write_bytes(constraints)
        _download(part, [f"{wheel}[{','.join(extras)}]" if extras else str(wheel)], platform, python, said)
        while lacking := requirements.missing(part.glob("*.whl"), wheel, platform, python, extras):
            _download(part, lacking, platform, python, said)
        (part / packages.CONSTRAINTS).unlink()
        found = Wheelhouse(folder=folder, manifest=_manifest(part, agent, pins, platform, python))
        (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(found.manifest), indent=2))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    except OSError as e:
        raise StorageError(f"cannot write {e.filename or folder}: {(e.strerror or str(e)).lower()}") from e
    return found, True


def read(folder: Path) -> Wheelhouse | None:
    """The wheelhouse in `folder`; None if there is none. Raises `ConfigError` for a manifest that cannot be read."""
    try:
        return Wheelhouse(folder=folder, manifest=msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, *UNREADABLE) as e:
        raise ConfigError(f"{folder / MANIFEST} cannot be read: {e}", hint=f"delete {folder} and build again") from e


def damaged(wheelhouse: Wheelhouse) -> tuple[str, ...]:
    """Names of its files that are missing or have other bytes than the manifest says."""
    return tuple(f.name for f in wheelhouse.manifest.files if _file(wheelhouse.folder / f.name) != f)


def every(parent: Path) -> list[Wheelhouse]:
    """The wheelhouses in `parent`, by name. Raises as `read`."""
    folders = sorted(p for p in parent.iterdir() if not p.name.startswith(".")) if parent.is_dir() else []
    return [found for found in map(read, folders) if found is not None]


def default_folder(parent: Path, wheel: Path, platform: Platform, python: str) -> Path:
    """Where a wheelhouse lies in `parent`. Raises `ConfigError` if `wheel` is not the agent's."""
    return parent / folder_name(packages.version(wheel), platform, python)


def _is(
    there: Wheelhouse, wheel: Path, pins: str, platform: Platform, python: str, extras: Sequence[str]
) -> bool:  # fmt: skip
    made = there.manifest
    if (made.constraints, made.platform, made.python) != (pins, platform, python) or _file(wheel) not in made.files:
        return False
    return not (extras and requirements.missing(there.wheels, wheel, platform, python, extras))


def _clear(part: Path, folder: Path) -> None:
    """Keep what an interrupted download of the same versions has whole, and nothing else."""
    part.parent.mkdir(parents=True, exist_ok=True)
    for other in part.parent.glob(f".{folder.name}.*.part"):
        if other != part:
            shutil.rmtree(other)
    part.mkdir(exist_ok=True)
    for path in part.iterdir():
        if not is_zipfile(path) or path.name.startswith("edgectl_agent-"):
            path.unlink()


def _download(part: Path, wanted: Sequence[str], platform: Platform, python: str, said: Said) -> None:
    abi = f"cp{python.replace('.', '')}"
    choice = ["--implementation", "cp", "--python-version", python, "--abi", abi, "--abi", "abi3", "--abi", "none"]
    choice += [word for tag in platform_tags(platform) for word in ("--platform", tag)]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--retries", "2"]
    command += ["--progress-bar", "off", "--only-binary=:all:", *choice]
    command += ["-c", str(part / packages.CONSTRAINTS), "-d", str(part), *wanted]
    output = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            output.append(line.rstrip())
            if match := _COLLECTING.match(line):
                said(match[1])
    if pip.returncode:
        raise _failure(output, platform, python)


def _failure(output: Sequence[str], platform: str, python: str) -> EdgeError:
    """What pip's complaint means."""
    text = "\n".join(output)
    if "No module named pip" in text:
        return ConfigError("this Python has no pip, which downloads the wheels", hint="python -m ensurepip")
    if "No space left on device" in text:
        return StorageError("the disk is full: the wheels of one platform take about 50 MB", hint="make room")
    if match := _NO_NETWORK.search(text):
        return IndexUnreachable(
            f"the package index does not answer: {match[0].lower()}",
            hint="check the network and pip's settings (`pip config list`), then run it again",
        )
    if match := _NONE_FOUND.search(text):
        package = (match[1] or match[2]).replace("==", " ")
        return ConfigError(
            f"the package index has no wheel of {package} for Python {python} on {platform}",
            hint="ask for the Python that the nodes have with --python, and see pip's settings (`pip config list`)",
        )
    errors = [line.removeprefix("ERROR: ") for line in output if line.startswith("ERROR: ")]
    return ConfigError(f"pip cannot download the wheels: {(errors or list(output) or ['no reason given'])[-1]}")


def _manifest(folder: Path, agent: str, pins: str, platform: Platform, python: str) -> Manifest:
    files = tuple(_files(folder))
    needs = [oldest for file in files if (oldest := oldest_glibc(file.name)) is not None]
    glibc = ".".join(map(str, max(needs, default=(2, 17))))
    return Manifest(agent=agent, platform=platform, python=python, glibc=glibc, constraints=pins, files=files)


def _files(folder: Path) -> Iterator[WheelFile]:
    for path in sorted(folder.glob("*.whl")):
        found = _file(path)
        assert found is not None
        yield found


def _file(path: Path) -> WheelFile | None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return WheelFile(name=path.name, sha256=digest, bytes=file.tell())
    except FileNotFoundError:
        return None
