"""A real OPC UA server on the loopback, a process of its own so that it can be killed; and its main program.

Its nodes are ``ns=2;s=NAME`` of `NODES`, written by lines of JSON on its standard input.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

from tests.support.mosquitto import free_port

NODES = ("vib", "temp", "text")


class Server:
    """Keeps its port when it is started again."""

    def __init__(self) -> None:
        self.url = f"opc.tcp://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.support.opcua", self.url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._answer() == b"ready\n"

    @property
    def running(self) -> bool:
        return self._process is not None

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None

    def write(self, **values: Any) -> None:
        """Give nodes new values, all at once; ``ts`` is their source time in seconds, ``status`` a code."""
        assert self._process is not None
        assert self._process.stdin
        self._process.stdin.write(json.dumps(values).encode() + b"\n")
        self._process.stdin.flush()
        assert self._answer() == b"written\n"

    def _answer(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout
        return self._process.stdout.readline()


async def _serve(url: str) -> None:
    from asyncua import ua
    from asyncua.server.server import Server as UaServer

    server = UaServer()
    await server.init()
    server.set_endpoint(url)
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    await server.register_namespace("urn:plant")
    nodes = {
        name: await server.nodes.objects.add_variable(
            ua.NodeId.from_string(f"ns=2;s={name}"), ua.QualifiedName(name, 2), "" if name == "text" else 0.0
        )
        for name in NODES
    }
    async with server:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            found = json.loads(line)
            moment = datetime.fromtimestamp(found.pop("ts"), UTC)
            status = ua.StatusCode(found.pop("status", 0))
            for name, value in found.items():
                written = ua.DataValue(ua.Variant(value), StatusCode=status, SourceTimestamp=moment)
                await nodes[name].write_value(written)
            print("written", flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
