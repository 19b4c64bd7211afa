"""The short forms of the command line for what fleet.yaml writes out.

``press=tail:/var/log/press.csv``, ``press=mqtt://broker/plant/+/vib``, ``host=host-metrics:10s`` ·
``press=press,backup`` · ``line=press``
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from edgectl.core.errors import UsageError

Entry = dict[str, Any]
_SPEED = re.compile(r"(.+)@(max|\d+(?:\.\d+)?)")
_SYSLOG = re.compile(r"(?:(tcp|udp)(?::|$))?(?:(?:(\[[0-9A-Fa-f:.]+\]|[0-9.]+):)?(\d{1,5}))?")
_PORT = re.compile(r".+:\d{1,5}")


def source(text: str) -> tuple[str, Entry]:
    """(name, entry of fleet.yaml) of one ``--source``. Raises `UsageError`."""
    name, equals, said = text.partition("=")
    for begin, (example, needs, entry) in SOURCES.items():
        if name and equals and said.startswith(begin):
            found = entry(said.removeprefix(begin))
            if found is None:
                raise UsageError(f"--source {text!r}: expected {needs}", hint=f"--source '{name}={example}'")
            return name, found
    if said.partition(":")[0] == "stdin":
        raise UsageError(
            f"--source {text!r}: the agent of a fleet runs as a service, which has no standard input",
            hint="let the program write to a file and follow it, or run edgectl-agent by hand",
        )
    examples = ", ".join(f"NAME={example}" for example, _, _ in SOURCES.values())
    raise UsageError(f"--source {text!r}: expected NAME=tail:PATH or another kind, such as {examples}")


def _tail(rest: str) -> Entry | None:
    return {"type": "tail", "path": rest} if rest else None


def _replay(rest: str) -> Entry | None:
    match = _SPEED.fullmatch(rest)
    path, speed = (match[1], match[2]) if match else (rest, "1")
    return {"type": "replay", "path": path, "speed": speed if speed == "max" else float(speed)} if path else None


def _host_metrics(rest: str) -> Entry | None:
    if rest in ("", ":"):
        return {"type": "host-metrics"} if not rest else None
    return {"type": "host-metrics", "every": rest[1:]} if rest.startswith(":") else None


def _http(rest: str) -> Entry | None:
    return None if rest else {"type": "http"}


def _mqtt(scheme: str) -> Callable[[str], Entry | None]:
    def entry(rest: str) -> Entry | None:
        broker, _, topic = rest.partition("/")
        return {"type": "mqtt", "url": f"{scheme}{broker}", "topic": topic} if broker and topic else None

    return entry


def _kafka(rest: str) -> Entry | None:
    before, _, after = rest.partition("/")
    brokers, topics = before.split(","), after.split(",")
    if not (all(brokers) and all(topics)):
        return None
    return {"type": "kafka", "brokers": [b if _PORT.fullmatch(b) else f"{b}:9092" for b in brokers], "topics": topics}


def _syslog(rest: str) -> Entry | None:
    match = _SYSLOG.fullmatch(rest.removeprefix(":")) if rest.startswith(":") else None
    if rest and (match is None or not any(match.groups())):
        return None
    transport, host, port = match.groups() if match else (None, None, None)
    found: Entry = {"type": "syslog"}
    if port:
        found["listen"] = f"{host or '127.0.0.1'}:{port}"
    return found | ({"transport": [transport]} if transport else {})


def _opcua(rest: str) -> Entry | None:
    server, _, nodes = rest.partition("#")
    streams: dict[str, dict[str, str]] = {}
    for node in nodes.split(","):
        where, _, node_id = node.partition("=")
        stream, _, channel = where.rpartition(".")
        if not (server and stream and channel and node_id):
            return None
        streams.setdefault(stream, {})[channel] = node_id
    return {"type": "opcua", "url": f"opc.tcp://{server}", "streams": streams}


SOURCES: dict[str, tuple[str, str, Callable[[str], Entry | None]]] = {
    "tail:": ("tail:/var/log/press.csv", "a path after tail:", _tail),
    "replay:": ("replay:press.csv@60", "a path after replay:, and perhaps @SPEED", _replay),
    "host-metrics": ("host-metrics:10s", "host-metrics, or host-metrics: and how often", _host_metrics),
    "http": ("http", "http alone, since programs send to the node", _http),
    "mqtt://": ("mqtt://broker/plant/+/vib", "a broker and, after a slash, a topic", _mqtt("mqtt://")),
    "mqtts://": ("mqtts://broker/plant/+/vib", "a broker and, after a slash, a topic", _mqtt("mqtts://")),
    "kafka://": ("kafka://broker:9092/plant.vib", "brokers and, after a slash, topics, with commas between", _kafka),
    "syslog": ("syslog:udp:5514", "syslog, or syslog: with tcp or udp, an address to listen on and a port", _syslog),
    "opc.tcp://": (
        "opc.tcp://plc-3:4840#press-3.vib=ns=2;s=Press3.Vib",
        "a server and, after #, STREAM.CHANNEL=NODEID with commas between",
        _opcua,
    ),
}
"""How each kind begins, an example, what it needs, and what becomes of the rest; None if that is not enough."""


def sources(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """All ``--source`` options. Raises `UsageError`, also for a name twice."""
    return _once("--source", (source(text) for text in texts))


def models(texts: Iterable[str]) -> dict[str, list[str]]:
    """``RECIPE=SOURCE[,SOURCE…]`` → recipe → sources; ``RECIPE`` alone means the source of the same name."""

    def model(text: str) -> tuple[str, list[str]]:
        recipe, _, names = text.partition("=")
        found = [name.strip() for name in (names or recipe).split(",")]
        if not recipe or not all(found):
            raise UsageError(f"--model {text!r}: expected RECIPE=SOURCE or RECIPE=SOURCE,SOURCE")
        return recipe, found

    return _once("--model", (model(text) for text in texts))


def labels(texts: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` → label. Raises `UsageError`."""

    def label(text: str) -> tuple[str, str]:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"--label {text!r}: expected KEY=VALUE")
        return key, value

    return _once("--label", (label(text) for text in texts))


def _once(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UsageError(f"{option}: {name!r} is given twice")
        found[name] = value
    return found
