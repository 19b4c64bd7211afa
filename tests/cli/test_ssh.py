"""What the real command says of machines that it reaches, or cannot reach, by SSH: real sshds, strict host keys."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl.inventory import editing
from tests.support.cli import COMMAND, Shell
from tests.support.sshd import Sshd, free_port, make_key

PATH = "/usr/bin:/bin"
pytestmark = pytest.mark.needs("sshd")


class Site:
    """An operator with a home of their own, one node and one bastion."""

    def __init__(self, shell: Shell, folder: Path) -> None:
        self.shell, self.home = shell, folder / "operator"
        (self.home / ".ssh").mkdir(parents=True)
        shell.env |= {"HOME": str(self.home), "SSH_AUTH_SOCK": ""}
        self.key = make_key(folder / "keys" / "ops")
        self.node = Sshd(folder / "node", key=self.key)
        self.bastion = Sshd(folder / "bastion", key=self.key)

    def add(self, name: str = "pi-1", **said: object) -> None:
        """As `nodes add` does it, which takes a second."""
        given = {"via": "ssh", "host": "127.0.0.1", "port": self.node.port, "user": self.node.user, "key": self.key}
        connect = {key: value if key == "port" else str(value) for key, value in (given | said).items() if value}
        file = self.shell.folder / "fleet.yaml"
        file.write_text(editing.add(file.read_text(), {"name": name, "connect": connect}, self.shell.folder))

    @property
    def known_hosts(self) -> Path:
        return self.shell.folder / "known_hosts"

    @property
    def jump(self) -> str:
        return f"{self.bastion.user}@127.0.0.1:{self.bastion.port}"


@pytest.fixture
def site(shell: Shell, tmp_path: Path) -> Iterator[Site]:
    """The node's sshd runs; the bastion's does not, yet."""
    found = Site(shell, tmp_path)
    with found.node:
        yield found
    found.bastion.stop()


# ── host keys ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_host_key_is_refused_with_its_fingerprint_and_how_to_pin_it(site: Site) -> None:
    site.add()
    shown = f"node pi-1: the host key of 127.0.0.1:{site.node.port} is not pinned; it shows ssh-ed25519 "
    said = site.shell.fails(40, "nodes", "start", "pi-1", says=shown + site.node.fingerprint)
    assert site.shell.run("nodes", "check", "pi-1").returncode == 40
    assert site.shell.run("nodes", "why", "pi-1", "--ask").returncode == 40
    assert said.endswith("→ edgectl nodes pin pi-1")
    assert "Accepted" not in site.node.log
    assert not site.known_hosts.exists()


def test_nobody_is_asked_about_a_host_key_not_even_at_a_terminal(site: Site) -> None:
    site.add()
    terminal, end = os.openpty()
    with subprocess.Popen(
        [*COMMAND, "nodes", "start", "pi-1"], cwd=site.shell.folder, env=site.shell.environ(), stdin=end, stdout=end,
        stderr=end,
    ) as process:  # fmt: skip
        os.close(end)
        assert process.wait(60) == 40, "it waits for an answer"
    said = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert "is not pinned; it shows ssh-ed25519" in said
    assert "?" not in said
    assert not site.known_hosts.exists()


def test_adding_a_node_elsewhere_touches_no_machine_and_says_what_comes_next(site: Site) -> None:
    place = ["--host", "10.0.0.7", "--port", "2222", "--user", "edge", "--jump", "bastion.example", "--key", "ops"]
    done = site.shell.run("nodes", "add", "pi-7", "--via", "ssh", *place)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("next: edgectl nodes pin pi-7, then edgectl nodes bootstrap pi-7\n")
    shown = site.shell.ok("nodes", "show", "pi-7")
    for said in ("10.0.0.7", "2222", "edge", "bastion.example", "ops"):
        assert said in shown
    assert site.shell.ok("nodes", "list", "-o", "name") == "pi-7\n"


def test_pinning_needs_somebody_who_compares(site: Site) -> None:
    site.add()
    said = site.shell.fails(2, "nodes", "pin", "pi-1", says=f"shows ssh-ed25519 {site.node.fingerprint}, and nobody is")
    assert said.endswith(f"→ edgectl nodes pin pi-1 --fingerprint {site.node.fingerprint}, or --yes")
    says = "expected SHA256:other; nothing was pinned → compare it on the machine's console"
    site.shell.fails(40, "nodes", "pin", "pi-1", "--fingerprint", "SHA256:other", says=says)
    assert not site.known_hosts.exists()


def test_a_pinned_key_opens_the_way_and_openssh_reads_the_same_file(site: Site) -> None:
    site.add()
    site.known_hosts.write_text("# ours\nother.example ssh-ed25519 AAAA\n")
    pinned = json.loads(site.shell.ok("nodes", "pin", "pi-1", "--fingerprint", site.node.fingerprint, "-o", "json"))
    assert [(key["state"], key["fingerprint"]) for key in pinned] == [("pinned", site.node.fingerprint)]
    assert site.known_hosts.read_text() == f"# ours\nother.example ssh-ed25519 AAAA\n{site.node.pin}"
    assert json.loads(site.shell.ok("nodes", "pin", "pi-1", "-o", "json"))[0]["state"] == "known"
    site.shell.fails(
        31, "nodes", "start", "pi-1", says="node pi-1: the agent is not installed → edgectl nodes bootstrap"
    )
    options = [f"UserKnownHostsFile={site.known_hosts}", "StrictHostKeyChecking=yes", "BatchMode=yes"]
    words = [word for option in options for word in ("-o", option)]
    command = ["ssh", "-F", "none", *words, "-i", str(site.key), "-p", str(site.node.port), "127.0.0.1", "true"]
    subprocess.run(command, check=True, capture_output=True)


def test_a_changed_host_key_is_refused_with_both_fingerprints_until_it_is_replaced(site: Site) -> None:
    site.add()
    site.shell.ok("nodes", "pin", "pi-1", "--yes")
    site.node.stop()
    before = site.node.fingerprint
    site.node.new_host_key()
    site.node.start()
    after = site.node.fingerprint
    said = site.shell.fails(40, "nodes", "start", "pi-1", says="has changed: expected ssh-ed25519 " + before)
    assert f"found ssh-ed25519 {after}" in said
    assert "Accepted" not in site.node.log
    assert site.known_hosts.read_text() != site.node.pin, "nothing accepts it by itself"
    assert said.endswith("→ compare it on the machine's console, then edgectl nodes pin pi-1 --replace")
    site.shell.fails(40, "nodes", "pin", "pi-1", "--yes", says=f"expected ssh-ed25519 {before}")
    site.shell.ok("nodes", "pin", "pi-1", "--yes", "--replace")
    assert site.known_hosts.read_text() == site.node.pin
    site.shell.fails(31, "nodes", "start", "pi-1", says="the agent is not installed")


def test_a_revoked_host_key_is_refused(site: Site) -> None:
    site.add()
    site.known_hosts.write_text(f"@revoked * {site.node.host_key}\n{site.node.pin}")
    site.shell.fails(40, "nodes", "start", "pi-1", says=f"which {site.known_hosts}:1 revokes → give the machine")
    site.shell.fails(40, "nodes", "pin", "pi-1", "--yes", "--replace", says=f"{site.known_hosts}:1 revokes")


def test_keys_that_the_operator_knows_already_are_enough_also_hashed_ones(site: Site) -> None:
    site.add()
    own = site.home / ".ssh" / "known_hosts"
    own.write_text(site.node.pin)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", own], check=True, capture_output=True)
    assert own.read_text().startswith("|1|")
    site.shell.fails(31, "nodes", "start", "pi-1", says="the agent is not installed")


# ── jump hosts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pinning_covers_the_jump_host_and_names_a_node_behind_one_by_its_own_name(site: Site) -> None:
    site.bastion.start()
    site.add(jump=site.jump)
    site.shell.fails(40, "nodes", "start", "pi-1", says="node pi-1: jump host 127.0.0.1: the host key of 127.0.0.1:")
    fingerprints = [site.bastion.fingerprint, site.node.fingerprint]
    words = [word for found in fingerprints for word in ("--fingerprint", found)]
    assert site.shell.ok("nodes", "pin", "pi-1", *words, "-o", "name").split() == fingerprints
    assert site.known_hosts.read_text() == f"{site.bastion.pin}pi-1 {site.node.host_key}\n"
    site.shell.fails(31, "nodes", "start", "pi-1", says="the agent is not installed")


def test_a_jump_host_of_ssh_config_is_used_with_its_own_settings(site: Site) -> None:
    site.bastion.start()
    site.known_hosts.write_text(f"{site.bastion.pin}pi-1 {site.node.host_key}\n")
    config = f"""\
Include config.d/*
Host pi-1
  HostName 127.0.0.1
  Port {site.node.port}
  ProxyJump hop
  IdentityFile {site.key}
"""
    (site.home / ".ssh" / "config").write_text(config)
    (site.home / ".ssh" / "config.d").mkdir()
    hop = f"Host hop\n  HostName 127.0.0.1\n  Port {site.bastion.port}\n  IdentityFile {site.key}\n"
    (site.home / ".ssh" / "config.d" / "hop").write_text(hop)
    site.add(host="", port=0, user="", key="")
    site.shell.fails(31, "nodes", "start", "pi-1", says="the agent is not installed")
    assert "Accepted publickey" in site.bastion.log


def test_a_jump_host_that_is_down_is_named_and_so_is_a_node_that_it_cannot_reach(site: Site) -> None:
    site.known_hosts.write_text(f"{site.bastion.pin}pi-1 {site.node.host_key}\n")
    site.add(jump=site.jump)
    place = f"127.0.0.1:{site.bastion.port}"
    site.shell.fails(31, "nodes", "start", "pi-1", says=f"jump host 127.0.0.1: {place} refuses the connection")
    site.bastion.start()
    site.node.stop()
    says = f"node pi-1: 127.0.0.1:{site.node.port} cannot be reached from jump host {place}: it says connect failed"
    site.shell.fails(31, "nodes", "start", "pi-1", says=says)


def test_a_jump_host_that_forbids_forwarding_is_named(site: Site) -> None:
    site.bastion.more = "AllowTcpForwarding no"
    site.bastion.start()
    site.known_hosts.write_text(f"{site.bastion.pin}pi-1 {site.node.host_key}\n")
    site.add(jump=site.jump)
    site.shell.fails(31, "nodes", "start", "pi-1", says="it forbids forwarding (AllowTcpForwarding) → allow it")


# ── who logs in ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pinned(site: Site) -> Site:
    site.known_hosts.write_text(site.node.pin)
    return site


def test_a_wrong_key_is_named(pinned: Site, tmp_path: Path) -> None:
    pinned.add(key=make_key(tmp_path / "stranger"))
    who = f"{pinned.node.user}@127.0.0.1:{pinned.node.port}"
    says = f"node pi-1: {who} accepts none of the keys offered ({tmp_path / 'stranger'}) → see connect.user and connect"
    pinned.shell.fails(31, "nodes", "start", "pi-1", says=says)
    assert "Accepted" not in pinned.node.log


def test_a_wrong_user_is_named(pinned: Site) -> None:
    pinned.add(user="nobody-here")
    pinned.shell.fails(31, "nodes", "start", "pi-1", says=f"nobody-here@127.0.0.1:{pinned.node.port} accepts none")


def test_no_key_at_all_and_a_missing_key_file_are_told_apart(pinned: Site, tmp_path: Path) -> None:
    pinned.add(key="")
    pinned.shell.fails(31, "nodes", "start", "pi-1", says="there is no key to offer to")
    pinned.add("pi-2", key=tmp_path / "lost")
    pinned.shell.fails(31, "nodes", "start", "pi-2", says=f"{tmp_path / 'lost'} cannot be read: no such file")


def test_an_encrypted_key_opens_with_its_passphrase_by_reference_or_through_the_agent(
    pinned: Site, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "locked", passphrase="open sesame")
    pinned.node.authorize(key)
    pinned.add(key=key)
    says = "is encrypted and connect.key_passphrase is not set → set connect.key_passphrase, or hand the key"
    pinned.shell.fails(31, "nodes", "start", "pi-1", says=says)
    fleet = pinned.shell.folder / "fleet.yaml"
    plain = fleet.read_text()
    assert f"key: {key}" in plain
    fleet.write_text(plain.replace(f"key: {key}", f"key: {key}, key_passphrase: {{env: OPS_PASSPHRASE}}"))
    pinned.shell.env["OPS_PASSPHRASE"] = "wrong"
    pinned.shell.fails(31, "nodes", "start", "pi-1", says="does not open with connect.key_passphrase")
    pinned.shell.env["OPS_PASSPHRASE"] = "open sesame"
    pinned.shell.fails(31, "nodes", "start", "pi-1", says="the agent is not installed")
    fleet.write_text(plain)
    with ssh_agent(tmp_path / "agent.sock", key, "open sesame"):
        pinned.shell.env["SSH_AUTH_SOCK"] = str(tmp_path / "agent.sock")
        pinned.shell.fails(31, "nodes", "start", "pi-1", says="the agent is not installed")


def ssh_agent(socket_: Path, key: Path, passphrase: str) -> _Ended:
    """A real ssh-agent that holds `key`; it ends with its block."""
    agent = _Ended(["ssh-agent", "-D", "-a", socket_], stdout=subprocess.DEVNULL)
    ask = socket_.with_name("askpass")
    ask.write_text(f"#!/bin/sh\necho '{passphrase}'\n")
    ask.chmod(0o700)
    for _ in range(600):
        if socket_.exists():
            break
        threading.Event().wait(0.1)
    env = {
        "SSH_AUTH_SOCK": str(socket_),
        "SSH_ASKPASS": str(ask),
        "SSH_ASKPASS_REQUIRE": "force",
        "PATH": "/usr/bin:/bin",
    }
    subprocess.run(["ssh-add", "-q", key], check=True, env=env, stdin=subprocess.DEVNULL, capture_output=True)
    return agent


class _Ended(subprocess.Popen[bytes]):
    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()


# ── the way there ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_wrong_on_the_way_is_told_apart(site: Site) -> None:
    site.add("down", port=free_port())
    site.shell.fails(31, "nodes", "start", "down", says="refuses the connection")
    site.add("nameless", host="no-such-host.invalid")
    site.shell.fails(31, "nodes", "start", "nameless", says="the name no-such-host.invalid cannot be resolved")
    (site.home / ".ssh" / "config").write_text("Host *\n  ConnectTimeout 1\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        site.add("silent", port=silent.getsockname()[1])
        site.shell.fails(31, "nodes", "start", "silent", says="answers, and does not speak SSH within 1 s")


def test_an_ssh_config_that_makes_no_sense_is_an_invalid_config(site: Site) -> None:
    config = site.home / ".ssh" / "config"
    config.write_text("Host *\n  Port\n")
    site.add()
    site.shell.fails(3, "nodes", "start", "pi-1", says=f"{config} cannot be used")
    config.write_text("Host *\n  ServerAliveInterval often\n")
    site.shell.fails(3, "nodes", "start", "pi-1", says="ServerAliveInterval: expected a number, found 'often'")
    config.write_text("")
    site.add("pi-2", jump="a b@@")
    site.shell.fails(3, "nodes", "start", "pi-2", says="jump host 'a b@@': expected [user@]host[:port]")
