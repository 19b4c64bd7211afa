"""HTTP as a node speaks it to servers that it does not trust: every size, time and redirect has a limit.

The only file that knows urllib3. Proxies come from the environment (``HTTPS_PROXY``, ``NO_PROXY`` …), answers are taken
as they are on the wire: nothing is decompressed, so nothing can blow up.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import urllib3

from edgectl_agent import __version__
from edgectl_agent.uplink.interface import UplinkError

_CHUNK = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait: for a connection, for the next byte, and for all of a body."""

    connect_s: float = 10.0
    stall_s: float = 30.0
    body_s: float = 60.0
    slowest_bytes_s: float = 1000.0
    """A body may take `body_s` and its length at this rate."""

    def for_bytes(self, length: int) -> float:
        return self.body_s + length / self.slowest_bytes_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Status and headers (names in lower case), and the body as it arrives."""

    status: int
    headers: Mapping[str, str]
    body: Iterator[bytes]
    url: str

    def read(self, limit: int) -> bytes:
        """The whole body. Raises `UplinkError` for more than `limit` bytes."""
        found = bytearray()
        for part in self.body:
            found += part
            if len(found) > limit:
                raise UplinkError(f"{self.url}: more than {limit} bytes came")
        return bytes(found)


class Web:
    """Connections to one server. Used by one thread."""

    def __init__(self, ca_file: str = "", patience: Patience | None = None, redirects: bool = False) -> None:
        """`redirects`: follow a few of them, never from https to http. For what is public only: a token must not
        travel on."""
        self._ca_file = ca_file
        self._patience = patience or Patience()
        self._redirects = _MOST_REDIRECTS if redirects else 0
        self._pools: dict[str, urllib3.PoolManager] = {}

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None, length: int = 0) -> Iterator[Reply]:
        """One GET; `length` is what is expected at most. Raises `UplinkError`, also for the block's reading."""
        with self._request("GET", url, dict(headers or {}), None, length) as reply:
            yield reply

    def post(self, url: str, body: bytes, headers: Mapping[str, str], limit: int) -> tuple[int, bytes, str]:
        """One POST: (status, body, Retry-After). Raises `UplinkError` without an answer."""
        with self._request("POST", url, dict(headers), body, limit) as reply:
            return reply.status, reply.read(limit), reply.headers.get("retry-after", "")

    def close(self) -> None:
        for pool in self._pools.values():
            pool.clear()
        self._pools.clear()

    @contextmanager
    def _request(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, length: int
    ) -> Iterator[Reply]:
        headers |= {"Accept-Encoding": "identity", "User-Agent": f"edgectl-agent/{__version__}"}
        response: urllib3.BaseHTTPResponse | None = None
        try:
            response, found = self._follow(method, url, headers, body)
            plain = {name.lower(): value for name, value in response.headers.items()}
            if plain.get("content-encoding", "identity") not in ("identity", ""):
                raise UplinkError(
                    f"{found}: came compressed ({plain['content-encoding'][:40]}), which was not asked for"
                )
            yield Reply(status=response.status, headers=plain, body=self._parts(response, found, length), url=found)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, ssl.SSLError, OSError, ValueError) as e:
            raise _explain(url, e) from e
        finally:
            if response is not None:  # read to its end, the connection is kept for the next request already
                response.close()
                response.release_conn()

    def _follow(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        for left in range(self._redirects, -1, -1):
            response = self._pool(url).request(
                method, url, body=body, headers=headers, preload_content=False, decode_content=False, redirect=False
            )
            if response.status not in _REDIRECTS:
                return response, url
            target = urljoin(url, response.headers.get("Location", ""))
            response.close()
            if not left:
                raise UplinkError(f"{url}: redirects to {target[:200]}, which is not followed", act=True)
            if urlsplit(target).scheme not in ("https", urlsplit(url).scheme):
                raise UplinkError(f"{url}: redirects to {target[:200]}, away from https", act=True)
            url = target
        raise AssertionError("the last round returns or raises")

    def _pool(self, url: str) -> urllib3.PoolManager:
        proxy, patience = _proxy(url), self._patience
        if proxy not in self._pools:
            timeout = urllib3.Timeout(connect=patience.connect_s, read=patience.stall_s)
            trust = _trust(self._ca_file)
            if proxy:
                headers = _proxy_headers(proxy)
                self._pools[proxy] = urllib3.ProxyManager(
                    proxy, proxy_headers=headers, timeout=timeout, retries=False, maxsize=1, ssl_context=trust
                )
            else:
                self._pools[proxy] = urllib3.PoolManager(timeout=timeout, retries=False, maxsize=1, ssl_context=trust)
        return self._pools[proxy]

    def _parts(self, response: urllib3.BaseHTTPResponse, url: str, length: int) -> Iterator[bytes]:
        deadline = time.monotonic() + self._patience.for_bytes(length)
        while part := response.read1(_CHUNK, decode_content=False):  # what has arrived: a drip must not hold us
            yield part
            if time.monotonic() > deadline:
                raise UplinkError(f"{url}: its body came slower than {self._patience.slowest_bytes_s:g} bytes a second")


def retry_after_s(text: str, now_s: float) -> float:
    """Seconds that a ``Retry-After`` asks for, written as a number or a date; 0 if it says nothing."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _proxy(url: str) -> str:
    parts = urlsplit(url)
    if urllib.request.proxy_bypass_environment(parts.hostname or ""):  # type: ignore[attr-defined]
        return ""
    found = urllib.request.getproxies_environment()
    return found.get(parts.scheme) or found.get("all") or ""


def _proxy_headers(proxy: str) -> Mapping[str, str]:
    parts = urlsplit(proxy)
    if not parts.username:
        return {}
    return urllib3.make_headers(proxy_basic_auth=f"{parts.username}:{parts.password or ''}")


def _trust(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as e:
        why = e.strerror if not isinstance(e, ssl.SSLError) and e.strerror else "no PEM certificate"
        raise UplinkError(f"ca_file {ca_file} cannot be used: {why}", act=True) from e


def _explain(url: str, error: Exception) -> UplinkError:
    where = urlsplit(url)
    server = f"{where.scheme}://{where.netloc}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UplinkError(f"{server}: its certificate is not trusted: {cause.verify_message}", act=True)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return UplinkError(f"{server}: no such host, or no name server answers")
    if isinstance(error, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ProxyError):
        return UplinkError(f"{server}: cannot connect: {_last(error)}")
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return UplinkError(f"{server}: no answer in time")
    if isinstance(error, urllib3.exceptions.IncompleteRead | urllib3.exceptions.ProtocolError):
        return UplinkError(f"{server}: the connection broke off: {_last(error)}")
    return UplinkError(f"{server}: {_last(error)}")


def _last(error: BaseException) -> str:
    """The innermost cause in words: urllib3's own texts show addresses of objects."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return str(text)[:200]
