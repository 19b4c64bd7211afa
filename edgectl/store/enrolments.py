"""Nodes that enrolled by themselves: which machine became which node, by which invite.

They are nodes of the fleet beside those of fleet.yaml, which no server ever writes. Only digests of secrets are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from edgectl_agent.core.wording import counted
from sqlalchemy import Connection, delete, insert, select, update

from edgectl.core.enrolment import name_for
from edgectl.core.errors import NothingMatched
from edgectl.store.engine import Database
from edgectl.store.invites import Invite, checked
from edgectl.store.schema import credentials, enrolments, invites


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """One machine that became `node`.

    Attributes:
        machine: its id, which is a digest of the machine's own.
        invite: digest of the invite's token.
        settings: of the invite (labels, profiles): they are the node's, as fleet.yaml's would be.
        facts: what it said of itself: architecture, Python, host name.
    """

    node: str
    machine: str
    invite: str
    site: str
    settings: Mapping[str, Any] = {}
    facts: Mapping[str, Any] = {}
    enrolled_ns: int

    @property
    def entry(self) -> dict[str, Any]:
        """As fleet.yaml has a node."""
        return {"name": self.node, "site": self.site, "connect": {"via": "pull"}, **self.settings}


class Enrolments:
    """The enrolments table. Times are the operator's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enrol(
        self,
        token: str,
        machine: str,
        credential: str,
        *,
        facts: Mapping[str, Any],
        taken: Collection[str],
        now_ns: int,
    ) -> Enrolment:
        """Make `machine` a node, or find which node it is; all in one transaction, so that a last place is taken once.

        Args:
            token: of an invite.
            machine: its id.
            credential: SHA-256 of the token with which it will report; its earlier ones end.
            facts: what it says of itself, with ``hostname``.
            taken: names that are in use beside the enrolled ones.

        Raises:
            NothingMatched: no such invite, expired, used up (as `Invites.use`), or the machine is a node of another
                site already (``reason`` ``elsewhere``); nothing was changed.
        """
        with self._database.write() as connection:
            invite = checked(connection, token, now_ns)
            found = self._of(connection, enrolments.c.machine == machine)
            if found is not None and found.site != invite.site:
                raise NothingMatched(
                    f"this machine is node {found.node} of site {found.site} already, the invite is for {invite.site}",
                    hint=f"edgectl nodes remove {found.node}",
                    reason="elsewhere",
                )
            if found is None:
                found = self._place(connection, invite, machine, facts, taken, now_ns)
            _trust(connection, found.node, credential, now_ns)
        return found

    def all(self) -> tuple[Enrolment, ...]:
        """Every one, by the node's name."""
        with self._database.read() as connection:
            rows = connection.execute(select(enrolments).order_by(enrolments.c.node)).mappings()
            return tuple(_enrolment(row) for row in rows)

    def forget(self, node: str) -> bool:
        """The node is gone: its machine may enrol anew, under another name too. False if it never enrolled."""
        with self._database.write() as connection:
            return connection.execute(delete(enrolments).where(enrolments.c.node == node)).rowcount > 0

    def _place(
        self,
        connection: Connection,
        invite: Invite,
        machine: str,
        facts: Mapping[str, Any],
        taken: Collection[str],
        now_ns: int,
    ) -> Enrolment:
        """A place of `invite` for a machine that nobody knows."""
        if invite.used >= invite.count:
            raise NothingMatched(
                f"the invite was for {counted(invite.count, 'node')}, all have enrolled",
                hint="edgectl nodes invite",
                reason="used-up",
            )
        names = {*taken, *connection.scalars(select(enrolments.c.node))}
        made = Enrolment(
            node=name_for(str(facts.get("hostname", "")), invite.site, names),
            machine=machine,
            invite=invite.sha256,
            site=invite.site,
            settings=invite.settings,
            facts=facts,
            enrolled_ns=now_ns,
        )
        row = msgspec.structs.asdict(made)
        row |= {key: msgspec.json.encode(row[key]).decode() for key in ("settings", "facts")}
        connection.execute(insert(enrolments).values(**row))
        mine = invites.c.sha256 == invite.sha256
        connection.execute(update(invites).where(mine).values(used=invite.used + 1))
        return made

    def _of(self, connection: Connection, which: Any) -> Enrolment | None:
        row = connection.execute(select(enrolments).where(which)).mappings().first()
        return _enrolment(row) if row else None


def _trust(connection: Connection, node: str, credential: str, now_ns: int) -> None:
    """From now on `credential` is the node's, and no earlier one."""
    earlier = (credentials.c.node == node) & (credentials.c.revoked_ns == 0) & (credentials.c.sha256 != credential)
    connection.execute(update(credentials).where(earlier).values(revoked_ns=now_ns))
    if connection.scalar(select(credentials.c.node).where(credentials.c.sha256 == credential)) is None:
        connection.execute(insert(credentials).values(sha256=credential, node=node, issued_ns=now_ns))


def _enrolment(row: Any) -> Enrolment:
    return Enrolment(**{**row, **{key: msgspec.json.decode(row[key]) for key in ("settings", "facts")}})
