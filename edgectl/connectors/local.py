"""A node that is a process on this machine.

``base`` holds ``agent.yaml``, ``agent.pid``, ``agent.out`` (what the process printed) and the agent's ``data/``. A
process is the node's agent only if its command line names this very ``agent.yaml``: a recycled pid is never killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from edgectl.connectors.answers import Api, api, refused
from edgectl.connectors.interface import Connector
from edgectl.core.errors import NodeUnreachable, StorageError
from edgectl.core.last_words import ending
from edgectl.files import replace, write_file

if TYPE_CHECKING:
    import psutil

CONFIG = "agent.yaml"
AGENT = (sys.executable, "-P", "-m", "edgectl_agent")
"""-P: a folder called edgectl_agent where the operator stands must not be imported."""
POLL_S = 0.05
OUTPUT_LIMIT = 1_000_000


class LocalConnector(Connector):
    """The agent below `base`; see `Connector` for the promise."""

    def __init__(self, name: str, base: Path, command: Sequence[str] = AGENT) -> None:
        self.name = name
        self.base = base
        self.command = command
        self.data = base / "data"
        self._client: httpx.Client | None = None

    # ── machine ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def place(self, files: Mapping[str, bytes]) -> bool:
        changed = [write_file(_inside(self.base, name), content, 0o600) for name, content in files.items()]
        return any(changed)

    def start(self, timeout_s: float = 30.0) -> None:
        if not (self.base / CONFIG).is_file():
            raise self._unreachable(f"it has no {CONFIG}", f"edgectl nodes start {self.name}")
        deadline = time.monotonic() + timeout_s
        pid = None if self._process() else self._spawn()
        while not self._live():
            if pid is not None and self._process() is None:
                raise self._unreachable("the agent ended at once", lines=5)
            if time.monotonic() > deadline:
                raise self._unreachable(f"the agent did not answer within {timeout_s:g} s", lines=5)
            time.sleep(POLL_S)

    def stop(self, timeout_s: float = 15.0) -> None:
        import psutil

        process = self._process()
        if process is None:
            return
        children = process.children(recursive=True)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout_s)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(5)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.close()

    def remove(self, keep_data: bool = False) -> None:
        self.stop()
        keep = {self.data / "outbox"} if keep_data else set()
        try:
            for path in [p for f in (self.data, self.base) if f.is_dir() for p in f.iterdir()]:
                if path not in keep and not any(path in kept.parents for kept in keep):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            if not keep and self.base.is_dir():
                self.base.rmdir()
        except OSError as e:
            raise StorageError(f"node {self.name}: cannot remove {e.filename}: {e.strerror}") from e

    # ── wire ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def request(self, method: str, path: str, body: bytes = b"", timeout_s: float = 10.0) -> bytes:
        found = self._api()
        if found is None:
            raise self._unreachable("the agent does not run", f"edgectl nodes start {self.name}", lines=1)
        headers = {"Authorization": f"Bearer {found.token}", "Content-Type": "application/json"}
        try:
            answer = self._http().request(method, found.url + path, content=body, headers=headers, timeout=timeout_s)
        except httpx.TimeoutException as e:
            raise self._unreachable(f"no answer to {path} within {timeout_s:g} s", lines=1) from e
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as e:
            raise self._dead_or(str(e)) from e
        if answer.status_code < 400:
            return answer.content
        if answer.status_code == 401 and self._process() is None:  # another program has the port now
            raise self._dead_or("it has another agent's port")
        raise refused(self.name, answer.status_code, answer.content)

    def upload(self, files: Mapping[str, bytes | Path]) -> None:
        for name, content in files.items():
            target = _inside(self.data / "spool", name)
            try:
                replace(target, content)
            except OSError as e:
                raise StorageError(f"node {self.name}: cannot put {name} into its spool: {e.strerror}") from e

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # ── the process ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _spawn(self) -> int:
        (self.data / "api.json").unlink(missing_ok=True)  # of a killed agent: its port may be another program's now
        output = self.base / "agent.out"
        if output.exists() and output.stat().st_size > OUTPUT_LIMIT:
            output.unlink()
        command = [*self.command, "run", "--config", str(self.base / CONFIG)]
        written = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(output), written, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,  # Ctrl-C at this terminal is not meant for the agent
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )
        write_file(self.base / "agent.pid", str(pid).encode(), 0o600)
        return pid

    def _process(self) -> psutil.Process | None:
        """The running agent, found by the pid that we or it wrote down and proved by its command line."""
        import psutil

        for pid in self._pids():
            with contextlib.suppress(ChildProcessError):  # a dead child of ours stays a zombie until we ask
                os.waitpid(pid, os.WNOHANG)
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if str(self.base / CONFIG) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    return process
        return None

    def _pids(self) -> Iterator[int]:
        found = self._api()
        if found is not None:
            yield found.pid
        for path in (self.base / "agent.pid", self.data / "agent.lock"):  # the latter if somebody else started it
            with contextlib.suppress(OSError, ValueError):
                yield int(path.read_text())

    def _live(self) -> bool:
        found = self._api()
        if found is None or self._process() is None:
            return False
        try:
            return self._http().get(found.url + "/v1/live", timeout=2.0).is_success
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            return False

    def _api(self) -> Api | None:
        try:
            return api((self.data / "api.json").read_bytes())
        except OSError:
            return None

    def _http(self) -> httpx.Client:
        if self._client is None:
            self._client = httpx.Client(trust_env=False)  # a proxy has no business on the loopback
        return self._client

    # ── what to say ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _dead_or(self, why: str) -> NodeUnreachable:
        if self._process() is None:
            return self._unreachable("the agent does not run", f"edgectl nodes start {self.name}", lines=1)
        return self._unreachable(f"the agent runs and does not answer: {why}", f"edgectl nodes restart {self.name}")

    def _unreachable(self, why: str, fix: str | None = None, lines: int = 0) -> NodeUnreachable:
        tail = ending(self._last_words(lines) if lines else [])
        return NodeUnreachable(f"node {self.name}: {why}{tail}", hint=fix)

    def _last_words(self, lines: int) -> list[str]:
        """The last lines of what the process printed or, if it is newer, of its log."""
        found = [p for p in (self.base / "agent.out", self.data / "agent.log") if p.is_file() and p.stat().st_size]
        for path in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)[:1]:
            with path.open(errors="replace") as file:
                return list(deque(file, lines))
        return []


def _inside(folder: Path, name: str) -> Path:
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise ValueError(f"not a name inside the node's folder: {name!r}")
    return folder / name
