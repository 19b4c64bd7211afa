"""Invites: with one of them, nodes that are in no list yet may enrol by themselves. Only the token's digest is kept."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
from edgectl_agent.core.wording import counted
from sqlalchemy import Connection, delete, insert, select, update

from edgectl.core.errors import NothingMatched
from edgectl.store.credentials import token_sha256
from edgectl.store.engine import Database
from edgectl.store.schema import invites


class Invite(msgspec.Struct, frozen=True, kw_only=True):
    """`count` nodes of `site` may enrol with it until `expires_ns`; `settings` (labels, profiles) become theirs."""

    sha256: str
    site: str
    count: int
    used: int = 0
    created_ns: int
    expires_ns: int
    settings: Mapping[str, Any] = {}


class Invites:
    """The invites table. Times are the operator's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, site: str, count: int, now_ns: int, expires_ns: int, settings: Mapping[str, Any] | None = None
    ) -> str:
        """A new invite; returns its token, which is shown this once."""
        token = secrets.token_urlsafe(24)
        row = {
            "sha256": token_sha256(token), "site": site, "count": count, "used": 0, "created_ns": now_ns,
            "expires_ns": expires_ns, "settings": msgspec.json.encode(settings or {}).decode(),
        }  # fmt: skip
        with self._database.write() as connection:
            connection.execute(insert(invites).values(**row))
        return token

    def use(self, token: str, now_ns: int) -> Invite:
        """Count one more node that enrols with `token`; returns the invite after that.

        Raises:
            NothingMatched: there is no such invite, it has expired or every place is taken (``reason`` ``unknown``,
                ``expired``, ``used-up``); nothing was counted.
        """
        with self._database.write() as connection:
            found = checked(connection, token, now_ns)
            if found.used >= found.count:
                raise NothingMatched(
                    f"the invite was for {counted(found.count, 'node')}, all have enrolled",
                    hint="edgectl nodes invite", reason="used-up",
                )  # fmt: skip
            mine = invites.c.sha256 == found.sha256
            connection.execute(update(invites).where(mine).values(used=found.used + 1))
        return msgspec.structs.replace(found, used=found.used + 1)

    def all(self) -> tuple[Invite, ...]:
        """Every invite, the newest first."""
        query = select(invites).order_by(invites.c.created_ns.desc(), invites.c.sha256)
        with self._database.read() as connection:
            return tuple(_invite(row) for row in connection.execute(query).mappings())

    def revoke(self, sha256: str) -> bool:
        """Drop an invite; the nodes that enrolled with it stay. False if there is none."""
        with self._database.write() as connection:
            return connection.execute(delete(invites).where(invites.c.sha256 == sha256)).rowcount > 0


def checked(connection: Connection, token: str, now_ns: int) -> Invite:
    """The invite of `token`, held until the transaction ends. Raises `NothingMatched` (``unknown``, ``expired``)."""
    mine = invites.c.sha256 == token_sha256(token)
    row = connection.execute(select(invites).where(mine).with_for_update()).mappings().first()
    if row is None:
        raise NothingMatched("no such invite", hint="edgectl nodes invite", reason="unknown")
    if row["expires_ns"] <= now_ns:
        raise NothingMatched("the invite has expired", hint="edgectl nodes invite", reason="expired")
    return _invite(row)


def _invite(row: Any) -> Invite:
    return Invite(**{**row, "settings": msgspec.json.decode(row["settings"])})
