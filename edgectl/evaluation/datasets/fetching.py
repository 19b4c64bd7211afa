"""Fetches a corpus file by file. What is there and right is kept; what was begun goes on where it stopped.

A file has its name only when its digest is right, so that an evaluation never reads half of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx

from edgectl.core.errors import DownloadFailed, StorageError, TrustError
from edgectl.evaluation.datasets.catalogue import Dataset, File

_TIMEOUT_S = 30.0
_MAX_BYTES = 1 << 30
PART = ".part"
Tick = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fetched:
    """How many files there are now, and how many of them had to be fetched."""

    files: int
    new: int
    bytes: int


def fetch(dataset: Dataset, folder: Path, url: str = "", tick: Tick = lambda path: None) -> Fetched:
    """Bring all files of `dataset` into `folder`.

    Args:
        dataset: what to fetch.
        folder: made if need be.
        url: a mirror, instead of the dataset's own address.
        tick: called with the path of each file that is there; what it raises ends the fetching.

    Raises:
        DownloadFailed: the address does not answer, or has no such file; the same call again goes on.
        TrustError: a file is not what it must be; it is deleted.
        StorageError: the disk refuses.
    """
    new = size = 0
    with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True) as client:
        for file in dataset.files:
            target = folder / file.path
            try:
                if not _right(dataset, file, target):
                    _download(client, f"{(url or dataset.url).rstrip('/')}/{quote(file.path)}", target)
                    _check(dataset, file, target)
                    new += 1
                size += target.stat().st_size
            except OSError as e:
                raise StorageError(f"{target}: cannot be written: {e.strerror or e}") from e
            tick(file.path)
    return Fetched(len(dataset.files), new, size)


def _right(dataset: Dataset, file: File, path: Path) -> bool:
    try:
        return dataset.digest(path) == file.sha256
    except (FileNotFoundError, ValueError):
        return False


def _download(client: httpx.Client, url: str, target: Path) -> None:
    """Into ``TARGET.part``, after what is there already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    have = part.stat().st_size if part.is_file() else 0
    try:
        with client.stream("GET", url, headers={"Range": f"bytes={have}-"} if have else {}) as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # it is whole: what was missing was the check
            if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise DownloadFailed(f"{url}: expected the file, found HTTP status {answer.status_code}")
            goes_on = answer.status_code == httpx.codes.PARTIAL_CONTENT
            _save(answer, part, goes_on, have if goes_on else 0)
    except httpx.HTTPError as e:
        raise DownloadFailed(
            f"{url} cannot be fetched: {str(e) or type(e).__name__}", hint="the same command again goes on"
        ) from e


def _save(answer: httpx.Response, part: Path, goes_on: bool, size: int) -> None:
    with part.open("ab" if goes_on else "wb") as file:
        for piece in answer.iter_bytes():
            size += len(piece)
            if size > _MAX_BYTES:
                raise DownloadFailed(f"{answer.url}: expected a file of at most {_MAX_BYTES:,} bytes, found more")
            file.write(piece)


def _check(dataset: Dataset, file: File, target: Path) -> None:
    part = target.with_name(target.name + PART)
    try:
        found = dataset.digest(part)
    except ValueError:
        found = "no numbers"
    if found != file.sha256:
        part.unlink()
        raise TrustError(
            f"{file.path} of {dataset.name}: expected the SHA-256 {file.sha256[:12]}…, found {found[:12]}; "
            "it was deleted",
            reason="digest",
        )
    part.replace(target)
