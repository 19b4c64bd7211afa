"""A small real fleet: a workspace, signed releases, and agents as processes that tail one file each.

plant = Plant(tmp_path, ("pi-1", "pi-2"))
plant.release("1.0.0", seed=1)
plant.shell.ok("deploy", "press", "--yes")
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from edgectl_agent.core.bundle import Bundle, digest, encode
from edgectl_agent.core.messages import Release, Report

from edgectl.cli import wiring
from edgectl.connectors.client import NodeClient
from edgectl.connectors.local import LocalConnector
from edgectl.fleet import membership
from edgectl.trust.keys import KeyStore
from edgectl.trust.repository import Repository
from edgectl.workspace import Workspace
from tests.support.bundles import make_bundle, make_release
from tests.support.cli import Shell

RECIPE = """\
recipe: press
stream: machine
time: {column: ts, zone: UTC}
channels:
  value: {}
features:
  - {of: all, instant: [value]}
  - {of: all, window: 1m, stats: [mean]}
model: {type: pca}
alerts: {budget: {warning: 1/day, critical: 1/30d}}
"""


class Plant:
    """The operator's folder with its agents; `close` ends them."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.shell = Shell(folder)
        self.folder = folder
        self.names = tuple(names)
        self.shell.ok("init", "--fleet", "plant")
        recipe = folder / "models" / "press"
        recipe.mkdir(parents=True)
        (recipe / "recipe.yaml").write_text(RECIPE)
        self.repository = Repository(folder / "repo", KeyStore(folder / ".edgectl" / "keys"))
        for name in self.names:
            self._add(name)
        self._at_once(self.start)

    def close(self) -> None:
        self._at_once(self.stop)

    def _add(self, name: str) -> None:
        """As `edgectl nodes add`, without a process for each."""
        (self.folder / f"{name}.jsonl").touch()
        workspace, source = Workspace(self.folder), {"type": "tail", "path": f"{name}.jsonl"}
        entry = {"name": name, "sources": {"s": source}, "models": {"press": ["s"]}}
        root = self.repository.root_bytes()
        membership.add(entry, workspace, wiring.columns(workspace), root, lambda node: self._connector(node.name))

    def _at_once(self, do: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(do, self.names))

    def release(self, version: str, seed: int, kind: str = "ok", unit: str = "") -> Release:
        """Sign one release, which needs its channel in `unit`; it permits the return to every earlier one."""
        raw = encode(_in(unit, make_bundle(seed, "press", kind)))
        older = self.repository.releases()
        fallbacks = tuple(ref.sha256 for release in older for ref in release.variants)
        release = make_release("press", version, len(older) + 1, raw, fallbacks=fallbacks)
        self.repository.add_release(release, {digest(raw): raw}, None, datetime.now(UTC))
        return release

    def feed(self, name: str, values: Iterable[float], start_s: float, stream: str = "m1") -> float:
        """Append one reading per second of event time; returns the next second."""
        with (self.folder / f"{name}.jsonl").open("a") as out:
            for value in values:
                out.write(json.dumps({"ts": start_s, "machine": stream, "value": value}) + "\n")
                start_s += 1
        return start_s

    def report(self, name: str) -> Report:
        with closing(NodeClient(name, self._connector(name))) as client:
            return client.status()

    def versions(self) -> dict[str, str]:
        """What each node says that it runs."""
        return {name: m.version for name in self.names for m in self.report(name).models}

    def stop(self, name: str) -> None:
        with closing(self._connector(name)) as connector:
            connector.stop(timeout_s=5)

    def start(self, name: str) -> None:
        with closing(self._connector(name)) as connector:
            connector.start()

    def _connector(self, name: str) -> LocalConnector:
        return LocalConnector(name, self.folder / ".edgectl" / "nodes" / name)


def until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait for a condition of the real world."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)


def _in(unit: str, bundle: Bundle) -> Bundle:
    (channel,) = bundle.features.channels
    features = msgspec.structs.replace(bundle.features, channels=(msgspec.structs.replace(channel, unit=unit),))
    return msgspec.structs.replace(bundle, features=features)
