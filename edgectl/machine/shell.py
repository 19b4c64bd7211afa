"""Words for a POSIX shell on another machine."""

from __future__ import annotations

import shlex


def words(*parts: str) -> str:
    """A command line in which every part is exactly one word, whatever it holds.

    Law: ``shlex.split(words(*parts)) == list(parts)``.

    Raises:
        ValueError: a part holds a NUL byte, which no command line can carry.
    """
    if any("\0" in part for part in parts):
        raise ValueError("a word of a command cannot hold a NUL byte")
    return shlex.join(parts)
