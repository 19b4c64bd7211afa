"""Against a real OPC UA server: source times, missing values, a server that dies, nodes that do not exist."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from edgectl_agent import yamlfile
from edgectl_agent.config import Config, OpcuaConfig
from edgectl_agent.core.bundle import encode
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.sources import opcua
from edgectl_agent.sources.opcua import OpcuaSource
from edgectl_agent.sources.opcua_rows import Reported, rows
from edgectl_agent.uplink.pace import Pace

from tests.support.agents import AgentProcess, stage
from tests.support.bundles import make_bundle, make_release
from tests.support.opcua import Server

DEADLINE_S = 60.0
BEGIN = 1_700_000_000
STREAMS = {"press": {"vib": "ns=2;s=vib", "temp": "ns=2;s=temp"}}
BAD = 0x8000_0000


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """A server whose nodes hold what no test wrote: a start takes seconds, so there is one for all."""
    if not shared.running:
        shared.start()
    yield shared
    if shared.running:
        shared.write(ts=time.time(), vib=0.0, temp=0.0, text="")


class Reader:
    """A source as the worker drives it; what the nodes held before the test wrote them is left out."""

    def __init__(self, url: str, **more: Any) -> None:
        self.source = OpcuaSource(OpcuaConfig(url=url, **({"streams": STREAMS, "every": "20ms"} | more)), "n.s")
        self.source.open(None)
        self.found: list[tuple[str, float, list[float]]] = []
        self.rejected: Counter[str] = Counter()

    def close(self) -> None:
        self.source.close()

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, (self.found, self.rejected, self.source.trouble)
            chunk = self.source.poll(100, 0.05)
            self.found += [
                (stream, at / 1e9 - BEGIN, values)
                for stream, at, values in zip(chunk.streams, chunk.event_time, chunk.values.tolist(), strict=True)
                if at < (BEGIN + 10**6) * 10**9
            ]
            self.rejected.update(chunk.rejected)

    def connected(self) -> None:
        self.until(lambda: not (self.source.waiting or self.source.trouble))


def test_values_of_one_stream_and_source_time_are_one_reading_also_if_only_the_time_is_new(server: Server) -> None:
    with closing(Reader(server.url)) as reader:
        reader.connected()
        for second in (0, 1, 2.5):
            server.write(ts=BEGIN + second, vib=1.5, temp=40.0)
        reader.until(lambda: len(reader.found) >= 3)
        assert reader.found == [("press", second, [1.5, 40.0]) for second in (0, 1, 2.5)]
        assert reader.rejected == {}


def test_a_bad_status_and_a_text_are_missing_values_and_counted(server: Server) -> None:
    streams = {"press": {"vib": "ns=2;s=vib", "temp": "ns=2;s=temp", "text": "ns=2;s=text"}}
    with closing(Reader(server.url, streams=streams)) as reader:
        reader.until(lambda: not reader.source.trouble and reader.rejected["not-a-number"] == 1)
        server.write(ts=BEGIN, vib=1.0)
        server.write(ts=BEGIN, temp=40.0, status=BAD)
        server.write(ts=BEGIN + 1, text="warm")
        server.write(ts=BEGIN + 2, vib=2.0, temp=41.0)
        reader.until(lambda: len(reader.found) >= 2 and reader.rejected.total() >= 3)
        assert reader.rejected == {"bad-status": 1, "not-a-number": 2}
        assert [(at, *map(str, values)) for _, at, values in reader.found] == [
            (0, "1.0", "nan", "nan"),
            (2, "2.0", "41.0", "nan"),
        ]


def test_a_server_that_is_not_there_or_killed_is_said_and_read_again_when_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opcua, "_PACE", Pace(0.02))  # a twenty-fifth of the usual pauses
    server = Server()
    with closing(Reader(server.url)) as reader:
        reader.until(lambda: "Connect call failed" in reader.source.trouble)
        for second in (0, 1):
            with server:
                reader.connected()
                server.write(ts=BEGIN + second, vib=float(second), temp=0.0)
                reader.until(lambda second=second: len(reader.found) > second)  # type: ignore[misc]
                server.kill()
                reader.until(lambda: bool(reader.source.trouble))
        assert [at for _, at, _ in reader.found] == [0, 1]


def test_a_node_that_does_not_exist_is_named_and_the_others_are_read(server: Server) -> None:
    streams = {"press": {"vib": "ns=2;s=vib", "temp": "ns=2;s=tmep"}}
    with closing(Reader(server.url, streams=streams)) as reader:
        reader.until(lambda: "refuses 1 node, the first is ns=2;s=tmep: BadNodeIdUnknown" in reader.source.trouble)
        server.write(ts=BEGIN, vib=7.0)
        reader.until(lambda: len(reader.found) == 1)


def test_an_agent_scores_what_a_server_reports(server: Server, tmp_path: Path) -> None:
    raw = encode(make_bundle())
    source = {"type": "opcua", "url": server.url, "streams": {"m": {"value": "ns=2;s=vib"}}, "every": "20ms"}
    agent = AgentProcess(tmp_path, sources={"plc": source | {"live": False}}, models={"press": ["plc"]})
    stage(agent.data_dir, raw, make_release("press", "1.0.0", 1, raw))
    with agent:
        agent.wait(lambda: agent.status().sources[0].state == "running")
        for second in range(20):
            server.write(ts=time.time() + second, vib=1.0)
        agent.wait(lambda: agent.status().sources[0].accepted >= 20)
        server.kill()
        agent.wait(lambda: agent.status().sources[0].state == "failed")
        assert agent.status().state == "degraded"


def test_rows_are_ordered_by_time_and_what_has_no_time_or_no_finite_number_is_told() -> None:
    rejected: Counter[str] = Counter()
    moment = datetime(2026, 3, 14, tzinfo=UTC)
    values = [(1.0, 0, None), (math.inf, 0, moment), (True, 0x480, moment), ([1.0], 0, moment), (None, BAD, None)]
    found = rows([Reported(("a", 0), value, status, at) for value, status, at in values], 1, 5 * 10**18, rejected)
    assert [(row.event_time, row.values) for row in found] == [
        (int(moment.timestamp()) * 10**9, [1.0]),
        (5 * 10**18, [1.0]),
    ]
    assert +rejected == {"not-finite": 1, "not-a-number": 1, "bad-status": 1, "lost-upstream": 1}


GOOD = """
version: 1
node: n
data_dir: d
sources:
  plc: {type: opcua, url: "opc.tcp://plc-3:4840", every: 1s, streams: {press: {vib: "ns=2;s=Vib", temp: "i=7"}}}
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("opc.tcp://", "http://", "plc.url: expected a URL such as opc.tcp://plc-3.acme.example:4840, found 'http:"),
        ("plc-3:", "me:pw@plc-3:", "plc.url: expected no user or password in it"),
        ("i=7", "Temp", "plc.streams.press.temp: expected a node id such as ns=2;s=Press3.Vib or i=2258, found 'Temp'"),
        ("i=7", "ns=2;s=Vib", "plc.streams.press.temp: node 'ns=2;s=Vib' is streams.press.vib already"),
        ('{vib: "ns=2;s=Vib", temp: "i=7"}', "{}", "plc.streams.press: expected at least one channel with its node id"),
        ("every: 1s", "every: 1ms", "plc.every: expected at least 10ms, found '1ms'"),
    ],
)
def test_a_wrong_key_is_named(old: str, new: str, says: str) -> None:
    yamlfile.parse(GOOD, Config, "agent.yaml")
    with pytest.raises(ConfigError, match=re.escape(says)):
        yamlfile.parse(GOOD.replace(old, new), Config, "agent.yaml")


def test_a_time_that_no_event_can_have_is_counted_and_does_not_end_the_worker() -> None:
    odd = (datetime(1601, 1, 1), datetime(1601, 1, 1, 0, 0, 1), datetime(9999, 12, 31, 23, 59, 59))
    times = (*odd, datetime(2026, 3, 14))
    rejected: Counter[str] = Counter()
    found = rows([Reported(("a", 0), 1.0, 0, at) for at in times], 1, 5 * 10**17, rejected)

    assert +rejected == {"bad-time": 2}
    assert [row.event_time for row in found] == [5 * 10**17, 1_773_446_400 * 10**9]  # the first means: none


def test_a_number_beyond_floating_point_is_missing() -> None:
    rejected: Counter[str] = Counter()

    assert rows([Reported(("a", 0), 10**400, 0, None)], 1, 1, rejected) == []
    assert +rejected == {"not-finite": 1}
