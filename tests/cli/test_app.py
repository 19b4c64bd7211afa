"""How every command behaves: help, exit codes, output forms, interruption, closed pipes, bugs."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from edgectl.cli.app import VERBS, app
from edgectl.core.errors import EXIT_CODES
from tests.support.cli import COMMAND, Shell

HEAVY = {"sklearn", "onnx", "onnxruntime", "numpy", "pyarrow", "sqlalchemy", "tuf", "httpx", "matplotlib", "scipy"}


def test_help_imports_nothing_heavy_and_lists_every_verb() -> None:
    program = (
        "import sys\nfrom edgectl.cli.app import main\n"
        "try: main(['--help'])\n"
        "finally: print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & HEAVY
    assert not any(f"edgectl.cli.{verb}" in done.stdout for verb in VERBS)
    for verb, (_, help_) in VERBS.items():
        assert verb in done.stdout
        assert help_ in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_its_own_verbs_within_80_columns(verb: str, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.env = {"COLUMNS": "80"}
    said = shell.ok(verb, "--help")
    assert "Usage: edgectl" in said
    assert "..." not in said.partition("Commands:")[2]


def test_arguments_look_alike_in_every_usage_line() -> None:
    for command in _commands(get_command(app)):
        for argument in (param for param in command.params if param.param_type_name == "argument"):
            assert re.fullmatch(r"[A-Z|]+(\[@VERSION])?", str(argument.metavar)), (command.name, argument.metavar)


def _commands(command: Any) -> Iterator[Any]:
    """`command`, and the verbs below it."""
    yield command
    ctx = typer.Context(command, info_name="edgectl")
    for name in command.list_commands(ctx) if hasattr(command, "list_commands") else ():
        yield from _commands(command.get_command(ctx, name))


def test_a_library_that_was_interrupted_within_code_of_its_own_does_not_change_the_exit_code(tmp_path: Path) -> None:
    """CPython remembers an interrupted `exec` even if somebody caught it, and ends a program begun by -m by SIGINT."""
    lines = [
        "from edgectl.cli import app",
        "app.note('loaded')",
        "def command(_):",
        "    try: exec('raise KeyboardInterrupt')",
        "    except KeyboardInterrupt: raise app.Interrupted('interrupted') from None",
        "app.get_command = command",
        "app.main([])",
    ]
    (tmp_path / "interrupted.py").write_text("\n".join(lines))
    done = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"loaded\nedgectl: interrupted\n")


def test_version_and_exit_codes_are_printed(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    assert shell.ok("--version").startswith("edgectl 0.")
    rows = json.loads(shell.ok("help", "exit-codes", "-o", "json"))
    assert {row["code"]: row["meaning"] for row in rows} == EXIT_CODES


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(name: str, tmp_path: Path) -> None:
    assert "_EDGECTL_COMPLETE" in Shell(tmp_path).ok("completion", name)


def test_completion_offers_verbs_and_nodes(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--no-start")
    for words, at, expected in (("edgectl no", "1", "nodes"), ("edgectl nodes show p", "3", "pi-1")):
        shell.env = {"COMP_WORDS": words, "COMP_CWORD": at, "_EDGECTL_COMPLETE": "complete_bash"}
        assert shell.ok().split() == [expected]


def test_a_mistyped_command_or_option_is_one_sentence(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.fails(2, "nods", says="no such command 'nods'; did you mean 'nodes'")
    shell.fails(2, "nodes", "lst", says="No such command 'lst'".lower())
    shell.fails(2, "nodes", "list", "--sele", "x", says="--sele")
    shell.fails(2, "nodes", "show", says="missing argument")
    shell.fails(2, "nodes", "list", "-o", "yaml", says="'yaml' is not one of")


def test_no_workspace_is_one_sentence_that_says_how_to_get_one(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.fails(3, "nodes", "list", says="holds no fleet.yaml → run `edgectl init` there, or name the workspace")
    shell.fails(3, "--workspace", "/nowhere", "nodes", "list", says="/nowhere holds no fleet.yaml")


def test_the_workspace_may_be_named_by_option_or_environment(shell: Shell, tmp_path: Path) -> None:
    elsewhere = Shell(tmp_path)
    assert json.loads(elsewhere.ok("--workspace", str(shell.folder), "nodes", "list", "-o", "json")) == []
    elsewhere.env = {"EDGECTL_WORKSPACE": str(shell.folder)}
    assert json.loads(elsewhere.ok("nodes", "list", "-o", "json")) == []


def test_a_second_operator_learns_who_holds_the_lock_and_since_when(shell: Shell) -> None:
    holder = (
        "import sys, time\nfrom edgectl.workspace import find\n"
        "with find(None).lock('deploy'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=shell.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        said = shell.fails(50, "nodes", "add", "pi-1", says=f"(pid {process.pid}) has held the lock since 20")
        assert "for `deploy`" in said
        shell.ok("nodes", "list")
        process.kill()
    shell.ok("nodes", "add", "pi-1", "--no-start")


def test_a_bug_is_one_line_and_its_traceback_is_in_the_workspace(shell: Shell) -> None:
    database = shell.folder / ".edgectl" / "state.db"
    database.unlink()
    database.mkdir()
    shell.env = {"PYTHONPATH": str(shell.folder)}
    (shell.folder / "sitecustomize.py").write_text(
        "import edgectl.inventory.reading as r\ndef broken(*given): raise KeyError('boo')\nr.load = broken\n"
    )
    said = shell.fails(1, "nodes", "list", says="internal error: KeyError: 'boo' → please report it")
    file = Path(said.rpartition(" ")[2])
    assert file.parent == shell.folder / ".edgectl" / "crash"
    assert "Traceback" in file.read_text()


def test_a_reader_that_went_away_ends_the_command_quietly(shell: Shell) -> None:
    with subprocess.Popen(
        [*COMMAND, "help", "exit-codes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=shell.environ()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE


def test_ctrl_c_says_how_to_go_on(shell: Shell) -> None:
    (shell.folder / "sitecustomize.py").write_text(
        "import os, signal\nimport edgectl.inventory.reading as r\n"
        "def waiting(*given): os.kill(os.getpid(), signal.SIGINT)\nr.load = waiting\n"
    )
    shell.env = {"PYTHONPATH": str(shell.folder)}
    shell.fails(130, "nodes", "list", says="interrupted → ")


# ── output ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_form_of_output_shows_the_same_values(shell: Shell) -> None:
    for name in ("pi-1", "gw-1"):
        shell.ok("nodes", "add", name, "--no-start", "--label", "line=press")
    rows = json.loads(shell.ok("nodes", "list", "-o", "json"))
    assert [row["name"] for row in rows] == ["pi-1", "gw-1"]
    assert [json.loads(line) for line in shell.ok("nodes", "list", "-o", "jsonl").splitlines()] == rows
    assert shell.ok("nodes", "list", "-o", "name").split() == ["pi-1", "gw-1"]
    table, wide = shell.ok("nodes", "list").splitlines(), shell.ok("nodes", "list", "-o", "wide").splitlines()
    assert table[0].split() == ["NAME", "SITE", "TIER", "VIA", "STATE", "MODELS", "AGE"]
    assert [line.split()[0] for line in table[1:]] == ["pi-1", "gw-1"]
    assert "LABELS" in wide[0]
    assert "line=press" in wide[1]


def on_terminal(shell: Shell, *args: str, answer: str = "") -> tuple[int, str]:
    """Exit code and everything shown when the command runs on a terminal where `answer` is typed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *args], cwd=shell.folder, env=shell.environ(), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # Linux: the other side has closed
        pass
    os.close(ours)
    return process.wait(), shown.decode()


def test_a_terminal_gets_colour_unless_no_color_is_set(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--no-start")
    shell.env = {"TERM": "xterm-256color"}
    assert "\x1b[" in on_terminal(shell, "nodes", "list")[1]
    shell.env = {"TERM": "xterm-256color", "NO_COLOR": "1"}
    plain = on_terminal(shell, "nodes", "list")[1]
    assert "pi-1" in plain
    assert "\x1b[3" not in plain


def test_a_question_needs_a_terminal_and_an_answer(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--no-start")
    shell.fails(2, "nodes", "remove", "pi-1", says="Nobody is here to answer → say --yes")
    code, shown = on_terminal(shell, "nodes", "remove", "pi-1", answer="n\n")
    assert (code, "nothing was removed" in shown) == (0, True)
    code, shown = on_terminal(shell, "--no-input", "nodes", "remove", "pi-1")
    assert (code, "say --yes" in shown) == (2, True)
    code, shown = on_terminal(shell, "nodes", "remove", "pi-1", answer="y\n")
    assert (code, shell.ok("nodes", "list", "-o", "name")) == (0, "")
