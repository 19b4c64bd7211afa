"""The one place that writes to the terminal: data on stdout, everything said about it on stderr.

Each verb hands the same values (msgspec Structs or dicts) to `emit`; ``-o`` chooses how they look. Heavy imports (rich,
msgspec) stay inside functions, so that ``--help`` stays fast.

Example::

    emit(nodes, (Column("NAME", "name"), Column("SITE", "site")), how)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

from edgectl.core.errors import UsageError
from edgectl.core.names import closest as closest
from edgectl.core.names import unknown as unknown
from edgectl.workspace import Workspace, find, require

if TYPE_CHECKING:
    from rich.console import Console


class Format(StrEnum):
    """How values are printed; `name` prints what another command takes as an argument."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    JSONL = "jsonl"
    NAME = "name"


FormatOption = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


@dataclass(frozen=True, slots=True)
class Settings:
    """What was said before the verb: ``edgectl [these] VERB``."""

    folder: Path | None = None
    verbose: int = 0
    no_input: bool = False

    @property
    def workspace(self) -> Workspace:
        """The workspace; raises `ConfigError` unless it holds a fleet."""
        return require(find(self.folder))

    def detail(self, text: str, level: int = 1) -> None:
        """Say it only with ``-v`` (level 1) or ``-vv`` (level 2)."""
        if self.verbose >= level:
            note(text)


def settings(ctx: typer.Context) -> Settings:
    """The settings that the composition root left for this command."""
    found = ctx.find_root().obj
    return found if isinstance(found, Settings) else Settings()


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `value` is a field name or a function of the row; `wide` columns appear with ``-o wide`` only."""

    title: str
    value: str | Callable[[Any], object]
    wide: bool = False
    right: bool = False
    style: Callable[[Any], str] | None = None
    whole: bool = False
    """Never folded: people copy it."""

    def text(self, row: Any) -> str:
        """The cell as one printable line."""
        cell = field(row, self.value) if isinstance(self.value, str) else self.value(row)
        return printable("" if cell is None else str(cell))


def emit(
    rows: Iterable[Any],
    columns: Sequence[Column],
    how: Format,
    *,
    name: str | Callable[[Any], object] = "name",
    empty: str = "",
) -> None:
    """Print `rows`; with no rows a table prints `empty` on stderr and nothing on stdout."""
    rows = list(rows)
    if how is Format.JSON:
        write(encode(rows, indent=2))
    elif how is Format.JSONL:
        for row in rows:
            write(encode(row))
    elif how is Format.NAME:
        for row in rows:
            write(printable(str(field(row, name) if isinstance(name, str) else name(row))))
    elif rows:
        table(rows, [c for c in columns if how is Format.WIDE or not c.wide])
    elif empty:
        note(empty)


def emit_one(
    value: Any,
    how: Format,
    render: Callable[[bool], str],
    *,
    name: str | Callable[[Any], object] = "name",
) -> None:
    """Print one value: JSON, its name, or the text that ``render(wide)`` makes for people."""
    if how in (Format.JSON, Format.JSONL):
        write(encode(value, indent=2 if how is Format.JSON else 0))
    elif how is Format.NAME:
        names = str(field(value, name) if isinstance(name, str) else name(value))
        if names:
            write(printable(names, keep="\n"))
    else:
        write(render(how is Format.WIDE))


def emit_done(value: Any, how: Format, text: str) -> None:
    """What a verb did that has nothing to show people but `text`, which goes to stderr; `value` is for programs."""
    if how in (Format.TABLE, Format.WIDE):
        note(text)
    else:
        emit_one(value, how, lambda wide: text)


def table(rows: Sequence[Any], columns: Sequence[Column]) -> None:
    """Aligned columns: coloured and folded to the width of a terminal, or plain and never cut in a pipe."""
    cells = [[column.text(row) for column in columns] for row in rows]
    if not sys.stdout.isatty():
        write(aligned([[c.title for c in columns], *cells], [c.right for c in columns]))
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.right else "left"
        grid.add_column(column.title, justify=justify, overflow="fold", no_wrap=column.whole)
    for row, line in zip(rows, cells, strict=True):
        styles = [c.style(row) if c.style else "" for c in columns]
        grid.add_row(*(Text(text, style) for text, style in zip(line, styles, strict=True)))
    console(sys.stdout).print(grid)


def aligned(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Lines of cells as plain text, columns two spaces apart."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(right))]
    padded = ([c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


class PipeClosed(Exception):
    """Whoever read our stdout went away (``| head``). Not an error; the composition root ends quietly."""


def write(text: str) -> None:
    """One piece of data on stdout."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise PipeClosed from None


def note(text: str) -> None:
    """A remark for the person at the terminal."""
    print(printable(text, keep="\n\t"), file=sys.stderr, flush=True)


def encode(value: Any, indent: int = 0) -> str:
    """JSON of Structs, dicts and lists."""
    import msgspec

    raw = msgspec.json.encode(value)
    return (msgspec.json.format(raw, indent=indent) if indent else raw).decode()


def field(row: Any, name: str) -> Any:
    """Field `name` of a dict or of an object."""
    return row.get(name) if isinstance(row, dict) else getattr(row, name)


def printable(text: str, keep: str = "") -> str:
    """`text` without control characters: stream names come from data and must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


def console(file: Any) -> Console:
    """rich's console on `file`; it honours NO_COLOR by itself."""
    from rich.console import Console

    return Console(file=file, highlight=False, emoji=False, markup=False)


# ── talking to a person ─────────────────────────────────────────────────────────────────────────────────────────────


def interactive(settings: Settings) -> bool:
    """Whether there is somebody to ask."""
    return not settings.no_input and sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, yes: bool, settings: Settings) -> bool:
    """Whether to go on. Raises `UsageError` if there is nobody to ask and ``--yes`` was not given."""
    if yes:
        return True
    if not interactive(settings):
        raise UsageError(f"{question} Nobody is here to answer", hint="say --yes")
    return typer.confirm(question, default=False, err=True)


class Bar(Protocol):
    """A running progress bar."""

    def advance(self, amount: float = 1) -> None:
        """`amount` more is done."""

    def describe(self, text: str) -> None:
        """Change the title."""


class _Silent:
    def advance(self, amount: float = 1) -> None:
        del amount

    def describe(self, text: str) -> None:
        del text


@contextmanager
def progress(title: str, total: float | None = None) -> Iterator[Bar]:
    """A bar on stderr while the block runs, on a terminal only; `total` None shows activity without an end."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _Silent()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    look = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(*look, console=console(sys.stderr), transient=True) as bars:
        task = bars.add_task(title, total=total)

        class _Rich:
            def advance(self, amount: float = 1) -> None:
                bars.advance(task, amount)

            def describe(self, text: str) -> None:
                bars.update(task, description=text)

        yield _Rich()
