"""A cable that is pulled at any moment of bootstrap, deploy and upgrade leaves nothing torn and nothing claimed.

EDGECTL_CUTS=10 (`make soak`) cuts each of them ten times, else a few; EDGECTL_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from tests.support.cli import Shell
from tests.support.cuts import (
    Cut,
    Row,
    broken_environments,
    broken_switches,
    contents,
    cut,
    doing,
    final_files,
    installed,
    lasts,
    markdown,
    moments,
    own,
    report,
    settle,
    torn,
)
from tests.support.lab import Lab, Node
from tests.support.machines import MachineFleet, other_agent, running, temporary_files, wheelhouse

pytestmark = pytest.mark.needs("lab", "system-python")

MANY = int(os.environ.get("EDGECTL_CUTS", "0"))
SEED = int(os.environ.get("EDGECTL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
SAID = {0: "confirmed", 31: "unreachable", 32: "silent"}
"""Exit code → what the journal then says of the only node."""


@dataclass(frozen=True)
class Attempt:
    """A cut in time, of this command, which else lasts so long."""

    cut: Cut
    args: tuple[str, ...]
    lasts_s: float


class Bench(MachineFleet):
    """The fleet, an operator who soon gives up, and what the machines hold when nothing was cut."""

    def __init__(self, folder: Path, lab: Lab, wheels: Path) -> None:
        super().__init__(folder / "mona", lab)
        self.wheels, self.rows = wheels, list[Row]()
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
        """Name of the newest; empty if there was none yet."""
        with Store("sqlite:///.edgectl/state.db", self.folder) as store:
            return next((record.name for record in store.rollouts.all(limit=1)), "")

    def events(self, until_ns: int) -> list[str]:
        """What the newest rollout's journal had by then."""
        with Store("sqlite:///.edgectl/state.db", self.folder) as store:
            journal = store.rollouts.journal(store.rollouts.all(limit=1)[0].number)
        return [entry.event for entry in journal if entry.at_ns <= until_ns]

    def finished_s(self, one: Cut) -> float | None:
        """When the rollout of a cut command had finished, from its first connection; None if it had not, or is none."""
        with Store("sqlite:///.edgectl/state.db", self.folder) as store:
            journal = [
                entry for record in store.rollouts.all(limit=1) for entry in store.rollouts.journal(record.number)
            ]
        connected_ns = one.at_ns - one.ended_s * 1e9
        found = [
            entry.at_ns for entry in journal if entry.event == "finish" and connected_ns < entry.at_ns <= one.at_ns
        ]
        return (found[0] - connected_ns) / 1e9 if found else None

    def until_activated(self, node: Node, former: str) -> None:
        """Wait for the rollout after `former` to order the node to update."""
        until(lambda: self.rollout() != former and self.progress().nodes[node.name].state in ("activated", "confirmed"))

    def cut(self, node: Node, command: Callable[[], tuple[str, ...]], share: float, lasts_s: float) -> Attempt:
        """A cut while a command is at work; if it was faster this time, that is how long it lasts, and once more.

        Faster is also a rollout that had finished, by its journal, and whose process had not quite ended.

        Args:
            node: whose cable is pulled.
            command: prepares, and returns what to run.
            share: when, of its duration.
            lasts_s: how long one lasts.
        """
        while True:
            args = command()
            one = cut(self.impatient, node, args, share * lasts_s)
            finished_s = self.finished_s(one)
            if one.in_time and finished_s is None:
                return Attempt(one, args, lasts_s)
            assert one.exit == 0, one
            node.link(up=True)
            lasts_s = finished_s or one.ended_s

    def note(self, attempt: Attempt, step: str, claimed: str, ran: str, completed_by: str) -> None:
        """A line of the table."""
        self.rows.append(
            Row(
                cut=attempt.cut,
                lasts_s=attempt.lasts_s,
                doing=step,
                claimed=claimed,
                ran=ran,
                completed_by=completed_by,
            )
        )


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
    print(f"\nEDGECTL_SEED={SEED}\n{markdown(bench.rows)}")


@pytest.fixture(scope="module")
def installed_s(bench: Bench, lab: Lab) -> float:
    """How long the undisturbed bootstrap of press-01 lasted."""
    return lasts(bench.shell, lab["press-01"], ("nodes", "bootstrap", "press-01", "--wheelhouse", str(bench.wheels)))


def claim(bench: Bench, node: Node, one: Cut, former: str) -> str:
    """What edgectl says of `node` after a cut rollout: exit code, journal and screen must agree.

    `former` is the rollout before; if there is no later one, nothing was begun and nothing is said of the node.
    """
    if bench.rollout() == former:
        assert one.exit == 31, one
        return "nothing begun"
    said = bench.progress().nodes[node.name].state
    assert said == SAID[one.exit], one
    screen = json.loads(bench.shell.ok("status", "-o", "json"))["rollout"]
    assert screen["name"] == bench.rollout(), screen
    assert {state for state, count in screen["counts"].items() if count} == {said}, screen
    return said


def go_on(bench: Bench, node: Node, attempt: Attempt, resume: bool, given: tuple[str, ...]) -> str:
    """Plug the cable in and complete it, by the same command, or `resume` as it said; returns which."""
    node.link(up=True)
    said = attempt.cut.said.partition("edgectl ")[2].split() if "--resume" in attempt.cut.said and resume else []
    bench.shell.ok(*([*said, *given] if said else attempt.args), timeout_s=600)
    return "--resume" if said else "same command"


def tidy(node: Node, one: Cut) -> None:
    """What holds once the rerun has completed the command."""
    assert temporary_files(node) == [], one
    assert node.console("find /var/lib/edgectl-agent/spool -name '.*' -type f").stdout == "", one
    assert broken_environments(node) == [], one


def test_a_bootstrap_that_is_cut_is_completed_by_the_next(bench: Bench, lab: Lab, installed_s: float) -> None:
    node, command = lab["spare"], ("nodes", "bootstrap", "spare", "--wheelhouse", str(bench.wheels))
    sources = contents(bench.wheels, bench.folder / "repo")
    bench.shell.ok(*command, timeout_s=600)
    undisturbed = installed(final_files(node))

    def anew() -> tuple[str, ...]:
        bench.shell.ok("nodes", "remove", "spare", "--yes")
        bench.write("spare")
        return command

    for share in moments(SEED, "bootstrap", MANY or 1):
        attempt = bench.cut(node, anew, share, installed_s)
        one = attempt.cut
        during = final_files(node)
        assert torn({}, during, sources, lambda path, sha256: undisturbed.get(path) == sha256 or own(path)) == [], one
        assert broken_switches(node) == [], one
        assert broken_environments(node) == [], one
        assert one.exit in (0, 31), one
        ran = "agent" if node.console("systemctl is-active edgectl-agent").returncode == 0 else "nothing"
        assert one.exit or report(node) is not None, one

        node.link(up=True)
        bench.shell.ok(*command, timeout_s=600)
        assert installed(final_files(node)) == undisturbed, one
        (row,) = bench.json(*command)
        assert row["state"] == "unchanged", one
        assert running(node) == row["environment"]
        tidy(node, one)
        bench.note(attempt, doing(one, node), "installed" if one.exit == 0 else "nothing", ran, "same command")


def test_a_deployment_that_is_cut_claims_nothing_false_and_goes_on(bench: Bench, lab: Lab, installed_s: float) -> None:
    del installed_s
    node, options = lab["press-01"], ("--phases", "100%", "--timeout", "3", "--yes")
    bench.shell.ok("deploy", bench.release(), *options)
    lasts_s = lasts(bench.shell, node, ("deploy", bench.release(), *options))
    before, former, old = dict[str, str](), "", ""

    def next_release() -> tuple[str, ...]:
        nonlocal before, former, old
        before, former, old = final_files(node), bench.rollout(), bench.newest()
        return ("deploy", bench.release(), *options)

    for i, share in enumerate(moments(SEED, "deploy", MANY or 2)):
        attempt = bench.cut(node, next_release, share, lasts_s)
        one = attempt.cut
        assert torn(before, final_files(node), contents(bench.folder / "repo")) == [], one
        claimed, ran = claim(bench, node, one, former), loaded(node)
        assert ran in (old, bench.newest()), one
        assert claimed != "confirmed" or ran == bench.newest(), one
        step = doing(one, node, bench.events(one.at_ns) if claimed != "nothing begun" else ())

        by = go_on(bench, node, attempt, bool(i % 2), ())
        assert loaded(node) == bench.newest(), one
        assert bench.progress().nodes[node.name].state == "confirmed", one
        assert torn({}, {path: sha256 for path, sha256 in final_files(node).items() if "/spool/" in path},
                    contents(bench.folder / "repo")) == [], one  # fmt: skip
        tidy(node, one)
        bench.note(attempt, step, claimed, "new" if ran != old else "old", by)


def loaded(node: Node) -> str:
    """Digest of the bundle that the agent runs, which must be that of a bundle on its disk."""
    found = report(node)
    assert found is not None, node.name
    there = node.run("sha256sum /var/lib/edgectl-agent/slots/press/*/bundle.bin").split()
    assert found.models[0].bundle in there
    return found.models[0].bundle


def test_an_upgrade_that_is_cut_goes_on_by_itself_or_when_it_is_run_again(
    bench: Bench, lab: Lab, installed_s: float
) -> None:
    node, number = lab["press-01"], 100
    given = ("--wheelhouse", str(bench.wheels), "--phases", "100%", "--yes")
    before, former, version = dict[str, str](), "", ""
    wheels: list[Path] = []

    def next_version() -> tuple[str, ...]:
        nonlocal before, former, version, number
        number += 1
        version = f"0.1.{number}"
        wheels.append(other_agent(bench.wheels, version))
        before, former = final_files(node), bench.rollout()
        return ("nodes", "upgrade", "press-01", "--to", version, "--wheel", str(wheels[-1]), *given)

    lasts_s = lasts(bench.shell, node, next_version())
    for i, share in enumerate(moments(SEED, "upgrade", MANY or 1)):
        attempt = bench.cut(node, next_version, share, lasts_s)
        one = attempt.cut
        sources = contents(bench.wheels, bench.folder / "repo", *wheels)
        assert torn(before, final_files(node), sources, lambda path, sha256: own(path)) == [], one
        assert broken_switches(node) == [], one
        assert broken_environments(node) == [], one
        claimed = claim(bench, node, one, former)
        settle(node)
        found, ran = report(node), running(node)
        assert found is not None, one
        assert ran.startswith(f"{found.agent}-"), "the process and what it says of itself"
        assert claimed != "confirmed" or found.agent == version, one
        step = doing(one, node, bench.events(one.at_ns) if claimed != "nothing begun" else ())

        by = go_on(bench, node, attempt, bool(i % 2), attempt.args[3:9])
        after = report(node)
        assert after is not None, one
        assert after.agent == version, one
        assert running(node).startswith(f"{version}-"), one
        assert bench.progress().nodes[node.name].state == "confirmed", one
        assert found.models == () or loaded(node) == found.models[0].bundle, "it keeps its models"
        tidy(node, one)
        bench.note(attempt, step, claimed, "new" if found.agent == version else "old", by)


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

    fall_silent(bench, node, bench.impatient, options, lambda on: node.link(up=not on))
    assert "0/1 confirmed, 1 silent" in bench.shell.ok("status")
    assert any("silent on this node: no answer after activation" in text for text in _reasons(bench))
    node.link(up=True)
    bench.shell.ok("deploy", "--resume", bench.rollout())

    pid = node.run("systemctl show -P MainPID edgectl-agent").strip()
    fall_silent(bench, node, bench.shell, options, lambda on: node.run(f"kill -{'STOP' if on else 'CONT'} {pid}"))
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


def fall_silent(
    bench: Bench, node: Node, shell: Shell, options: tuple[str, ...], silence: Callable[[bool], object]
) -> None:
    """A deployment whose node is silenced once it is told; where it has proven itself by then, the next is tried."""
    for _ in range(20):
        former = bench.rollout()
        with shell.start("deploy", bench.release(), *options) as process:
            bench.until_activated(node, former)
            silence(True)
            out, _ = process.communicate(timeout=120)
        if (process.returncode, _outcome(out)) == (32, ("incomplete", "silent")):
            return
        assert (process.returncode, _outcome(out)) == (0, ("done", "confirmed"))
        silence(False)
    raise AssertionError("the node was always faster")


def _outcome(shown: str) -> tuple[str, str]:
    said = json.loads(shown)
    return said["state"], said["nodes"][0]["state"]


def _why(bench: Bench) -> dict[str, Any]:
    """What `nodes why` says; its exit code tells whether the node is well."""
    found: dict[str, Any] = json.loads(bench.shell.run("nodes", "why", "press-01", "-o", "json").stdout)
    return found


def _reasons(bench: Bench) -> list[str]:
    return [reason["text"] for reason in _why(bench)["reasons"]]
