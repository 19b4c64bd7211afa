"""Messages of a Kafka topic in → decisions out, on one core: the agent's own path against Quix Streams.

The load of `bench.streaming` (1,000 streams, 38 features, an autoencoder) as messages of a real broker. Both read the
topic from its beginning by librdkafka as the only member of a group, decode by msgspec, compute the same features
(checked equal) and score by ONNX Runtime. Counted is all processor time of the process, from before the first
connection to the last reading: fetching, and the group, are part of it; the broker is not. Needs Maven and a JDK.

    python -m bench.quix
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

from edgectl_agent.config import KafkaConfig
from edgectl_agent.sources.kafka import KafkaSource

from bench import _stream_load as load
from bench._report import record
from bench.streaming import BATCH, Job, busy, check_equal, environment, pin
from tests.support.kafka import Broker, missing

PEERS = ("quixstreams==3.28.1", "onnxruntime==1.32.0", "msgspec==0.22.0")
STREAMS, ROUNDS, TOPIC = 1_000, 60, "load"
READINGS = 60_000
"""That the peer reads; we read all of the topic."""


def main() -> int:
    """Compare, record."""
    if why := missing():
        sys.stdout.write(f"bench.quix {why}\n")
        return 0
    raw = load.bundle()
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as scratch, Broker(Path(scratch, "broker")) as broker:
        folder = Path(scratch)
        pin()
        job = Job(folder / "many", STREAMS, ROUNDS).write(raw)
        python = environment(folder / "peers", PEERS)
        broker.topic(TOPIC)
        broker.send(TOPIC, ((None, line) for line in job.path.read_bytes().splitlines()))
        theirs = quix(python, job, broker.address)
        check_equal("quix", theirs["features"], raw, job)
        mine = min(ours(raw, broker.address, f"edgectl-{i}", job) for i in range(3))
    ratio = round(theirs["us"] / mine, 1)
    record("quix.ours", round(mine, 3), "µs/message", better="lower", peer=busy())
    record("quix.vs_quix", ratio, "x", better="higher", peer=f"Quix Streams: {theirs['us']:.1f} µs")
    return 0


def ours(raw: bytes, broker: str, group: str, job: Job) -> float:
    """µs of processor time per message: source, engine and thresholds."""
    names = load.channels(4)
    channels = dict(zip(names, names, strict=True))
    config = KafkaConfig(
        brokers=(broker,), topics=(TOPIC,), group=group, stream="machine", time="ts", channels=channels, live=False
    )
    engine, source = load.engine(raw), KafkaSource(config, "bench")
    total = left = job.warm_up + job.streams * job.rounds
    began = time.process_time()
    source.open(None)
    while left:
        chunk = source.poll(BATCH, 1.0)
        left -= len(chunk)
        for batch in engine.batches(chunk, names):
            engine.process(batch, chunk.accepted_ns, chunk.accepted_ns, None)
    spent = time.process_time() - began
    source.close()
    return spent / total * 1e6


def quix(python: Path, job: Job, broker: str) -> dict[str, Any]:
    """What the peer's script says, with ``us`` per message."""
    wanted = {
        "channels": load.channels(4),
        "width": 38,
        "warm_up": job.warm_up,
        "readings": READINGS,
        "show_before_ms": load.START_MS + load.WARM_UP * job.every_ms,
    }
    (job.folder / "job.json").write_text(json.dumps(wanted))
    script = Path(__file__).with_name("_quix.py")
    done = subprocess.run(
        [str(python), str(script), str(job.folder), broker, TOPIC], capture_output=True, text=True, check=False,
        cwd=job.folder,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"Quix Streams failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer | {"us": answer["cpu_s"] / answer["readings"] * 1e6}


if __name__ == "__main__":
    sys.exit(main())
