"""What `edgectl repo export` and `edgectl collect --from` do below their verbs: nodes that are reached by hand."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from edgectl.cli import publishing, wiring
from edgectl.cli.output import note, progress
from edgectl.core.errors import EdgeError, ExpiredError, UsageError
from edgectl.workspace import Workspace, operator

if TYPE_CHECKING:
    from edgectl.delivery.slices import Merged, Written
    from edgectl.inventory.types import Inventory
    from edgectl.store.store import Store
    from edgectl.trust.keys import KeyStore
    from edgectl.trust.repository import Repository


def export(
    workspace: Workspace, fleet: Inventory, store: Store, names: Sequence[str], to: Path, grant: str
) -> list[Written]:
    """One slice per node below `to`; with `grant`, all of them live that long. Raises as `Repository.grant`."""
    from edgectl.delivery import slices

    now = wiring.now()
    keys = wiring.keys(workspace)
    repository = wiring.repository(workspace, fleet, keys)
    granted = None
    until = now + _life(grant) if grant else _ends(repository)
    if grant:
        granted = repository.grant(now, until)
        publishing.after_signing(workspace, fleet)(fleet.names)  # the main line went on
        store.rollouts.log(operator(), f"repo export --grant {grant}", ", ".join(names)[:1000], time.time_ns())
    elif until <= now:
        raise ExpiredError(f"signed metadata ended {until:%Y-%m-%dT%H:%M:%SZ}", hint="edgectl repo refresh")
    written = []
    with progress("exporting", total=len(names)) as bar:
        for name in names:
            bar.describe(name)
            files = {**repository.slice_for(name, grant=granted), **_receipt(store, keys, name)}
            files |= _setup(workspace, fleet, repository, name)
            written.append(slices.write(to, name, files, fleet=fleet.fleet, now=now, until=until))
            bar.advance()
    return written


def merge(workspace: Workspace, fleet: Inventory, store: Store, files: Sequence[Path]) -> list[Merged]:
    """Every file into the store; all are read before the first is merged. Raises as `edgectl.delivery.slices.read`."""
    from edgectl.delivery import slices
    from edgectl.trust.chain import load

    roots = {
        hashlib.sha256(raw).hexdigest() for raw in load(workspace.resolve(fleet.repository_dir) / "metadata").roots
    }
    with progress("reading", total=len(files)) as bar:
        exports = []
        for file in files:
            exports.append((file, slices.read(file, fleet.names, roots)))
            bar.advance()
    done = [slices.merge(file, export, store, time.time_ns()) for file, export in exports]
    for each in done:
        if not each.report:
            note(f"{each.file}: a newer report of {each.node} is stored already; only alerts were taken")
        if each.ahead_s > 60:
            note(f"{each.node}: its clock is at least {each.ahead_s / 60:.0f} min ahead")
    return done


def _receipt(store: Store, keys: KeyStore, node: str) -> dict[str, bytes]:
    """Signed, how far the node's alerts are stored here; nothing before the first."""
    from edgectl_agent.core.airgap import RECEIPT, Collected

    from edgectl.trust.receipt import sign

    position = store.alerts.position(node)
    if not position.after or not position.log_id:
        return {}
    return {RECEIPT: sign(Collected(node=node, through=position.after, log_id=position.log_id), keys)}


def _setup(workspace: Workspace, fleet: Inventory, repository: Repository, node: str) -> dict[str, bytes]:
    """What somebody needs who sets the node up: its agent.yaml and whom to trust; nothing for one on this machine."""
    from edgectl_agent.core.airgap import SETUP

    from edgectl.fleet import membership

    chosen = fleet.node(node)
    if chosen.via == "local":
        return {}
    try:
        files = membership.files(chosen, workspace, wiring.columns(workspace), repository.root_bytes())
    except EdgeError as e:
        note(f"{node}: its slice has no {SETUP}agent.yaml: {e}")
        return {}
    return {f"{SETUP}{Path(name).name}": content for name, content in files.items()}


def _life(text: str) -> timedelta:
    from edgectl_agent.core.units import duration_ns

    life = timedelta(microseconds=duration_ns(text) / 1000)
    if life < timedelta(days=1):
        raise UsageError(f"--grant: expected at least 1d, found {text!r}")
    return life


def _ends(repository: Repository) -> datetime:
    return min(repository.expiries().values())
