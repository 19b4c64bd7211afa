"""Puts together what agent.yaml asks for: the poll of a repository, the sync with a receiver."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edgectl_agent.config import Config, Repository, Uplink
from edgectl_agent.core.messages import Report, UpdateResult
from edgectl_agent.core.units import duration_ns
from edgectl_agent.outbox import Outbox
from edgectl_agent.uplink.interface import LinkStatus
from edgectl_agent.uplink.loop import Loop
from edgectl_agent.uplink.orders import Call, Orders, loopback
from edgectl_agent.uplink.pace import Pace
from edgectl_agent.uplink.pull import Poller
from edgectl_agent.uplink.sync import Reporter
from edgectl_agent.uplink.web import Web


class Node(Protocol):
    """What the errands need of the agent: its runtime."""

    outbox: Outbox

    def report(self) -> Report: ...

    def have(self) -> dict[str, Any]: ...

    def update(self) -> UpdateResult: ...


class Links:
    """`start` to `stop`; `changed` and `poll_now` from any thread, also from a signal handler."""

    def __init__(self, config: Config, node: Node, contact: Callable[[], tuple[str, str]]) -> None:
        """`contact` gives URL and token of the agent's own API, for orders."""
        rng = random.Random()
        self._polling = self._reporting = None
        poller = _poller(config, config.repository, node) if config.repository else None
        if poller is not None and config.repository is not None:
            self._polling = Loop(poller, Pace(duration_ns(config.repository.every) / 1e9), rng)
        if config.uplink is not None:
            orders = Orders(_through(poller, loopback(contact)), self.changed)
            reporter = _reporter(config, config.uplink, node, orders)
            self._reporting = Loop(reporter, Pace(duration_ns(config.uplink.every) / 1e9), rng)
        self._loops = [loop for loop in (self._polling, self._reporting) if loop is not None]

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        for loop in self._loops:
            loop.stop()

    def changed(self) -> None:
        """An alert was acknowledged, another model runs, an order was carried out: the receiver should hear of it."""
        if self._reporting is not None:
            self._reporting.nudge()

    def poll_now(self) -> None:
        """Poll and report at once: somebody waits for it."""
        for loop in self._loops:
            loop.nudge(soon=False)

    def statuses(self) -> tuple[LinkStatus, ...]:
        """How each errand fares."""
        return tuple(loop.status() for loop in self._loops)


def _poller(config: Config, said: Repository, node: Node) -> Poller:
    web = Web(said.ca_file, redirects=True)
    return Poller(said.url, web, config.folder, config.node, lambda: frozenset(node.have()["bundles"]), node.update)


def _reporter(config: Config, said: Uplink, node: Node, orders: Orders) -> Reporter:
    web = Web(said.ca_file)
    return Reporter(said.url, web, Path(said.token_file), config.node, node.outbox, node.report, orders)


def _through(poller: Poller | None, call: Call) -> Call:
    """A node that polls fetches before it updates: nobody else fills its spool."""

    def ordered(method: str, path: str, body: str) -> tuple[int, str]:
        if poller is None or (method, path) != ("POST", "/v1/update"):
            return call(method, path, body)
        result = poller.order()
        return 409 if result.state == "refused" else 200, msgspec.json.encode(result).decode()

    return ordered
