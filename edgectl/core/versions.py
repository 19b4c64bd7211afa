"""Which agents this edgectl may command: the two may be two minor versions apart, either way. No I/O.

Messages of the control API tolerate fields that they do not know and fill in those that are not there, so that within
this distance each understands the other. A version that cannot be told, as of an agent built by hand, is not judged.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

APART = 2


def minor(version: str) -> tuple[int, int] | None:
    """(major, minor) of ``1.4.0`` or ``1.4.0rc1+local``; None if it is no version."""
    found = re.match(r"(\d+)\.(\d+)(?![\d])", version)
    return (int(found[1]), int(found[2])) if found else None


def fits(pattern: str, version: str) -> bool:
    """Whether `version` is what ``agent.version`` asks for; an empty pattern asks for nothing."""
    return not pattern or fnmatchcase(version, pattern)


def distance(agent: str, ours: str) -> str:
    """Why this edgectl may not command an agent of version `agent`, as a clause; empty if it may."""
    theirs, mine = minor(agent), minor(ours)
    if theirs is None or mine is None:
        return ""
    if theirs[0] == mine[0] and abs(theirs[1] - mine[1]) <= APART:
        return ""
    return f"agent {agent} is more than {APART} minor versions from edgectl {ours}"


def way_out(node: str, agent: str, ours: str) -> str:
    """What to do about that distance."""
    theirs, mine = minor(agent), minor(ours)
    if theirs is not None and mine is not None and theirs > mine:
        return "use an edgectl of the agent's version"
    return f"edgectl nodes upgrade --select name={node}"
