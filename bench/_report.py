"""What every benchmark writes: one JSON line per claim in ``bench/results.jsonl``, and the same on the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).with_name("results.jsonl")


def record(
    name: str,
    value: float,
    unit: str,
    *,
    better: str,
    peer: str = "",
    goal: float | None = None,
    results: Path = RESULTS,
) -> bool:
    """Append one measurement and print it; says whether the goal is met.

    Args:
        name: what was measured, e.g. ``forest.one_row.vs_sklearn``.
        better: ``higher`` or ``lower``.
        peer: what it was measured against, in the same run; empty for an absolute figure.
        goal: the claim; None where there is none.
    """
    if better not in ("higher", "lower"):
        raise ValueError(f"better must be higher or lower, got {better!r}")
    met = goal is None or (value >= goal if better == "higher" else value <= goal)
    line = {"name": name, "value": value, "unit": unit, "better": better, "peer": peer, "goal": goal}
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    against = f" against {peer}" if peer else ""
    sign, verdict = "≥" if better == "higher" else "≤", "met" if met else "MISSED"
    wanted = "" if goal is None else f" (goal {sign} {goal:g}: {verdict})"
    sys.stdout.write(f"{name}: {value:.4g} {unit}{against}{wanted}\n")
    return met
