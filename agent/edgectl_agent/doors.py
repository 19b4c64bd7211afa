"""Every port that the agent opens, as agent.yaml says.

* The plain control API, on loopback, for this machine's own tools and whoever comes by SSH: a bearer token.
* The control API for operators elsewhere, with ``api.tls``: mutual TLS, no token.
* Ingest, if a source is of type ``http``: tokens of its own, TLS off loopback.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from edgectl_agent import contact, tls
from edgectl_agent.api import Api
from edgectl_agent.config import Config
from edgectl_agent.contact import Contact
from edgectl_agent.durable import write_file
from edgectl_agent.listener import Listener
from edgectl_agent.runtime import Runtime
from edgectl_agent.secretfile import first_line

_LOCAL = "127.0.0.1:0"


class Doors:
    """Made closed; `bind` takes the ports, `start` answers, `stop` ends. Raises `ConfigError` for wrong files."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        self._token = first_line(config.api.token_file, "api.token_file") or secrets.token_urlsafe(32)
        api, operators = Api(runtime, config.node, self._token), config.api.tls
        self._api = Listener(api.app(), config.api.listen if operators is None else _LOCAL, "api")
        self._remote = self._ingest = None
        if operators is not None:
            self._remote = Listener(api.app(token=False), config.api.listen, "api", tls.listening(operators, "api"))
        if config.ingests:
            self._ingest = _ingest(config, runtime)

    def bind(self, boot: str) -> Contact:
        """Take the ports. Raises `StorageError` if one is taken."""
        remote, ingest = (door.bind() if door else "" for door in (self._remote, self._ingest))
        return Contact(
            url=self._api.bind(), token=self._token, pid=os.getpid(), boot=boot, remote=remote, ingest=ingest
        )

    def start(self) -> None:
        for door in self._all():
            door.start()

    def stop(self) -> None:
        """End open calls within a few seconds."""
        for door in self._all():
            door.stop()

    def _all(self) -> list[Listener]:
        return [door for door in (self._api, self._remote, self._ingest) if door is not None]


def _ingest(config: Config, runtime: Runtime) -> Listener:
    from edgectl_agent.core.units import size_bytes
    from edgectl_agent.ingest import Ingest, Tokens

    said = config.ingest
    path = Path(said.token_file or config.folder / "ingest.token")
    if not said.token_file and not path.exists():
        write_file(path, f"{secrets.token_urlsafe(32)}\n".encode(), contact.mode_in(config.folder))
    found = Ingest(runtime.intakes, Tokens(path), size_bytes(said.max_body))
    secured = None if said.tls is None else tls.listening(said.tls, "ingest")
    return Listener(found.app(), said.listen, "ingest", secured, found.protocol)
