"""Each kind of feature group equals its definition in plain Python, and is the same to the last bit in any batches."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

import msgspec
import numpy as np
import pytest
from edgectl_agent.core import bundle
from edgectl_agent.core.batch import Batch
from edgectl_agent.core.bundle import Channel, Features, FeatureSpec
from edgectl_agent.core.categories import code
from edgectl_agent.core.features import INCOMPLETE, OK, FeatureBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import SECOND, batches, cuts, part

MINUTE, DAY = 60 * SECOND, 86_400 * SECOND
BOTH = ("a", "b")
CATEGORIES = ("shop", "land")
STATS: tuple[bundle.Stat, ...] = ("mean", "std", "min", "max", "count", "sum", "slope")

TUMBLING = bundle.TumblingFeatures(channels=BOTH, window_ns=MINUTE, stats=STATS, parts=("closed", "running"))
DECAYED = bundle.DecayedFeatures(
    channels=BOTH, half_life_ns=20 * SECOND, stats=("mean", "std", "count", "sum", "rate", "residual", "z")
)
LAG = bundle.LagFeatures(channels=BOTH, lags=(1, 3), kinds=("value", "diff"))
UNCHANGED = bundle.UnchangedFeatures(channels=BOTH, span_ns=4 * SECOND)
TIMING = bundle.TimingFeatures(kinds=("since_last", "rate"), half_life_ns=30 * SECOND)
SEASONAL = bundle.SeasonalFeatures(
    channels=BOTH, periods=("day", "week"), kinds=("residual", "z"), bins=(6, 6), half_life_ns=3 * DAY,
    offsets=((1_700_100_000 * SECOND, 3600 * SECOND), (1_700_300_000 * SECOND, 0)),
)  # fmt: skip
QUANTILE = bundle.QuantileFeatures(
    channels=BOTH, window_ns=MINUTE, panes=6, quantiles=(0.0, 0.5, 0.9), error=0.05, resolution=1e-3, highest=1e6
)
HABIT = bundle.HabitFeatures(channels=BOTH, window_ns=MINUTE, panes=6, error=0.1, resolution=1e-3, highest=1e6)
DISTINCT = bundle.DistinctFeatures(categories=CATEGORIES, window_ns=MINUTE, panes=6, registers=4096)
COUNT = bundle.CountFeatures(categories=CATEGORIES, window_ns=MINUTE, panes=6, values=("v0", "v1"))
OWN = bundle.CountFeatures(categories=CATEGORIES, window_ns=MINUTE, panes=6)
NEW = bundle.NewFeatures(categories=CATEGORIES, memory_ns=MINUTE)
SHARE = bundle.NewFeatures(categories=CATEGORIES, memory_ns=MINUTE, share_ns=2 * MINUTE, panes=4)
ALL = (TUMBLING, DECAYED, LAG, UNCHANGED, TIMING, SEASONAL, QUANTILE, HABIT, DISTINCT, COUNT, OWN, NEW, SHARE)


def readings(group: Features, streams: int) -> st.SearchStrategy[Batch]:
    found = batches(streams, categories=len(spec_of(group).categories), pace=600 if group is SEASONAL else 1)
    return found.map(signs) if group is UNCHANGED else found


def signs(batch: Batch) -> Batch:
    """The same with few different values, so that many come again."""
    return Batch(batch.stream, batch.event_time, np.sign(batch.values), batch.codes)


def spec_of(*features: Features) -> FeatureSpec:
    return FeatureSpec(
        channels=(Channel(name="a"), Channel(name="b", optional=True, hold_ns=10 * SECOND)),
        features=features,
        warm_up_ns=0,
    )


@pytest.mark.parametrize("group", ALL, ids=lambda group: type(group).__name__)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_a_group_is_bit_equal_for_any_batch_boundaries_and_restarts(group: Features, data: st.DataObject) -> None:
    batch = data.draw(readings(group, data.draw(st.sampled_from([1, 3, 20]))))
    whole = FeatureBuilder(spec_of(group)).push(batch)
    builder, pieces = FeatureBuilder(spec_of(group)), []
    for where in data.draw(cuts(len(batch))):
        pieces.append(builder.push(part(batch, where)).x)
        if data.draw(st.booleans()):
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(builder.snapshot()))
            builder = FeatureBuilder.restore(builder.spec, state)
    assert np.concatenate(pieces).tobytes() == whole.x.tobytes()


@pytest.mark.parametrize("group", ALL, ids=lambda group: type(group).__name__)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_forgotten_stream_is_as_one_never_seen_and_the_others_go_on(group: Features, data: st.DataObject) -> None:
    batch = data.draw(readings(group, 3))
    first, second = batch.take(slice(0, len(batch) // 2)), batch.take(slice(len(batch) // 2, None))
    builder, never = FeatureBuilder(spec_of(group)), FeatureBuilder(spec_of(group))
    builder.push(first)
    builder.forget(np.array([1, 7]))
    never.push(first.take(first.stream != 1))
    assert builder.push(second).x.tobytes() == never.push(second).x.tobytes()


@pytest.mark.parametrize("group", ALL, ids=lambda group: type(group).__name__)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_no_value_and_no_time_overflows(group: Features, data: st.DataObject) -> None:
    last = 9_190_000_000_000_000_000
    times = data.draw(
        st.lists(st.sampled_from([-last, -1, 0, 1, 1_700_000_000 * SECOND, last]), min_size=1, max_size=30)
    )
    extremes = st.sampled_from([0.0, -0.0, 1e100, -1e100, 5e-324, 1e-300, 1.0, math.nan])
    values = data.draw(st.lists(st.tuples(extremes, extremes), min_size=len(times), max_size=len(times)))
    codes = np.full((len(times), len(spec_of(group).categories)), 2**31 - 1, np.int32)
    n = len(times)
    batch = Batch(np.zeros(n, np.int32), np.array(sorted(times), np.int64), np.array(values, float), codes)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        x = FeatureBuilder(spec_of(group)).push(batch).x
    assert not np.isinf(
        x[:, [".min." not in n and ".max." not in n for n in FeatureBuilder(spec_of(group)).names]]
    ).any()


# ── definitions ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Reading:
    """One that counts, as plain values; NaN and None are missing."""

    t: int
    values: dict[str, float]
    codes: dict[str, int]


Expect = Callable[[list[Reading]], dict[str, Any]]
"""A stream's readings so far, the last one included → what each feature of the last one should be."""


def check(group: Features, batch: Batch, expect: Expect) -> None:
    """Every feature of every reading that counts is what `expect` says: a number, or a test of the number found."""
    builder = FeatureBuilder(spec_of(group))
    rows = builder.push(batch)
    history: dict[int, list[Reading]] = defaultdict(list)
    for i in np.flatnonzero(np.isin(rows.status, (OK, INCOMPLETE))):
        values = dict(zip(BOTH, map(float, batch.values[i]), strict=True))
        codes = dict(zip(CATEGORIES, map(int, batch.codes[i]), strict=True)) if batch.codes is not None else {}
        mine = history[int(batch.stream[i])]
        mine.append(Reading(int(batch.event_time[i]), values, codes))
        expected = expect(mine)
        assert set(expected) == set(builder.names)
        for name, found in zip(builder.names, rows.x[i], strict=True):
            wanted = expected[name]
            assert wanted(found) if callable(wanted) else same(found, wanted), (name, found, wanted)


def same(found: float, wanted: float) -> bool:
    return (math.isnan(found) and math.isnan(wanted)) or found == wanted


def about(wanted: float, size: float, rtol: float = 1e-7) -> Callable[[float], bool]:
    """Equal but for rounding where values are as large as `size`."""

    def test(found: float) -> bool:
        return same(found, wanted) or abs(found - wanted) <= rtol * abs(wanted) + 1e-7 * size

    return test


def given_values(readings: list[Reading], channel: str) -> list[tuple[int, float]]:
    return [(r.t, r.values[channel]) for r in readings if not math.isnan(r.values[channel])]


def moments(found: list[tuple[int, float]]) -> dict[str, Any]:
    """The seven window statistics by their definitions."""
    if not found:
        return dict.fromkeys(STATS, math.nan) | {"count": 0.0, "sum": 0.0}
    t = np.array([(at - found[0][0]) / 1e9 for at, _ in found])
    x = np.array([value for _, value in found])
    size = float(np.abs(x).max())
    t = t - t.mean()
    slope = float((t * (x - x.mean())).sum() / (t * t).sum()) if (t * t).sum() > 0 else 0.0
    return {
        "mean": about(float(x.mean()), size), "std": about(float(x.std()), size), "min": float(x.min()),
        "max": float(x.max()), "count": float(len(x)), "sum": about(float(x.sum()), size), "slope": about(slope, size),
    }  # fmt: skip


@settings(deadline=None, max_examples=20)
@given(batch=batches(streams=2))
def test_tumbling_windows_are_the_calendars_and_the_closed_one_is_the_one_just_before(batch: Batch) -> None:
    def expect(mine: list[Reading]) -> dict[str, Any]:
        out = {}
        now = (mine[-1].t - 4 * DAY) // MINUTE
        for part_, number in (("closed", now - 1), ("running", now)):
            inside = [r for r in mine if (r.t - 4 * DAY) // MINUTE == number]
            for channel in BOTH:
                for stat, value in moments(given_values(inside, channel)).items():
                    out[f"{channel}.{stat}.{part_}1m"] = value
        return out

    check(TUMBLING, batch, expect)


def weight(t: int, now: int, half_life_ns: int) -> float:
    """``2 ** -(age / half-life)``, times counted in steps of 1/4096 half-life."""
    return float(2.0 ** ((steps(t, half_life_ns) - steps(now, half_life_ns)) / 4096))


def steps(t: int, half_life_ns: int) -> int:
    pane, offset = divmod(t, 64 * half_life_ns)
    return pane * 64 * 4096 + math.floor(offset / half_life_ns * 4096)


def decayed(found: list[tuple[int, float]], now: int, half_life_ns: int) -> tuple[float, float, float]:
    """Weight, mean and standard deviation."""
    w = np.array([weight(t, now, half_life_ns) for t, _ in found])
    x = np.array([value for _, value in found])
    if w.sum() == 0:
        return 0.0, math.nan, math.nan
    mean = float((w * x).sum() / w.sum())
    return float(w.sum()), mean, math.sqrt(float((w * (x - mean) ** 2).sum() / w.sum()))


def known(weight: float, least: float, wanted: Callable[[float], bool]) -> Callable[[float], bool]:
    """`wanted` from a weight of `least` on; where rounding decides which side a weight is on, either."""

    def test(found: float) -> bool:
        if abs(weight - least) < 1e-9:
            return math.isnan(found) or wanted(found)
        return wanted(found) if weight > least else math.isnan(found)

    return test


def in_spreads(residual: float, mean: float, std: float) -> float:
    spread = max(std, abs(mean) / 100)
    if math.isnan(residual) or math.isnan(spread):
        return math.nan
    return max(-100.0, min(100.0, residual / spread if spread else math.copysign(100, residual) if residual else 0.0))


@settings(deadline=None, max_examples=20)
@given(batch=batches(streams=2))
def test_decayed_statistics_weigh_every_reading_by_its_age(batch: Batch) -> None:
    def expect(mine: list[Reading]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        now, half = mine[-1].t, 20 * SECOND
        for channel in BOTH:
            found = given_values(mine, channel)
            size = max((abs(x) for _, x in found), default=0.0)
            w, mean, std = decayed(found, now, half)
            gone = w < 2.0**-20
            before, habit, spread = decayed(given_values(mine[:-1], channel), now, half)
            residual = mine[-1].values[channel] - habit
            out |= {
                f"{channel}.mean.half20s": math.nan if gone else about(mean, size),
                f"{channel}.std.half20s": math.nan if gone else about(std, size),
                f"{channel}.count.half20s": about(w, 1e-6),
                f"{channel}.sum.half20s": about(w * mean if w else 0.0, size),
                f"{channel}.rate.half20s": about(w * math.log(2) / 20, 1e-6),
                f"{channel}.residual.half20s": known(before, 1, about(residual, size)),
                f"{channel}.z.half20s": known(before, 2, about(in_spreads(residual, habit, spread), 10)),
            }
        return out

    check(DECAYED, batch, expect)


@settings(deadline=None, max_examples=20)
@given(batch=batches(streams=2))
def test_a_lag_is_the_value_so_many_valid_readings_ago(batch: Batch) -> None:
    def expect(mine: list[Reading]) -> dict[str, Any]:
        out = {}
        for channel in BOTH:
            before = [x for _, x in given_values(mine[:-1], channel)]
            now, hold = given_values(mine, channel)[-1:], 0 if channel == "a" else 10 * SECOND
            held = now[0][1] if now and mine[-1].t - now[0][0] <= hold else math.nan
            for lag in (1, 3):
                then = before[-lag] if len(before) >= lag else math.nan
                out |= {f"{channel}.lag{lag}": then, f"{channel}.diff{lag}": held - then}
        return out

    check(LAG, batch, expect)


@settings(deadline=None, max_examples=20)
@given(batch=batches(streams=2))
def test_unchanged_is_how_many_whole_spans_the_valid_value_has_been_the_same(batch: Batch) -> None:
    def spans(valid: list[tuple[int, float]], now_ns: int) -> float:
        if not valid:
            return math.nan
        same = len(list(takewhile(lambda reading: reading[1] == valid[-1][1], reversed(valid))))
        return min((now_ns - valid[-same][0]) // (4 * SECOND), 100)

    def expect(mine: list[Reading]) -> dict[str, Any]:
        return {f"{c}.unchanged.4s": spans(given_values(mine, c), mine[-1].t) for c in BOTH}

    check(UNCHANGED, signs(batch), expect)


@settings(deadline=None, max_examples=20)
@given(batch=batches(streams=2))
def test_timing_is_the_pause_before_a_reading_and_how_many_come_per_second(batch: Batch) -> None:
    def expect(mine: list[Reading]) -> dict[str, Any]:
        count = sum(weight(r.t, mine[-1].t, 30 * SECOND) for r in mine)
        pause = (mine[-1].t - mine[-2].t) / 1e9 if len(mine) > 1 else math.nan
        return {"since_last": pause, "rate.half30s": about(count * math.log(2) / 30, 0)}

    check(TIMING, batch, expect)


@settings(deadline=None, max_examples=20)
@given(batch=readings(SEASONAL, 2))
def test_a_seasonal_residual_is_against_the_faded_mean_of_earlier_visits_to_the_bin(batch: Batch) -> None:
    def local(t: int) -> int:
        return t - 4 * DAY + (3600 * SECOND if 1_700_100_000 * SECOND <= t < 1_700_300_000 * SECOND else 0)

    def visits(mine: list[Reading], bins: int) -> list[tuple[int, list[Reading]]]:
        out: list[tuple[int, list[Reading]]] = []
        number: int | None = None
        for reading in mine:
            here = local(reading.t) // (DAY // 6)
            if here != number:
                number = here
                out.append((here % bins, []))
            out[-1][1].append(reading)
        return out

    def expect(mine: list[Reading]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for period, bins in (("day", 6), ("week", 42)):
            *earlier, (here, visit) = visits(mine, bins)
            began = visit[0].t
            for channel in BOTH:
                stays = [(v[0].t, [x for _, x in given_values(v, channel)]) for place, v in earlier if place == here]
                size = max((abs(x) for _, x in given_values(mine, channel)), default=0.0)
                w, past = [], []
                for i, (_, x) in enumerate(stays):
                    times = [t for t, _ in stays[i:]] + [began]
                    fades = [math.floor(-(b - a) / (3 * DAY) * 4096) / 4096 for a, b in pairwise(times)]
                    if x:
                        w.append(2.0 ** sum(fades))
                        past.append(np.array(x))
                mean = float(sum(w * np.array([x.mean() for x in past])) / sum(w)) if past else math.nan
                square = float(sum(w * np.array([((x - mean) ** 2).mean() for x in past])) / sum(w)) if past else 0.0
                residual = mine[-1].values[channel] - mean
                z = in_spreads(residual, mean, math.sqrt(square))
                out[f"{channel}.residual.{period}"] = known(sum(w), 0.01, about(residual, size))
                out[f"{channel}.z.{period}"] = known(sum(w), 1.5, about(z, 10))
        return out

    check(SEASONAL, batch, expect)


def in_window(mine: list[Reading], window_ns: int, panes: int) -> list[Reading]:
    pane = window_ns // panes
    return [r for r in mine if r.t // pane > mine[-1].t // pane - panes]


@settings(deadline=None, max_examples=20)
@given(batch=batches(streams=2))
def test_a_quantile_is_within_its_error_of_the_value_of_that_rank(batch: Batch) -> None:
    def expect(mine: list[Reading]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for channel in BOTH:
            inside = sorted(max(-1e6, min(1e6, x)) for _, x in given_values(in_window(mine, MINUTE, 6), channel))
            for q in (0.0, 0.5, 0.9):
                exact = inside[math.floor(q * (len(inside) - 1))] if inside else math.nan
                slack = 0.0500001 * abs(exact) + (1e-3 if abs(exact) <= 1e-3 else 0.0)
                out[f"{channel}.p{100 * q:g}.1m"] = (
                    (lambda found, exact=exact, slack=slack: abs(found - exact) <= slack) if inside else math.nan
                )
        return out

    check(QUANTILE, batch, expect)


@settings(deadline=None, max_examples=20)
@given(batch=batches(streams=2, categories=2))
def test_categories_are_counted_and_told_apart_within_the_window(batch: Batch) -> None:
    def seen(mine: list[Reading], category: str) -> list[int]:
        return [r.codes[category] for r in in_window(mine, MINUTE, 6) if r.codes[category] >= 0]

    def distinct(mine: list[Reading]) -> dict[str, Any]:
        return {f"{c}.distinct.1m": float(len(set(seen(mine, c)))) for c in CATEGORIES}

    def count(mine: list[Reading]) -> dict[str, Any]:
        return {f"{c}.{v}.count.1m": float(seen(mine, c).count(code(v))) for c in CATEGORIES for v in ("v0", "v1")}

    def own(mine: list[Reading]) -> dict[str, Any]:
        return {f"{c}.count.1m": float(seen(mine, c).count(mine[-1].codes[c])) for c in CATEGORIES}

    check(DISTINCT, batch, distinct)
    check(COUNT, batch, count)
    check(OWN, batch, own)


def new_ones(mine: list[Reading], category: str) -> list[bool | None]:
    """Of each reading, whether its value was in neither this span of a minute nor the one before; None if missing."""
    out: list[bool | None] = []
    for i, r in enumerate(mine):
        known = {b.codes[category] for b in mine[:i] if b.t // MINUTE in (r.t // MINUTE, r.t // MINUTE - 1)}
        out.append(r.codes[category] not in known if r.codes[category] >= 0 else None)
    return out


@settings(deadline=None, max_examples=20)
@given(batch=batches(streams=2, categories=2))
def test_a_value_is_new_unless_it_came_in_this_span_or_the_one_before(batch: Batch) -> None:
    def new(mine: list[Reading]) -> dict[str, Any]:
        last = {c: new_ones(mine, c)[-1] for c in CATEGORIES}
        return {f"{c}.new.1m": math.nan if found is None else float(found) for c, found in last.items()}

    def share(mine: list[Reading]) -> dict[str, Any]:
        out = {}
        inside = len(in_window(mine, 2 * MINUTE, 4))
        for c in CATEGORIES:
            given_ = [found for found in new_ones(mine, c)[-inside:] if found is not None]
            out[f"{c}.new.1m.share.2m"] = sum(given_) / len(given_) if given_ else 0.0
        return out

    check(NEW, batch, new)
    check(SHARE, batch, share)


@settings(deadline=None, max_examples=30)
@given(batch=batches(streams=2))
def test_a_habit_is_the_median_and_the_middle_half_of_the_sizes_before_in_octaves(batch: Batch) -> None:
    gamma = 1.1 / 0.9

    def octave(size: float) -> float:
        mantissa, exponent = math.frexp(max(size, 1e-3))
        return exponent + math.log2(0.5 + math.floor((mantissa - 0.5) * 8192) / 8192)

    def bucketed(x: float) -> float:
        """The octave of the bucket that a size lies in."""
        bound, number = 1e-3, 0
        while bound < min(abs(x), 1e6):
            number += 1
            bound = 1e-3 * gamma**number
        return octave(2 * bound / (gamma + 1) if number else 0.0)

    def expect(mine: list[Reading]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for channel in BOTH:
            x = mine[-1].values[channel]
            before = [r.values[channel] for r in in_window(mine, MINUTE, 6)[:-1]]
            sizes = sorted(bucketed(b) for b in before if not math.isnan(b))
            if len(sizes) < 5 or math.isnan(x):
                out[f"{channel}.habit.1m"] = math.nan
                continue
            low, middle, high = (sizes[math.floor(q * (len(sizes) - 1))] for q in (0.25, 0.5, 0.75))
            spread = (len(sizes) * (high - low) / 1.349 + 8) / (len(sizes) + 8)
            out[f"{channel}.habit.1m"] = about((octave(abs(x)) - middle) / spread, 10)
        return out

    check(HABIT, batch, expect)
