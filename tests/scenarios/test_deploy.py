"""Deploy, halt at the canary, roll back and audit, with real agents and the real command."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.scenarios.fleets import Plant, until

NAMES = ("pi-1", "pi-2", "pi-3")


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    made = Plant(tmp_path, NAMES)
    yield made
    made.close()


def all_at(version: str) -> dict[str, str]:
    return dict.fromkeys(NAMES, version)


def test_from_the_first_deployment_to_a_rollback(plant: Plant) -> None:
    shell = plant.shell
    plant.release("1.0.0", seed=1)
    plan = json.loads(shell.ok("deploy", "press", "--dry-run", "-o", "json"))
    assert [len(phase["nodes"]) for phase in plan["phases"]] == [1, 2]
    assert plant.versions() == {}, "--dry-run changes nothing"
    shell.ok("deploy", "press", "--yes")
    assert plant.versions() == all_at("1.0.0")
    assert shell.ok("audit") == ""
    assert shell.ok("deploy", "press", "--yes") == "", "nothing to do"

    plant.release("1.1.0", seed=2)
    shell.ok("deploy", "press", "--canary", "20%", "--yes")
    assert plant.versions() == all_at("1.1.0")

    plant.release("1.2.0", seed=3, kind="golden")
    halted = shell.run("deploy", "press", "--yes", "-o", "json")
    assert halted.returncode == 20, halted.stderr
    outcome = json.loads(halted.stdout)
    assert outcome["state"] == "halted"
    assert "golden vectors" in outcome["reason"]
    assert plant.versions() == all_at("1.1.0")
    assert shell.ok("audit") == "", "after the halt desired equals actual again"

    shell.ok("rollback", "press", "--yes")
    assert plant.versions() == all_at("1.0.0")
    assert shell.ok("audit") == ""
    screen = shell.ok("status")
    assert "press  1.0.0 on 3" in screen
    assert "r-4 rollback press 1.1.0 → 1.0.0 · done · 3/3 confirmed" in screen


def test_a_rollback_without_keys_is_pending_until_it_is_signed(plant: Plant) -> None:
    shell = plant.shell
    for version, seed in (("1.0.0", 1), ("1.1.0", 2)):
        plant.release(version, seed)
        shell.ok("deploy", f"press@{version}", "--yes")
    keys = plant.folder / ".edgectl" / "keys"
    keys.rename(plant.folder / "elsewhere")
    done = shell.run("rollback", "press", "--yes")
    assert done.returncode == 0, done.stderr
    assert "rolled back, assignment pending → edgectl rollback press, where the keys are" in done.stderr
    assert plant.versions() == all_at("1.0.0")
    (plant.folder / "elsewhere").rename(keys)

    pending = shell.run("audit")
    assert pending.returncode == 10
    assert "rollback-pending" in pending.stdout
    assert "→ edgectl rollback press --select" in pending.stdout
    plant.release("1.2.0", seed=3)
    assert "would bring it back" in shell.run("deploy", "press", "--yes").stderr
    shell.ok("rollback", "press", "--yes")
    assert plant.versions() == all_at("1.0.0")
    assert shell.ok("audit") == ""


def test_a_canary_alone_rolled_back_without_keys_is_pending_too(plant: Plant) -> None:
    shell = plant.shell
    for version, seed in (("1.0.0", 1), ("1.1.0", 2)):
        plant.release(version, seed)
        shell.ok("deploy", f"press@{version}", "--yes")
    epochs = {name: epoch.number for name in NAMES if (epoch := plant.report(name).epoch) is not None}
    canary = min(NAMES, key=lambda name: epochs[name])
    assert epochs[canary] < max(epochs.values())
    keys = plant.folder / ".edgectl" / "keys"
    keys.rename(plant.folder / "elsewhere")
    done = shell.run("rollback", "press", "--yes", "--select", f"name={canary}")
    assert done.returncode == 0, done.stderr
    (plant.folder / "elsewhere").rename(keys)

    pending = shell.run("audit")
    assert "rollback-pending" in pending.stdout
    assert f"→ edgectl rollback press --select name={canary}" in pending.stdout
    shell.ok("rollback", "press", "--yes", "--select", f"name={canary}")
    assert plant.versions() == {**all_at("1.1.0"), canary: "1.0.0"}
    assert shell.ok("audit") == ""


def test_dead_nodes_are_reported_and_a_resume_reaches_them_later(plant: Plant) -> None:
    shell = plant.shell
    plant.release("1.0.0", seed=1)
    plan = json.loads(shell.ok("deploy", "press", "--dry-run", "-o", "json"))
    victim = plan["phases"][1]["nodes"][0]
    plant.stop(victim)
    done = shell.run("deploy", "press", "--yes")
    assert done.returncode == 31
    assert "to go on: edgectl deploy --resume r-1" in done.stderr

    found = shell.run("audit", "--since-last")
    assert found.returncode == 10
    assert "unreachable" in found.stdout
    assert victim in found.stdout
    again = shell.run("audit", "--since-last")
    assert (again.returncode, again.stdout) == (10, ""), "told once"
    assert shell.run("collect").returncode == 31

    plant.start(victim)
    shell.ok("deploy", "--resume", "r-1")
    assert plant.versions() == all_at("1.0.0")
    resolved = shell.run("audit", "--since-last")
    assert (resolved.returncode, resolved.stdout) == (0, "resolved: unreachable (1)\n")


@pytest.mark.parametrize("at", ["uploaded", "canary confirmed"])
def test_ctrl_c_detaches_and_the_resume_completes(plant: Plant, at: str) -> None:
    shell = plant.shell
    sign = {"uploaded": "assignment signed", "canary confirmed": "phase passed"}[at]
    for number in range(1, 10):  # a busy machine may let the command end before it hears of the signal
        plant.release(f"1.{number}.0", seed=number)
        running = shell.start("deploy", "press", "--yes", "--forks", "1")
        assert running.stderr is not None
        assert next(line for line in running.stderr if sign in line)
        os.killpg(running.pid, signal.SIGINT)
        _, rest = running.communicate(timeout=60)
        if running.returncode:
            break
    assert running.returncode == 130, rest
    assert f"edgectl deploy --resume r-{number}" in rest
    assert plant.versions() != all_at(f"1.{number}.0")
    shell.ok("deploy", "--resume", f"r-{number}")
    assert plant.versions() == all_at(f"1.{number}.0")
    assert shell.ok("audit") == ""


def test_kill_9_between_canary_and_rest_is_resumed_by_name(plant: Plant) -> None:
    shell = plant.shell
    plant.release("1.0.0", seed=1)
    running = shell.start("deploy", "press", "--yes", "--forks", "1")
    assert running.stderr is not None
    next(line for line in running.stderr if "phase passed" in line)
    running.kill()
    running.communicate()
    open_ = shell.run("audit")
    assert "rollout-open" in open_.stdout
    assert "edgectl deploy --resume r-1" in open_.stdout
    shell.ok("deploy", "--resume", "r-1")
    assert plant.versions() == all_at("1.0.0")


def test_a_second_operator_meets_the_lock(plant: Plant) -> None:
    plant.release("1.0.0", seed=1)
    running = plant.shell.start("deploy", "press", "--yes")
    assert running.stderr is not None
    next(line for line in running.stderr if "begun" in line)
    os.killpg(running.pid, signal.SIGSTOP)  # he must not be done before the second one comes
    says = "has held the lock since"
    plant.shell.fails(50, "rollback", "press", "--yes", says=says)
    os.killpg(running.pid, signal.SIGCONT)
    running.communicate(timeout=60)
    assert running.returncode == 0


def test_followed_alerts_reach_the_store_and_can_be_acknowledged(plant: Plant) -> None:
    plant.release("1.0.0", seed=1)
    plant.shell.ok("deploy", "press", "--phases", "100%", "--yes")
    start = 1_700_000_000.0
    after = {name: plant.feed(name, [0.1, -0.2, 0.3, 0.0] * 50, start) for name in NAMES}
    until(lambda: all(plant.report(name).sources[0].accepted == 200 for name in NAMES))
    running = plant.shell.start("collect", "--follow", "-o", "jsonl")
    try:
        for name in NAMES:
            plant.feed(name, [60.0], after[name])
        assert running.stdout is not None
        lines = [json.loads(next(running.stdout)) for _ in NAMES]
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)
    assert running.returncode == 0
    assert {line["node"] for line in lines} == set(NAMES)
    assert all(line["state"] == "open" for line in lines)
    assert all(line["committed_ns"] - line["accepted_ns"] > 0 for line in lines)
    until(lambda: len(plant.shell.ok("alerts", "list", "-o", "name").split()) == 3)

    first = lines[0]
    text = plant.shell.ok("alerts", "show", first["id"])
    assert "WHY" in text
    assert "nobody yet" in text
    plant.shell.ok("alerts", "ack", "--all-of", first["node"])
    assert "nobody yet" not in plant.shell.ok("alerts", "show", first["id"])
    assert "acknowledged" in plant.shell.ok("status")


# ── what bad input gets ─────────────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_deployed_is_one_sentence(plant: Plant) -> None:
    shell = plant.shell
    shell.fails(4, "deploy", "press", "--yes", says="unknown model 'press'")
    plant.release("1.0.0", seed=1)
    shell.fails(4, "deploy", "pres", "--yes", says="did you mean 'press'?")
    shell.fails(4, "deploy", "press@2.0.0", "--yes", says="press@1.0.0")
    shell.fails(4, "deploy", "press", "--select", "name=pi-9", "--yes", says="no node of 3 matches 'name=pi-9'")
    shell.fails(2, "deploy", "press", "--canary", "0", "--yes", says="expected a number of nodes")
    shell.fails(2, "deploy", "press", "--variant", "int8", "--yes", says="it ships fp32")
    shell.fails(2, "deploy", says="expected a MODEL")
    shell.fails(4, "deploy", "--resume", "r-7", says="no rollout 'r-7'")
    shell.fails(4, "rollback", "press", "--yes", says="runs no press")
    done = shell.run("deploy", "press")
    assert done.returncode == 2
    assert "Nobody is here to answer → say --yes" in done.stderr
    assert plant.versions() == {}


def test_a_tampered_bundle_is_refused_before_anything_is_sent(plant: Plant) -> None:
    release = plant.release("1.0.0", seed=1)
    (bundle,) = (plant.folder / "repo" / "targets" / "bundles").glob("*.bundle")
    assert release.variants[0].sha256 in bundle.name
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"x")
    done = plant.shell.run("deploy", "press", "--yes")
    assert done.returncode == 40, done.stderr
    assert "Traceback" not in done.stderr
    assert plant.versions() == {}


def test_a_damaged_store_is_one_sentence(plant: Plant) -> None:
    (plant.folder / ".edgectl" / "state.db").write_bytes(b"not a database" * 1000)
    for verb in (("status",), ("audit",), ("collect",), ("alerts", "list")):
        plant.shell.fails(75, *verb, says="is damaged")


def test_nodes_in_another_unit_are_named_before_anything_is_sent_and_can_be_left_out(tmp_path: Path) -> None:
    plant = Plant(tmp_path, ("pi-1", "pi-2"))
    try:
        fleet = yaml.safe_load((tmp_path / "fleet.yaml").read_text())
        for node in fleet["nodes"]:
            node["sources"]["s"]["units"] = {"value": "mm/s" if node["name"] == "pi-1" else "inch/s"}
        (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(fleet))
        for name in plant.names:
            plant.stop(name)
            plant.shell.ok("nodes", "start", name)
        plant.release("1.0.0", seed=1, unit="mm/s")
        for options in (["--yes"], ["--dry-run"]):
            refused = plant.shell.run("deploy", "press", *options)
            assert refused.returncode == 3
            assert "pi-2: source s has value in inch/s, not mm/s → convert it there" in refused.stderr
            assert "1 of 2 nodes do not bring what press 1.0.0 needs; nothing was changed" in refused.stderr
        assert plant.versions() == {}
        plant.shell.ok("deploy", "press", "--skip-unfit", "--yes")
        assert plant.versions() == {"pi-1": "1.0.0"}
    finally:
        plant.close()
