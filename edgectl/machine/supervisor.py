"""Runs the agent on machines without systemd: the text of ``supervise.sh``, a POSIX sh script.

It starts the agent again whenever it ends, after 1 s, then 2 s, 4 s … 60 s, and 1 s again once it ran for a minute.
TERM and INT end the agent in order (KILL after `STOP_S`) and then the script, whose process id is in `pid_file` while
it runs. A second one for the same folder ends with status 50. What the agent prints goes to `log_file`, of which about
2 MB stay.

`edgectl.machine.service.Supervised` starts and stops it. By hand, or at boot (``@reboot`` in root's crontab):
``setsid sh supervise.sh </dev/null >/dev/null 2>&1 &``; begun by root it becomes the agent's user.
"""

from __future__ import annotations

import shlex

from edgectl.machine.layout import AGENT, Layout

STOP_S = 30
LOG_BYTES = 1_000_000


def script(layout: Layout) -> str:
    """The text for a machine with this layout."""
    names = {
        "agent": f"{layout.current}/bin/{AGENT}",
        "config": layout.agent_yaml,
        "data": layout.data,
        "pid_file": pid_file(layout),
        "log": log_file(layout),
        "user": layout.user if layout.root else "",
        "limit": str(LOG_BYTES),
        "patience": str(STOP_S),
    }
    settings = "\n".join(f"{name}={shlex.quote(value)}" for name, value in names.items())
    return f"{_HEAD}\n{settings}\n{_BODY}"


def script_file(layout: Layout) -> str:
    """Where the script lies on the node."""
    return f"{layout.home}/supervise.sh"


def pid_file(layout: Layout) -> str:
    """Holds the script's process id while it runs."""
    return f"{layout.data}/service.pid"


def log_file(layout: Layout) -> str:
    """What the agent printed, and each of its ends."""
    return f"{layout.data}/service.out"


_HEAD = """#!/bin/sh
# written by edgectl: keeps the agent running where there is no systemd
set -u
umask 027"""

_BODY = r"""
if [ -n "$user" ] && [ "$(id -u)" = 0 ] && [ "$(id -un)" != "$user" ]; then
    if command -v setpriv >/dev/null; then
        exec setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups sh "$0"
    fi
    exec su -s /bin/sh "$user" -c "exec sh '$0'"
fi

# Whether process $1 runs and has $2 on its command line: a recycled id is nobody we know.
is() {
    [ -n "$1" ] && kill -0 "$1" 2>/dev/null && tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF -- "$2"
}

end() {
    kill -TERM "$1" 2>/dev/null
    waited=0
    while kill -0 "$1" 2>/dev/null && [ "$waited" -lt "$patience" ]; do
        sleep 1
        waited=$((waited + 1))
    done
    kill -KILL "$1" 2>/dev/null
}

say() {
    echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) supervise: $*" >>"$log"
}

bound() {
    if [ -f "$log" ] && [ "$(wc -c <"$log")" -gt "$limit" ]; then
        cp "$log" "$log.1" 2>/dev/null
        : >"$log" # the agent appends to it, and goes on at its beginning
    fi
}

other=$(cat "$pid_file" 2>/dev/null)
is "$other" supervise.sh && [ "$other" != "$$" ] || rm -f "$pid_file" # whoever starts it may have written it already
if ! (set -C && echo "$$" >"$pid_file") 2>/dev/null; then # -C: of two that start at once one makes the file
    other=$(cat "$pid_file" 2>/dev/null)
    if is "$other" supervise.sh; then
        echo "supervise.sh: process $other supervises $data already" >&2
        exit 50
    fi
    echo "supervise.sh: cannot write $pid_file" >&2
    exit 75
fi

child='' nap='' stopping='' delay=1
trap '' HUP
trap 'stopping=1; kill -TERM ${child:-$nap} 2>/dev/null' TERM INT

# An agent whose supervisor was killed: it holds the folder, and nobody would restart it.
orphan=$(cat "$data/agent.lock" 2>/dev/null)
if is "$orphan" "$config"; then
    say "ends agent $orphan, which nobody supervises"
    end "$orphan"
fi

(
    trap - TERM INT
    nap=''
    trap 'kill "$nap" 2>/dev/null; exit 0' TERM
    while is "$$" supervise.sh; do
        bound
        sleep 60 &
        nap=$!
        wait "$nap"
    done
) >/dev/null 2>&1 &
bounding=$!

while [ -z "$stopping" ]; do
    began=$(date +%s)
    "$agent" run --config "$config" >>"$log" 2>&1 </dev/null &
    child=$!
    [ -n "$stopping" ] && kill -TERM "$child" 2>/dev/null # it came before there was a child
    wait "$child"
    status=$?
    if [ -n "$stopping" ]; then
        end "$child"
        wait "$child" 2>/dev/null
        break
    fi
    child=''
    ran=$(($(date +%s) - began))
    [ "$ran" -ge 60 ] && delay=1
    say "the agent ended with status $status after $ran s, starts again in $delay s"
    bound
    sleep "$delay" &
    nap=$!
    if [ -n "$stopping" ]; then kill "$nap"; else wait "$nap"; fi
    nap=''
    delay=$((delay * 2))
    [ "$delay" -gt 60 ] && delay=60
done

kill "$bounding" 2>/dev/null
rm -f "$pid_file"
exit 0
"""
