"""What root writes into the agent's folders is written as the agent's user.

Whoever owns a folder can put a link in it at any time, also between a look and a write: so an agent that was taken
over could have root write through the link into a file of root's. Its own user cannot.
"""

from __future__ import annotations

from edgectl.machine.layout import AGENT


def functions(user: str = AGENT) -> str:
    """Shell functions; `user` is the agent's.

    ``agents FOLDER``: whether we are root, and FOLDER or one on the way to it is the agent's; the answer is not in the
    agent's hands, for only root can change the folders above the first that is its own.
    ``as_agent SCRIPT NAME ARGUMENT…``: as ``sh -c``, as the agent's user. busybox's setpriv cannot change the user.
    """
    return f"""\
owners() {{
    case $1 in / | .) return ;; esac
    owners "$(dirname "$1")"
    stat -c %u "$1"
    stat -L -c %u "$1"
}}
agents() {{
    [ "$(id -u)" = 0 ] && uid=$(id -u {user} 2> /dev/null) && owners "$1" 2> /dev/null | grep -qx "$uid"
}}
as_agent() {{
    if setpriv --reuid {user} --regid "$(id -g {user})" --init-groups true 2> /dev/null; then
        setpriv --reuid {user} --regid "$(id -g {user})" --init-groups sh -c "$@"
    else
        su -s /bin/sh {user} -c "$@"
    fi
}}
"""
