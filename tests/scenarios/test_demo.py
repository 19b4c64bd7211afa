"""The main job, whole: `edgectl demo` with fewer spikes, on real agents and the real command line."""

from __future__ import annotations

import io
from pathlib import Path

import psutil
from rich.console import Console

from edgectl.demo.fleet import DemoFolder
from edgectl.demo.shell import Shell
from edgectl.demo.story import Demo


def test_the_demo_goes_from_nothing_to_a_rollback_and_leaves_nothing_behind(tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=110)
    place = DemoFolder(tmp_path / "demo")
    shell = Shell(place.root, console)
    place.create()
    try:
        summary = Demo(place, shell, console, spikes=24).play()
    finally:
        running = [p for p in psutil.process_iter(["cmdline"]) if str(place.root) in " ".join(p.info["cmdline"] or [])]
        place.stop(shell)
    text = shown.getvalue()
    assert summary.injected == summary.found == 24, text
    assert "halted, everything reverted" in text
    assert "4 healthy" in text
    assert "precision 100 % · recall 100 %" in text, "of the log's labelled faults"
    assert text.count("false alerts") >= 3, "of the plant, of the log and of the payments"
    assert len(running) >= 5, "four agents and the plant ran as processes of their own"
    assert psutil.wait_procs(running, timeout=20)[1] == []
    assert not place.root.exists()
