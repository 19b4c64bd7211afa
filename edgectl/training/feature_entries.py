"""``features:`` of a recipe → the feature groups of a bundle.

Each entry has exactly one of the keys in `FORMS`, which says what it is, and only the keys that belong to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

import msgspec
from edgectl_agent.core import bundle
from edgectl_agent.core.bundle import Channel, Features
from edgectl_agent.sources.cells import text

from edgectl.core.errors import ConfigError
from edgectl.training.recipe_checks import at, duration, once, wrong
from edgectl.training.recipe_file import FeatureEntry

DEFAULT_BINS: dict[bundle.Period, int] = {"day": 24, "week": 4}
"""Per day: an hour each; of the week, six hours each."""
_QUANTILE_ERROR, _HABIT_ERROR, _DISTINCT_ERROR = 0.05, 0.1, 0.1
_DECADES = 1e6
"""From the resolution to the highest value, where no range says it."""
_SHARE_OF_RANGE = 1e-4
"""Resolution of a channel with a range."""


@dataclass(frozen=True)
class Names:
    """What entries may refer to, and the zone of times without one."""

    channels: tuple[Channel, ...]
    categories: tuple[str, ...]
    zone: str
    mined: tuple[str, ...] = ()
    """Categories whose templates are mined."""


def feature_groups(entries: tuple[FeatureEntry, ...], names: Names) -> tuple[Features, ...]:
    """The groups, in order.

    Raises:
        ConfigError: ``features[i].key: expected …, found …``.
    """
    if all(_forms(entry) and set(_forms(entry)) <= {"phase", "timing"} for entry in entries):
        raise wrong("features", "at least one feature of a channel or category", "none")
    return tuple(_group(f"features[{i}]", entry, names) for i, entry in enumerate(entries))


def _group(key: str, entry: FeatureEntry, names: Names) -> Features:
    forms = _forms(entry)
    if len(forms) != 1:
        raise wrong(key, f"exactly one of {', '.join(FORMS)}", " and ".join(forms) or "none of them")
    form = FORMS[forms[0]]
    for name in _given(entry):
        if name not in (forms[0], *form.keys):
            found = msgspec.json.encode(getattr(entry, name)).decode()
            raise wrong(f"{key}.{name}", f"no {name} beside {forms[0]}", found)
    return form.build(key, entry, names)


def _given(entry: FeatureEntry) -> list[str]:
    return [name for name in entry.__struct_fields__ if getattr(entry, name) not in ("", (), None)]


def _forms(entry: FeatureEntry) -> list[str]:
    return [name for name in FORMS if name in _given(entry)]


# ── one function per form ───────────────────────────────────────────────────────────────────────────────────────────


def _window(key: str, entry: FeatureEntry, names: Names) -> Features:
    of = _channels(key, entry, names)
    window_ns = duration(f"{key}.window", entry.window)
    if entry.quantiles:
        return _quantiles(key, entry, names, of, window_ns)
    if not entry.stats:
        raise wrong(f"{key}.stats", f"at least one of {', '.join(get_args(bundle.Stat))}", "none")
    for name in ("error", "resolution"):
        if getattr(entry, name) is not None:
            raise wrong(f"{key}.{name}", f"no {name} without quantiles", f"{getattr(entry, name):g}")
    return bundle.WindowFeatures(
        channels=of, window_ns=window_ns, panes=_panes(key, entry, 10), stats=_stats(key, entry, bundle.Stat)
    )


def _quantiles(key: str, entry: FeatureEntry, names: Names, of: tuple[str, ...], window_ns: int) -> Features:
    if entry.stats:
        raise wrong(f"{key}.stats", "no stats beside quantiles, but an entry of their own", ", ".join(entry.stats))
    for quantile in once(f"{key}.quantiles", entry.quantiles):
        if not 0 <= quantile <= 1:
            raise wrong(f"{key}.quantiles", "numbers from 0 to 1", f"{quantile:g}")
    channels = [channel for channel in names.channels if channel.name in of]
    resolution, highest = _scale(key, entry, channels)
    return bundle.QuantileFeatures(
        channels=of,
        window_ns=window_ns,
        panes=_panes(key, entry, 5),
        quantiles=entry.quantiles,
        error=_number(f"{key}.error", entry.error, _QUANTILE_ERROR, 0.005, 0.5),
        resolution=resolution,
        highest=highest,
        signed=any(channel.low is None or channel.low < 0 for channel in channels),
    )


def _habit(key: str, entry: FeatureEntry, names: Names) -> Features:
    of = _channels(key, entry, names)
    resolution, highest = _scale(key, entry, [channel for channel in names.channels if channel.name in of])
    return bundle.HabitFeatures(
        channels=of,
        window_ns=duration(f"{key}.habit", entry.habit),
        panes=_panes(key, entry, 3),
        error=_number(f"{key}.error", entry.error, _HABIT_ERROR, 0.005, 0.5),
        resolution=resolution,
        highest=highest,
    )


def _scale(key: str, entry: FeatureEntry, channels: list[Channel]) -> tuple[float, float]:
    """From which size to which a histogram tells values apart."""
    ends = [(c.low, c.high) for c in channels]
    highest = max((max(abs(low), abs(high)) for low, high in ends if low is not None and high is not None), default=0.0)
    open_ended = next(
        (c.name for c, (low, high) in zip(channels, ends, strict=True) if low is None or high is None), ""
    )
    if entry.resolution is None and open_ended:
        expected = f"the smallest difference that matters, since channel {open_ended!r} has no range of two ends"
        raise wrong(f"{key}.resolution", expected, "nothing")
    resolution = highest * _SHARE_OF_RANGE if entry.resolution is None else entry.resolution
    if open_ended:
        highest = max(highest, resolution * _DECADES)
    if not 0 < resolution < highest <= resolution * 1e12:
        raise wrong(f"{key}.resolution", f"a number above 0 and below {highest:g}", f"{resolution:g}")
    return resolution, highest


def _instant(key: str, entry: FeatureEntry, names: Names) -> Features:
    return bundle.InstantFeatures(channels=_channels(key, entry, names), kinds=once(f"{key}.instant", entry.instant))


def _phase(key: str, entry: FeatureEntry, names: Names) -> Features:
    return bundle.PhaseFeatures(periods=once(f"{key}.phase", entry.phase))


def _tumbling(key: str, entry: FeatureEntry, names: Names) -> Features:
    return bundle.TumblingFeatures(
        channels=_channels(key, entry, names),
        window_ns=duration(f"{key}.tumbling", entry.tumbling),
        stats=_stats(key, entry, bundle.Stat),
        parts=once(f"{key}.part", entry.part) or ("closed",),
    )


def _decay(key: str, entry: FeatureEntry, names: Names) -> Features:
    return bundle.DecayedFeatures(
        channels=_channels(key, entry, names),
        half_life_ns=duration(f"{key}.decay", entry.decay),
        stats=_stats(key, entry, bundle.DecayedStat),
    )


def _lag(key: str, entry: FeatureEntry, names: Names) -> Features:
    lags = (entry.lag,) if isinstance(entry.lag, int) else once(f"{key}.lag", entry.lag)
    for lag in lags:
        if not 1 <= lag <= 1000:
            raise wrong(f"{key}.lag", "numbers of readings from 1 to 1000", str(lag))
    kinds = _kinds(key, entry, bundle.Instant)
    return bundle.LagFeatures(channels=_channels(key, entry, names), lags=lags, kinds=kinds)


def _unchanged(key: str, entry: FeatureEntry, names: Names) -> Features:
    return bundle.UnchangedFeatures(
        channels=_channels(key, entry, names), span_ns=duration(f"{key}.unchanged", entry.unchanged)
    )


def _timing(key: str, entry: FeatureEntry, names: Names) -> Features:
    return bundle.TimingFeatures(
        kinds=once(f"{key}.timing", entry.timing), half_life_ns=duration(f"{key}.half_life", entry.half_life or "5m")
    )


def _seasonal(key: str, entry: FeatureEntry, names: Names) -> Features:
    periods = once(f"{key}.seasonal", entry.seasonal)
    if entry.bins is not None and (not 1 <= entry.bins <= 288 or 1440 % entry.bins):
        raise wrong(f"{key}.bins", "a number of equal parts of a day, a divisor of 1440 up to 288", str(entry.bins))
    return bundle.SeasonalFeatures(
        channels=_channels(key, entry, names),
        periods=periods,
        kinds=_kinds(key, entry, bundle.SeasonalKind),
        bins=tuple(entry.bins or DEFAULT_BINS[period] for period in periods),
        half_life_ns=duration(f"{key}.half_life", entry.half_life or "14d"),
        offsets=at(f"{key}.zone", zone_offsets, entry.zone or names.zone),
    )


def _distinct(key: str, entry: FeatureEntry, names: Names) -> Features:
    error = _number(f"{key}.error", entry.error, _DISTINCT_ERROR, 0.01625, 0.26)
    registers = 2 ** math.ceil(math.log2((1.04 / error) ** 2))
    fields = {
        "categories": _categories(key, entry, names),
        "window_ns": duration(f"{key}.distinct", entry.distinct),
        "panes": _panes(key, entry, 5),
        "registers": min(max(registers, 16), 4096),
    }
    return msgspec.convert(fields, bundle.DistinctFeatures)


def _counts(key: str, entry: FeatureEntry, names: Names) -> Features:
    return bundle.CountFeatures(
        categories=_categories(key, entry, names),
        window_ns=duration(f"{key}.counts", entry.counts),
        panes=_panes(key, entry, 5),
        values=once(f"{key}.values", tuple(map(text, entry.values))),
    )


def _new(key: str, entry: FeatureEntry, names: Names) -> Features:
    if entry.panes is not None and not entry.share:
        raise wrong(f"{key}.panes", "no panes without share", str(entry.panes))
    capacity = 100 if entry.capacity is None else entry.capacity
    if not 1 <= capacity <= 100_000:
        raise wrong(f"{key}.capacity", "a number of values from 1 to 100000", str(capacity))
    return bundle.NewFeatures(
        categories=_categories(key, entry, names),
        memory_ns=duration(f"{key}.new", entry.new),
        capacity=capacity,
        share_ns=duration(f"{key}.share", entry.share) if entry.share else 0,
        panes=_panes(key, entry, 5),
    )


def _templates(key: str, entry: FeatureEntry, names: Names) -> Features:
    if not names.mined:
        raise wrong(f"{key}.templates", "a category that says mine: true", "none")
    top = 20 if entry.top is None else entry.top
    if not 0 <= top <= 200:
        raise wrong(f"{key}.top", "a number of templates from 0 to 200", str(top))
    return bundle.TemplateFeatures(
        categories=_of(f"{key}.of", "category", entry.of, names.mined),
        window_ns=duration(f"{key}.templates", entry.templates),
        panes=_panes(key, entry, 5),
        top=top,
        kinds=_kinds(key, entry, bundle.TemplateKind),
    )


@dataclass(frozen=True)
class Form:
    """What an entry with some key becomes, and which keys may stand beside it."""

    build: Callable[[str, FeatureEntry, Names], Features]
    keys: tuple[str, ...]


FORMS = {
    "window": Form(_window, ("of", "panes", "stats", "quantiles", "error", "resolution")),
    "instant": Form(_instant, ("of",)),
    "phase": Form(_phase, ()),
    "tumbling": Form(_tumbling, ("of", "stats", "part")),
    "decay": Form(_decay, ("of", "stats")),
    "lag": Form(_lag, ("of", "kinds")),
    "unchanged": Form(_unchanged, ("of",)),
    "timing": Form(_timing, ("half_life",)),
    "seasonal": Form(_seasonal, ("of", "kinds", "bins", "zone", "half_life")),
    "habit": Form(_habit, ("of", "panes", "error", "resolution")),
    "distinct": Form(_distinct, ("of", "panes", "error")),
    "counts": Form(_counts, ("of", "panes", "values")),
    "new": Form(_new, ("of", "panes", "capacity", "share")),
    "templates": Form(_templates, ("of", "panes", "top", "kinds")),
}


# ── the keys they share ─────────────────────────────────────────────────────────────────────────────────────────────


def _channels(key: str, entry: FeatureEntry, names: Names) -> tuple[str, ...]:
    return _of(f"{key}.of", "channel", entry.of, tuple(channel.name for channel in names.channels))


def _categories(key: str, entry: FeatureEntry, names: Names) -> tuple[str, ...]:
    return _of(f"{key}.of", "category", entry.of, names.categories)


def _of(key: str, what: str, of: str | tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    plural = {"channel": "channels", "category": "categories"}[what]
    names = (of,) if isinstance(of, str) else of
    if not known:
        raise wrong(key, f"a {what}, but the recipe has no {plural}", repr(of) if of else "nothing")
    if names == ("all",):
        return known
    if not names or names == ("",):
        raise wrong(key, f"'all', a {what} or a list of {plural}", "nothing")
    for name in names:
        if name not in known:
            raise wrong(key, f"'all' or {plural} out of {', '.join(known)}", repr(name))
    return once(key, names)


def _stats(key: str, entry: FeatureEntry, known: Any) -> Any:
    """Statistics of the form's own kind, at least one."""
    allowed = get_args(known)
    if not entry.stats:
        raise wrong(f"{key}.stats", f"at least one of {', '.join(allowed)}", "none")
    for i, stat in enumerate(once(f"{key}.stats", entry.stats)):
        if stat not in allowed:
            raise wrong(f"{key}.stats[{i}]", f"one of {', '.join(allowed)}", repr(stat))
    return entry.stats


def _kinds(key: str, entry: FeatureEntry, known: Any) -> Any:
    """Kinds of the form's own, all of them if nothing is said."""
    allowed = get_args(known)
    for i, kind in enumerate(once(f"{key}.kinds", entry.kinds)):
        if kind not in allowed:
            raise wrong(f"{key}.kinds[{i}]", f"one of {', '.join(allowed)}", repr(kind))
    return entry.kinds or allowed


def _panes(key: str, entry: FeatureEntry, default: int) -> int:
    panes = default if entry.panes is None else entry.panes
    if not 1 <= panes <= 1000:
        raise wrong(f"{key}.panes", "a number from 1 to 1000", str(panes))
    return panes


def _number(key: str, found: float | None, default: float, low: float, high: float) -> float:
    if found is not None and not low <= found <= high:
        raise wrong(key, f"a number from {low:g} to {high:g}", f"{found:g}")
    return default if found is None else found


# ── time zones ──────────────────────────────────────────────────────────────────────────────────────────────────────

_FIRST_YEAR, _LAST_YEAR = 2000, 2060
_ALWAYS = -(2**62)
_SECOND = 10**9


def zone_offsets(name: str) -> tuple[tuple[int, int], ...]:
    """Since when (ns) a zone's local time is how far (ns) ahead of UTC, from 2000 to 2060; nothing for UTC.

    Raises:
        ConfigError: there is no such zone.
    """
    try:
        zone = ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(f"expected a zone such as UTC or Europe/Paris, found {name!r}") from None

    def offset(at_s: int) -> int:
        found = datetime.fromtimestamp(at_s, zone).utcoffset() or timedelta()
        return int(found.total_seconds()) * _SECOND

    at_s = int(datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp())
    end_s = int(datetime(_LAST_YEAR, 1, 1, tzinfo=UTC).timestamp())
    found = [(_ALWAYS, offset(at_s))]
    for day_s in range(at_s, end_s, 86_400):
        if offset(day_s + 86_400) != found[-1][1]:
            low, high = day_s, day_s + 86_400
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == found[-1][1] else (low, middle)
            found.append((high * _SECOND, offset(high)))
    return () if found == [(_ALWAYS, 0)] else tuple(found)
