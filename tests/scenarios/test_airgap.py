"""A node that no network reaches: slices go in and reports come out on a stick, with real agents and real commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from edgectl_agent.core.messages import UpdateResult

from edgectl.store.store import Store
from tests.scenarios.fleets import Plant, until

T0 = 1_700_000_000


class Site:
    """A plant with two nodes: ``net`` is a process that the CLI reaches, ``gap`` one that it does not."""

    def __init__(self, folder: Path) -> None:
        (folder / "plant").mkdir()
        self.plant = Plant(folder / "plant", ("net", "gap"))
        fleet = self.plant.folder / "fleet.yaml"
        head, gap, tail = fleet.read_text().partition("- name: gap\n")
        home = self.plant.folder / ".edgectl" / "nodes" / "gap"
        usb = f"connect: {{via: usb}}\n    agent: {{folder: {home}}}\n    report: {{silent_after: 35d}}"
        unreached = f"    {usb}\n" + tail.replace("path: gap.jsonl", f"path: {folder}/plant/gap.jsonl")
        assert f"path: {folder}/plant/gap.jsonl" in unreached
        assert "connect:" not in tail, "nothing else says how it is reached"
        fleet.write_text(head + gap + unreached)
        self.shell, self.stick = self.plant.shell, folder / "stick"
        self.stick.mkdir()
        self.config = home / "agent.yaml"

    def agent(self, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """``edgectl-agent`` as somebody types it on the node."""
        command = [sys.executable, "-m", "edgectl_agent", *args, "--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=self.stick)
        assert done.returncode == code, f"{args} → {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def take(self, code: int = 0) -> UpdateResult:
        return msgspec.json.decode(self.agent("import", str(self.stick), code=code).stdout, type=UpdateResult)

    def alerts(self) -> list[str]:
        with Store("sqlite:///.edgectl/state.db", self.plant.folder) as store:
            return [record.alert.id for record in store.alerts.find(node="gap")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("airgap"))
    yield made
    made.plant.close()


def test_a_release_goes_in_and_alerts_come_out_by_hand(site: Site) -> None:
    plant, shell = site.plant, site.shell
    plant.release("1.0.0", seed=1)

    # The deployment assigns it, without counting the node that nobody reaches.
    done = shell.run("deploy", "press", "--yes", "-o", "json")
    assert done.returncode == 31, done.stderr
    outcome = json.loads(done.stdout)
    states = {node["node"]: node["state"] for node in outcome["nodes"]}
    assert states == {"net": "confirmed", "gap": "unreachable"}
    assert "edgectl repo export --node gap --to DIR" in done.stdout

    rows = json.loads(
        shell.ok("repo", "export", "--node", "gap", "--to", str(site.stick), "--grant", "30d", "-o", "json")
    )
    assert [row["node"] for row in rows] == ["gap"]
    setup = site.stick / "gap" / "setup"
    assert f"data_dir: {site.config.parent}/data\n" in (setup / "agent.yaml").read_text()
    assert (setup / "root.json").read_bytes() == plant.repository.root_bytes()
    plant.stop("gap")
    shutil.copyfile(setup / "agent.yaml", site.config)
    plant.start("gap")
    taken = site.take()
    assert (taken.state, [m.version for m in taken.models], taken.released) == ("confirmed", ["1.0.0"], 0)
    assert site.take().state == "unchanged"

    # The main line went on behind the grant, and the reachable node follows it.
    plant.release("1.0.1", seed=2)
    shell.run("deploy", "press", "--yes")
    assert plant.versions() == {"net": "1.0.1", "gap": "1.0.0"}

    rng = np.random.default_rng(0)
    now = plant.feed("gap", rng.normal(0, 1, 300), T0)
    plant.feed("gap", [40.0] * 5 + [0.0] * 60, now)
    until(lambda: plant.report("gap").outbox.records > 0 and plant.report("gap").models[0].open_alerts == 0)
    site.agent("export", "gap.edge")

    # The file is the node's only voice; it is read once and again with the same result.
    first = json.loads(shell.ok("collect", "--from", str(site.stick / "gap.edge"), "-o", "json"))
    assert (first[0]["node"], first[0]["report"]) == ("gap", True)
    assert first[0]["alerts"] > 0
    ids = site.alerts()
    assert ids
    again = json.loads(shell.ok("collect", "--from", str(site.stick / "gap.edge"), "-o", "json"))
    assert (again[0]["alerts"], site.alerts()) == (0, ids)
    states = {row["name"]: row["state"] for row in json.loads(shell.ok("nodes", "list", "-o", "json"))}
    assert states["gap"] in ("healthy", "warming")

    # What the operator has, the next slice lets the node forget; the file from before takes nothing back.
    shell.ok("repo", "export", "--node", "gap", "--to", str(site.stick))
    taken = site.take()
    assert (taken.state, taken.models[0].version) == ("confirmed", "1.0.1")
    assert taken.released > 0
    assert plant.report("gap").outbox.records == 0
    site.agent("export", "later.edge")
    later = [
        json.loads(shell.ok("collect", "--from", str(site.stick / f), "-o", "json"))[0]
        for f in ("later.edge", "gap.edge")
    ]
    assert [row["report"] for row in later] == [True, False]
    records = json.loads(shell.ok("nodes", "list", "--select", "name=gap", "-o", "json"))
    assert records[0]["models"] == {"press": "1.0.1"}

    # Nobody tried to reach it, so nothing failed: audit has nothing to say of it.
    found = shell.run("audit", "-o", "json")
    assert [row for row in json.loads(found.stdout) if row["node"] == "gap"] == []


def test_a_slice_that_is_not_whole_or_not_this_nodes_is_refused_before_anything_is_touched(
    site: Site, tmp_path: Path
) -> None:
    shell, stick = site.shell, site.stick
    shell.ok("repo", "export", "--select", "name=~.*", "--to", str(stick))
    spool = site.config.parent / "data" / "spool"
    before = {p: p.read_bytes() for p in spool.rglob("*") if p.is_file()}
    slice_ = stick / "gap"

    def refused(says: str, folder: Path = stick) -> None:
        done = site.agent("import", str(folder), code=3)
        assert says in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1

    refused("is the slice of net, this node is gap", stick / "net")
    refused("holds no slice for gap: there is no slice.json", stick / "nowhere")
    (timestamp,) = slice_.rglob("timestamp.json")
    raw = timestamp.read_bytes()
    timestamp.rename(stick / "moved")
    timestamp.symlink_to(stick / "moved")
    refused("timestamp.json is a link, expected a file")
    timestamp.unlink()
    (stick / "moved").rename(timestamp)
    (spool / "metadata").rename(spool / "aside")
    (spool / "metadata").symlink_to(tmp_path)
    assert "metadata is a link, expected a folder" in site.agent("import", str(stick), code=75).stderr
    assert not list(tmp_path.iterdir())
    (spool / "metadata").unlink()
    (spool / "aside").rename(spool / "metadata")
    timestamp.write_bytes(raw[:-1] + b" ")
    refused("is damaged or was not copied whole: its SHA-256 differs → copy the slice again")
    timestamp.write_bytes(raw[:100])
    refused(f"{len(raw)} bytes were written")
    timestamp.unlink()
    refused("no such file or directory")
    (slice_ / "slice.json").write_bytes(b'{"format": 1, \xff')
    refused("slice.json: cannot be read")
    assert {p: p.read_bytes() for p in spool.rglob("*") if p.is_file()} == before


def test_a_file_that_is_damaged_foreign_or_of_nobody_is_one_sentence(site: Site, tmp_path: Path) -> None:
    site.agent("export", "whole.edge")
    raw = (site.stick / "whole.edge").read_bytes()
    collect = ("collect", "--from")
    cut = tmp_path / "cut.edge"
    cut.write_bytes(raw[: len(raw) // 2])
    site.shell.fails(3, *collect, str(cut), says="damaged or cut short on the way: its end is missing → copy it again")
    cut.write_bytes(raw.replace(b'"healthy"', b'"failed!"').replace(b'"warming"', b'"failed!"'))
    site.shell.fails(3, *collect, str(cut), says="damaged or cut short on the way: its digest differs")
    site.shell.fails(3, *collect, str(tmp_path / "none"), says="cannot be read: no such file")
    site.shell.fails(3, *collect, str(site.plant.folder / "fleet.yaml"), says="is not a file of `edgectl-agent export`")
    (tmp_path / "other").mkdir()
    other = Plant(tmp_path / "other", ())
    other.shell.fails(40, *collect, str(site.stick / "whole.edge"), says="node gap trusts another fleet than this one")
    shutil.copytree(site.plant.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("nodes"))
    copy = tmp_path / "copy" / "fleet.yaml"
    copy.write_text(copy.read_text().replace("name: gap", "name: gone"))
    done = site.shell.__class__(tmp_path / "copy")
    done.fails(4, *collect, str(site.stick / "whole.edge"), says="unknown node 'gap'")


def test_without_a_running_agent_both_ways_say_so(site: Site) -> None:
    site.shell.ok("repo", "export", "--node", "gap", "--to", str(site.stick))
    site.plant.stop("gap")
    try:
        for verb in (("import", str(site.stick)), ("export", "none.edge")):
            done = site.agent(*verb, code=75)
            assert "no agent runs on" in done.stderr
            assert "then repeat" in done.stderr
        assert not (site.stick / "none.edge").exists()
        assert list(site.stick.glob(".*")) == []
    finally:
        site.plant.start("gap")
