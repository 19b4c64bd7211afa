"""`edgectl data`: history to train on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import completing, wiring
from edgectl.cli.output import Bar, Format, FormatOption, emit_one, note, progress, settings
from edgectl.core.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from edgectl_agent.core.recordings import RecordingStatus

    from edgectl.history.parts import Summary

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def data() -> None:
    """Record what nodes' sources deliver, to train on it."""


@app.command()
def record(
    ctx: typer.Context,
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="Name of the node.", autocompletion=completing.among("names"))
    ],
    source: Annotated[str, typer.Option(help="The source, as fleet.yaml calls it.")],
    for_: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long: 10m, 24h, 7d.")] = "24h",
    max_size: Annotated[str, typer.Option(help="Stop when the file has this size.")] = "1GB",
    spool: Annotated[str, typer.Option(help="What may wait on the node's disk, at most 256MiB.")] = "64MiB",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: NODE-SOURCE.parquet.")] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Record what a source delivers, beside its models, into Parquet. The same command again resumes."""
    import time

    from edgectl.history.record import Tools, Wanted
    from edgectl.history.record import record as run

    file = out or Path(f"{node}-{source}.parquet")
    if file.suffix != ".parquet":
        raise UsageError(f"--out: expected a file that ends in .parquet, found {file}")
    seconds, size, kept = _bounds(for_, max_size, spool)
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    via = fleet.node(node).via
    if via in ("pull", "usb"):
        raise UsageError(
            f"node {node} is reached by {via}: nobody can ask it for readings",
            hint="record on the node what writes its source, and bring that file",
        )
    client = wiring.connect(workspace, fleet)(node)
    wanted = Wanted(source=source, for_s=seconds, max_bytes=size, spool_bytes=kept, file=file)
    try:
        with progress(f"record {node} {source}", seconds) as bar:
            tools = Tools(
                clock_ns=time.time_ns, monotonic_s=time.monotonic, sleep=time.sleep, say=note, told=_Told(bar)
            )
            found, new = run(client, wanted, tools)
    finally:
        client.close()
    value = {"file": str(file), "bytes": file.stat().st_size, "new": new, "recording": found}
    emit_one(value, output, lambda _: _text(file, found, new), name=lambda _: str(file))
    note(f"next:  edgectl train RECIPE --data {file}")


def _bounds(for_: str, max_size: str, spool: str) -> tuple[float, int, int]:
    from edgectl_agent.core.recordings import MAX_S, MAX_SPOOL_BYTES
    from edgectl_agent.core.units import duration_ns, size_bytes

    try:
        seconds, size, kept = duration_ns(for_) / 1e9, size_bytes(max_size), size_bytes(spool)
    except ConfigError as e:
        raise UsageError(f"--for, --max-size or --spool: {e.message}") from e
    if not 0 < seconds <= MAX_S:
        raise UsageError(f"--for: expected a duration of at most 31d, found {for_!r}")
    if size < 1 << 16 or not 1 << 20 <= kept <= MAX_SPOOL_BYTES:
        raise UsageError("expected --max-size of at least 64k, and --spool from 1MiB to 256MiB")
    return seconds, size, kept


class _Told:
    """Moves the bar by the node's clock."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._shown_s = bar, 0.0

    def __call__(self, status: RecordingStatus, readings: int) -> None:
        import time

        gone_s = min(time.time_ns(), status.until_ns) / 1e9 - status.started_ns / 1e9
        self._bar.describe(f"{status.node} {status.source}: {readings:,} readings")
        self._bar.advance(gone_s - self._shown_s)
        self._shown_s = gone_s


def _text(file: Path, found: Summary, new: bool) -> str:
    from edgectl_agent.core.units import iso

    words = {"time": "the time was up", "size": "--max-size was reached"}
    lines = [
        f"{file}  {found.readings:,} readings of {found.node}'s source {found.source}",
        f"channels: {', '.join(f'{c} ({u})' if u else c for c, u in found.channels.items()) or 'none'}"
        + (f" · categories: {', '.join(found.categories)}" if found.categories else ""),
        f"from {iso(found.started_ns)} to {iso(found.ended_ns)}: {words.get(found.ended, found.ended)}"
        + ("" if new else " (it was there already)"),
    ]
    for gap in found.gaps:
        count = "unknown" if gap.readings is None else f"{gap.readings:,}"
        before = iso(gap.before_ns) if gap.before_ns else "the end"
        after = iso(gap.after_ns) if gap.after_ns else "the start"
        lines.append(f"GAP  {count} readings between {after} and {before}: {gap.why}")
    return "\n".join(lines)
