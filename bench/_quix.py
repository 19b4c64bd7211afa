"""Quix Streams at work, in the virtual environment that `bench.quix` made for it; knows nothing of edgectl.

    python _quix.py FOLDER BROKER TOPIC

One application without producer or changelog: bytes → decode → the features kept per stream in a plain dictionary
(its own state store on disk would cost more) → ONNX Runtime per message → filter. Prints as `_peer.py`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from _peer import Meter, Row, decoder, onnx_score
from _per_event import Features
from quixstreams import Application


def main() -> None:
    """Read as many messages as the job has."""
    folder, broker, topic = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    job: dict[str, Any] = json.loads((folder / "job.json").read_text())
    meter, features, read = Meter(job), Features(), decoder(job)
    score, threshold = onnx_score(folder)

    def judge(row: Row) -> bool:
        found = features.push(*row)
        meter.keep(row[0], row[1], found)
        return score(found) > threshold

    def count(_: object) -> None:
        meter.alerts += 1

    app = Application(broker_address=broker, consumer_group="quix", auto_offset_reset="earliest", loglevel=None)
    frame = app.dataframe(app.topic(topic, value_deserializer="bytes", key_deserializer="bytes"))
    frame = frame.apply(read).filter(judge)
    frame.update(count)
    began = time.process_time()
    app.run(count=int(job["readings"]), timeout=60)
    spent = time.process_time() - began
    answer = {"cpu_s": spent, "readings": job["readings"], "alerts": meter.alerts, "features": meter.shown}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
