"""Payments through a real agent and the real command line: the labelled frauds become stored alerts."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from edgectl.demo.fleet import DemoFolder
from edgectl.demo.shell import Shell
from edgectl.demo.transactions import catch_frauds


def test_a_node_that_reads_payments_catches_the_labelled_frauds(tmp_path: Path) -> None:
    shown = io.StringIO()
    place = DemoFolder(tmp_path / "demo")
    shell = Shell(place.root, Console(file=shown, width=110))
    place.create()
    try:
        shell.run("init", "--fleet", "bank")
        figures = catch_frauds(shell)
    finally:
        place.stop(shell)
    assert figures["faults"] == 32
    assert figures["recall"] >= 0.7, figures
    assert figures["precision"] >= 0.5, figures
    assert figures["false_per_stream_day"] <= 0.02, figures
    assert "false alerts" in shown.getvalue()
