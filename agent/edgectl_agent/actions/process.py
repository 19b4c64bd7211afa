"""Runs a program per alert: no shell, an empty environment, limits, and an end at its timeout with its children."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from edgectl_agent.action_config import ExecAction
from edgectl_agent.actions.interface import EffectFailed, Effector
from edgectl_agent.actions.program import sealed
from edgectl_agent.core.template import Payload, Template, Values, control
from edgectl_agent.core.units import size_bytes

_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
_FILES = 256
_SAID = 300
"""Bytes of what a failed program wrote last that are kept."""
_LARGEST_OUTPUT = 1 << 20


class ExecEffector(Effector):
    """See the module."""

    def __init__(self, config: ExecAction) -> None:
        self._path, self._timeout_s = config.command[0], config.timeout_s
        self._words = [Template.parse(word) for word in config.command[1:]]
        self._payload, self._memory = Payload.parse(config.payload), size_bytes(config.memory)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._aborted = False

    def describe(self, values: Values) -> str:
        return f"run {' '.join([self._path, *self._arguments(values)])}"

    def run(self, values: Values, key: str, allowed: frozenset[str]) -> None:
        command, payload = [self._path, *self._arguments(values)], self._payload.render(values)
        with ExitStack() as stack:
            program = stack.enter_context(sealed(self._path, allowed)) if allowed else None
            try:
                given, said = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
                given.write(payload)
                given.seek(0)
            except OSError as e:
                raise EffectFailed(f"{self._path} cannot be given the alert: {e.strerror or e}") from e
            process = self._spawn(command, program, given.fileno(), said.fileno())
            try:
                code = process.wait(self._timeout_s)
            except subprocess.TimeoutExpired:
                raise EffectFailed(f"{self._path} was killed: it ran for {self._timeout_s:g} s") from None
            finally:
                _end(process)
                with self._lock:
                    self._process = None
            if code:
                raise EffectFailed(f"{self._path} {_ended(code)}{_last(said.fileno())}")

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            if self._process is not None:
                _end(self._process)

    def _spawn(self, command: list[str], program: int | None, given: int, said: int) -> subprocess.Popen[bytes]:
        """Start `program`, or what stands at the path in `command`."""
        held = () if program is None else (program,)
        executed = self._path if program is None else f"/proc/self/fd/{program}"
        with self._lock:
            if self._aborted:
                raise EffectFailed("the agent is stopping")
            try:
                process = subprocess.Popen(
                    command, executable=executed, pass_fds=held, stdin=given, stdout=said, stderr=said,
                    env=_ENVIRONMENT, cwd="/", start_new_session=True,
                )  # fmt: skip
            except (OSError, ValueError) as e:
                raise EffectFailed(f"{self._path} cannot be run: {getattr(e, 'strerror', None) or e}") from e
            self._process = process
        cpu_s = max(1, int(self._timeout_s) + 1)
        limits = {resource.RLIMIT_AS: self._memory, resource.RLIMIT_CPU: cpu_s, resource.RLIMIT_NOFILE: _FILES,
                  resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: _LARGEST_OUTPUT * 64}  # fmt: skip
        for what, most in limits.items():
            with suppress(OSError, ValueError):  # it has ended already
                resource.prlimit(process.pid, what, (most, most))
        return process

    def _arguments(self, values: Values) -> list[str]:
        """What a reading brought must not look like an option of the program, end a line, or lead out of a folder."""
        found = [word.render(values) for word in self._words]
        for word, text in zip(self._words, found, strict=True):
            if text.startswith("-") and not word.fixed.startswith("-"):
                raise EffectFailed(f"the argument {text!r} would be an option of {self._path}")
            brought = word.brought(values)
            if control(brought):
                raise EffectFailed(f"the argument {text[:_SAID]!r} would have control characters")
            if brought and ".." in text.split("/") and ".." not in word.text.split("/"):
                raise EffectFailed(f"the argument {text[:_SAID]!r} would lead out of its folder")
        return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the program and all that it started, also what left its session."""
    for pid in _descendants(process.pid) if process.returncode is None else ():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(1.0)


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _ended(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _last(said: int) -> str:
    size = os.fstat(said).st_size
    text = os.pread(said, _SAID, max(0, size - _SAID)).decode(errors="replace").strip()
    return f": {' '.join(text.split())}" if text else ""
