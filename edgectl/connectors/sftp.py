"""Puts files on a machine by SFTP so that no other name than a temporary one ever holds half a file.

The temporary name of a large file is ``.NAME.HASH.part``: an upload that was cut goes on at the end of what is there,
and two uploads of the same content at once write the same bytes to the same places.
"""

from __future__ import annotations

import errno
import hashlib
import io
import posixpath
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgectl.core.errors import StorageError
from edgectl.machine.interface import Told

LARGE = 1 << 18
"""From this size on an upload that was cut is worth going on with."""
CHUNK = 1 << 18
SUFFIX = ".part"

Whole = Callable[[str, str], bool]
"""Whether the file at a path on the machine has a SHA-256."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What is to be written."""

    content: bytes | Path
    sha256: str
    size: int
    told: Told | None = None

    @classmethod
    def of(cls, content: bytes | Path, told: Told | None = None) -> Upload:
        """Raises `StorageError` if the file cannot be read here."""
        if isinstance(content, bytes):
            return cls(content=content, sha256=hashlib.sha256(content).hexdigest(), size=len(content), told=told)
        try:
            with content.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                return cls(content=content, sha256=digest, size=file.tell(), told=told)
        except OSError as e:
            raise StorageError(f"cannot read {content}: {(e.strerror or str(e)).lower()}") from e

    def open(self) -> IO[bytes]:
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")

    def bytes(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


def part(path: str, upload: Upload) -> str:
    """The temporary name of `upload` at `path`."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, f".{name}.{upload.sha256}{SUFFIX}")


def put(sftp: Any, path: str, upload: Upload, mode: int, *, whole: Whole, always: bool = False) -> None:
    """Put `upload` at `path`, whose folder is there; `whole` is asked of what was resumed, or `always`.

    Raises:
        OSError: the server's refusal; what was written so far stays for the next attempt if it is large.
        paramiko.SSHException, EOFError, TimeoutError: the connection broke.
    """
    temporary = part(path, upload)
    if upload.size <= LARGE:  # nothing to go on with: a name of its own, so that nobody else cuts it short
        temporary = temporary.removesuffix(SUFFIX) + f".{secrets.token_hex(4)}{SUFFIX}"
    try:
        resumed = _fill(sftp, temporary, upload, mode)
        if (resumed or always) and not whole(temporary, upload.sha256):
            sftp.remove(temporary)
            if not resumed or _fill(sftp, temporary, upload, mode) or not whole(temporary, upload.sha256):
                raise OSError(errno.EIO, "what arrived is not what was sent")
        sftp.posix_rename(temporary, path)
    except OSError as e:
        if not isinstance(e, PermissionError) and _size(sftp, path) == upload.size and whole(path, upload.sha256):
            return  # another upload of the same content was first, and took the temporary file with it
        if upload.size <= LARGE:
            with suppress(OSError, EOFError):
                sftp.remove(temporary)
        raise


def _fill(sftp: Any, temporary: str, upload: Upload, mode: int) -> int:
    """Write what is missing of the temporary file; returns how many bytes were there."""
    there = max(0, _size(sftp, temporary)) if upload.size > LARGE else 0
    if there > upload.size:
        sftp.remove(temporary)
        there = 0
    with upload.open() as source, _opened(sftp, temporary, new=upload.size <= LARGE) as file:
        source.seek(there)
        file.seek(there)
        file.set_pipelined(True)  # does not wait for each chunk's answer; `close` collects them all
        if upload.told and there:
            upload.told(there)
        while chunk := source.read(CHUNK):
            file.write(chunk)
            if upload.told:
                upload.told(len(chunk))
    written = sftp.stat(temporary)
    if written.st_size != upload.size:
        raise OSError(errno.EIO, "what arrived is shorter than what was sent")
    if stat.S_IMODE(written.st_mode) != mode:
        sftp.chmod(temporary, mode)
    return there


def _opened(sftp: Any, temporary: str, new: bool) -> Any:
    """The file, made if need be, and never cut short: another upload of the same content may be writing it."""
    if new:
        return sftp.open(temporary, "wx")
    with suppress(FileNotFoundError):
        return sftp.open(temporary, "r+")
    try:
        return sftp.open(temporary, "wx")
    except OSError:
        if _size(sftp, temporary) < 0:
            raise
        return sftp.open(temporary, "r+")


def _size(sftp: Any, path: str) -> int:
    """Bytes of a file; -1 if there is none."""
    try:
        found = sftp.stat(path)
    except FileNotFoundError:
        return -1
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EISDIR, f"{path} is not a file")
    return int(found.st_size)


def make_folders(sftp: Any, folder: str, mode: int) -> None:
    """Make `folder` and what is missing above it. Raises `OSError`."""
    try:
        sftp.stat(folder)
    except FileNotFoundError:
        make_folders(sftp, posixpath.dirname(folder), mode)
        try:
            sftp.mkdir(folder)
        except OSError:  # "Failure", if somebody else has just made it
            sftp.stat(folder)
            return
        sftp.chmod(folder, mode)  # the server's umask has its say in mkdir


def sweep(sftp: Any, folder: str) -> None:
    """Remove what uploads that were cut have left in `folder`."""
    for name in sftp.listdir(folder):
        if name.startswith(".") and name.endswith(SUFFIX):
            with suppress(FileNotFoundError):
                sftp.remove(posixpath.join(folder, name))
