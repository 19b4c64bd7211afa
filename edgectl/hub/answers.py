"""What the receiver answers: JSON, and for errors ``{"error": sentence, "reason": word}`` with the fitting status."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from edgectl.core.errors import EdgeError, LockHeld, StorageError

RETRY_S = (5, 15)
"""Range of ``Retry-After``: spread, so that a thousand nodes do not come back in the same second."""


class Refused(EdgeError):
    """The caller is wrong; `status` is HTTP's."""

    def __init__(self, status: int, message: str, reason: str, hint: str | None = None) -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.status = status


class Busy(EdgeError):
    """The store has no time for this now; the caller comes again."""

    exit_code, reason = 75, "busy"


def data(value: object, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _error(status: int, sentence: str, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    answer = data({"error": sentence, "reason": reason}, status)
    answer.headers.update(headers or {})
    return answer


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    return _error(error.status, str(error), error.reason, headers)


async def _later(request: Request, error: Exception) -> Response:
    assert isinstance(error, EdgeError)
    return _error(503, str(error), error.reason, {"Retry-After": str(random.randint(*RETRY_S))})


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}", "no-such-call")


HANDLERS: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    Refused: _refused,
    Busy: _later,
    LockHeld: _later,
    StorageError: _later,
    HTTPException: _unknown,
}
"""Error → answer, for every part."""
