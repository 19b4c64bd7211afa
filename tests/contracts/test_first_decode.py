"""Messages may be decoded by several threads from the start."""

from __future__ import annotations

import subprocess
import sys

import pytest

RACE = """
import sys, threading, msgspec
sys.setswitchinterval(1e-6)
from edgectl_agent.core.messages import {type}
start = threading.Barrier(8)
def decode():
    start.wait()
    try:
        msgspec.json.decode(b"{{}}", type={type})
    except msgspec.ValidationError:
        pass
threads = [threading.Thread(target=decode) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.parametrize("name", ["Report", "AlertPage", "UpdateResult", "Release", "Assignment"])
def test_the_first_decode_in_many_threads_at_once_does_not_crash(name: str) -> None:
    for _ in range(3):
        subprocess.run([sys.executable, "-c", RACE.format(type=name)], check=True, timeout=60)
