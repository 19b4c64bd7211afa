"""Waits until a server that a test has started takes connections on loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path, timeout_s: float) -> None:
    """Raises `AssertionError` with the end of its `log` when it ended, or does not listen within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not listens(port):
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, f"no connection within {timeout_s} s: {log.read_text()[-2000:]}"
        time.sleep(0.02)
