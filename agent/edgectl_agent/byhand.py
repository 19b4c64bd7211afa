"""What a person does on a node that no network reaches: take a slice in, and give its report and alerts out.

Both ask the running agent, which is the only one to touch its outbox and to verify what lies in its spool.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar

import httpx
import msgspec

from edgectl_agent import contact
from edgectl_agent.beneath import Beneath, inside
from edgectl_agent.config import Config
from edgectl_agent.core import airgap
from edgectl_agent.core.airgap import MANIFEST, SETUP, Head, Slice
from edgectl_agent.core.errors import ConfigError, EdgeError, StorageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import AlertPage, OutboxRecord, Report, UpdateResult

T = TypeVar("T")

UPDATE_S = 300.0
"""A slow node may verify and try a large bundle for minutes."""
ANSWER_S = 60.0
_PAGE = 500
_BLOCK = 1 << 20


class Refused(EdgeError):
    """The agent answered, and said no."""

    exit_code, reason = 75, "refused"


class Agent:
    """The agent that runs on a data folder."""

    def __init__(self, folder: Path) -> None:
        """Raises `StorageError` if none runs."""
        self._folder = folder
        there = contact.read(folder)
        if there is None:
            raise self._gone()
        headers = {"Authorization": f"Bearer {there.token}", "Content-Type": "application/json"}
        # A proxy has no business on the loopback.
        self._client = httpx.Client(base_url=there.url, headers=headers, trust_env=False)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def report(self) -> Report:
        return self._decode(self._call("GET", "/v1/status", ANSWER_S), Report)

    def pages(self) -> Iterator[tuple[tuple[OutboxRecord, ...], tuple[tuple[int, int], ...]]]:
        """Every record that is not released, in order, and the damaged ranges; at least one page."""
        after = 0
        while True:
            raw = self._call("GET", f"/v1/alerts?after={after}&limit={_PAGE}", ANSWER_S)
            page = self._decode(raw, AlertPage)
            yield page.records, page.lost
            if not page.records:
                return
            after = page.next_after

    def update(self) -> UpdateResult:
        return self._decode(self._call("POST", "/v1/update", UPDATE_S, accept=(409,)), UpdateResult)

    def _call(self, method: str, path: str, timeout_s: float, accept: tuple[int, ...] = ()) -> bytes:
        try:
            answer = self._client.request(method, path, content=b"{}" if method == "POST" else None, timeout=timeout_s)
        except httpx.TimeoutException as e:
            raise StorageError(f"the agent on {self._folder} gives no answer within {timeout_s:g} s") from e
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as e:
            raise self._gone() from e
        if answer.status_code >= 400 and answer.status_code not in accept:
            raise Refused(f"the agent on {self._folder} refuses {path}: {answer.status_code} {answer.text[:200]}")
        return answer.content

    def _decode(self, raw: bytes, into: type[T]) -> T:
        try:
            return msgspec.json.decode(raw, type=into)
        except UNREADABLE as e:
            raise Refused(f"the agent on {self._folder} answers nonsense: {e}") from e

    def _gone(self) -> StorageError:
        return StorageError(
            f"no agent runs on {self._folder}", hint="start it (systemctl start edgectl-agent), then repeat"
        )


def take(config: Config, given: Path) -> UpdateResult:
    """Bring the slice in `given` (or in its folder of this node's name) into the spool and have the agent apply it.

    Raises:
        ConfigError: there is no slice, it is another node's, or a file is missing or damaged; nothing was taken.
        StorageError: no agent runs, or the disk refuses.
    """
    folder = given if (given / MANIFEST).is_file() else given / config.node
    found = _manifest(folder, given, config.node)
    carried, spool = Beneath(folder), Beneath(config.folder / "spool")
    for name, file in found.files.items():
        _compare(carried, name, file.length, file.sha256)
    with Agent(config.folder) as agent:
        for name in [name for name in found.files if not name.startswith(SETUP)]:
            _copy(carried, spool, name)
        return agent.update()


def give(config: Config, out: IO[bytes]) -> int:
    """Write the agent's report and all alerts that are not released; returns how many.

    Raises:
        StorageError: no agent runs, or the disk refuses.
    """
    root = config.folder / "trust" / "root.json"
    try:
        root_sha256 = hashlib.sha256(root.read_bytes()).hexdigest()
    except OSError as e:
        raise StorageError(f"{root}: cannot be read: {e.strerror}") from e
    count = -2  # head and tail are no records
    with Agent(config.folder) as agent:
        report = agent.report()
        head = Head(edgectl_export=1, report=report, root_sha256=root_sha256, log_id=report.outbox.log_id)
        for line in airgap.write_export(head, agent.pages()):
            out.write(line)
            count += 1
    return count


def give_file(config: Config, path: Path) -> int:
    """As `give`, into a file that is there complete or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as out:
            count = give(config, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, path)
    except OSError as e:
        raise StorageError(f"{path} cannot be written: {e.strerror or e}") from e
    finally:
        part.unlink(missing_ok=True)
    return count


def _manifest(folder: Path, given: Path, node: str) -> Slice:
    try:
        found = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Slice)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{given}: holds no slice for {node}: there is no {MANIFEST}",
            hint=f"edgectl repo export --node {node} --to DIR, there where the fleet is kept",
        ) from None
    except (OSError, *UNREADABLE) as e:
        raise ConfigError(f"{folder / MANIFEST}: cannot be read: {e}", hint="copy the slice again") from e
    if found.node != node:
        raise ConfigError(f"{folder}: is the slice of {found.node}, this node is {node}")
    outside = next((n for n in found.files if not inside(n)), None)
    if outside is not None:
        raise ConfigError(f"{folder / MANIFEST}: names {outside!r}, which is not a name inside the slice")
    return found


def _compare(carried: Beneath, name: str, length: int, sha256: str) -> None:
    digest, file = hashlib.sha256(), carried.root / name
    try:
        with carried.open(name) as content:
            if os.fstat(content.fileno()).st_size != length:
                raise _damaged(file, f"{length} bytes were written")
            while block := content.read(_BLOCK):
                digest.update(block)
    except OSError as e:
        raise _damaged(file, _why(e)) from e
    if digest.hexdigest() != sha256:
        raise _damaged(file, "its SHA-256 differs")


def _damaged(file: Path, how: str) -> ConfigError:
    return ConfigError(f"{file}: is damaged or was not copied whole: {how}", hint="copy the slice again")


def _copy(carried: Beneath, spool: Beneath, name: str) -> None:
    try:
        with carried.open(name) as content, spool.replacing(name) as copy:
            shutil.copyfileobj(content, copy, _BLOCK)
    except OSError as e:
        raise StorageError(f"{spool.root / name}: cannot be written: {_why(e)}") from e


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
