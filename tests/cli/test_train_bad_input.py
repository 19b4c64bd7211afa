"""What bad input gets from the real `edgectl train`: one sentence, the documented exit code, nothing half-done."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from edgectl_agent.core.bundle import decode, digest

from edgectl.generate import plant
from tests.support.cli import Shell

START_NS = 1_790_000_000 * 10**9
HEAD = "timestamp,value\n"


def csv(shell: Shell, content: str, name: str = "data.csv") -> str:
    (shell.folder / name).write_text(content, encoding="utf-8")
    return name


def wave(n: int = 300) -> list[str]:
    """`n` good rows, ten minutes apart."""
    return [f"2026-03-{1 + i // 144:02d} {i // 6 % 24:02d}:{i % 6}0:00,{20 + i % 7 + (i * i) % 5}" for i in range(n)]


def series(shell: Shell, changed: dict[int, str] | None = None, n: int = 300) -> str:
    """A good file, with some rows (the header is row 1) replaced."""
    rows = wave(n)
    for row, text in (changed or {}).items():
        rows[row - 2] = text
    return csv(shell, HEAD + "\n".join(rows) + "\n")


def registered(shell: Shell) -> list[str]:
    folder = shell.folder / ".edgectl" / "registry"
    return sorted(str(p.relative_to(folder)) for p in folder.glob("*/*")) if folder.is_dir() else []


def refused(shell: Shell, code: int, *args: str, says: str) -> None:
    shell.fails(code, "train", *args, says=says)
    assert registered(shell) == []


def test_an_unknown_recipe_ends_with_4_and_the_closest_name(shell: Shell) -> None:
    refused(shell, 4, "sensro", "--data", series(shell), says="unknown recipe 'sensro' → did you mean 'sensor'")


def test_a_wrong_feature_in_the_recipe_is_named_by_its_place_and_the_commented_recipe_shows_the_right_one(
    shell: Shell,
) -> None:
    folder = shell.folder / "models" / "mine"
    folder.mkdir(parents=True)
    text = shell.ok("help", "recipe.yaml")
    (folder / "recipe.yaml").write_text(text.replace("tumbling: 1d", "tumbling: 1 day"))
    says = "models/mine/recipe.yaml: features[3].tumbling: expected a duration such as 30s, 5m or 24h, found '1 day'"
    refused(shell, 3, "mine", "--data", series(shell), says=says)


def test_an_unknown_key_in_the_recipe_is_named_by_its_path(shell: Shell) -> None:
    folder = shell.folder / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("recipe: mine\ntime: {colum: ts}\nchannels: {a: {}}\n")
    says = "models/mine/recipe.yaml: time.colum: unknown key, did you mean 'column'?"
    refused(shell, 3, "mine", "--data", series(shell), says=says)


def test_a_wrong_type_in_the_recipe_is_named_by_its_path(shell: Shell) -> None:
    folder = shell.folder / "models" / "mine"
    folder.mkdir(parents=True)
    text = "recipe: mine\ntime: {column: ts}\nchannels: {a: {range: [0, high]}}\nfeatures: []\nmodel: {type: pca}\n"
    (folder / "recipe.yaml").write_text(text + "alerts: {budget: {warning: 1/d, critical: 1/d}}\n")
    says = "models/mine/recipe.yaml: channels.a.range[1]: expected float, found 'high'"
    refused(shell, 3, "mine", "--data", series(shell), says=says)


def test_a_missing_column_is_named_with_those_that_are_there(shell: Shell) -> None:
    name = csv(shell, "timestamp,valeu\n2026-03-01,1\n")
    says = "data.csv: column 'value' is missing, the file has timestamp, valeu → did you mean 'valeu'?"
    refused(shell, 3, "sensor", "--data", name, says=says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "data.csv: the file is empty"),
        (HEAD, "data.csv: the file has a header but no readings"),
        (
            HEAD + "2026-03-01,5\n2026-03-02,5\n",
            "every channel is constant (value = 5), so there is nothing to",
        ),
        (HEAD + "2026-03-01,\n2026-03-02,NaN\n", "column 'value' has no value in any of 2 readings"),
    ],
)
def test_empty_and_constant_data_are_refused(shell: Shell, content: str, says: str) -> None:
    refused(shell, 3, "sensor", "--data", csv(shell, content), says=says)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("2026-03-01 01:30:00,warm", "data.csv row 11, column 'value': expected a number, found 'warm'"),
        ("2026-03-01 01:30:00,inf", "data.csv row 11, column 'value': expected a finite number, found inf"),
        ("2026-03-01 01:30:00,-Infinity", "row 11, column 'value': expected a finite number, found -Infinity"),
        ("soon,5", "data.csv row 11, column 'timestamp': expected a time such as 2026-03-14T09:12:00Z"),
        ("2026-02-29 01:30:00,5", "data.csv row 11, column 'timestamp': expected a time"),
        ("2026-03-01 00:10:00,5", "data.csv row 11: time of stream 'sensor' goes back from 2026-03-01T01:20:00Z to"),
    ],
)
def test_a_bad_cell_is_named_by_file_row_and_column(shell: Shell, row: str, says: str) -> None:
    refused(shell, 3, "sensor", "--data", series(shell, {11: row}), says=says)


def test_backwards_time_says_how_to_go_on(shell: Shell) -> None:
    name = series(shell, {11: "2026-03-01 00:10:00,5"})
    refused(shell, 3, "sensor", "--data", name, says="→ sort the file by time, or say --sort")
    shell.ok("train", "sensor", "--data", name, "--sort")


def test_missing_values_are_not_an_error(shell: Shell) -> None:
    shell.ok("train", "sensor", "--data", series(shell, {11: "2026-03-01 01:30:00,", 12: "2026-03-01 01:40:00,NaN"}))


def test_too_little_data_says_how_much_the_windows_need(shell: Shell) -> None:
    says = "too little data for recipe sensor: with windows of 6h it needs about"
    refused(shell, 3, "sensor", "--data", series(shell, n=60), says=says)


def test_a_missing_file_no_file_and_a_wrong_ending_are_said(shell: Shell) -> None:
    refused(shell, 3, "sensor", "--data", "nowhere.csv", says="nowhere.csv: no such file")
    refused(shell, 2, "sensor", says="no data given → edgectl train sensor --data FILE")
    refused(
        shell, 3, "sensor", "--data", csv(shell, "x", "data.xls"), says="expected a file that ends in .csv, .parquet"
    )
    says = "scores.pdf: expected a plot that ends in .svg or .png, found .pdf"
    refused(shell, 3, "sensor", "--data", series(shell), "--plot", "scores.pdf", says=says)


def test_a_wrong_and_a_taken_version_are_refused(shell: Shell) -> None:
    refused(
        shell, 3, "sensor", "--data", series(shell), "--version", "latest", says="--version: expected MAJOR.MINOR.PATCH"
    )
    shell.ok("train", "sensor", "--data", series(shell), "--version", "2.0.0")
    again = csv(shell, HEAD + "\n".join(wave(400)) + "\n", "more.csv")
    says = "sensor 2.0.0 is there already, with other bundles → choose another --version"
    shell.fails(3, "train", "sensor", "--data", again, "--version", "2.0.0", says=says)
    assert registered(shell) == ["sensor/2.0.0"]


def test_no_workspace_says_how_to_make_one(tmp_path: Path) -> None:
    tmp_path.joinpath("empty").mkdir()
    shell = Shell(tmp_path / "empty")
    shell.fails(3, "train", "sensor", "--data", series(shell), says="holds no fleet.yaml → run `edgectl init` there")
    assert not (shell.folder / ".edgectl").exists()


def test_train_adds_a_release_once_and_prints_and_draws_it(shell: Shell) -> None:
    name = series(shell)
    page = shell.ok("train", "sensor", "--data", name, "--plot", "scores.png")
    assert page.startswith("sensor: pca, 6 features, seed 7\n")
    assert "300 readings of 1 stream" in page
    assert (shell.folder / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert registered(shell) == ["sensor/1.0.0"]
    folder = shell.folder / ".edgectl" / "registry" / "sensor" / "1.0.0"
    assert (folder / "report.txt").read_text() == page
    assert "</svg>" in (folder / "scores.svg").read_text()
    (bundle,) = folder.glob("*.bundle")
    assert digest(bundle.read_bytes()) == bundle.stem
    assert decode(bundle.read_bytes()).recipe == "sensor"
    again = shell.run("train", "sensor", "--data", name, "-o", "json")
    assert again.returncode == 0
    assert "already there as sensor 1.0.0" in again.stderr
    found = json.loads(again.stdout)
    assert (found["version"], found["added"]) == ("1.0.0", False)
    assert found["report"]["variants"][0]["sha256"] == bundle.stem
    assert registered(shell) == ["sensor/1.0.0"]


def test_several_files_after_one_data_are_one_history(shell: Shell) -> None:
    """As a shell expands ``--data part-*.csv``."""
    rows = wave(300)
    for i, part in enumerate((rows[:150], rows[150:])):
        csv(shell, HEAD + "\n".join(part) + "\n", f"part-{i}.csv")
    page = shell.ok("train", "sensor", "--data", "part-1.csv", "part-0.csv")
    assert "300 readings of 1 stream" in page
    assert shell.ok("train", "sensor", "--data", series(shell), "-o", "name") == "sensor\n"
    assert registered(shell) == ["sensor/1.0.0"]


@pytest.mark.parametrize("library", ["libarrow", "sklearn", "onnxruntime_pybind11"])
def test_ctrl_c_during_training_ends_with_130_and_leaves_nothing(shell: Shell, library: str) -> None:
    """At three places: when the process has just loaded a library that reading, training or scoring needs."""
    lines = [json.dumps(dict(row)) for row in plant.rows(7, ("press-1", "press-2"), 0, 1500, START_NS)]
    csv(shell, "\n".join(lines) + "\n", "plant.jsonl")
    running = shell.start("train", "plant", "--data", "plant.jsonl")
    deadline = time.monotonic() + 60
    while library not in Path(f"/proc/{running.pid}/maps").read_text() and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert registered(shell) == []


def test_a_second_operator_is_told_who_holds_the_lock(shell: Shell) -> None:
    from edgectl.workspace import Workspace

    with Workspace(shell.folder).lock("deploy"):
        refused(shell, 50, "sensor", "--data", series(shell), says="has held the lock since")


@pytest.mark.needs("root")
def test_a_full_disk_ends_with_75_and_adds_nothing(shell: Shell, small_disk: Path) -> None:
    registry = shell.folder / ".edgectl" / "registry"
    registry.symlink_to(small_disk, target_is_directory=True)
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(bytes(free - 8192))
    done = shell.run("train", "sensor", "--data", series(shell))
    assert done.returncode == 75, done.stderr
    assert "nothing was added" in done.stderr
    assert [p.name for p in small_disk.glob("sensor/*")] == []
