"""Runs the verifying child (`edgectl_agent.trust_client`), holds it to its limits and reads what it found.

In the running agent the child is forked, and shares with it the libraries that the agent has loaded. Where that does
not work, and where there is no running agent, it is a program of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from edgectl_agent import forked
from edgectl_agent.confinement import Limits
from edgectl_agent.core.desired import Standing, Verdict
from edgectl_agent.core.errors import AdmissionError, StorageError, TrustError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.forked import AtRest, Ended, Write
from edgectl_agent.logs import warn


def verify(
    data_dir: Path, node: str, now_ns: int, standing: Standing, limits: Limits, at_rest: AtRest | None = None
) -> Verdict:
    """What the spool in `data_dir` asks of this node; verified bundles lie in ``staging/`` afterwards.

    A refusal is a `Verdict` with an exit code. With `at_rest` (see `forked.run`) the child is forked.

    Raises:
        AdmissionError: the child exceeded a limit or died of what it parsed; says at which step.
        StorageError: it cannot be started.
        TrustError: it answers nonsense.
    """
    ended = _forked(data_dir, node, now_ns, standing, limits, at_rest) if at_rest else None
    return _verdict(ended or _started(data_dir, node, now_ns, standing, limits), limits)


def _forked(
    data_dir: Path, node: str, now_ns: int, standing: Standing, limits: Limits, at_rest: AtRest
) -> Ended | None:
    """None if the child has not begun to verify: the fork is then to blame, and a program of its own may succeed."""

    def work(write: Write) -> None:
        from edgectl_agent import trust_client

        trust_client.judge(data_dir, node, now_ns, standing, write)

    try:
        ended = forked.run(work, limits, at_rest)
    except OSError as e:
        why = f"cannot be forked: {e}"
    else:
        if ended.out:
            return ended
        why = "said nothing" if ended.status is None else _why(ended.status, ended.err)
    warn("verifying-process", message=f"{why}; it is started as a program instead")
    return None


def _started(data_dir: Path, node: str, now_ns: int, standing: Standing, limits: Limits) -> Ended:
    command = [sys.executable, "-P", "-m", "edgectl_agent.trust_client", str(data_dir), node, "--now", str(now_ns)]
    command += ["--memory", str(limits.memory_bytes), "--cpu", str(limits.cpu_s), "--wall", str(int(limits.wall_s))]
    try:
        done = subprocess.run(
            [*command, "--parent", str(os.getpid())],
            input=msgspec.json.encode(standing),
            capture_output=True,
            timeout=limits.wall_s,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C in the agent's terminal is the agent's to handle
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        return Ended(None, e.stdout or b"", e.stderr or b"")
    except OSError as e:
        raise StorageError(f"cannot start the verifying process: {e}", reason="no-process") from e
    return Ended(done.returncode, done.stdout, done.stderr)


def _verdict(ended: Ended, limits: Limits) -> Verdict:
    """The child's last line; a child that died without one was killed by its limits, or by what it parsed."""
    if ended.status is None:
        raise AdmissionError(f"{_doing(ended.out)} took longer than {limits.wall_s:g} s", reason="timeout")
    lines = ended.out.splitlines()
    if ended.status == 0 and lines:
        try:
            return msgspec.json.decode(lines[-1], type=Verdict)
        except UNREADABLE as e:
            raise TrustError(f"the verifying process answers nonsense: {e}", reason="child-failed") from e
    why = _why(ended.status, ended.err)
    raise AdmissionError(f"{_doing(ended.out)} ended the verifying process: {why}", reason="child-failed")


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
