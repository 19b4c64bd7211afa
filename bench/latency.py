"""From the first faulty reading accepted to the row committed in the store: the demo's spikes, with its collector.

Runs the whole demo (four agents, a collector that follows) in a temporary folder and records what it counted.

    python -m bench.latency
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench._report import record
from edgectl.demo.fleet import DemoFolder
from edgectl.demo.shell import Shell
from edgectl.demo.story import Demo

SPIKES = 200


def main() -> int:
    """Play the demo and record."""
    with tempfile.TemporaryDirectory() as scratch:
        place = DemoFolder(Path(scratch, "demo").resolve())
        place.create()
        shell = Shell(place.root, Console(file=sys.stderr))
        try:
            summary = Demo(place, shell, shell.console).play()
        finally:
            place.stop(shell)
    met = [
        record("latency.spikes", summary.injected, "spikes", better="higher", goal=SPIKES),
        record("latency.found", summary.found / summary.injected, "share", better="higher", goal=1.0),
        record("latency.reading_to_row.p99", round(summary.p99_ms, 1), "ms", better="lower", goal=1000),
    ]
    record("latency.reading_to_row.p50", round(summary.p50_ms, 1), "ms", better="lower")
    record("latency.reading_to_row.worst", round(summary.worst_ms, 1), "ms", better="lower")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
