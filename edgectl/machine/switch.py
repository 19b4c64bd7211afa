"""Moves a machine to another environment, agent.yaml or unit, and back if the agent does not come up.

One script does it all on the machine, detached from the connection that started it: keep what is there → put the new
parts in place → restart → ``edgectl-agent probe`` → if the agent is not well, put back what was there and restart. A
link that is cut meanwhile changes nothing; whoever comes next reads the outcome from the script's folder:

    <home>/switch/<id>/   switch.sh  files  new/…  old/…  result  before.json  after.json

The same script, run again after a power cut, starts over from what it kept. With ``undo`` it brings back what was there
before, also after the agent was found well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgectl.core.errors import NodeUnreachable, RemoteRefused, StorageError
from edgectl.core.last_words import retold
from edgectl.machine import supervisor
from edgectl.machine.interface import Done, Host
from edgectl.machine.layout import AGENT, Layout
from edgectl.machine.shell import words

State = Literal["taken", "reverted", "stuck", "undone"]
"""``stuck``: the agent did not come up with what was there before, either."""
_STATES: dict[bytes, State] = {b"taken": "taken", b"reverted": "reverted", b"stuck": "stuck", b"undone": "undone"}

WITHIN_S = 60.0
"""How long an agent may take from its start until it is well."""
_LOOK_S = 10.0
_AGAIN = 2
"""How often a script that ended without an outcome is started again."""

SCRIPT = r"""# Moves this machine's agent to new parts, and back if it does not come up. $1: go, undo
set -u
cd "$here" || exit 70
exec 9> lock
flock -n 9 || exit 0                      # the same switch is under way
umask 027
HOME=$here/home                           # what programs leave in a home goes with it
export HOME

tell() {                                  # OUTCOME REASON
    { echo "$1"; printf '%s' "$2" | tr '\n' ' ' | cut -c 1-600; echo; } > result.part
    sync; mv -f result.part result
}

keep() {                                  # once: what is in place after a power cut may be half new
    [ -d old ] && return 0
    rm -rf old.part && mkdir old.part || return 1
    readlink "$current" > old.part/current || : > old.part/current
    while read -r name mode owner path; do
        [ ! -e "$path" ] || cp -p "$path" "old.part/$name" || return 1
    done < files
    if [ -s old.part/current ]; then probe 0 "" > before.json 2> /dev/null; fi
    sync; mv old.part old
}

place() {                                 # FOLDER: its files and its link; of `old` also what was not there
    while read -r name mode owner path; do
        if [ -e "$1/$name" ]; then
            cp "$1/$name" "$path.new" && chmod "$mode" "$path.new" || return 1
            [ "$(id -u)" != 0 ] || chown "$owner" "$path.new" || return 1
            mv -f "$path.new" "$path" || return 1
        else
            rm -f "$path"
        fi
    done < files
    if [ -s "$1/current" ]; then
        ln -sfn "$(cat "$1/current")" "$current.new" && mv -fT "$current.new" "$current" || return 1
    else
        rm -f "$current"
    fi
    sync
}

probe() {                                 # SECONDS VERSION: the report, or a sentence on stderr
    "$current/bin/$agent" probe --config "$yaml" --version "$2" --within "$1s"
}

comes_up() {                              # VERSION: empty for whatever runs
    began=$(date +%s)
    restart 9>&- && patience=$within || patience=3
    probe "$patience" "$1" > after.part 2> why
}

why() {
    tail -n 1 why | sed "s/^$agent: //"
    said=$(last_words "$began" | tail -n 3 | cut -c 1-160 | sed '$!s/$/ |/')
    [ -z "$said" ] || printf '; its log ends: %s' "$said"
}

back() {                                  # OUTCOME-IF-WELL REASON
    place old
    if [ ! -s old/current ]; then
        stop; tell "$1" "$2"
    elif comes_up ""; then
        tell "$1" "$2"
    else
        tell stuck "$2; and with what was there before: $(why)"
    fi
}

if [ "$1" = undo ]; then
    [ -d old ] || { tell undone "nothing was changed"; exit 0; }
    back undone ""
    exit 0
fi
[ ! -e result ] || exit 0
keep || { tell reverted "what is there cannot be kept: the disk is full or read-only"; exit 0; }
if ! place new; then
    back reverted "the new files cannot be put in place: the disk is full or read-only"
elif comes_up "$version"; then
    mv -f after.part after.json
    tell taken ""
else
    back reverted "$(why)"
fi
"""

SYSTEMD = r"""
restart() {
    systemctl daemon-reload
    [ ! -s "$current/bin/$agent" ] || systemctl -q enable "$agent"
    systemctl reset-failed "$agent" 2> /dev/null
    systemctl restart "$agent"
}
stop() { systemctl -q disable --now "$agent" 2> /dev/null; systemctl daemon-reload; }
last_words() { journalctl -q -o cat --no-pager -u "$agent" --since "@$1"; }
"""
"""Shell functions ``restart``, ``stop`` and ``last_words SINCE`` for a machine with systemd."""

_SUPERVISED = r"""
stop() {
    pid=$(cat "$pid_file" 2> /dev/null)
    [ -n "$pid" ] && grep -qaF supervise.sh "/proc/$pid/cmdline" 2> /dev/null || return 0
    kill -TERM "$pid"
    n=0
    while [ -e "/proc/$pid" ] && [ $n -lt 400 ]; do sleep 0.1; n=$((n + 1)); done
    kill -KILL "$pid" 2> /dev/null
    rm -f "$pid_file"
}
restart() { stop; setsid sh "$supervise" < /dev/null > /dev/null 2>&1 & }
last_words() { tail -n 10 "$supervise_log" 2> /dev/null; }
"""


def supervised(layout: Layout) -> str:
    """As `SYSTEMD`, for a machine where ``supervise.sh`` keeps the agent running."""
    given = {
        "pid_file": supervisor.pid_file(layout),
        "supervise": supervisor.script_file(layout),
        "supervise_log": supervisor.log_file(layout),
    }
    return "".join(f"{name}={words(value)}\n" for name, value in given.items()) + _SUPERVISED


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that the switch puts in place."""

    path: str
    content: bytes
    mode: int
    owner: str


@dataclass(frozen=True, kw_only=True)
class Change:
    """What shall be different afterwards. The same `id` is the same switch: it happens once."""

    id: str
    environment: str
    """Absolute path of the environment that shall run."""
    version: str
    """Of the agent that must answer."""
    files: tuple[File, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a switch ended. `before` and `after` are the agent's reports (JSON), empty where there was none."""

    state: State
    reason: str = ""
    before: bytes = b""
    after: bytes = b""


def files(contents: Mapping[str, bytes], layout: Layout) -> tuple[File, ...]:
    """Path → content with its rights: what is run as root is root's alone, configuration may be secret."""
    rights = {layout.unit: (0o644, "root:root"), supervisor.script_file(layout): (0o755, "root:root")}
    usual = (0o640, f"root:{layout.user}")
    found = ((path, content, *rights.get(path, usual)) for path, content in sorted(contents.items()))
    return tuple(File(path=path, content=content, mode=mode, owner=owner) for path, content, mode, owner in found)


def folder(layout: Layout, id_: str) -> str:
    """Where a switch keeps its parts."""
    return f"{layout.home}/switch/{id_}"


def script(layout: Layout, id_: str, version: str, service: str = SYSTEMD, within_s: float = WITHIN_S) -> str:
    """The text of ``switch.sh``; `service` defines ``restart``, ``stop`` and ``last_words SINCE``."""
    given = {
        "here": folder(layout, id_),
        "current": layout.current,
        "yaml": layout.agent_yaml,
        "agent": AGENT,
        "version": version,
        "within": f"{within_s:g}",
    }
    names = "".join(f"{name}={words(value)}\n" for name, value in given.items())
    return f"#!/bin/sh\n{names}{service}{SCRIPT}"


def begin(host: Host, layout: Layout, change: Change, service: str = SYSTEMD, within_s: float = WITHIN_S) -> None:
    """Put the switch's parts on the machine and start it, detached; one that was started before is left alone.

    Raises:
        NodeUnreachable: the link broke; run again, it starts or finds its outcome.
        RemoteRefused: root is not to be had.
        StorageError: the disk refuses.
    """
    here = folder(layout, change.id)
    lines = [f"{i} {file.mode:o} {file.owner} {file.path}\n" for i, file in enumerate(change.files)]
    parts = {f"new/{i}": file.content for i, file in enumerate(change.files)}
    parts |= {"new/current": f"{change.environment}\n".encode(), "files": "".join(lines).encode()}
    _checked(host, host.run(f"mkdir -p -m 750 {words(f'{layout.home}/switch', here, f'{here}/new')}", root=layout.root))
    for name, content in parts.items():
        host.write(f"{here}/{name}", content, mode=0o640, root=layout.root)
    host.write(
        f"{here}/switch.sh", script(layout, change.id, change.version, service, within_s).encode(), root=layout.root
    )
    _start(host, layout, change.id, "go")


def follow(
    host: Host,
    layout: Layout,
    id_: str,
    timeout_s: float = 3 * WITHIN_S + 600,
    clock_s: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Wait for the outcome of a switch that was begun; a script that the machine ended meanwhile is started again.

    Raises:
        NodeUnreachable: the link broke, or there is no outcome within `timeout_s`; the switch goes on by itself.
        RemoteRefused: its script ends without an outcome, again and again; the message says what the node runs.
    """
    end_s, again = clock_s() + timeout_s, _AGAIN
    while (found := outcome(host, layout, id_, _LOOK_S)) is None:
        if clock_s() >= end_s:
            raise NodeUnreachable(f"node {host.name}: no word of how its switch ended within {timeout_s:g} s")
        if not _under_way(host, layout, id_):
            if not again:
                raise _ended(host, layout, id_)
            again -= 1
            go_on(host, layout, id_)
    return found


def outcome(host: Host, layout: Layout, id_: str, wait_s: float = 0.0) -> Outcome | None:
    """How it ended; None if it is under way, or was never begun. Raises as `Host.run`."""
    here = words(folder(layout, id_))
    wait = f"n=0; while [ -d . ] && [ ! -e result ] && [ $n -lt {int(wait_s * 10)} ]; do sleep 0.1; n=$((n + 1)); done"
    report = "{ tr -d '\\n' < %s.json || :; } 2> /dev/null; echo"
    shown = f"cat result; {report % 'before'}; {report % 'after'}"
    done = host.run(f"cd {here} 2> /dev/null || exit 4; {wait}; [ -e result ] && {{ {shown}; }}", root=layout.root)
    lines = done.out.split(b"\n")
    if done.status == 4 or len(lines) < 4:
        return None
    told, reason, before, after = lines[:4]
    state = _STATES.get(told)
    if state is None:
        raise StorageError(f"node {host.name}: the outcome of its last switch cannot be read: {told[:40]!r}")
    return Outcome(state=state, reason=retold(reason.decode(errors="replace").strip()), before=before, after=after)


def undo(host: Host, layout: Layout, id_: str) -> None:
    """Bring back what was there before the switch; `follow` tells how that ended. Raises as `begin`."""
    here = folder(layout, id_)
    _checked(host, host.run(f"rm -f {words(f'{here}/result')}", root=layout.root))
    _start(host, layout, id_, "undo")


def begun(host: Host, layout: Layout, id_: str) -> bool:
    """Whether its parts are on the machine. Raises as `Host.run`."""
    return host.run(f"[ -e {words(folder(layout, id_))}/switch.sh ]", root=layout.root).status == 0


def go_on(host: Host, layout: Layout, id_: str) -> None:
    """Start it again if the machine lost power in its course; else nothing happens. Raises as `Host.run`."""
    _start(host, layout, id_, "go")


def drop(host: Host, layout: Layout, id_: str) -> None:
    """Forget a switch that has ended, so that it can be tried again. Raises as `Host.run`."""
    host.run(f"rm -rf {words(folder(layout, id_))}", root=layout.root)


def forget(host: Host, layout: Layout, keep: tuple[str, ...]) -> None:
    """Delete the folders of all switches but `keep`."""
    rest = " ".join(f"! -name {words(id_)}" for id_ in keep)
    host.run(
        f"find {words(f'{layout.home}/switch')} -mindepth 1 -maxdepth 1 {rest} -exec rm -rf {{}} +", root=layout.root
    )


def _ended(host: Host, layout: Layout, id_: str) -> RemoteRefused:
    """The error for a script that ends without an outcome however often it is started."""
    look = f"readlink {words(layout.current)}; {words(f'{layout.current}/bin/{AGENT}')} probe --config "
    done = host.run(f"{look}{words(layout.agent_yaml)} --within 0s 2>&1 > /dev/null", root=layout.root)
    leads, _, why = done.text.partition("\n")
    runs = f"{leads.rpartition('/')[2] or 'no agent'} is in place and {'runs' if done.status == 0 else 'is not well'}"
    return RemoteRefused(
        f"node {host.name}: its switch ended {_AGAIN + 1} times without an outcome; {runs}"
        + (f": {why.strip().splitlines()[-1].removeprefix(f'{AGENT}: ')}" if done.status and why.strip() else ""),
        status=500,
        hint=f"see what ends {folder(layout, id_)}/switch.sh there, then run the same command again",
        reason="switch",
    )


def _under_way(host: Host, layout: Layout, id_: str) -> bool:
    """Whether the script runs, or has just ended."""
    done = host.run(
        f"cd {words(folder(layout, id_))} || exit 4; [ -e result ] || ! flock -n lock true", root=layout.root
    )
    return done.status == 0


def _start(host: Host, layout: Layout, id_: str, verb: str) -> None:
    """Run the script in a session of its own, under systemd where there is one: it must outlive ours."""
    here, unit = folder(layout, id_), words(f"{AGENT}-switch-{id_}")
    run = f"sh {words(f'{here}/switch.sh', verb)}"
    managed = (
        f"! systemctl -q is-active {unit} 2> /dev/null || exit 0\n"
        f"[ ! -d /run/systemd/system ] || ! systemd-run -q --collect --unit {unit} {run} 2> /dev/null || exit 0\n"
    )
    detached = f"setsid {run} < /dev/null > {words(f'{here}/log')} 2>&1 &"
    _checked(host, host.run((managed if layout.root else "") + detached, root=layout.root))


def _checked(host: Host, done: Done) -> None:
    if done.status:
        if "No space" in done.complaint or "Read-only" in done.complaint:
            raise StorageError(f"node {host.name}: {done.complaint}")
        raise RemoteRefused(f"node {host.name}: {done.complaint}", status=500)
