"""A recipe and a history → bundles and the report: everything between reading files and signing.

features (the node's own code) → scaler → estimator → ONNX → scores of the held-out part → tail and thresholds → replay
through the node's own detector, clean and with synthetic faults → variants, each kept or refused → bundles. Nothing is
written to disk here, so an interruption leaves nothing behind.

Equal data, recipe and seed give equal bundles, byte for byte, on one machine type. Latency is noise: it can veto a
variant but is no part of a bundle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.bundle import Bundle, Tail, Variant, digest, encode
from edgectl_agent.core.detector import standardise
from edgectl_agent.core.features import STATUS, FeatureBuilder, Int8
from edgectl_agent.core.peaks import fit_peaks
from edgectl_agent.core.smoothing import Smoother
from edgectl_agent.core.threshold import fit_tail
from edgectl_agent.core.units import format_duration
from edgectl_agent.inference import Model

from edgectl.core.errors import ConfigError
from edgectl.core.evaluation import Period
from edgectl.periods import read_periods
from edgectl.training import bundles, estimators, export, faults, quantize, report, summary
from edgectl.training.features_of import features_of, fit_scaler
from edgectl.training.recipe import Recipe
from edgectl.training.replay import Replay, replay
from edgectl.training.split import Split, split
from edgectl.training.tables import Table

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)``."""

MIN_FIT, MIN_HELD = 64, 50
"""Scored readings that each part needs at least."""
_GOLDEN_ROWS = 64
_STRENGTHS = (1.0, 3.0, 10.0)
"""Fault sizes to try, in units of the stated ones, until half of the faults are found."""


@dataclass(frozen=True)
class Built:
    """One variant that ships: its bundle as nodes fetch it."""

    variant: Variant
    raw: bytes
    sha256: str
    p99_us: float


@dataclass(frozen=True)
class Trained:
    """What a training run leaves: `built` is never empty. `held` is the clean replay of the fp32 variant."""

    recipe: Recipe
    built: tuple[Built, ...]
    report: report.Report
    held: Replay
    table: Table


def train(
    recipe: Recipe,
    table: Table,
    *,
    seed: int | None = None,
    files: tuple[str, ...] = (),
    labels: tuple[Period, ...] = (),
    progress: Progress = lambda stage, done, total: None,
) -> Trained:
    """Train every variant that the recipe asks for.

    Args:
        recipe: what to build.
        table: the history.
        seed: instead of the recipe's.
        files: names for the report.
        labels: known anomalies, to choose by where the recipe leaves the choice, and not to learn from.
        progress: called often; what it raises (KeyboardInterrupt) ends the run.

    Raises:
        ConfigError: too little data for the recipe, impossible parameters, or no variant within the recipe's limits.
    """
    seed = recipe.seed if seed is None else seed
    if not recipe.auto:
        return _Run(recipe, table, seed, progress, labels).result(files)
    from edgectl.training import auto

    chosen, ranking = auto.choose(recipe.with_templates(table.templates), table, seed, labels, progress)
    trained = _Run(chosen, table, seed, progress, labels).result(files)
    return replace(trained, report=msgspec.structs.replace(trained.report, ranking=ranking))


class _Run:
    """One training run; attributes are what later steps need."""

    def __init__(
        self, recipe: Recipe, table: Table, seed: int, progress: Progress, labels: tuple[Period, ...] = ()
    ) -> None:
        self.labels = labels
        self.recipe = recipe.with_templates(table.templates)
        self.table, self.seed, self.progress = table, seed, progress
        self.interval_ns = recipe.every_ns or max(table.interval_ns, 1)

    def result(self, files: tuple[str, ...]) -> Trained:
        recipe, table = self.recipe, self.table
        known = read_periods(recipe.exclude, "train.exclude of the recipe") if recipe.exclude else ()
        self.parts = split(table, recipe.fit_share, (*known, *self.labels))
        x, status = features_of(recipe.features, table, self._stage("features"))
        usable = status == 0
        fit_rows, held_rows = self.parts.fit(usable), self.parts.held(usable)
        self.held_rows = held_rows
        _refuse_too_little(recipe, table, self.parts, status, len(fit_rows), len(held_rows))
        self.scaler = fit_scaler(x[fit_rows], recipe.clip)
        fit_z, self.held_z = standardise(x[fit_rows], self.scaler), standardise(x[held_rows], self.scaler)
        del x
        fitted = estimators.fit(
            recipe.estimator, fit_z, seed=self.seed, params=recipe.params, progress=self._stage("fit")
        )
        fp32 = export.to_onnx(fitted)
        builds = quantize.build_variants(fp32, fitted, fit_z, recipe.variants)
        self.golden_z = self.held_z[
            estimators.pick_golden_rows(self.held_z, Model(fp32).score(self.held_z), _GOLDEN_ROWS)
        ]
        reference = self._bundle("fp32", fp32)
        held = replay(reference, Model(fp32).score, table, self.parts, self._ticker("held-out"))
        planned = faults.plan(table, self.parts.cut, recipe.longest_window_ns, self.seed)
        found, faulty, strength = self._with_alerts(reference, fp32, planned)
        measured = [self._measure(build, faulty) for build in builds]
        built, numbers = self._decided(measured)
        page = report.Report(
            recipe=recipe.name,
            estimator=recipe.estimator,
            seed=self.seed,
            features=reference.feature_names,
            data=summary.data(recipe, table, files, self.interval_ns),
            split=summary.parts(table, self.parts, status, len(fit_rows), len(held_rows)),
            scores=summary.scores(held.scores, reference),
            alerts=summary.alerts(recipe, table, self.parts, held),
            faults=summary.found(found),
            variants=numbers,
            remarks=summary.remarks(recipe, table, strength),
        )
        return Trained(recipe, built, page, held, table)

    def _bundle(self, variant: Variant, onnx: bytes) -> Bundle:
        """The variant with a threshold of its own: its scores differ a little from fp32's."""
        recipe = self.recipe
        scores = Model(onnx).score(self.held_z).astype(np.float64)
        return bundles.assemble(
            recipe=recipe.name,
            estimator=recipe.estimator,
            variant=variant,
            features=recipe.features,
            feature_names=FeatureBuilder(recipe.features).names,
            scaler=self.scaler,
            tail=self._tail(scores),
            budget=recipe.budget,
            rule=recipe.rule,
            adaptation=recipe.adaptation,
            onnx=onnx,
            golden_z=self.golden_z,
            smoothing=recipe.smoothing,
        )

    def _tail(self, scores: Float64) -> Tail:
        """Of the held-out rows' scores, as a node judges them. Of smoothed ones excursions are counted: with lone high
        readings the share of readings keeps the budget better (docs/adr/0018-a-lasting-score-counts-by-peaks.md)."""
        recipe = self.recipe
        if not recipe.smoothing:
            return fit_tail(scores, self.interval_ns, recipe.budget)
        stream, time = self.table.stream[self.held_rows], self.table.event_time[self.held_rows]
        order = np.argsort(stream, kind="stable")
        stream, time = stream[order], time[order]
        smoothed = Smoother(recipe.smoothing).push(stream, scores[order])
        return fit_peaks(stream, time, smoothed, self.interval_ns, recipe.budget, recipe.rule.clear_after_ns)

    def _with_alerts(
        self, reference: Bundle, fp32: bytes, planned: tuple[faults.Fault, ...]
    ) -> tuple[tuple[faults.Found, ...], Table, float]:
        """What fp32 finds of faults of the stated sizes; and a table whose faults are large enough for it to find half
        of them, since variants that never alert could not be told apart; and how many times as large they are."""
        window_ns = self.recipe.longest_window_ns
        stated: tuple[faults.Found, ...] | None = None
        for strength in _STRENGTHS:
            faulty = faults.inject(self.table, planned, self.recipe.features.channels, strength)
            seen = replay(reference, Model(fp32).score, faulty, self.parts, self._ticker("faults"))
            found = faults.judge(planned, seen.onsets, window_ns)
            stated = stated or found
            if 2 * sum(f.found for f in found) >= len(planned):
                break
        return stated or (), faulty, strength

    def _measure(self, build: quantize.VariantBuild, faulty: Table) -> _Measurement:
        bundle = self._bundle(build.variant, build.onnx)
        found = replay(bundle, Model(build.onnx).score, faulty, self.parts, self._ticker(build.variant))
        p50, p99 = quantize.measure_latency(build.onnx, self.golden_z)
        return _Measurement(build.variant, build.onnx, encode(bundle), found, p50, p99)

    def _decided(self, measured: list[_Measurement]) -> tuple[tuple[Built, ...], tuple[report.VariantNumbers, ...]]:
        """Keep or refuse, against fp32, which is the first."""
        recipe, reference = self.recipe, measured[0]
        tolerance_ns = max(recipe.longest_window_ns, self.interval_ns)
        built: list[Built] = []
        numbers: list[report.VariantNumbers] = []
        for m in measured:
            f1 = quantize.onset_f1(reference.found.onsets, m.found.onsets, tolerance_ns)
            ratio = len(m.found.onsets) / max(len(reference.found.onsets), 1)
            kept, why = quantize.decide(
                m.variant,
                size=len(m.onnx),
                fp32_size=len(reference.onnx),
                onset_f1=f1,
                alert_ratio=ratio,
                p99_us=m.p99_us,
                fp32_p99_us=reference.p99_us,
                max_size=recipe.max_size,
                max_p99_us=recipe.max_p99_us,
            )
            sha256 = digest(m.raw)
            if kept:
                built.append(Built(m.variant, m.raw, sha256, m.p99_us))
            numbers.append(
                report.VariantNumbers(
                    variant=m.variant, kept=kept, why=why, model_bytes=len(m.onnx), bundle_bytes=len(m.raw),
                    sha256=sha256, p50_us=round(m.p50_us, 1), p99_us=round(m.p99_us, 1),
                    onset_f1=round(f1, 4) if math.isfinite(f1) else None, alert_ratio=round(ratio, 4),
                )
            )  # fmt: skip
        for variant in recipe.variants:
            reason = quantize.why_not(recipe.estimator, variant)
            if reason:
                numbers.append(report.VariantNumbers(variant=variant, kept=False, why=reason))
        if not built:
            why = "; ".join(f"{n.variant}: {n.why}" for n in numbers)
            raise ConfigError(f"no variant of {recipe.name} is within the recipe's limits ({why})")
        return tuple(built), tuple(numbers)

    def _stage(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress(name, done, total)

    def _ticker(self, name: str) -> Callable[[int], None]:
        total = max(len(self.table) - self.parts.cut, 1)
        done = 0

        def tick(rows: int) -> None:
            nonlocal done
            done = min(done + rows, total)
            self.progress(f"replay {name}", done, total)

        return tick


@dataclass(frozen=True)
class _Measurement:
    variant: Variant
    onnx: bytes
    raw: bytes
    found: Replay
    p50_us: float
    p99_us: float


def _refuse_too_little(recipe: Recipe, table: Table, parts: Split, status: Int8, fit: int, held: int) -> None:
    if fit >= MIN_FIT and held >= MIN_HELD:
        return
    n, streams = len(table), len(table.streams)
    incomplete = int((status == STATUS.index("incomplete")).sum())
    if incomplete >= max(MIN_FIT - fit, 0) + max(MIN_HELD - held, 0):  # with them there would be enough
        needed = ", ".join(c.name for c in recipe.features.channels if not c.optional)
        raise ConfigError(
            f"{incomplete:,} of {n:,} readings lack a required channel or have it out of range ({needed}): {fit} are "
            f"left to fit and {held} to hold out, expected at least {MIN_FIT} and {MIN_HELD}"
        )
    interval, gap_ns = max(table.interval_ns, 1), recipe.features.gap_after_ns
    if 0 < gap_ns < interval:
        raise ConfigError(
            f"readings come every {report.about(interval)}, farther apart than the recipe's sampling.gap_after "
            f"{format_duration(gap_ns)}, so that every reading begins the warm-up again",
            hint="raise sampling.gap_after",
        )
    warm_up = recipe.features.warm_up_ns // interval
    need = math.ceil(max((warm_up + MIN_FIT) / recipe.fit_share, MIN_HELD / (1 - recipe.fit_share)))
    raise ConfigError(
        f"too little data for recipe {recipe.name}: with windows of {format_duration(recipe.longest_window_ns)} it "
        f"needs about {need:,} readings per stream over {report.about(need * interval)}, found "
        f"{n // max(streams, 1):,} over {report.about(table.span_ns)} (of {MIN_FIT} readings to fit {fit} are usable, "
        f"of {MIN_HELD} to hold out {held})"
    )
