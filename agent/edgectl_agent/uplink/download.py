"""Brings one file into the spool: under a temporary name, resumed where it broke off, renamed when its digest is right.

A part keeps the server's ETag beside it, so that the rest of another file is never glued to it. The digest is compared
to keep a torn or wrong file from being taken for the right one, not because anything here were trusted.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedRandom

from edgectl_agent.beneath import PART, Beneath, open_in
from edgectl_agent.core.listing import Wanted
from edgectl_agent.uplink.interface import UplinkError
from edgectl_agent.uplink.web import Reply, Web, retry_after_s

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def held(spool: Beneath, wanted: Wanted) -> bool:
    """Whether the spool has the file, whole."""
    try:
        with spool.open(wanted.name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256
    except OSError:
        return False


def fetch(web: Web, url: str, spool: Beneath, wanted: Wanted) -> None:
    """Have the file of `url` in `spool`. Raises `UplinkError`; what came stays for the next try."""
    try:
        with spool.folder(wanted.name, make=True) as folder:
            _fetch(web, url, _Part(folder, wanted.name.split("/")[-1]), wanted)
    except OSError as e:
        raise UplinkError(f"{spool.root / wanted.name}: cannot be written: {e.strerror or e}", act=True) from e


class _Part:
    """What came of a file, and of which version of it, in the folder with the descriptor `folder`."""

    def __init__(self, folder: int, name: str) -> None:
        self._folder, self._final = folder, name
        self._part, self._tag = f".{name}{PART}", f".{name}{PART}.etag"

    def open(self) -> BufferedRandom:
        return os.fdopen(open_in(self._folder, self._part, os.O_RDWR | os.O_CREAT), "r+b")

    def size(self) -> int:
        with self.open() as file:
            return os.fstat(file.fileno()).st_size

    def begun(self) -> tuple[int, str]:
        """How much of the file is there, and of which version of it."""
        with suppress(FileNotFoundError), os.fdopen(open_in(self._folder, self._tag, os.O_RDONLY), "rb") as file:
            return self.size(), file.read(200).decode("latin-1")
        return 0, ""

    def tag(self, etag: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(open_in(self._folder, self._tag, flags), "wb") as file:
            file.write(etag[:200].encode("latin-1"))

    def finish(self) -> None:
        """Give the file its name."""
        os.replace(self._part, self._final, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self.discard()

    def discard(self) -> None:
        """Drop what came."""
        for name in (self._part, self._tag):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._folder)


def _fetch(web: Web, url: str, part: _Part, wanted: Wanted) -> None:
    _bring(web, url, part, wanted)
    with part.open() as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wanted.sha256:
        part.discard()
        raise UplinkError(f"{url}: is not the file that the metadata names: its SHA-256 differs")
    part.finish()


def _bring(web: Web, url: str, part: _Part, wanted: Wanted) -> None:
    have, tag = part.begun()
    if have == wanted.length:
        return
    if have > wanted.length:
        part.discard()
        have, tag = 0, ""
    resume = {"Range": f"bytes={have}-", "If-Range": tag} if have and tag else {}
    with web.get(url, resume, wanted.length - (have if resume else 0)) as reply:
        begin = _begin(reply, have if resume else 0, url)
        etag = reply.headers.get("etag", "")
        part.tag("" if etag.startswith("W/") else etag)
        _write(part, begin, reply.body, wanted.length, url)
    if part.size() != wanted.length:
        raise UplinkError(f"{url}: {part.size()} of {wanted.length} bytes came")


def _begin(reply: Reply, asked: int, url: str) -> int:
    """Where in the file the body begins."""
    if reply.status == 200:
        return 0
    if reply.status == 206 and asked:
        said = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", ""))
        if said is not None and int(said[1]) == asked:
            return asked
    raise status_error(reply, url)


def status_error(reply: Reply, url: str) -> UplinkError:
    """The error for an answer that is of no use."""
    import time

    asked = retry_after_s(reply.headers.get("retry-after", ""), time.time())
    act = reply.status in (401, 403, 404, 410)
    return UplinkError(f"{url}: answered {reply.status}", act=act, retry_after_s=asked, status=reply.status)


def _write(part: _Part, begin: int, body: Iterator[bytes], length: int, url: str) -> None:
    with part.open() as file:
        file.truncate(begin)
        file.seek(begin)
        for piece in body:
            begin += len(piece)
            if begin > length:
                part.discard()
                raise UplinkError(f"{url}: more than the {length} bytes came that the metadata says")
            file.write(piece)
