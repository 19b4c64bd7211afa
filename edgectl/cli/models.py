"""`edgectl models`: what was trained, and what of it nodes may run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgectl.cli import wiring
from edgectl.cli.output import Column, Format, FormatOption, emit, emit_one, note, printable, settings

app = typer.Typer(add_completion=False, no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A model; without a version the newest.")]


@app.command("list")
def list_(ctx: typer.Context, output: FormatOption = Format.TABLE) -> None:
    """Every trained version, and which are signed."""
    from edgectl.trust.signing import rows

    workspace = settings(ctx).workspace
    repository = wiring.repository(workspace, wiring.inventory(workspace))
    columns = (
        Column("MODEL", "recipe"),
        Column("VERSION", "version"),
        Column("VARIANTS", lambda row: ", ".join(row.variants)),
        Column("SIZE", lambda row: f"{row.bytes / 1000:,.0f} kB", right=True),
        Column("TRAINED", "created"),
        Column("SIGNED", lambda row: "yes" if row.signed else "no", style=lambda row: "" if row.signed else "yellow"),
        Column("FALLBACKS", lambda row: ", ".join(row.fallbacks), wide=True),
    )
    found = rows(wiring.registry(workspace), repository.releases())
    emit(found, columns, output, empty="nothing is trained yet: edgectl train RECIPE --data FILE")


@app.command()
def show(ctx: typer.Context, model: Model, output: FormatOption = Format.TABLE) -> None:
    """One version: its bundles, and the report of its training."""
    import msgspec

    from edgectl.core.releases import parse_model
    from edgectl.trust.signing import row

    workspace = settings(ctx).workspace
    repository, registry = wiring.repository(workspace, wiring.inventory(workspace)), wiring.registry(workspace)
    found = row(*parse_model(model), registry, repository.releases())
    entry = registry.entry(found.recipe, found.version) if found.trained else None
    value: dict[str, Any] = {"model": found, "name": found.name}
    if entry is not None:
        value |= {"bundles": entry.release.variants, "report": msgspec.Raw(entry.report), "location": entry.location}
    emit_one(value, output, lambda wide: _page(value))


@app.command()
def sign(
    ctx: typer.Context,
    model: Model,
    fallback: Annotated[
        list[str] | None, typer.Option(help="Version that nodes may return to, or none; repeatable (default: two).")
    ] = None,
    passphrase_file: wiring.PassphraseOption = None,
) -> None:
    """Sign a trained version, so that nodes accept it."""
    from edgectl.core.releases import parse_model
    from edgectl.trust import signing

    said = settings(ctx)
    workspace, keys, name = said.workspace, wiring.keys(said.workspace), parse_model(model)
    repository = wiring.repository(workspace, wiring.inventory(workspace), keys)

    def secret() -> str | None:
        return wiring.unlock(keys, "models", passphrase_file, said)

    with workspace.lock(f"models sign {model}"):
        registry = wiring.registry(workspace)
        release, new = signing.sign(registry, repository, *name, fallback or (), secret, wiring.now())
    shown = f"{release.recipe}@{release.version}"
    note(f"signed {shown}: edgectl deploy {shown}" if new else f"{shown} is signed already: nothing was changed")


@app.command()
def verify(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Default: everything signed.")] = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """Check every signature and digest, from the root to the last byte."""
    from edgectl.core.releases import parse_model
    from edgectl.trust import signing

    workspace = settings(ctx).workspace
    repository = wiring.repository(workspace, wiring.inventory(workspace))
    found = signing.verify(repository, *(parse_model(model) if model else ("", "")))
    columns = (
        Column("MODEL", "recipe"),
        Column("VERSION", "version"),
        Column("RESULT", lambda row: f"{row.files} files are what was signed"),
        Column("UNTIL", "expires"),
    )
    emit(found, columns, output, name=lambda row: f"{row.recipe}@{row.version}", empty="nothing is signed yet")


def _page(value: dict[str, Any]) -> str:
    from pathlib import Path

    found = value["model"]
    lines = [f"{found.name}  {'signed' if found.signed else 'not signed: edgectl models sign ' + found.name}"]
    for ref in value.get("bundles", ()):
        p99 = f"  p99 {ref.p99_us:g} µs" if ref.p99_us is not None else ""
        lines.append(f"  {ref.variant}  {ref.length:,} bytes  {ref.sha256[:12]}{p99}")
    if found.signed:
        lines.append(f"  may return to: {', '.join(found.fallbacks) or 'no older version'}")
    report = Path(value.get("location", "")) / "report.txt"
    if "location" in value and report.is_file():
        lines += ["", report.read_text(encoding="utf-8").rstrip(), "", f"files: {value['location']}"]
    return printable("\n".join(lines), keep="\n\t")
