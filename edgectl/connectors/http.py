"""A node whose control API is reached by HTTP: mutual TLS with the fleet's own certificates, or a token on loopback.

Only the wire half is HTTP's. Files and process are its machine's matter, so that half is another connector's: SSH where
fleet.yaml says how to log in, else nobody's here, and the message says so.

Connections are kept and used again for all nodes of a process; the machine's trust store and proxies are never used.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx

from edgectl.connectors import answers, tls_peer
from edgectl.connectors.interface import Connector
from edgectl.core.errors import (
    ConfigError,
    ExpiredError,
    NodeUnreachable,
    NodeUntrusted,
    RemoteRefused,
    StorageError,
    TrustError,
)

CONNECT_S = 10.0
PUT_S = 60.0
"""How long an upload may make no progress."""
_KEPT = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=4.0)
"""An agent closes a connection that was idle for 5 s: one that we would use just then must be closed by us before."""
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Wire:
    """What all nodes of a process share: the client with its connections, and how to make a TLS context like its own.

    Without `fresh` it speaks no TLS.
    """

    http: httpx.Client
    fresh: Callable[[], ssl.SSLContext] | None = None


Wired = Callable[[], Wire]
"""Hands out the process's wire. Raises `TrustError` if there are no certificates, `ExpiredError` if ours has ended."""


class HttpConnector(Connector):
    """One agent at `url`; see `Connector` for the promise."""

    def __init__(
        self,
        name: str,
        url: str,
        wired: Wired,
        token: Callable[[], str] | None = None,
        machine: Connector | None = None,
    ) -> None:
        """`url` is as `edgectl.inventory.doors.base_url` gives it; `machine` has the half that HTTP has not."""
        self.name = name
        self._url, self._wired, self._token, self._machine = url, wired, token, machine

    # ── machine ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def place(self, files: Mapping[str, bytes]) -> bool:
        return self._host().place(files)

    def start(self, timeout_s: float = 30.0) -> None:
        self._host().start(timeout_s)
        self.request("GET", "/v1/live")

    def stop(self, timeout_s: float = 15.0) -> None:
        self._host().stop(timeout_s)

    def remove(self, keep_data: bool = False) -> None:
        self._host().remove(keep_data)

    def _host(self) -> Connector:
        if self._machine is None:
            raise ConfigError(
                f"node {self.name} is reached by HTTP only: its files and its agent are managed where it lives",
                hint="say connect.user, and they are managed by SSH",
            )
        return self._machine

    # ── wire ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def request(self, method: str, path: str, body: bytes = b"", timeout_s: float = 10.0) -> bytes:
        headers = {"Content-Type": "application/json"}
        return self._send(method, path, body, headers, timeout_s).content

    def upload(self, files: Mapping[str, bytes | Path]) -> None:
        for name, content in files.items():
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise ValueError(f"not a name inside the node's folder: {name!r}")
            try:
                self._put(name, content)
            except OSError as e:
                raise StorageError(f"node {self.name}: cannot put {name} into its spool: {e.strerror}") from e

    def close(self) -> None:
        if self._machine is not None:
            self._machine.close()

    def _put(self, name: str, content: bytes | Path) -> None:
        """One file; a cut upload leaves the old one and is begun again from its start by whoever retries."""
        digest, size = _sha256(content)
        headers = {"Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:", "Content-Length": str(size)}
        body = content if isinstance(content, bytes) else _blocks(content)
        try:
            self._send("PUT", f"/v1/spool/{quote(name)}", body, headers, PUT_S)
        except RemoteRefused as e:
            if e.reason in ("storage", "disk-full"):
                raise StorageError(e.message, reason=e.reason) from e
            raise

    def _send(
        self, method: str, path: str, body: bytes | Iterator[bytes], headers: dict[str, str], timeout_s: float
    ) -> httpx.Response:
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token()}"
        limits = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
        try:
            wire = self._wired()
            answer = wire.http.request(method, self._url + path, content=body, headers=headers, timeout=limits)
        except TrustError as e:
            expired = isinstance(e, ExpiredError)
            raise NodeUntrusted(f"node {self.name}: {e.message}", hint=e.hint, expired=expired) from e
        except httpx.ConnectTimeout as e:
            raise self._unreachable(f"{self._place} does not answer within {limits.connect:g} s") from e
        except httpx.TimeoutException as e:
            raise self._unreachable(f"no answer to {path} within {timeout_s:g} s") from e
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            raise self._failed(e) from e
        if answer.status_code < 400:
            return answer
        refusal = answers.refused(self.name, answer.status_code, answer.content)
        if refusal.status == 401:
            raise RemoteRefused(refusal.message, status=401, reason="unauthorized", exit_code=TrustError.exit_code)
        raise refusal

    # ── what to say ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _place(self) -> str:
        return urlsplit(self._url).netloc

    def _failed(self, error: Exception) -> NodeUnreachable:
        """The sentence for a connection that was not made or broke, with a look at the other side's certificate."""
        chain = list(_causes(error))
        if urlsplit(self._url).scheme == "https" and not any(isinstance(e, ConnectionRefusedError) for e in chain):
            said = next((e for e in chain if isinstance(e, ssl.SSLError)), None)
            found = tls_peer.explain(self._url, said, self._wired().fresh)
            if found is not None:
                return NodeUntrusted(
                    f"node {self.name}: {found.sentence}", hint=found.hint or None, expired=found.expired
                )
        if any(isinstance(e, ConnectionRefusedError) for e in chain):
            self._ask_machine()
            return self._unreachable(f"nothing listens at {self._place}")
        said_os = next((e.strerror for e in chain if isinstance(e, OSError) and e.strerror), "")
        return self._unreachable(f"{self._place}: {said_os or error}")

    def _ask_machine(self) -> None:
        """Whoever manages the machine may know better why nothing listens. Raises `NodeUnreachable` then."""
        if self._machine is not None:
            self._machine.request("GET", "/v1/live", timeout_s=CONNECT_S)

    def _unreachable(self, why: str) -> NodeUnreachable:
        return NodeUnreachable(f"node {self.name}: {why}", hint=f"edgectl nodes why {self.name} --ask")


def plain() -> Wire:
    """For loopback alone."""
    return Wire(httpx.Client(verify=False, trust_env=False, limits=_KEPT))


def mutual(trusted: bytes, certificate: Path, key: Path) -> Wire:
    """Shows `certificate` and believes servers that `trusted` (PEM) has issued for, and no others."""

    def fresh() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=trusted.decode())
        context.load_cert_chain(certificate, key)
        return context

    return Wire(httpx.Client(verify=fresh(), trust_env=False, limits=_KEPT), fresh)


def _sha256(content: bytes | Path) -> tuple[bytes, int]:
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest(), len(content)
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        return digest, file.tell()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
