"""Chooses what is installed on a machine: which agent, and its dependencies from which wheels or from an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from edgectl.core.errors import ConfigError, NothingMatched, RemoteRefused
from edgectl.inventory.types import Node
from edgectl.machine import packages
from edgectl.machine.environment import Environment
from edgectl.machine.interface import Host
from edgectl.machine.wheelhouse import Wheelhouse

_PLATFORM = """\
uname -m
python3 -B -c 'import sys; print("%d.%d" % sys.version_info[:2])' || echo 0.0
getconf GNU_LIBC_VERSION 2> /dev/null || echo none 0.0
"""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the operator's side has to offer; calling it picks what fits a machine."""

    agent: Path
    """The agent's wheel."""
    wheelhouses: Sequence[Wheelhouse]
    explicit: bool = False
    """The operator named the wheelhouse: a machine that none fits is refused."""

    @property
    def version(self) -> str:
        """Of the agent."""
        return packages.version(self.agent)

    def __call__(self, node: Node, host: Host) -> Environment:
        """What `node` gets.

        Raises:
            ConfigError: fleet.yaml wants another version of the agent.
            RemoteRefused: fleet.yaml or the operator wants a wheelhouse, and none fits the machine.
            NodeUnreachable: as `Host.run`.
        """
        version = self.version
        wanted = node.agent.version
        if wanted and not fnmatchcase(version, wanted):
            raise ConfigError(
                f"node {node.name}: fleet.yaml wants agent {wanted}, and this is {version}", hint="name it with --wheel"
            )
        machine, python, glibc = platform(host)
        fits = [w for w in self.wheelhouses if w.manifest.fits(machine, _pair(python), _pair(glibc))]
        uploads = node.agent.packages != "index"
        if fits and uploads:
            wheels = tuple(w for w in fits[-1].wheels if not w.name.startswith("edgectl_agent-"))
            return Environment(version=version, agent=self.agent, wheels=wheels)
        if uploads and (self.explicit or node.agent.packages == "wheelhouse"):
            raise RemoteRefused(
                f"node {node.name}: no wheelhouse fits it ({machine}, Python {python}, glibc {glibc})",
                status=424,
                hint=f"edgectl wheelhouse build --platform {machine} --python {python}",
                reason="packages",
            )
        return Environment(version=version, agent=self.agent, constraints=packages.constraints())


def choice(
    workspace_wheels: Path, workspace_wheelhouses: Path, wheel: Path | None, wheelhouse: Path | None, to: str = ""
) -> Choice:
    """From what the command line names, else from what the workspace has.

    Args:
        workspace_wheels: cache of the agent's own wheel.
        workspace_wheelhouses: where `edgectl wheelhouse build` puts them.
        wheel: an agent's wheel.
        wheelhouse: one wheelhouse, or a folder of several.
        to: version of the agent that is asked for.

    Raises:
        ConfigError: it is not a wheel of the agent, or not a wheelhouse.
        NothingMatched: no wheel here has the version `to`.
    """
    from edgectl.machine.wheelhouse import every, read

    if wheelhouse is None:
        houses = every(workspace_wheelhouses)
    else:
        one = read(wheelhouse)
        houses = [one] if one else every(wheelhouse)
        if not houses:
            raise ConfigError(
                f"{wheelhouse} is no wheelhouse", hint=f"edgectl wheelhouse build --platform x86_64 --dir {wheelhouse}"
            )
    agents = [wheel] if wheel else [packages.agent_wheel(workspace_wheels), *(_agents(houses) if to else ())]
    found = [path for path in agents if not to or packages.version(path) == to]
    if not found:
        known = ", ".join(sorted({packages.version(path) for path in agents}))
        raise NothingMatched(f"no wheel of agent {to} is here, only {known}", hint="name it with --wheel")
    return Choice(agent=found[-1], wheelhouses=houses, explicit=wheelhouse is not None)


def platform(host: Host) -> tuple[str, str, str]:
    """Machine, Python's minor version and glibc of a machine, as ``x86_64``, ``3.11``, ``2.36``."""
    machine, python, glibc = (*host.run(_PLATFORM).text.splitlines(), "unknown", "0.0", "none 0.0")[:3]
    return machine, python, glibc.rpartition(" ")[2]


def _agents(houses: Sequence[Wheelhouse]) -> list[Path]:
    return [wheel for house in houses for wheel in house.wheels if wheel.name.startswith("edgectl_agent-")]


def _pair(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor.partition(".")[0] or 0)
