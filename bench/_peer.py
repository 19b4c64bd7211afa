"""A peer at work, in the virtual environment that `bench.streaming` made for it; knows nothing of edgectl.

    python _peer.py river|bytewax|sklearn FOLDER

FOLDER holds ``load.jsonl``, ``job.json`` (channels, how many readings only warm up, how many count, until when to show
features), ``model.onnx`` and ``scaler.json``. Prints ``{"cpu_s", "readings", "alerts", "features"}``.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from _per_event import Features

Row = tuple[str, int, tuple[float, ...]]


class Meter:
    """Counts readings; takes the processor time between the end of the warm-up and the last one."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.warm_up, self.last = int(job["warm_up"]), int(job["warm_up"]) + int(job["readings"])
        self.show_before_ms = int(job["show_before_ms"])
        self.seen = self.alerts = 0
        self.began = self.cpu_s = 0.0
        self.shown: dict[str, list[float]] = {}

    def tick(self) -> bool:
        """Whether another reading is wanted."""
        if self.seen == self.warm_up:
            self.began = time.process_time()
        if self.seen == self.last:
            self.cpu_s = time.process_time() - self.began
            return False
        self.seen += 1
        return True

    def keep(self, stream: str, ms: int, features: list[float]) -> None:
        """Some rows of the warm-up, to be compared."""
        if ms < self.show_before_ms and stream.endswith("0"):
            self.shown[f"{stream} {ms}"] = features


def decoder(job: dict[str, Any]) -> Callable[[bytes], Row]:
    """One line → stream, time, values."""
    names = job["channels"]
    row = msgspec.defstruct("Row", [("machine", str), ("ts", int), *((name, float) for name in names)], gc=False)
    decode, astuple = msgspec.json.Decoder(row).decode, msgspec.structs.astuple

    def read(line: bytes) -> Row:
        machine, ms, *values = astuple(decode(line))
        return machine, ms, tuple(values)

    return read


def onnx_score(folder: Path) -> tuple[Callable[[list[float]], float], float]:
    """Standardise one row and run the bundle's model on it; and the threshold."""
    import numpy as np
    import onnxruntime as ort

    scaler = json.loads((folder / "scaler.json").read_text())
    center, scale = np.array(scaler["center"]), np.array(scaler["scale"])
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession((folder / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"])

    def score(features: list[float]) -> float:
        z = ((np.array(features) - center) / scale).astype(np.float32)
        return float(session.run(["score"], {"features": z[None]})[0][0])

    return score, float(scaler["threshold"])


def sklearn_score(rows: list[list[float]]) -> tuple[Callable[[list[float]], float], float]:
    """An autoencoder of the same shape, fitted to the rows that are shown; predicts one row at a time."""
    import numpy as np
    from sklearn.neural_network import MLPRegressor
    from sklearn.preprocessing import StandardScaler

    data = np.nan_to_num(np.array(rows))
    width = data.shape[1]
    scaler = StandardScaler().fit(data)
    hidden, bottleneck = max(8, width // 2), max(2, width // 6)
    z = scaler.transform(data)
    model = MLPRegressor(hidden_layer_sizes=(hidden, bottleneck, hidden), random_state=7, max_iter=60).fit(z, z)

    def score(features: list[float]) -> float:
        row = scaler.transform([features])
        return math.sqrt(float(((model.predict(row) - row) ** 2).mean()))

    return score, 5.0


def per_event(lines: Iterator[bytes], job: dict[str, Any], meter: Meter, fit: Callable[[], Any]) -> None:
    """Plain scikit-learn: a loop."""
    read, features = decoder(job), Features()
    score, threshold = None, math.inf
    for line in lines:
        if not meter.tick():
            return
        reading = read(line)
        row = features.push(*reading)
        if meter.seen <= meter.warm_up:
            meter.keep(reading[0], reading[1], row)
            continue
        if score is None:
            score, threshold = fit()
            meter.began = time.process_time()
        meter.alerts += score(row) > threshold


def river(lines: Iterator[bytes], job: dict[str, Any], meter: Meter) -> None:
    """A River pipeline: features → MinMaxScaler → HalfSpaceTrees (its defaults), score and learn."""
    from river import anomaly, base, compose, preprocessing

    names = [f"f{i}" for i in range(int(job["width"]))]
    features = Features()

    class Windows(base.Transformer):  # type: ignore[misc]
        def transform_one(self, x: list[float]) -> dict[str, float]:
            return dict(zip(names, x, strict=True))

    model = compose.Pipeline(Windows(), preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(seed=7))
    read = decoder(job)
    for line in lines:
        if not meter.tick():
            return
        reading = read(line)
        row = features.push(*reading)
        meter.keep(reading[0], reading[1], row)
        if row[1] == row[1]:  # not a stream's first reading, which has no difference
            meter.alerts += model.score_one(row) > 0.95
            model.learn_one(row)


def bytewax(lines: Iterator[bytes], job: dict[str, Any], meter: Meter, folder: Path) -> None:
    """A Bytewax dataflow on one worker: decode → key by stream → stateful map → ONNX Runtime → filter."""
    import bytewax.operators as op
    from _per_event import Stream
    from bytewax.dataflow import Dataflow
    from bytewax.testing import TestingSink, TestingSource, run_main

    read = decoder(job)
    score, threshold = onnx_score(folder)
    channels = len(job["channels"])

    def windows(state: Stream | None, row: Row) -> tuple[Stream, list[float]]:
        state = state or Stream(channels)
        features = state.push(row[1], row[2])
        meter.keep(row[0], row[1], features)
        return state, features

    def judge(features: list[float]) -> bool:
        return score(features) > threshold

    def counted() -> Iterator[bytes]:
        for line in lines:
            if not meter.tick():
                return
            yield line

    alerts: list[Any] = []
    flow = Dataflow("peer")
    stream = op.input("in", flow, TestingSource(counted(), batch_size=1000))
    keyed = op.key_on("key", op.map("decode", stream, read), lambda row: row[0])
    features = op.stateful_map("features", keyed, windows)
    found = op.filter_value("judge", features, judge)
    op.output("out", found, TestingSink(alerts))
    run_main(flow)
    meter.cpu_s = time.process_time() - meter.began
    meter.alerts = len(alerts)


def main() -> None:
    """Run one peer."""
    which, folder = sys.argv[1], Path(sys.argv[2])
    job = json.loads((folder / "job.json").read_text())
    meter = Meter(job)
    with (folder / "load.jsonl").open("rb") as file:
        lines = iter(list(itertools.islice(file, meter.last)))
    if which == "river":
        river(lines, job, meter)
    elif which == "bytewax":
        bytewax(lines, job, meter, folder)
    else:
        per_event(lines, job, meter, lambda: sklearn_score(list(meter.shown.values())[-500:]))
    if not meter.cpu_s:
        meter.cpu_s = time.process_time() - meter.began
    answer = {"cpu_s": meter.cpu_s, "readings": job["readings"], "alerts": int(meter.alerts), "features": meter.shown}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
