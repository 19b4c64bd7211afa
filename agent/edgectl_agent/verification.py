"""Starts the verifying child (`edgectl_agent.trust_client`), holds it to its limits and reads what it found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgectl_agent.core.desired import Standing, Verdict
from edgectl_agent.core.errors import AdmissionError, StorageError, TrustError
from edgectl_agent.core.foreign import UNREADABLE

MiB = 2**20


@dataclass(frozen=True)
class Limits:
    """What the verifying child may use.

    Attributes:
        memory_bytes: address space, which is well above resident memory (180 MB and 80 MB for a small model).
        cpu_s: processor time.
        wall_s: time until it is killed.
    """

    memory_bytes: int = 1024 * MiB
    cpu_s: int = 60
    wall_s: float = 120.0


def verify(data_dir: Path, node: str, now_ns: int, standing: Standing, limits: Limits) -> Verdict:
    """What the spool in `data_dir` asks of this node; verified bundles lie in ``staging/`` afterwards.

    A refusal is a `Verdict` with an exit code.

    Raises:
        AdmissionError: the child exceeded a limit or died of what it parsed; says at which step.
        StorageError: it cannot be started.
        TrustError: it answers nonsense.
    """
    command = [sys.executable, "-P", "-m", "edgectl_agent.trust_client", str(data_dir), node, "--now", str(now_ns)]
    command += ["--memory", str(limits.memory_bytes), "--cpu", str(limits.cpu_s), "--wall", str(int(limits.wall_s) + 1)]
    try:
        done = subprocess.run(
            command,
            input=msgspec.json.encode(standing),
            capture_output=True,
            timeout=limits.wall_s,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C in the agent's terminal is the agent's to handle
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise AdmissionError(f"{_doing(e.stdout or b'')} took longer than {limits.wall_s:g} s", reason="timeout") from e
    except OSError as e:
        raise StorageError(f"cannot start the verifying process: {e}", reason="no-process") from e
    return _verdict(done.returncode, done.stdout, done.stderr)


def _verdict(status: int, stdout: bytes, stderr: bytes) -> Verdict:
    """The child's last line; a child that died without one was killed by its limits, or by what it parsed."""
    lines = stdout.splitlines()
    if status == 0 and lines:
        try:
            return msgspec.json.decode(lines[-1], type=Verdict)
        except UNREADABLE as e:
            raise TrustError(f"the verifying process answers nonsense: {e}", reason="child-failed") from e
    raise AdmissionError(f"{_doing(stdout)} ended the verifying process: {_why(status, stderr)}", reason="child-failed")


def _why(status: int, stderr: bytes) -> str:
    if status == -signal.SIGXCPU:
        return "it used up its processor time"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"status {status}"


def _doing(stdout: bytes) -> str:
    """What the child said it was at when it last said anything."""
    lines = [line.decode(errors="replace") for line in stdout.splitlines() if line.startswith(b"# ")]
    return lines[-1][2:] if lines else "starting"


def _environment() -> dict[str, str]:
    """The parent's, with one thread for the linear algebra: a pool reserves address space per thread."""
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
