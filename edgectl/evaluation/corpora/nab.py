"""The Numenta Anomaly Benchmark's folder: ``data/GROUP/FILE.csv`` and ``labels/combined_windows.json``.

The first 15 % of a file, at most 750 readings, are its probation: history that nothing is scored in. A window's time
means the first reading that has it. Half A are the files whose path's SHA-256 begins with 0 to 7, half B the others:
choose on one, report on the other.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec
from edgectl_agent.core.units import event_time_ns

from edgectl.core.errors import ConfigError
from edgectl.evaluation.series import Corpus, Series, Window
from edgectl.training import cells, columns

Half = Literal["A", "B", "all"]
LABELS = Path("labels") / "combined_windows.json"
_PROBATION_SHARE, _PROBATION_OF = 0.15, 5000


def is_nab(folder: Path) -> bool:
    """Whether `folder` looks like NAB's."""
    return (folder / LABELS).is_file()


def half_of(path: str) -> Literal["A", "B"]:
    """Which half the file at `path` (relative to ``data/``) belongs to."""
    return "A" if hashlib.sha256(path.encode()).hexdigest()[0] in "01234567" else "B"


def read(folder: Path, half: Half = "all") -> Corpus:
    """The corpus, or half of it.

    Raises:
        ConfigError: no labels, a labelled file that is missing, a time in the labels that the file does not have.
    """
    labels = _labels(folder / LABELS)
    names = [name for name in sorted(labels) if half in ("all", half_of(name))]
    series = tuple(_series(folder, name, labels[name]) for name in names)
    return Corpus(name="NAB" if half == "all" else f"NAB half {half}", series=series, centred=True)


def probation(rows: int) -> int:
    """How many of a file's first readings are not scored."""
    return int(min(_PROBATION_SHARE * rows, _PROBATION_SHARE * _PROBATION_OF))


def _labels(path: Path) -> dict[str, list[tuple[str, str]]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, list[tuple[str, str]]])
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, expected NAB's folder with data/ and labels/") from None
    except (OSError, msgspec.MsgspecError) as e:
        raise ConfigError(f"{path}: expected file → list of [start, end], found: {e}") from e


def _series(folder: Path, name: str, labels: list[tuple[str, str]]) -> Series:
    found = columns.read(folder / "data" / name, ["timestamp", "value"])
    for column in ("timestamp", "value"):
        if column not in found.found:
            raise ConfigError(f"{found.path}: column {column!r} is missing, expected timestamp,value")
    time, _ = cells.times(found, "timestamp")
    values = cells.numbers(found, "value")[:, None]
    begin = probation(len(time))
    first: dict[int, int] = {}
    for row, at in enumerate(time.tolist()):
        first.setdefault(at, row)
    windows = [_window(name, start, end, first) for start, end in labels]
    return Series(
        name=name, channels=("value",), time=time, values=values, begin=begin,
        windows=tuple(one for one in windows if one.last >= begin),
    )  # fmt: skip


def _window(name: str, start: str, end: str, rows: dict[int, int]) -> Window:
    places = []
    for text in (start, end):
        try:
            places.append(rows[event_time_ns(text)])
        except (KeyError, ValueError):
            raise ConfigError(f"{LABELS} of {name}: expected a time of that file, found {text!r}") from None
    if places[1] < places[0]:
        raise ConfigError(f"{LABELS} of {name}: the window that begins {start!r} ends before it, {end!r}")
    return Window(places[0], places[1])
