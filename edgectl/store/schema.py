"""The tables of the fleet state store, and how an older store becomes a newer one.

Documents (reports, alerts, plans, assignments) are JSON text beside the columns that are searched. Times are
nanoseconds since 1970, UTC, of the operator's clock unless the column says otherwise. Nothing here is special to
SQLite.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

VERSION = 4
"""Rises with every change of the tables; `MIGRATIONS` has the step from each older version."""

metadata = MetaData()

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_ns", BigInteger, nullable=False),
)

nodes = Table(  # what is known of a node's reachability, and its newest report
    "nodes",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("report", Text),
    Column("received_ns", BigInteger, nullable=False, default=0),
    Column("skew_ns", BigInteger, nullable=False, default=0),  # the node's clock minus ours when the report came
    Column("attempted_ns", BigInteger, nullable=False, default=0),
    Column("failing_since_ns", BigInteger, nullable=False, default=0),  # 0: the last attempt succeeded
    Column("error", Text, nullable=False, default=""),
)

reports = Table(  # short history: what changed, for questions about yesterday
    "reports",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("received_ns", BigInteger, primary_key=True, autoincrement=False),
    Column("report", Text, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("node", String(63), nullable=False),
    Column("stream", Text, nullable=False),
    Column("recipe", String(63), nullable=False),
    Column("version", Text, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("onset_ns", BigInteger, nullable=False),  # event time
    Column("changed_ns", BigInteger, nullable=False),  # event time
    Column("accepted_ns", BigInteger, nullable=False),  # the node's clock
    Column("stored_ns", BigInteger, nullable=False),  # first time that this id was stored
    Column("body", Text, nullable=False),
    Column("acknowledged_by", Text),
    Column("acknowledged_ns", BigInteger),
    Index("alerts_by_onset", "onset_ns"),
    Index("alerts_by_state", "state", "severity"),
    Index("alerts_by_node", "node"),
)

positions = Table(  # how far each node's outbox was read, durably
    "positions",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("after_seq", BigInteger, nullable=False),
    Column("lost", Text, nullable=False, default="[]"),
    Column("log_id", String(64), nullable=False, server_default=""),  # the outbox that `after_seq` counts in
)

assignments = Table(  # every desired state that this operator signed
    "assignments",
    metadata,
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("operator", Text, nullable=False),
    Column("signed_ns", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("rollout", Integer),
    Column("reason", Text, nullable=False, default=""),
    Column("body", Text, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("recipe", String(63), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("operator", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("plan", Text, nullable=False),
    Index("rollouts_by_recipe", "recipe"),
)

rollout_nodes = Table(  # the fold of the journal per node, so that lists need not read journals
    "rollout_nodes",
    metadata,
    Column("rollout", Integer, ForeignKey("rollouts.number"), primary_key=True),
    Column("node", String(63), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("since_ns", BigInteger, nullable=False),
    Column("detail", Text, nullable=False),
    Column("stuck", Boolean, nullable=False),
)

rollout_journal = Table(  # append-only: the truth about a rollout
    "rollout_journal",
    metadata,
    Column("rollout", Integer, ForeignKey("rollouts.number"), primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("event", String(32), nullable=False),
    Column("node", String(63), nullable=False),
    Column("detail", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("facts", Text, nullable=False, default="{}"),  # evidence of a verdict: statistics per gate
)

findings = Table(  # what audit saw last, so that it can say what is new
    "findings",
    metadata,
    Column("key", Text, primary_key=True),
    Column("since_ns", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("told", Boolean, nullable=False),
    Column("resolved_ns", BigInteger),
)

actions = Table(  # who did what with edgectl
    "actions",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("at_ns", BigInteger, nullable=False),
    Column("operator", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("detail", Text, nullable=False),
)

orders = Table(  # calls of a node's control API that wait for the node's next sync, and their answers
    "orders",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("node", String(63), nullable=False),
    Column("method", String(8), nullable=False),
    Column("path", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),  # not handed out at or after this time
    Column("taken_ns", BigInteger, nullable=False, default=0),  # first handed out; 0: not yet
    Column("answered_ns", BigInteger, nullable=False, default=0),  # 0: not yet
    Column("status", Integer, nullable=False, default=0),  # HTTP status of the answer
    Column("answer", Text, nullable=False, default=""),
    Index("orders_by_node", "node", "answered_ns"),
)

credentials = Table(  # the tokens with which nodes report; only their digests are here
    "credentials",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("node", String(63), nullable=False),
    Column("issued_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False, default=0),  # 0: never
    Column("revoked_ns", BigInteger, nullable=False, default=0),  # 0: in force
    Index("credentials_by_node", "node"),
)

invites = Table(  # with which nodes that nobody knows yet may enrol; only the tokens' digests are here
    "invites",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("site", String(63), nullable=False),
    Column("count", Integer, nullable=False),  # nodes that may use it
    Column("used", Integer, nullable=False, default=0),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column("settings", Text, nullable=False, default="{}"),  # labels, profiles … of the nodes to come
)

enrolments = Table(  # nodes that enrolled by themselves, beside those of fleet.yaml
    "enrolments",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("machine", String(64), nullable=False, unique=True),  # digest of the machine's own id
    Column("invite", String(64), nullable=False),  # digest of the token that it came with
    Column("site", String(63), nullable=False),
    Column("settings", Text, nullable=False, default="{}"),  # of the invite: labels, profiles …
    Column("facts", Text, nullable=False, default="{}"),  # what the machine said of itself
    Column("enrolled_ns", BigInteger, nullable=False),
)

Migration = Callable[[Connection], None]


def _add_log_id(connection: Connection) -> None:
    """Positions say which outbox they count in."""
    connection.execute(text("ALTER TABLE positions ADD COLUMN log_id VARCHAR(64) DEFAULT '' NOT NULL"))


def _add_pull(connection: Connection) -> None:
    """Tables for orders, credentials and invites."""
    metadata.create_all(connection, tables=[orders, credentials, invites])


def _add_enrolments(connection: Connection) -> None:
    """A table for enrolments."""
    metadata.create_all(connection, tables=[enrolments])


MIGRATIONS: dict[int, Migration] = {1: _add_log_id, 2: _add_pull, 3: _add_enrolments}
"""Version → the step that turns it into the next one. Each runs in the transaction that also records the version."""
