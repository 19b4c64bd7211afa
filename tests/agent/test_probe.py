"""`edgectl-agent probe`: 0 and the report from an agent that is well, else 75 and the reason in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from edgectl_agent import __version__, contact
from edgectl_agent.contact import Contact, mode
from edgectl_agent.core.bundle import encode
from edgectl_agent.core.errors import StorageError

from tests.support.agents import AgentProcess, replay, stage
from tests.support.bundles import make_bundle, make_release


def probe(agent: AgentProcess, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgectl_agent", "probe", "--config", str(agent.config), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_an_agent_that_is_well_gives_its_report(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, sources={}, models={}) as agent:
        done = probe(agent, "--version", __version__, "--within", "30s")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["node"] == "n1"

        other = probe(agent, "--version", "9.9.9")
        assert (other.returncode, other.stderr) == (
            75,
            f"edgectl-agent: the agent that runs is version {__version__}, expected 9.9.9 → restart it\n",
        )
        assert json.loads(other.stdout)["agent"] == __version__

        agent.config.write_text(agent.config.read_text() + "log: {level: warning}\n")
        assert "runs with another agent.yaml" in probe(agent).stderr
        agent.kill()
        killed = probe(agent)
        assert (killed.returncode, killed.stdout) == (75, "")
        assert f"no agent runs on {agent.data_dir}: it ended without a word" in killed.stderr


def test_a_probe_waits_for_an_agent_that_is_about_to_start(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path, sources={}, models={})
    assert "no agent runs on" in probe(agent).stderr
    command = [sys.executable, "-m", "edgectl_agent", "probe", "--config", str(agent.config), "--within", "60s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting, agent:
        assert json.loads(waiting.communicate(timeout=90)[0])["state"] == "healthy"
        assert waiting.returncode == 0


def test_a_failed_agent_is_not_well_and_says_why(tmp_path: Path) -> None:
    plant = tmp_path / "plant.jsonl"
    agent = AgentProcess(tmp_path, sources={"s": replay(plant)}, models={"press": ["s"]})
    raw = encode(make_bundle(1))
    stage(agent.data_dir, raw, make_release("press", "1.0.0", 1, raw))
    (bundle,) = agent.data_dir.glob("slots/press/*/bundle.bin")
    bundle.write_bytes(raw[:-1])
    with agent:
        assert agent.status().state == "failed"
        done = probe(agent)
    assert done.returncode == 75
    assert done.stderr.startswith("edgectl-agent: the agent runs and has failed: press: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--config", "nowhere.yaml"), 3, "nowhere.yaml"),
        (("--config", "nowhere.yaml", "--within", "soon"), 2, "--within: expected a duration"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(args: tuple[str, ...], code: int, message: str) -> None:
    command = [sys.executable, "-m", "edgectl_agent", "probe", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ── api.json ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_operators_group_may_read_the_token_where_the_folder_is_theirs_and_nobody_else_ever() -> None:
    assert mode(0o40750, "edgectl-agent") == 0o640
    assert mode(0o42770, "edgectl-agent") == 0o640
    assert mode(0o40700, "edgectl-agent") == 0o600
    assert mode(0o40755, "users") == 0o600


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    said = Contact(url="http://127.0.0.1:1", token="t", pid=3, boot="b")
    assert contact.read(tmp_path) is None
    contact.write(tmp_path, said)
    assert contact.read(tmp_path) == said
    contact.remove(tmp_path)
    contact.remove(tmp_path)
    assert contact.read(tmp_path) is None


def test_a_damaged_contact_is_said(tmp_path: Path) -> None:
    (tmp_path / "api.json").write_bytes(b"{")
    with pytest.raises(StorageError, match=r"api\.json cannot be read"):
        contact.read(tmp_path)


@pytest.mark.needs("root")
def test_a_stranger_is_told_which_group_he_needs(tmp_path: Path) -> None:
    contact.write(tmp_path, Contact(url="http://127.0.0.1:1", token="t", pid=3))
    child = os.fork()
    if child == 0:
        os.chmod(tmp_path, 0o755)
        os.seteuid(65534)
        try:
            contact.read(tmp_path)
        except StorageError as e:
            os._exit(0 if str(e).endswith("be root, or in the group edgectl-agent") else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
