"""``POST /v1/nodes/{node}/sync``: the one call of a node that nobody can reach (see `edgectl_agent.core.messages`)."""

from __future__ import annotations

import asyncio
import zlib

import msgspec
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import MAX_SYNC_BYTES, Sync, SyncResult
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edgectl.core.records import MALFORMED
from edgectl.hub.access import authorise
from edgectl.hub.answers import Refused, data
from edgectl.hub.hub import Hub
from edgectl.hub.receive import receive

BODY_S = 60.0
"""How long a body may take to arrive."""


def routes(hub: Hub) -> list[BaseRoute]:
    """The sync of nodes."""

    async def sync(request: Request) -> Response:
        node, header = request.path_params["node"], request.headers.get("authorization", "")
        await run_in_threadpool(_admit, hub, node, header)  # before a byte of the body is taken
        raw = await read_body(request, MAX_SYNC_BYTES)
        return data(await run_in_threadpool(_take, hub, node, raw))

    return [Route("/v1/nodes/{node}/sync", sync, methods=["POST"])]


def _admit(hub: Hub, node: str, header: str) -> None:
    with hub.at_work():
        authorise(hub.store, node, header, hub.clock_ns())


def _take(hub: Hub, node: str, raw: bytes) -> SyncResult:
    try:
        said = msgspec.json.decode(raw, type=Sync)
    except UNREADABLE as e:
        with hub.at_work():
            hub.store.nodes.save_failure(node, f"{MALFORMED} Report: {e}", hub.clock_ns())
        raise Refused(400, f"the body is not a sync: {e}", "malformed") from e
    with hub.at_work():
        return receive(hub.store, node, said, hub.clock_ns())


async def read_body(request: Request, limit: int) -> bytes:
    """The body, decompressed if it is gzip.

    Raises:
        Refused: more than `limit` bytes (413), another encoding (415), damaged (400), too slow (408).
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding not in ("identity", "gzip"):
        raise Refused(415, f"content encoding {encoding[:40]!r} is not taken, expected gzip or none", "encoding")
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS) if encoding == "gzip" else None
    found = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                found += inflate.decompress(part, limit + 1 - len(found)) if inflate else part
                if len(found) > limit:
                    raise Refused(413, f"the body has more than {limit} bytes", "oversized")
    except TimeoutError as e:
        raise Refused(408, f"the body did not arrive within {BODY_S:g} s", "slow") from e
    except zlib.error as e:
        raise Refused(400, f"the body is not gzip: {e}", "malformed") from e
    except ClientDisconnect as e:
        raise Refused(400, "the body ended early", "malformed") from e
    if inflate and not inflate.eof:
        raise Refused(400, "the body ended early", "malformed")
    return bytes(found)
