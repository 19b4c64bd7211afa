"""Detection quality of the README's three examples on plants, services and banks that no recipe was tuned on.

For each seed: the history that ``edgectl generate … --seed`` writes, the shipped recipe trained on it, and the live
part behind it with its faults, found by the detector that a node runs and scored as ``edgectl alerts score`` does.
Everything is generated, so the figures say nothing about real data.

    python -m bench.examples [EXAMPLE ...]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgectl_agent.core.batch import StreamTable
from edgectl_agent.core.bundle import decode
from edgectl_agent.core.detector import Detector
from edgectl_agent.core.units import SECOND_NS
from edgectl_agent.inference import Model

from bench._report import record
from edgectl.core.evaluation import NOTHING, Outcome, judge_labels
from edgectl.generate.writing import write_logs, write_plant, write_transactions
from edgectl.periods import read_periods
from edgectl.training.pipeline import train
from edgectl.training.recipe import find
from edgectl.training.tables import read

SEEDS = (11, 12, 13)
SLACK_NS = 600 * SECOND_NS
"""As `edgectl alerts score` has it."""

Write = Callable[..., object]
_PAYMENTS = partial(write_transactions, cards=100, quiet_days=14, each=15, by="card")
EXAMPLES: dict[str, tuple[Write, Write]] = {
    "plant": (
        partial(write_plant, machines=6, after=0, hours=96),
        partial(write_plant, machines=6, after=96, hours=48),
    ),
    "logs": (partial(write_logs, hosts=3, after=0, hours=48), partial(write_logs, hosts=3, after=48, hours=24)),
    "transactions": (partial(_PAYMENTS, after=0, days=45), partial(_PAYMENTS, after=45, days=44)),
}
"""Recipe → how its history and its live part are written."""


def main() -> int:
    """Measure, print and record."""
    for name in sys.argv[1:] or EXAMPLES:
        with tempfile.TemporaryDirectory() as scratch:
            run(name, Path(scratch))
    return 0


def run(name: str, folder: Path) -> None:
    """One example over all seeds."""
    total = NOTHING
    for seed in SEEDS:
        found = outcome(name, folder, seed)
        sys.stdout.write(f"  {name}, seed {seed}: {told(found)}\n")
        total += found
    for kind in total.kinds:
        sys.stdout.write(f"  {name}, {kind}: {total.of(kind).found} of {total.of(kind).faults}\n")
    record(f"examples.{name}.precision", total.precision, "", better="higher")
    record(f"examples.{name}.recall", total.recall, "", better="higher")
    record(f"examples.{name}.false_alerts", total.false_per_stream_day, "per stream and day", better="lower")


def outcome(name: str, folder: Path, seed: int) -> Outcome:
    """What the node's detector finds in the live part of `seed`."""
    recipe = find(name, None)
    past, rest, labels = (folder / f"{seed}-{part}" for part in ("past", "live", "labels.csv"))
    past, rest = (path.with_suffix(".log" if recipe.log else ".jsonl") for path in (past, rest))
    history, live = EXAMPLES[name]
    history(past, None, seed=seed, tick=lambda: None)
    live(rest, labels, seed=seed, tick=lambda: None)
    trained = train(recipe, read([past], recipe))
    table, bundle = read([rest], trained.recipe), decode(trained.built[0].raw)
    detector = Detector(
        bundle, node="n", version="", digest="", streams=StreamTable(table.streams), score=Model(bundle.model).score
    )
    alerts = detector.process(table.batch(), accepted_ns=0, now_ns=0).alerts
    onsets = {alert.id: (alert.stream, alert.onset_ns) for alert in alerts}
    return judge_labels(read_periods(labels), onsets.values(), SLACK_NS)


def told(found: Outcome) -> str:
    return (
        f"precision {found.precision:.2f}, recall {found.recall:.2f} ({found.found} of {found.faults}), "
        f"{found.false_per_stream_day:.3g} false alerts per stream and day"
    )


if __name__ == "__main__":
    sys.exit(main())
