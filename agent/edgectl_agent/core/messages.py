"""What crosses the wire between a node and its operator, both ways.

Signed documents (`Release`, `Assignment`) tolerate fields that this version does not know, because the bytes received
are kept and the Struct is only a view of them. Messages of the control API do so too: CLI and agent may differ by two
minor versions.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec

from edgectl_agent.core.bundle import Variant

Severity = Literal["warning", "critical"]
AlertState = Literal["open", "cleared"]
NO_MODEL = "no model yet"
"""How the reason ends that a node gives for each recipe without a model: ``RECIPE: no model yet``."""

NodeState = Literal["healthy", "warming", "degraded", "failed"]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class _Message(msgspec.Struct, frozen=True):
    """Immutable; unknown fields are ignored."""


# ── signed documents ────────────────────────────────────────────────────────────────────────────────────────────────


class Epoch(_Message, frozen=True, kw_only=True):
    """Orders the operator's commands. A node refuses a lower number, and an equal number from another operator."""

    number: Annotated[int, msgspec.Meta(ge=0)]
    operator: str


class BundleRef(_Message, frozen=True, kw_only=True):
    """One variant of a release. ``target`` is the TUF target path ``bundles/<sha256>.bundle``."""

    variant: Variant
    sha256: Sha256
    length: Annotated[int, msgspec.Meta(gt=0)]
    p99_us: float | None = None
    """Latency of one row as measured at training time; noise, hence here and not in the bundle."""

    @property
    def target(self) -> str:
        return f"bundles/{self.sha256}.bundle"


class Release(_Message, frozen=True, kw_only=True):
    """One trained version of a recipe, signed under the ``models`` role; see `release_target`."""

    format: int = 1
    recipe: Name
    version: str
    counter: Annotated[int, msgspec.Meta(gt=0)]
    """Rises with every signed release of the recipe; nodes keep the highest they ran as their floor."""
    variants: tuple[BundleRef, ...]
    fallbacks: tuple[Sha256, ...] = ()
    """Bundles of older releases that a node running this one may return to. Every other older one is refused."""
    created: str = ""

    @property
    def target(self) -> str:
        return release_target(self.recipe, self.version)


def release_target(recipe: str, version: str) -> str:
    """TUF target path of a release's manifest."""
    return f"releases/{recipe}/{version}.json"


class Placement(_Message, frozen=True, kw_only=True):
    """These nodes run this bundle of this release."""

    version: str
    sha256: Sha256
    variant: Variant
    nodes: tuple[Name, ...]


class Allowance(_Message, frozen=True, kw_only=True):
    """These nodes may take the actions that these rules cover, and no others; see `core.allowed`."""

    nodes: tuple[Name, ...]
    rules: tuple[dict[str, Any], ...]


class Assignment(_Message, frozen=True, kw_only=True):
    """The fleet's desired state, signed under the ``rollout`` role as target `ASSIGNMENT_TARGET`."""

    format: int = 1
    fleet: str
    epoch: Epoch
    models: dict[str, tuple[Placement, ...]]
    """Recipe → placements; a node is in at most one placement of a recipe. A node that is named nowhere keeps what it
    runs: running never ends by omission."""
    allow: tuple[Allowance, ...] = ()
    """A node that is named nowhere may only log: a right ends by omission."""

    def allowed(self, node: str) -> tuple[dict[str, Any], ...]:
        """The rules for `node`, as signed."""
        return tuple(rule for allowance in self.allow if node in allowance.nodes for rule in allowance.rules)

    def placement(self, recipe: str, node: str) -> Placement | None:
        return next((p for p in self.models.get(recipe, ()) if node in p.nodes), None)


ASSIGNMENT_TARGET = "assignments/fleet.json"


# ── from the node ───────────────────────────────────────────────────────────────────────────────────────────────────


class Contribution(_Message, frozen=True, kw_only=True):
    """Why a reading was strange: one feature, its value and the range that training saw as usual."""

    feature: str
    value: float
    low: float
    high: float


class Alert(_Message, frozen=True, kw_only=True):
    """One onset with a state. Records with the same id describe the same alert; a later state replaces an earlier one.

    Times ending in ``_ns`` are nanoseconds since 1970, UTC: event time, except ``accepted_ns`` and ``raised_ns``, which
    are the node's clock.
    """

    id: str
    node: str
    stream: str
    recipe: str
    version: str
    bundle: str
    variant: str
    severity: Severity
    state: AlertState
    onset_ns: int
    changed_ns: int
    """Event time of this state: the onset (or the rise in severity) for ``open``, the end for ``cleared``."""
    score: float
    """Highest raw score so far."""
    threshold: float
    surprise: float
    """-log10 of the tail probability of ``score``."""
    contributions: tuple[Contribution, ...] = ()
    recent: tuple[float, ...] = ()
    """The latest values of the first contribution, at most 32, the newest last; empty where a model sees features of
    several channels together."""
    runbook: str = ""
    accepted_ns: int = 0
    """When the source handed over the first reading above the threshold."""
    raised_ns: int = 0


def alert_id(node: str, stream: str, recipe: str, bundle: str, onset_ns: int) -> str:
    """``a-`` and 16 hex digits over (node, stream, detector generation, onset): a replay makes the same id again."""
    text = "\x1f".join((node, stream, recipe, bundle, str(onset_ns)))
    return "a-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def supersedes(new: Alert, old: Alert) -> bool:
    """Whether `new` replaces `old` (same id): cleared beats open, critical beats warning, then the higher score.

    Merging records by this rule is commutative, associative and idempotent.
    """

    def rank(a: Alert) -> tuple[bool, bool, float, int]:
        return (a.state == "cleared", a.severity == "critical", a.score, a.changed_ns)

    return rank(new) > rank(old)


class OutboxRecord(_Message, frozen=True, kw_only=True):
    """A position in a node's outbox with its payload. ``seq`` has no gaps within a ``boot``-independent log."""

    boot: str
    seq: int
    alert: Alert


class AlertPage(_Message, frozen=True, kw_only=True):
    """Answer of ``GET /v1/alerts?after=SEQ&wait=SECONDS``: acknowledged records only, in order."""

    node: str
    records: tuple[OutboxRecord, ...]
    next_after: int
    lost: tuple[tuple[int, int], ...] = ()
    """Inclusive ranges of sequence numbers that storage damaged."""
    log_id: str = ""
    """Random id of the outbox that the sequence numbers belong to; empty from agents that do not tell."""


class ModelStatus(_Message, frozen=True, kw_only=True):
    """What one model slot runs. ``bundle`` is the digest of the bytes that the session was built from."""

    recipe: str
    version: str
    bundle: str
    variant: str
    golden_error: float
    """Largest deviation from the golden vectors at the last start, in units of the tolerance; ≤ 1 passes."""
    inferences: int
    """Rows scored by this bundle since activation on this boot, golden vectors excluded."""
    activated_ns: int
    previous: str = ""
    """Digest in the other slot."""
    streams: int = 0
    warming: int = 0
    open_alerts: int = 0
    p50_us: float = 0.0
    p99_us: float = 0.0
    """Reading to decision, per batch, over the last 1,000 batches."""
    counters: dict[str, int] = {}
    held: int = 0
    """Readings that wait for earlier ones, under a recipe with a lateness."""
    streams_full: int = 0
    """The limit of streams if new ones are refused at present, else 0."""


class SourceStatus(_Message, frozen=True, kw_only=True):
    """One source: readings accepted, rejected by reason, and how far behind the newest event time is."""

    name: str
    state: Literal["running", "waiting", "ended", "failed"]
    accepted: int = 0
    rejected: dict[str, int] = {}
    newest_event_ns: int = 0
    detail: str = ""
    channels: dict[str, str] | None = None
    """Channel → unit, ``""`` where agent.yaml says none; None from agents that do not tell."""
    categories: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    """That it feeds."""
    never: tuple[str, ...] = ()
    """Channels without a value in any of the readings that it has brought since the agent started."""


class ActionStatus(_Message, frozen=True, kw_only=True):
    """One action that reaches beyond the agent: what became of its alerts on this boot."""

    name: str
    type: str
    dry_run: bool = False
    refused: str = ""
    """Why it may not act: no signed rule covers it. Empty if it may."""
    outcomes: dict[str, int] = {}
    """``ok``, ``failed``, ``unknown``, ``dry-run``, ``cooldown``, ``rate``, ``late``, ``dropped``, ``not-allowed``."""
    waiting: int = 0
    failing: int = 0
    """Effects in a row that failed or are unknown."""
    detail: str = ""
    """Of the last effect: what went wrong, or what a dry run would have done."""


class OutboxStatus(_Message, frozen=True, kw_only=True):
    """How full the outbox is, what it lost to damage and what it evicted."""

    records: int
    bytes: int
    limit_bytes: int
    head_seq: int
    oldest_ns: int = 0
    lost: int = 0
    evicted: int = 0
    log_id: str = ""
    """As `AlertPage.log_id`."""


class Quarantine(_Message, frozen=True, kw_only=True):
    """A bundle that this node refuses until an epoch above ``epoch``."""

    recipe: str
    bundle: str
    epoch: int
    reason: str


class TrustStatus(_Message, frozen=True, kw_only=True):
    """Highest trusted versions: what the operator compares with its own repository after a push."""

    root: int
    timestamp: int
    snapshot: int
    assignment_sha256: str = ""
    expires_ns: int = 0
    """Earliest expiry of the metadata that the node holds."""


class Report(_Message, frozen=True, kw_only=True):
    """A node's health, as ``GET /v1/status`` returns it and the store keeps it."""

    node: str
    agent: str
    """Version of edgectl-agent."""
    boot: str
    """Random id of this process start."""
    clock_ns: int
    uptime_s: float
    state: NodeState
    reasons: tuple[str, ...] = ()
    epoch: Epoch | None = None
    models: tuple[ModelStatus, ...] = ()
    sources: tuple[SourceStatus, ...] = ()
    outbox: OutboxStatus
    quarantined: tuple[Quarantine, ...] = ()
    trust: TrustStatus | None = None
    rss_bytes: int = 0
    config_sha256: str = ""
    actions: tuple[ActionStatus, ...] = ()


class UpdateResult(_Message, frozen=True, kw_only=True):
    """Answer of ``POST /v1/update`` and ``POST /v1/rollback``.

    ``confirmed``: every bundle assigned to this node is loaded, passed its golden vectors and scores; ``unchanged``: it
    already was so; ``refused``: nothing changed, ``reason`` and ``exit_code`` say why (as `errors` has them).
    ``ordered`` comes from no node: the order waits for the next sync of a node that nobody can reach.
    """

    state: Literal["confirmed", "unchanged", "refused", "reverted", "ordered"]
    reason: str = ""
    message: str = ""
    exit_code: int = 0
    models: tuple[ModelStatus, ...] = ()
    epoch: Epoch | None = None
    trust: TrustStatus | None = None
    released: int = 0
    """Records up to this one are stored by the operator, as a signed receipt in the spool says; 0 without one."""


# ── of a node that nobody can reach ─────────────────────────────────────────────────────────────────────────────────


class Order(_Message, frozen=True, kw_only=True):
    """A call of the node's own control API that waited for the node's next sync. ``body`` is JSON text or empty."""

    id: str
    method: str
    path: str
    body: str = ""


class Answer(_Message, frozen=True, kw_only=True):
    """What the control API answered to the order ``id``: HTTP status and body."""

    id: str
    status: int
    body: str = ""


class Released(_Message, frozen=True, kw_only=True):
    """The receiver has every record up to ``through`` of the outbox ``log_id`` on stable storage."""

    through: int
    log_id: str = ""


class Sync(_Message, frozen=True, kw_only=True):
    """Body of ``POST /v1/nodes/{node}/sync``: how the node is, what its outbox holds, what it answers to orders."""

    report: Report
    alerts: AlertPage
    answers: tuple[Answer, ...] = ()


class SyncResult(_Message, frozen=True, kw_only=True):
    """Answer to a `Sync`: what the node may delete, and what it shall do."""

    released: Released
    orders: tuple[Order, ...] = ()


UPDATE_REFUSED = "update refused: "
"""Stands in the reasons of a node that polls and would not take what it found; the refusal follows."""
MAX_SYNC_BYTES = 16 * 1024 * 1024
"""Of a `Sync`, after decompression. Both sides hold to it."""


# msgspec 0.22 builds a type's decoding table at its first use and publishes it half-built: two threads that decode a
# type for the first time at once crash the process. Built here, every thread finds the tables complete.
for _type in (Release, Assignment, AlertPage, Report, UpdateResult, Sync, SyncResult):
    msgspec.json.Decoder(_type)
