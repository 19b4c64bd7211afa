"""A node that no network reaches: whatever it shall get or give is carried there by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgectl.connectors.interface import Connector
from edgectl.core.errors import BY_HAND, NodeUnreachable


class UsbConnector(Connector):
    """Never reached; every call says what to carry. `remove` does nothing: what is there is its owner's to remove."""

    def __init__(self, name: str) -> None:
        self.name = name

    def place(self, files: Mapping[str, bytes]) -> bool:
        del files
        raise self._by_hand()

    def start(self, timeout_s: float = 30.0) -> None:
        del timeout_s
        raise self._by_hand()

    def stop(self, timeout_s: float = 15.0) -> None:
        del timeout_s
        raise self._by_hand()

    def remove(self, keep_data: bool = False) -> None:
        del keep_data

    def request(self, method: str, path: str, body: bytes = b"", timeout_s: float = 10.0) -> bytes:
        del method, path, body, timeout_s
        raise self._by_hand()

    def upload(self, files: Mapping[str, bytes | Path]) -> None:
        del files
        raise self._by_hand()

    def _by_hand(self) -> NodeUnreachable:
        # The way on is in the message itself, because a journal keeps no hints.
        way = f"edgectl repo export --node {self.name} --to DIR"
        return NodeUnreachable(f"node {self.name}: is reached by hand → {way}", reason=BY_HAND)
