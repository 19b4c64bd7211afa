"""Decoders of what devices send, each with the laws that hold for any bytes."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from edgectl_agent.config import HttpConfig, KafkaConfig, LogLines, Mapping, MqttConfig, SyslogConfig
from edgectl_agent.core.errors import EdgeError, SourceError, UsageError
from edgectl_agent.core.syslog import Framer
from edgectl_agent.ingest import form, split, unpack
from edgectl_agent.sources.cells import MAX_STREAM_CHARS, MAX_TEXT_CHARS
from edgectl_agent.sources.decode import CsvDecoder, JsonDecoder, Records
from edgectl_agent.sources.http import HttpSource, QueueFull
from edgectl_agent.sources.kafka import KafkaSource
from edgectl_agent.sources.lines import LineReader
from edgectl_agent.sources.log_events import EventReader
from edgectl_agent.sources.log_lines import LogDecoder, joiner
from edgectl_agent.sources.mqtt_inbox import Inbox
from edgectl_agent.sources.opcua_rows import Reported, rows
from edgectl_agent.sources.payloads import decoder, records
from edgectl_agent.sources.syslog import SyslogDecoder
from edgectl_agent.sources.syslog_listener import Arrival
from edgectl_agent.sources.unpacked import Unpacked

from tests.fuzz.engine import Target

_LAST_NS = 9_200_000_000_000_000_000
_COLUMNS: dict[str, Any] = {"channels": {"a": "v.rms", "b": "t"}, "categories": {"unit": "unit", "msg": "msg"}}
JSON = Mapping(path="-", stream="machine", time="ts", **_COLUMNS)
CSV = Mapping(path="-", format="csv", zone="Europe/Paris", stream="machine", time="ts", channels={"a": "v", "b": "t"},
              categories={"unit": "unit"})  # fmt: skip
_HTTP = HttpConfig(stream="machine", time="ts", queue=2000, **_COLUMNS)
_KAFKA = KafkaConfig(brokers="b:9092", topics=("t",), stream="@key", time="ts", **_COLUMNS)
_KAFKA_CSV = KafkaConfig(brokers="b:9092", topics=("t",), format="csv", columns=("machine", "ts", "v", "t", "unit"),
                         stream="machine", time="ts", channels={"a": "v", "b": "t"},
                         categories={"unit": "unit"})  # fmt: skip
_MQTT = MqttConfig(url="mqtt://localhost", topic="plant/+/vib", stream="topic.1", time="ts", **_COLUMNS)
_SYSLOG = SyslogConfig(listen="127.0.0.1:5514", stream="host", time="time",
                       channels={"severity": "severity", "temp": "sd.plant@32473.temp"},
                       categories={"app": "app", "text": "msg", "level": "level", "kind": "message"})  # fmt: skip

_ROWS = (
    b'{"machine":"press-1","ts":1773479520.5,"v":{"rms":1.25},"t":41,"unit":"A","msg":"ok"}',
    b'{"machine":7,"ts":"2026-03-14T09:12:00.25+01:00","v":{"rms":-1e-3},"t":null,"unit":12,"msg":true}',
    b'{"ts":"2026-03-29T02:30:00","machine":"\\u00e9t\\u00e9","v":{},"other":[1,{"x":[]}]}',
)
_CELLS = b'press-1,2026-10-25T02:30:00,1.25,41,A\n7,1773479520.5,,-1e-3,\n"pre,ss",2026-03-14 09:12:00Z,1,2,"a""b"'
_WORDS = (b'"machine"', b'"ts"', b'"v"', b'"rms"', b'"t"', b'"unit"', b'"msg"', b",", b":", b"\n", b"{", b"}", b"[")


def check(found: Records, lines: int, blank: int) -> Hashable:
    """The laws of `Records`; the answer tells behaviours apart."""
    n = len(found)
    assert n + sum(found.rejected.values()) + blank == lines, (n, found.rejected, blank, lines)
    assert found.values.shape[0] == len(found.event_time) == len(found.line) == n
    assert not np.isinf(found.values).any()
    assert (np.abs(found.event_time) < _LAST_NS).all()
    assert all(0 < len(stream) <= MAX_STREAM_CHARS and stream.isprintable() for stream in found.streams)
    assert all(len(text) <= MAX_TEXT_CHARS for column in found.texts for text in column)
    assert (np.diff(found.line) > 0).all()
    missing = np.isnan(found.values).any(axis=0).tolist()
    return min(n, 3), tuple(sorted(found.rejected)), tuple(missing), any(map(any, found.texts))


def _json_lines() -> Target:
    reader = JsonDecoder(JSON)

    def run(data: bytes) -> Hashable:
        lines = data.split(b"\n")
        found = reader.decode(lines)
        if len(lines) <= 4:  # each line is judged alone
            alone = [reader.decode([line]) for line in lines]
            assert sum((one.streams for one in alone), ()) == found.streams
            assert [at for one in alone for at in one.event_time.tolist()] == found.event_time.tolist()
            assert sum((Counter(one.rejected) for one in alone), Counter()) == Counter(found.rejected)
        return check(found, len(lines), sum(not line.strip() for line in lines))

    return Target("json lines", run, (*_ROWS, b"\n".join(_ROWS * 3)), words=_WORDS, weight=10)


def _csv_lines() -> Target:
    reader = CsvDecoder(CSV, b"machine,ts,v,t,unit", "file")

    def run(data: bytes) -> Hashable:
        lines = data.split(b"\n")
        return check(reader.decode(lines), len(lines), sum(not line.strip() for line in lines))

    return Target("csv lines", run, (*_CELLS.split(b"\n"), _CELLS), words=(b",", b'"', b"\r", b"\n"), weight=8)


def _csv_header() -> Target:
    def run(data: bytes) -> Hashable:
        CsvDecoder(CSV, data, "file").decode([b"press-1,1773479520,1,2,3"])
        return None

    seeds = (b"machine,ts,v,t,unit", b'\xef\xbb\xbfts,"machine",v,t,unit,unit\r')
    return Target("csv header", run, seeds, (SourceError,), (b"ts", b"machine", b",", b'"'), weight=2)


def _kafka() -> Target:
    sources = [KafkaSource(config, "m") for config in (_KAFKA, _KAFKA_CSV)]

    def run(data: bytes) -> Hashable:
        csv, key, values = data[:1] > b"z", data[1:9] or None, data[9:].split(b"\0")
        given: list[bytes | None] = [value or None for value in values]
        rejected: Counter[str] = Counter()
        found = sources[csv]._records(given, [key] * len(given), rejected)
        assert len(found) + sum((rejected + Counter(found.rejected)).values()) == len(given)
        return min(len(found), 2), tuple(sorted(+rejected)), tuple(sorted(found.rejected)), csv

    seeds = (b"apress--1" + b"\0".join(_ROWS), b"~press--1" + _CELLS.replace(b"\n", b"\r\n\0"), b"a\xff\xff")
    return Target("kafka messages", run, seeds, words=_WORDS, weight=4)


def _mqtt() -> Target:
    json_reader = decoder(_MQTT)
    csv_reader = CsvDecoder(CSV, b"machine,ts,v,t,unit", "columns")

    def run(data: bytes) -> Hashable:
        topic, _, payload = data.partition(b"|")
        inbox = Inbox(100, 1 << 20, "json", 1, 10.0, {}, lambda: None)
        inbox.offer(topic.decode("utf-8", "replace"), payload, 1)
        taken = inbox.take(1 << 20, 0)
        found = json_reader.decode(taken.lines)
        assert len(taken.lines) == len(taken.streams)
        lines = records(payload, "csv")
        check(csv_reader.decode(lines), len(lines), sum(not line.strip() for line in lines))
        return min(len(found), 3), tuple(sorted(taken.rejected)), tuple(sorted(found.rejected))

    topic = b"plant/press-1/vib|"
    bodies = (*_ROWS, b"[" + b",".join(_ROWS) + b"]", b"\n".join(_ROWS), b'{\n "ts": 1,\n "machine": "x"\n}', _CELLS)
    return Target("mqtt payloads", run, [topic + body for body in bodies], words=_WORDS, weight=5)


def _http() -> Target:
    source = HttpSource(_HTTP)

    def run(data: bytes) -> Hashable:
        kind, packed = form(
            "application/json" if data[:1] < b"n" else "application/x-ndjson", data[1:5].strip().decode()
        )
        body = unpack(data[5:], 64 * 1024) if packed else data[5:]
        taken = source.offer(split(body, kind, source.room))
        chunk = source.poll(1 << 20, 0)
        assert len(chunk) == taken.accepted
        return min(len(chunk), 2), tuple(sorted(chunk.rejected))

    bodies = [b"j    " + _ROWS[0], b"j    [" + b",".join(_ROWS) + b"]", b"n    " + b"\n".join(_ROWS)]
    bodies += [body[:1] + b"gzip" + gzip.compress(body[5:], 1) for body in bodies]
    bodies.append(b"ngzip" + gzip.compress(b"\0" * 200_000))
    return Target("http bodies", run, bodies, (EdgeError, UsageError, QueueFull, UnicodeDecodeError), _WORDS, weight=4)


def _gzip_history() -> Target:
    def run(data: bytes) -> Hashable:
        file = Unpacked(io.BytesIO(data))
        reader, lines, size = LineReader(file), 0, 0
        while (found := reader.next()) and size < 4 << 20:
            lines += len(found.lines) + found.too_long
            size += sum(map(len, found.lines))
        return min(lines, 3), file.damage[:40], file.ended

    text = b"\n".join(_ROWS * 20)
    one = gzip.compress(text)
    seeds = (one, one + gzip.compress(text), one + b"\0" * 512, one[:-9], gzip.compress(b"x" * 3_000_000))
    return Target("gzip history", run, seeds, words=(b"\x1f\x8b\x08", one[:10]), weight=2)


class _Pieces(io.BytesIO):
    """A pipe: gives what it has in pieces of any size."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(self._most, size if size is not None and size >= 0 else self._most))


def _tail() -> Target:
    def run(data: bytes) -> Hashable:
        most, text = 32 + int.from_bytes(data[:1]) ** 2, data[1:]
        reader, lines = LineReader(_Pieces(text, most)), []
        ends: list[int] = []
        while found := reader.next():
            lines += found.lines
            ends += found.ends.tolist()
        assert [*lines, *reader.last().lines] == (
            text.split(b"\n") if text[-1:] != b"\n" else text.split(b"\n")[:-1]
        ) or (not text and not lines)
        assert all(text[end - 1 : end] == b"\n" for end in ends)
        return min(len(lines), 20), reader.unfinished, min(most, 3)

    return Target(
        "lines of a file", run, (b"\x02" + b"\n".join(_ROWS), b"\xff\n\n\r\n" + _CELLS), words=(b"\n",), weight=4
    )


def _syslog() -> Target:
    reader = SyslogDecoder(_SYSLOG)

    def run(data: bytes) -> Hashable:
        step, text = 8 + int.from_bytes(data[:1]) ** 2, data[1:]
        framer, whole = Framer(2048), Framer(2048)
        cut = [message for at in range(0, len(text), step) for message in framer.feed(text[at : at + step])]
        assert cut == whole.feed(text)
        assert framer.last() == whole.last()
        assert framer.too_long == whole.too_long
        cut.append(framer.last())
        found = reader.read(
            [Arrival(message, 1_773_479_520_000_000_000 + i * 1000, "10.2.0.1") for i, message in enumerate(cut)]
        )
        return check(found, len(cut), 0), min(framer.too_long, 1)

    modern = (
        b"<165>1 2026-03-14T09:12:00.003Z press-1 vib 8710 ID47 "
        b'[plant@32473 temp="41.5" a="\\"x\\]"][meta@1 n="2"] \xef\xbb\xbfhot'
    )
    old = b"<13>Mar 14 09:12:00 press-1 vib[8710]: hot"
    frames = b"".join(b"%d %s" % (len(one), one) for one in (modern, old))
    seeds = (b"\x40" + frames, b"\x03" + modern + b"\n" + old + b"\0<0>1 - - - - - -\n", b"\xff<13>x")
    words = (
        b"<13>",
        b"1 ",
        b"- ",
        b"[a@1 ",
        b' b="',
        b'"]',
        b"\\]",
        b"99999999 ",
        b"\n",
        b"\0",
        b"2026-03-14T09:12:00Z ",
    )
    return Target("syslog", run, seeds, words=words, weight=6)


_VALUES: tuple[Any, ...] = (
    1.5, 3, True, None, "x", b"x", [1.0], float("nan"), float("inf"), -float("inf"), 1 << 70, 10**400, 1e308, {},
)  # fmt: skip
_MOMENTS = (None, datetime(1, 1, 1), datetime(9999, 12, 31, tzinfo=UTC), datetime(1601, 1, 1), datetime(2026, 3, 14))


def _opcua() -> Target:
    def run(data: bytes) -> Hashable:
        given = []
        for a, b, c, d in zip(*[iter(data)] * 4, strict=False):
            moment = _MOMENTS[c % len(_MOMENTS)]
            if moment is not None and 1 < moment.year < 9999:
                moment += timedelta(microseconds=d * 997)
            status = (0, 0, 0x80000000, 0x480, 0x40000000, 0xFFFFFFFF)[b % 6]
            given.append(Reported((f"s{a % 3}", a % 2), _VALUES[d % len(_VALUES)], status, moment))
        rejected: Counter[str] = Counter()
        found = rows(given, 2, 1, rejected)
        assert all(abs(row.event_time) < _LAST_NS for row in found)
        assert not any(np.isinf(row.values).any() for row in found)
        return len(found), tuple(sorted(+rejected))

    return Target("opc ua values", run, (bytes(range(64)), b"\x01\x02\x03\x04"), longest=512, weight=3)


def _logs() -> Target:
    said = LogLines(pattern=r"^(?P<time>\S+ \S+) (?P<level>[A-Z]+) \[(?P<thread>[^\]]*)\] (?P<message>.*)$")
    plain = LogLines()
    mapping = Mapping(
        path="-", format="log", zone="Europe/Paris", stream="=log", time="time", channels={"length": "length"},
        categories={"level": "level", "message": "message"},
    )  # fmt: skip
    now_ns = 1_773_479_520_000_000_000
    decoders = [LogDecoder(mapping, one, lambda: now_ns) for one in (said, plain)]

    def run(data: bytes) -> Hashable:
        how, text = int.from_bytes(data[:1]) % 2, data[1:]
        reader = EventReader(LineReader(_Pieces(text, 4096)), joiner((said, plain)[how]), 0.0)
        events: list[bytes] = []
        while found := reader.read(1000).lines:
            events += found
        events += reader.flush().lines
        found_records = decoders[how].decode(events)
        return how, check(found_records, len(events), 0), min(reader.take_dropped(), 2)

    seeds = (
        b"\0" + b"2026-03-14 09:12:00,123 INFO [main] took 12 ms of 10.0.0.1:8080 for /srv/app/a.py id 0xdeadbeef\n"
        b'Traceback (most recent call last):\n  File "/a/b.py", line 1\nValueError: x\n',
        b"\x01" + b"Mar 14 09:12:00 host app[1]: ERROR 5 of 7 failed\n2026-03-14T09:12:00.5Z warn fe80::1:2\nx\n",
        b"\x01" + b'10.0.0.1 - - [14/Mar/2026:09:12:00 +0100] "GET /a/b/c.html HTTP/1.1" 200 12\n',
    )
    words = (
        b":",
        b"/a",
        b"a:",
        b" INFO ",
        b"\n  at ",
        b"\nCaused by: ",
        b"14/Mar/2026:09:12:00 +0100",
        b"Feb 29 23:59:60",
    )
    return Target("events of a log", run, seeds, words=words, weight=5)


def targets() -> list[Target]:
    made = (_logs, _json_lines, _csv_lines, _csv_header, _kafka, _mqtt, _http, _gzip_history, _tail, _syslog, _opcua)
    return [one() for one in made]
