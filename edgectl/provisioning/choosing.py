"""Chooses what is installed on a machine: which agent, and its dependencies from which wheels or from an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from edgectl_agent.config import EXTRAS

from edgectl.core.errors import ConfigError, NothingMatched, RemoteRefused
from edgectl.core.machines import MachineFacts
from edgectl.inventory.types import Node
from edgectl.machine import packages, requirements
from edgectl.machine.environment import Environment
from edgectl.machine.wheelhouse import Wheelhouse


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

    def __call__(self, node: Node, facts: MachineFacts) -> Environment:
        """What `node` gets.

        Raises:
            ConfigError: fleet.yaml wants another version of the agent.
            RemoteRefused: fleet.yaml or the operator wants a wheelhouse, and none fits the machine.
        """
        version = self.version
        wanted = node.agent.version
        if wanted and not fnmatchcase(version, wanted):
            raise ConfigError(
                f"node {node.name}: fleet.yaml wants agent {wanted}, and this is {version}", hint="name it with --wheel"
            )
        python = facts.python.version[:2] if facts.python else (0, 0)
        extras = extras_of(node)
        fits = [
            house
            for house in self.wheelhouses
            if house.manifest.fits(facts.machine, python, facts.glibc) and not (extras and self._lacks(house, extras))
        ]
        uploads = node.agent.packages != "index"
        if fits and uploads:
            wheels = tuple(w for w in fits[-1].wheels if not w.name.startswith("edgectl_agent-"))
            return Environment(version=version, agent=self.agent, wheels=wheels)
        if uploads and (self.explicit or node.agent.packages == "wheelhouse"):
            own = f"{facts.machine}, Python {_dotted(python)}, glibc {_dotted(facts.glibc)}"
            raise RemoteRefused(
                f"node {node.name}: no wheelhouse fits it ({own})",
                status=424,
                hint=f"edgectl wheelhouse build --platform {facts.machine} --python {_dotted(python)}"
                + "".join(f" --extra {extra}" for extra in extras),
                reason="packages",
            )
        return Environment(version=version, agent=self.agent, constraints=packages.constraints(), extras=extras)

    def _lacks(self, house: Wheelhouse, extras: tuple[str, ...]) -> bool:
        """Whether `house` was built without what these need."""
        made = house.manifest
        return bool(requirements.missing(house.wheels, self.agent, made.platform, made.python, extras))


def extras_of(node: Node) -> tuple[str, ...]:
    """The agent's extras that the node's sources and actions need."""
    kinds = {str(said.__struct_config__.tag) for said in (*node.sources.values(), *node.actions)}
    return tuple(sorted(EXTRAS[kind] for kind in kinds if kind in EXTRAS))


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


def _agents(houses: Sequence[Wheelhouse]) -> list[Path]:
    return [wheel for house in houses for wheel in house.wheels if wheel.name.startswith("edgectl_agent-")]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
