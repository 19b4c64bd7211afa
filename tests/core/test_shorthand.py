"""``--source`` on the command line: a line for every kind of source, and what an incomplete one lacks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgectl.cli.completing import kinds
from edgectl.core.errors import UsageError
from edgectl.inventory.shorthand import SOURCES, source
from edgectl.inventory.types import SourceEntry


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("tail:/var/log/p.csv", {"type": "tail", "path": "/var/log/p.csv"}),
        ("replay:p.csv", {"type": "replay", "path": "p.csv", "speed": 1.0}),
        ("replay:p.csv@max", {"type": "replay", "path": "p.csv", "speed": "max"}),
        ("host-metrics", {"type": "host-metrics"}),
        ("host-metrics:250ms", {"type": "host-metrics", "every": "250ms"}),
        ("http", {"type": "http"}),
        ("mqtt://broker/plant/+/vib", {"type": "mqtt", "url": "mqtt://broker", "topic": "plant/+/vib"}),
        ("mqtts://b:8884/$share/g/t", {"type": "mqtt", "url": "mqtts://b:8884", "topic": "$share/g/t"}),
        ("kafka://broker/plant", {"type": "kafka", "brokers": ["broker:9092"], "topics": ["plant"]}),
        ("kafka://a:1,b:2/t,u", {"type": "kafka", "brokers": ["a:1", "b:2"], "topics": ["t", "u"]}),
        ("syslog", {"type": "syslog"}),
        ("syslog:udp", {"type": "syslog", "transport": ["udp"]}),
        ("syslog:514", {"type": "syslog", "listen": "127.0.0.1:514"}),
        ("syslog:udp:514", {"type": "syslog", "listen": "127.0.0.1:514", "transport": ["udp"]}),
        ("syslog:tcp:[::1]:514", {"type": "syslog", "listen": "[::1]:514", "transport": ["tcp"]}),
        (
            "opc.tcp://plc:4840/ua#p-3.vib=ns=2;s=P3.Vib,p-3.t=i=7",
            {"type": "opcua", "url": "opc.tcp://plc:4840/ua", "streams": {"p-3": {"vib": "ns=2;s=P3.Vib", "t": "i=7"}}},
        ),
    ],
)
def test_a_line_is_an_entry_of_fleet_yaml(text: str, entry: dict[str, Any]) -> None:
    assert source(f"s={text}") == ("s", entry)
    msgspec.convert(entry, SourceEntry)


@pytest.mark.parametrize(
    ("text", "needs", "example"),
    [
        ("tail:", "a path after tail:", "tail:/var/log/press.csv"),
        ("replay:", "a path after replay:, and perhaps @SPEED", "replay:press.csv@60"),
        ("host-metrics:", "host-metrics, or host-metrics: and how often", "host-metrics:10s"),
        ("http://broker", "http alone, since programs send to the node", "http"),
        ("mqtt://broker", "a broker and, after a slash, a topic", "mqtt://broker/plant/+/vib"),
        ("mqtts:///plant", "a broker and, after a slash, a topic", "mqtts://broker/plant/+/vib"),
        ("kafka://broker/", "brokers and, after a slash, topics, with commas between", "kafka://broker:9092/plant.vib"),
        ("kafka://a,,b/t", "brokers and, after a slash, topics, with commas between", "kafka://broker:9092/plant.vib"),
        ("syslog:tls:514", "syslog, or syslog: with tcp or udp, an address to listen on and a port", "syslog:udp:5514"),
        (
            "opc.tcp://plc#vib=i=7",
            "a server and, after #, STREAM.CHANNEL=NODEID with commas between",
            "opc.tcp://plc-3:4840#press-3.vib=ns=2;s=Press3.Vib",
        ),
    ],
)
def test_an_incomplete_line_says_what_is_missing_and_shows_a_whole_one(text: str, needs: str, example: str) -> None:
    with pytest.raises(UsageError) as caught:
        source(f"p={text}")
    assert caught.value.message == f"--source 'p={text}': expected {needs}"
    assert caught.value.hint == f"--source 'p={example}'"


def test_every_example_is_complete() -> None:
    for example, _, _ in SOURCES.values():
        assert source(f"s={example}")[0] == "s"


def test_standard_input_and_unknown_kinds_are_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match="runs as a service, which has no standard input"):
        source("s=stdin")
    for text in ("s", "s=", "=http", "s=ftp://x"):
        with pytest.raises(UsageError, match=r"expected NAME=tail:PATH or another kind, such as NAME=tail:/var/log/"):
            source(text)


def test_the_shell_completes_kinds_behind_a_name() -> None:
    assert kinds("p=") == [f"p={kind}" for kind in SOURCES]
    assert kinds("p=mq") == ["p=mqtt://", "p=mqtts://"]
    assert kinds("p") == []
