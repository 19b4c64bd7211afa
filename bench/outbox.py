"""Durable alerts per second: the outbox against SQLite in WAL mode with synchronous=FULL, same payloads, same groups.

Both acknowledge a group only after fsync. SQLite keeps no chain and no head: it is the peer for speed, not for what it
promises. Runs of the two alternate, because the cost of an fsync on a shared disk drifts; medians are compared.

    python -m bench.outbox [--folder DIR]
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from edgectl_agent.outbox import Outbox

from bench._report import record

PAYLOAD = bytes(range(250)) + bytes(150)
"""As long as an alert with two contributions."""
ROUNDS = 7


def outbox_rate(folder: Path, group: int, groups: int) -> float:
    outbox = Outbox(folder, boot="bench", limit_bytes=2**31)
    outbox.open()
    with closing(outbox):
        start = time.perf_counter()
        for _ in range(groups):
            for _ in range(group):
                outbox.append(PAYLOAD, time.time_ns())
            outbox.commit()
        return group * groups / (time.perf_counter() - start)


def sqlite_rate(folder: Path, group: int, groups: int) -> float:
    folder.mkdir()
    with closing(sqlite3.connect(folder / "alerts.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE outbox (seq INTEGER PRIMARY KEY, written_ns INTEGER, payload BLOB)")
        start = time.perf_counter()
        for _ in range(groups):
            db.execute("BEGIN")
            for _ in range(group):
                db.execute("INSERT INTO outbox (written_ns, payload) VALUES (?, ?)", (time.time_ns(), PAYLOAD))
            db.execute("COMMIT")
        return group * groups / (time.perf_counter() - start)


def recovery_s(folder: Path, records: int) -> float:
    """Processor time, fastest of several: the file is in the page cache, so the work is checking, not reading."""
    outbox = Outbox(folder, boot="bench", limit_bytes=2**31)
    outbox.open()
    for number in range(records):
        outbox.append(PAYLOAD, 0)
        if number % 1000 == 999:
            outbox.commit()
    outbox.close()
    elapsed = []
    for _ in range(ROUNDS):
        start = time.process_time()
        assert outbox.open().records == records
        elapsed.append(time.process_time() - start)
        outbox.close()
    return min(elapsed)


def measure(folder: Path) -> Iterator[bool]:
    rates: tuple[Callable[[Path, int, int], float], ...] = (outbox_rate, sqlite_rate)
    for group, groups in ((1, 200), (100, 100), (1000, 20)):
        runs: dict[str, list[float]] = {rate.__name__: [] for rate in rates}
        for number in range(ROUNDS):
            for rate in rates:
                runs[rate.__name__].append(rate(folder / f"{rate.__name__}-{group}-{number}", group, groups))
        ours, theirs = (statistics.median(runs[rate.__name__]) for rate in rates)
        peer = f"SQLite {sqlite3.sqlite_version} WAL synchronous=FULL: {theirs:.0f} alerts/s, {ours / theirs:.2f}x"
        goal = 20_000 if group == 100 else None
        yield record(f"outbox.durable.group_{group}", round(ours), "alerts/s", better="higher", peer=peer, goal=goal)
    seconds = recovery_s(folder / "recovery", 100_000)
    yield record("outbox.open_100k_waiting", round(seconds, 3), "CPU s", better="lower", goal=1.0)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--folder", type=Path, default=Path(__file__).parent, help="a folder on the disk to measure")
    with tempfile.TemporaryDirectory(dir=arguments.parse_args().folder) as scratch:
        return 0 if all(list(measure(Path(scratch)))) else 1


if __name__ == "__main__":
    sys.exit(main())
