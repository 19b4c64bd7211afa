"""What `edgectl nodes` shows: the fleet as fleet.yaml wants it beside what the store knows of it. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from datetime import datetime

import msgspec
from edgectl_agent.core.units import format_duration

from edgectl.core.audit import Finding
from edgectl.core.records import NodeRecord
from edgectl.core.selector import Fields, select
from edgectl.core.status import age, condition
from edgectl.inventory.types import Connect, Inventory, Node

_STYLES = {"healthy": "green", "warming": "yellow", "degraded": "yellow", "unknown": "dim"}


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One node. `age_s` is the age of its last report, None without one; `models` is recipe → running version."""

    name: str
    site: str
    tier: str
    via: str
    state: str
    age_s: float | None
    models: dict[str, str]
    labels: dict[str, str]
    detail: str

    @property
    def age(self) -> str:
        """Short, for people."""
        return "" if self.age_s is None else age(self.age_s)

    @property
    def style(self) -> str:
        """How to colour the state."""
        return _STYLES.get(self.state, "red")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of a node and where it was said."""

    setting: str
    value: str
    origin: str


def selectable(
    fleet: Inventory, records: Mapping[str, NodeRecord], findings: Iterable[Finding], now_ns: int
) -> dict[str, Fields]:
    """What each node can be selected by: what fleet.yaml says, its state and the findings that stand."""
    kinds: dict[str, list[str]] = {}
    for finding in findings:
        kinds.setdefault(finding.node, []).append(finding.kind)
    return {
        node.name: {
            **node.fields,
            "state": (condition(records.get(node.name), node.expected, now_ns),),
            "finding": tuple(kinds.get(node.name, ())),
        }
        for node in fleet.nodes
    }


def nodes(
    fleet: Inventory,
    records: Mapping[str, NodeRecord],
    selector: str,
    now: datetime,
    findings: Iterable[Finding] = (),
) -> list[NodeRow]:
    """Rows in the order of fleet.yaml. Raises as `edgectl.core.selector.select`."""
    now_ns = int(now.timestamp() * 1e9)
    meant = set(select(selectable(fleet, records, findings, now_ns), selector) if selector else fleet.names)
    return [_row(node, records.get(node.name), now_ns) for node in fleet.nodes if node.name in meant]


def node_settings(node: Node) -> list[Setting]:
    """Every setting of `node`, in the order of fleet.yaml's explanation."""
    values = {
        "tier": node.tier,
        **{f"connect.{key}": value for key, value in _connect(node.connect).items()},
        **{f"agent.{key}": str(value or "") for key, value in asdict(node.agent).items()},
        "report.every": format_duration(node.report_every_ns),
        "report.silent_after": format_duration(node.silent_after_ns),
        "parent": node.parent,
        "time_zone": node.time_zone if node.change_window else "",
        "change_window": node.change_window,
    }
    own = {
        "site": node.site,
        "profiles": ", ".join(node.profiles),
        "groups": ", ".join(node.groups),
        **{f"labels.{key}": value for key, value in node.labels.items()},
        **{f"sources.{name}": _shown(source) for name, source in node.sources.items()},
        **{f"models.{recipe}": ", ".join(names) for recipe, names in node.models.items()},
        **{f"actions[{i}]": _shown(action) for i, action in enumerate(node.actions)},
        **{f"allow[{i}]": _shown(rule) for i, rule in enumerate(node.allow)},
    }
    whole = node.origins.get("name", "node")
    said = [Setting(setting=k, value=v, origin=node.origins.get(k, whole)) for k, v in (own | values).items() if v]
    return [Setting(setting="name", value=node.name, origin=whole), *said]


def _connect(connect: Connect) -> dict[str, str]:
    """How a node is reached; of a secret only where it is kept."""
    shown = {f.name: getattr(connect, f.name) for f in fields(connect)}
    every = shown.pop("every_ns")
    texts = {key: str(value) for key, value in shown.items() if value}
    return texts | ({"every": format_duration(every)} if texts["via"] == "pull" else {})


def _row(node: Node, record: NodeRecord | None, now_ns: int) -> NodeRow:
    report = record.report if record else None
    return NodeRow(
        name=node.name,
        site=node.site,
        tier=node.tier,
        via=node.via,
        state=condition(record, node.expected, now_ns),
        age_s=(now_ns - record.received_ns) / 1e9 if record and report else None,
        models=dict.fromkeys(node.models, "") | ({m.recipe: m.version for m in report.models} if report else {}),
        labels=dict(node.labels),
        detail=(record.error if record else "") or ("; ".join(report.reasons) if report else ""),
    )


def _shown(value: object) -> str:
    plain = {k: v for k, v in msgspec.to_builtins(value).items() if v not in (None, "", {}, (), False)}
    return " ".join(f"{key}={','.join(map(str, v)) if isinstance(v, list | tuple) else v}" for key, v in plain.items())
