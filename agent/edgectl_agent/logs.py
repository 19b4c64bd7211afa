"""The agent's own log: one JSON object per line and event, to stderr, to the journal or to a bounded file.

note("model-loaded", recipe="press", version="1.4.0")
{"time": "2026-03-14T09:12:00.120Z", "level": "info", "event": "model-loaded", "recipe": "press", …}

For the journal a line begins with its priority, ``<6>{…}``, which journald takes off again: ``journalctl -p warning``
filters by it, and ``journalctl -o cat`` prints the same JSON as a file has.
"""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import msgspec

from edgectl_agent.config import Log
from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.units import iso, size_bytes

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""syslog's, which the journal has too."""
_logger = logging.getLogger("edgectl_agent")


def note(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log one event with its facts; what nobody needs to know is not logged."""
    _logger.log(level, event, extra={"fields": fields})


def warn(event: str, **fields: Any) -> None:
    """Log an event that somebody should look at."""
    note(event, logging.WARNING, **fields)


def start(log: Log, folder: Path) -> None:
    """Send this process's log where `log` says. Raises `StorageError` if the file cannot be opened."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if log.to == "file":
        try:
            handler = RotatingFileHandler(
                folder / "agent.log", maxBytes=size_bytes(log.rotate), backupCount=log.keep, encoding="utf-8"
            )
        except OSError as e:
            raise StorageError(f"{folder / 'agent.log'} cannot be opened: {e.strerror or e}") from e
    handler.setFormatter(JournalLines() if log.to == "journald" else JsonLines())
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk must not end the agent
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _logger.setLevel(log.level.upper())


class JsonLines(logging.Formatter):
    """A record, ours or a library's, as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": iso(int(record.created * 1e9)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.name != _logger.name:
            entry["logger"] = record.name
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry, enc_hook=str).decode()


class JournalLines(JsonLines):
    """The same, with its priority in front."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITY.get(record.levelno, 6)}>{super().format(record)}"
