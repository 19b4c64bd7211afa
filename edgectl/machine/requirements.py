"""What wheels need of each other on a machine of another architecture or Python.

pip chooses wheels for another platform, yet reads conditions such as ``python_version < "3.13"`` as if they were about
the machine that it runs on; so a wheelhouse is checked here, for the machine that will install from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from edgectl.core.wheels import Platform


def missing(
    wheels: Iterable[Path], first: Path, platform: Platform, python: str, extras: Iterable[str] = ()
) -> tuple[str, ...]:
    """Requirements of `first`, and of what it requires, that no file among `wheels` meets.

    Args:
        wheels: what is there, one version of each package.
        first: the wheel that is to be installed.
        platform: of the machine.
        python: its version, ``3.11``.
        extras: of `first`.
    """
    there = {parse_wheel_filename(path.name)[0]: path for path in wheels}
    here = _environment(platform, python)
    open_, seen, lacking = [(first, ""), *((first, extra) for extra in extras)], set(), []
    while open_:
        wheel, extra = open_.pop()
        for needed in _required(wheel, here | {"extra": extra}):
            found = there.get(canonicalize_name(needed.name))
            if found is None:
                lacking.append(f"{needed.name}{needed.specifier}")
                continue
            for more in ("", *sorted(needed.extras)):
                if (found, more) not in seen:
                    seen.add((found, more))
                    open_.append((found, more))
    return tuple(sorted(set(lacking)))


def _required(wheel: Path, environment: dict[str, str]) -> list[Requirement]:
    with ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        fields = HeaderParser().parsestr(archive.read(name).decode())
    every = [Requirement(text) for text in fields.get_all("Requires-Dist") or ()]
    return [needed for needed in every if needed.marker is None or needed.marker.evaluate(environment)]


def _environment(platform: str, python: str) -> dict[str, str]:
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": platform,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
