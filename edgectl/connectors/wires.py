"""The one wire of a process for each fleet: certificates are read once, connections are shared by all its nodes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from edgectl.connectors.http import Wire, mutual, plain
from edgectl.core.errors import ExpiredError, TrustError
from edgectl.trust.authority import Authority

_lock = threading.Lock()
_made: dict[Path | None, Wire] = {}


def loopback() -> Wire:
    """Speaks no TLS."""
    with _lock:
        return _made.setdefault(None, plain())


def fleet(
    authority: Authority, operator: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Callable[[], Wire]:
    """Hands out the wire of `authority`'s fleet, with the operator's certificate renewed if it is due and can be.

    The callable raises `TrustError` if there are no certificates here, and `ExpiredError` if the operator's has ended.
    """

    def wire() -> Wire:
        with _lock:
            if authority.operator_key not in _made:
                _made[authority.operator_key] = _open(authority, operator, clock())
            return _made[authority.operator_key]

    return wire


def _open(authority: Authority, operator: str, now: datetime) -> Wire:
    trusted = authority.trusted("nodes")
    with suppress(TrustError):  # the passphrase is not at hand: what is left of the old one's life must do
        authority.renew_operator(operator, None, now)
    ends = authority.operator_ends()
    if ends <= now:
        raise ExpiredError(f"your client certificate ended {ends:%Y-%m-%d}", hint="edgectl init renews it")
    return mutual(trusted, authority.operator_certificate, authority.operator_key)
