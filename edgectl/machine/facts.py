"""One look at a machine, by one POSIX sh script that writes nothing there.

``gather(host, layout)`` → `MachineFacts`. As root where root is to be had, since some of it is closed to others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal

from edgectl.core.errors import RemoteRefused
from edgectl.core.machines import Disk, Installed, MachineFacts, Python
from edgectl.machine.interface import Host
from edgectl.machine.layout import AGENT, Layout
from edgectl.machine.shell import words

_LOOK_S = 90.0


def gather(
    host: Host, layout: Layout, *, index: bool = True, now: Callable[[], float] = time.time
) -> tuple[MachineFacts, float]:
    """What the machine is and has, and the operator's clock at that moment.

    Args:
        host: the machine.
        layout: where an agent would lie.
        index: ask its package index, which takes a moment.
        now: the operator's clock, seconds since 1970.

    Raises:
        NodeUnreachable: as `Host.run`.
        RemoteRefused: the machine does not answer as a POSIX shell does.
    """
    given = {"config": layout.config, "data": layout.data, "home": layout.home, "unit": layout.unit,
             "account": layout.user, "agent": AGENT, "own": "" if layout.root else "1", "probe": _PYTHON,
             "ask": _INDEX if index else ""}  # fmt: skip
    script = "".join(f"{name}={words(value)}\n" for name, value in given.items()) + _SCRIPT
    no_root, began = "", now()
    try:
        done = host.run(script, root=layout.root, timeout_s=_LOOK_S)
    except RemoteRefused as e:
        no_root, began = e.message.removeprefix(f"node {host.name}: "), now()
        done = host.run(script, timeout_s=_LOOK_S)
    try:
        return parse(done.out.decode(errors="replace"), no_root), began
    except ValueError as e:
        raise RemoteRefused(
            f"node {host.name}: a look at the machine ended with {e or 'nothing'}: {done.complaint}",
            status=500, reason="facts", hint="is its login shell a POSIX shell?",
        ) from e  # fmt: skip


def parse(text: str, no_root: str = "") -> MachineFacts:
    """What the script printed, ``key value…`` a line. Raises ValueError for anything else."""
    try:
        return _parse(text, no_root)
    except (LookupError, TypeError, OverflowError) as e:  # a line is missing, or has too few words or too many
        raise ValueError(f"a line is not as expected: {e}") from e


def _parse(text: str, no_root: str) -> MachineFacts:
    lines = [line.split("\t") for line in text.splitlines()]
    if ["end"] not in lines:
        raise ValueError("no end")
    one = {line[0]: line[1] for line in lines if len(line) == 2}
    installed = {line[1] for line in lines if line[0] == "installed"}
    libc: Literal["glibc", "musl", ""] = "musl" if one["musl"] == "1" else "glibc" if one["glibc"] else ""
    node, current = one["node"].strip("\"' "), one["current"].rpartition("/")[2]
    return MachineFacts(
        machine=one["machine"],
        bits=int(one["bits"] or 64),
        libc=libc,
        glibc=_version(one["glibc"]) if libc == "glibc" else (0, 0),
        pythons=tuple(_pythons(line[1:] for line in lines if line[0] == "python")),
        disks=tuple(_disk(*line[1:]) for line in lines if line[0] == "disk"),
        memory_bytes=int(one["memory"]) * 1024,
        available_bytes=int(one["available"]) * 1024,
        clock_s=float(one["clock"]),
        user=one["user"],
        no_root=no_root,
        systemd=int(one["systemd"] or 0),
        installed=Installed(
            node=node,
            current=current,
            complete={"program", "config", "service"} <= installed,
            traces=bool(installed),
        ),
        index=tuple(word.strip() for word in one["index"].split(",") if word.strip()),
    )


def _pythons(rows: Iterable[list[str]]) -> Iterable[Python]:
    seen = set()
    for path, version, venv, pip, bits, shared in rows:
        if path in seen:
            continue
        seen.add(path)
        major, minor, micro = map(int, version.split("."))
        yield Python(
            path=path, version=(major, minor, micro), venv=venv == "1", pip=pip == "1", bits=int(bits),
            shared=shared == "1",
        )  # fmt: skip


def _disk(path: str, mount: str, free_kb: str, options: str) -> Disk:
    return Disk(path=path, mount=mount, free_bytes=int(free_kb) * 1024, read_only="ro" in options.split(","))


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


_PYTHON = r"""
import os, struct, sys
from importlib.util import find_spec
has = lambda name: int(find_spec(name) is not None)
def open_to_all(path, right):  # whether any user may do that with it: the agent's is nobody special
    if not os.stat(path).st_mode & right:
        return 0
    return 1 if path == "/" else open_to_all(os.path.dirname(path), 1)
path, library, own = os.path.realpath(sys.executable), os.path.realpath(os.__file__), len(sys.argv[1])
hidden = path.startswith(("/root/", "/home/", "/run/user/", "/tmp/", "/var/tmp/"))  # from the agent's unit
shared = int(own or not hidden and open_to_all(path, 1) and open_to_all(library, 4))
version, bits = "%d.%d.%d" % sys.version_info[:3], 8 * struct.calcsize("P")
row = ["python", path, version, has("venv") and has("ensurepip"), has("pip"), bits, shared]
print("\t".join(map(str, row)))
"""
_INDEX = r"""
import glob, os, sys, sysconfig
from importlib.util import find_spec
if not find_spec("pip"):
    own = find_spec("ensurepip")
    places = [sysconfig.get_config_var("WHEEL_PKG_DIR"), own and os.path.join(os.path.dirname(own.origin), "_bundled")]
    sys.path[:0] = [wheel for place in places if place for wheel in glob.glob(os.path.join(place, "pip-*.whl"))][:1]
from pip._internal.cli.main import main
quiet = ["--disable-pip-version-check", "--no-cache-dir", "--no-input", "--retries", "0", "--timeout", "5"]
sys.exit(main(["index", "versions", "onnxruntime", "--only-binary=:all:"] + quiet))
"""
"""pip, the machine's own or the one that it would give to an environment, with the machine's settings."""

_SCRIPT = r"""
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin${own:+:$PATH}
export LC_ALL PATH
say() { printf '%s\t%s\n' "$1" "$2"; }
is() { [ -e "$2" ] && printf 'installed\t%s\n' "$1"; }

say clock "$(date +%s)"
say machine "$(uname -m)"
say bits "$(getconf LONG_BIT 2>/dev/null)"
say glibc "$(getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc //p')"
musl=0
for f in /lib/ld-musl-*; do [ -e "$f" ] && musl=1; done
[ -n "$(getconf GNU_LIBC_VERSION 2>/dev/null)" ] && musl=0 # both can be there; programs use the first
say musl "$musl"
chosen=''
for name in python3 python3.14 python3.13 python3.12 python3.11; do
    p=$(command -v "$name") || continue
    row=$("$p" -I -B -c "$probe" "$own" 2>/dev/null) || continue
    printf '%s\n' "$row"
    case $row in *"	3."[0-9].*|*"	3.10."*|*"	0") ;; *) [ -n "$chosen" ] || chosen=$p ;; esac
done
for path in "$home" "$data" "$config"; do
    there=$path
    while [ ! -d "$there" ]; do there=$(dirname "$there"); done
    set -- $(df -Pk "$there" | tail -n 1)
    mount=$6
    options=$(while read -r _ at _ o _; do [ "$at" = "$mount" ] && echo "$o"; done </proc/mounts | tail -n 1)
    printf 'disk\t%s\t%s\t%s\t%s\n' "$path" "$mount" "$4" "$options"
done
say memory "$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)"
say available "$(sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo)"
say user "$(id -un)"
version=''
[ -d /run/systemd/system ] && version=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
say systemd "$version"
say node "$(sed -n 's/^node: *//p' "$config/agent.yaml" 2>/dev/null)"
say current "$(readlink "$home/current" 2>/dev/null)"
is program "$home/current/bin/$agent"
is config "$config/agent.yaml"
is service "$unit"
is service "$home/supervise.sh"
is folder "$home"
is folder "$data"
versions=''
if [ -n "$ask" ] && [ -n "$chosen" ]; then
    versions=$("$chosen" -I -B -c "$ask" 2>/dev/null | sed -n 's/^Available versions: //p')
fi
say index "$versions"
echo end
"""
