"""What a signal handler and other threads wake the worker by."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

from edgectl_agent.wake import Wake


def test_a_wait_ends_when_it_is_set_before_or_meanwhile_and_only_once() -> None:
    wake, begun = Wake(), time.monotonic()
    wake.set()
    wake.set()
    wake.wait(60)
    timer = threading.Timer(0.05, wake.set)
    timer.start()
    wake.wait(60)
    timer.join()
    assert time.monotonic() - begun < 60, "each was woken"
    begun = time.monotonic()
    wake.wait(0.05)
    assert time.monotonic() - begun > 0.04, "nobody set it a third time"
    wake.close()
    wake.set()


def test_setting_it_ever_so_often_neither_waits_nor_fails() -> None:
    wake = Wake()
    for _ in range(100_000):
        wake.set()
    wake.wait(60)
    wake.close()


STORM = """
import os, signal
from edgectl_agent.wake import Wake
wake, seen = Wake(), 0
def handle(*_):
    global seen
    seen += 1
    wake.set()
signal.signal(signal.SIGTERM, handle)
print("ready", flush=True)
while seen < 2000:
    wake.wait(0.001)
    wake.set()
print("done", flush=True)
os._exit(0)
"""


def test_signals_that_interrupt_whoever_waits_or_sets_it_never_stop_it() -> None:
    with subprocess.Popen([sys.executable, "-c", STORM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        storm = threading.Thread(target=_signal_until_it_ends, args=(process,))
        storm.start()
        try:
            assert process.wait(120) == 0
        finally:
            process.kill()
            storm.join()
        assert process.stdout.read() == "done\n"


def _signal_until_it_ends(process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
