"""Makes a workspace. Each step looks first whether its result is there, so that a run that was cut short is completed
by the next one, and a run over a complete workspace changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime

from edgectl.core.errors import ConfigError, UsageError
from edgectl.files import write_file
from edgectl.inventory.reading import load, parse
from edgectl.inventory.types import Inventory
from edgectl.secrets import with_password
from edgectl.store.store import Store
from edgectl.trust.authority import Authority
from edgectl.trust.keys import KeyStore
from edgectl.trust.repository import Repository
from edgectl.workspace import Workspace, operator

FLEET = """\
# The fleet. `edgectl help fleet.yaml` prints an example with every key explained.
version: 1
fleet: {fleet}
store: sqlite:///.edgectl/state.db      # reports, alerts and rollouts, as `edgectl collect` and `deploy` keep them
repository: {{dir: ./repo}}               # signed models; nothing in it is secret
time_zone: UTC                          # of what is displayed; everything stored is UTC

defaults:                               # a site or a node may say otherwise, key by key
  tier: far-edge                        # or near-edge, regional
  connect: {{via: local}}                 # nodes are processes on this machine
  report: {{every: 60s, silent_after: 5m}}

sites: {{}}
nodes: []                               # `edgectl nodes add` writes here and keeps your comments
"""

IGNORED = """\
# edgectl: private keys, state and nodes never go into git; the signed repository is published, not committed
.edgectl/
repo/
"""


def initialise(
    workspace: Workspace, fleet: str, passphrase: Callable[[], str | None], now: datetime
) -> tuple[str, ...]:
    """Make what is not there yet; returns what was made, in words, empty if nothing was missing.

    Args:
        fleet: its name, or empty for the folder's.
        passphrase: called only if keys must be made or used.

    Raises:
        ConfigError: fleet.yaml is there and wrong.
        UsageError: it is there and names another fleet.
        TrustError: keys of this repository are missing here, or the passphrase is wrong.
        StorageError: the disk refuses.
    """
    return tuple(_steps(workspace, fleet, passphrase, now))


def _steps(workspace: Workspace, name: str, passphrase: Callable[[], str | None], now: datetime) -> Iterator[str]:
    if workspace.fleet_file.exists():
        fleet = load(workspace.fleet_file)
        if name and name != fleet.fleet:
            raise UsageError(f"{workspace.fleet_file} is fleet {fleet.fleet!r} already, not {name!r}")
    else:
        text = FLEET.format(fleet=_checked(name or _folder_name(workspace)))
        fleet = parse(text)
    if _ignore(workspace):
        yield ".gitignore"
    asked: list[str | None] = []

    def once() -> str | None:
        """Asks a person at most one time."""
        if not asked:
            asked.append(passphrase())
        return asked[0]

    yield from _trust(workspace, fleet, once, now)
    yield from _certificates(workspace, fleet, once, now)
    with Store(with_password(fleet.store_url, fleet.store_password, workspace.root), workspace.root):
        pass
    if not workspace.fleet_file.exists():  # last: its presence says that the workspace is complete
        write_file(workspace.fleet_file, text.encode())
        yield f"fleet.yaml for the fleet {fleet.fleet!r}"


def _trust(
    workspace: Workspace, fleet: Inventory, passphrase: Callable[[], str | None], now: datetime
) -> Iterator[str]:
    keys = KeyStore(workspace.keys)
    repository = Repository(workspace.resolve(fleet.repository_dir), keys)
    if repository.exists():  # its keys were made with it: new ones would be worth nothing
        return
    secret = passphrase()
    if keys.create(secret):
        yield f"signing keys in {workspace.keys.relative_to(workspace.root)}{', with a passphrase' if secret else ''}"
    if repository.create(now, secret):
        yield f"signed repository in {fleet.repository_dir}"


def _certificates(
    workspace: Workspace, fleet: Inventory, passphrase: Callable[[], str | None], now: datetime
) -> Iterator[str]:
    """The fleet's certificate authority, and this operator's certificate; one that is due is renewed."""
    authority = Authority(workspace.keys, workspace.certificates, fleet.fleet)
    if not (workspace.keys / "root.pem").exists():  # the keys are elsewhere, and the authority that nodes know is, too
        return
    if not authority.exists():
        authority.create(passphrase(), now)
        authority.renew_operator(operator(), passphrase() if authority.locked() else None, now)
        yield "certificate authority of the fleet, and your client certificate"
    elif authority.lives()["operator"].due(now):
        authority.renew_operator(operator(), passphrase() if authority.locked() else None, now)
        yield "your client certificate, renewed"


def _ignore(workspace: Workspace) -> bool:
    path = workspace.root / ".gitignore"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if all(line in text.splitlines() for line in IGNORED.splitlines()[1:]):
        return False
    gap = "" if not text or text.endswith("\n") else "\n"
    return write_file(path, (text + gap + IGNORED).encode())


def _folder_name(workspace: Workspace) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", workspace.root.name).strip("-._")[:63] or "fleet"


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise ConfigError(f"fleet name {name!r}: expected letters, digits, '.', '_' and '-', at most 63")
    return name
