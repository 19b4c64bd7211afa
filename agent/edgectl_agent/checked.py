"""Bytes on a disk that may be full, failing or damaged: written whole, read as far as possible, known when wrong.

A checked document is JSON that carries the CRC-32C of its value: `durable.write_file` protects from a crash, but not
from a disk that returns other bytes a year later.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec

from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.durable import sync_folder

_BLOCK = 4096


class _Checked(msgspec.Struct):
    crc32c: int
    value: msgspec.Raw


msgspec.json.Decoder(_Checked)  # its table must not be built in two threads at once (see core.messages)


def encode_checked(value: object) -> bytes:
    """JSON of `value` with its checksum. Law: ``decode_checked(encode_checked(v), type(v)) == v``."""
    raw = msgspec.json.encode(value)
    return msgspec.json.encode(_Checked(crc32c=google_crc32c.value(raw), value=msgspec.Raw(raw))) + b"\n"


def decode_checked(raw: bytes, into: Any) -> Any:
    """Read what `encode_checked` wrote, as a value of the type `into`.

    Raises:
        StorageError: not such a document, or its checksum does not fit.
    """
    try:
        checked = msgspec.json.decode(raw, type=_Checked)
        value = bytes(checked.value)
        if google_crc32c.value(value) != checked.crc32c:
            raise StorageError("the checksum does not fit the content", reason="damaged")
        return msgspec.json.decode(value, type=into)
    except UNREADABLE as e:
        raise StorageError(f"not readable: {e}", reason="damaged") from e


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents, each durably named in its own parent. Raises `OSError`."""
    for missing in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
        sync_folder(missing.parent)


def write_all(fd: int, data: bytes) -> None:
    """Write every byte: the kernel takes fewer when the disk is nearly full. Raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_damaged(path: Path, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes of a file, with zeros where the disk does not return them; empty if the file is missing.

    Raises:
        OSError: the file is there but cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        size = os.fstat(fd).st_size
        stop = size if stop is None else min(stop, size)
        parts: list[bytes] = []
        while start < stop:
            parts.append(_read_part(fd, start, stop))
            start += len(parts[-1])
        return b"".join(parts)
    finally:
        os.close(fd)


def _read_part(fd: int, start: int, stop: int) -> bytes:
    """Some bytes from `start` on. A read that fails is repeated block by block: a bad block must not hide good ones."""
    block = min(_BLOCK - start % _BLOCK, stop - start)
    for length in (stop - start, block):
        try:
            found = os.pread(fd, length, start)
        except OSError:
            continue
        return found or bytes(stop - start)  # the file became shorter meanwhile
    return bytes(block)


def storage_error(what: str, e: OSError | StorageError) -> StorageError:
    """`e` as the one sentence that a person needs; ``reason`` tells a full disk from a failing one."""
    cause = e.__cause__ if isinstance(e, StorageError) else e
    if not isinstance(cause, OSError):
        return StorageError(f"{what}: {e}")
    full = cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "free space on this disk; nothing that was acknowledged is lost" if full else None
    return StorageError(f"{what}: {cause.strerror or cause}", reason="disk-full" if full else "storage", hint=hint)
