"""A node that is reached by HTTP, by the real commands: its certificate, its reports, what can be wrong with both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml
from edgectl_agent.config import HOST_CHANNELS

from tests.scenarios.fleets import until
from tests.support.cli import Shell
from tests.support.tls import free_port

AGENT = (sys.executable, "-m", "edgectl_agent")


@dataclass
class Owner:
    """Whoever has the node's machine: `folder` is its disk."""

    folder: Path

    def agent(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*AGENT, *args], capture_output=True, text=True, timeout=60, check=True)

    def copy(self, noted: str) -> None:
        """Do as ``edgectl nodes certify`` says."""
        for line in noted.splitlines():
            _, source, _, target = line.split()
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


@dataclass
class Story:
    """Mona's fleet ``acme`` with the node ``n1``."""

    shell: Shell
    owner: Owner
    port: int

    def write(self, **connect: object) -> None:
        node = {"name": "n1", "connect": {"via": "http", "url": f"https://127.0.0.1:{self.port}"} | connect}
        node |= {"agent": {"folder": str(self.owner.folder)}, "sources": {"host": {"type": "host-metrics"}}}
        node |= {"models": {"host": ["host"]}}
        text = yaml.safe_dump({"version": 1, "fleet": "acme", "nodes": [node]}, sort_keys=False)
        (self.shell.folder / "fleet.yaml").write_text(text)

    def error(self) -> str:
        """What a round of collecting says of the node, which cannot be asked: why, and what next."""
        done = self.shell.run("collect", "-o", "json")
        assert (done.returncode, "Traceback" in done.stderr) == (31, False), done.stderr
        (said,) = json.loads(done.stdout)
        rows = json.loads(self.shell.ok("nodes", "list", "-o", "json"))
        assert said["error"].startswith(rows[0]["detail"]), "the store knows the same"
        return str(said["error"])


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("mona")
    mona = Shell(folder / "fleet")
    mona.folder.mkdir()
    mona.ok("init", "--fleet", "acme")
    story = Story(mona, Owner(folder / "machine"), free_port())
    story.write()
    csr = folder / "n1.csr"
    csr.write_text(story.owner.agent("csr", "--key", str(_tls(story) / "node.key"), "--node", "n1").stdout)
    done = mona.run("nodes", "certify", "n1", "--csr", str(csr), "--out", str(folder / "files"))
    assert done.returncode == 0, done.stderr
    story.owner.copy(done.stderr)
    config = _tls(story).parent / "agent.yaml"
    with (folder / "stderr").open("w") as log:
        agent = subprocess.Popen([*AGENT, "run", "--config", str(config)], stderr=log)
    try:
        until(lambda: (story.owner.folder / "data" / "api.json").exists() or _ended(agent, folder / "stderr"))
        yield story
    finally:
        agent.kill()
        agent.wait()


def _tls(story: Story) -> Path:
    from edgectl.machine.layout import Layout

    return Path(Layout.within(str(story.owner.folder)).config) / "tls"


def _ended(agent: subprocess.Popen[bytes], log: Path) -> bool:
    assert agent.poll() is None, log.read_text()
    return False


@pytest.fixture
def again(story: Story) -> Iterator[Callable[..., None]]:
    yield story.write
    story.write()


def test_a_node_with_a_certificate_is_collected_and_its_private_key_never_left_it(story: Story) -> None:
    story.shell.ok("collect")
    (row,) = json.loads(story.shell.ok("nodes", "list", "-o", "json"))
    assert row["state"] == "warming"
    assert not list(story.shell.folder.rglob("node.key"))
    held = story.shell.folder / ".edgectl" / "certificates" / "n1.crt"
    assert held.read_bytes() == (_tls(story) / "node.crt").read_bytes()


def test_what_its_source_delivers_is_recorded_over_mutual_tls_before_there_is_a_model(story: Story) -> None:
    out = story.shell.folder / "host.parquet"
    said = story.shell.ok("data", "record", "n1", "--source", "host", "--for", "1s", "--out", str(out), "-o", "json")
    found = json.loads(said)["recording"]
    assert (found["node"], found["gaps"], found["ended"]) == ("n1", [], "time")
    assert list(found["channels"]) == list(HOST_CHANNELS)
    assert pyarrow.parquet.read_metadata(out).num_rows == found["readings"]
    story.shell.fails(30, "data", "record", "n1", "--source", "none", says="n1 has no source 'none', known are: host")


def test_the_machine_is_its_owners_where_nobody_says_how_to_log_in(story: Story) -> None:
    story.shell.fails(3, "nodes", "stop", "n1", says="n1 is reached by HTTP only: its files and its agent are managed")


def test_a_token_that_is_wrong_or_missing_is_told_from_a_node_that_is_gone(
    story: Story, again: Callable[..., None]
) -> None:
    api = json.loads((story.owner.folder / "data" / "api.json").read_text())
    story.shell.env = {"EDGE_TOKEN": "wrong"}
    again(url=api["url"], token={"env": "EDGE_TOKEN"})
    assert "the token is missing, wrong or of an earlier start of the agent" in story.error()
    story.shell.env = {"EDGE_TOKEN": api["token"]}
    story.shell.ok("collect")
    silent = free_port()
    again(url=f"http://127.0.0.1:{silent}", token={"env": "EDGE_TOKEN"})
    assert story.error() == f"node n1: nothing listens at 127.0.0.1:{silent} → edgectl nodes why n1 --ask"


def test_plain_http_off_loopback_is_refused_before_anything_is_sent(story: Story, again: Callable[..., None]) -> None:
    again(url="http://192.0.2.7:8710")
    story.shell.fails(3, "collect", says="connect.url: plain http is for loopback only, found 'http://192.0.2.7:8710'")


def test_a_node_of_another_fleet_and_an_operator_of_another_fleet_are_told_apart(
    story: Story, tmp_path: Path, again: Callable[..., None]
) -> None:
    john = Story(Shell(tmp_path / "rival"), story.owner, story.port)
    john.shell.folder.mkdir()
    john.shell.ok("init", "--fleet", "rival")
    john.write()
    assert john.error().endswith(
        "was not issued by this fleet, but by 'acme' → look at connect.url, or work where that fleet's keys are"
    )
    for name in ("nodes-ca.crt", "nodes-ca.pem"):  # John knows whom to expect, and still may not command it
        shutil.copy(story.shell.folder / ".edgectl" / "keys" / name, john.shell.folder / ".edgectl" / "keys" / name)
    assert "does not accept this certificate: it takes operators of its own fleet" in john.error()
    story.shell.ok("collect")


def test_without_certificates_here_the_sentence_says_who_makes_them(story: Story) -> None:
    keys, aside = story.shell.folder / ".edgectl" / "keys", story.shell.folder / ".edgectl" / "aside"
    os.rename(keys / "nodes-ca.crt", aside)
    try:
        assert "there is no certificate" in story.error()
    finally:
        os.rename(aside, keys / "nodes-ca.crt")


def test_certify_refuses_what_is_no_request_and_who_needs_none(story: Story, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    story.shell.fails(3, "nodes", "certify", "n1", "--csr", str(nothing), says="nothing cannot be read: No such file")
    nothing.write_text("hello")
    story.shell.fails(
        40, "nodes", "certify", "n1", "--csr", str(nothing), says="expected a certificate signing request"
    )
    story.shell.fails(4, "nodes", "certify", "n2", "--csr", str(nothing), says="unknown node 'n2'")


def test_the_audit_warns_of_a_certificate_that_ends_soon(story: Story) -> None:
    from datetime import UTC, datetime, timedelta

    from edgectl.trust.authority import Authority
    from tests.support.tls import sign_request

    folder = story.shell.folder / ".edgectl"
    held = folder / "certificates" / "n1.crt"
    before = held.read_bytes()
    authority = Authority(folder / "keys", folder / "certificates", "acme")
    sign_request(authority, "n1", datetime.now(UTC) - timedelta(days=360))
    shown = story.shell.run("audit", "--offline")
    held.write_bytes(before)
    assert shown.returncode == 10
    assert "certificate-expiring" in shown.stdout
    assert "edgectl nodes configure --select name=n1" in shown.stdout
