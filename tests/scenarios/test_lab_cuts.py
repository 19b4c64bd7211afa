"""A cable that is pulled at any moment of bootstrap, deploy and upgrade leaves nothing torn and nothing claimed.

EDGECTL_CUTS=10 (`make soak`) cuts each of them ten times, else a few; EDGECTL_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from edgectl_agent.core.bundle import digest, encode

from edgectl.core.rollout import Progress
from edgectl.store.store import Store
from edgectl.trust.keys import KeyStore
from edgectl.trust.repository import Repository
from tests.scenarios.fleets import RECIPE, until
from tests.support import cuts
from tests.support.bundles import make_bundle, make_release
from tests.support.cuts import Cut, broken_scripts, cut, final_files, markdown, moments, report, torn
from tests.support.lab import Lab, Node
from tests.support.machines import MachineFleet, other_agent, running, temporary_files, wheelhouse

pytestmark = pytest.mark.needs("lab", "system-python")

MANY = int(os.environ.get("EDGECTL_CUTS", "0"))
SEED = int(os.environ.get("EDGECTL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
REACHES_S = 0.8
"""A command needs about so long until it opens its first connection."""


class Bench(MachineFleet):
    """The fleet, an operator who soon gives up, and what the machines hold when nothing was cut."""

    def __init__(self, folder: Path, lab: Lab, wheels: Path) -> None:
        super().__init__(folder / "mona", lab)
        self.wheels, self.cuts = wheels, list[Cut]()
        impatient = folder / "ssh_config"
        impatient.write_text(cuts.IMPATIENT)
        self.impatient = type(self.shell)(self.shell.folder, {"EDGECTL_SSH_CONFIG": str(impatient)})
        recipe = self.folder / "models" / "press"
        recipe.mkdir(parents=True)
        (recipe / "recipe.yaml").write_text(RECIPE)
        self.repository = Repository(self.folder / "repo", KeyStore(self.folder / ".edgectl" / "keys"))
        source = {"s": {"type": "tail", "path": "/var/log/press.jsonl"}}
        self.write("press-01", sources=source, models={"press": ["s"]})
        self.write("spare")
        self.sources = folder / "sources"
        self.sources.mkdir()
        (self.sources / "repo").symlink_to(self.folder / "repo")
        (self.sources / "wheels").symlink_to(wheels)

    def release(self, kind: str = "ok") -> str:
        """Sign one more; returns ``press@VERSION``."""
        number = len(self.repository.releases()) + 1
        raw = encode(make_bundle(number, "press", kind))
        older = tuple(ref.sha256 for release in self.repository.releases() for ref in release.variants)
        made = make_release("press", f"1.{number}.0", number, raw, fallbacks=older)
        self.repository.add_release(made, {digest(raw): raw}, None, datetime.now(UTC))
        return f"press@{made.version}"

    def newest(self) -> str:
        """Digest of the newest release's bundle."""
        return self.repository.releases()[-1].variants[0].sha256

    def progress(self) -> Progress:
        """Where the newest rollout is, by its journal."""
        with Store("sqlite:///.edgectl/state.db", self.folder) as store:
            return store.rollouts.progress(store.rollouts.all(limit=1)[0])

    def rollout(self) -> str:
        """Name of the newest."""
        with Store("sqlite:///.edgectl/state.db", self.folder) as store:
            return store.rollouts.all(limit=1)[0].name

    def until_activated(self, node: Node, former: str) -> None:
        """Wait for the rollout after `former` to order the node to update."""
        until(lambda: self.rollout() != former and self.progress().nodes[node.name].state in ("activated", "confirmed"))

    def timed(self, *args: str) -> float:
        """How long a command lasts that nobody disturbs."""
        began = time.monotonic()
        self.shell.ok(*args, timeout_s=600)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheelhouse(tmp_path_factory)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab") / "nodes") as lab:
        lab.node("press-01", also="touch /var/log/press.jsonl; chmod 644 /var/log/press.jsonl")
        lab.node("spare")
        lab.boot()
        yield lab


@pytest.fixture(scope="module")
def bench(lab: Lab, tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Bench]:
    print(f"EDGECTL_SEED={SEED}")
    bench = Bench(tmp_path_factory.mktemp("cuts"), lab, wheels)
    yield bench
    print(f"\nEDGECTL_SEED={SEED}\n{markdown(bench.cuts)}")


@pytest.fixture(scope="module")
def installed_s(bench: Bench) -> float:
    """How long the undisturbed bootstrap of press-01 lasted."""
    return bench.timed("nodes", "bootstrap", "press-01", "--wheelhouse", str(bench.wheels))


def claims(bench: Bench, node: Node) -> bool:
    """Whether the journal, or the screen, says that the newest rollout is confirmed on `node`."""
    said = bench.progress().nodes[node.name].state == "confirmed"
    screen = json.loads(bench.shell.ok("status", "-o", "json"))["rollout"]["counts"]
    assert said == (screen.get("confirmed", 0) == 1), screen
    return said


def after_the_rerun(bench: Bench, node: Node, one: Cut, files: tuple[dict[str, str], dict[str, str]]) -> None:
    """What holds in every case, once the cable is back and the command has been run again."""
    assert torn(node, *files, final_files(node), bench.sources) == [], one
    assert temporary_files(node) == [], one
    assert node.console("find /var/lib/edgectl-agent/spool -name '.*' -type f").stdout == "", one
    bench.cuts.append(one)


def test_a_bootstrap_that_is_cut_is_completed_by_the_next(bench: Bench, lab: Lab, installed_s: float) -> None:
    node, command = lab["spare"], ("nodes", "bootstrap", "spare", "--wheelhouse", str(bench.wheels))
    for after_s in moments(SEED, "bootstrap", installed_s, MANY or 1, REACHES_S):
        before = final_files(node)
        one = cut(bench.impatient, node, command, after_s)
        during = final_files(node)
        assert broken_scripts(node) == []
        assert one.exit in (0, 31), one
        if one.exit == 0:
            assert report(node) is not None, one
        node.link(up=True)
        bench.shell.ok(*command, timeout_s=600)
        (row,) = bench.json(*command)
        assert row["state"] == "unchanged", one
        assert running(node) == row["environment"]
        after_the_rerun(bench, node, one, (before, during))
        bench.shell.ok("nodes", "remove", "spare", "--yes")
        bench.write("spare")


def test_a_deployment_that_is_cut_claims_nothing_false_and_goes_on(bench: Bench, lab: Lab, installed_s: float) -> None:
    del installed_s
    node, options = lab["press-01"], ("--phases", "100%", "--timeout", "3", "--yes")
    lasts_s = bench.timed("deploy", bench.release(), *options)
    for i, after_s in enumerate(moments(SEED, "deploy", lasts_s, MANY or 2, REACHES_S)):
        command = ("deploy", bench.release(), *options)
        before = final_files(node)
        one = cut(bench.impatient, node, command, after_s)
        during = final_files(node)
        begun = "r-" in one.said
        confirmed = begun and claims(bench, node)
        found = report(node)
        assert found is not None, one
        assert not confirmed or found.models[0].bundle == bench.newest(), one
        assert (one.exit == 0) == confirmed or not begun, one
        node.link(up=True)
        go_on = one.said.partition("edgectl ")[2].split() if "--resume" in one.said and i % 2 else command
        bench.shell.ok(*go_on, timeout_s=600)
        found = report(node)
        assert found is not None, one
        assert found.models[0].bundle == bench.newest(), one
        after_the_rerun(bench, node, one, (before, during))


def test_an_upgrade_that_is_cut_goes_on_by_itself_or_when_it_is_run_again(
    bench: Bench, lab: Lab, installed_s: float
) -> None:
    node = lab["press-01"]
    for i, after_s in enumerate(moments(SEED, "upgrade", installed_s, MANY or 1, REACHES_S)):
        version = f"0.1.{101 + i}"
        wheel = other_agent(bench.wheels, version)
        (bench.sources / version).mkdir()
        (bench.sources / version / wheel.name).symlink_to(wheel)
        command = ("nodes", "upgrade", "press-01", "--to", version, "--wheel", str(wheel), "--wheelhouse",
                   str(bench.wheels), "--phases", "100%", "--yes")  # fmt: skip
        before = final_files(node)
        one = cut(bench.impatient, node, command, after_s)
        during = final_files(node)
        assert broken_scripts(node) == []
        found = report(node)
        assert found is not None, one
        if "--resume" in one.said or one.exit == 0:
            assert not claims(bench, node) or found.agent == version, one
        node.link(up=True)
        go_on = one.said.partition("edgectl ")[2].split() if "--resume" in one.said and i % 2 else []
        bench.shell.ok(*([*go_on, *command[3:9]] if go_on else command), timeout_s=600)
        found = report(node)
        assert found is not None, one
        assert found.agent == version, one
        assert running(node).startswith(f"{version}-"), one
        after_the_rerun(bench, node, one, (before, during))


def test_unreachable_silent_and_failed_are_told_apart(bench: Bench, lab: Lab, installed_s: float) -> None:
    del installed_s
    node, options = lab["press-01"], ("--phases", "100%", "--timeout", "4", "--yes", "-o", "json")
    good = ("deploy", bench.release(), *options)
    bench.shell.ok(*good)

    node.link(up=False)
    unreachable = bench.impatient.run("deploy", bench.release(), *options)
    assert (unreachable.returncode, _outcome(unreachable.stdout)) == (31, ("incomplete", "unreachable"))
    assert "0/1 confirmed, 1 unreachable" in bench.shell.ok("status")
    assert _why(bench)["state"] == "unreachable"
    node.link(up=True)
    bench.shell.ok("deploy", "--resume", bench.rollout())

    former = bench.rollout()
    with bench.impatient.start("deploy", bench.release(), *options) as process:
        bench.until_activated(node, former)
        node.link(up=False)
        out, _ = process.communicate(timeout=120)
    assert (process.returncode, _outcome(out)) == (32, ("incomplete", "silent"))
    assert "0/1 confirmed, 1 silent" in bench.shell.ok("status")
    assert any("silent on this node: no answer after activation" in text for text in _reasons(bench))
    node.link(up=True)
    bench.shell.ok("deploy", "--resume", bench.rollout())

    pid = node.run("systemctl show -P MainPID edgectl-agent").strip()
    former = bench.rollout()
    with bench.shell.start("deploy", bench.release(), *options) as process:
        until(lambda: bench.rollout() != former and bench.progress().nodes[node.name].state != "pending")
        node.run(f"kill -STOP {pid}")
        out, _ = process.communicate(timeout=120)
    assert (process.returncode, _outcome(out)) == (32, ("incomplete", "silent"))
    node.run(f"kill -CONT {pid}")
    bench.shell.ok("deploy", "--resume", bench.rollout())

    before = report(node)
    failed = bench.shell.run("deploy", bench.release("golden"), *options)
    assert (failed.returncode, _outcome(failed.stdout)) == (30, ("incomplete", "failed"))
    assert "0/1 confirmed, 1 failed" in bench.shell.ok("status")
    assert any("failed on this node" in text and "golden vectors" in text for text in _reasons(bench))
    after = report(node)
    assert before is not None
    assert after is not None
    assert after.models[0].bundle == before.models[0].bundle, "a release that it refuses takes nothing from it"


def _outcome(shown: str) -> tuple[str, str]:
    said = json.loads(shown)
    return said["state"], said["nodes"][0]["state"]


def _why(bench: Bench) -> dict[str, Any]:
    """What `nodes why` says; its exit code tells whether the node is well."""
    found: dict[str, Any] = json.loads(bench.shell.run("nodes", "why", "press-01", "-o", "json").stdout)
    return found


def _reasons(bench: Bench) -> list[str]:
    return [reason["text"] for reason in _why(bench)["reasons"]]
