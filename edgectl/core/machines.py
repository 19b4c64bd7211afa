"""Whether the agent can be installed on a machine: facts about it → one check per need. docs/guides/support-matrix.md
lists what is supported; it decides, and reads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgectl_agent.core.clock import FIRST_NS

from edgectl.core.wheels import GLIBC, MIN_PYTHON, NO_WHEELS, PLATFORMS, Manifest

Verdict = Literal["ok", "warn", "refuse"]

ENVIRONMENT_BYTES = 350_000_000
"""The installed agent (230 MB) and the wheels it is installed from."""
CONFIG_BYTES = 1_000_000
DATA_BYTES = 100_000_000
"""What the data folder needs beside the outbox."""
SYSTEM_BYTES = 100_000_000
"""Memory that the machine itself needs beside the agent's limit."""
SKEW_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Python:
    """One interpreter. `venv`: it can make environments that have pip; `pip`: it has pip itself; `shared`: the agent's
    user may run it, and its unit does not hide it."""

    path: str
    version: tuple[int, int, int]
    venv: bool
    pip: bool
    bits: int = 64
    shared: bool = True

    @property
    def shown(self) -> str:
        return f"{self.path} {'.'.join(map(str, self.version))}"

    @property
    def usable(self) -> bool:
        fits = self.version[:2] >= MIN_PYTHON and self.bits == 64
        return fits and self.shared and (self.venv or self.pip)


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The file system on which `path` lies, or would lie."""

    path: str
    mount: str
    free_bytes: int
    read_only: bool


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What of an agent is there already."""

    node: str = ""
    """The node that its agent.yaml names."""
    current: str = ""
    """The environment that ``current`` points to, ``VERSION-HASH``."""
    complete: bool = False
    """Its program, agent.yaml and service are there."""
    traces: bool = False
    """Something of it is there."""


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """What one look at a machine finds. Sizes in bytes, times in seconds since 1970, UTC."""

    machine: str
    bits: int
    libc: Literal["glibc", "musl", ""]
    glibc: tuple[int, int] = (0, 0)
    pythons: tuple[Python, ...] = ()
    disks: tuple[Disk, ...] = ()
    memory_bytes: int
    available_bytes: int
    clock_s: float
    user: str
    no_root: str = ""
    """Why root is not to be had; empty if it is."""
    systemd: int = 0
    """Its version; 0 without it."""
    installed: Installed = Installed()
    index: tuple[str, ...] = ()
    """Versions of ONNX Runtime that the machine's package index has for it."""

    @property
    def python(self) -> Python | None:
        """The interpreter to install with: the first that fits, one with venv before one with pip alone."""
        usable = [python for python in self.pythons if python.usable]
        return next((python for python in usable if python.venv), usable[0] if usable else None)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an installation asks of a machine."""

    node: str
    now_s: float
    """The operator's clock when the machine's was read."""
    memory_bytes: int
    outbox_bytes: int
    packages: Literal["auto", "index", "wheelhouse"] = "auto"
    wheelhouses: tuple[Manifest, ...] = ()
    onnxruntime: str = ""
    """The version that is tested."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One need, what was found and, where it is not met, what to do."""

    name: str
    verdict: Verdict
    found: str
    expected: str = ""
    fix: str = ""


def check(facts: MachineFacts, needs: Needs) -> tuple[Check, ...]:
    """Every need, in the order in which an installation meets them."""
    return (
        _architecture(facts),
        _libc(facts),
        _python(facts),
        *(_disk(disk, facts.disks, needs) for disk in facts.disks),
        _read_only(facts.disks),
        _memory(facts, needs),
        _clock(facts, needs),
        _root(facts),
        _service(facts),
        _installation(facts.installed, needs),
        _packages(facts, needs),
    )


def worst(checks: Sequence[Check]) -> Verdict:
    """What all together mean."""
    order: tuple[Verdict, ...] = ("refuse", "warn", "ok")
    return next(verdict for verdict in order if verdict == "ok" or any(c.verdict == verdict for c in checks))


def _architecture(facts: MachineFacts) -> Check:
    expected = " or ".join(PLATFORMS)
    if facts.machine in PLATFORMS and facts.bits == 64:
        return Check(name="architecture", verdict="ok", found=facts.machine, expected=expected)
    if facts.machine in PLATFORMS:
        found, why = f"{facts.machine} with {facts.bits}-bit programs", "ONNX Runtime has no 32-bit wheel"
        return Check(name="architecture", verdict="refuse", found=found, expected=expected,
                     fix=f"{why}: install a 64-bit system")  # fmt: skip
    why = NO_WHEELS.get(facts.machine, "ONNX Runtime has no wheel for it")
    fix = f"{why}: the node needs other hardware or a 64-bit system"
    return Check(name="architecture", verdict="refuse", found=facts.machine, expected=expected, fix=fix)


def _libc(facts: MachineFacts) -> Check:
    expected = f"glibc ≥ {_dotted(GLIBC)}"
    if facts.libc == "musl":
        fix = f"{NO_WHEELS['musl']}: use a system with glibc"
        return Check(name="libc", verdict="refuse", found="musl", expected=expected, fix=fix)
    if facts.libc == "glibc" and facts.glibc >= GLIBC:
        return Check(name="libc", verdict="ok", found=f"glibc {_dotted(facts.glibc)}", expected=expected)
    if facts.libc == "glibc":
        fix = "upgrade the system: its C library is older than that of the wheels"
        return Check(name="libc", verdict="refuse", found=f"glibc {_dotted(facts.glibc)}", expected=expected, fix=fix)
    return Check(name="libc", verdict="warn", found="unknown", expected=expected, fix="see `ldd --version` there")


def _python(facts: MachineFacts) -> Check:
    least = _dotted(MIN_PYTHON)
    expected = f"≥ {least} with venv"
    if facts.python is not None and facts.python.venv:
        return Check(name="python", verdict="ok", found=facts.python.shown, expected=expected)
    if facts.python is not None:
        found, fix = f"{facts.python.shown} with pip, without venv", f"install {_venv_package(facts.python)}"
        return Check(name="python", verdict="warn", found=found, expected=expected, fix=fix)
    recent = [p for p in facts.pythons if p.version[:2] >= MIN_PYTHON]
    new = next((p for p in recent if p.shared), recent[0] if recent else None)
    if new is not None and not new.shared:
        found, fix = (
            f"{new.shown}, which the agent's user may not run",
            f"install Python {least} or newer for all users",
        )
        return Check(name="python", verdict="refuse", found=found, expected=expected, fix=fix)
    if new is not None and new.bits != 64:
        fix = "install a 64-bit Python"
        return Check(name="python", verdict="refuse", found=f"{new.shown}, 32-bit", expected=expected, fix=fix)
    if new is not None:
        found = f"{new.shown} without venv and pip"
        return Check(
            name="python", verdict="refuse", found=found, expected=expected, fix=f"install {_venv_package(new)}"
        )
    found = ", ".join(p.shown for p in facts.pythons) or "none"
    return Check(
        name="python", verdict="refuse", found=found, expected=expected, fix=f"install Python {least} or newer"
    )


def _venv_package(python: Python) -> str:
    """Where Debian and its kin keep it."""
    return f"python{python.version[0]}.{python.version[1]}-venv"


def _disk(disk: Disk, disks: Sequence[Disk], needs: Needs) -> Check:
    need = _need(disk, needs) + sum(_need(d, needs) for d in disks if d is not disk and d.mount == disk.mount)
    name, found = f"disk {disk.path}", f"{_megabytes(disk.free_bytes)} free"
    if disk.free_bytes >= need:
        return Check(name=name, verdict="ok", found=found, expected=f"≥ {_megabytes(need)}")
    return Check(name=name, verdict="refuse", found=found, expected=f"≥ {_megabytes(need)}",
                 fix=f"make room on {disk.mount}")  # fmt: skip


def _need(disk: Disk, needs: Needs) -> int:
    if disk.path.startswith("/etc"):
        return CONFIG_BYTES
    return DATA_BYTES + needs.outbox_bytes if disk.path.startswith("/var") else ENVIRONMENT_BYTES


def _read_only(disks: Sequence[Disk]) -> Check:
    frozen = sorted({disk.mount for disk in disks if disk.read_only})
    if not frozen:
        return Check(name="writable", verdict="ok", found="yes")
    found = f"{', '.join(frozen)} read-only"
    fix = f"mount -o remount,rw {frozen[0]}, or make /opt, /etc and /var/lib writable"
    return Check(name="writable", verdict="refuse", found=found, expected="writable", fix=fix)


def _memory(facts: MachineFacts, needs: Needs) -> Check:
    expected = f"≥ {_megabytes(needs.memory_bytes)} available"
    found = f"{_megabytes(facts.available_bytes)} of {_megabytes(facts.memory_bytes)}"
    if facts.memory_bytes < needs.memory_bytes + SYSTEM_BYTES:
        fix = "lower limits.memory, or give the machine more"
        return Check(name="memory", verdict="refuse", found=found, expected=expected, fix=fix)
    if facts.available_bytes < needs.memory_bytes:
        return Check(name="memory", verdict="warn", found=found, expected=expected, fix="see what else runs there")
    return Check(name="memory", verdict="ok", found=found, expected=expected)


def _clock(facts: MachineFacts, needs: Needs) -> Check:
    skew_s, expected = facts.clock_s - needs.now_s, f"within {SKEW_S:g} s of this machine's"
    if facts.clock_s < FIRST_NS / 1e9:
        fix = "set the clock (date -s, or a time server): readings and signatures carry times"
        return Check(name="clock", verdict="refuse", found="never set", expected=expected, fix=fix)
    found = f"{abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
    if abs(skew_s) > SKEW_S:
        return Check(name="clock", verdict="warn", found=found, expected=expected, fix="let a time server set it")
    return Check(name="clock", verdict="ok", found=found, expected=expected)


def _root(facts: MachineFacts) -> Check:
    if not facts.no_root:
        return Check(name="root", verdict="ok", found=facts.user)
    fix = "log in as root, allow sudo without a password, or name connect.sudo_password"
    return Check(name="root", verdict="refuse", found=facts.no_root, expected="root or sudo", fix=fix)


def _service(facts: MachineFacts) -> Check:
    if facts.systemd:
        return Check(name="service", verdict="ok", found=f"systemd {facts.systemd}")
    fix = "the agent runs under supervise.sh; limits are not held"
    return Check(name="service", verdict="warn", found="no systemd", expected="systemd", fix=fix)


def _installation(there: Installed, needs: Needs) -> Check:
    version = there.current.rpartition("-")[0] or there.current
    if there.node and there.node != needs.node:
        fix = f"edgectl nodes replace {needs.node}, or remove that agent first"
        found = f"the agent of node {there.node}"
        return Check(name="agent", verdict="refuse", found=found, expected=f"none, or that of {needs.node}", fix=fix)
    if there.complete:
        return Check(name="agent", verdict="ok", found=version)
    if there.traces:
        fix = f"edgectl nodes bootstrap {needs.node} completes it"
        return Check(name="agent", verdict="warn", found="half-finished installation", fix=fix)
    return Check(name="agent", verdict="ok", found="none")


def _packages(facts: MachineFacts, needs: Needs) -> Check:
    """Where the wheels come from; a wheelhouse goes first, as bootstrap has it."""
    python = facts.python
    version = (python.version[0], python.version[1]) if python else MIN_PYTHON
    fitting = [made for made in needs.wheelhouses if made.fits(facts.machine, version, facts.glibc)]
    if fitting and needs.packages != "index":
        return Check(name="packages", verdict="ok", found=f"wheelhouse {fitting[-1].name}")
    if facts.index and needs.packages != "wheelhouse":
        if not needs.onnxruntime or needs.onnxruntime in facts.index:
            return Check(name="packages", verdict="ok", found="package index")
        found = f"package index with onnxruntime {facts.index[0]}"
        expected, fix = f"onnxruntime {needs.onnxruntime}", _build_fix(facts, version)
        return Check(name="packages", verdict="refuse", found=found, expected=expected, fix=fix)
    sources = {"auto": "a wheelhouse or a package index", "index": "a package index", "wheelhouse": "a wheelhouse"}
    fix = _build_fix(facts, version) if needs.packages != "index" else "see pip's settings there"
    return Check(name="packages", verdict="refuse", found="none", expected=sources[needs.packages], fix=fix)


def _build_fix(facts: MachineFacts, python: tuple[int, int]) -> str:
    if facts.machine not in PLATFORMS:
        return ""
    return f"edgectl wheelhouse build --platform {facts.machine} --python {_dotted(python)}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
