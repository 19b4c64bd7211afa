"""Shell texts that put a file on a machine: whole or not at all, and into the agent's folders as its user.

An installation over SSH and the install script of an invite write by the same ones.
"""

from __future__ import annotations

from edgectl.machine import agents_own
from edgectl.machine.shell import words

FOLDER = """\
made() {
    [ -d "$1" ] && return
    made "$(dirname "$1")"
    mkdir -m "$([ -z "${alike-}" ] && echo 755 || stat -c %a "$(dirname "$1")")" "$1"
    chown "$(stat -c %u:%g "$(dirname "$1")")" "$1" 2> /dev/null || :
}
"""
"""What root makes belongs to whom the folder around it belongs to; the agent's are as open as the one around them."""

TAKE = (
    """\
set -e
umask 077
"""
    + FOLDER
    + """\
folder=$(dirname "$1")
temporary="$folder/.$(basename "$1").$3.tmp"
trap 'rm -f "$temporary" ${4:+"$4"}' EXIT
trap 'exit 1' HUP INT TERM
made "$folder"
[ ! -d "$1" ] || { echo "$1: Is a directory" >&2; exit 1; }
rm -f "$temporary"
cat ${4:+"$4"} > "$temporary"
sha256sum < "$temporary" | grep -q "^$3" || { echo "the content did not arrive whole" >&2; exit 3; }
like=$folder
[ ! -f "$1" ] || like=$1
chown "$(stat -c %u:%g "$like")" "$temporary" 2> /dev/null || :
chmod "$2" "$temporary"
sync "$temporary" 2> /dev/null || sync
mv -f "$temporary" "$1"
"""
)
"""PATH MODE HASH [STAGED]: takes the content from STAGED or standard input; nothing else than all of it is renamed."""

THEIRS = agents_own.functions() + 'agents "$(dirname "$1")"'
"""PATH: whether it is in the agent's folders."""


def careful(script: str) -> str:
    """`script`, whose arguments are PATH MODE HASH [STAGED], run as the agent's user where PATH is in its folders."""
    return f"""\
{THEIRS} || {{
{script}
exit
}}
staged=${{4-}}
if [ -n "$staged" ]; then
    trap 'rm -f "$staged"' EXIT
    trap 'exit 1' HUP INT TERM
    exec < "$staged"
fi
cd /  # root's home is closed to others
as_agent {words("alike=1" + chr(10) + script)} sh "$1" "$2" "$3"
"""


BY_ROOT = careful(TAKE)
"""As `TAKE`, where root may be the one who runs it."""
