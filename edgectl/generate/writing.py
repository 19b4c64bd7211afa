"""Generated data into files that were not there before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import get_args

from edgectl.core.errors import UsageError
from edgectl.core.evaluation import WATCHED
from edgectl.generate import plant, transactions, weblog
from edgectl.periods import write_periods

START_NS = 1_735_689_600 * 10**9
"""Day 0 of what is generated as records: 2025-01-01 UTC."""


def write_new(path: Path, lines: Iterable[str]) -> int:
    """Write `lines`, each with its line feed; returns how many.

    Raises:
        UsageError: the file is there already, or its folder is not.
    """
    count = 0
    try:
        with path.open("x", encoding="utf-8") as file:
            for line in lines:
                file.write(line)
                count += 1
    except FileExistsError:
        raise UsageError(f"{path}: expected a new file, found one", hint="choose another name") from None
    except FileNotFoundError:
        raise UsageError(f"{path}: its folder is not there") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return count


def write_logs(
    path: Path, labels: Path | None, *, seed: int, hosts: int, after: int, hours: int, tick: Callable[[], None]
) -> tuple[int, int]:
    """Write hours `after` to `after + hours` of a service's log, with faults and their labels if `labels` is given.

    Returns:
        How many faults, how many lines.

    Raises:
        UsageError: the file is there already.
    """
    service = weblog.Service(seed=seed, hosts=tuple(f"web-{i}" for i in range(1, hosts + 1)))
    faults = service.planned(after * 60, hours * 60) if labels is not None else ()
    count = write_new(path, service.hours(after, hours, faults, tick))
    if labels is not None:
        write_periods(labels, service.labels(after * 60, hours * 60, faults))
    return len(faults), count


def write_transactions(
    path: Path,
    labels: Path | None,
    *,
    seed: int,
    cards: int,
    after: int,
    days: int,
    quiet_days: int,
    each: int,
    by: str,
    tick: Callable[[], None],
) -> tuple[int, int]:
    """Write days `after` to `after + days` of a bank, with frauds and their labels if `labels` is given.

    Args:
        path: of the records, a new file.
        labels: of the labels, which begin after `quiet_days`.
        seed: of the bank.
        cards: how many.
        after: first day.
        days: how many.
        quiet_days: of these, without frauds.
        each: frauds of each kind.
        by: whose frauds are labelled, ``card`` or ``merchant``.
        tick: called after each day.

    Returns:
        How many labelled frauds, how many records.

    Raises:
        UsageError: a file is there already, nothing is left behind the quiet days, more frauds than cards can have.
    """
    bank = transactions.Bank(seed, cards, START_NS)
    if by not in get_args(transactions.Key):
        raise UsageError(f"--by: expected card or merchant, found {by!r}")
    frauds: tuple[transactions.Fraud, ...] = ()
    if labels is not None:
        if quiet_days >= days:
            raise UsageError(f"expected more days than the {quiet_days} without frauds, found {days}")
        try:
            frauds = bank.frauds(after + quiet_days, days - quiet_days, each)
        except ValueError as e:
            raise UsageError(str(e), hint="lower --each") from None
    lines = (json.dumps(record) + "\n" for record in bank.records(after, days, frauds, tick))
    count = write_new(path, lines)
    if labels is None:
        return 0, count
    told = bank.labels(after + quiet_days, days - quiet_days, frauds, "card" if by == "card" else "merchant")
    write_periods(labels, told)
    return sum(label.kind != WATCHED for label in told), count


def write_plant(
    path: Path, labels: Path | None, *, seed: int, machines: int, after: int, hours: int, tick: Callable[[], None]
) -> tuple[int, int]:
    """Write hours `after` to `after + hours` of a plant, with faults and their labels if `labels` is given.

    Returns:
        How many faults, how many records.

    Raises:
        UsageError: the file is there already.
    """
    names = [f"press-{i:02d}" for i in range(1, machines + 1)]
    first, count = after * 60, hours * 60
    faults = plant.planned(seed, names, first, count) if labels is not None else ()

    def lines() -> Iterator[str]:
        for hour in range(hours):
            for row in plant.rows(seed, names, first + hour * 60, 60, START_NS, faults):
                yield json.dumps(row) + "\n"
            tick()

    written = write_new(path, lines())
    if labels is not None:
        write_periods(labels, plant.labels(names, first, count, START_NS, faults))
    return len(faults), written
