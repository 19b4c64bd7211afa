"""The main job on real machines, told from the bare machine to its removal: six nodes with systemd of their own, each
tried in a way that owners have them, by the real command over SSH with pinned host keys; one of them only pulls.

The tests are stages of one story and run in this order.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scenarios.fleets import RECIPE, until
from tests.support.lab import PASSWORD, Lab
from tests.support.machines import LOGS, MachineFleet, left, other_agent, running, wheelhouse

pytestmark = pytest.mark.needs("lab", "system-python", "index")

UPLOADED, BEHIND, INDEXED, ROOTED, ASKING = NAMES = ("uploaded", "behind", "indexed", "rooted", "asking")
"""Without an index, packages come from the operator's wheelhouse; behind a jump host; packages from its own index;
reached as root; sudo asks for a password."""
FAR = "far"
"""Nobody can reach it: it pulls from a static web server and reports to `edgectl serve`."""
EVERYWHERE = (*NAMES, FAR)
MAIN_PID = "systemctl show -P MainPID edgectl-agent"
DATA = "/var/log/press.jsonl"
START_S = int(time.time()) - 10_000
"""Event time of the first reading."""


class Story(MachineFleet):
    """The operator's folder, and what was seen on the way."""

    def __init__(self, folder: Path, lab: Lab, wheels: Path) -> None:
        super().__init__(folder, lab)
        self.wheels = wheels
        self.shell.env["EDGE_SUDO"] = PASSWORD
        (folder / ".edgectl" / "wheelhouses").mkdir()
        (folder / ".edgectl" / "wheelhouses" / wheels.name).symlink_to(wheels)
        self.before = {name: lab[name].snapshot(LOGS) for name in EVERYWHERE}
        self.fed = 0
        self.more = self._receiving()
        self.receiver: subprocess.Popen[str] | None = None
        for name in NAMES:
            self.describe(name)

    def _receiving(self) -> dict[str, Any]:
        """What fleet.yaml says for nodes that pull."""
        connect, report = {"via": "pull", "every": "1s"}, {"every": "1s", "silent_after": "5m"}
        source = {"type": "tail", "path": DATA}
        far = {"connect": connect, "report": report, "sources": {"s": source}, "models": {"press": ["s"]}}
        return {
            "repository": {"dir": "./repo", "url": self.lab.serve(self.folder / "repo")},
            "receiver": {"url": f"https://{self.lab.address}:8443"},
            "profiles": {"far": far},
            "sites": {"hills": {}},
        }

    def serve(self) -> None:
        """Start the receiver."""
        self.receiver = self.shell.start("serve", "--listen", self.more["receiver"]["url"].removeprefix("https://"))
        assert self.receiver.stderr is not None
        assert "serving acme" in self.receiver.stderr.readline()
        threading.Thread(target=self.receiver.stderr.read, daemon=True).start()  # a full pipe must not hold it

    def close(self) -> None:
        if self.receiver is not None:
            self.receiver.terminate()
            self.receiver.communicate(timeout=60)

    def describe(self, name: str, **agent: str) -> None:
        """Write the node's entry; `agent` are settings of its agent."""
        packages = {"packages": "index"} if name == INDEXED else {}
        node = self.lab[name]
        connect: dict[str, Any] = {"via": "ssh", "host": node.address, "key": str(self.lab.key)}
        connect |= {"user": "root"} if name == ROOTED else {"user": "edge"}
        connect |= {"jump": f"edge@{node.jump.address}"} if node.jump else {}
        connect |= {"sudo_password": {"env": "EDGE_SUDO"}} if name == ASKING else {}
        source = {"type": "tail", "path": DATA}
        self.write(
            name, connect=connect, sources={"s": source}, models={"press": ["s"]}, agent={**packages, **agent},
            labels={"line": "press"},
        )  # fmt: skip

    def train(self, version: str, seed: int) -> None:
        """Train on a history of that `seed`, and sign."""
        history = self.folder / f"history-{seed}.csv"
        lines = (f"{START_S - 40_000 + i},m{i % 2},{value}" for i, value in enumerate(usual(40_000, seed)))
        history.write_text("ts,machine,value\n" + "\n".join(lines) + "\n")
        self.shell.ok("train", "press", "--data", str(history), "--version", version)
        self.shell.ok("models", "sign", "press")

    def feed(self, values: Sequence[float], names: Sequence[str] = EVERYWHERE) -> None:
        """Append the same readings, one per second of event time, to each node's file."""
        lines = "".join(
            json.dumps({"ts": START_S + self.fed + i, "machine": "m1", "value": value}) + "\n"
            for i, value in enumerate(values)
        )
        for name in names:
            with (self.lab[name].root / DATA.lstrip("/")).open("a") as file:
                file.write(lines)
        self.fed += len(values)

    def status(self, name: str) -> Any:
        """What the agent says to somebody at the machine's console; None while it does not answer."""
        asked = (
            'set -- $(sed \'s/.*"url":"\\([^"]*\\)","token":"\\([^"]*\\)".*/\\1 \\2/\''
            ' /var/lib/edgectl-agent/api.json) && curl -sf -H "Authorization: Bearer $2" $1/v1/status'
        )
        done = self.lab[name].console(asked)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_until_read(self, names: Sequence[str] = EVERYWHERE) -> None:
        """Until each agent has read all that it was fed."""
        newest = (START_S + self.fed - 1) * 10**9

        def done(name: str) -> bool:
            report = self.status(name)
            return bool(report and report["sources"][0]["newest_event_ns"] >= newest)

        for name in names:
            until(lambda name=name: done(name), 120)  # type: ignore[misc]

    def collect(self) -> None:
        """Ask the nodes that can be asked, and wait for what the others send."""
        self.shell.ok("collect")
        until(lambda: (found := self.alerts())[FAR] == found[UPLOADED])

    def alerts(self) -> dict[str, list[tuple[Any, ...]]]:
        """What the store has of each node, without what differs by name."""
        found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in EVERYWHERE}
        for row in self.json("alerts", "list", "--all"):
            a = row["alert"]
            found[a["node"]].append((a["stream"], a["onset_ns"], a["severity"], a["state"], round(a["score"], 9)))
        return {name: sorted(alerts) for name, alerts in found.items()}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    wheels = wheelhouse(tmp_path_factory)
    with Lab(tmp_path_factory.mktemp("lab") / "nodes") as lab:
        bastion = lab.node(UPLOADED)
        lab.node(BEHIND, jump=bastion)
        lab.node(INDEXED, index=lab.index(wheels))
        lab.node(ROOTED)
        lab.node(ASKING, sudo="password")
        lab.node(FAR)
        lab.boot()
        for name in EVERYWHERE:
            lab[name].run(f"install -m 644 /dev/null {DATA}")
        for name in (ASKING, FAR):  # sudo leaves it at its first use
            lab[name].run("touch ~/.sudo_as_admin_successful", user="edge")
        story = Story(tmp_path_factory.mktemp("mona") / "fleet", lab, wheels)
        (story.folder / "models" / "press").mkdir(parents=True)
        recipe = RECIPE.replace("alerts: {", "alerts: {clear_after: 30s, ")
        (story.folder / "models" / "press" / "recipe.yaml").write_text(recipe)
        yield story
        story.close()


def usual(count: int, seed: int) -> list[float]:
    """Readings of a machine that is well."""
    return [float(value) for value in np.random.default_rng(seed).normal(0, 1, count).round(4)]


def faulty(count: int, seed: int) -> list[float]:
    """As `usual`, with four readings in the middle that are far off."""
    values = usual(count, seed)
    for at in range(count // 2, count // 2 + 4):
        values[at] += 30.0
    return values


def confirmed(rollout: Any) -> set[str]:
    return {node["node"] for node in rollout["nodes"] if node["state"] == "confirmed"}


def test_machines_are_checked_and_installed(story: Story) -> None:
    checked = story.json("nodes", "check", *NAMES)
    assert {row["verdict"] for node in checked for row in node["checks"]} == {"ok"}
    done = story.json("nodes", "bootstrap", *NAMES, "--yes")
    assert {row["state"] for row in done} == {"installed"}
    assert story.shell.run("collect").returncode == 0
    assert {row["state"] for row in story.json("nodes", "list")} == {"warming"}, "they wait for a model"


def test_a_machine_that_nobody_reaches_joins_by_the_line_of_an_invite(story: Story) -> None:
    far = story.lab[FAR]
    far.run("systemctl stop node-ssh")
    story.serve()
    line = story.shell.ok("nodes", "invite", "--site", "hills", "--profile", "far").strip()
    done = far.console(line, user="edge", timeout_s=600)
    assert f"this machine is node {FAR} of the fleet acme" in done.stderr, done.stderr
    until(lambda: {row["name"]: row["state"] for row in story.json("nodes", "list")}[FAR] == "warming")


def test_a_trained_and_signed_model_is_deployed_canary_first(story: Story) -> None:
    story.train("1.0.0", seed=1)
    done = story.json("deploy", "press", "--canary", "1", "--yes")
    assert done["state"] == "done"
    assert confirmed(done) == set(EVERYWHERE)
    for name in EVERYWHERE:
        assert [m["version"] for m in story.status(name)["models"]] == ["1.0.0"]


def test_a_fault_becomes_an_alert_on_the_operators_screen(story: Story) -> None:
    story.feed(usual(600, 2))
    story.feed(faulty(300, 3))
    story.wait_until_read()
    story.collect()
    found = story.alerts()
    assert {name: len(alerts) for name, alerts in found.items()} == dict.fromkeys(EVERYWHERE, 1)
    assert found[BEHIND] == found[UPLOADED]
    screen = story.shell.ok("status")
    assert f"{len(EVERYWHERE)} healthy" in screen
    assert f"24 h: {len(EVERYWHERE)}" in screen


def test_a_killed_agent_comes_back_and_alerts_as_if_nothing_had_happened(story: Story) -> None:
    """`uploaded` runs on without a stop and is what the killed ones are compared with."""
    killed = EVERYWHERE[1:]
    for seed in (10, 11):
        story.feed(faulty(300, seed))
        before = {name: story.lab[name].run(MAIN_PID).strip() for name in killed}
        for name, pid in before.items():
            story.lab[name].run(f"kill -9 {pid}")
        for name, pid in before.items():
            until(lambda name=name, pid=pid: story.status(name) and story.lab[name].run(MAIN_PID).strip() != pid)  # type: ignore[misc]
    story.feed(faulty(300, 12))
    story.wait_until_read()
    story.collect()
    found = story.alerts()
    assert len(found[UPLOADED]) == 4
    for name in killed:
        assert found[name] == found[UPLOADED], name


def test_a_second_release_is_rolled_back_in_one_command(story: Story) -> None:
    story.train("1.1.0", seed=8)
    assert confirmed(story.json("deploy", "press", "--canary", "1", "--yes")) == set(EVERYWHERE)
    assert story.json("rollback", "press", "--yes")["state"] == "done"
    assert {story.status(name)["models"][0]["version"] for name in EVERYWHERE} == {"1.0.0"}


def test_drifted_settings_are_found_shown_and_mended(story: Story) -> None:
    for name in NAMES:
        story.describe(name, memory="300M")
    found = story.shell.run("audit")
    assert found.returncode == 10
    assert "config-drift" in found.stdout
    shown = story.shell.ok("nodes", "configure", "--select", "finding=config-drift", "--diff", "--dry-run")
    assert "memory: 300M" in shown
    assert confirmed(story.json("nodes", "configure", "--select", "finding=config-drift", "--yes")) == set(NAMES)
    assert "MemoryMax=300000000" in story.lab[BEHIND].run("systemctl show -p MemoryMax edgectl-agent")
    assert story.shell.run("audit").returncode == 0


def test_the_agent_itself_moves_on_and_everything_it_knew_stays(story: Story) -> None:
    alerts = story.alerts()
    for name in NAMES:
        story.describe(name, memory="300M", version="0.1.7")
    wheel = other_agent(story.wheels, "0.1.7")
    done = story.json("nodes", "upgrade", *NAMES, "--wheel", str(wheel), "--canary", "1", "--yes")
    assert confirmed(done) == set(NAMES)
    assert {running(story.lab[name]).split("-")[0] for name in NAMES} == {"0.1.7"}
    story.feed(faulty(300, 20))
    story.wait_until_read()
    assert story.shell.run("audit").returncode == 0
    found = story.alerts()
    for name in NAMES:
        assert len(found[name]) == len(alerts[name]) + 1


def test_nothing_stays_on_the_machines_but_logs(story: Story) -> None:
    for name in reversed(NAMES):  # the jump host last
        story.shell.ok("nodes", "remove", name, "--yes")
        assert left(story.before[name], story.lab[name]) == [], name
    line = story.shell.ok("nodes", "remove", FAR, "--yes").strip()
    done = story.lab[FAR].console(line, user="edge", timeout_s=120)
    assert done.stderr.endswith("edgectl: the agent is removed\n"), done.stderr
    assert left(story.before[FAR], story.lab[FAR]) == []
    assert story.json("nodes", "list") == []
