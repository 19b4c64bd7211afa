"""The shipped recipe for a plant finds each kind of its faults, stuck sensors among them."""

from __future__ import annotations

import pytest

from bench.examples import outcome
from edgectl.core.evaluation import Outcome
from edgectl.generate.plant import KINDS


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return outcome("plant", tmp_path_factory.mktemp("plant"), seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_of_each_kind_is_found(found: Outcome, kind: str) -> None:
    part = found.of(kind)
    assert part.faults >= 8
    assert part.found == part.faults


def test_a_false_alert_is_as_rare_as_the_budget_says(found: Outcome) -> None:
    assert found.false_per_stream_day <= 0.1
