"""``python -m tests.fuzz``: random inputs for every decoder that takes bytes from outside; prints a table.

Exit status 1 if one failed; its inputs lie in ``--failures`` and are tried again by ``--again FILE…``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # before numpy is imported: a fork has one thread
    os.environ.setdefault(_name, "1")

from tests.fuzz import documents, operators, readings, wires  # noqa: E402
from tests.fuzz.engine import CPU_MS, MEMORY_MIB, Outcome, Target, fuzz  # noqa: E402

GROUPS = {module.__name__.rpartition(".")[2]: module.targets for module in (readings, wires, documents, operators)}
_HEAD = ("target", "inputs", "inputs/s", "behaviours", "slowest ms", "memory MiB", "failures")


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in total (%(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of CPU time, at most, in total")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--group", action="append", choices=list(GROUPS))
    parser.add_argument("--target", action="append", help="by name; all")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="folder for inputs that fail")
    parser.add_argument("--seeds", action="store_true", help="only tell which seeds a decoder refuses")
    parser.add_argument("--again", nargs="+", type=Path, help="try these inputs on --target, without catching anything")
    asked = parser.parse_args(arguments)
    chosen = [target for group in asked.group or GROUPS for target in GROUPS[group]()]
    chosen = [target for target in chosen if not asked.target or target.name in asked.target]
    if asked.seeds:
        return _seeds(chosen)
    if asked.again:
        return _again(chosen, asked.again)
    print(f"seed {asked.seed}; at most {CPU_MS:g} ms of CPU time an input and {MEMORY_MIB} MiB more memory a target\n")
    began = time.monotonic()
    outcomes = list(_all(chosen, asked.seed, asked.inputs, asked.seconds))
    total = sum(outcome.inputs for outcome in outcomes)
    failures = sum(len(outcome.failures) for outcome in outcomes)
    print(f"\n{total:,} inputs, {failures} failures, {time.monotonic() - began:.0f} s")
    for outcome in outcomes:
        _report(outcome, asked.failures)
    return 1 if failures else 0


def _all(chosen: Sequence[Target], seed: int, inputs: int, seconds: float) -> list[Outcome]:
    """One after the other, so that a table grows while it runs."""
    print(_row(_HEAD))
    print(_row(["---", *["---:"] * (len(_HEAD) - 1)]))
    weight = sum(target.weight for target in chosen)
    found = []
    for target in chosen:
        part = target.weight / weight
        outcome = fuzz(target, seed, -int(-inputs * part // 1), seconds / len(chosen))
        rate = outcome.inputs / outcome.cpu_s if outcome.cpu_s else 0.0
        cells = (outcome.name, f"{outcome.inputs:,}", f"{rate:,.0f}", f"{outcome.behaviours:,}")
        more = (f"{outcome.slowest_ms:.1f}", f"{outcome.peak_mib:.0f}", str(len(outcome.failures)))
        print(_row((*cells, *more)), flush=True)
        found.append(outcome)
    return found


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _report(outcome: Outcome, folder: Path) -> None:
    for number, failure in enumerate(outcome.failures, 1):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{outcome.name.replace(' ', '-')}-{number}"
        path.write_bytes(failure.data)
        print(f"\n{outcome.name}: {failure.kind}, {len(failure.data)} bytes in {path}\n{failure.detail}")


def _seeds(chosen: Sequence[Target]) -> int:
    for target in chosen:
        for number, seed in enumerate(target.seeds):
            try:
                target.run(seed[: target.longest])
            except target.raises as e:
                print(f"{target.name} {number}: {e}")
    return 0


def _again(chosen: Sequence[Target], paths: Sequence[Path]) -> int:
    for target in chosen:
        for path in paths:
            began = time.process_time()
            print(target.name, path, target.run(path.read_bytes()), f"{1e3 * (time.process_time() - began):.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
