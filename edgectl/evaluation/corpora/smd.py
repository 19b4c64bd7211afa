"""The Server Machine Dataset: per machine a normal part to train on, and a part to test on with a label per reading.

Either ``MACHINE.npz`` (arrays train, test, label), or the published folder with ``train``, ``test`` and ``test_label``,
each with ``MACHINE.txt``. It has no times: a reading is taken to come every minute, the test part right after train.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.units import SECOND_NS, event_time_ns

from edgectl.core.errors import ConfigError
from edgectl.evaluation.series import Corpus, Series, Window

EVERY_NS = 60 * SECOND_NS
_START = "2020-01-01T00:00:00Z"
_PARTS = ("train", "test", "label")


def is_smd(path: Path) -> bool:
    """Whether `path` looks like it: a file of arrays, a folder of such, or the published folder."""
    return path.suffix == ".npz" or (path.is_dir() and bool(machines(path)))


def machines(folder: Path) -> tuple[str, ...]:
    """Names of the machines in a folder."""
    found = folder.glob("*.npz") if any(folder.glob("*.npz")) else (folder / "test_label").glob("*.txt")
    return tuple(sorted(path.stem for path in found))


def read(path: Path) -> Corpus:
    """All machines of a folder, or the one of a file.

    Raises:
        ConfigError: a missing file, arrays of other shapes, numbers that are not finite.
    """
    folder, names = (path.parent, (path.stem,)) if path.suffix == ".npz" else (path, machines(path))
    return Corpus(name="SMD", series=tuple(_series(folder, name) for name in names))


def _series(folder: Path, name: str) -> Series:
    train, test, label = _arrays(folder, name)
    where = f"{folder / name}"
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1] or label.shape != (len(test),):
        raise ConfigError(
            f"{where}: expected train and test of the same width and a label for each reading of test, found "
            f"{train.shape}, {test.shape} and {label.shape}"
        )
    values = np.concatenate([train, test])
    if not np.isfinite(values).all():
        raise ConfigError(f"{where}: expected finite numbers, found others")
    begin = len(train)
    return Series(
        name=name,
        channels=tuple(f"m{i:02d}" for i in range(values.shape[1])),
        time=event_time_ns(_START) + np.arange(len(values)) * EVERY_NS,
        values=values,
        begin=begin,
        windows=tuple(Window(begin + first, begin + last) for first, last in stretches(label > 0)),
    )


def _arrays(folder: Path, name: str) -> tuple[Float64, Float64, Int64]:
    packed = folder / f"{name}.npz"
    try:
        if packed.is_file():
            with np.load(packed, allow_pickle=False) as arrays:
                for part in _PARTS:
                    if part not in arrays:
                        raise ConfigError(f"{packed}: expected the arrays train, test and label, {part} is missing")
                train, test, label = (arrays[part] for part in _PARTS)
        else:
            train, test = (
                np.loadtxt(folder / part / f"{name}.txt", delimiter=",", ndmin=2) for part in ("train", "test")
            )
            label = np.loadtxt(folder / "test_label" / f"{name}.txt", ndmin=1)
    except (OSError, ValueError) as e:
        raise ConfigError(f"{folder / name}: cannot be read: {e}") from e
    return train.astype(np.float64), test.astype(np.float64), label.astype(np.int64)


def stretches(marked: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
