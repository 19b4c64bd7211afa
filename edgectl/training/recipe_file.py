"""The form of ``recipe.yaml``, key by key, before anything is checked but names and types.

`edgectl.training.recipe` gives the values meaning; durations, rates and sizes are still text here.
"""

from __future__ import annotations

import msgspec
from edgectl_agent.config import LogLines
from edgectl_agent.core.bundle import Instant, Period, TimingKind, TumblingPart, Variant


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the file; durations, rates and sizes are still text."""


class TimeEntry(_Entry, frozen=True, kw_only=True):
    """When a reading was taken."""

    column: str
    zone: str = "UTC"
    """Of times without an offset."""


class ChannelEntry(_Entry, frozen=True, kw_only=True):
    """One number per reading."""

    column: str = ""
    """Where the data has it, if not under the channel's own name."""
    unit: str = ""
    range: tuple[float | None, float | None] = (None, None)
    hold: str = "0s"
    optional: bool = False


class MineEntry(_Entry, frozen=True, kw_only=True):
    """How the templates of messages are mined."""

    similarity: float = 0.6
    """Share of words that messages of one template have in common at least."""
    most: int = 500
    """Templates that are kept."""


class CategoryEntry(_Entry, frozen=True, kw_only=True):
    """One text, whole number or truth value per reading that names something."""

    column: str = ""
    """Where the data has it, if not under the category's own name."""
    mine: bool | MineEntry = False
    """Its values are messages; training mines their templates."""


class SamplingEntry(_Entry, frozen=True, kw_only=True):
    """How often readings come; what counts as a gap."""

    every: str = ""
    gap_after: str = ""


class JoinEntry(_Entry, frozen=True, kw_only=True):
    """Readings of several streams become rows of one."""

    streams: dict[str, str]
    """Channel → the streams that bring it: a name, or a pattern with one ``*`` for the key. The first one leads."""
    within: str
    """How old a value may be in a row."""
    stream: str = ""
    """The joined stream's name, with ``*`` for the key; default: the key, or the recipe's name where there is none."""
    every: str = ""
    """Rows at multiples of this; default: at the leader's event times."""
    idle: str = ""
    """How far a member may be behind the newest before rows no longer wait for it; default: `within`."""


class FeatureEntry(_Entry, frozen=True, kw_only=True):
    """One group of features: one of the keys in `feature_entries.FORMS`, and keys that belong to it."""

    of: str | tuple[str, ...] = ""
    window: str = ""
    instant: tuple[Instant, ...] = ()
    phase: tuple[Period, ...] = ()
    tumbling: str = ""
    decay: str = ""
    lag: int | tuple[int, ...] = ()
    unchanged: str = ""
    timing: tuple[TimingKind, ...] = ()
    seasonal: tuple[Period, ...] = ()
    habit: str = ""
    distinct: str = ""
    counts: str = ""
    new: str = ""
    templates: str = ""
    top: int | None = None
    stats: tuple[str, ...] = ()
    part: tuple[TumblingPart, ...] = ()
    kinds: tuple[str, ...] = ()
    panes: int | None = None
    quantiles: tuple[float, ...] = ()
    error: float | None = None
    """How far a quantile or a distinct count may be off, as a share."""
    resolution: float | None = None
    half_life: str = ""
    bins: int | None = None
    zone: str = ""
    values: tuple[str | int | bool, ...] = ()
    capacity: int | None = None
    share: str = ""


class TrainEntry(_Entry, frozen=True, kw_only=True):
    """Which readings the model is fitted to: the earliest ones."""

    part: str = "first 70%"
    exclude: str = ""
    clip: float | None = None
    """How many spreads from the centre one feature counts at most; for wide recipes, so that one channel alone does not
    decide what is strange."""


class BudgetEntry(_Entry, frozen=True, kw_only=True):
    """Tolerated false alerts per stream, as rates such as ``1/day``."""

    warning: str
    critical: str


class AlertsEntry(_Entry, frozen=True, kw_only=True):
    """When scores become alerts."""

    budget: BudgetEntry
    hold: str = "0s"
    clear_after: str = "10m"
    adapt: tuple[float, float] = (0.5, 4.0)
    """How far a node may move the threshold by what it sees, down and up, as multiples of the calibrated one."""
    smooth: tuple[float, float] = (1.0, 1.0)
    """How far a stream's score goes to each new one, up and down, as shares of the distance."""
    runbook: str = ""


class ShipEntry(_Entry, frozen=True, kw_only=True):
    """Which variants to try, and the limits of size and latency."""

    variants: tuple[Variant, ...] = ("fp32", "fp16", "int8")
    max_size: str = ""
    latency_p99: str = ""


class RecipeFile(_Entry, frozen=True, kw_only=True):
    """The whole file."""

    recipe: str
    description: str = ""
    stream: str = ""
    """Column with the stream's name; without it all readings are one stream, named after the recipe."""
    time: TimeEntry
    channels: dict[str, ChannelEntry | None] = {}
    categories: dict[str, CategoryEntry | None] = {}
    log: LogLines | None = None
    """The data is a log: how its lines become readings."""
    sampling: SamplingEntry = SamplingEntry()
    join: JoinEntry | None = None
    features: tuple[FeatureEntry, ...] = ()
    """May be left out with the model `online` alone: then each channel's own value is watched."""
    warm_up: str = ""
    """Default: the longest window."""
    lateness: str = "0s"
    """How long a node holds readings so that earlier ones may still come; 0 = score on arrival."""
    model: dict[str, str | int | float]
    train: TrainEntry = TrainEntry()
    alerts: AlertsEntry
    ship: ShipEntry = ShipEntry()


msgspec.json.Decoder(RecipeFile)  # not first in two threads at once: see edgectl_agent.core.messages
