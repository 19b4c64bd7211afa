"""``/repo/…``: the signed repository for nodes that poll, with ranges and ETags, as any static web server has it.

Nothing here is secret or trusted: nodes verify every byte.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from edgectl.hub.hub import Hub

_CHANGES = "metadata/timestamp.json"
"""The one file that is ever replaced; the others are named by version or digest."""


def routes(hub: Hub) -> list[BaseRoute]:
    """The published repository."""
    return [Mount("/repo", _Repository(directory=hub.repository, check_dir=False))]


class _Repository(StaticFiles):
    """Only ``metadata/`` and ``targets/``: a lock or a file in the making is nobody's business."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        parts = path.split("/")
        if parts[0] not in ("metadata", "targets") or any(part.startswith(".") for part in parts):
            raise HTTPException(404, "Not Found")
        if not _whole(scope):
            raise HTTPException(400, "expected one range of bytes")
        answer = await super().get_response(path, scope)
        answer.headers["Cache-Control"] = "no-cache" if path == _CHANGES else "public, max-age=31536000, immutable"
        return answer


def _whole(scope: Scope) -> bool:
    """Not many ranges at once, with which one request makes a thousand answers."""
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    return b"," not in headers.get(b"range", b"")
