"""Real OpenSSH servers on the loopback, each with a host key of its own, for tests.

with Sshd(folder) as sshd:
    sshd.port, sshd.host_key, sshd.user, sshd.key
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from edgectl.connectors.ssh_pool import Pool
from edgectl.connectors.ssh_reach import Reach
from edgectl.connectors.ssh_target import resolve
from edgectl.inventory.types import Connect
from edgectl.machine import supervisor
from edgectl.machine.layout import AGENT, Layout
from edgectl.workspace import Workspace
from tests.support.ports import listens

SSHD = "/usr/sbin/sshd"
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowAgentForwarding no
Subsystem sftp internal-sftp
SetEnv HOME={folder}/home
MaxStartups 200:30:400
MaxSessions 100
LoginGraceTime 60
LogLevel VERBOSE
{more}
"""


def missing() -> str | None:
    """Why no server can be started here; None if it can."""
    found = all(map(shutil.which, (SSHD, "ssh-keygen", "ssh-agent", "ssh-add")))
    return None if found else "needs sshd, ssh-keygen, ssh-agent and ssh-add (package openssh-server)"


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key pair at `path` and ``path.pub``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def way(sshd: Sshd, folder: Path, name: str = "pi-1", pool: Pool | None = None, **connect: Any) -> Reach:
    """How the node `name` behind `sshd` is reached from the workspace `folder`, without this machine's ssh config."""
    said = {"host": "127.0.0.1", "port": sshd.port, "user": sshd.user, "key": str(sshd.key)} | connect
    entry = Connect(via="ssh", **said)
    target = resolve(name, entry, Workspace(folder), folder / "ssh_config")
    return Reach(name, entry, lambda: target, lambda ref: f"{ref.env}", pool or Pool())


class Sshd:
    """One server. `key` may log in as `user`; more keys go into ``authorized_keys``."""

    def __init__(self, folder: Path, *, key: Path | None = None, more: str = "", host_key: str = "ed25519") -> None:
        self.folder, self.more = folder, more
        folder.mkdir(parents=True, exist_ok=True)
        self.user = getpass.getuser()
        self.key = key or make_key(folder / "client")
        (folder / "home").mkdir(exist_ok=True)  # what this machine's user runs at login is no part of a test
        (folder / "authorized_keys").write_text(self.key.with_name(self.key.name + ".pub").read_text())
        make_key(folder / "host_key", host_key)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host_key(self) -> str:
        """``ssh-ed25519 AAAA…``."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    @property
    def fingerprint(self) -> str:
        done = subprocess.run(["ssh-keygen", "-lf", self.folder / "host_key.pub"], check=True, capture_output=True)
        return done.stdout.decode().split()[1]

    @property
    def pin(self) -> str:
        """The line of known_hosts."""
        return f"[127.0.0.1]:{self.port} {self.host_key}\n"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def new_host_key(self) -> None:
        """As after a new installation: another key from the next start on."""
        for name in ("host_key", "host_key.pub"):
            (self.folder / name).unlink()
        make_key(self.folder / "host_key")

    def authorize(self, key: Path) -> None:
        with (self.folder / "authorized_keys").open("a") as file:
            file.write(key.with_name(key.name + ".pub").read_text())

    def start(self) -> Sshd:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = self.folder / "sshd_config"
        config.write_text(CONFIG.format(port=self.port, folder=self.folder, more=self.more))
        command = [SSHD, "-D", "-f", str(config), "-E", str(self.folder / "log")]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 60
        while not listens(self.port):
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """End the server and every session of it."""
        if self._process is not None:
            sessions = self._sessions(self._process.pid)
            self._process.kill()
            self._process.wait()
            for pid in sessions:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing of the server runs while the block does: who waits for it hears nothing, and no end either."""
        assert self._process is not None, "it does not run"
        pids = [self._process.pid, *self._sessions(self._process.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def __enter__(self) -> Sshd:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @staticmethod
    def _sessions(pid: int) -> list[int]:
        """The server's own processes for connections, not what they run: an agent outlives them."""
        import psutil

        children = psutil.Process(pid).children(recursive=True)
        return [child.pid for child in children if _name(child) in ("sshd", "sshd-session", "sshd-auth")]


def _name(process: object) -> str:
    import psutil

    assert isinstance(process, psutil.Process)
    with suppress(psutil.Error):
        return str(process.name())
    return ""


def install(folder: Path) -> Layout:
    """What bootstrapping would leave in a node's `folder`: the agent as ``current``, and its supervisor's script."""
    layout = Layout.within(str(folder))
    program = Path(layout.current, "bin", AGENT)
    program.parent.mkdir(parents=True)
    paths = os.environ.get("PYTHONPATH", "")
    program.write_text(f"#!/bin/sh\nPYTHONPATH='{paths}' exec '{sys.executable}' -P -m edgectl_agent \"$@\"\n")
    program.chmod(0o755)
    Path(supervisor.script_file(layout)).write_text(supervisor.script(layout))
    return layout
