"""TLS contexts of the agent's listeners, and of sources and actions that call a server.

For listeners the fleet's own certificates only, never the machine's trust store; TLS 1.2 at least. A certificate that
is replaced on disk is used from the next connection on; another `client_ca` needs a restart.
"""

from __future__ import annotations

import os
import ssl

from edgectl_agent.config import ClientTls, MutualTls, Tls
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.logs import warn


def calling(said: ClientTls, key: str) -> ssl.SSLContext:
    """Whom this node trusts and how it proves itself to a server; read anew each time. Raises `ConfigError`."""
    try:
        context = ssl.create_default_context(cafile=said.ca_file or None)
    except (OSError, ssl.SSLError) as e:
        raise ConfigError(f"{key}.ca_file: {said.ca_file}: expected PEM, found: {e.strerror or e}") from e
    if said.cert:
        try:
            context.load_cert_chain(said.cert, said.key)
        except (OSError, ssl.SSLError) as e:
            raise ConfigError(f"{key}: {said.cert} and {said.key}: expected PEM that fits, found: {e}") from e
    return context


def listening(tls: Tls, key: str) -> ssl.SSLContext:
    """The context of a listener; with `MutualTls` a client certificate is demanded.

    Args:
        key: the setting that messages name, ``api`` or ``ingest``.

    Raises:
        ConfigError: a file is missing, not PEM, or certificate and key do not belong together.
    """
    context = _context(tls, key)
    held = _Held(tls, key, context)
    context.sni_callback = held.refresh
    return context


def _context(tls: Tls, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(key, "cert", tls.cert, lambda: context.load_cert_chain(tls.cert, tls.key), tls.key)
    if isinstance(tls, MutualTls):
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        _load(key, "client_ca", tls.client_ca, lambda: context.load_verify_locations(tls.client_ca))
    return context


def _load(key: str, setting: str, path: str, load: object, *more: str) -> None:
    for name in (path, *more):
        if not os.access(name, os.R_OK):
            why = "no such file" if not os.path.exists(name) else "not readable"
            raise ConfigError(f"{key}.tls: {name}: {why}", hint="edgectl nodes configure puts it there")
    try:
        load()  # type: ignore[operator]
    except (ssl.SSLError, OSError, ValueError) as e:
        both = " and ".join((path, *more))
        raise ConfigError(f"{key}.tls.{setting}: {both}: expected PEM that fits, found: {e}") from e


class _Held:
    """What a listener's certificate is now, to see when it is replaced."""

    def __init__(self, tls: Tls, key: str, context: ssl.SSLContext) -> None:
        self._tls, self._key, self._context = tls, key, context
        self._seen = self._stamp()

    def refresh(self, side: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called at the beginning of each handshake: two looks at the disk, and a reload when something changed."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        try:
            side.context = _context(self._tls, self._key)  # this connection
            self._context.load_cert_chain(self._tls.cert, self._tls.key)  # and those after it
            self._seen = stamp
        except (ConfigError, ssl.SSLError, OSError) as e:  # half replaced: the old one holds until both fit
            warn("certificate-not-taken", message=str(e))

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        return tuple(_look(path) for path in (self._tls.cert, self._tls.key))


def _look(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ino)
