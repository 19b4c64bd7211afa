"""How good is the model that training chooses without labels? On machines of SMD, beside every other candidate.

    python -m bench.auto_choice ../shared/data/smd/machine-1-6.npz …

Each candidate is fitted to the first 70 % of the training part and scored on the labelled part (VUS-PR, buffer 20
readings, of the smoothed score). Labels are used for that alone. Needs `edgectl[evaluate]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import AlertRule, Budget, Channel, FeatureSpec, InstantFeatures

from edgectl.evaluation.corpora.smd import read
from edgectl.evaluation.ranges import BUFFER
from edgectl.training import auto
from edgectl.training.recipe import Recipe
from edgectl.training.split import split
from edgectl.training.tables import Table

SEED = 7


def recipe(channels: tuple[str, ...]) -> Recipe:
    """All channels' own values, the rest as training chooses."""
    spec = FeatureSpec(
        channels=tuple(Channel(name=name) for name in channels),
        features=(InstantFeatures(channels=channels, kinds=("value",)),),
        warm_up_ns=0,
    )
    return Recipe(
        name="smd", path=Path("smd"), stream_column="", time_column="time", zone="UTC", columns=channels, features=spec,
        estimator="kmeans", auto=True, budget=Budget(warning_per_day=1, critical_per_day=1 / 30),
        rule=AlertRule(clear_after_ns=600 * 10**9),
    )  # fmt: skip


def table(name: str, time: Int64, values: Float64) -> Table:
    return Table(streams=(name,), stream=np.zeros(len(time), np.int32), event_time=time, values=values, codes=None)


def held_out(plan: Recipe, whole: Table, begin: int, labels: Int64) -> dict[str, float]:
    """VUS-PR of each candidate on the rows from `begin` on."""
    from aeon.benchmarking.metrics.anomaly_detection import range_pr_vus_score

    parts = split(whole, plan.fit_share * begin / len(whole))
    found = {}
    for candidate in auto.CANDIDATES:
        side = auto.Side.of(auto.spec_of(plan, candidate.changes), plan, whole, whole, parts)
        score = side.score(candidate, SEED)[side.rows >= begin]
        found[candidate.name] = float(range_pr_vus_score(labels, score, BUFFER))
    return found


def main(files: list[str]) -> None:
    near = 0
    for file in files:
        series = read(Path(file)).series[0]
        plan, begin = recipe(series.channels), series.begin
        history = table(series.name, series.time[:begin], series.values[:begin])
        _, ranking = auto.choose(plan, history, SEED, (), lambda stage, done, total: None)
        whole = table(series.name, series.time, series.values)
        vus = held_out(plan, whole, begin, series.labels[begin:].astype(np.int64))
        best, chosen = max(vus.values()), vus[ranking[0].name]
        near += chosen >= 0.9 * best
        print(f"{series.name}: chosen {ranking[0].name}: VUS-PR {chosen:.3f}, {chosen / best:.0%} of the best")
        middle = np.mean(list(vus.values()))
        print(f"  a random choice {middle:.3f}; within 10 % of the best: "
              f"{np.mean([v >= 0.9 * best for v in vus.values()]):.0%} of candidates; spread {min(vus.values()):.3f} to {best:.3f}")  # fmt: skip # noqa: E501
        for one in ranking:
            print(f"  {one.name:36s} label-free {one.figure or 0:.3f}  VUS-PR {vus[one.name]:.3f}")
    print(f"within 10 % of the best on {near} of {len(files)}")


if __name__ == "__main__":
    main(sys.argv[1:])
