"""Scores that reward finding the whole of an anomaly, by the library aeon: VUS-PR, range-based precision and recall.

VUS-PR (Paparrizos et al., "Volume Under the Surface", PVLDB 2022) needs no threshold: the area under the curve of
precision and recall, averaged over buffers of 0 to `BUFFER` readings around each label. It ranks by a detector's own
score: how the threshold drifts is not its matter. Range-based precision and recall (Tatbul et al., "Precision and
Recall for Time Series", NeurIPS 2018) are of the readings at or above the method's own threshold, with a flat bias,
reciprocal cardinality and no reward for mere existence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from edgectl_agent.core.batch import Float64

from edgectl.evaluation.series import Replayed, Series

BUFFER = 20
"""Readings."""
_WHAT = "VUS-PR and range-based precision and recall"


@dataclass(frozen=True, slots=True)
class Ranges:
    """Of one series; NaN where it means nothing: no labels, a constant score, for precision no alarm."""

    vus_pr: float = math.nan
    precision: float = math.nan
    recall: float = math.nan


NOTHING = Ranges()


def missing() -> str:
    """Why these scores cannot be computed here, empty if they can."""
    try:
        import aeon.benchmarking.metrics.anomaly_detection  # noqa: F401 - whether it is there
    except ImportError:
        return f"{_WHAT} need aeon, which is not installed: pip install 'edgectl[evaluate]'"
    return ""


def ranges(series: Series, replayed: Replayed) -> Ranges:
    """Scores of the scored part of `series`; aeon must be there."""
    from aeon.benchmarking.metrics.anomaly_detection import range_pr_vus_score, range_precision, range_recall

    labels = series.labels[series.begin :]
    if not 0 < labels.sum() < len(labels):
        return NOTHING
    score = _filled(replayed.own[series.begin :])
    above = (replayed.score[series.begin :] >= replayed.threshold).astype(np.int64)
    vus = float(range_pr_vus_score(labels, score, BUFFER)) if score.min() < score.max() else math.nan
    if not above.any():
        return Ranges(vus, math.nan, 0.0)
    if above.all():  # which aeon answers with 0 and a warning
        return Ranges(vus, float(labels.mean()) / _stretches(labels), 1.0)
    return Ranges(vus, float(range_precision(labels, above)), float(range_recall(labels, above)))


def _filled(score: Float64) -> Float64:
    """What was not scored is the least strange."""
    some = score[np.isfinite(score)]
    low, high = (float(some.min()), float(some.max())) if len(some) else (0.0, 0.0)
    return np.clip(np.nan_to_num(score, nan=low, posinf=high, neginf=low), low, high)


def _stretches(labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    return int((np.diff(labels, prepend=0) == 1).sum())
