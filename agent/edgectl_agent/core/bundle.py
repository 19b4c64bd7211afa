"""What a node fetches: model, preprocessing, calibration and golden vectors in one file.

A bundle is one msgpack document, not an archive: it has no member names, so nothing can be extracted to a path, and
decoding is strict (unknown or missing fields are refused). Encoding is deterministic, so the SHA-256 of the bytes
names the bundle. Round-trip law: ``decode(encode(b)) == b`` and ``encode(decode(raw)) == raw`` for every ``raw`` that
`encode` made. The bundle carries no version and no date: the same data, recipe and seed give the same digest. The
version, fallbacks and measured latency are in the signed `Release`.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from edgectl_agent.core.errors import TrustError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.units import DAY_NS

FORMAT = 1
MAX_BUNDLE_BYTES = 64 * 1024 * 1024
MAX_LATENESS_NS = 7 * DAY_NS

Stat = Literal["mean", "std", "min", "max", "count", "sum", "slope"]
Instant = Literal["value", "diff"]
Period = Literal["day", "week"]
TumblingPart = Literal["closed", "running"]
DecayedStat = Literal["mean", "std", "count", "sum", "rate", "residual", "z"]
TimingKind = Literal["since_last", "rate"]
SeasonalKind = Literal["residual", "z"]
TemplateKind = Literal["count", "unseen", "rarity"]
Variant = Literal["fp32", "fp16", "int8"]
Estimator = Literal["pca", "isolation-forest", "autoencoder", "kmeans", "robust-covariance", "online"]
PositiveInt = Annotated[int, msgspec.Meta(gt=0)]
Panes = Annotated[int, msgspec.Meta(gt=0, le=1000)]
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Immutable; refuses what it does not know."""


class Channel(_Strict, frozen=True, kw_only=True):
    """One number per reading. Outside ``low..high`` a value counts as a bad sensor and as missing."""

    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    optional: bool = False
    hold_ns: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How long the last good value stands in for a missing one."""


class WindowFeatures(_Strict, frozen=True, kw_only=True, tag="window"):
    """Statistics of the channels' valid values over a sliding window made of ``panes`` panes."""

    channels: tuple[str, ...]
    window_ns: PositiveInt
    panes: PositiveInt = 10
    stats: tuple[Stat, ...]


class InstantFeatures(_Strict, frozen=True, kw_only=True, tag="instant"):
    """The reading's own value, or its difference to the stream's previous valid value."""

    channels: tuple[str, ...]
    kinds: tuple[Instant, ...]


class PhaseFeatures(_Strict, frozen=True, kw_only=True, tag="phase"):
    """Sine and cosine of the event time within a day or a week (UTC)."""

    periods: tuple[Period, ...]


class TumblingFeatures(_Strict, frozen=True, kw_only=True, tag="tumbling"):
    """Statistics of the tumbling window that is running, or of the one closed before it."""

    channels: tuple[str, ...]
    window_ns: PositiveInt
    stats: tuple[Stat, ...]
    parts: tuple[TumblingPart, ...] = ("closed",)


class DecayedFeatures(_Strict, frozen=True, kw_only=True, tag="decayed"):
    """Statistics whose past fades with a half-life, and a value's deviation from them."""

    channels: tuple[str, ...]
    half_life_ns: PositiveInt
    stats: tuple[DecayedStat, ...]


class LagFeatures(_Strict, frozen=True, kw_only=True, tag="lag"):
    """The k-th valid value before the reading, or the difference to it."""

    channels: tuple[str, ...]
    lags: tuple[Annotated[int, msgspec.Meta(gt=0, le=1000)], ...]
    kinds: tuple[Instant, ...]


class UnchangedFeatures(_Strict, frozen=True, kw_only=True, tag="unchanged"):
    """For how many whole spans the channels' values have stood still."""

    channels: tuple[str, ...]
    span_ns: PositiveInt


class TimingFeatures(_Strict, frozen=True, kw_only=True, tag="timing"):
    """Seconds since the stream's previous reading, and its readings per second with a half-life."""

    kinds: tuple[TimingKind, ...]
    half_life_ns: PositiveInt


class SeasonalFeatures(_Strict, frozen=True, kw_only=True, tag="seasonal"):
    """A value's deviation from what is usual at this time of the day or week."""

    channels: tuple[str, ...]
    periods: tuple[Period, ...]
    kinds: tuple[SeasonalKind, ...]
    bins: tuple[Annotated[int, msgspec.Meta(gt=0, le=1440)], ...]
    """Per day, for each period."""
    half_life_ns: PositiveInt
    offsets: tuple[tuple[int, int], ...] = ()
    """Local time minus UTC, ns, since a time in ns, rising; UTC before the first."""


class QuantileFeatures(_Strict, frozen=True, kw_only=True, tag="quantile"):
    """Quantiles of the channels' valid values over a sliding window, within a relative error."""

    channels: tuple[str, ...]
    window_ns: PositiveInt
    panes: Panes = 5
    quantiles: tuple[Annotated[float, msgspec.Meta(ge=0, le=1)], ...]
    error: Annotated[float, msgspec.Meta(ge=0.005, le=0.5)]
    resolution: Annotated[float, msgspec.Meta(gt=0)]
    highest: Annotated[float, msgspec.Meta(gt=0)]
    signed: bool = True
    """False for channels without negative values."""

    def __post_init__(self) -> None:
        if not 1 < self.highest / self.resolution <= 1e12:
            raise ValueError("quantiles span from resolution to highest, at most a factor of 1e12")


class HabitFeatures(_Strict, frozen=True, kw_only=True, tag="habit"):
    """How far a value's size is from the stream's own habit over a sliding window, in octaves and robust."""

    channels: tuple[str, ...]
    window_ns: PositiveInt
    panes: Panes = 3
    error: Annotated[float, msgspec.Meta(ge=0.005, le=0.5)]
    resolution: Annotated[float, msgspec.Meta(gt=0)]
    highest: Annotated[float, msgspec.Meta(gt=0)]

    def __post_init__(self) -> None:
        if not 1 < self.highest / self.resolution <= 1e12:
            raise ValueError("a habit spans from resolution to highest, at most a factor of 1e12")


class DistinctFeatures(_Strict, frozen=True, kw_only=True, tag="distinct"):
    """How many different values the categories had over a sliding window."""

    categories: tuple[str, ...]
    window_ns: PositiveInt
    panes: Panes = 5
    registers: Literal[16, 32, 64, 128, 256, 512, 1024, 2048, 4096]


class CountFeatures(_Strict, frozen=True, kw_only=True, tag="count"):
    """How often the categories had each of `values`, or the reading's own value, over a sliding window."""

    categories: tuple[str, ...]
    window_ns: PositiveInt
    panes: Panes = 5
    values: tuple[str, ...] = ()


class NewFeatures(_Strict, frozen=True, kw_only=True, tag="new"):
    """Whether the stream did not have the category's value before, or the share of such values in a sliding window."""

    categories: tuple[str, ...]
    memory_ns: PositiveInt
    capacity: Annotated[int, msgspec.Meta(gt=0, le=100_000)] = 100
    """Different values per `memory_ns` for which the stated false rate holds."""
    share_ns: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Length of the window, 0 for the reading's own value."""
    panes: Panes = 5


class TemplateFeatures(_Strict, frozen=True, kw_only=True, tag="template"):
    """What a sliding window has of a category whose templates training mined: how often each of the `top` commonest
    came, how many values training never saw, and how rare they are: the mean of -log2 of their share in training.
    """

    categories: tuple[str, ...]
    window_ns: PositiveInt
    panes: Panes = 5
    top: Annotated[int, msgspec.Meta(ge=0, le=200)] = 0
    kinds: tuple[TemplateKind, ...]


CategoryFeatures = DistinctFeatures | CountFeatures | NewFeatures | TemplateFeatures
Features = (
    WindowFeatures
    | InstantFeatures
    | PhaseFeatures
    | TumblingFeatures
    | DecayedFeatures
    | LagFeatures
    | UnchangedFeatures
    | TimingFeatures
    | SeasonalFeatures
    | QuantileFeatures
    | HabitFeatures
    | DistinctFeatures
    | CountFeatures
    | NewFeatures
    | TemplateFeatures
)


def span_ns(group: Features) -> int:
    """How far back in event time a group mainly looks, hence how long a stream takes to fill it.

    0 for what needs no window; baselines of the day or week, habits, and what is new, take too long to wait for.
    """
    if isinstance(group, TumblingFeatures):
        return group.window_ns * (2 if "closed" in group.parts else 1)
    if isinstance(group, DecayedFeatures):
        return group.half_life_ns
    if isinstance(group, TimingFeatures):
        return group.half_life_ns if "rate" in group.kinds else 0
    if isinstance(group, NewFeatures):
        return group.share_ns
    if isinstance(group, WindowFeatures | QuantileFeatures | DistinctFeatures | CountFeatures | TemplateFeatures):
        return group.window_ns
    return 0


class JoinMember(_Strict, frozen=True, kw_only=True):
    """Streams that bring some of the channels: a name, or a pattern whose one ``*`` is the key."""

    streams: Annotated[str, msgspec.Meta(min_length=1)]
    channels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Join(_Strict, frozen=True, kw_only=True):
    """Streams whose readings become rows of one, in event time (`core.join`). The first member leads."""

    stream: Annotated[str, msgspec.Meta(min_length=1)]
    """The joined stream's name; its ``*`` stands for the key."""
    members: Annotated[tuple[JoinMember, ...], msgspec.Meta(min_length=1, max_length=64)]
    within_ns: PositiveInt
    """How old a value may be in a row."""
    every_ns: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Rows at its multiples; 0 = at the leader's event times."""
    idle_ns: PositiveInt
    """How far in event time a member may be behind the newest before rows no longer wait for it."""
    columns: tuple[str, ...] = ()
    """What sources call the channels, in the spec's order; empty = by their own names."""

    def __post_init__(self) -> None:
        keyed = ["*" in member.streams for member in self.members]
        if any(keyed) != ("*" in self.stream) or keyed[0] != any(keyed):
            raise ValueError("a join by key has * in its stream and in its first member")
        if any(text.count("*") > 1 for text in (self.stream, *(member.streams for member in self.members))):
            raise ValueError("a join's stream and members have one * each at most")
        if self.every_ns and not self.every_ns <= self.within_ns <= 1000 * self.every_ns:
            raise ValueError("a join holds a value for one to a thousand rows")


class Templates(_Strict, frozen=True, kw_only=True):
    """The templates of one category, the commonest first, with -log2 of each one's share in training."""

    category: str
    texts: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)]
    bits: tuple[float, ...]
    unseen_bits: float
    """What a value counts as that training did not see."""

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.bits):
            raise ValueError("templates and their rarities differ in number")


class FeatureSpec(_Strict, frozen=True, kw_only=True):
    """Which features, in which order. Training and the node build the same columns from it, to the last bit."""

    channels: tuple[Channel, ...]
    features: tuple[Features, ...]
    warm_up_ns: Annotated[int, msgspec.Meta(ge=0)]
    """Event time that a stream must span before its readings are scored."""
    gap_after_ns: Annotated[int, msgspec.Meta(ge=0)] = 0
    """A pause longer than this empties the windows' meaning: the stream warms up again. 0 = never."""
    lateness_ns: Annotated[int, msgspec.Meta(gt=0, le=MAX_LATENESS_NS)] | msgspec.UnsetType = msgspec.UNSET
    """How long readings are held so that earlier ones may still come. Unset = scored on arrival; then it is not
    encoded, so that bundles which were made before it keep their digests."""
    join: Join | msgspec.UnsetType = msgspec.UNSET
    """Unset = readings are scored as they are."""
    templates: tuple[Templates, ...] | msgspec.UnsetType = msgspec.UNSET
    """Of the categories whose templates training mined; not encoded where there are none."""

    def __post_init__(self) -> None:
        if isinstance(self.join, msgspec.UnsetType):
            return
        brought = sorted(name for member in self.join.members for name in member.channels)
        if brought != sorted(channel.name for channel in self.channels) or self.categories:
            raise ValueError("a join brings each channel once, and no categories")
        if self.join.columns and len(self.join.columns) != len(self.channels):
            raise ValueError("a join's columns are one for each channel")

    def templates_of(self, category: str) -> Templates | None:
        """None for a category whose values are what they are."""
        known = () if isinstance(self.templates, msgspec.UnsetType) else self.templates
        return next((one for one in known if one.category == category), None)

    @property
    def lateness(self) -> int:
        """ns, 0 if readings are scored on arrival."""
        return 0 if isinstance(self.lateness_ns, msgspec.UnsetType) else self.lateness_ns

    @property
    def categories(self) -> tuple[str, ...]:
        """What the features need beside channels, in the order of the columns of ``Batch.codes``."""
        groups = (group for group in self.features if isinstance(group, CategoryFeatures))
        return tuple(dict.fromkeys(category for group in groups for category in group.categories))


class Scaler(_Strict, frozen=True, kw_only=True):
    """``z = (feature - center) / scale`` in float64, clipped to ``±clip``, then cast to the model's float32."""

    center: tuple[float, ...]
    scale: tuple[float, ...]
    clip: float = 1e4


class Peaks(_Strict, frozen=True, kw_only=True):
    """Excesses are those of excursions, not of readings: readings above the base no further apart than ``gap_ns``."""

    gap_ns: Annotated[int, msgspec.Meta(ge=0)]
    learn_after_ns: PositiveInt = DAY_NS
    """How long an alarm lasts before it is taken for a change of the stream's level."""


class Tail(_Strict, frozen=True, kw_only=True):
    """The upper tail of raw scores on calibration data: peaks over a base level, summarised by moments.

    Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory", KDD 2017, section 4; moments as in Hosking
    & Wallis 1987. ``weight`` readings were seen, of which ``excesses`` lay above ``base``.
    """

    base: float
    base_fraction: Fraction
    weight: float
    excesses: float
    excess_mean: float
    excess_square: float
    """Mean of the squared excess."""
    interval_ns: PositiveInt
    """Median event time between two readings of a stream."""
    peaks: Peaks | msgspec.UnsetType = msgspec.UNSET
    """Unset = excesses are those of readings, and nothing is encoded."""


class Budget(_Strict, frozen=True, kw_only=True):
    """Tolerated false alerts per stream per day."""

    warning_per_day: Annotated[float, msgspec.Meta(gt=0)]
    critical_per_day: Annotated[float, msgspec.Meta(gt=0)]


class AlertRule(_Strict, frozen=True, kw_only=True):
    """When a score above the threshold becomes an alert, and when the alert ends. Durations are event time."""

    hold_ns: Annotated[int, msgspec.Meta(ge=0)] = 0
    clear_after_ns: Annotated[int, msgspec.Meta(ge=0)] = 0
    runbook: str = ""


class Adaptation(_Strict, frozen=True, kw_only=True):
    """Signed bounds of what the node may learn: how far from the calibrated threshold it may move, and how fast."""

    lowest: float = 0.5
    highest: float = 4.0
    """The adapted threshold stays within ``lowest..highest`` times the calibrated threshold."""
    block: PositiveInt = 64
    """Readings per update; the threshold is constant inside a block, which makes it independent of batch boundaries."""
    memory: PositiveInt = 20_000
    """Readings after which an observation has lost 63 % of its weight."""


class Records(_Strict, frozen=True, kw_only=True, tag="records"):
    """Constants of the detector that learns on the node alone; see `core.records`."""

    fast: Fraction = 0.1
    slow: Fraction = 0.001
    """What a reading adds to the fast and to the slow mean."""
    fade: Fraction = 1e-4
    """How much of its half-range a range loses per reading."""
    warm_up: Annotated[int, msgspec.Meta(ge=2)] = 100
    """Readings of a channel before it is judged."""
    refractory: PositiveInt = 50
    """Readings after which a peak has lost 63 %."""
    surprise: Annotated[tuple[tuple[float, float], ...], msgspec.Meta(min_length=2)] = (
        (0.0, 0.0), (0.001, 2.1), (0.005, 2.52), (0.01, 2.83), (0.02, 3.03), (0.05, 3.27), (0.1, 3.56), (1.0, 5.0),
        (1000.0, 20.0),
    )  # fmt: skip
    """Excess in units of the range, rising from 0 → -log10 of the share of readings that exceed it."""

    def __post_init__(self) -> None:
        pairs = list(zip(self.surprise, self.surprise[1:], strict=False))
        if self.surprise[0][0] != 0 or any(not (a[0] < b[0] < 1e9 and a[1] <= b[1] < 1e9) for a, b in pairs):
            raise ValueError("surprise rises with the excess, from 0")


class Smoothing(_Strict, frozen=True, kw_only=True):
    """How far a stream's score goes to each new one: up by ``rise`` of the distance, down by ``fall`` of it."""

    rise: Annotated[float, msgspec.Meta(gt=0, le=1)]
    fall: Annotated[float, msgspec.Meta(gt=0, le=1)]


class Golden(_Strict, frozen=True, kw_only=True):
    """Standardised inputs with the scores that they must give on every node, within ``tolerance``.

    ``inputs`` is float32 little-endian, shape (rows, features), C order; ``scores`` float32, shape (rows,).
    """

    rows: PositiveInt
    inputs: bytes
    scores: bytes
    tolerance: float
    """Largest ``|score - expected| / max(1, |expected|)``."""


class Bundle(_Strict, frozen=True, kw_only=True):
    """Everything that one node needs to detect with one model."""

    format: int = FORMAT
    recipe: str
    estimator: Estimator
    variant: Variant
    features: FeatureSpec
    feature_names: tuple[str, ...]
    scaler: Scaler
    tail: Tail
    budget: Budget
    rule: AlertRule
    adaptation: Adaptation
    golden: Golden
    model: bytes
    """ONNX. Input ``features`` float32 (n, len(feature_names)); output ``score`` float32 (n,), higher is stranger.
    Empty for the estimator ``online`` alone."""
    online: Records | msgspec.UnsetType = msgspec.UNSET
    """Of the estimator ``online``: it learns on the node, each feature of a stream by itself; scaler, tail and
    adaptation then mean nothing. Not encoded for the others."""
    smoothing: Smoothing | msgspec.UnsetType = msgspec.UNSET
    """Unset = each score is judged as it is, and nothing is encoded."""


_decoder = msgspec.msgpack.Decoder(Bundle)


def encode(bundle: Bundle) -> bytes:
    """The bytes whose SHA-256 names the bundle."""
    return msgspec.msgpack.encode(bundle)


def decode(raw: bytes) -> Bundle:
    """Read a bundle.

    Raises:
        TrustError: larger than `MAX_BUNDLE_BYTES`, truncated, of another format, or with a missing, mistyped or unknown
            field; shapes that contradict each other.
    """
    if len(raw) > MAX_BUNDLE_BYTES:
        raise TrustError(f"bundle has {len(raw)} bytes, more than the {MAX_BUNDLE_BYTES} allowed", reason="oversized")
    try:
        bundle = _decoder.decode(raw)
    except UNREADABLE as e:
        raise TrustError(f"bundle does not decode: {e}", reason="malformed") from e
    if bundle.format != FORMAT:
        raise TrustError(f"bundle format {bundle.format} is not the expected {FORMAT}", reason="malformed")
    _refuse_mixed(bundle)
    width = len(bundle.feature_names)
    if not width == len(bundle.scaler.center) == len(bundle.scaler.scale):
        raise TrustError("bundle's scaler and feature names differ in length", reason="malformed")
    golden = bundle.golden
    if len(golden.inputs) != 4 * golden.rows * width or len(golden.scores) != 4 * golden.rows:
        raise TrustError("bundle's golden vectors have the wrong size", reason="malformed")
    return bundle


def _refuse_mixed(bundle: Bundle) -> None:
    """A bundle has a model, or constants for learning on the node."""
    online, constants = bundle.estimator == "online", not isinstance(bundle.online, msgspec.UnsetType)
    if online != constants:
        raise TrustError("bundle's estimator and its constants for learning on the node disagree", reason="malformed")
    if online and (bundle.model or bundle.variant != "fp32"):
        raise TrustError("bundle of the estimator online has a model or a variant other than fp32", reason="malformed")


def digest(raw: bytes) -> str:
    """Lower-case hexadecimal SHA-256 of a bundle's bytes: its name everywhere."""
    return hashlib.sha256(raw).hexdigest()
