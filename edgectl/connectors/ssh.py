"""A node reached by SSH: its files by SFTP, its agent as a service, its control API through the connection.

Daily work needs no root: the user is in the agent's group, which may read ``api.json`` and fill the spool. Where that
is not so, sudo is used if it is to be had. All connectors of one node in a process share its connection.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpcore

from edgectl.connectors import Context
from edgectl.connectors.answers import Api, api, refused
from edgectl.connectors.interface import Connector
from edgectl.connectors.sftp import Upload, make_folders, put, sweep
from edgectl.connectors.ssh_host import SshHost
from edgectl.connectors.ssh_link import Link
from edgectl.connectors.ssh_reach import Reach, reach
from edgectl.connectors.tunnel import Tunnel
from edgectl.core.errors import NodeUnreachable, RemoteRefused, StorageError
from edgectl.core.last_words import ending
from edgectl.core.records import NOT_INSTALLED
from edgectl.inventory.types import Node
from edgectl.machine import layout as layouts
from edgectl.machine import service as services
from edgectl.machine.interface import Host
from edgectl.machine.layout import Layout
from edgectl.machine.service import Service
from edgectl.machine.shell import words

T = TypeVar("T")

POLL_S = 0.1
LOOK_S = 1.0
"""Between two looks at whether a starting agent's process is still there."""
LONGEST_API = 1 << 16
FILE_MODE = 0o640
"""For the agent's group; the folder above says which."""
_REMOVE = """\
if [ -n "$3" ]; then
    [ ! -d "$2" ] || find "$2" -mindepth 1 -maxdepth 1 ! -name outbox -exec rm -rf {} +
    [ ! -d "$1" ] || find "$1" -mindepth 1 -maxdepth 1 ! -path "$2" -exec rm -rf {} +
    rmdir "$1" 2> /dev/null || :
else
    rm -rf "$2" "$1"
fi
"""
"""CONFIG DATA KEEP"""


@dataclass(frozen=True)
class _Session:
    """What one agent told us about itself, and the HTTP connections to it."""

    api: Api
    tunnel: Tunnel


class SshConnector(Connector):
    """See `Connector` for the promise; making one does no I/O."""

    def __init__(self, reach: Reach, layout: Layout, service: Callable[[Host], Service] | None = None) -> None:
        self.name = reach.name
        self.host = SshHost(reach)
        self._reach = reach
        self._layout = layout
        self._service_of = service or (lambda host: services.of(host, layout))
        self._known_service: Service | None = None

    # ── machine ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def place(self, files: Mapping[str, bytes]) -> bool:
        paths = {self._layout.path(name): content for name, content in files.items()}
        root, mode = self._layout.root, FILE_MODE if self._layout.root else 0o600
        changed = [self.host.write(path, content, mode=mode, root=root) for path, content in paths.items()]
        return any(changed)

    def start(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        self._service.start(timeout_s)
        looked = time.monotonic()
        while not self._live():
            now = time.monotonic()
            if now - looked >= LOOK_S or now > deadline:
                looked = now
                if not self._service.running():
                    raise self._unreachable("the agent ended at once", lines=5)
            if now > deadline:
                raise self._unreachable(f"the agent did not answer within {timeout_s:g} s", lines=5)
            time.sleep(POLL_S)

    def stop(self, timeout_s: float = 15.0) -> None:
        self._service.stop(timeout_s)

    def remove(self, keep_data: bool = False) -> None:
        self.stop()
        arguments = (self._layout.config, self._layout.data, "keep" if keep_data else "")
        done = self.host.script(_REMOVE, *arguments, root=self._layout.root)
        if done.status:
            raise StorageError(f"node {self.name}: cannot remove its files: {done.complaint}")

    # ── wire ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def request(self, method: str, path: str, body: bytes = b"", timeout_s: float = 10.0) -> bytes:
        with self._reach.link() as link:
            session = self._session(link)
            try:
                status, answer = self._ask(session, method, path, body, timeout_s)
            except httpcore.ConnectError:
                status, answer = 0, b""
            if status in (0, 401) and (fresh := self._session(link, known=session)) != session:
                status, answer = self._ask_again(fresh, method, path, body, timeout_s)
        if status == 0 or (status == 401 and not self._service.running()):  # another program has the port now
            raise self._dead_or("nothing listens where it says")
        if status >= 400:
            raise refused(self.name, status, answer)
        return answer

    def upload(self, files: Mapping[str, bytes | Path]) -> None:
        paths = {name: self._layout.path(f"data/spool/{name}") for name in files if self._layout.path(name)}
        with self._reach.link() as link:
            for name, path in paths.items():
                try:
                    self._put(link, path, Upload.of(files[name]))
                except StorageError as e:
                    why = f"cannot put {name} into its spool: {e.message.removeprefix(f'node {self.name}: ')}"
                    raise StorageError(f"node {self.name}: {why}", hint=e.hint) from e
            if self._root_login:
                return  # root leaves nothing in the agent's folders
            with link.sftp() as sftp, suppress(OSError):  # a folder that only root may read
                for folder in {posixpath.dirname(path) for path in paths.values()}:
                    sweep(sftp, folder)

    # ── the agent ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _service(self) -> Service:
        if self._known_service is None:
            self._known_service = self._service_of(self.host)
        return self._known_service

    def _live(self) -> bool:
        try:
            with self._reach.link() as link:
                found = self._api(link)
                if found is None:
                    return False
                return self._ask(self._renewed(link, found), "GET", "/v1/live", b"", 2.0)[0] < 400
        except (NodeUnreachable, httpcore.ConnectError):
            return False

    def _session(self, link: Link, known: _Session | None = None) -> _Session:
        """How the agent is spoken to; read anew if `known` proved wrong. Raises `NodeUnreachable`: it does not run."""
        kept = link.memo.get(self._layout.api_json)
        if isinstance(kept, _Session) and kept is not known:
            return kept
        found = self._api(link)
        if found is None:
            raise self._dead()
        return known if known and known.api == found else self._renewed(link, found)

    def _renewed(self, link: Link, found: Api) -> _Session:
        kept = link.memo.get(self._layout.api_json)
        if isinstance(kept, _Session) and kept.api == found:
            return kept
        session = link.memo[self._layout.api_json] = _Session(found, Tunnel(link))
        return session

    def _api(self, link: Link) -> Api | None:
        path = self._layout.api_json
        try:
            with link.sftp() as sftp, sftp.open(path) as file:
                return api(file.read(LONGEST_API))
        except FileNotFoundError:
            return None
        except PermissionError:
            return api(self._as_root(path, "read", lambda: self.host.read(path, root=True)))
        except OSError as e:
            raise StorageError(f"node {self.name}: cannot read {path}: {e.strerror or e}") from e

    def _ask(self, session: _Session, method: str, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        headers = [("Authorization", f"Bearer {session.api.token}"), ("Content-Type", "application/json")]
        try:
            return session.tunnel.request(method, session.api.url + path, headers, body, timeout_s)
        except httpcore.TimeoutException as e:
            raise self._unreachable(f"no answer to {path} within {timeout_s:g} s", lines=1) from e
        except httpcore.ConnectError:
            raise
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as e:
            raise self._dead_or(str(e) or "it broke off") from e

    def _ask_again(self, session: _Session, *call: object) -> tuple[int, bytes]:
        try:
            return self._ask(session, *call)  # type: ignore[arg-type]
        except httpcore.ConnectError:
            return 0, b""

    # ── the spool ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _root_login(self) -> bool:
        """Whether SFTP would write as root: it follows whatever link the agent's user has put there."""
        return self._layout.root and self.host.is_root

    def _put(self, link: Link, path: str, upload: Upload) -> None:
        folder = posixpath.dirname(path)
        if self._root_login:
            self.host.write(path, upload.content, mode=FILE_MODE, root=True)
            return
        try:
            with link.sftp() as sftp:
                try:
                    put(sftp, path, upload, FILE_MODE, whole=self.host.whole)
                except FileNotFoundError:
                    make_folders(sftp, folder, 0o2770 if self._layout.root else 0o700)
                    put(sftp, path, upload, FILE_MODE, whole=self.host.whole)
        except PermissionError:
            content = upload.content
            self._as_root(path, "write", lambda: self.host.write(path, content, mode=FILE_MODE, root=True))
        except OSError as e:
            raise self.host.refuses(path, e, upload.size) from e

    def _as_root(self, path: str, verb: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except RemoteRefused as e:
            user = self._reach.target().last.user
            raise RemoteRefused(
                f"node {self.name}: {user} may not {verb} {path}, is not in group {self._layout.user}, and {e.message}",
                status=403,
                hint=f"edgectl nodes bootstrap {self.name}",
                reason="no-root",
            ) from e

    # ── what to say ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _dead(self) -> NodeUnreachable:
        traces = (self._layout.agent_yaml, self._layout.current, self._layout.unit)
        if self.host.run(" || ".join(words("test", "-e", trace) for trace in traces)).status:
            fix = f"edgectl nodes bootstrap {self.name}"
            return NodeUnreachable(f"node {self.name}: {NOT_INSTALLED}", hint=fix, reason="not-installed")
        return self._unreachable("the agent does not run", f"edgectl nodes start {self.name}", lines=1)

    def _dead_or(self, why: str) -> NodeUnreachable:
        if not self._service.running():
            return self._dead()
        return self._unreachable(f"the agent runs and does not answer: {why}", f"edgectl nodes restart {self.name}")

    def _unreachable(self, why: str, fix: str | None = None, lines: int = 0) -> NodeUnreachable:
        return NodeUnreachable(f"node {self.name}: {why}{ending(self._last_words(lines))}", hint=fix)

    def _last_words(self, lines: int) -> list[str]:
        """Best effort: it must not hide the error that asks for it."""
        try:
            return self._service.last_words(lines) if lines else []
        except (NodeUnreachable, RemoteRefused):
            return []


def connector(node: Node, context: Context) -> SshConnector:
    """How `node` is reached."""
    return SshConnector(reach(node, context), layouts.of(node))
