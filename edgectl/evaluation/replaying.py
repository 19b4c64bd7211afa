"""A recipe or bundle on one series, through the very engine that nodes run: what it would have said, and when.

Readings go through in order of arrival, in batches whose size changes nothing. No label and no later reading is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from edgectl_agent.core.batch import Batch, Float64, StreamTable
from edgectl_agent.core.bundle import Budget, Variant, decode, encode
from edgectl_agent.core.join import unjoined
from edgectl_agent.engine import Engine

from edgectl.core.errors import ConfigError
from edgectl.evaluation.series import Alarm, Corpus, Replayed, Series
from edgectl.training import online
from edgectl.training.pipeline import train
from edgectl.training.quantize import why_not
from edgectl.training.recipe import Recipe
from edgectl.training.tables import Table

CHUNK = 4096
"""Readings per batch."""
THRESHOLD = 1.0
"""Of a detector's scores, which are in units of the threshold in force."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated: a recipe, to be trained on each history, or a bundle as it is.

    Attributes:
        name: as reports show it.
        recipe: None for what is not trained here.
        raw: the bundle, None for a recipe that has yet to be trained.
        variant: of the recipe's models, the one to run.
        seed: instead of the recipe's.
    """

    name: str
    recipe: Recipe | None = None
    raw: bytes | None = None
    variant: Variant = "fp32"
    seed: int | None = None

    @property
    def per_day(self) -> float:
        """False alerts per stream and day that it is meant to keep."""
        if self.raw is not None:
            return decode(self.raw).budget.warning_per_day
        assert self.recipe is not None
        return self.recipe.budget.warning_per_day

    def asked(self, per_day: float) -> Subject:
        """The same with another budget; a bundle as if it had been signed with it."""
        if self.raw is not None:
            bundle = decode(self.raw)
            other = msgspec.structs.replace(bundle, budget=_budget(bundle.budget, per_day))
            return replace(self, raw=encode(other))
        assert self.recipe is not None
        return replace(self, recipe=replace(self.recipe, budget=_budget(self.recipe.budget, per_day)))

    def untrained(self) -> Subject:
        """A recipe that needs no training as the bundle that it is; others as they are.

        Raises:
            ConfigError: there is no such variant of it.
        """
        if self.raw is not None or self.recipe is None or self.recipe.estimator != "online":
            return self
        if why := why_not("online", self.variant):
            raise ConfigError(f"the {self.variant} variant of {self.name}: {why}")
        return replace(self, recipe=None, raw=encode(online.bundle_of(self.recipe)))

    def trained(self, history: Table) -> Subject:
        """With a bundle. Raises `ConfigError` if the recipe cannot be trained on `history`."""
        if self.raw is not None:
            return self
        assert self.recipe is not None
        variants: tuple[Variant, ...] = ("fp32",) if self.variant == "fp32" else ("fp32", self.variant)
        recipe = replace(self.recipe, variants=variants, max_size=None, max_p99_us=None, exclude=None)
        with np.errstate(divide="ignore", invalid="ignore"):  # a history that never changes has no variance
            found = train(recipe, history, seed=self.seed)
        for built in found.built:
            if built.variant == self.variant:
                return replace(self, raw=built.raw)
        why = "; ".join(v.why for v in found.report.variants if v.variant == self.variant)
        raise ConfigError(f"the {self.variant} variant of {self.name} was refused: {why}")


def channels_of(subject: Subject) -> tuple[str, ...]:
    """Names of the channels that the subject wants."""
    if subject.raw is not None:
        return tuple(channel.name for channel in decode(subject.raw).features.channels)
    assert subject.recipe is not None
    return tuple(channel.name for channel in subject.recipe.features.channels)


def fitted(corpus: Corpus, channels: Sequence[str]) -> Corpus:
    """The corpus with the channels that a detector wants, in its order: by name, or the only one for the only one.

    Raises:
        ConfigError: a series lacks a channel.
    """
    return replace(corpus, series=tuple(_fitted(one, tuple(channels)) for one in corpus.series))


def _fitted(series: Series, channels: tuple[str, ...]) -> Series:
    if series.channels == channels:
        return series
    if len(channels) == len(series.channels) == 1:
        return replace(series, channels=channels)
    for channel in channels:
        if channel not in series.channels:
            have = ", ".join(series.channels[:5]) + (", …" if len(series.channels) > 5 else "")
            raise ConfigError(f"{series.name}: the channel {channel!r} is missing, the series has {have}")
    columns = [series.channels.index(channel) for channel in channels]
    return replace(series, channels=channels, values=series.values[:, columns])


def history(series: Sequence[Series], corpus: Corpus) -> Table:
    """What may be learned from: the rows before the scored part, of all `series`, by time."""
    parts = [slice(0, one.begin) for one in series]
    streams = [np.full(one.begin, i, np.int32) for i, one in enumerate(series)]
    codes = [one.codes[part] for one, part in zip(series, parts, strict=True) if one.codes is not None]
    time = np.concatenate([one.time[part] for one, part in zip(series, parts, strict=True)])
    order = np.argsort(time, kind="stable")
    return Table(
        streams=tuple(one.name for one in series),
        stream=np.concatenate(streams)[order],
        event_time=time[order],
        values=np.concatenate([one.values[part] for one, part in zip(series, parts, strict=True)])[order],
        codes=np.concatenate(codes)[order] if codes else None,
        templates=corpus.templates,
    )


def replayed(subject: Subject, series: Series) -> Replayed:
    """Run a bundle over `series`.

    Of the history, a detector that was trained on it sees only as much as fills its windows; another sees all of it, as
    a node would have.

    Raises:
        AdmissionError: the bundle does not answer as where it was made.
        TrustError: the bytes are no bundle.
    """
    assert subject.raw is not None
    bundle = decode(subject.raw)
    raw = encode(msgspec.structs.replace(bundle, features=unjoined(bundle.features)))  # rows are joined already
    streams = StreamTable([series.name])
    engine = Engine.load(raw, "", "evaluation", streams, 1, lambda seconds: None)
    n = len(series)
    first = _lead(series, 2 * bundle.features.warm_up_ns) if subject.recipe is not None else 0
    scores, levels = np.full(n, np.nan), np.full(n, np.nan)
    raised: dict[str, int] = {}
    ended: dict[str, int] = {}
    for at in (*range(first, n, CHUNK), n):
        rows = slice(at, min(at + CHUNK, n))
        last = at == n
        found = engine.flush(0) if last else engine.process(_batch(series, rows), 0, 0, None)
        place = found.serial + first
        scores[place], levels[place] = found.scores, found.threshold
        for alert in found.alerts:
            if alert.state == "cleared":
                ended[alert.id] = alert.changed_ns
            else:
                raised.setdefault(alert.id, alert.changed_ns)
    alarms = sorted((at, ended.get(name)) for name, at in raised.items())
    return Replayed(
        score=in_thresholds(scores, levels), threshold=THRESHOLD, raw=scores, level=levels,
        alarms=tuple(Alarm(at, end) for at, end in sorted(alarms, key=lambda alarm: alarm[0])),
    )  # fmt: skip


def silent(series: Series, why: str) -> Replayed:
    """A series that could not be run: nothing scored, nothing raised, every window missed."""
    nothing = np.full(len(series), np.nan)
    return Replayed(score=nothing, threshold=THRESHOLD, alarms=(), refused=why, raw=nothing, level=nothing)


def in_thresholds(scores: Float64, levels: Float64) -> Float64:
    """Scores in units of the threshold in force, so that 1 means the same for every stream."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Float64 = np.where(levels > 0, scores / levels, 1.0 + scores - levels)
    return found


def _lead(series: Series, span_ns: int) -> int:
    """The row from which windows are warm when the scored part begins."""
    if series.begin >= len(series):
        return 0
    return int(np.argmax(series.time >= series.time[series.begin] - span_ns))


def _batch(series: Series, rows: slice) -> Batch:
    stream = np.zeros(len(series.time[rows]), np.int32)
    codes = None if series.codes is None else series.codes[rows]
    return Batch(stream, series.time[rows], series.values[rows], codes)


def _budget(before: Budget, per_day: float) -> Budget:
    return Budget(warning_per_day=per_day, critical_per_day=min(before.critical_per_day, per_day))
