"""The agent's user and group on a machine, and the way back: what was there before is remembered before it changes.

Tools for accounts keep a copy of the former file (``/etc/passwd-``). So that removal restores these too, they are kept
in ``<home>/undo`` with the digests of the account files as we left them: whoever changes accounts later makes the
digests differ, and his copies stay.
"""

from __future__ import annotations

from edgectl.machine.layout import Layout
from edgectl.machine.shell import words

_ACCOUNTS = "passwd group shadow gshadow"

_REMEMBER = rf"""
remember() {{
    [ ! -d "$undo" ] || return 0
    rm -rf "$undo.part"
    mkdir -p -m 755 "${{undo%/*}}" && mkdir -m 700 "$undo.part" || return 1
    for f in {_ACCOUNTS}; do [ ! -e "/etc/$f-" ] || cp -p "/etc/$f-" "$undo.part/" || return 1; done
    for f in /etc/.pwd.lock "${{unit%/*}}/multi-user.target.wants"; do
        [ -e "$f" ] || echo "$f" >> "$undo.part/absent"
    done
    getent passwd "$user" > "$undo.part/user" || :
    getent group "$user" > "$undo.part/group" || :
    mv "$undo.part" "$undo"
}}
digests() {{ (cd /etc && sha256sum {_ACCOUNTS} 2> /dev/null); }}
"""

_MAKE = (
    r"""
set -e
"""
    + _REMEMBER
    + r"""
remember
changed=
if ! getent group "$user" > /dev/null; then
    groupadd --system "$user"
    changed=1
fi
if ! getent passwd "$user" > /dev/null; then
    useradd --system --gid "$user" --home-dir "$data" --no-create-home --shell /usr/sbin/nologin "$user"
    changed=1
fi
if [ "$login" != root ] && ! id -nG "$login" | tr ' ' '\n' | grep -qxF -e "$user"; then
    usermod -a -G "$user" "$login"
    echo "$login" >> "$undo/members"
    changed=1
fi
[ -z "$changed" ] && [ -e "$undo/after" ] || { digests > "$undo/after.part"; mv "$undo/after.part" "$undo/after"; }
"""
)

UNMAKE = (
    _REMEMBER
    + r"""
same=
[ ! -e "$undo/after" ] || [ "$(digests)" != "$(cat "$undo/after")" ] || same=1
if [ -d "$undo" ]; then
    [ -s "$undo/user" ] || ! getent passwd "$user" > /dev/null || userdel "$user" > /dev/null 2>&1
    if [ -s "$undo/group" ]; then
        for member in $(cat "$undo/members" 2> /dev/null); do gpasswd -d "$member" "$user" > /dev/null 2>&1; done
    else
        ! getent group "$user" > /dev/null || groupdel "$user"
    fi
fi
if [ -n "$same" ]; then
    for f in """
    + _ACCOUNTS
    + r"""; do
        if [ -e "$undo/$f-" ]; then cp -p "$undo/$f-" "/etc/$f-"; else rm -f "/etc/$f-"; fi
    done
    for f in $(cat "$undo/absent" 2> /dev/null); do [ ! -f "$f" ] || rm -f "$f"; done
fi
if [ -d "$undo" ] && [ -d /run/systemd/system ]; then   # systemctl deletes it when the last link goes
    wants=${unit%/*}/multi-user.target.wants
    if grep -qxF -e "$wants" "$undo/absent" 2> /dev/null; then rmdir "$wants" 2> /dev/null; else mkdir -p "$wants"; fi
fi
"""
)
"""Shell text; `names` come before it. What existed before the first bootstrap stays."""


def names(layout: Layout, login: str) -> str:
    """Assignments that `UNMAKE` and `make` need; `login` is the user that operators log in as."""
    given = {
        "user": layout.user,
        "data": layout.data,
        "unit": layout.unit,
        "undo": f"{layout.home}/undo",
        "login": login,
    }
    return "".join(f"{name}={words(value)}\n" for name, value in given.items())


def make(layout: Layout, login: str) -> str:
    """Shell text that makes the user and its group and lets `login` into the group; does nothing if all is there."""
    return names(layout, login) + _MAKE
