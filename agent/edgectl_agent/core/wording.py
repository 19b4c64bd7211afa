"""How messages put things."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """``1 node``, ``2,000 nodes``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
