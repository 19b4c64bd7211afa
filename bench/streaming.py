"""JSON bytes in → decisions out, on one core: the agent's own path against named peers and against the limit.

1,000 streams of four channels, one reading every ten seconds; value and difference, seven statistics over five minutes
of each channel, time of day (38 features); an autoencoder (38-19-6-19-38) by ONNX Runtime; a threshold. All in one run,
each pinned to the same processor with one thread, by processor time (other work on the machine does not count):

* ours: the file source, the engine with its adaptive thresholds and alerts; nothing left out but the worker's thread;
* Bytewax: a dataflow with a keyed stateful map and ONNX Runtime per event;
* River: a pipeline of the features, MinMaxScaler and HalfSpaceTrees;
* scikit-learn: a loop with an autoencoder of the same shape, one `predict` per event;
* the limit: msgspec decodes the same lines into typed objects and ONNX Runtime scores rows in batches of the same size;
  no windows, no state, no thresholds, not even the copy of the numbers from the one to the other.

The peers run in a virtual environment that the benchmark makes and throws away. They read by msgspec too and compute
the same features by `bench/_per_event.py`, which are compared with ours before anything is measured.

    python -m bench.streaming
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import msgspec
import numpy as np
import onnxruntime as ort
from edgectl_agent.config import Batching
from edgectl_agent.core import bundle as bundles
from edgectl_agent.core.detector import Detector

from bench import _stream_load as load
from bench._report import record

PEERS = ("river==0.26.1", "bytewax==0.21.1", "onnxruntime==1.32.0", "scikit-learn==1.9.1", "msgspec==0.22.0")
STREAMS, ROUNDS, REPEATS = 1_000, 60, 5
BATCH = Batching().max
"""What the agent takes at most at a time."""
PANE_MS = 30_000
READINGS = {"bytewax": 30_000, "river": 8_000, "sklearn": 4_000}
GOALS = {"bytewax": 15.0, "river": 25.0, "sklearn": None}
SHARE_GOAL, STRETCH, ALONE_GOAL = 0.20, 0.35, 5.0
LONE_P50_GOAL, LONE_P99_GOAL = 20.0, 100.0


@dataclass(frozen=True)
class Job:
    """A file of readings and its folder for the peers."""

    folder: Path
    streams: int
    rounds: int
    every_ms: int = load.EVERY_MS

    @property
    def path(self) -> Path:
        return self.folder / "load.jsonl"

    @property
    def warm_up(self) -> int:
        return self.streams * load.WARM_UP

    def write(self, raw: bytes) -> Job:
        self.folder.mkdir()
        load.write(self.path, self.streams, load.WARM_UP + self.rounds, every_ms=self.every_ms)
        bundle = bundles.decode(raw)
        (self.folder / "model.onnx").write_bytes(bundle.model)
        scaler = {"center": bundle.scaler.center, "scale": bundle.scaler.scale, "threshold": bundle.tail.base * 4}
        (self.folder / "scaler.json").write_text(json.dumps(scaler))
        return self


def main() -> int:
    """Compare, measure, record."""
    pin()
    raw = load.bundle()
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as scratch:
        folder = Path(scratch)
        python = environment(folder / "peers")
        many = Job(folder / "many", STREAMS, ROUNDS).write(raw)
        alone = Job(folder / "alone", 1, 40_000).write(raw)
        opening_raw = load.bundle(every_ms=PANE_MS)
        opening = Job(folder / "opening", STREAMS, ROUNDS, every_ms=PANE_MS).write(opening_raw)
        met = [throughput(python, raw, many), one_stream(python, raw, alone), lone_reading(raw, many)]
        each = ours(opening_raw, opening)
        record("streaming.pane_each.ours", round(each, 3), "µs/reading", better="lower")
        record(
            "streaming.pane_each.share_of_limit", round(limit(opening_raw, opening) / each, 3), "share", better="higher"
        )
    return 0 if all(met) else 1


def throughput(python: Path, raw: bytes, job: Job) -> bool:
    """All against all on 1,000 streams."""
    theirs = {name: peer(python, name, job) for name in READINGS}
    for name, answer in theirs.items():
        check_equal(name, answer["features"], raw, job)
    mine, bound = in_turns(lambda: ours(raw, job), lambda: limit(raw, job))
    record("streaming.ours", round(mine, 3), "µs/reading", better="lower", peer=f"the limit: {bound:.3f} µs; {busy()}")
    record("streaming.rate", round(1e6 / mine), "readings/s on one core", better="higher")
    met = [
        record(
            f"streaming.vs_{name}", round(theirs[name]["us"] / mine, 1), "x", better="higher",
            peer=f"{name}: {theirs[name]['us']:.1f} µs", goal=goal,
        )
        for name, goal in GOALS.items()
    ]  # fmt: skip
    share = round(bound / mine, 3)
    met.append(record("streaming.share_of_limit", share, "share", better="higher", goal=SHARE_GOAL))
    record("streaming.share_of_limit.stretch", share, "share", better="higher", goal=STRETCH)
    return all(met)


def one_stream(python: Path, raw: bytes, job: Job) -> bool:
    """One long stream: nothing to vectorise over but time."""
    mine, theirs = ours(raw, job), peer(python, "river", job)
    against = f"river: {theirs['us']:.1f} µs"
    record("streaming.one_stream.ours", round(mine, 3), "µs/reading", better="lower", peer=against)
    ratio = round(theirs["us"] / mine, 1)
    return record("streaming.one_stream.vs_river", ratio, "x", better="higher", peer=against, goal=ALONE_GOAL)


def lone_reading(raw: bytes, job: Job, count: int = 4_000) -> bool:
    """One reading at a time, from its line to the decision, in units of the median of a bare `session.run`.

    The bare run is measured between two readings, when the caches hold other things, as they do for a reading that
    comes alone; in a loop of its own it takes about half as long, which is recorded beside. By processor time: on a
    machine that others use, the clock's 99th percentile is theirs (recorded without a goal).
    """
    engine, source = load.engine(raw), load.source(job.path)
    load.run(source, engine, job.warm_up, BATCH)
    session, width = bare_session(raw)
    row = {"features": np.zeros((1, width), np.float32)}
    bare, spent, clock = [], [], []
    for _ in range(count):
        at, began = time.perf_counter(), time.thread_time()
        load.run(source, engine, 1, 1)
        between = time.thread_time()
        clock.append(time.perf_counter() - at)
        session.run(["score"], row)
        bare.append(time.thread_time() - between)
        spent.append(between - began)
    loop = [once(lambda: session.run(["score"], row)) for _ in range(count)]
    unit, in_loop = statistics.median(bare), statistics.median(loop)
    p50, p99 = np.quantile(spent, [0.5, 0.99])
    against = f"bare session.run: {unit * 1e6:.1f} µs, in a loop {in_loop * 1e6:.1f} µs; {busy()}"
    for name, of in (("p50", p50), ("p99", p99)):
        record(f"streaming.lone.{name}", round(of * 1e6, 1), "µs", better="lower", peer=against)
        record(f"streaming.lone.{name}.vs_loop", round(of / in_loop, 1), "x", better="lower", peer=against)
    record("streaming.lone.clock.p50", round(np.quantile(clock, 0.5) * 1e6, 1), "µs", better="lower", peer=busy())
    record("streaming.lone.clock.p99", round(np.quantile(clock, 0.99) * 1e6, 1), "µs", better="lower", peer=busy())
    met = []
    for name, of, goal in (("p50", p50, LONE_P50_GOAL), ("p99", p99, LONE_P99_GOAL)):
        ratio = round(of / unit, 1)
        met.append(record(f"streaming.lone.{name}.ratio", ratio, "x", better="lower", peer=against, goal=goal))
    return all(met)


def once(run: Callable[[], object]) -> float:
    """Seconds of processor time."""
    began = time.thread_time()
    run()
    return time.thread_time() - began


# ── the contenders ──────────────────────────────────────────────────────────────────────────────────────────────────


def ours(raw: bytes, job: Job) -> float:
    """µs of processor time per reading of source, engine and thresholds."""
    engine, source = load.engine(raw), load.source(job.path)
    load.run(source, engine, job.warm_up, BATCH)
    return cost(lambda: load.run(source, engine, job.streams * job.rounds, BATCH), job.streams * job.rounds)


def limit(raw: bytes, job: Job) -> float:
    """µs per reading of nothing but decoding and the model."""
    lines = job.path.read_bytes().split(b"\n")[job.warm_up : -1]
    fields = [("machine", str), ("ts", int), *((name, float) for name in load.channels(4))]
    decode = msgspec.json.Decoder(msgspec.defstruct("Row", fields, gc=False)).decode
    session, width = bare_session(raw)
    rows = np.random.default_rng(1).normal(size=(BATCH, width)).astype(np.float32)

    def run() -> None:
        for at in range(0, len(lines), BATCH):
            some = lines[at : at + BATCH]
            list(map(decode, some))
            session.run(["score"], {"features": rows[: len(some)]})

    return cost(run, len(lines))


def peer(python: Path, name: str, job: Job) -> dict[str, Any]:
    """What a peer's script says, with ``us`` per reading."""
    wanted = {
        "channels": load.channels(4),
        "width": 38,
        "warm_up": job.warm_up,
        "readings": min(READINGS[name], job.streams * job.rounds),
        "show_before_ms": load.START_MS + load.WARM_UP * job.every_ms,
    }
    (job.folder / "job.json").write_text(json.dumps(wanted))
    script = Path(__file__).with_name("_peer.py")
    done = subprocess.run(
        [str(python), str(script), name, str(job.folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer | {"us": answer["cpu_s"] / answer["readings"] * 1e6}


def check_equal(name: str, theirs: dict[str, list[float]], raw: bytes, job: Job) -> None:
    """The peer's features are ours, but for what its sums lose."""
    engine, source = load.engine(raw), load.source(job.path)
    builder = Detector(
        bundles.decode(raw),
        node="n1",
        version="1",
        digest="0",
        streams=engine.detector.streams,
        score=len,  # type: ignore[arg-type]
    )._features
    compared = 0
    for _ in range(0, job.warm_up, BATCH):
        chunk = source.poll(BATCH, 0.0)
        x = builder.push(next(engine.batches(chunk, load.channels(4)))).x
        for stream, at_ns, row in zip(chunk.streams, chunk.event_time.tolist(), x, strict=True):
            found = theirs.get(f"{stream} {at_ns // 1_000_000}")
            if found is not None:
                compared += 1
                if not np.allclose(row, found, rtol=1e-6, atol=1e-5, equal_nan=True):
                    raise SystemExit(f"{name}: features of {stream} differ by {np.nanmax(np.abs(row - found))}")
    if compared < min(job.warm_up, 1_000):
        raise SystemExit(f"{name}: only {compared} rows of features could be compared")


# ── the machine ─────────────────────────────────────────────────────────────────────────────────────────────────────


def pin() -> None:
    """This process, and those it starts, on one processor."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def busy() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def environment(folder: Path, peers: Sequence[str] = PEERS) -> Path:
    """The peers' Python, gone with the scratch folder."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", *peers]
    subprocess.run(pip, check=True)
    return folder / "bin" / "python"


def bare_session(raw: bytes) -> tuple[ort.InferenceSession, int]:
    """The bundle's model with nothing around it, and its width."""
    bundle = bundles.decode(raw)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(bundle.model, options, providers=["CPUExecutionProvider"]), len(bundle.feature_names)


def in_turns(*runs: Callable[[], float]) -> list[float]:
    """The lowest of some measurements of each, taken in turns: what else runs only adds."""
    found = [[run() for run in runs] for _ in range(REPEATS)]
    return [min(column) for column in zip(*found, strict=True)]


def cost(run: Callable[[], None], readings: int) -> float:
    """µs of processor time per reading."""
    began = time.process_time()
    run()
    return (time.process_time() - began) / readings * 1e6


if __name__ == "__main__":
    sys.exit(main())
