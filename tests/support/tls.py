"""Fleets with certificates, and a handshake without a network: what each side says about the other.

acme = Fleet(tmp_path, "acme")
assert handshake(acme.server("press-01"), acme.client(), "press-01") == ("", "")
"""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from edgectl.connectors.http import Wire, mutual
from edgectl.trust import certificates
from edgectl.trust.authority import Authority


def sign_request(
    authority: Authority, node: str, now: datetime, *names: str, life: timedelta = certificates.LIFE
) -> tuple[bytes, bytes]:
    """(certificate, private key) of a node, both PEM, as a node with its own key gets them."""
    key = certificates.new_key()
    request = certificates.request(key, node).public_bytes(Encoding.PEM)
    return authority.certify(node, names, request, now, life), certificates.key_pem(key)


_wires: list[Wire] = []


def kept(wire: Wire) -> Wire:
    """`wire`, to be closed by `hang_up`."""
    _wires.append(wire)
    return wire


def hang_up() -> None:
    """Close the connections of every wire: a command leaves that to the end of its process."""
    while _wires:
        _wires.pop().http.close()


class Fleet:
    """A certificate authority in `folder`, with an operator's certificate."""

    def __init__(self, folder: Path, name: str, passphrase: str | None = None) -> None:
        self.folder = folder
        self.authority = Authority(folder / "keys", folder / "certificates", name)
        self.authority.create(passphrase, datetime.now(UTC))
        self.authority.renew_operator("mona", passphrase, datetime.now(UTC))

        self._wire: Wire | None = None

    def wire(self) -> Wire:
        """What an operator's commands of this fleet share."""
        if self._wire is None:
            pair = self.authority.operator_certificate, self.authority.operator_key
            self._wire = kept(mutual(self.authority.trusted("nodes"), *pair))
        return self._wire

    def node_files(
        self, node: str, *names: str, now: datetime | None = None, life: timedelta = certificates.LIFE
    ) -> dict[str, Path]:
        """The files of agent.yaml's ``tls``: cert, key, client_ca."""
        made, key = sign_request(self.authority, node, now or datetime.now(UTC), *names, life=life)
        paths = {"cert": self.folder / f"{node}.crt", "key": self.folder / f"{node}.key"}
        paths["cert"].write_bytes(made)
        paths["key"].write_bytes(key)
        paths["client_ca"] = self.folder / "operators-ca.crt"
        paths["client_ca"].write_bytes(self.authority.trusted("operators"))
        return paths

    def server(self, node: str, *names: str) -> ssl.SSLContext:
        """As an agent listens."""
        files = self.node_files(node, *names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(files["cert"], files["key"])
        context.load_verify_locations(files["client_ca"])
        return context

    def client(
        self, certificate: Path | None = None, key: Path | None = None, trust: bytes | None = None
    ) -> ssl.SSLContext:
        """As the operator's tools connect."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=(trust or self.authority.trusted("nodes")).decode())
        context.load_cert_chain(certificate or self.authority.operator_certificate, key or self.authority.operator_key)
        return context


def free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[str, str]:
    """What the server's and the client's TLS library say against each other; empty where nothing."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=name),
    ]
    said = ["", ""]
    for _ in range(5):
        for i in (1, 0):
            if not said[i]:
                said[i] = _step(sides[i])
    return said[0], said[1]


def _step(side: ssl.SSLObject) -> str:
    try:
        side.do_handshake()
        side.read(1)
    except ssl.SSLWantReadError:
        return ""
    except ssl.SSLError as e:
        return str(e)
    return ""
