"""A real receiver in this process, and nodes that report to it, for the contract of connectors."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from edgectl.connectors.interface import Connector
from edgectl.connectors.pull import PullConnector
from edgectl.core.errors import NodeUnreachable, RemoteRefused
from edgectl.hub import server
from edgectl.hub.app import build
from edgectl.hub.hub import Hub
from edgectl.store.store import Store

EVERY_S, SILENT_AFTER_S = 1.0, 3.0


class Receiver:
    """What `edgectl serve` runs, in a thread, over a store in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store("sqlite:///store.db", folder).open()
        listen = server.Listen(host="127.0.0.1", port=0)
        self._taken = server.bind(listen)
        self.url = f"http://127.0.0.1:{self._taken.getsockname()[1]}"
        self._server = server.serving(build(Hub("acme", self.store, folder / "repo")), listen)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._taken]})
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._taken.close()
        self.store.close()

    def node(self, machine: Connector, name: str) -> Pulled:
        """A node that `machine` manages, told to report here."""
        (self.folder / "token").write_text(self.store.credentials.issue(name, time.time_ns()))
        said = {"url": self.url, "token_file": str(self.folder / "token")}
        machine.place({"uplink.json": json.dumps(said).encode()})
        return Pulled(machine, name, self)


class Pulled(PullConnector):
    """Its wire half is the product's; its machine half is another connector's, in place of somebody on the spot."""

    def __init__(self, machine: Connector, name: str, receiver: Receiver) -> None:
        super().__init__(
            name,
            store=receiver.store,
            repository=receiver.folder / "repo",
            every_s=EVERY_S,
            silent_after_s=SILENT_AFTER_S,
        )
        self._machine = machine

    def place(self, files: Mapping[str, bytes]) -> bool:
        return self._machine.place(files)

    def start(self, timeout_s: float = 30.0) -> None:
        """And wait until it has said something, even nonsense."""
        self._machine.start(timeout_s)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                self.request("GET", "/v1/status")
            except NodeUnreachable:
                time.sleep(0.05)
            except RemoteRefused:
                return
            else:
                return

    def stop(self, timeout_s: float = 15.0) -> None:
        self._machine.stop(timeout_s)

    def remove(self, keep_data: bool = False) -> None:
        self._machine.remove(keep_data)

    def close(self) -> None:
        self._machine.close()
