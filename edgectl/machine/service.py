"""The agent as a service of its machine: under systemd, or as a supervised process where there is none.

service = of(host, layout)
service.start()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from edgectl.core.errors import NodeUnreachable, RemoteRefused
from edgectl.machine import supervisor
from edgectl.machine.interface import Done, Host
from edgectl.machine.layout import AGENT, Layout
from edgectl.machine.shell import words

POLITE_S = 15.0
START_S = 90.0


class Service(ABC):
    """All methods raise as `Host.run`."""

    @abstractmethod
    def start(self, timeout_s: float = START_S) -> None:
        """See that it runs; one that runs is left alone. It may end again at once: see `running`.

        Raises:
            RemoteRefused: the machine has no such service.
            NodeUnreachable: it failed to start.
        """

    @abstractmethod
    def stop(self, timeout_s: float = POLITE_S) -> None:
        """End it if it runs: politely, and by force at `timeout_s`."""

    @abstractmethod
    def running(self) -> bool:
        """Whether its process is there."""

    @abstractmethod
    def last_words(self, lines: int) -> list[str]:
        """The end of what it has logged or printed, the newest line last; empty if there is nothing to read."""

    def restart(self, timeout_s: float = START_S) -> None:
        """End it and start it again."""
        self.stop()
        self.start(timeout_s)


class Systemd(Service):
    """A unit of the system's systemd."""

    def __init__(self, host: Host, unit: str = AGENT) -> None:
        self._host, self._unit = host, unit

    def start(self, timeout_s: float = START_S) -> None:
        # a unit that has failed too often is refused until its count is reset
        done = self._ctl("systemctl reset-failed {0} 2> /dev/null; systemctl start {0}", timeout_s)
        if done.status and "not found" in done.complaint:
            raise RemoteRefused(
                f"node {self._host.name}: the agent is not installed: {done.complaint}",
                status=404,
                hint=f"edgectl nodes bootstrap {self._host.name}",
                reason="not-installed",
            )
        if done.status and not self.running():
            raise NodeUnreachable(f"node {self._host.name}: the agent did not start: {done.complaint}")

    def stop(self, timeout_s: float = POLITE_S) -> None:
        script = f"timeout {timeout_s:g} systemctl stop {{0}} || systemctl kill -s KILL {{0}}; systemctl stop {{0}}"
        done = self._ctl(script, timeout_s)
        if done.status and "not loaded" not in done.complaint and "not found" not in done.complaint:
            raise NodeUnreachable(f"node {self._host.name}: the agent does not stop: {done.complaint}")

    def restart(self, timeout_s: float = START_S) -> None:
        self._ctl("systemctl reset-failed {0} 2> /dev/null; systemctl restart {0}", timeout_s)

    def running(self) -> bool:
        done = self._host.run(f"systemctl is-active {words(self._unit)}")
        return done.text in ("active", "activating", "reloading", "deactivating")

    def last_words(self, lines: int) -> list[str]:
        command = f"journalctl -u {words(self._unit)} -n {lines} -o cat -q --no-pager"
        found = self._host.run(command).text.splitlines()
        if found:
            return found
        try:  # the journal is open to root and to groups that the user may not be in
            return self._host.run(command, root=True).text.splitlines()
        except RemoteRefused:
            return []

    def _ctl(self, script: str, timeout_s: float) -> Done:
        return self._host.run(script.format(words(self._unit)), root=True, timeout_s=timeout_s + 30)


_FIND = """\
proven() {
    owner=$(sed -n 's/^Uid:[[:space:]]*\\([0-9]*\\).*/\\1/p' "/proc/$1/status" 2> /dev/null)
    [ -n "$owner" ] && [ "$owner" = "$(id -u $user)" ] || return 1
    tr '\\0' '\\n' < "/proc/$1/cmdline" 2> /dev/null | grep -qxF -e "$yaml" -e "$script"
}
pids() {
    cat "$data/service.pid" "$data/agent.lock" 2> /dev/null
    sed -n 's/.*"pid": *\\([0-9][0-9]*\\).*/\\1/p' "$data/api.json" 2> /dev/null
}
found() { for p in $(pids | sort -u); do proven "$p" && echo "$p"; done; }
"""
"""A process is ours only if its command line names this very agent.yaml or script, so that a recycled pid is never
killed, and if it is the agent's user's: who writes these pids must not make root kill somebody's editor."""

_START = """\
[ -z "$(found)" ] || exit 0
[ -e "$yaml" ] || { echo "it has no $yaml" >&2; exit 4; }
[ "$1" != sh ] || [ -e "$2" ] || { echo "it has no $2" >&2; exit 4; }
rm -f "$data/api.json"
if [ "$1" = sh ]; then
    setsid "$@" < /dev/null > /dev/null 2>&1 &
else
    mkdir -p "$data"
    setsid sh -c 'echo $$ > "$0"; exec "$@"' "$data/service.pid" "$@" < /dev/null >> "$data/service.out" 2>&1 &
fi
"""
"""COMMAND… The script keeps its process id and output itself, as the agent's user."""

_STOP = """\
ours=$(found)
[ -n "$ours" ] || exit 0
kill $ours 2> /dev/null
n=0
while [ -n "$(found)" ] && [ $n -lt "$1" ]; do sleep 0.1; n=$((n + 1)); done
for p in $(found); do kill -KILL "-$p" 2> /dev/null; kill -KILL "$p" 2> /dev/null; done
n=0
while [ -n "$(found)" ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
rm -f "$data/service.pid"
[ -z "$(found)" ]
"""
"""TENTHS. The process leads a group of its own, so its children end with it where force is needed."""


class Supervised(Service):
    """A process of its own session, found by the pids that it and the agent wrote down and proven by its command line.

    By default that is `edgectl.machine.supervisor`'s script, which starts an agent again that ends.
    """

    def __init__(self, host: Host, layout: Layout, command: Sequence[str] = ()) -> None:
        self._host, self._layout = host, layout
        self._command = tuple(command) or ("sh", supervisor.script_file(layout))

    def start(self, timeout_s: float = START_S) -> None:
        done = self._run(_START, *self._command, timeout_s=timeout_s)
        if done.status:
            name = self._host.name
            raise NodeUnreachable(f"node {name}: {done.complaint}", hint=f"edgectl nodes bootstrap {name}")

    def stop(self, timeout_s: float = POLITE_S) -> None:
        done = self._run(_STOP, str(max(1, round(timeout_s * 10))), timeout_s=timeout_s)
        if done.status:
            raise NodeUnreachable(f"node {self._host.name}: the agent does not stop: {done.complaint}")

    def running(self) -> bool:
        return bool(self._run("found").text)

    def last_words(self, lines: int) -> list[str]:
        newest = 'for f in $(ls -t service.out agent.log 2> /dev/null); do [ -s "$f" ] && break; f=; done'
        done = self._run(f'cd "$data" && {newest}; [ -z "$f" ] || tail -n "$1" "$f"', str(lines))
        return done.text.splitlines()

    def _run(self, script: str, *arguments: str, timeout_s: float = 60.0) -> Done:
        layout = self._layout
        given = {"yaml": layout.agent_yaml, "data": layout.data, "script": supervisor.script_file(layout)}
        given["user"] = layout.user if layout.root else ""  # empty: who runs this
        names = "".join(f"{name}={words(value)}\n" for name, value in given.items())
        script = f"{names}set -- {words(*arguments)}\n{_FIND}{script}"
        return self._host.run(script, root=layout.root, timeout_s=timeout_s + 30)


def of(host: Host, layout: Layout) -> Service:
    """The service that this machine has: its systemd's if it runs one and the agent's unit is there."""
    has = f"[ -d /run/systemd/system ] && [ -e {words(layout.unit)} ]"
    if layout.root and host.run(has).status == 0:
        return Systemd(host)
    return Supervised(host, layout)
