"""An operator with keys and a repository, and a node's folders, for stories about trust.

    mona = Operator(tmp_path / "mona")
    mona.release("1.0.0", seed=1)
    mona.deploy("1.0.0", epoch=1)
    node = NodeFolder(tmp_path / "n1", mona)
    node.push(mona)
    verdict = node.verify(mona.now)

Time is `Operator.now`, a value that the story moves.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from edgectl_agent.core.bundle import Bundle, decode, digest, encode
from edgectl_agent.core.desired import Running, Standing, Verdict
from edgectl_agent.core.messages import ASSIGNMENT_TARGET, Assignment, Epoch, Placement, Release
from edgectl_agent.trust_client import TrustClient
from tuf.api.metadata import TargetFile

from edgectl.trust import chain as chains
from edgectl.trust.contents import Contents
from edgectl.trust.keys import KeyStore, Role
from edgectl.trust.publication import Publication
from edgectl.trust.repository import Repository
from tests.support.bundles import make_bundle, make_release

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
NODE = "lyon-pi-0417"


def ns(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9


class Operator:
    """Signs what the story asks for, sound (through `Repository`) or forged (with the same keys, unchecked)."""

    def __init__(self, folder: Path, passphrase: str | None = None) -> None:
        self.folder = folder
        self.passphrase = passphrase
        self.now = START
        self.keys = KeyStore(folder / "keys")
        self.keys.create(passphrase)
        self.repository = Repository(folder / "repo", self.keys)
        self.repository.create(self.now, passphrase)
        self.raw: dict[str, bytes] = {}

    def later(self, **delta: float) -> None:
        self.now += timedelta(**delta)

    def release(
        self,
        version: str,
        seed: int = 0,
        kind: str = "ok",
        *,
        recipe: str = "press",
        fallbacks: tuple[str, ...] = (),
        bundle: Bundle | None = None,
    ) -> Release:
        """Sign a release with one bundle; its counter is the number of releases so far, plus one."""
        raw = encode(bundle or make_bundle(seed, recipe, kind))
        counter = len(self.repository.releases()) + 1
        release = make_release(recipe, version, counter, raw, fallbacks=fallbacks)
        self.raw[version] = raw
        self.repository.add_release(release, {digest(raw): raw}, self.passphrase, self.now)
        return release

    def deploy(self, version: str, epoch: int = 1, operator: str = "mona", recipe: str = "press") -> Assignment:
        """Sign an assignment of one release to the node."""
        wanted = self.assignment(version, epoch, operator, recipe)
        self.repository.assign(wanted, self.now, self.repository.versions().timestamp)
        return wanted

    def assignment(self, version: str, epoch: int = 1, operator: str = "mona", recipe: str = "press") -> Assignment:
        raw = self.raw[version]
        place = Placement(version=version, sha256=digest(raw), variant=decode(raw).variant, nodes=(NODE,))
        return Assignment(fleet="acme", epoch=Epoch(number=epoch, operator=operator), models={recipe: (place,)})

    def forge(self, role: Role, targets: dict[str, bytes], keys: KeyStore | None = None) -> None:
        """Publish whatever is asked under `role`, with none of the repository's own checks."""
        chain = chains.load(self.folder / "repo" / "metadata")
        publication = Publication(chain, keys or self.keys, self.now, self.passphrase)
        for path, content in targets.items():
            info = TargetFile.from_data(path, content, ["sha256"])
            chain.roles()[role].targets[path] = info  # type: ignore[attr-defined]
            publication.add_target(chains.target_name(path, info.hashes["sha256"]), content)
        publication.add_roles(role)
        publication.write(self.folder / "repo")

    def forge_assignment(self, assignment: Assignment) -> None:
        self.forge("rollout", {ASSIGNMENT_TARGET: msgspec.json.encode(assignment)})

    def contents(self) -> Contents:
        return Contents(self.folder / "repo" / "targets", chains.load(self.folder / "repo" / "metadata"))


def deployed(folder: Path, passphrase: str | None = None) -> Operator:
    """An operator who has signed and deployed 1.0.0."""
    operator = Operator(folder, passphrase)
    operator.release("1.0.0", seed=1)
    operator.deploy("1.0.0", epoch=1)
    return operator


def copied(template: Path, folder: Path, passphrase: str | None = None) -> Operator:
    """The operator that `deployed` made in `template`, in a folder of this story's own."""
    shutil.copytree(template, folder)
    operator = Operator(folder, passphrase)
    operator.raw["1.0.0"] = encode(make_bundle(1))
    return operator


class NodeFolder:
    """A node's data folder. `verify` runs the verification in this process; what it installs becomes `standing`."""

    def __init__(self, folder: Path, operator: Operator) -> None:
        self.folder = folder
        (folder / "trust").mkdir(parents=True, exist_ok=True)
        (folder / "trust" / "root.json").write_bytes(operator.repository.root_bytes())
        self.standing = Standing()

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def push(self, operator: Operator, have: frozenset[str] = frozenset()) -> None:
        """Replace the spool by the operator's slice for this node."""
        shutil.rmtree(self.spool, ignore_errors=True)
        for name, content in operator.repository.slice_for(NODE, have).items():
            path = self.spool / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())

    def mirror(self, operator: Operator) -> None:
        """Replace the spool by all that the operator's repository holds, also what was never assigned."""
        shutil.rmtree(self.spool, ignore_errors=True)
        shutil.copytree(operator.folder / "repo", self.spool)

    def verify(self, now: datetime) -> Verdict:
        return TrustClient(self.folder, NODE, ns(now), lambda doing: None).run(self.standing)

    def update(self, now: datetime) -> Verdict:
        """Verify, and take what was staged as running, as a node does when it loads."""
        verdict = self.verify(now)
        for staged in verdict.staged:
            raw = (self.folder / "staging" / staged.recipe / "release.json").read_bytes()
            self.runs(msgspec.json.decode(raw, type=Release))
        return verdict

    def runs(self, release: Release) -> None:
        """From now on the node runs this release."""
        running = Running(
            version=release.version,
            bundle=release.variants[0].sha256,
            counter=release.counter,
            fallbacks=release.fallbacks,
        )
        self.standing = msgspec.structs.replace(
            self.standing, running=self.standing.running | {release.recipe: running}
        )

    @property
    def version(self) -> str:
        """What the node runs of the recipe of these stories."""
        running = self.standing.running.get("press")
        return running.version if running else ""

    def target(self, ending: str) -> Path:
        """The one file below ``spool/targets`` whose name ends so."""
        (found,) = (p for p in (self.spool / "targets").rglob("*") if p.name.endswith(ending))
        return found
