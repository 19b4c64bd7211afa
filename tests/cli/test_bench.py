"""`edgectl bench`: what a machine can do with a model, for people and for programs."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_models import train
from tests.support.cli import Shell


def test_bench_says_how_fast_a_trained_model_runs_here(shell: Shell) -> None:
    train(shell, 1)
    found = json.loads(shell.ok("bench", "press", "--streams", "50", "--for", "0", "-o", "json"))
    assert (found["recipe"], found["variant"], found["streams"]) == ("press", "fp32", 50)
    assert found["readings_per_s"] > 100
    assert 0 < found["limit_us"] < found["reading_us"]
    assert found["share_of_limit"] == pytest.approx(found["limit_us"] / found["reading_us"], abs=0.02)
    assert 0 < found["model_us"] <= found["lone_p50_us"] <= found["lone_p99_us"]
    shown = shell.ok("bench", "press@1.0.0", "--streams", "50", "--for", "0")
    assert "readings/s on one core" in shown
    assert "LONE READING" in shown


def test_bench_of_what_is_not_there_says_what_is(shell: Shell) -> None:
    shell.fails(4, "bench", "press", says="press")
    train(shell, 1)
    shell.fails(4, "bench", "press", "--variant", "int8", says="no variant 'int8', it has: fp32")
