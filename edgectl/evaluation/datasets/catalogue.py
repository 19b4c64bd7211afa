"""Which corpora can be fetched, from where, and the SHA-256 that each file must have.

The digests stand in ``NAME.sha256`` beside this file, as ``sha256sum`` writes them. Those of SMD are of the numbers in
a file, in millionths (`numbers_digest`): they were taken from copies whose text was no longer there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgectl.core.names import unknown


@dataclass(frozen=True, slots=True)
class File:
    """One file: its path below the corpus's folder and address, and the digest of what it must hold."""

    path: str
    sha256: str


def bytes_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def numbers_digest(path: Path) -> str:
    """SHA-256 of a file's comma-separated numbers in millionths, row by row, int64 little-endian. Raises OSError;
    ValueError if it holds something else."""
    numbers = np.loadtxt(path, delimiter=",", ndmin=2)
    return hashlib.sha256(np.rint(numbers * 1e6).astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One corpus.

    Attributes:
        name: as commands take it.
        title: what it is, in a line.
        licence: under which its authors publish it.
        url: folder of its files; `files` are below it.
        digest: of a file on disk, to compare with `File.sha256`.
    """

    name: str
    title: str
    licence: str
    url: str
    files: tuple[File, ...]
    digest: Callable[[Path], str] = bytes_digest


def datasets() -> tuple[Dataset, ...]:
    """All corpora that are known."""
    return (
        Dataset(
            name="nab",
            title="Numenta Anomaly Benchmark: 58 series of one channel, 116 labelled windows",
            licence="MIT",
            url="https://raw.githubusercontent.com/numenta/NAB/master",
            files=_files("nab"),
        ),
        Dataset(
            name="smd",
            title="Server Machine Dataset, 4 of its 28 machines: 38 channels, a label per minute",
            licence="MIT",
            url="https://raw.githubusercontent.com/NetManAIOps/OmniAnomaly/master/ServerMachineDataset",
            files=_files("smd"),
            digest=numbers_digest,
        ),
    )


def named(name: str) -> Dataset:
    """Raises `NothingMatched`."""
    found = {one.name: one for one in datasets()}
    if name not in found:
        raise unknown("dataset", name, found)
    return found[name]


def _files(name: str) -> tuple[File, ...]:
    lines = (Path(__file__).parent / f"{name}.sha256").read_text(encoding="utf-8").splitlines()
    return tuple(File(path, sha256) for sha256, path in (line.split("  ", 1) for line in lines))
