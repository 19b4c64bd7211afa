"""``POST /v1/enrol`` and ``/install/…``: machines that nobody knows yet become nodes, with an invite.

Scripts and packages are no secret. What an enrolment gives away is the node's own configuration, and it takes an
invite's token; the uplink's token is made on the machine, and only its digest comes here.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
from edgectl_agent.core.foreign import UNREADABLE
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from edgectl.core.errors import ConfigError, NothingMatched, UsageError
from edgectl.core.wheels import parse_version
from edgectl.hub.answers import Refused, data
from edgectl.hub.hub import Hub
from edgectl.hub.sync import read_body
from edgectl.workspace import Workspace

MAX_BYTES = 64 * 1024
_STATUS = {"unknown": 401, "expired": 403, "used-up": 409, "elsewhere": 409}
_SCRIPT = re.compile(r"[0-9a-f]{16}\.sh")

Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class Enrol(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``POST /v1/enrol``."""

    token: str
    machine: Hex
    credential: Hex
    folder: str = ""
    facts: dict[str, str] = {}


msgspec.json.Decoder(Enrol)  # not first in two threads at once: see edgectl_agent.core.messages


def routes(hub: Hub) -> list[BaseRoute]:
    """Only where the workspace is at hand."""
    if hub.workspace is None:
        return []
    workspace = hub.workspace

    async def enrol(request: Request) -> Response:
        raw = await read_body(request, MAX_BYTES)
        return data(await run_in_threadpool(_enrol, hub, workspace, raw))

    async def offer(request: Request) -> Response:
        return data(await run_in_threadpool(_offer, workspace, dict(request.query_params)))

    async def script(request: Request) -> Response:
        name = request.path_params["name"]
        path = workspace.installs / name
        if not _SCRIPT.fullmatch(name) or not path.is_file():
            raise Refused(404, f"there is no install script {name}", "no-such-call", "edgectl nodes invite")
        return FileResponse(path, media_type="text/x-shellscript")

    async def wheel(request: Request) -> Response:
        return FileResponse(await run_in_threadpool(_wheel, workspace, request.path_params))

    return [
        Route("/v1/enrol", enrol, methods=["POST"]),
        Route("/install/offer", offer),
        Route("/install/wheels/{house}/{name}", wheel),
        Route("/install/{name}", script),
    ]


def _enrol(hub: Hub, workspace: Workspace, raw: bytes) -> dict[str, Any]:
    from edgectl.enrolment.enrolling import files_for

    try:
        said = msgspec.json.decode(raw, type=Enrol)
    except UNREADABLE as e:
        raise Refused(400, f"the body is no enrolment: {e}", "malformed") from e
    if said.folder and not Path(said.folder).is_absolute():
        raise Refused(400, f"folder: expected an absolute path, found {said.folder!r}", "malformed")
    with hub.at_work():
        try:
            return files_for(workspace, hub.columns, hub.store, said, hub.clock_ns())
        except NothingMatched as e:
            raise Refused(_STATUS.get(e.reason, 409), e.message, e.reason, e.hint) from e
        except ConfigError as e:
            raise Refused(503, f"the fleet's configuration is wrong: {e.message}", "config") from e


def _offer(workspace: Workspace, asked: dict[str, str]) -> dict[str, Any]:
    """The packages for a machine: those of a wheelhouse that fits, else the agent's wheel and tested versions."""
    from edgectl.core.wheels import parse_platform, parse_python
    from edgectl.machine import packages, wheelhouse

    try:
        machine, python = parse_platform(asked.get("machine", "")), parse_python(asked.get("python", ""))
        glibc = parse_version(asked.get("glibc", ""))
    except UsageError as e:
        raise Refused(409, e.message.removeprefix("--platform: ").removeprefix("--python: "), "unfit", e.hint) from e
    except (ValueError, IndexError) as e:
        raise Refused(409, "this machine has no glibc, expected 2.28 or newer", "unfit") from e
    agent = packages.agent_wheel(workspace.wheels)
    version = packages.version(agent)
    for house in wheelhouse.every(workspace.wheelhouses):
        made = house.manifest
        if made.agent == version and made.fits(machine, python, glibc):
            files = [_listed(house.folder.name, file.name, file.sha256) for file in made.files]
            agents = [file for file in files if file["name"].startswith("edgectl_agent-")]
            rest = [file for file in files if file not in agents]
            return _offered(version, agents[0], rest, "")
    own = _listed("agent", agent.name, hashlib.sha256(agent.read_bytes()).hexdigest())
    return _offered(version, own, [], packages.constraints().decode())


def _offered(version: str, agent: dict[str, str], wheels: list[dict[str, str]], constraints: str) -> dict[str, Any]:
    total = hashlib.sha256(constraints.encode())
    for file in sorted((agent, *wheels), key=lambda file: file["name"]):
        total.update(f"{file['name']} {file['sha256']}\n".encode())
    name = f"{version}-{total.hexdigest()[:8]}"
    return {"version": version, "name": name, "agent": agent, "wheels": wheels, "constraints": constraints}


def _listed(house: str, name: str, sha256: str) -> dict[str, str]:
    return {"name": name, "sha256": sha256, "path": f"/install/wheels/{house}/{name}"}


def _wheel(workspace: Workspace, asked: dict[str, str]) -> Path:
    from edgectl.machine import packages, wheelhouse

    house, name = asked["house"], asked["name"]
    known = [packages.agent_wheel(workspace.wheels)] if house == "agent" else []
    known += [path for h in wheelhouse.every(workspace.wheelhouses) if h.folder.name == house for path in h.wheels]
    found = next((path for path in known if path.name == name), None)
    if found is None:
        raise Refused(404, f"there is no package {house}/{name}", "no-such-call")
    return found
