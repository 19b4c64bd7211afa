"""Subscribes to nodes of an OPC UA server.

A reading is what the nodes of one stream report for one source time; what a node does not report at that time is
missing. The server reports a value also if only its time is new. Bad values and those that are no numbers are missing
and counted.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.node import Node
from asyncua.common.subscription import DataChangeNotif, Subscription
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.uaerrors import UaError

from edgectl_agent.config import OpcuaConfig
from edgectl_agent.core.units import duration_ns
from edgectl_agent.core.wording import counted
from edgectl_agent.logs import warn
from edgectl_agent.sources.intake import IntakeSource
from edgectl_agent.sources.interface import Chunk, Position
from edgectl_agent.sources.opcua_rows import Reported, Row, rows
from edgectl_agent.uplink.pace import Pace

_TIMEOUT_S = 10.0
_PACE = Pace(0.5)
"""After failures: 1 s, then twice as long each time up to 30 s, each less a random half."""
_CHECK_S = 1.0


class OpcuaSource(IntakeSource[Row]):
    """What a subscription reports; a server does not keep it."""

    def __init__(self, config: OpcuaConfig, name: str, clock: Callable[[], int] = time.time_ns) -> None:
        super().__init__(config.buffer, clock)
        self.live = config.live
        self._config, self._name = config, name
        channels = list(config.channels)
        self._places = {
            ua.NodeId.from_string(node): (stream, channels.index(channel))
            for stream, nodes in config.streams.items()
            for channel, node in nodes.items()
        }
        self._width = len(channels)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._arrived = asyncio.Event()
        self._reported: list[Reported] = []
        self._why, self._tried = "", False
        self._random = random.Random()

    def open(self, position: Position | None) -> None:
        self.close()
        self.waiting, self._why, self._tried = True, "", False
        self._loop, self._stopping, self._arrived = asyncio.new_event_loop(), asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="opcua", daemon=True)
        self._thread.start()

    def poll(self, limit: int, timeout_s: float) -> Chunk:
        taken = self._intake.take(limit, timeout_s)
        self.trouble, self.waiting = self._why, not self._tried
        found = taken.records
        return Chunk(
            tuple(row.stream for row in found),
            np.fromiter((row.event_time for row in found), np.int64, len(found)),
            np.array([row.values for row in found], np.float64).reshape(len(found), self._width),
            {},
            self._clock(),
            rejected=taken.rejected,
        )

    def close(self) -> None:
        if self._thread is not None and self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_TIMEOUT_S)
            self._thread = None

    # ── the source's own thread ─────────────────────────────────────────────────────────────────────────────────────

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # it logs what is said in `trouble`
        try:
            loop.run_until_complete(self._stay_connected())
        finally:
            loop.close()

    async def _stay_connected(self) -> None:
        assert self._stopping is not None
        failing = 0
        while not self._stopping.is_set():
            begun_s = time.monotonic()
            try:
                await self._session()
            except (OSError, UaError, TimeoutError) as e:
                self._why = f"{self._config.url}: {str(e) or type(e).__name__}"
            except Exception as e:  # a server's answer that the library does not understand ends no agent
                self._why = f"{self._config.url}: {type(e).__name__}: {e}"
                warn("opcua-unexpected", source=self._name, message=self._why)
            self._tried = True
            failing = 1 if time.monotonic() - begun_s > _PACE.longest_s else failing + 1
            await self._sleep(_PACE.failure(failing, self._random.random()))

    async def _sleep(self, seconds: float) -> None:
        assert self._stopping is not None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _session(self) -> None:
        """Connect, subscribe, and pass on what is reported, until the agent stops or the connection breaks."""
        assert self._stopping is not None
        client = Client(self._config.url, timeout=_TIMEOUT_S)
        client.name = f"edgectl-agent {self._name}"
        async with client:
            await self._subscribe(await client.create_subscription(self._period_ms, self))
            while not self._stopping.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), _CHECK_S)
                self._arrived.clear()
                self._pass_on()
                await client.check_connection()

    @property
    def _period_ms(self) -> float:
        return duration_ns(self._config.every) / 1e6

    async def _subscribe(self, subscription: Subscription) -> None:
        """Monitor every node; those that the server refuses are named in `trouble`, the others are read."""
        wanted = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
        requests = []
        for handle, node in enumerate(self._places, 1):
            settings = ua.MonitoringParameters(handle, self._period_ms, wanted, self._config.queue, True)
            item = ua.ReadValueId(node, AttributeIds.Value)
            requests.append(ua.MonitoredItemCreateRequest(item, ua.MonitoringMode.Reporting, settings))
        answers: list[Any] = await subscription.create_monitored_items(requests)
        refused = [
            f"{node.to_string()}: {answer.name}"
            for node, answer in zip(self._places, answers, strict=True)
            if isinstance(answer, ua.StatusCode)
        ]
        many = counted(len(refused), "node")
        self._why = f"{self._config.url} refuses {many}, the first is {refused[0]}" if refused else ""
        self._tried = True

    def _pass_on(self) -> None:
        """What one or several reports brought together, into the queue."""
        reported, self._reported = self._reported, []
        rejected: Counter[str] = Counter()
        found = rows(reported, self._width, self._clock(), rejected)
        self._intake.offer_or_drop(found, rejected)

    def datachange_notification(self, node: Node, value: Any, data: DataChangeNotif) -> None:
        """Called by the library for each value; those of one report come in a row."""
        found = data.monitored_item.Value
        status, moment = found.StatusCode, found.SourceTimestamp or found.ServerTimestamp
        self._reported.append(Reported(self._places[node.nodeid], value, status.value if status else 0, moment))
        self._arrived.set()
