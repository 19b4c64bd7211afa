"""Calls a URL per alert, on a connection of its own that is cut when its time is up."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from edgectl_agent.action_config import WebhookAction
from edgectl_agent.actions.interface import EffectFailed, Effector, EffectUnknown
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.template import Payload, Values
from edgectl_agent.secretfile import first_line
from edgectl_agent.tls import calling


class WebhookEffector(Effector):
    """See the module."""

    def __init__(self, config: WebhookAction, key: str) -> None:
        self._config, self._key, self._payload = config, key, Payload.parse(config.payload)
        self._url = urlsplit(config.url)
        self._connection: http.client.HTTPConnection | None = None

    def describe(self, values: Values) -> str:
        return f"{self._config.method} {self._config.url}: {self._payload.render(values).decode()}"

    def run(self, values: Values, key: str, allowed: frozenset[str]) -> None:
        config, payload, sent = self._config, self._payload.render(values), False
        try:
            headers = self._headers(key)
            connection = self._connection = self._open()
            end = threading.Timer(config.timeout_s, self.abort)  # a server may send one byte after the other, for ever
            end.daemon = True
            end.start()
            try:
                connection.connect()
                sent = True
                target = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
                connection.request(config.method, target, payload, headers)
                answer = connection.getresponse()
                status, reason = answer.status, answer.reason
            finally:
                end.cancel()
                connection.close()
        except ConfigError as e:
            raise EffectFailed(str(e)) from e
        except ssl.SSLCertVerificationError as e:
            raise EffectFailed(f"{config.url}: its certificate is not trusted: {e.verify_message}") from e
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as e:
            why = str(getattr(e, "strerror", None) or e or type(e).__name__)
            if sent:
                raise EffectUnknown(f"{config.url} gave no answer within {config.timeout_s:g} s: {why}") from e
            raise EffectFailed(f"{config.url} cannot be reached: {why}") from e
        if not 200 <= status < 300:
            raise EffectFailed(f"{config.url} answered {status} {reason}")

    def abort(self) -> None:
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _headers(self, key: str) -> dict[str, str]:
        """Each name once, however it is written. Raises `ConfigError`, in which no secret stands."""
        config = self._config
        kind = "application/json" if self._payload.text is None else "text/plain; charset=utf-8"
        found = {"content-type": kind, "user-agent": "edgectl-agent"}
        found |= {name.lower(): value for name, value in config.headers.items()}
        found[config.idempotency_header.lower()] = key
        for name, path in config.header_files.items():
            where = f"{self._key}.header_files.{name}"
            found[name.lower()] = secret = first_line(path, where)
            if any(not " " <= c <= "~" for c in secret):
                raise ConfigError(f"{where}: {path}: expected one line of ASCII")
        return found

    def _open(self) -> http.client.HTTPConnection:
        host, port, timeout_s = self._url.hostname or "", self._url.port, self._config.timeout_s
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        trust = calling(self._config.tls, f"{self._key}.tls")
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=trust)
