"""Choosing a detector without labels: fixed candidates, each fitted to the earlier part and ranked on the later one.

The later part gets synthetic faults of eight kinds (`faults.ALL`) on channels that drift a little, as they will. A
candidate's figure is the average precision with which its scores tell faulty readings from others, over margins of 0,
10 and 20 readings around each fault, so that a state that lasts is no mistake; surges, which move all channels
together, count as much as all the kinds that move a few. Where at least `FEWEST` labelled periods lie in the later
part, they take the faults' place.

Of the candidates within a tenth of the highest figure the first in `CANDIDATES` is chosen, as one does who takes the
simplest model within the noise: they are ordered from the sturdiest on. It is trained as any recipe is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from edgectl_agent.core.batch import Float32, Float64, Int64
from edgectl_agent.core.bundle import Estimator, FeatureSpec, InstantFeatures, Smoothing
from edgectl_agent.core.detector import standardise
from edgectl_agent.core.features import Bool, feature_names
from edgectl_agent.core.smoothing import Smoother

from edgectl.core.errors import ConfigError
from edgectl.core.evaluation import WATCHED, Period
from edgectl.training import estimators, faults
from edgectl.training.features_of import features_of, fit_scaler
from edgectl.training.recipe import Recipe
from edgectl.training.report import CandidateNumbers
from edgectl.training.split import Split, split
from edgectl.training.tables import Table

FEWEST = 3
_MARGINS = (0, 10, 20)
"""Readings."""
_MOST_ROWS = 20_000
"""Rows that a candidate is fitted to, evenly spaced: enough to rank, and a forest or a network stays fast."""
_LASTING = Smoothing(rise=0.5, fall=0.1)
_CLIP = 20.0
_NOISE = 0.1
"""Share of the highest figure that says nothing."""
_DRIFT = 1.0
"""Standard deviations by which a channel drifts over the later part."""

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Estimator × features × smoothing; `changes` adds each channel's step since the reading before."""

    estimator: Estimator
    params: tuple[tuple[str, int | float], ...] = ()
    changes: bool = False
    lasting: bool = False

    @property
    def name(self) -> str:
        """As the ranking shows it."""
        numbers = "".join(f" {key} {value:g}" for key, value in self.params)
        return f"{self.estimator}{numbers}{' + changes' if self.changes else ''}{', smoothed' if self.lasting else ''}"


CANDIDATES: tuple[Candidate, ...] = (
    Candidate(estimator="kmeans", params=(("clusters", 1),), lasting=True),
    Candidate(estimator="kmeans", params=(("clusters", 1),)),
    Candidate(estimator="kmeans", params=(("clusters", 16),), lasting=True),
    Candidate(estimator="kmeans", params=(("clusters", 16),)),
    Candidate(estimator="kmeans", params=(("clusters", 1),), changes=True, lasting=True),
    Candidate(estimator="pca", lasting=True),
    Candidate(estimator="pca"),
    Candidate(estimator="pca", params=(("inside", 1.0),), lasting=True),
    Candidate(estimator="robust-covariance", lasting=True),
    Candidate(estimator="isolation-forest", lasting=True),
    Candidate(estimator="isolation-forest"),
    Candidate(estimator="autoencoder", params=(("epochs", 20),), lasting=True),
)


def choose(
    recipe: Recipe, table: Table, seed: int, labels: tuple[Period, ...], tell: Tell
) -> tuple[Recipe, tuple[CandidateNumbers, ...]]:
    """The recipe with what was chosen, and all candidates: the chosen one first, then by figure.

    Raises:
        ConfigError: there is nothing to rank by, or no candidate can be fitted.
    """
    parts = split(table, recipe.fit_share, labels)
    known = _labelled(table, parts, labels)
    planned = () if known is not None else faults.plan(table, parts.cut, recipe.longest_window_ns, seed, faults.ALL)
    if known is None and not planned:
        raise ConfigError(
            "nothing to rank candidates by: synthetic faults change channels, and need enough held-out readings",
            hint="give more history, or name an estimator in the recipe's model",
        )
    faulty = (
        table if known is not None else faults.inject(_drifted(table, parts, seed), planned, recipe.features.channels)
    )
    truth = known if known is not None else _faulty_rows(planned)
    sides = {changes: Side.of(spec_of(recipe, changes), recipe, table, faulty, parts) for changes in (False, True)}
    found: list[tuple[Candidate, dict[str, float], str]] = []
    for done, candidate in enumerate(CANDIDATES):
        tell("choose", done, len(CANDIDATES))
        try:
            score = sides[candidate.changes].score(candidate, seed)
        except ConfigError as e:
            found.append((candidate, {}, e.message))
            continue
        side = sides[candidate.changes]
        found.append((candidate, {kind: _precision(side, score, truth, kind) for kind in truth}, ""))
    tell("choose", len(CANDIDATES), len(CANDIDATES))
    best = max(_figure(by_kind) for _, by_kind, _ in found)
    if best < 0:
        raise ConfigError(f"no candidate can be fitted: {found[0][2]}")
    chosen = next(one for one in found if _figure(one[1]) >= (1 - _NOISE) * best)
    ranked = [chosen, *sorted((one for one in found if one is not chosen), key=lambda one: -_figure(one[1]))]
    numbers = tuple(
        CandidateNumbers(
            name=one.name, figure=round(_figure(by_kind), 4) if by_kind else None,
            by_kind={kind: round(value, 4) for kind, value in by_kind.items()}, why=why,
        )
        for one, by_kind, why in ranked
    )  # fmt: skip
    return _with(recipe, ranked[0][0]), numbers


def _with(recipe: Recipe, chosen: Candidate) -> Recipe:
    return replace(
        recipe,
        auto=False,
        estimator=chosen.estimator,
        params=dict(chosen.params),
        features=spec_of(recipe, chosen.changes),
        clip=recipe.clip or _CLIP,
        smoothing=_LASTING if chosen.lasting else msgspec.UNSET,
    )


def spec_of(recipe: Recipe, changes: bool) -> FeatureSpec:
    """The recipe's features, with each channel's step since the reading before if `changes`."""
    if not changes:
        return recipe.features
    names = tuple(channel.name for channel in recipe.features.channels)
    groups = (*recipe.features.features, InstantFeatures(channels=names, kinds=("diff",)))
    wider = msgspec.structs.replace(recipe.features, features=groups)
    return wider if len(set(feature_names(wider))) == len(feature_names(wider)) else recipe.features


@dataclass(frozen=True)
class Side:
    """Standardised rows of one set of features: those to fit to, and the later ones in order of stream and time."""

    fit_z: Float32
    held_z: Float32
    rows: Int64
    stream: Int64

    @classmethod
    def of(cls, spec: FeatureSpec, recipe: Recipe, clean: Table, faulty: Table, parts: Split) -> Side:
        x, status = features_of(spec, clean)
        fit_rows = parts.fit(status == 0)
        if len(fit_rows) < 2:
            raise ConfigError("too little data to choose a model: no reading of the earlier part can be scored")
        scaler = fit_scaler(x[fit_rows], recipe.clip or _CLIP)
        fit_z = standardise(x[fit_rows[:: -(-len(fit_rows) // _MOST_ROWS)]], scaler)
        x, status = features_of(spec, faulty)
        held = parts.cut + np.flatnonzero((status == 0)[parts.cut :])
        held = held[np.argsort(clean.stream[held], kind="stable")]
        return cls(fit_z, standardise(x[held], scaler), held, clean.stream[held].astype(np.int64))

    def score(self, candidate: Candidate, seed: int) -> Float64:
        """Scores of the later rows, as a node would judge them."""
        fitted = estimators.fit(
            candidate.estimator, self.fit_z, seed=seed, params=dict(candidate.params), progress=lambda done, total: None
        )
        score = fitted.score(self.held_z)
        return Smoother(_LASTING).push(self.stream.astype(np.int32), score) if candidate.lasting else score


def _labelled(table: Table, parts: Split, labels: tuple[Period, ...]) -> dict[str, list[Int64]] | None:
    """Rows of each labelled period in the later part; None if there are too few."""
    found = []
    for label in labels:
        if label.kind == WATCHED:
            continue
        inside: Bool = (table.event_time >= label.start_ns) & (table.event_time <= label.end_ns)
        if label.stream:
            inside &= table.stream == (table.streams.index(label.stream) if label.stream in table.streams else -1)
        rows = np.flatnonzero(inside)
        if len(rows) and rows[0] >= parts.cut:
            found.append(rows)
    return {"labelled": found} if len(found) >= FEWEST else None


def _faulty_rows(planned: tuple[faults.Fault, ...]) -> dict[str, list[Int64]]:
    kinds: dict[str, list[Int64]] = {}
    for fault in planned:
        kinds.setdefault(fault.kind, []).append(np.array(fault.rows))
    return kinds


def _precision(side: Side, score: Float64, truth: dict[str, list[Int64]], kind: str) -> float:
    """Average precision of one kind; readings of the other kinds do not count."""
    from sklearn.metrics import average_precision_score

    place = np.full(int(side.rows.max()) + 1, -1)
    place[side.rows] = np.arange(len(side.rows))
    figures = []
    for margin in _MARGINS:
        mine = _mask(side, place, truth[kind], margin)
        others = _mask(side, place, [rows for name, some in truth.items() if name != kind for rows in some], margin)
        counted = mine | ~others
        if mine.any():
            figures.append(float(average_precision_score(mine[counted], score[counted])))
    return float(np.mean(figures)) if figures else 0.0


def _mask(side: Side, place: Int64, periods: list[Int64], margin: int) -> Bool:
    """Places of the rows of `periods`, and up to `margin` places of the same stream on either side."""
    found = np.zeros(len(side.rows), bool)
    for rows in periods:
        at = place[rows[rows < len(place)]]
        at = at[at >= 0]
        if len(at) == 0:
            continue
        begin, end = max(int(at[0]) - margin, 0), int(at[-1]) + margin + 1
        near = np.arange(begin, min(end, len(found)))
        if margin == 0:
            near = at
        found[near[side.stream[near] == side.stream[at[0]]]] = True
    return found


def _figure(by_kind: dict[str, float]) -> float:
    """-1 for a candidate that could not be fitted."""
    if not by_kind:
        return -1.0
    few = [value for kind, value in by_kind.items() if kind != "surge"]
    together = [by_kind["surge"]] if "surge" in by_kind else []
    return float(np.mean([np.mean(part) for part in (few, together) if part]))


def _drifted(table: Table, parts: Split, seed: int) -> Table:
    """Each channel wanders off by a random amount over the first quarter of the later part, and stays there."""
    random, values = np.random.default_rng(seed), table.values.copy()
    later = values[parts.cut :]
    way = np.minimum(np.arange(len(later)) / max(len(later) / 4, 1), 1.0)
    for column in range(values.shape[1]):
        some = values[: parts.cut, column]
        some = some[~np.isnan(some)]
        later[:, column] += _DRIFT * (some.std() if len(some) else 0.0) * random.normal() * way
    return replace(table, values=values)
