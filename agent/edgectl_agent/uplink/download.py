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
from pathlib import Path

from edgectl_agent.core.listing import Wanted
from edgectl_agent.uplink.interface import UplinkError
from edgectl_agent.uplink.web import Reply, Web, retry_after_s

PART = ".part"
_CHUNK = 1 << 18
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def held(spool: Path, wanted: Wanted) -> bool:
    """Whether the spool has the file, whole."""
    try:
        with (spool / wanted.name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256
    except OSError:
        return False


def fetch(web: Web, url: str, spool: Path, wanted: Wanted) -> None:
    """Have the file of `url` in `spool`. Raises `UplinkError`; what came stays for the next try."""
    final = spool / wanted.name
    part = final.with_name(f".{final.name}{PART}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _bring(web, url, part, wanted)
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != wanted.sha256:
            discard(part)
            raise UplinkError(f"{url}: is not the file that the metadata names: its SHA-256 differs")
        os.replace(part, final)
        _tag(part).unlink(missing_ok=True)
    except OSError as e:
        raise UplinkError(f"{final}: cannot be written: {e.strerror or e}", act=True) from e


def discard(part: Path) -> None:
    """Drop what came of a file."""
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _bring(web: Web, url: str, part: Path, wanted: Wanted) -> None:
    have, tag = _begun(part)
    if have == wanted.length:
        return
    if have > wanted.length:
        discard(part)
        have, tag = 0, ""
    resume = {"Range": f"bytes={have}-", "If-Range": tag} if have and tag else {}
    with web.get(url, resume, wanted.length - (have if resume else 0)) as reply:
        begin = _begin(reply, have if resume else 0, url)
        etag = reply.headers.get("etag", "")
        _tag(part).write_text("" if etag.startswith("W/") else etag[:200], encoding="latin-1")
        _write(part, begin, reply.body, wanted.length, url)
    if part.stat().st_size != wanted.length:
        raise UplinkError(f"{url}: {part.stat().st_size} of {wanted.length} bytes came")


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


def _write(part: Path, begin: int, body: Iterator[bytes], length: int, url: str) -> None:
    with part.open("r+b" if part.exists() else "xb") as file:
        file.truncate(begin)
        file.seek(begin)
        for piece in body:
            begin += len(piece)
            if begin > length:
                file.close()
                discard(part)
                raise UplinkError(f"{url}: more than the {length} bytes came that the metadata says")
            file.write(piece)


def _begun(part: Path) -> tuple[int, str]:
    """How much of the file is there, and of which version of it."""
    with suppress(OSError):
        return part.stat().st_size, _tag(part).read_text(encoding="latin-1")
    return 0, ""


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".etag")
