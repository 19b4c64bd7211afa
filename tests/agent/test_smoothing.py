"""A smoothed score rises fast, falls slowly, and does not depend on how readings were batched."""

from __future__ import annotations

import msgspec
import numpy as np
from edgectl_agent.core.bundle import Smoothing
from edgectl_agent.core.smoothing import Smoother
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import cuts

HOW = Smoothing(rise=0.5, fall=0.1)


def alone(*scores: float) -> np.ndarray:
    return Smoother(HOW).push(np.zeros(len(scores), np.int32), np.array(scores, float))


def test_it_goes_half_way_up_and_a_tenth_down() -> None:
    assert np.allclose(alone(2, 4, 4, 0), [2, 3, 3.5, 3.15])


def test_a_lone_high_score_counts_for_less_than_three_in_a_row() -> None:
    quiet = [1.0] * 5
    assert alone(*quiet, 9, *quiet).max() < alone(*quiet, 9, 9, 9, *quiet).max() < 9


def test_a_forgotten_stream_begins_anew() -> None:
    smoother = Smoother(HOW)
    smoother.push(np.array([0, 1], np.int32), np.array([5.0, 6.0]))
    smoother.forget(np.array([0, 7]))
    assert smoother.push(np.array([0, 1], np.int32), np.array([1.0, 6.0])).tolist() == [1.0, 6.0]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 10_000), streams=st.sampled_from([1, 3, 60]))
def test_smoothed_scores_do_not_depend_on_batch_boundaries(data: st.DataObject, seed: int, streams: int) -> None:
    rng, n = np.random.default_rng(seed), 300
    stream, score = rng.integers(0, streams, n).astype(np.int32), rng.exponential(1, n)

    def push(smoother: Smoother, where: slice) -> np.ndarray:
        order = np.argsort(stream[where], kind="stable")
        out = np.empty(len(order))
        out[order] = smoother.push(stream[where][order], score[where][order])
        return out

    whole, smoother, pieces = push(Smoother(HOW), slice(0, n)), Smoother(HOW), []
    for where in data.draw(cuts(n)):
        pieces.append(push(smoother, where))
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(smoother.snapshot()))
        smoother = Smoother(HOW)
        smoother.restore(state)
    assert np.concatenate(pieces).tobytes() == whole.tobytes()
    one = Smoother(HOW)
    single = [one.push_one(s, x) for s, x in zip(stream.tolist(), score.tolist(), strict=True)]
    assert np.array(single).tobytes() == whole.tobytes()
