"""Whether nodes bring what a release needs: its channels in its units, and its categories. By their own reports.

A node that reports no columns (an older agent, or none of its sources feeds the recipe) is not judged. What a source
maps is known before anything is sent; what its records really have had, once it has brought some (`unheard`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgectl_agent.core.bundle import FeatureSpec
from edgectl_agent.core.messages import Report, SourceStatus
from edgectl_agent.core.units import SECOND_NS, iso


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a release reads, by the names that sources use: channel → unit, ``""`` for any; and categories."""

    channels: Mapping[str, str]
    categories: tuple[str, ...] = ()
    optional: frozenset[str] = field(default_factory=frozenset)
    """Channels that may be missing."""

    @staticmethod
    def of(spec: FeatureSpec) -> Needs:
        """The needs of a bundle's features."""
        names = [channel.name for channel in spec.channels]
        if spec.join and spec.join.columns:
            names = list(spec.join.columns)
        return Needs(
            channels={name: channel.unit for name, channel in zip(names, spec.channels, strict=True)},
            categories=spec.categories,
            optional=frozenset(name for name, c in zip(names, spec.channels, strict=True) if c.optional),
        )


@dataclass(frozen=True, kw_only=True)
class Unfit:
    """A node that lacks something, and each thing in words."""

    node: str
    lacks: tuple[str, ...] = ()
    """No source that feeds the recipe maps it: its agent.yaml is of another recipe than the release."""
    differs: tuple[str, ...] = ()
    """A source says another unit."""

    @property
    def why(self) -> str:
        return "; ".join((*self.lacks, *self.differs))


def unfit(nodes: Iterable[str], recipe: str, needs: Needs, reports: Mapping[str, Report]) -> tuple[Unfit, ...]:
    """Those of `nodes` that do not bring what `recipe` needs, by name."""
    found = (_judged(name, recipe, needs, reports[name]) for name in sorted(nodes) if name in reports)
    return tuple(one for one in found if one.lacks or one.differs)


def _judged(node: str, recipe: str, needs: Needs, report: Report) -> Unfit:
    feeding = [source for source in report.sources if recipe in source.recipes and source.channels is not None]
    if not feeding:
        return Unfit(node=node)
    channels = {channel for source in feeding for channel in source.channels or ()}
    categories = {category for source in feeding for category in source.categories}
    which = f"source{'s' if len(feeding) > 1 else ''} {', '.join(source.name for source in feeding)}"
    lacks = [f"channel {c} ({which})" for c in needs.channels if c not in channels | needs.optional]
    lacks += [f"category {c} ({which})" for c in needs.categories if c not in categories]
    return Unfit(
        node=node,
        lacks=tuple(f"lacks {what}" for what in lacks),
        differs=tuple(said for source in feeding for said in _units(source, needs)),
    )


def unheard(nodes: Iterable[str], recipe: str, needs: Needs, reports: Mapping[str, Report]) -> tuple[Unfit, ...]:
    """Those of `nodes` whose sources map a needed channel that none of their readings has had: it may be named wrongly,
    or come seldom. Only sources that have brought readings are judged."""
    found = (Unfit(node=name, lacks=tuple(_never(recipe, needs, reports[name]))) for name in nodes if name in reports)
    return tuple(one for one in found if one.lacks)


def _never(recipe: str, needs: Needs, report: Report) -> Iterable[str]:
    feeding = [source for source in report.sources if recipe in source.recipes and source.channels is not None]
    since = iso(report.clock_ns - int(report.uptime_s) * SECOND_NS)
    for channel in sorted(set(needs.channels) - needs.optional):
        mapping = [source for source in feeding if channel in (source.channels or {})]
        if mapping and all(channel in source.never for source in mapping):
            names, readings = ", ".join(source.name for source in mapping), sum(source.accepted for source in mapping)
            of = "the only reading" if readings == 1 else f"any of {readings:,} readings"
            yield f"channel {channel} (source {names}) was not in {of} since {since}"


def _units(source: SourceStatus, needs: Needs) -> list[str]:
    return [
        f"source {source.name} has {channel} in {unit}, not {needs.channels[channel]}"
        for channel, unit in (source.channels or {}).items()
        if unit and needs.channels.get(channel) and unit != needs.channels[channel]
    ]
