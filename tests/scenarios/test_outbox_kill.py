"""A writer killed by SIGKILL at random moments: what it acknowledged to the outside is there, whole and in order."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from edgectl_agent.outbox import Outbox, Record

KILLS = 20
WRITER = """
import hashlib, os, sys
from pathlib import Path
from edgectl_agent.outbox import Outbox

outbox = Outbox(Path(sys.argv[1]), boot=sys.argv[2], limit_bytes=200_000_000, segment_bytes=65_536)
report = outbox.open()
assert not report.lost and not report.damaged and not report.failures, report
seq = report.head_seq
while True:
    for _ in range(1 + seq % 40):
        seq += 1
        text = b"%d " % seq
        assert outbox.append(text + hashlib.sha256(text).hexdigest().encode(), seq * 1_000_000) == seq
    os.write(1, b"%d\\n" % outbox.commit())
    if seq % 7 == 0 and seq > 1000:
        outbox.release(seq - 1000)
"""


def run_until_killed(folder: Path, boot: int, acknowledgements: int) -> int:
    """The highest sequence that a writer told us is safe; it is killed right after telling, or while writing on."""
    command = [sys.executable, "-c", WRITER, str(folder), f"boot-{boot}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(acknowledgements)]
        os.kill(writer.pid, signal.SIGKILL)
        told += writer.stdout.readlines()  # before the kill arrived
        assert writer.wait() == -signal.SIGKILL
    return int([line for line in told if line.endswith(b"\n")][-1])


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    folder, rng, promised = tmp_path / "outbox", random.Random(11), 0
    for boot in range(KILLS):
        promised = max(promised, run_until_killed(folder, boot, rng.randint(1, 25)))

    outbox = Outbox(folder, boot="reader", limit_bytes=200_000_000)
    report = outbox.open()
    assert report.lost == ()
    assert report.head_seq >= promised > 500
    found: list[Record] = []
    while page := outbox.read(found[-1].seq if found else 0, 1000):
        found += page
    outbox.close()
    assert [r.seq for r in found] == list(range(found[0].seq, report.head_seq + 1))
    assert len({r.boot for r in found}) > 1
    for record in found:
        text = b"%d " % record.seq
        assert record.payload == text + hashlib.sha256(text).hexdigest().encode()
