"""A log file as history: read whole, by the code that a node follows it with."""

from __future__ import annotations

from pathlib import Path

from edgectl_agent.config import TailConfig, log_of
from edgectl_agent.sources.decode import Records
from edgectl_agent.sources.lines import LineReader
from edgectl_agent.sources.log_lines import LogDecoder, event_reader
from edgectl_agent.sources.repeated import Passes

from edgectl.core.errors import ConfigError

_EVENTS = 20_000


def read_log(path: Path, config: TailConfig) -> Records:
    """All events, in the order of the file. Raises `ConfigError` if it cannot be read."""
    decoder, parts = LogDecoder(config, log_of(config)), []
    rejected: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            lines = LineReader(file)
            reader = event_reader(lines, log_of(config))
            while True:
                taken = reader.read(_EVENTS)
                if not taken.lines and reader.exhausted:
                    break
                parts.append(decoder.decode(taken.lines))
            parts.append(decoder.decode(reader.flush().lines))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror or e}") from e
    for part in parts:
        for reason, count in part.rejected.items():
            rejected[reason] = rejected.get(reason, 0) + count
    whole = Records.join(parts)
    time = Passes().settle(whole.streams, whole.event_time, whole.again)
    return Records(whole.streams, time, whole.values, whole.line, rejected, whole.texts)
