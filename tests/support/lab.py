"""A laboratory of real nodes: systemd, sshd and a file system of their own, in network namespaces on a bridge.

    with Lab(tmp_path) as lab:
        a = lab.node("press-01")
        b = lab.node("press-02", jump=a)          # only a's namespace has a way to it
        c = lab.node("press-03", sudo="none", disk="40m")
        lab.boot()                                # all that were not booted yet, at once
        a.ssh("true")                             # as user `edge`, with the lab's key and pinned host keys
        a.link(up=False)                          # cut
        before = a.snapshot(); ...; changes(before, a.snapshot())

Each node is a throw-away overlay of this machine's /, about 15 MB of memory before anything is installed on it. Labs of
several test processes do not meet: a lab is the number of its bridge, which the kernel gives once. A lab ends with its
block; nodes end with the process that booted them, however it ends, and the next lab clears away what that left.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.server
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.support import snapshots
from tests.support.snapshots import Entry, Snapshot, changes

__all__ = ["Entry", "Lab", "Node", "Snapshot", "changes", "missing"]

BOOT = Path(__file__).with_name("boot-node.sh")
BRIDGE, JUMPED = "10.77", "10.78"
"""Networks of the labs: BRIDGE.<lab>.0/24 on the bridge, JUMPED.<lab>.<4 n>/30 between a node and its jump host."""
CGROUPS = Path("/sys/fs/cgroup")
FOLDERS = Path("/tmp")
"""Parent of the nodes' overlays: they must not lie below a folder that a node's own overlay hides or a test deletes."""
LOCK = FOLDERS / "edgelab.lock"
PASSWORD = "trout-scale-41"
"""Of `edge`, where sudo asks for one."""
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("ip", "sshd", "ssh", "ssh-keygen", "unshare", "nsenter", "setpriv", "mount")
WAIT_S = 60.0

Sudo = Literal["nopasswd", "password", "none", "missing"]
Without = Literal["python", "venv", "systemd"]


def missing() -> str | None:
    """Why this machine cannot boot nodes; None if it can."""
    if os.geteuid() != 0:
        return "needs root (boots nodes in network namespaces)"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if not Path("/lib/systemd/systemd").exists():
        absent.append("systemd")
    return f"needs {', '.join(absent)} to boot nodes" if absent else None


@dataclass(eq=False)
class Node:
    """One machine. The options hold from its boot on."""

    lab: Lab
    name: str
    number: int
    jump: Node | None = None
    sudo: Sudo = "nopasswd"
    disk: str = "1500m"
    index: str = ""
    """URL of a package index for its /etc/pip.conf."""
    machine: str = ""
    """What its `uname -m` says, if not the truth. For what a check reads: programs run all the same."""
    without: tuple[Without, ...] = ()
    read_only: bool = False
    also: str = ""
    """Shell commands, run as root in the node's file system before it boots."""
    host_key: str = ""
    """The sshd's public key: ``ssh-ed25519 AAAA…``."""
    _unshare: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def namespace(self) -> str:
        return f"{self.lab.name}-{self.number}"

    @property
    def address(self) -> str:
        """Where its sshd listens, on port 22; behind a jump host only that one has a way there."""
        return f"{JUMPED}.{self.lab.number}.{4 * self.number + 2}" if self.jump else self._on_bridge

    @property
    def _on_bridge(self) -> str:
        return f"{BRIDGE}.{self.lab.number}.{self.number + 1}"

    @property
    def base(self) -> Path:
        return FOLDERS / self.namespace

    # ── its life ────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to boot. In the main thread: a node ends with the thread that started it."""
        self._join()
        self.base.mkdir()
        setup = self.lab.folder / f"{self.name}.sh"
        setup.write_text(self._setup())
        groups = self._cgroups(make=True)
        inside = f'for g in {" ".join(map(str, groups))}; do echo $$ > $g/cgroup.procs; done; exec "$@"'
        apart = ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--pid", "--fork", "--kill-child",
                 "--uts", "--ipc", "--cgroup", "sh", BOOT, setup]  # fmt: skip
        with (self.lab.folder / f"{self.name}.boot").open("wb") as log:
            self._unshare = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "sh", "-ec", inside, "sh", *apart],
                env={"PATH": PATH, "NODE": self.name, "BASE": str(self.base), "SIZE": self.disk},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        """Until its sshd answers."""
        deadline = time.monotonic() + WAIT_S
        while not self._listens():
            if self._unshare is None or self._unshare.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(
                    f"{self.name} does not boot: {(self.lab.folder / f'{self.name}.boot').read_text()}"
                )
            time.sleep(0.05)
        if self.read_only:
            self._inside("mount -o remount,ro /")

    def _listens(self) -> bool:
        """Seen in its namespace: a node behind a jump host is not to be reached from here."""
        if not self.init:
            return False
        table = Path(f"/proc/{self.init}/net/tcp").read_text()
        return ":0016 00000000:0000 0A" in table

    @property
    def init(self) -> int:
        """Process id, on this machine, of its systemd; 0 while there is none."""
        if self._unshare is None:
            return 0
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        with contextlib.suppress(OSError):
            return int((children.read_text().split() or ["0"])[0])
        return 0

    def kill(self) -> None:
        """Cut its power; what it wrote is gone, too."""
        with contextlib.suppress(ProcessLookupError):
            if self.init:
                os.kill(self.init, signal.SIGKILL)
        if self._unshare is not None:
            self._unshare.kill()
            self._unshare.wait()
            self._unshare = None
        for group in self._cgroups():
            _remove_group(group)
        with contextlib.suppress(FileNotFoundError):
            self.base.rmdir()

    # ── what tests do to it ─────────────────────────────────────────────────────────────────────────────────────────

    def link(self, *, up: bool) -> None:
        """Cut its network cable, or plug it in again."""
        _ip("-n", self.namespace, "link", "set", "eth0", "up" if up else "down")

    def run(self, command: str, *, user: str = "root") -> str:
        """Output of a shell command, run at the machine's own console; it must succeed."""
        done = self.console(command, user=user)
        assert done.returncode == 0, f"{self.name}: {command} → {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def console(
        self, command: str, *, user: str = "root", timeout_s: float = WAIT_S
    ) -> subprocess.CompletedProcess[str]:
        """As `run`, whatever the status."""
        enter = ["nsenter", "-t", str(self.init), "-a", "-r", "-w"]
        become = [] if user == "root" else ["setpriv", "--reuid", user, "--regid", user, "--init-groups"]
        clean = ["env", "-i", f"PATH=/usr/local/sbin:/usr/local/bin:{PATH}", f"HOME=/home/{user}"]
        return subprocess.run(
            [*enter, *clean, *become, "sh", "-c", command], capture_output=True, text=True, timeout=timeout_s,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def ssh(self, command: str, *, user: str = "edge") -> subprocess.CompletedProcess[str]:
        """A command over SSH, by the machine's own client, with strict host keys."""
        return subprocess.run(
            ["ssh", "-F", self.lab.ssh_config, f"{user}@{self.name}", command], capture_output=True, text=True,
            timeout=WAIT_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def root(self) -> Path:
        """Its file system, seen from this machine."""
        return Path(f"/proc/{self.init}/root")

    @property
    def upper(self) -> Path:
        """What of `root` differs from this machine's own."""
        assert self._unshare is not None, f"{self.name} does not run"
        return Path(f"/proc/{self._unshare.pid}/root{self.base}/up")

    def snapshot(self, skip: Iterable[str] = ("run", "dev")) -> dict[str, Entry | None]:
        """All that is on its disk; compare two with `changes`."""
        return snapshots.look(self.upper, self.root, tuple(skip))

    def show(self, folder: Path, at: str) -> None:
        """Let it see, at its own folder `at`, a folder of this machine that may lie where its own are (below /tmp)."""
        subprocess.run(
            ["nsenter", "-t", str(self.init), "-m", "mount", "--bind", folder, f"{self.base}/m{at}"], check=True
        )

    def fill(self, leave: int) -> None:
        """Fill its disk but for `leave` bytes; `rm /var/fill` frees it."""
        free = os.statvfs(self.upper)
        size = free.f_bavail * free.f_frsize - leave
        self.run(f"fallocate -l {size} /var/fill")

    # ── how it is made ──────────────────────────────────────────────────────────────────────────────────────────────

    def _inside(self, command: str) -> None:
        subprocess.run(
            ["nsenter", "-t", str(self.init), "-m", "-p", "-r", "-w", "sh", "-c", command], check=True, timeout=WAIT_S
        )

    def _join(self) -> None:
        _ip("netns", "add", self.namespace)
        _ip("-n", self.namespace, "link", "set", "lo", "up")
        if self.jump is None:
            cable, end = f"{self.lab.name}v{self.number}", self._on_bridge
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
            _ip("link", "set", cable, "master", self.lab.name, "up")
            _ip("-n", self.namespace, "addr", "add", f"{end}/24", "dev", "eth0")
        else:
            near, far = f"{JUMPED}.{self.lab.number}.{4 * self.number + 1}", self.address
            cable, at = f"to{self.number}", self.jump.namespace
            _ip("-n", at, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
            _ip("-n", at, "addr", "add", f"{near}/30", "dev", cable)
            _ip("-n", at, "link", "set", cable, "up")
            _ip("-n", self.namespace, "addr", "add", f"{far}/30", "dev", "eth0")
        _ip("-n", self.namespace, "link", "set", "eth0", "up")

    def _setup(self) -> str:
        key = self.lab.folder / f"{self.name}.hostkey"
        if not key.exists():
            _keygen(key)
        kind, blob = key.with_suffix(".hostkey.pub").read_text().split()[:2]
        self.host_key = f"{kind} {blob}"
        lines = [
            "umask 022",
            f"cat > /etc/ssh/node_key <<'KEY'\n{key.read_text()}KEY",
            "chmod 600 /etc/ssh/node_key",
            f"useradd -m -s /bin/bash {'-G sudo ' if self.sudo == 'password' else ''}edge",
            f"echo 'edge:{PASSWORD}' | chpasswd",
            *self._authorize("root", "/root"),
            *self._authorize("edge", "/home/edge"),
            *{
                "nopasswd": ["echo 'edge ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/edge"],
                "missing": ["rm -f /usr/bin/sudo"],
            }.get(self.sudo, []),
        ]
        if self.index:
            host = self.index.split("/")[2].split(":")[0]
            lines.append(f"printf '[global]\\nindex-url = {self.index}\\ntrusted-host = {host}\\n' > /etc/pip.conf")
        if self.machine:
            fake = f'#!/bin/sh\ncase "$*" in -m) echo {self.machine};; *) exec /usr/bin/uname "$@";; esac'
            lines.append(f"cat > /usr/local/bin/uname <<'UNAME'\n{fake}\nUNAME\nchmod 755 /usr/local/bin/uname")
        lines += {
            "python": ["rm -f /usr/bin/python3* /usr/local/bin/python3*"],
            "venv": ["rm -rf /usr/lib/python3*/ensurepip"],
            "systemd": ["rm -f /usr/bin/systemctl /bin/systemctl"],
        }.get("".join(self.without), [])
        return "\n".join([*lines, self.also, ""])

    def _authorize(self, user: str, home: str) -> list[str]:
        public = (self.lab.folder / "id_ed25519.pub").read_text().strip()
        return [
            f"rm -rf {home}/.ssh",
            f"mkdir -m 700 {home}/.ssh",
            f"echo '{public}' > {home}/.ssh/authorized_keys",
            f"chown -R {user}: {home}/.ssh",
        ]

    def _cgroups(self, make: bool = False) -> list[Path]:
        """Its own group in every hierarchy: the systemds of two nodes would else claim the same names."""
        v2 = (CGROUPS / "cgroup.controllers").exists()
        parents = [CGROUPS] if v2 else sorted(p for p in CGROUPS.iterdir() if p.is_dir() and not p.is_symlink())
        found = [parent / self.namespace for parent in parents if v2 or parent.name not in ("cpuset",)]
        for group in found if make else ():
            group.mkdir(exist_ok=True)
        return found


class Lab:
    """Some nodes on one bridge. `folder` keeps the keys and what the nodes said while they booted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self.nodes: list[Node] = []
        self._servers: list[http.server.ThreadingHTTPServer] = []

    @property
    def name(self) -> str:
        """Of the bridge, and the beginning of every other name."""
        return f"edgelab{self.number}"

    @property
    def address(self) -> str:
        """This machine's on the bridge: here tests serve what nodes fetch."""
        return f"{BRIDGE}.{self.number}.1"

    @property
    def key(self) -> Path:
        """Private key that `root` and `edge` of every node accept."""
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> str:
        """The true host keys of all nodes, in OpenSSH's format."""
        return "".join(f"{node.address} {node.host_key}\n" for node in self.nodes)

    @property
    def ssh_config(self) -> Path:
        """For OpenSSH's client: every node by its name, strict host keys, no keys but the lab's."""
        hosts = self.folder / "known_hosts"
        hosts.write_text(self.known_hosts)
        blocks = []
        for node in self.nodes:
            jump = f"\n  ProxyJump edge@{node.jump.name}" if node.jump else ""
            blocks.append(f"Host {node.name}\n  HostName {node.address}{jump}\n")
        common = (
            f"Host *\n  StrictHostKeyChecking yes\n  UserKnownHostsFile {hosts}\n  GlobalKnownHostsFile /dev/null\n"
            f"  IdentityFile {self.key}\n  IdentitiesOnly yes\n  BatchMode yes\n  LogLevel ERROR\n"
        )
        path = self.folder / "ssh_config"
        path.write_text("".join(blocks) + common)
        return path

    def __enter__(self) -> Lab:
        clear_away()
        self.folder.mkdir(parents=True, exist_ok=True)
        _keygen(self.key)
        self.number = _claim()
        _ip("addr", "add", f"{self.address}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for node in self.nodes:
            node.kill()
        _dismantle(self.name)

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def node(self, name: str, **options: object) -> Node:
        """A node with options as the fields of `Node`; `boot` starts it."""
        node = Node(lab=self, name=name, number=len(self.nodes) + 1, **options)  # type: ignore[arg-type]
        self.nodes.append(node)
        return node

    def boot(self, *nodes: Node) -> None:
        """Boot `nodes`, or all that do not run, at once, and wait until each answers."""
        waiting = list(nodes) or [node for node in self.nodes if not node.init]
        for node in waiting:
            node.start()
        for node in waiting:
            node.wait()

    def serve(self, folder: Path) -> str:
        """URL on the bridge under which nodes see `folder`, until the lab ends."""
        handler = functools.partial(_Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer((self.address, 0), handler)
        threading.Thread(target=server.serve_forever, name=f"serve {folder.name}", daemon=True).start()
        self._servers.append(server)
        return f"http://{self.address}:{server.server_port}"

    def index(self, wheelhouse: Path) -> str:
        """URL of a package index (PEP 503) of the wheels in `wheelhouse`."""
        folder = self.folder / "index"
        for wheel in sorted(wheelhouse.rglob("*.whl")):
            project = folder / "simple" / re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()
            project.mkdir(parents=True, exist_ok=True)
            (project / wheel.name).symlink_to(wheel.resolve())
        return f"{self.serve(folder)}/simple/"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        del args


def clear_away() -> None:
    """Dismantle labs whose process is gone without having done it."""
    with LOCK.open("w") as lock:  # closing it lets the next process in: of two that do this at once one would find half
        fcntl.flock(lock, fcntl.LOCK_EX)
        _clear_away()


def _clear_away() -> None:
    for line in _ip("-o", "link", "show", "type", "bridge").splitlines():
        found = re.search(r"^\d+: (edgelab\d+):.*alias (\d+)-(\d+)", line.replace("\\", " "))
        if found and _started(int(found[2])) != found[3]:
            _dismantle(found[1])


def _claim() -> int:
    """A number that no other lab on this machine has: the kernel lets one process make the bridge of that name."""
    for number in random.SystemRandom().sample(range(1, 250), 249):
        name = f"edgelab{number}"
        made = subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, check=False)
        if made.returncode == 0:
            _ip("link", "set", name, "alias", f"{os.getpid()}-{_started(os.getpid())}")
            return number
    raise AssertionError("no network for a lab is free on this machine")


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _dismantle(name: str) -> None:
    """Take away whatever bears the lab's name. Its nodes are dead."""
    for namespace in re.findall(rf"^({name}-\d+)\b", _ip("netns", "list"), re.M):
        _ip("netns", "del", namespace)
        for parent in [CGROUPS, *CGROUPS.iterdir()]:
            _remove_group(parent / namespace)
        with contextlib.suppress(FileNotFoundError):
            (FOLDERS / namespace).rmdir()
    for link in re.findall(rf"^({name}(?:v\d+)?)[@ ]", _ip("-br", "link", "show"), re.M):
        with contextlib.suppress(subprocess.CalledProcessError):  # a cable goes by itself with its namespace, too
            _ip("link", "del", link)


def _remove_group(group: Path) -> None:
    """A cgroup with all below it. The kernel needs a moment until the last killed process has left."""
    deadline = time.monotonic() + 10
    while group.is_dir():
        for base, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(base).rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _keygen(path: Path) -> None:
    comment = f"lab-{secrets.token_hex(4)}"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path], check=True)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
