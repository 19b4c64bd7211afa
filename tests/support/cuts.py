"""Pulls a machine's network cable at random moments of the real command, and looks at what that left behind.

one = cut(fleet.shell, lab["press-01"], ("nodes", "bootstrap", "press-01"), after_s=3.2)
torn(before, during, contents(repository, wheels))
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
from edgectl_agent.core.messages import Report

from edgectl.machine import switch
from tests.support.cli import Shell
from tests.support.lab import Node

IMPATIENT = "Host *\n  ConnectTimeout 3\n  ServerAliveInterval 2\n  ServerAliveCountMax 2\n"
"""For commands whose cable is pulled: they notice within 6 s."""
OPT = "/opt/edgectl-agent"
_FINAL = r"""
cd / && find opt/edgectl-agent etc/edgectl-agent etc/systemd/system/edgectl-agent.service \
    var/lib/edgectl-agent/spool -type f \
    ! -name '*.part' ! -name '*.tmp' ! -name '*.new' ! -name '*.pyc' ! -path '*.part/*' ! -path '*/switch/*/home/*' \
    -exec sha256sum {} + 2> /dev/null
"""
_ENVIRONMENTS = r"""
import base64, csv, hashlib, json, pathlib
wrong = []
for env in pathlib.Path("/opt/edgectl-agent/venvs").glob("*-*"):
    if env.suffix == ".part":
        continue
    records = list(env.glob("lib/python3*/site-packages/*.dist-info/RECORD"))
    wrong += [] if records else [f"{env}: empty"]
    for record in records:
        for name, told, _ in csv.reader(record.read_text().splitlines()):
            path = (record.parent.parent / name).resolve()
            if not told:
                continue
            raw = path.read_bytes() if path.exists() else b""
            if path.parent == env / "bin":      # pip named the interpreter by the path that it had then
                raw = raw.replace(f"#!{env}/".encode(), f"#!{env}.part/".encode(), 1)
            found = hashlib.sha256(raw).digest()
            if told != "sha256=" + base64.urlsafe_b64encode(found).rstrip(b"=").decode():
                wrong.append(str(path))
    for script in (env / "bin").iterdir():
        raw = b"" if script.is_symlink() else script.read_bytes()
        if b".part/" in raw.splitlines()[0] if raw else False:
            wrong.append(str(script))
print(json.dumps(wrong))
"""
"""Names what in an environment of a final name is not as its packages' own lists say."""
_DOING = {
    "start": "begins", "resume": "begins", "assign": "signs", "assigned": "has signed", "offer": "uploads",
    "stage": "orders it", "activate": "waits for the proof", "confirm": "ends", "finish": "ends",
}  # fmt: skip
"""The last event of a rollout's journal → what comes after it."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One command whose cable was pulled `after_s` seconds after it had first connected to the machine."""

    command: str
    after_s: float
    at_ns: int
    in_time: bool
    """It was at work when the cable was out."""
    doing: str
    """What it was at, as the machine shows it; empty if nothing shows."""
    before: str
    """What it had said by then."""
    exit: int
    said: str
    """Its last line on stderr."""
    out: str
    ended_s: float
    """When it had ended, if it was not cut in time."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    cut: Cut
    lasts_s: float
    """How long the command lasted from then on when nobody disturbed it."""
    doing: str
    claimed: str
    """What edgectl said of the node."""
    ran: str
    """What the node ran at that time."""
    completed_by: str


def cut(shell: Shell, node: Node, args: tuple[str, ...], after_s: float) -> Cut:
    """Run it, pull the cable `after_s` after its first connection, wait for its end. The cable stays out."""
    lines = list[str]()
    with shell.start(*args) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        reading = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
        reading.start()
        began = connected(process, node)
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, began + after_s - time.monotonic()))
        at_ns, ended_s = time.time_ns(), time.monotonic() - began
        node.link(up=False)
        in_time, before = process.poll() is None, "".join(lines)
        doing = _doing(node)
        process.wait(300)
        out = process.stdout.read()
        reading.join(60)
    err = "".join(lines)
    shown = f"edgectl {' '.join(args)} cut after {after_s:.2f} s → {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err, shown
    assert process.returncode in (0, 31, 32), shown
    assert sum(line.startswith("edgectl: ") for line in err.splitlines()) <= 1, shown
    return Cut(
        command=" ".join(args[:2]) if args[0] == "nodes" else args[0],
        after_s=after_s,
        at_ns=at_ns,
        in_time=in_time,
        doing=doing,
        before=before,
        exit=process.returncode,
        said=(err.strip().splitlines() or [""])[-1],
        out=out,
        ended_s=ended_s,
    )


def connected(process: subprocess.Popen[str], node: Node) -> float:
    """When a command first connects to `node`, or ends without it, by the monotonic clock."""
    with suppress(psutil.NoSuchProcess):
        program = psutil.Process(process.pid)
        while process.poll() is None:
            if any(one.raddr and one.raddr.ip == node.address for one in program.net_connections("tcp")):
                break
            time.sleep(0.005)
    return time.monotonic()


def lasts(shell: Shell, node: Node, args: tuple[str, ...]) -> float:
    """Seconds from a command's first connection to its end; it must succeed."""
    with shell.start(*args) as process:
        began = connected(process, node)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, f"edgectl {' '.join(args)} → {process.returncode}\n{out}\n{err}"
    return time.monotonic() - began


def _doing(node: Node) -> str:
    look = f"""
cd {OPT} 2> /dev/null || exit 0
for f in switch/*/switch.sh; do [ ! -e "$f" ] || [ -e "${{f%/*}}/result" ] || {{ echo switches; exit; }}; done
for f in venvs/*.part; do [ ! -e "$f" ] || {{ echo installs; exit; }}; done
for f in wheels/.*.part wheels/.*.tmp /home/*/.edgectl-* /home/*/..edgectl-*; do
    [ ! -e "$f" ] || {{ echo uploads; exit; }}
done
"""
    return node.console(look).stdout.strip()


def doing(one: Cut, node: Node, events: Iterable[str] = ()) -> str:
    """What the command was at: as the machine shows it, its rollout's journal, or its own last word."""
    last = _DOING.get(([*events] or [""])[-1], "")
    lines = [line.removeprefix(f"{node.name}: ") for line in one.before.splitlines() if line.startswith(node.name)]
    step = re.split(r" from |.*, (?=start and probe)", lines[-1])[-1 if "start" in lines[-1] else 0] if lines else ""
    return one.doing or last or step or "prepares"


def moments(seed: int, command: str, count: int) -> Iterator[float]:
    """Random shares of a command's duration, one in each of `count` equal parts of it, in random order."""
    chance = random.Random(f"{seed} {command}")
    parts = list(range(count))
    chance.shuffle(parts)
    for part in parts:
        yield (part + chance.random()) / count


def report(node: Node) -> Report | None:
    """What the agent says of itself at the machine's own console; None if there is none."""
    agent, config = f"{OPT}/current/bin/edgectl-agent", "/etc/edgectl-agent/agent.yaml"
    done = node.console(f"{agent} probe --config {config} --within 20s")
    return msgspec.json.decode(done.stdout, type=Report) if done.returncode == 0 else None


def final_files(node: Node) -> dict[str, str]:
    """Path → SHA-256 of every file that has its final name."""
    lines = node.console(_FINAL).stdout.splitlines()
    return {line[66:]: line[:64] for line in lines}


def installed(files: Mapping[str, str]) -> dict[str, str]:
    """Those of `final_files` that the same command always leaves the same: not what a switch notes down."""
    return {path: sha256 for path, sha256 in files.items() if "/switch/" not in path}


def contents(*folders: Path) -> set[str]:
    """The SHA-256 of every file that uploads come from."""
    return {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in (folder, *folder.resolve().rglob("*"))
        if path.is_file()
    }


def torn(
    before: Mapping[str, str],
    now: Mapping[str, str],
    sources: Collection[str],
    whole: Callable[[str, str], bool] = lambda path, sha256: False,
) -> list[str]:
    """Files that have neither the content that they had, nor all of one that was on its way.

    Args:
        before: `final_files` before the command.
        now: when the cable was out.
        sources: `contents` of what uploads come from.
        whole: of a path and a SHA-256 that are in neither.
    """
    changed = {path: sha256 for path, sha256 in now.items() if before.get(path) != sha256 and sha256 not in sources}
    return [path for path, sha256 in changed.items() if not whole(path, sha256)]


def broken_environments(node: Node) -> list[str]:
    """Files in environments under a final name that are not what the lists of their packages say."""
    found: list[str] = json.loads(node.run(f"python3 - <<'END'\n{_ENVIRONMENTS}END"))
    return found


def broken_switches(node: Node) -> list[str]:
    """Parts of a switch that are cut short, or lead nowhere."""
    there = {path: (node.root / path[1:]).read_text() for path in node.console(f"ls {OPT}/switch/*/*").stdout.split()
             if path.endswith(("/switch.sh", "/files"))}  # fmt: skip
    wrong = [path for path, text in there.items() if path.endswith(".sh") and not text.endswith(switch.SCRIPT)]
    wrong += [path for path, text in there.items() if path.endswith("/files") and text and not _lines(text)]
    started = [path.removesuffix("/switch.sh") for path in there if path.endswith(".sh")]
    leads = '[ -x "$(cat {0}/new/current)/bin/edgectl-agent" ] && sh -n {0}/switch.sh'
    return wrong + [path for path in started if node.console(leads.format(path)).returncode]


def settle(node: Node) -> None:
    """Wait for switches that go on by themselves."""
    node.run(f"for f in {OPT}/switch/*/lock; do [ ! -e $f ] || flock $f true; done")


def _lines(text: str) -> bool:
    return text.endswith("\n") and all(len(line.split(" ", 3)) == 4 for line in text.splitlines())


def own(path: str) -> bool:
    """Of a switch, whose parts `broken_switches` looks at, or an environment, which `broken_environments` does."""
    return "/switch/" in path or "/venvs/" in path


def markdown(rows: list[Row]) -> str:
    """The table of docs/soak.md."""
    lines = [
        "| command | cut after | while it | exit | it said | edgectl's claim | the node ran | completed by |",
        "| --- | ---: | --- | ---: | --- | --- | --- | --- |",
    ]
    for row in rows:
        one = row.cut
        said = re.sub(r"\s+", " ", one.said).replace("|", "·").removeprefix("edgectl: ")
        said = said if len(said) <= 90 else f"{said[:90]}…"
        lines.append(
            f"| {one.command} | {one.after_s:.2f} of {row.lasts_s:.1f} s | {row.doing} | {one.exit} | {said} "
            f"| {row.claimed} | {row.ran} | {row.completed_by} |"
        )
    return "\n".join(lines)
