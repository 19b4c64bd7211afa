"""The node's health in one word with its reasons, and the report around it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgectl_agent import __version__
from edgectl_agent.config import Config
from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.messages import (
    NO_MODEL,
    ActionStatus,
    ModelStatus,
    NodeState,
    OutboxStatus,
    Report,
    SourceStatus,
)
from edgectl_agent.core.units import iso
from edgectl_agent.feeds import Feed
from edgectl_agent.roster import Roster
from edgectl_agent.slots import Slots
from edgectl_agent.updater import Updater
from edgectl_agent.uplink.interface import LinkStatus

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NEARLY_FULL = 0.9


def judge(
    wanted: Sequence[str],
    models: Sequence[ModelStatus],
    failed: dict[str, str],
    sources: Sequence[SourceStatus],
    storage: Sequence[str],
    outbox: OutboxStatus,
    links: Sequence[LinkStatus] = (),
    actions: Sequence[ActionStatus] = (),
) -> tuple[NodeState, tuple[str, ...]]:
    """The state and every reason for it, worst first.

    ``failed``: a model does not run. ``degraded``: it runs, but a source, the disk or a score is wrong, or a link that
    time alone does not mend. ``warming``: a recipe waits for its first model or readings, or most of a model's streams
    are too young to score. A link that is down for now changes no state; it is said last.
    """
    running = {model.recipe for model in models}
    reasons: dict[NodeState, list[str]] = {
        "failed": [f"{recipe}: {why}" for recipe, why in sorted(failed.items())],
        "degraded": [f"storage: {why}" for why in storage if why],
        "warming": [f"{recipe}: {NO_MODEL}" for recipe in wanted if recipe not in running and recipe not in failed],
    }
    reasons["degraded"] += [f"source {s.name}: {s.detail}" for s in sources if s.state == "failed"]
    if outbox.bytes > _NEARLY_FULL * outbox.limit_bytes:
        reasons["degraded"].append(f"outbox holds {outbox.bytes} of {outbox.limit_bytes} bytes")
    for model in models:
        strange = model.counters.get("not_finite", 0)
        if strange:
            reasons["degraded"].append(f"{model.recipe}: {strange} scores were no numbers")
        if model.streams_full:
            reasons["degraded"].append(
                f"{model.recipe}: new streams are refused, {model.streams_full} is the limit and too few are idle "
                f"({model.counters.get('over_limit', 0)} readings so far) → raise agent.streams in fleet.yaml"
            )
        if 2 * model.warming > model.streams or not model.streams:
            reasons["warming"].append(f"{model.recipe}: {model.warming} of {model.streams} streams warm up")
    for action in actions:
        if action.refused and not action.dry_run:
            reasons["degraded"].append(f"action {action.name}: {action.refused}")
        elif action.failing:
            reasons["degraded"].append(f"action {action.name}: {action.detail}")
    reasons["degraded"] += [f"{link.name}: {link.problem}" for link in links if link.problem and link.act]
    down = [f"{k.name}: {k.problem}, since {iso(k.failing_since_ns)}" for k in links if k.problem and not k.act]
    state: NodeState = next((state for state, why in reasons.items() if why), "healthy")
    return state, (*(why for group in reasons.values() for why in group), *down)


class Health:
    """What of a report never changes on this boot, and how it is put together."""

    def __init__(self, config: Config, config_sha256: str, boot: str, started_s: float) -> None:
        self._config, self._config_sha256, self._boot, self._started_s = config, config_sha256, boot, started_s

    def report(
        self,
        roster: Roster,
        feeds: Sequence[Feed],
        updater: Updater,
        slots: Slots,
        storage: Sequence[str],
        outbox: OutboxStatus,
        links: Sequence[LinkStatus] = (),
        actions: Sequence[ActionStatus] = (),
    ) -> Report:
        """The node as its worker sees it now; `current` adds the clock."""
        models, sources = roster.statuses(), tuple(feed.status() for feed in feeds)
        wanted, failed = tuple(self._config.models), roster.failed
        state, reasons = judge(wanted, models, failed, sources, storage, outbox, links, actions)
        try:
            epoch, trust, quarantined = updater.epoch(), updater.trust(), slots.quarantined()
        except StorageError as e:
            epoch, trust, quarantined = None, None, ()
            state, reasons = ("failed" if state == "failed" else "degraded"), (*reasons, f"storage: {e}")
        return Report(
            node=self._config.node,
            agent=__version__,
            boot=self._boot,
            clock_ns=0,
            uptime_s=0.0,
            state=state,
            reasons=reasons,
            epoch=epoch,
            models=models,
            sources=sources,
            outbox=outbox,
            quarantined=quarantined,
            trust=trust,
            rss_bytes=resident_bytes(),
            config_sha256=self._config_sha256,
            actions=tuple(actions),
        )

    def current(self, published: Report, outbox: OutboxStatus, clock_ns: int, now_s: float) -> Report:
        """A published report with what changes by itself."""
        uptime_s = round(now_s - self._started_s, 3)
        return msgspec.structs.replace(published, outbox=outbox, clock_ns=clock_ns, uptime_s=uptime_s)


def resident_bytes() -> int:
    """Memory that this process has in use; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
