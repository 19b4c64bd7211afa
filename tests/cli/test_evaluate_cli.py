"""`edgectl evaluate` and `edgectl datasets`, as an operator types them."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.cli import Shell

N = 900


@pytest.fixture
def operator(tmp_path: Path) -> Shell:
    """In a folder without a fleet: nothing here needs one."""
    return Shell(tmp_path)


def corpus(folder: Path, files: int = 1) -> None:
    """A corpus of NAB's shape: a rhythm of a day with one outbreak, a reading every five minutes."""
    labels = {}
    for number in range(files):
        times = [f"2014-04-{1 + i // 288:02d} {i % 288 // 12:02d}:{i % 12 * 5:02d}:00" for i in range(N)]
        values = [10 * math.sin(i / 46) + (i * 7919 % 13) / 10 + (80 if 700 <= i < 712 else 0) for i in range(N)]
        path = folder / "nab" / "data" / "g" / f"{number}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{at},{value:.3f}\n" for at, value in zip(times, values, strict=True))
        path.write_text("timestamp,value\n" + "".join(lines))
        labels[f"g/{number}.csv"] = [[f"{times[690]}.000000", f"{times[720]}.000000"]]
    path = folder / "nab" / "labels" / "combined_windows.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(labels))


RECIPE = """
recipe: short
time: {column: timestamp, zone: UTC}
channels: {value: {}}
features:
  - {of: value, instant: [value, diff]}
model: {type: pca, components: 1}
train: {part: first 50%}
alerts: {budget: {warning: 1/10d, critical: 1/100d}, clear_after: 1h}
ship: {variants: [fp32]}
"""


def test_a_recipe_is_evaluated_and_the_page_shows_every_series(operator: Shell) -> None:
    corpus(operator.folder)
    (operator.folder / "recipe.yaml").write_text(RECIPE)
    done = operator.run("evaluate", "recipe.yaml", "nab", "--html", "page.html", "--budget", "1", "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["method"] for row in found["methods"]] == [
        "short", "random", "always alarm", "new high/low", "mean z²", "null",
    ]  # fmt: skip
    detector = found["methods"][0]
    assert (detector["found"], detector["windows"]) == (1, 1)
    assert detector["threshold"] == "no labels: the budget of 0.1 false alerts per stream and day, as shipped"
    assert found["budgets"][0]["asked"] == 1
    page = (operator.folder / "page.html").read_text()
    assert '<details data-name="g/0.csv"' in page
    assert "<polyline" in page
    assert "http" not in page  # it asks no network for anything
    assert "every series: page.html" in done.stderr


def test_own_history_without_labels_counts_every_alert_as_false(operator: Shell) -> None:
    corpus(operator.folder)
    (operator.folder / "recipe.yaml").write_text(RECIPE)
    done = operator.run("evaluate", "recipe.yaml", "nab/data/g/0.csv", "--history", "40", "--no-ranges")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["METHOD", "FALSE/DAY"]
    assert rows[0].startswith("short")
    assert "no labels: every alert counts as false" in done.stderr


def test_bad_input_gets_one_sentence(operator: Shell) -> None:
    corpus(operator.folder)
    (operator.folder / "a.bundle").write_bytes(b"none")
    operator.fails(4, "evaluate", "sensr", "nab", says="unknown recipe 'sensr' → did you mean 'sensor'")
    operator.fails(3, "evaluate", "sensor", "none", says="none: no such file or folder → edgectl datasets fetch")
    operator.fails(2, "evaluate", "sensor", "nab", "--html", ".", says="--html: expected a file, found the folder .")
    operator.fails(3, "evaluate", "a.bundle", "nab", says="a.bundle: bundle does not decode")
    operator.fails(2, "evaluate", "sensor", "nab", "--budget", "1,x", says="--budget: expected false alerts per stream")
    operator.fails(
        3, "evaluate", "plant", "nab", says="g/0.csv: the channel 'vib_rms' is missing, the series has value"
    )
    operator.fails(4, "datasets", "fetch", "nap", "--to", "x", says="unknown dataset 'nap' → did you mean 'nab'?")
    operator.fails(
        75, "datasets", "fetch", "nab", "--to", "x", "--from", "http://127.0.0.1:9", says="cannot be fetched"
    )


def test_interrupted_it_ends_with_its_processes_and_writes_nothing(operator: Shell) -> None:
    corpus(operator.folder, files=12)
    with operator.start("evaluate", "sensor", "nab", "--jobs", "2", "--html", "page.html") as running:
        process, deadline = psutil.Process(running.pid), time.monotonic() + 60
        while len(workers := process.children(recursive=True)) < 3:
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.strip() == "edgectl: interrupted → the same command again completes it"
    psutil.wait_procs(workers, timeout=60)
    assert not any(worker.is_running() for worker in workers)
    assert not (operator.folder / "page.html").exists()
