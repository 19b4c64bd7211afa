"""Pulls a machine's network cable at random moments of the real command, and looks at what that left behind.

trial = cut(fleet.shell, lab["press-01"], ("nodes", "bootstrap", "press-01"), after_s=3.2)
torn(lab["press-01"], before, during, after, sources)
"""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from edgectl_agent.core.messages import Report

from edgectl.machine import switch
from tests.support.cli import Shell
from tests.support.lab import Node

IMPATIENT = "Host *\n  ConnectTimeout 3\n  ServerAliveInterval 2\n  ServerAliveCountMax 2\n"
"""For commands whose cable is pulled: they notice within 6 s."""
_FINAL = r"""
cd / && find opt/edgectl-agent etc/edgectl-agent var/lib/edgectl-agent/spool -type f \
    ! -name '*.part' ! -name '*.tmp' ! -name '*.new' ! -name '*.pyc' ! -path '*.part/*' ! -path '*/switch/*/home/*' \
    -exec sha256sum {} + 2> /dev/null
"""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One command whose cable was pulled `after_s` seconds from its start, unless it had ended by then."""

    command: str
    after_s: float
    in_time: bool
    """It was still at work."""
    exit: int
    said: str
    """Its last line on stderr."""
    out: str
    took_s: float


def cut(shell: Shell, node: Node, args: tuple[str, ...], after_s: float) -> Cut:
    """Run it, pull the cable, wait for its end. The cable stays out."""
    began = time.monotonic()
    with shell.start(*args) as process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, began + after_s - time.monotonic()))
        in_time = process.poll() is None
        node.link(up=False)
        out, err = process.communicate(timeout=300)
    shown = f"edgectl {' '.join(args)} cut after {after_s:.2f} s → {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err, shown
    assert process.returncode in (0, 31, 32), shown
    assert sum(line.startswith("edgectl: ") for line in err.splitlines()) <= 1, shown
    last = (err.strip().splitlines() or [""])[-1]
    return Cut(
        command=" ".join(args[:2]) if args[0] == "nodes" else args[0],
        after_s=after_s,
        in_time=in_time,
        exit=process.returncode,
        said=last,
        out=out,
        took_s=time.monotonic() - began,
    )


def moments(seed: int, command: str, lasts_s: float, count: int, from_s: float) -> Iterator[float]:
    """Random moments of a command that lasts so long, one in each of `count` equal parts of it, in random order."""
    chance = random.Random(f"{seed} {command}")
    part = (lasts_s - from_s) / count
    starts = [from_s + i * part for i in range(count)]
    chance.shuffle(starts)
    for start in starts:
        yield start + chance.random() * part


def report(node: Node) -> Report | None:
    """What the agent says of itself at the machine's own console; None if there is none."""
    agent, config = "/opt/edgectl-agent/current/bin/edgectl-agent", "/etc/edgectl-agent/agent.yaml"
    done = node.console(f"{agent} probe --config {config} --within 20s")
    return msgspec.json.decode(done.stdout, type=Report) if done.returncode == 0 else None


def final_files(node: Node) -> dict[str, str]:
    """Path → SHA-256 of every file that has its final name."""
    lines = node.console(_FINAL).stdout.splitlines()
    return {line[66:]: line[:64] for line in lines}


def torn(
    node: Node, before: Mapping[str, str], cut: Mapping[str, str], after: Mapping[str, str], sources: Path
) -> list[str]:
    """Files that were not whole under their final name when the cable was out.

    A whole one has the content of a source, or had it before the command already, or keeps it in the rerun, which
    writes anew what is not as it shall be.

    Args:
        node: for messages.
        before: `final_files` before the command.
        cut: when the cable was out.
        after: after the rerun.
        sources: the folders that uploads come from: repository, wheelhouse.
    """
    there = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in sources.iterdir()
        for path in folder.resolve().rglob("*")
        if path.is_file()
    }
    changed = {path: sha256 for path, sha256 in cut.items() if before.get(path) != sha256 and sha256 not in there}
    return [
        f"{node.name}: {path}" for path, sha256 in changed.items() if after.get(path, "") != sha256 and not _own(path)
    ]


def broken_scripts(node: Node) -> list[str]:
    """Switch scripts that lack their end."""
    found = node.console("ls /opt/edgectl-agent/switch/*/switch.sh 2> /dev/null").stdout.split()
    return [path for path in found if not (node.root / path[1:]).read_text().endswith(switch.SCRIPT)]


def _own(path: str) -> bool:
    """Of a switch: what its script writes, and what `broken_scripts` looks at."""
    return "/switch/" in path


def markdown(cuts: list[Cut]) -> str:
    """The table of docs/soak.md."""
    lines = ["| command | cut after | was at work | exit | it said |", "| --- | ---: | --- | ---: | --- |"]
    for one in cuts:
        work = "yes" if one.in_time else "no"
        said = re.sub(r"\s+", " ", one.said).replace("|", "·")
        lines.append(f"| {one.command} | {one.after_s:.2f} s | {work} | {one.exit} | {said} |")
    return "\n".join(lines)
