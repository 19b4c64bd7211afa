"""One operator at a time changes a machine: a lease on the machine itself, because operators sit at different ones.

A lease ends by itself after `LEASE_S`, so that a cut link or a lost laptop locks nobody out; every long step renews it.
It counts the machine's uptime, not its clock, and lies in ``/run``: a reboot ends it, too.

    with held(host, layout, "nodes bootstrap", now.isoformat()) as lease:
        ...
        lease.renew()
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from edgectl.core.errors import EdgeError, LockHeld, RemoteRefused
from edgectl.machine.interface import Host
from edgectl.machine.layout import AGENT, Layout
from edgectl.machine.shell import words
from edgectl.workspace import operator

LEASE_S = 900
"""Longer than the longest step (installing packages on a slow node)."""

_NEXT = f"""\
wait for it to end, or stop it; if it was cut off, run the same command where it ran, which takes the lease over, or \
wait {LEASE_S // 60} min from its last step, when the lease ends by itself"""

_GUARD = """\
umask 077
while :; do
    exec 9> "$1.guard" && flock 9 || exit 70
    [ "$(stat -L -c %i /proc/self/fd/9)" != "$(stat -c %i "$1.guard" 2> /dev/null)" ] || break
done
"""
"""FILE: one script at a time goes on. Who waited for a guard that was deleted meanwhile has locked nothing: again."""

_TAKE = (
    _GUARD
    + """\
now=$(cut -d. -f1 /proc/uptime)
if [ -s "$1" ]; then
    { read -r until && read -r token && read -r note; } < "$1"
    [ "$token" = "$2" ] || [ "$token" = "$5" ] || [ "$until" -lt "$now" ] || { echo "$token"; echo "$note"; exit 50; }
fi
printf '%s\\n%s\\n%s\\n' "$((now + $4))" "$2" "$3" > "$1.part" && mv -f "$1.part" "$1"
"""
)
"""FILE TOKEN NOTE SECONDS DEAD: a lease under the token DEAD is as good as ended."""

_DROP = (
    _GUARD
    + """\
[ "$(sed -n 2p "$1" 2> /dev/null)" = "$2" ] && rm -f "$1" "$1.part"
rm -f "$1.guard"
"""
)


def file(layout: Layout) -> str:
    """Where the lease lies: a folder that does not outlive a reboot."""
    own = hashlib.sha256(layout.home.encode()).hexdigest()[:12]
    return f"/run/{AGENT}.lease" if layout.root else f"/tmp/{AGENT}-{own}.lease"


def token() -> str:
    """This process: where it runs, and which one of that id it is."""
    import psutil

    return f"{operator()} (pid {os.getpid()}, since {psutil.Process().create_time():.2f})"


def ended(other: str) -> bool:
    """Whether the process of another `token` is known to have ended: it ran on this machine, and is not there."""
    import psutil

    found = re.fullmatch(r".*@(\S+) \(pid (\d+), since ([\d.]+)\)", other)
    if found is None or found[1] != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(found[2])).create_time():.2f}" != found[3]
    except psutil.NoSuchProcess:
        return True


@dataclass(frozen=True, slots=True)
class Lease:
    """Held by this process."""

    host: Host
    layout: Layout
    token: str
    note: str

    def renew(self) -> None:
        """Before a long step. Raises `LockHeld` if it ended and another operator has taken it."""
        _take(self.host, self.layout, self.token, self.note, dead="")


@contextmanager
def held(host: Host, layout: Layout, command: str, since: str, who: str = "") -> Iterator[Lease]:
    """Hold `host` while the block runs.

    Args:
        host: the machine.
        layout: where the agent's parts lie.
        command: what is done, for the others.
        since: when it began, ISO 8601.
        who: this process (default: `token`).

    Raises:
        LockHeld: another operator is at work; the message says who, since when and on what.
        RemoteRefused, NodeUnreachable: as `Host.run`.
    """
    who = who or token()
    note = json.dumps({"who": who.partition(",")[0] + ")", "command": command, "since": since})
    try:
        lease = _take(host, layout, who, note, dead="")
    except _Taken as e:
        if not ended(e.token):
            raise LockHeld(e.message, hint=e.hint) from None
        lease = _take(host, layout, who, note, dead=e.token)
    try:
        yield lease
    finally:
        with suppress(EdgeError):  # a cut link: it ends by itself, and a rerun from here takes it over
            host.run(_call(_DROP, file(layout), who), root=layout.root, timeout_s=20)


def clear(host: Host, layout: Layout) -> None:
    """Give a machine back that a process held which has ended: a cut link kept it from doing so. Raises as `Host.run`.

    A rerun that finds the work done takes no lease, and would leave others waiting for the end of the old one.
    """
    path = file(layout)
    left = host.run(f"sed -n 2p {words(path)} 2> /dev/null", root=layout.root).text
    if left and ended(left):
        host.run(_call(_DROP, path, left), root=layout.root)


class _Taken(LockHeld):
    def __init__(self, message: str, token: str) -> None:
        super().__init__(message, hint=_NEXT)
        self.token = token


def _take(host: Host, layout: Layout, token: str, note: str, dead: str) -> Lease:
    call = _call(_TAKE, file(layout), token, note, str(LEASE_S), dead or token)
    done = host.run(call, root=layout.root)
    if done.status == 50:
        holder, _, said = done.text.partition("\n")
        raise _Taken(f"node {host.name}: {_holder(said)}", holder)
    if done.status:
        raise RemoteRefused(f"node {host.name}: cannot be locked: {done.complaint}", status=500, reason="locked")
    return Lease(host, layout, token, note)


def _holder(note: str) -> str:
    try:
        said = json.loads(note)
        return f"{said['who']} has been at work on it since {said['since']} with `edgectl {said['command']}`"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another operator is at work on it"


def _call(script: str, *arguments: str) -> str:
    return f"set -- {words(*arguments)}\n{script}"
