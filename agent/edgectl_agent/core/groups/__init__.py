"""Kinds of feature groups: what a bundle calls them → what computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgectl_agent.core import bundle
from edgectl_agent.core.groups.counts import Counts
from edgectl_agent.core.groups.decayed import Decayed
from edgectl_agent.core.groups.distinct import Distinct
from edgectl_agent.core.groups.habits import Habits
from edgectl_agent.core.groups.interface import Group
from edgectl_agent.core.groups.lags import Lags
from edgectl_agent.core.groups.novelty import Novelty
from edgectl_agent.core.groups.quantiles import Quantiles
from edgectl_agent.core.groups.seasonal import Seasonal
from edgectl_agent.core.groups.template_mix import TemplateMix
from edgectl_agent.core.groups.timing import Timing
from edgectl_agent.core.groups.tumbling import Tumbling
from edgectl_agent.core.groups.unchanged import Unchanged

_KINDS: dict[type, Callable[[Any, bundle.FeatureSpec], Group]] = {
    bundle.TumblingFeatures: Tumbling,
    bundle.DecayedFeatures: Decayed,
    bundle.LagFeatures: Lags,
    bundle.UnchangedFeatures: Unchanged,
    bundle.TimingFeatures: Timing,
    bundle.SeasonalFeatures: Seasonal,
    bundle.QuantileFeatures: Quantiles,
    bundle.HabitFeatures: Habits,
    bundle.DistinctFeatures: Distinct,
    bundle.CountFeatures: Counts,
    bundle.NewFeatures: Novelty,
    bundle.TemplateFeatures: TemplateMix,
}


def make(group: bundle.Features, spec: bundle.FeatureSpec) -> Group | None:
    """State for `group`; None for windows, instants and phases, which `features.FeatureBuilder` keeps itself."""
    kind = _KINDS.get(type(group))
    return None if kind is None else kind(group, spec)
