"""Bytes that came from outside and may be anything: what reading them may raise."""

from __future__ import annotations

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what was expected; the second where text is no UTF-8, the third where
values lie thousands deep in each other."""
