"""Payments of a bank that never was can be made again; recipes find the frauds of banks that they never saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from edgectl_agent.core.batch import StreamTable
from edgectl_agent.core.bundle import decode
from edgectl_agent.core.detector import Detector
from edgectl_agent.core.units import DAY_NS
from edgectl_agent.inference import Model

from edgectl.core.evaluation import WATCHED, Outcome, judge_labels
from edgectl.generate.transactions import KINDS, MERCHANT_KINDS, Bank, Fraud, Key
from edgectl.generate.writing import START_NS
from edgectl.training.pipeline import Trained, train
from edgectl.training.recipe import Recipe, load
from edgectl.training.tables import Table, read

MODELS = Path(__file__).parents[2] / "models"


def table(folder: Path, bank: Bank, days: int, recipe: Recipe, frauds: tuple[Fraud, ...] = ()) -> Table:
    path = folder / f"{bank.seed}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in bank.records(0, days, frauds)))
    return read([path], recipe)


def found(trained: Trained, history: Table, bank: Bank, frauds: tuple[Fraud, ...], key: Key) -> Outcome:
    """What the node's own detector finds from day 14 on."""
    bundle = decode(trained.built[0].raw)
    detector = Detector(
        bundle, node="n", version="", digest="", streams=StreamTable(history.streams), score=Model(bundle.model).score
    )
    alerts = detector.process(history.batch(), accepted_ns=0, now_ns=0).alerts
    onsets = {alert.id: (alert.stream, alert.onset_ns) for alert in alerts}
    return judge_labels(bank.labels(14, 30, frauds, key), onsets.values())


@pytest.mark.parametrize(
    ("name", "key", "precision", "recall", "rate"),
    [("transactions", "card", 0.6, 0.7, 0.01), ("merchants", "merchant", 0.1, 0.4, 0.004)],
)
def test_a_recipe_finds_the_frauds_of_a_bank_that_it_was_not_trained_on(
    tmp_path: Path, name: str, key: Key, precision: float, recall: float, rate: float
) -> None:
    recipe = load(MODELS / name / "recipe.yaml")
    trained = train(recipe, table(tmp_path, Bank(1, 60, START_NS), 45, recipe))
    bank = Bank(2, 60, START_NS)
    frauds = bank.frauds(14, 30, 10)
    outcome = found(trained, table(tmp_path, bank, 44, recipe, frauds), bank, frauds, key)
    assert outcome.recall >= recall, outcome
    assert outcome.precision >= precision, outcome
    assert outcome.false_per_stream_day <= rate, outcome
    if key == "merchant":  # which few cards visit seldom: many are younger than the warm-up
        assert outcome.of("compromise").recall == 1, outcome


def test_any_days_are_the_same_as_that_part_of_the_whole_and_frauds_are_only_added() -> None:
    bank = Bank(3, 20, START_NS)
    frauds = bank.frauds(2, 20, 3)
    assert frauds == bank.frauds(2, 20, 3)
    plain, whole = (list(bank.records(0, 22, with_them)) for with_them in ((), frauds))
    assert whole[-5:] == list(bank.records(10, 12, frauds))[-5:]
    assert len(whole) == len(plain) + sum(len(fraud.payments) for fraud in frauds)
    assert [row["ts"] for row in whole] == sorted(row["ts"] for row in whole)
    assert plain != list(Bank(4, 20, START_NS).records(0, 22))


def test_labels_begin_with_the_first_fraudulent_record_and_every_stream_is_watched() -> None:
    bank = Bank(3, 20, START_NS)
    frauds = bank.frauds(2, 20, 3)
    labels = bank.labels(2, 20, frauds, "card")
    times = {payment.time_ns for fraud in frauds for payment in fraud.payments}
    assert {label.kind for label in labels} == {*KINDS, WATCHED}
    assert all(label.start_ns in times and label.start_ns % 10**9 == 0 for label in labels if label.kind != WATCHED)
    assert sum(label.end_ns + 1 - label.start_ns for label in labels if label.kind == WATCHED) == 20 * 20 * DAY_NS
    assert {label.kind for label in bank.labels(2, 20, frauds, "merchant")} == {*MERCHANT_KINDS, WATCHED}


def test_more_frauds_than_the_cards_have_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match="expected fewer frauds for 10 cards"):
        Bank(1, 10, START_NS).frauds(0, 10, 100)
