"""Runs a decoder on very many inputs in a child process, and tells what must not be.

Failures are: an exception that the decoder does not document, a broken law (`AssertionError`), more than `CPU_MS` of
CPU time in the fastest of four runs, more than `MEMORY_MIB` above what the process had at the beginning, a process that
dies or hangs. The child writes each input into shared memory before it tries it, so that a crash names its input.
"""

from __future__ import annotations

import atexit
import base64
import gc
import json
import mmap
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import Mutator

CPU_MS = 100.0
MEMORY_MIB = 96
HANG_S = 120.0
_AGAIN_MS = 5.0
"""What looks slower than this, and than anything before, is measured again: a busy machine is no slow decoder."""
_MOST_FAILURES = 5
_BEHAVIOURS = 50_000


@dataclass(frozen=True)
class Target:
    """A decoder.

    Attributes:
        run: takes an input; what it returns tells behaviours apart, so that inputs with a new one are changed further.
        seeds: valid inputs.
        raises: its documented errors.
        words: what means something to it.
        longest: of an input, bytes.
        weight: how many inputs it gets, relative to others.
    """

    name: str
    run: Callable[[bytes], Hashable]
    seeds: Sequence[bytes]
    raises: tuple[type[BaseException], ...] = ()
    words: Sequence[bytes] = ()
    longest: int = 16 * 1024
    weight: float = 1.0


@dataclass
class Failure:
    """What must not be, and the input that does it."""

    kind: str
    detail: str
    data: bytes


@dataclass
class Outcome:
    """Of one target."""

    name: str
    inputs: int = 0
    cpu_s: float = 0.0
    slowest_ms: float = 0.0
    peak_mib: float = 0.0
    behaviours: int = 0
    failures: list[Failure] = field(default_factory=list)

    def encode(self) -> bytes:
        said = self.__dict__ | {
            "failures": [(f.kind, f.detail, base64.b64encode(f.data).decode()) for f in self.failures]
        }
        return json.dumps(said).encode()

    @staticmethod
    def decode(raw: bytes) -> Outcome:
        said: dict[str, Any] = json.loads(raw)
        said["failures"] = [Failure(kind, detail, base64.b64decode(data)) for kind, detail, data in said["failures"]]
        return Outcome(**said)


def scratch() -> Path:
    """A folder until this process ends; in memory where that goes, because a million inputs wear out a disk."""
    folder = tempfile.mkdtemp(prefix="edgectl-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # children leave by os._exit
    return Path(folder)


def fuzz(target: Target, seed: int, inputs: int, cpu_s: float) -> Outcome:
    """Try at most `inputs` inputs for at most `cpu_s` seconds of CPU time, in a child of this process."""
    shared = mmap.mmap(-1, 16 + target.longest)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as out:
                out.write(_Child(target, seed, shared).run(inputs, cpu_s).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    os.set_blocking(reading, False)
    answer, hung = _await(child, reading, shared)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    if status == 0 and answer:
        return Outcome.decode(answer)
    count, size = (int.from_bytes(shared[at : at + 8], "little") for at in (0, 8))
    how = "hang" if hung else f"crash ({signal.Signals(os.WTERMSIG(status)).name})" if os.WIFSIGNALED(status) else "end"
    return Outcome(target.name, count, failures=[Failure(how, f"wait status {status}", bytes(shared[16 : 16 + size]))])


def _await(child: int, reading: int, shared: mmap.mmap) -> tuple[bytes, bool]:
    """What the child answers, and whether it made no progress for so long that it was killed."""
    answer, before, since = b"", b"", time.monotonic()
    while True:
        try:
            part = os.read(reading, 1 << 20)
        except BlockingIOError:
            time.sleep(0.05)
            if before != (before := shared[:8]):
                since = time.monotonic()
            if time.monotonic() - since > HANG_S:
                os.kill(child, signal.SIGKILL)
                return answer, True
            continue
        if not part:
            return answer, False
        answer += part


class _Child:
    def __init__(self, target: Target, seed: int, shared: mmap.mmap) -> None:
        self._target, self._shared = target, shared
        self._mutator = Mutator(random.Random(f"{seed}:{target.name}"), target.seeds, target.words, target.longest)
        self._outcome = Outcome(target.name)
        self._behaviours: set[Hashable] = set()
        self._places: set[str] = set()

    def run(self, inputs: int, cpu_s: float) -> Outcome:
        for data in self._target.seeds:  # what is imported or cached at first use is no one's memory or time
            self._try(data[: self._target.longest])
        gc.collect()
        gc.freeze()
        start_mib, found = _rss_mib(), self._outcome
        found.slowest_ms = 0.0
        used = resource.RLIMIT_AS
        resource.setrlimit(used, (_address_space() + 1024 * 1024 * MEMORY_MIB * 4, resource.RLIM_INFINITY))
        began = time.process_time()
        while found.inputs < inputs and len(found.failures) < _MOST_FAILURES:
            if found.inputs % 64 == 0 and (time.process_time() - began > cpu_s or self._grown(start_mib)):
                break
            found.inputs += 1
            self._step(self._mutator())
        found.cpu_s = time.process_time() - began
        found.behaviours = len(self._behaviours)
        self._grown(start_mib)
        return found

    def _grown(self, start_mib: float) -> bool:
        self._outcome.peak_mib = max(0.0, _rss_mib() - start_mib)
        if self._outcome.peak_mib <= MEMORY_MIB:
            return False
        self._fail("memory", f"{self._outcome.peak_mib:.0f} MiB more than at the beginning", self._last())
        return True

    def _last(self) -> bytes:
        return bytes(self._shared[16 : 16 + int.from_bytes(self._shared[8:16], "little")])

    def _step(self, data: bytes) -> None:
        self._shared[: 16 + len(data)] = (
            self._outcome.inputs.to_bytes(8, "little") + len(data).to_bytes(8, "little") + data
        )
        took_ms = self._try(data)
        if took_ms > max(_AGAIN_MS, self._outcome.slowest_ms):
            took_ms = min(took_ms, *(self._try(data) for _ in range(3)))
            if took_ms > CPU_MS:
                self._fail("slow", f"{took_ms:.0f} ms of CPU time", data)
        self._outcome.slowest_ms = max(self._outcome.slowest_ms, took_ms)

    def _try(self, data: bytes) -> float:
        """CPU milliseconds."""
        began = time.process_time_ns()
        try:
            behaviour: Hashable = self._target.run(data)
        except self._target.raises as e:
            behaviour = (type(e).__name__, "".join(c for c in str(e)[-60:] if not c.isdigit()))
        except BaseException as e:
            behaviour = None
            self._fail("exception", "".join(traceback.format_exception(e, limit=-6)), data)
        took = (time.process_time_ns() - began) / 1e6
        if behaviour not in self._behaviours and len(self._behaviours) < _BEHAVIOURS:
            self._behaviours.add(behaviour)
            self._mutator.keep(data)
        return took

    def _fail(self, kind: str, detail: str, data: bytes) -> None:
        place = kind if kind != "exception" else "".join(c for c in detail[-400:] if not c.isdigit())
        if place not in self._places and len(self._outcome.failures) < _MOST_FAILURES:
            self._places.add(place)
            self._outcome.failures.append(Failure(kind, detail, data))


def _rss_mib() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * mmap.PAGESIZE
