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

FORMAT = 1
MAX_BUNDLE_BYTES = 64 * 1024 * 1024

Stat = Literal["mean", "std", "min", "max", "count", "sum", "slope"]
Instant = Literal["value", "diff"]
Period = Literal["day", "week"]
Variant = Literal["fp32", "fp16", "int8"]
Estimator = Literal["pca", "isolation-forest", "autoencoder"]
PositiveInt = Annotated[int, msgspec.Meta(gt=0)]
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


Features = WindowFeatures | InstantFeatures | PhaseFeatures


class FeatureSpec(_Strict, frozen=True, kw_only=True):
    """Which features, in which order. Training and the node build the same columns from it, to the last bit."""

    channels: tuple[Channel, ...]
    features: tuple[Features, ...]
    warm_up_ns: Annotated[int, msgspec.Meta(ge=0)]
    """Event time that a stream must span before its readings are scored."""
    gap_after_ns: Annotated[int, msgspec.Meta(ge=0)] = 0
    """A pause longer than this empties the windows' meaning: the stream warms up again. 0 = never."""

    @property
    def categories(self) -> tuple[str, ...]:
        """What the features need beside channels, in the order of the columns of ``Batch.codes``."""
        return tuple(dict.fromkeys(c for group in self.features for c in getattr(group, "categories", ())))


class Scaler(_Strict, frozen=True, kw_only=True):
    """``z = (feature - center) / scale`` in float64, clipped to ``±clip``, then cast to the model's float32."""

    center: tuple[float, ...]
    scale: tuple[float, ...]
    clip: float = 1e4


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
    """ONNX. Input ``features`` float32 (n, len(feature_names)); output ``score`` float32 (n,), higher is stranger."""


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
    width = len(bundle.feature_names)
    if not width == len(bundle.scaler.center) == len(bundle.scaler.scale):
        raise TrustError("bundle's scaler and feature names differ in length", reason="malformed")
    golden = bundle.golden
    if len(golden.inputs) != 4 * golden.rows * width or len(golden.scores) != 4 * golden.rows:
        raise TrustError("bundle's golden vectors have the wrong size", reason="malformed")
    return bundle


def digest(raw: bytes) -> str:
    """Lower-case hexadecimal SHA-256 of a bundle's bytes: its name everywhere."""
    return hashlib.sha256(raw).hexdigest()
