"""Puts the receiver's parts together. A new part is one file with a ``routes(hub)`` and one entry in `PARTS`."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edgectl import __version__
from edgectl.hub import enrol, files, sync
from edgectl.hub.answers import HANDLERS, data
from edgectl.hub.hub import Hub

PARTS: tuple[Callable[[Hub], list[BaseRoute]], ...] = (sync.routes, enrol.routes, files.routes)


def build(hub: Hub) -> Starlette:
    """The ASGI application."""

    async def live(request: Request) -> Response:
        return data({"live": True, "fleet": hub.fleet, "version": __version__})

    routes = [Route("/v1/live", live), *(route for part in PARTS for route in part(hub))]
    return Starlette(routes=routes, exception_handlers=HANDLERS)
