"""What each feature group calls its columns, in their order: ``temp.mean.5m``, ``temp.z.half1h``, ``shop.new.30d``."""

from __future__ import annotations

from edgectl_agent.core import bundle
from edgectl_agent.core.groups.template_mix import template_names
from edgectl_agent.core.units import format_duration


def group_names(group: bundle.Features, spec: bundle.FeatureSpec) -> list[str]:
    """One name per column."""
    match group:
        case bundle.WindowFeatures(channels=channels, window_ns=window_ns, stats=stats):
            return [f"{c}.{stat}.{format_duration(window_ns)}" for c in channels for stat in stats]
        case bundle.InstantFeatures(channels=channels, kinds=kinds):
            return [c if kind == "value" else f"{c}.{kind}" for c in channels for kind in kinds]
        case bundle.PhaseFeatures(periods=periods):
            return [f"{period}.{part}" for period in periods for part in ("sin", "cos")]
        case bundle.TumblingFeatures(channels=channels, window_ns=window_ns, stats=stats, parts=parts):
            span = format_duration(window_ns)
            return [f"{c}.{stat}.{part}{span}" for c in channels for stat in stats for part in parts]
        case bundle.DecayedFeatures(channels=channels, half_life_ns=half_life_ns, stats=stats):
            return [f"{c}.{stat}.half{format_duration(half_life_ns)}" for c in channels for stat in stats]
        case bundle.LagFeatures(channels=channels, lags=lags, kinds=kinds):
            return [f"{c}.{_lagged(kind)}{lag}" for c in channels for lag in lags for kind in kinds]
        case bundle.UnchangedFeatures(channels=channels, span_ns=span_ns):
            return [f"{c}.unchanged.{format_duration(span_ns)}" for c in channels]
        case bundle.TimingFeatures(kinds=kinds, half_life_ns=half_life_ns):
            rate = f"rate.half{format_duration(half_life_ns)}"
            return [rate if kind == "rate" else kind for kind in kinds]
        case bundle.SeasonalFeatures(channels=channels, periods=periods, kinds=kinds):
            return [f"{c}.{kind}.{period}" for c in channels for period in periods for kind in kinds]
        case bundle.QuantileFeatures(channels=channels, window_ns=window_ns, quantiles=quantiles):
            return [f"{c}.p{100 * q:g}.{format_duration(window_ns)}" for c in channels for q in quantiles]
        case bundle.HabitFeatures(channels=channels, window_ns=window_ns):
            return [f"{c}.habit.{format_duration(window_ns)}" for c in channels]
        case bundle.DistinctFeatures(categories=categories, window_ns=window_ns):
            return [f"{c}.distinct.{format_duration(window_ns)}" for c in categories]
        case bundle.CountFeatures(categories=categories, window_ns=window_ns, values=values):
            span = format_duration(window_ns)
            return [f"{c}.{value}.count.{span}" for c in categories for value in values] or [
                f"{c}.count.{span}" for c in categories
            ]
        case bundle.NewFeatures(categories=categories, memory_ns=memory_ns, share_ns=share_ns):
            share = f".share.{format_duration(share_ns)}" if share_ns else ""
            return [f"{c}.new.{format_duration(memory_ns)}{share}" for c in categories]
        case bundle.TemplateFeatures():
            return template_names(group, spec)


def _lagged(kind: bundle.Instant) -> str:
    return "lag" if kind == "value" else "diff"
