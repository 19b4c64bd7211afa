"""A connection through a jump host whose own connection ends first."""

from __future__ import annotations

import socket

import paramiko
import pytest

from edgectl.connectors.ssh_link import Transport


class Unclosable:
    """A channel of a connection that is gone."""

    def __init__(self, beneath: socket.socket) -> None:
        self._beneath = beneath

    def __getattr__(self, name: str) -> object:
        return getattr(self._beneath, name)

    def close(self) -> None:
        self._beneath.close()
        raise EOFError


def test_a_transport_that_cannot_close_its_socket_ends_without_a_traceback() -> None:
    ours, theirs = socket.socketpair()
    transport = Transport(Unclosable(ours))
    transport.packetizer.close = lambda: None  # it would close the socket before the thread does
    theirs.close()
    with pytest.raises((paramiko.SSHException, EOFError)):
        transport.start_client(timeout=60)
    transport.join(60)
    assert not transport.is_alive()
