"""What an operator declares about a detector: ``models/NAME/recipe.yaml``, reviewed like code.

A `Recipe` is the file, checked and turned into the values that training and the bundle use. It holds no data and no
weights. Recipes are found by name: the workspace's ``models/`` first, then those that edgectl carries.

Example::

    recipe: press
    stream: machine
    time: {column: ts}
    channels:
      vib: {unit: mm/s, range: [0, 50]}
    features:
      - {of: all, window: 5m, stats: [mean, std]}
    model: {type: pca}
    alerts: {budget: {warning: 1/day, critical: 1/30d}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from edgectl_agent import yamlfile
from edgectl_agent.config import LogLines, TailConfig, check_log
from edgectl_agent.core.bundle import (
    MAX_LATENESS_NS,
    Adaptation,
    AlertRule,
    Budget,
    Channel,
    Estimator,
    Features,
    FeatureSpec,
    InstantFeatures,
    Records,
    Smoothing,
    Templates,
    Variant,
    span_ns,
)
from edgectl_agent.core.features import feature_names
from edgectl_agent.core.units import per_day, size_bytes

from edgectl.core.errors import ConfigError
from edgectl.core.names import unknown
from edgectl.training.feature_entries import Names, feature_groups
from edgectl.training.joins import join_of
from edgectl.training.mining import Mining
from edgectl.training.recipe_checks import at, duration, once, wrong
from edgectl.training.recipe_file import AlertsEntry, BudgetEntry, ChannelEntry, MineEntry, RecipeFile

FILE = "recipe.yaml"
AUTO = "auto"
"""The model type that leaves the choice to training."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PART = re.compile(r"first (\d+(?:\.\d+)?) ?%")


# ── the values ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe that was checked. Durations are ns, sizes bytes, latencies µs."""

    name: str
    description: str = ""
    path: Path
    stream_column: str
    time_column: str
    zone: str
    columns: tuple[str, ...]
    """Where the data has each channel, in the order of ``features.channels``."""
    category_columns: tuple[str, ...] = ()
    """Where it has each category, in the order of ``features.categories``."""
    mined: Mapping[str, Mining] = field(default_factory=dict)
    """Categories whose templates training mines, and how."""
    log: LogLines | None = None
    """Data with the suffix ``.log``, and sources with the format, hold lines of a log that are read in this way."""
    features: FeatureSpec
    estimator: Estimator
    auto: bool = False
    """Training chooses estimator, features and smoothing; `estimator` means nothing before."""
    params: Mapping[str, int | float] = field(default_factory=dict)
    seed: int = 0
    online: Records | None = None
    """Constants of the estimator ``online``."""
    every_ns: int | None = None
    fit_share: float = 0.7
    exclude: Path | None = None
    clip: float | None = None
    budget: Budget
    rule: AlertRule
    adaptation: Adaptation = field(default_factory=Adaptation)
    smoothing: Smoothing | msgspec.UnsetType = msgspec.UNSET
    variants: tuple[Variant, ...] = ("fp32",)
    max_size: int | None = None
    max_p99_us: float | None = None

    def with_templates(self, templates: tuple[Templates, ...]) -> Recipe:
        """With what was mined of a history."""
        return replace(self, features=msgspec.structs.replace(self.features, templates=templates or msgspec.UNSET))

    @property
    def longest_window_ns(self) -> int:
        """0 if there is no window."""
        return max(map(span_ns, self.features.features), default=0)


def load(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: one sentence ``file: path.of.key: expected …, found …``.
    """
    raw = yamlfile.load(path, RecipeFile)
    try:
        return _checked(raw, path)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e.message}", hint=e.hint) from e


def find(name: str, models: Path | None) -> Recipe:
    """The recipe called `name` in `models` or among the packaged ones; or the file or folder at that path.

    Raises:
        NothingMatched: there is none; lists the closest names.
        ConfigError: it is wrong.
    """
    if _NAME.fullmatch(name):
        for folder in (models, packaged()):
            if folder is not None and (folder / name / FILE).is_file():
                return load(folder / name / FILE)
    path = Path(name)
    if path.is_dir():
        path = path / FILE
    if path.is_file():
        return load(path)
    raise unknown("recipe", name, available(models))


def available(models: Path | None) -> dict[str, Path]:
    """Recipe names → files; the workspace's own hide packaged ones of the same name."""
    found: dict[str, Path] = {}
    for folder in (packaged(), models):
        if folder is not None and folder.is_dir():
            found.update({p.parent.name: p for p in sorted(folder.glob(f"*/{FILE}"))})
    return found


def packaged() -> Path | None:
    """The recipes that edgectl carries: package data when installed, ``models/`` in a clone."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_models", package.parent / "models"):
        if folder.is_dir():
            return folder
    return None


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _checked(raw: RecipeFile, path: Path) -> Recipe:
    if not _NAME.fullmatch(raw.recipe):
        raise wrong("recipe", "a name of letters, digits, '.', '_' and '-'", raw.recipe)
    if not raw.channels and not raw.categories:
        raise wrong("channels", "at least one channel, or a category under 'categories'", "none")
    _refuse_shared_names(raw)
    channels = tuple(_channel(name, entry or ChannelEntry()) for name, entry in raw.channels.items())
    mined = _mined(raw)
    names = Names(channels, tuple(raw.categories), _zone(raw.time.zone), tuple(mined))
    estimator, seed, params = _model(raw.model)
    features = feature_groups(raw.features, names) if raw.features else _own_values(raw, channels, estimator)
    spec = FeatureSpec(
        channels=channels,
        features=features,
        warm_up_ns=_warm_up(raw, features),
        gap_after_ns=duration("sampling.gap_after", raw.sampling.gap_after) if raw.sampling.gap_after else 0,
        lateness_ns=_lateness(raw.lateness),
        join=join_of(raw),
    )
    once("features", feature_names(spec))
    part = _PART.fullmatch(raw.train.part.strip())
    if part is None or not 10 <= float(part[1]) <= 95:
        raise wrong("train.part", "'first N%' with N from 10 to 95", raw.train.part)
    return Recipe(
        name=raw.recipe,
        description=raw.description,
        path=path,
        stream_column=raw.stream,
        time_column=raw.time.column,
        zone=_zone(raw.time.zone),
        columns=tuple((entry or ChannelEntry()).column or name for name, entry in raw.channels.items()),
        category_columns=tuple(_category_column(raw, name) for name in spec.categories),
        mined={name: how for name, how in mined.items() if name in spec.categories},
        log=_log(raw),
        features=spec,
        estimator=estimator,
        auto=raw.model.get("type") == AUTO,
        params=params,
        seed=seed,
        online=_constants(params) if estimator == "online" else None,
        every_ns=duration("sampling.every", raw.sampling.every) if raw.sampling.every else None,
        fit_share=float(part[1]) / 100,
        exclude=path.parent / raw.train.exclude if raw.train.exclude else None,
        clip=_clip(raw.train.clip),
        budget=_budget(raw.alerts.budget),
        rule=_rule(raw.alerts, estimator),
        adaptation=_adaptation(raw.alerts.adapt),
        smoothing=_smoothing(raw.alerts.smooth, estimator),
        variants=_variants(raw.ship.variants),
        max_size=at("ship.max_size", size_bytes, raw.ship.max_size) if raw.ship.max_size else None,
        max_p99_us=duration("ship.latency_p99", raw.ship.latency_p99) / 1e3 if raw.ship.latency_p99 else None,
    )


def _own_values(raw: RecipeFile, channels: tuple[Channel, ...], estimator: Estimator) -> tuple[Features, ...]:
    """What a recipe without features watches."""
    if estimator != "online":
        raise wrong("features", "at least one group of features (model: {type: online} alone does without)", "none")
    if not channels:
        raise wrong("channels", "at least one channel where there are no features", "none")
    return (InstantFeatures(channels=tuple(raw.channels), kinds=("value",)),)


def _constants(params: Mapping[str, int | float]) -> Records:
    usual = Records()
    return Records(warm_up=int(params.get("warm_up", usual.warm_up)))


def _rule(entry: AlertsEntry, estimator: Estimator) -> AlertRule:
    hold_ns = duration("alerts.hold", entry.hold, zero=True)
    if hold_ns and estimator == "online":
        raise wrong("alerts.hold", "0s with model: {type: online}, which says what is new once", entry.hold)
    return AlertRule(
        hold_ns=hold_ns,
        clear_after_ns=duration("alerts.clear_after", entry.clear_after, zero=True),
        runbook=entry.runbook,
    )


def _lateness(text: str) -> int | msgspec.UnsetType:
    found = duration("lateness", text, zero=True)
    if found > MAX_LATENESS_NS:
        raise wrong("lateness", "at most 7d", text)
    return found or msgspec.UNSET


def _channel(name: str, entry: ChannelEntry) -> Channel:
    low, high = entry.range
    if low is not None and high is not None and not low < high:
        raise wrong(f"channels.{name}.range", "[low, high] with low below high", f"[{low:g}, {high:g}]")
    return Channel(
        name=name,
        unit=entry.unit,
        low=low,
        high=high,
        optional=entry.optional,
        hold_ns=duration(f"channels.{name}.hold", entry.hold, zero=True),
    )


def _refuse_shared_names(raw: RecipeFile) -> None:
    for name in raw.categories:
        if name in raw.channels:
            raise wrong(f"categories.{name}", "a name that no channel has", f"the channel {name!r}")


def _category_column(raw: RecipeFile, name: str) -> str:
    entry = raw.categories[name]
    return entry.column if entry and entry.column else name


def _mined(raw: RecipeFile) -> dict[str, Mining]:
    found = {}
    for name, entry in raw.categories.items():
        if entry is None or not entry.mine:
            continue
        how = MineEntry() if entry.mine is True else entry.mine
        assert isinstance(how, MineEntry)
        if not 0.1 <= how.similarity <= 1:
            raise wrong(f"categories.{name}.mine.similarity", "a share from 0.1 to 1", f"{how.similarity:g}")
        if not 1 <= how.most <= 10_000:
            raise wrong(f"categories.{name}.mine.most", "a number from 1 to 10000", str(how.most))
        found[name] = Mining(similarity=how.similarity, most=how.most)
    return found


def _log(raw: RecipeFile) -> LogLines | None:
    """Raises `ConfigError` where a source with these columns would be refused."""
    if raw.log is None:
        return None
    columns = {name: (entry or ChannelEntry()).column or name for name, entry in raw.channels.items()}
    columns |= {name: _category_column(raw, name) for name in raw.categories}
    check_log(log_config(raw.log, raw.stream or f"={raw.recipe}", raw.time.column, raw.time.zone, columns, {}))
    return raw.log


def log_config(
    log: LogLines, stream: str, time: str, zone: str, channels: Mapping[str, str], categories: Mapping[str, str]
) -> TailConfig:
    """How a node would be told to read such a log."""
    return TailConfig(
        path="", format="log", log=log, stream=stream, time=time, zone=zone, channels=dict(channels),
        categories=dict(categories),
    )  # fmt: skip


def _warm_up(raw: RecipeFile, features: tuple[Features, ...]) -> int:
    if raw.warm_up:
        return duration("warm_up", raw.warm_up, zero=True)
    return max(map(span_ns, features), default=0)


def _model(entry: Mapping[str, str | int | float]) -> tuple[Estimator, int, dict[str, int | float]]:
    from edgectl.training.estimators import PARAMS

    chosen = entry.get("type") == AUTO
    kind: Estimator | None = "kmeans" if chosen else next((e for e in PARAMS if e == entry.get("type")), None)
    if kind is None:
        raise wrong("model.type", f"one of {', '.join((AUTO, *PARAMS))}", repr(entry.get("type", "nothing")))
    seed = entry.get("seed", 0)
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise wrong("model.seed", "a whole number from 0 to 4294967295", repr(seed))
    params: dict[str, int | float] = {}
    for key, value in entry.items():
        if key in ("type", "seed"):
            continue
        known = {} if chosen else PARAMS[kind]
        if key not in known:
            raise ConfigError(f"model.{key}: unknown key, expected one of {', '.join(['type', 'seed', *known])}")
        param = PARAMS[kind][key]
        if isinstance(value, str) or not isinstance(value, (param.kind, int)) or not param.low <= value <= param.high:
            what = "a whole number" if param.kind is int else "a number"
            raise wrong(f"model.{key}", f"{what} from {param.low:g} to {param.high:g} ({param.meaning})", repr(value))
        params[key] = param.kind(value)
    return kind, seed, params


def _budget(entry: BudgetEntry) -> Budget:
    warning = at("alerts.budget.warning", per_day, entry.warning)
    critical = at("alerts.budget.critical", per_day, entry.critical)
    if critical > warning:
        raise wrong("alerts.budget.critical", f"at most the warning budget {entry.warning}", entry.critical)
    return Budget(warning_per_day=warning, critical_per_day=critical)


def _adaptation(bounds: tuple[float, float]) -> Adaptation:
    low, high = bounds
    if not (0.1 <= low <= 1 <= high <= 10):
        raise wrong("alerts.adapt", "[low, high] with 0.1 <= low <= 1 <= high <= 10", f"[{low:g}, {high:g}]")
    return Adaptation(lowest=low, highest=high)


def _smoothing(shares: tuple[float, float], estimator: Estimator) -> Smoothing | msgspec.UnsetType:
    rise, fall = shares
    found = f"[{rise:g}, {fall:g}]"
    if not (0.01 <= fall <= 1 and 0.01 <= rise <= 1):
        raise wrong("alerts.smooth", "[up, down] with shares from 0.01 to 1", found)
    if rise == fall == 1:
        return msgspec.UNSET
    if estimator == "online":
        raise wrong("alerts.smooth", "[1, 1] with model: {type: online}, whose score lasts by itself", found)
    return Smoothing(rise=rise, fall=fall)


def _clip(clip: float | None) -> float | None:
    if clip is not None and not 3 <= clip <= 1e6:
        raise wrong("train.clip", "a number from 3 to 1000000", f"{clip:g}")
    return clip


def _variants(wanted: tuple[Variant, ...]) -> tuple[Variant, ...]:
    if "fp32" not in wanted:
        raise wrong("ship.variants", "fp32 among them, since it is the reference", ", ".join(wanted) or "none")
    return once("ship.variants", wanted)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise wrong("time.zone", "a zone such as UTC or Europe/Paris", repr(name)) from None
    return name
