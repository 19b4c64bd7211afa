"""`edgectl`: the table of verbs, and how every command ends.

Each noun's module is imported when its command runs, so that ``--help`` and completion answer at once. `main` turns
errors into one sentence and an exit code (`edgectl help exit-codes`).
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from edgectl import __version__
from edgectl.cli.output import PipeClosed, Settings, note
from edgectl.core.errors import EdgeError
from edgectl.workspace import ENVIRONMENT, find

# verb or noun → module:attribute (a function, or a typer application with one function per verb), help
VERBS: dict[str, tuple[str, str]] = {
    "init": ("edgectl.cli.init:init", "Make a workspace: fleet.yaml, keys, repository, store."),
    "demo": ("edgectl.cli.demo:app", "Run a small fleet on this machine, from training to rollback."),
    "generate": ("edgectl.cli.generate:app", "Write data with labelled faults to try recipes on."),
    "data": ("edgectl.cli.data:app", "Record what nodes' sources deliver, to train on it."),
    "train": ("edgectl.cli.train:train", "Train a recipe on data and put the bundles into the registry."),
    "evaluate": ("edgectl.cli.evaluate:evaluate", "Measure a recipe or model on labelled or unlabelled history."),
    "datasets": ("edgectl.cli.datasets:app", "List and fetch public labelled corpora."),
    "bench": ("edgectl.cli.bench:bench", "Measure this machine with a trained model."),
    "models": ("edgectl.cli.models:app", "List, show, sign and verify trained models."),
    "nodes": ("edgectl.cli.nodes:app", "Add, check, install, upgrade, explain and remove nodes."),
    "deploy": ("edgectl.cli.deploy:deploy", "Roll a signed model out, canary first."),
    "rollback": ("edgectl.cli.rollback:rollback", "Return nodes to the model they ran before."),
    "collect": ("edgectl.cli.collect:collect", "Pull reports and alerts into the store."),
    "serve": ("edgectl.cli.serve:serve", "Receive reports of nodes that pull; serve the repository."),
    "status": ("edgectl.cli.status:status", "The fleet at a glance, and what needs you."),
    "alerts": ("edgectl.cli.alerts:app", "List, show, follow and acknowledge alerts."),
    "audit": ("edgectl.cli.audit:audit", "Compare desired with actual; silent when they agree."),
    "repo": ("edgectl.cli.repo:app", "Show, refresh, publish and export the signed repository."),
    "store": ("edgectl.cli.store:app", "Back up, restore, migrate and prune the fleet's state."),
    "wheelhouse": ("edgectl.cli.wheelhouse:app", "Collect the agent's wheels for nodes without a package index."),
    "completion": ("edgectl.cli.help:completion", "Print the completion script for a shell."),
    "help": ("edgectl.cli.help:app", "Explain exit codes, fleet.yaml and recipes."),
}


_FEW_COLLECTIONS = (50_000, 20, 20)
"""A command makes little garbage and imports much: looking for cycles as often as by default is a tenth of its work."""


class LazyGroup(TyperGroup):
    """A group that knows the names and one-line helps of its commands, and imports one when it is asked for it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in VERBS:
            self.commands[cmd_name] = _load(cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from edgectl.core.names import closest

            ctx.fail(f"no such command {args[0]!r}; {closest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in VERBS.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        if incomplete.startswith("-"):
            return [item for item in super().shell_complete(ctx, incomplete) if item.value.startswith("-")]
        return [_Completion(name, help_) for name, (_, help_) in VERBS.items() if name.startswith(incomplete)]

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort):  # Abort: at a question; typer would end with not a word
            raise Interrupted("interrupted", hint="the same command again completes it") from None


@dataclass(frozen=True)
class _Completion:
    """What click's completion prints, made without importing the command."""

    value: str
    help: str
    type: str = "plain"


class Interrupted(EdgeError):
    """Ctrl-C."""

    exit_code, reason = 130, "interrupted"


def _load(verb: str) -> Any:
    place, help_ = VERBS[verb]
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False)
        found.command(verb)(function)
    elif not isinstance(found.info.help, str):
        found.info.help = help_
    found.rich_markup_mode = None  # rich would cost 0.1 s per --help
    command = get_command(found)
    command.name = verb
    return command


def _print_version(value: bool) -> None:
    if value:
        print(f"edgectl {__version__}")
        raise typer.Exit


app = typer.Typer(cls=LazyGroup, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def edgectl(
    ctx: typer.Context,
    workspace: Annotated[
        Path | None, typer.Option(help=f"The fleet's folder (default: {ENVIRONMENT} or the current one).")
    ] = None,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv for everything.")] = 0,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask; fail where an answer is needed.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, sign, canary-deploy and watch anomaly detectors on a fleet of edge nodes."""
    del version
    ctx.obj = Settings(folder=workspace, verbose=verbose, no_input=no_input)


def main(args: list[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    args = sys.argv[1:] if args is None else args
    gc.set_threshold(*_FEW_COLLECTIONS)
    try:
        code = get_command(app).main(args, prog_name="edgectl", standalone_mode=False)
    except PipeClosed:
        _die_of_closed_pipe()
    except EdgeError as e:
        note(f"edgectl: {e}")
        code = e.exit_code
    except typer.TyperException as e:
        code = _usage(e)
    except (typer.Abort, KeyboardInterrupt):
        note("edgectl: interrupted")
        code = 130
    except OSError as e:
        code = _disk(e) or _crash(e, args)
    except Exception as e:
        code = _crash(e, args)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was asked for is done: the interpreter may tidy up in peace
    exec("")  # CPython's -m would end by SIGINT if that hit code which a library executes from text: this forgets it
    gc.freeze()  # and need not look through all that a process which ends leaves behind: that took 0.2 s
    sys.exit(code if isinstance(code, int) else 0)


def _usage(e: typer.TyperException) -> int:
    message = e.format_message()
    ctx = getattr(e, "ctx", None)
    if message.startswith("Usage:") or ctx is None:  # the help itself: a group was called without a verb
        note(message)
    else:
        first = message[:1].lower() + message[1:].rstrip(".")
        note(f"edgectl: {first} → see `{ctx.command_path} --help`")
    return e.exit_code


def _disk(e: OSError) -> int:
    """A full or read-only disk can meet any write; it is the machine's state and not a bug."""
    if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
        return 0
    what = f" while writing {e.filename}" if e.filename else ""
    note(f"edgectl: {os.strerror(e.errno).lower()}{what} → make room or fix the permissions, then run it again")
    return 75


def _crash(e: Exception, args: list[str]) -> int:
    import tempfile
    import traceback

    text = f"edgectl {__version__} {' '.join(args)}\n{''.join(traceback.format_exception(e))}"
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    private = find(_workspace_option(args)).private
    for folder in (private / "crash" if private.is_dir() else None, Path(tempfile.gettempdir())):
        try:
            if folder is not None:
                folder.mkdir(exist_ok=True)
                (folder / name).write_text(text, encoding="utf-8")
                where = f"the traceback is in {folder / name}"
                break
        except OSError:
            continue
    else:
        where = "and the traceback could not be written"
    line = str(e).strip().splitlines()
    note(f"edgectl: internal error: {type(e).__name__}{f': {line[0]}' if line else ''} → please report it; {where}")
    return 1


def _workspace_option(args: list[str]) -> Path | None:
    """``--workspace``, read again: a crash may come before the command line was parsed."""
    for i, arg in enumerate(args):
        if arg == "--workspace" and i + 1 < len(args):
            return Path(args[i + 1])
        if arg.startswith("--workspace="):
            return Path(arg.partition("=")[2])
    return None


def _die_of_closed_pipe() -> None:
    """End as every Unix filter does whose reader went away (``edgectl nodes list | head -1``): by SIGPIPE."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)


if __name__ == "__main__":
    main()
