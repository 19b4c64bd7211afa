"""Takes the agent off a machine and leaves nothing behind: unit, user, group, folders, links and temporary files.

What was there before the first bootstrap, and what others have changed since, stays. The journal keeps what the agent
logged; logs are the machine's.
"""

from __future__ import annotations

from edgectl.machine import accounts, lease, switch
from edgectl.machine.interface import Host
from edgectl.machine.layout import AGENT, Layout
from edgectl.machine.setup import failed
from edgectl.machine.shell import words

_REMOVE = r"""
keep=${1-}
if [ -n "$root" ] && [ -d /run/systemd/system ]; then
    systemctl -q disable --now "$agent" 2> /dev/null
    systemctl stop "$agent-switch-*" 2> /dev/null
    systemctl reset-failed "$agent" 2> /dev/null
fi
%(stop)s
[ -z "$root" ] || for d in /proc/[0-9]*; do
    [ "$(stat -c %U "$d" 2> /dev/null)" != "$user" ] || kill -KILL "${d#/proc/}" 2> /dev/null
done
rm -f "$unit" "$unit.new"
[ -z "$root" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload
kept=
if [ -n "$keep" ] && [ -d "$data/outbox" ]; then
    kept=1
    find "$data" -mindepth 1 -maxdepth 1 ! -name outbox -exec rm -rf {} +
else
    rm -rf "$data"
fi
if [ -n "$kept" ]; then
    [ ! -d "$config" ] || find "$config" -mindepth 1 -maxdepth 1 ! -path "$data" ! -path "$home" -exec rm -rf {} +
    rmdir "$config" 2> /dev/null
else
    rm -rf "$config"
fi
%(accounts)s
[ -z "$kept" ] || [ -z "$root" ] || chown -R root:root "$data"
rm -rf "$home" "$lease" "$lease.part" "$lease.guard"
left=
for f in "$unit" "$home"; do [ ! -e "$f" ] || left="$left $f"; done
[ -n "$kept" ] || [ ! -e "$data" ] || left="$left $data"
[ -z "$left" ] || { echo "these stay:$left" >&2; exit 1; }
"""


def script(layout: Layout, login: str) -> str:
    """Shell text that removes everything; its first argument, if it is not empty, keeps ``<data>/outbox``, as root's.

    Args:
        layout: where the agent's parts lie.
        login: the user that operators log in as.
    """
    given = {"agent": AGENT, "config": layout.config, "home": layout.home, "root": "1" if layout.root else ""}
    given["lease"] = lease.file(layout)
    names = accounts.names(layout, login) + "".join(f"{name}={words(value)}\n" for name, value in given.items())
    stop = f"{switch.supervised(layout)}stop"
    return names + _REMOVE.replace("%(stop)s", stop).replace("%(accounts)s", accounts.UNMAKE if layout.root else "")


def remove(host: Host, layout: Layout, login: str, keep_data: bool) -> None:
    """Remove everything; with `keep_data` the outbox stays, as root's. A rerun completes what was cut.

    Args:
        host: the machine.
        layout: where the agent's parts lie.
        login: the user that operators log in as.
        keep_data: leave ``<data>/outbox``.

    Raises:
        NodeUnreachable: no connection, or it broke.
        RemoteRefused: root is not to be had, or something could not be deleted.
        StorageError: the disk is read-only.
    """
    text = f"set -- {words('1' if keep_data else '')}\n{script(layout, login)}"
    done = host.run(text, root=layout.root, timeout_s=lease.LEASE_S)
    if done.status:
        raise failed(host, "not everything could be removed", done)
