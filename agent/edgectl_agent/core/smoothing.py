"""A stream's scores, smoothed: a state that lasts rather than a value per reading.

The smoothed score goes part of the way to each new one, further up than down: it follows a short fault at once and
forgets it slowly, and lone high scores count for less than several in a row. Equal to the last bit for any batch
boundaries, whether few readings come or many.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.bundle import Smoothing
from edgectl_agent.core.runs import Runs

_WIDE = 24
"""From so many streams on that go on at once, a step of all of them costs less than one of each."""


class Smoother:
    """The smoothed score of every stream; NaN before the first."""

    def __init__(self, how: Smoothing) -> None:
        self._rise, self._fall = how.rise, how.fall
        self._level: Float64 = np.empty(0)

    def push(self, stream: NDArray[np.int32], score: Float64) -> Float64:
        """Smoothed scores.

        Args:
            stream: shape (n,), sorted; a stream's scores are in event-time order.
            score: shape (n,), finite.
        """
        self._reserve(int(stream.max(initial=-1)) + 1)
        if len(score) == 0:
            return score.copy()
        runs = Runs.of(stream)
        of_run = stream[runs.starts]
        longest = int(runs.lengths.max())
        out = np.empty_like(score)
        if len(score) >= _WIDE * longest:
            self._by_rank(runs, of_run, longest, score, out)
        else:
            for at, length, one in zip(runs.starts.tolist(), runs.lengths.tolist(), of_run.tolist(), strict=True):
                out[at : at + length] = self._one_stream(one, score[at : at + length].tolist())
        return out

    def push_one(self, stream: int, score: float) -> float:
        """`push` of one score."""
        self._reserve(stream + 1)
        return self._one_stream(stream, [score])[0]

    def forget(self, streams: NDArray[Any]) -> None:
        """These streams begin anew."""
        self._level[streams[streams < len(self._level)]] = np.nan

    def snapshot(self) -> dict[str, Any]:
        return {"level": pack_array(self._level)}

    def restore(self, state: dict[str, Any]) -> None:
        self._level = unpack_array(state["level"])

    def _by_rank(self, runs: Runs, of_run: NDArray[np.int32], longest: int, score: Float64, out: Float64) -> None:
        level = self._level[of_run]
        for rank in range(longest):
            active = np.flatnonzero(runs.lengths > rank)
            x, now = score[runs.starts[active] + rank], level[active]
            now = np.where(np.isnan(now), x, now)
            now += np.where(x > now, self._rise, self._fall) * (x - now)
            out[runs.starts[active] + rank] = level[active] = now
        self._level[of_run] = level

    def _one_stream(self, stream: int, scores: list[float]) -> list[float]:
        now = self._level.item(stream)
        if math.isnan(now):
            now = scores[0]
        found = []
        for x in scores:
            now += (self._rise if x > now else self._fall) * (x - now)
            found.append(now)
        self._level[stream] = now
        return found

    def _reserve(self, streams: int) -> None:
        have = len(self._level)
        if streams > have:
            self._level = np.append(self._level, np.full(max(streams, 2 * have) - have, np.nan))
