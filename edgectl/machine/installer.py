"""Installs the agent on the machine that it runs on, and enrols the machine with a receiver; or removes it.

It is sent to machines as part of the install script (`edgectl.machine.invitation`), so it uses nothing but the standard
library of Python 3.11, and every step finds out whether its work is done: run again, it completes what was cut short.

The invite's token comes in the environment (``EDGECTL_TOKEN``): every user of a machine can read command lines.

Exit codes: 0 the agent runs, or is removed · 2 usage · 3 the machine does not fit, or the folder is not the agent's
alone · 4 every place of the invite is taken · 40 the invite is unknown or revoked · 41 expired · 50 another
installation is under way · 75 disk, receiver, package index or the agent itself; run it again.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANSWER_S = 60.0
PIP_S = 1800.0
MIN_FREE = 300_000_000
"""Bytes: the environment takes about 200 MB, the wheels 50 MB."""
OWN = "uplink.token"
BELOW = {"agent", "data", "agent.yaml", OWN, "receiver-ca.pem"}
"""What the agent has in the folder of ``--folder``."""
LITTER = re.compile(r".*\.part|\..*\.[0-9a-f]{64}\.tmp")
"""What a write leaves there that was cut."""
CODES = {"unknown": 40, "expired": 41, "used-up": 4, "elsewhere": 3}


class Stop(Exception):
    """Ends the installation with a sentence and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main(settings: dict[str, Any], arguments: Sequence[str]) -> int:
    """Install.

    Args:
        settings: ``url``, ``ca`` (PEM, or empty for the system's), ``fleet``, and the shell texts of the steps that an
            installation over SSH takes too: ``accounts``, ``environment``, ``folders``, ``write``, ``remove`` and
            ``remove-folder``.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog="edgectl-install", description=f"Joins the fleet {settings['fleet']}.")
    parser.add_argument("--folder", default="", help="install below this folder, without root")
    parser.add_argument("--remove", action="store_true", help="take the agent off this machine")
    parser.add_argument("--keep-data", action="store_true", help="with --remove: keep alerts that were not sent")
    given = parser.parse_args(arguments)
    token = os.environ.pop("EDGECTL_TOKEN", "")  # no other program gets it
    if given.keep_data and not given.remove:
        parser.error("--keep-data goes with --remove")
    try:
        run = Installation(settings, token, given.folder)
        said = run.remove(given.keep_data) if given.remove else run.install()
    except Stop as e:
        print(f"edgectl: {e}", file=sys.stderr)
        return e.code
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        print(f"edgectl: {where}{(e.strerror or str(e)).lower()} → mend it, then run the line again", file=sys.stderr)
        return 75
    say(said)
    return 0


class Installation:
    """One run."""

    def __init__(self, settings: dict[str, Any], token: str, folder: str) -> None:
        self.receiver = Receiver(settings["url"], settings["ca"])
        self.steps = settings
        self.fleet = settings["fleet"]
        self.token = token
        self.folder = str(Path(folder).absolute()) if folder else ""
        self.home = Path(self.folder, "agent") if folder else Path("/opt/edgectl-agent")
        self.config = Path(self.folder) if folder else Path("/etc/edgectl-agent")
        self.data = self.config / "data" if folder else Path("/var/lib/edgectl-agent")
        self.user = "" if folder else "edgectl-agent"

    def install(self) -> str:
        """Returns what to say at the end. Raises `Stop` and OSError."""
        self.check_disk()
        with self.alone():
            offer = self.receiver.get("/install/offer?" + urllib.parse.urlencode(facts()))
            environment = self.environment(offer)
            said = self.enrol()
            self.account()
            self.place(said["files"])
            self.start(environment, said["systemd"])
            self.probe(offer["version"])
        return f"this machine is node {said['node']} of the fleet {self.fleet}, and its agent runs"

    def remove(self, keep_data: bool) -> str:
        """Stop the agent and delete all of it, as `edgectl nodes remove` does. Raises `Stop` and OSError."""
        if not any(place.exists() for place in (self.home, self.config / "agent.yaml", self.config / OWN, self.data)):
            where = f"below {self.folder}" if self.folder else "→ one that was installed with --folder needs it again"
            return f"there is no agent on this machine {where}"
        found = {path.name for path in self.config.iterdir()} if self.folder else set()
        if foreign := sorted(name for name in found - BELOW if not LITTER.fullmatch(name)):
            raise Stop(f"{self.folder} holds what is not the agent's: {', '.join(foreign)} → move it elsewhere", 3)
        with self.alone():
            words = ("1" if keep_data else "", self.folder)
            self._step("remove-folder" if self.folder else "remove", "not everything could be removed", *words)
        kept = self.data / "outbox"
        return "the agent is removed" + (f", its alerts are kept in {kept}" if kept.exists() else "")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One at a time. Raises `Stop`."""
        with open(self._made(self.home) / "install.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Stop("another installation is under way on this machine → let it end", 50) from None
            yield

    def check_disk(self) -> None:
        place = next(p for p in (self.home, *self.home.parents) if p.exists())
        found = os.statvfs(place)
        if found.f_flag & os.ST_RDONLY:
            raise Stop(f"{place} is on a read-only file system, expected one that can be written", 3)
        free = found.f_bavail * found.f_frsize
        if free < MIN_FREE:
            raise Stop(f"{place} has {free // 10**6} MB free, expected {MIN_FREE // 10**6} MB → make room", 75)

    # ── the environment ─────────────────────────────────────────────────────────────────────────────────────────────

    def environment(self, offer: dict[str, Any]) -> Path:
        """The agent's own Python environment, made whole or not at all."""
        target = self.home / "venvs" / str(offer["name"])
        if (target / "bin" / "edgectl-agent").exists():
            return target
        wheels = [self.download(file) for file in (offer["agent"], *offer["wheels"])]
        pip = []
        if not offer["wheels"]:
            constraints = self.home / "constraints.txt"
            constraints.write_text(offer["constraints"])
            pip = ["-c", str(constraints)]
        say(f"installing the agent {offer['version']}")
        words = [target, self.home / "wheels", "wheels" if offer["wheels"] else "index", sys.executable, *pip, *wheels]
        self._step("environment", "the agent cannot be installed", *map(str, words))
        return target

    def download(self, file: dict[str, Any]) -> Path:
        target = self._made(self.home / "wheels") / str(file["name"])
        if not (target.exists() and _sha256(target) == file["sha256"]):
            say(f"fetching {file['name']}")
            self.receiver.download(file["path"], target, file["sha256"])
        return target

    # ── enrolment ───────────────────────────────────────────────────────────────────────────────────────────────────

    def enrol(self) -> dict[str, Any]:
        """Become a node. The uplink's token is made here and never leaves: the receiver gets its digest."""
        own = self.config / OWN
        self.config.mkdir(mode=0o750, parents=True, exist_ok=True)
        if not own.exists():
            _write(own, secrets.token_urlsafe(32).encode() + b"\n", 0o640)
        credential = hashlib.sha256(own.read_text().strip().encode()).hexdigest()
        said = {
            "token": self.token,
            "machine": machine_id(self.home, self.folder),
            "credential": credential,
            "folder": self.folder,
            "facts": facts() | {"hostname": socket.gethostname()},
        }
        answer: dict[str, Any] = self.receiver.post("/v1/enrol", said)
        return answer

    def account(self) -> None:
        """The agent's own user and group."""
        if self.user:
            self._step("accounts", f"the user {self.user} cannot be made")

    def place(self, files: list[dict[str, Any]]) -> None:
        """Write what the receiver says: each file whole, trust only where there is none yet."""
        if self.user:
            self._step("folders", "the folders cannot be made")
        else:
            for folder in (self.config, self.data, self.data / "trust", self.data / "spool"):
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        for file in files:
            path, raw = Path(file["path"]), file["text"].encode()
            if file["keep"] and path.exists():
                continue
            words = (file["path"], file["mode"], hashlib.sha256(raw).hexdigest())
            self._step("write", f"{path} cannot be written", *words, stdin=raw)
        if self.user:
            for path in self.config.iterdir():
                shutil.chown(path, "root", self.user)

    # ── the service ─────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, environment: Path, systemd: bool) -> None:
        link = self.home / "current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(environment)
        link.replace(self.home / "current")
        if systemd and Path("/run/systemd/system").is_dir():
            for words in (["daemon-reload"], ["-q", "enable", "edgectl-agent"], ["restart", "edgectl-agent"]):
                _run(["systemctl", *words], "systemd does not start the agent")
            return
        self.supervise()

    def supervise(self) -> None:
        """Keep it running without systemd."""
        script, pid_file = self.home / "supervise.sh", self.data / "service.pid"
        pid = int(pid_file.read_text() or 0) if pid_file.exists() else 0
        if pid and _is_supervisor(pid):
            os.kill(pid, 15)
            end = time.monotonic() + 60
            while _is_supervisor(pid) and time.monotonic() < end:
                time.sleep(0.1)
        subprocess.Popen(
            ["sh", str(script)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def probe(self, version: str) -> None:
        agent = self.home / "current" / "bin" / "edgectl-agent"
        asked = ["probe", "--config", str(self.config / "agent.yaml"), "--version", version, "--within", "60s"]
        done = subprocess.run([str(agent), *asked], capture_output=True, text=True, timeout=300)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["it does not answer"])[-1].removeprefix("edgectl-agent: ")
            raise Stop(f"the agent is installed and does not come up: {why}", 75)

    def _step(self, name: str, failing: str, *words: str, stdin: bytes = b"") -> None:
        _run(["sh", "-c", self.steps[name], name, *words], failing, stdin)

    def _made(self, folder: Path) -> Path:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        return folder


class Receiver:
    """Calls to the receiver; its certificate must be of the authority that came with the script."""

    def __init__(self, url: str, ca: str) -> None:
        self._url = url.rstrip("/")
        self._tls = ssl.create_default_context(cadata=ca or None) if url.startswith("https:") else None

    def get(self, path: str) -> Any:
        return json.loads(self._ask(urllib.request.Request(self._url + path)))

    def post(self, path: str, body: object) -> Any:
        headers = {"Content-Type": "application/json"}
        return json.loads(self._ask(urllib.request.Request(self._url + path, json.dumps(body).encode(), headers)))

    def download(self, path: str, target: Path, sha256: str) -> None:
        part, digest = target.with_name(f".{target.name}.part"), hashlib.sha256()
        with self._open(urllib.request.Request(self._url + path)) as answer, part.open("wb") as file:
            try:
                while block := answer.read(1 << 18):
                    digest.update(block)
                    file.write(block)
            except (OSError, ValueError) as e:
                raise self._cut(e) from e
        if digest.hexdigest() != sha256:
            raise Stop(f"{target.name} did not arrive whole → run the line again", 75)
        part.rename(target)

    def _ask(self, request: urllib.request.Request) -> bytes:
        with self._open(request) as answer:
            try:
                raw: bytes = answer.read()
            except (OSError, ValueError) as e:
                raise self._cut(e) from e
        return raw

    def _open(self, request: urllib.request.Request) -> Any:
        try:
            return urllib.request.urlopen(request, timeout=ANSWER_S, context=self._tls)
        except urllib.error.HTTPError as e:
            raise _refused(e) from e
        except (OSError, ValueError) as e:
            raise self._cut(e) from e

    def _cut(self, error: Exception) -> Stop:
        why = getattr(error, "reason", None) or error
        return Stop(f"the receiver {self._url} cannot be reached: {why} → run the line again when it can", 75)


def _refused(error: urllib.error.HTTPError) -> Stop:
    try:
        said = json.loads(error.read())
        sentence, reason = str(said["error"]), str(said["reason"])
    except (ValueError, KeyError, OSError, TypeError, RecursionError):
        sentence, reason = f"{error.code} {error.reason}", ""
    fits = CODES.get(reason, 3 if 400 <= error.code < 500 else 75)
    return Stop(f"the receiver refuses: {sentence}", fits)


def facts() -> dict[str, str]:
    """What decides which packages fit."""
    try:
        glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2]
    except (ValueError, OSError):
        glibc = ""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"machine": platform.machine(), "python": python, "glibc": glibc}


def machine_id(home: Path, folder: str) -> str:
    """An id of this machine and folder that stays, made from the machine's own without giving it away."""
    for path in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"), home / "machine-id"):
        known = path.read_text().strip() if path.exists() else ""
        if len(known) >= 32:
            break
    else:
        known = secrets.token_hex(16)
        _write(home / "machine-id", known.encode(), 0o600)
    return hashlib.sha256(f"edgectl-agent\n{known}\n{folder}".encode()).hexdigest()


def say(text: str) -> None:
    """Progress, for whoever watches."""
    print(f"edgectl: {text}", file=sys.stderr, flush=True)


def _run(command: list[str], failing: str, stdin: bytes = b"") -> None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=PIP_S, input=stdin)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Stop(f"{failing}: {e}", 75) from e
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace")
        lines = [line for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")]
        raise Stop(f"{failing}: {(errors or lines or ['no reason given'])[-1].removeprefix('ERROR: ')}", 75)


def _write(path: Path, content: bytes, mode: int) -> None:
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    part.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_supervisor(pid: int) -> bool:
    try:
        return b"supervise.sh" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
