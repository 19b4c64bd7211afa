"""`edgectl generate` and `edgectl alerts score`: data with labels, and what alerts are worth against them."""

from __future__ import annotations

import json
import time

from edgectl.core.evaluation import WATCHED
from edgectl.periods import read_periods
from edgectl.store.store import Store
from tests.support.cli import Shell
from tests.support.full_store import alert


def test_alerts_are_scored_against_the_labels_of_a_generated_log(shell: Shell) -> None:
    shell.ok("generate", "logs", "app.log", "--hours", "9", "--hosts", "2", "--labels", "faults.csv")
    faults = [p for p in read_periods(shell.folder / "faults.csv") if p.kind != WATCHED]
    found, missed = faults[0], len(faults) - 1
    assert missed >= 2
    told = [
        alert(found.start_ns + 60 * 10**9, id="a-1", stream=found.stream),
        alert(found.start_ns + 10**9, id="a-2", stream=found.stream),
        alert(found.start_ns - 60 * 10**9, id="a-3", stream=found.stream),
        alert(found.start_ns, id="a-4", stream=found.stream, recipe="other"),
        alert(1, id="a-5", stream=found.stream),
    ]
    with Store("sqlite:///.edgectl/state.db", shell.folder) as store:
        store.alerts.save(told, [], time.time_ns())
    said = json.loads(shell.ok("alerts", "score", "faults.csv", "--recipe", "press", "-o", "json"))
    assert (said["faults"], said["found"], said["false_alerts"], said["precision"]) == (len(faults), 1, 1, 0.5)
    assert said["stream_days"] == round(2 * 8 / 24, 4)
    shell.fails(
        4, "alerts", "score", "faults.csv", "--recipe", "pres", says="unknown recipe 'pres' → did you mean 'press'?"
    )
    shown = shell.ok("alerts", "score", "faults.csv", "--recipe", "press")
    assert "precision 50 % · recall" in shown
    assert "false alerts 1.5 per stream-day (1 in 0.7 stream-days)" in shown


def test_labels_without_a_watched_stream_are_refused(shell: Shell) -> None:
    (shell.folder / "labels.csv").write_text("start,end\n1,2\n")
    shell.fails(3, "alerts", "score", "labels.csv", says="labels.csv: expected rows of kind watched")
    shell.fails(3, "alerts", "score", "gone.csv", says="gone.csv: no such file")


def test_a_file_that_is_there_is_not_written_over(shell: Shell) -> None:
    (shell.folder / "app.log").write_text("mine\n")
    shell.fails(2, "generate", "logs", "app.log", "--hours", "1", says="app.log: expected a new file, found one")
    assert (shell.folder / "app.log").read_text() == "mine\n"
    shell.fails(2, "generate", "logs", "no/app.log", "--hours", "1", says="no/app.log: its folder is not there")
