"""The tokens with which nodes report to the receiver. A token is shown once, when it is issued; its digest is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any

import msgspec
from sqlalchemy import insert, select, update

from edgectl.store.engine import Database
from edgectl.store.schema import credentials


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """One token of one node: valid from `issued_ns` until it expires (0: never) or is revoked (0: it is not)."""

    sha256: str
    node: str
    issued_ns: int
    expires_ns: int = 0
    revoked_ns: int = 0

    def refusal(self, now_ns: int) -> str:
        """Why it does not count at `now_ns`; empty if it does."""
        if self.revoked_ns:
            return "revoked"
        return "expired" if 0 < self.expires_ns <= now_ns else ""


def token_sha256(token: str) -> str:
    """Under which a token is kept: it is random and long, so that a plain digest cannot be guessed backwards."""
    return hashlib.sha256(token.encode()).hexdigest()


class Credentials:
    """The credentials table. Times are the operator's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def issue(self, node: str, now_ns: int, expires_ns: int = 0) -> str:
        """A new token for `node`; its earlier ones stay valid until they are revoked, so that none is cut off."""
        token = secrets.token_urlsafe(32)
        self.add(Credential(sha256=token_sha256(token), node=node, issued_ns=now_ns, expires_ns=expires_ns))
        return token

    def add(self, credential: Credential) -> None:
        """Keep a token that was made elsewhere; the same one again changes nothing."""
        with self._database.write() as connection:
            same = credentials.c.sha256 == credential.sha256
            if connection.scalar(select(credentials.c.node).where(same)) is None:
                connection.execute(insert(credentials).values(**msgspec.structs.asdict(credential)))

    def of(self, node: str) -> tuple[Credential, ...]:
        """Every token of `node`, the newest first, also what no longer counts."""
        return self._select(credentials.c.node == node)

    def match(self, node: str, token: str) -> Credential | None:
        """The credential that `token` is: one of `node` if there is any, else another node's.

        The comparison takes the same time wherever the digests differ.
        """
        digest, found = token_sha256(token), None
        for credential in self.of(node):
            if hmac.compare_digest(credential.sha256, digest):
                found = credential
        return found or next(iter(self._select(credentials.c.sha256 == digest)), None)

    def revoke(self, node: str, now_ns: int, keep: str = "") -> int:
        """End every token of `node`, but the one with digest `keep`. Returns how many ended now."""
        mine = (credentials.c.node == node) & (credentials.c.revoked_ns == 0) & (credentials.c.sha256 != keep)
        with self._database.write() as connection:
            return connection.execute(update(credentials).where(mine).values(revoked_ns=now_ns)).rowcount

    def _select(self, which: Any) -> tuple[Credential, ...]:
        query = select(credentials).where(which).order_by(credentials.c.issued_ns.desc(), credentials.c.sha256)
        with self._database.read() as connection:
            return tuple(Credential(**row) for row in connection.execute(query).mappings())
