"""Syslog messages as values: RFC 5424, and what of RFC 3164 can be read without guessing.

A message of RFC 3164 has a time without year, zone and fraction: it counts as one without a time.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
LEVELS = ("CRITICAL", "CRITICAL", "CRITICAL", "ERROR", "WARN", "NOTICE", "INFO", "DEBUG")
"""What logs call these."""
FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "console", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
)  # fmt: skip

_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_ELEMENT = rf'\[(?:[^\]"]|{_QUOTED})*+\]'
_MODERN = re.compile(rf"1 (\S+) (\S+) (\S+) (\S+) (\S+) (-|(?:{_ELEMENT})++)(?: (.*))?", re.DOTALL)
_TIME = r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+) "
_OLD = re.compile(rf"(?:{_TIME}(\S+) )?(?:([\w./@-]{{1,48}})(?:\[(\w{{1,20}})\])?: )?(.*)", re.DOTALL)
_PRIORITY = re.compile(r"<(\d{1,3})>")
_NAME = r'[^ =\]"]++'
_PARAMETERS = re.compile(rf"\[({_NAME})((?: {_NAME}={_QUOTED})*+)\]")
_PARAMETER = re.compile(rf" ({_NAME})=({_QUOTED})")
_ESCAPED = re.compile(r'\\(["\\\]])')
_END = re.compile(rb"[\n\0]")


class Message(NamedTuple):
    """One message; ``""`` for what it leaves out.

    Attributes:
        severity: index into `SEVERITIES`.
        facility: index into `FACILITIES`.
        time: as RFC 3339 writes it.
        data: the structured data as it was sent; `parameters` reads it.
    """

    severity: int
    facility: int
    time: str
    host: str
    app: str
    pid: str
    msgid: str
    data: str
    text: str


def parse(message: bytes) -> Message | None:
    """The message, or None if it does not begin with a priority. Bytes that are no UTF-8 become ``�``."""
    text = message.decode("utf-8-sig", "replace")
    priority = _PRIORITY.match(text)
    if priority is None or int(priority[1]) > 191:
        return None
    facility, severity = divmod(int(priority[1]), 8)
    modern = _MODERN.fullmatch(text, priority.end())
    if modern is not None:
        time, host, app, pid, msgid, data = ("" if part == "-" else part for part in modern.groups()[:-1])
        return Message(severity, facility, time, host, app, pid, msgid, data, (modern[7] or "").removeprefix("\ufeff"))
    old = _OLD.fullmatch(text, priority.end())
    host, app, pid, rest = old.groups("") if old else ("", "", "", text[priority.end() :])
    return Message(severity, facility, "", host, app, pid, "", "", rest)


def parameters(data: str) -> dict[str, str]:
    """``ID.NAME`` → value, of structured data; of a name that is there twice the first value."""
    found: dict[str, str] = {}
    at = 0
    while element := _PARAMETERS.match(data, at):  # and no search, which would begin anew at every bracket
        for name, quoted in _PARAMETER.findall(element[2]):
            found.setdefault(f"{element[1]}.{name}", _ESCAPED.sub(r"\1", quoted[1:-1]))
        at = element.end()
    return found


class Framer:
    """Bytes of a connection → messages, by RFC 6587: each is counted (``17 <13>1 …``) or ends with LF or NUL.

    Args:
        limit: of one message, in bytes; of a longer one nothing is kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._scanned = self._skip = 0
        """How much of the rest has no end of a message, and how many bytes of a counted one are thrown away."""
        self._discarding = False
        self.too_long = 0
        """How many messages were, since it was last set to 0."""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes."""
        self._rest += data
        found: list[bytes] = []
        while self._rest and self._step(found):
            pass
        return found

    def last(self) -> bytes:
        """When the connection has ended: what is left, if it is a message that needs no more."""
        left = bytes(self._rest)
        counted = left[:1].isdigit() or self._discarding or self._skip
        return b"" if counted else left.strip(b"\r\n\0 ")

    def _step(self, found: list[bytes]) -> bool:
        """Take one message, or a piece to throw away, off the front; False if that needs more bytes."""
        if self._skip:
            dropped = min(self._skip, len(self._rest))
            del self._rest[:dropped]
            self._skip -= dropped
            return True
        head = re.match(rb"([1-9]\d{0,9}) ", self._rest) if not self._discarding else None
        if head is not None:
            return self._counted(head.end(), int(head[1]), found)
        if not self._discarding and len(self._rest) < 11 and re.fullmatch(rb"[1-9]\d*", self._rest):
            return False
        return self._line(found)

    def _counted(self, start: int, length: int, found: list[bytes]) -> bool:
        if length > self._limit:
            self.too_long += 1
            self._skip = length
            del self._rest[:start]
        elif len(self._rest) < start + length:
            return False
        else:
            self._keep(bytes(self._rest[start : start + length]), found)
            del self._rest[: start + length]
        return True

    def _line(self, found: list[bytes]) -> bool:
        found_end = _END.search(self._rest, self._scanned)  # not a search for each: the one that is missing costs all
        if found_end is None:
            self._scanned = len(self._rest)
            if self._scanned > self._limit:
                self.too_long += not self._discarding
                self._discarding = True
            if self._discarding:
                self._rest.clear()
                self._scanned = 0
            return False
        end = found_end.start()
        if end > self._limit and not self._discarding:
            self.too_long += 1
        elif not self._discarding:
            self._keep(bytes(self._rest[:end]), found)
        del self._rest[: end + 1]
        self._scanned, self._discarding = 0, False
        return True

    @staticmethod
    def _keep(message: bytes, found: list[bytes]) -> None:
        message = message.rstrip(b"\r\n\0 ")
        if message:
            found.append(message)
