"""The install script that an invite names, and the one line that fetches and runs it.

The line holds the script's SHA-256, and the script the receiver's authority: a machine that trusts nobody yet fetches
the script from whoever answers, and runs it only if it is the invited one. From there on everything is verified.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

from edgectl.machine import accounts, environment, removal, setup, writing
from edgectl.machine.layout import Layout

_HEAD = r"""#!/bin/sh
# Installs edgectl-agent and joins this machine to a fleet: echo TOKEN | sh THIS [--folder DIR]
# Takes it off again:                                       sh THIS --remove [--keep-data] [--folder DIR]
set -u
refuse() {
    echo "edgectl: $1" >&2
    exit 3
}
[ "$(uname -s)" = Linux ] || refuse "this machine runs $(uname -s), the agent needs Linux"
machine=$(uname -m)
case $machine in
    x86_64 | aarch64) ;;
    *) refuse "this machine is $machine: ONNX Runtime has no wheel for it, expected x86_64 or aarch64" ;;
esac
if ldd --version 2>&1 | grep -qi musl; then
    refuse "this machine has the C library musl, for which ONNX Runtime has no wheel (Alpine, OpenWrt), expected glibc"
fi
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d ' ' -f 2)
case $glibc in
    '' | 1.* | 2.[0-9] | 2.1[0-9] | 2.2[0-7])
        refuse "this machine has glibc ${glibc:-of unknown version}, expected 2.28 or newer"
        ;;
esac
python='' newest=''
for name in python3 python3.14 python3.13 python3.12 python3.11; do
    command -v "$name" >/dev/null 2>&1 || continue
    newest=${newest:-$("$name" -c 'import platform; print(platform.python_version())' 2>/dev/null)}
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$(command -v "$name")
        break
    fi
done
[ -n "$newest" ] || refuse "this machine has no Python, expected 3.11 or newer → apt install python3 python3-venv"
[ -n "$python" ] || refuse "this machine has Python $newest, expected 3.11 or newer"
"$python" -c 'import ensurepip, ssl, venv' 2>/dev/null ||
    refuse "this machine's Python lacks venv → apt install python3-venv"
token=
case " $* " in
    *" --remove "* | *" --help "* | *" -h "*) ;;
    *)
        [ ! -t 0 ] || printf 'edgectl: token of the invite: ' >&2
        IFS= read -r token || [ -n "$token" ] || refuse "expected the token of an invite on standard input"
        ;;
esac
case " $* " in
    *" --folder "* | *" --folder="* | *" --help "* | *" -h "*) ;;
    *)
        if [ "$(id -u)" != 0 ]; then
            command -v sudo >/dev/null 2>&1 || refuse "this needs root and there is no sudo → run it as root"
            printf '%s\n' "$token" | sudo sh "$0" "$@" # not as an argument: every user can read those
            exit
        fi
        ;;
esac
EDGECTL_TOKEN=$token
export EDGECTL_TOKEN
exec "$python" -I - "$@" <<'EDGECTL'
"""
_TAIL = """

if __name__ == "__main__":
    sys.exit(main(json.loads({settings}), sys.argv[1:]))
EDGECTL
"""


_FOLDER = "/edgectl-folder"
"""Stands for the folder that is known only on the machine; a word that no shell quotes."""


def script(url: str, ca: str, fleet: str) -> str:
    """The install script of a receiver at `url`, vouched for by `ca` (PEM; empty: a public authority)."""
    program = Path(__file__).with_name("installer.py").read_text(encoding="utf-8")
    settings = repr(json.dumps({"url": url, "ca": ca, "fleet": fleet, **steps()}))
    return f"{_HEAD}{program}{_TAIL.format(settings=settings)}"


def steps() -> dict[str, str]:
    """The shell texts that the install script has in common with an installation over SSH."""
    return {
        "accounts": accounts.make(Layout(), "root"),
        "environment": environment.SCRIPT,
        "folders": setup.make_folders(Layout(), "root"),
        "write": writing.BY_ROOT,
        "remove": removal.script(Layout(), "root"),
        "remove-folder": removal.script(Layout.within(_FOLDER), "root").replace(_FOLDER, '"$2"'),
    }


def file_name(text: str) -> str:
    """Under which a script is served: it never changes under its name."""
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.sh"


def line(url: str, text: str, token: str) -> str:
    """What somebody types on the machine to join: the token goes through a pipe, where no other user sees it."""
    return f"printf '%s\\n' {shlex.quote(token)} | {_run(url, text)}"


def removal_line(url: str, text: str, folder: str = "") -> str:
    """What somebody types on the machine to take the agent off it again."""
    return f"{_run(url, text)} --remove" + (f" --folder {shlex.quote(folder)}" if folder else "")


def _run(url: str, text: str) -> str:
    """Fetch by curl or Python into a folder of its own, compare, run with the words that follow, tidy up."""
    where = shlex.quote(f"{url.rstrip('/')}/install/{file_name(text)}")
    fetch = (
        "import ssl,sys,urllib.request as u;"
        "sys.stdout.buffer.write(u.urlopen(sys.argv[1],context=ssl._create_unverified_context()).read())"
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    steps = (
        'd=$(mktemp -d) || exit 75; trap "rm -rf \\"\\$d\\"" EXIT; trap "exit 130" INT HUP TERM; '
        f'u={where} f=$d/edgectl-install.sh; {{ curl -fsSk "$u" || python3 -c "{fetch}" "$u"; }} > "$f" && '
        f'echo "{digest}  $f" | sha256sum -c - > /dev/null && sh "$f" "$@"'
    )
    return f"sh -c {shlex.quote(steps)} edgectl-install"
