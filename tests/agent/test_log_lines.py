from __future__ import annotations

import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from edgectl_agent.config import Config, LogLines, TailConfig
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.units import event_time_ns
from edgectl_agent.sources.decode import Records
from edgectl_agent.sources.log_lines import LogDecoder
from edgectl_agent.sources.log_times import LogTimes
from edgectl_agent.sources.repeated import Passes
from edgectl_agent.yamlfile import parse
from hypothesis import given
from hypothesis import strategies as st

NOW = event_time_ns("2026-03-14T12:00:00Z")
PATTERN = r"^\S+ (?P<host>[\w.-]+) (?P<level>[A-Z]+) (?P<message>.*)"


def decoder(said: LogLines | None = None, stream: str = "host", time: str = "time") -> LogDecoder:
    said = said or LogLines(pattern=PATTERN)
    config = TailConfig(
        path="app.log", format="log", log=said, stream=stream, time=time,
        channels={"lines": "lines", "bytes": "length", "damage": "replaced"},
        categories={"level": "level", "text": "message"},
    )  # fmt: skip
    return LogDecoder(config, said, lambda: NOW)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2026-03-14T09:12:00.123Z up", "2026-03-14T09:12:00.123Z"),
        ("2026-03-14 09:12:00,123 up", "2026-03-14T09:12:00.123Z"),
        ("[2026-03-14 09:12:00+01:00] up", "2026-03-14T08:12:00Z"),
        ("2026/03/14 09:12:00 [error] 17#0: up", "2026-03-14T09:12:00Z"),
        ("Mar 14 09:12:00 web-1 app[3]: up", "2026-03-14T09:12:00Z"),
        ("<13>Dec 31 23:59:59 web-1 app: up", "2025-12-31T23:59:59Z"),
        ("1773479520 up", "2026-03-14T09:12:00Z"),
        ("1773479520123 up", "2026-03-14T09:12:00.123Z"),
        ('10.0.0.1 - - [14/Mar/2026:10:12:00 +0100] "GET / HTTP/1.1" 200', "2026-03-14T09:12:00Z"),
    ],
)
def test_the_usual_forms_of_time_are_known(line: str, expected: str) -> None:
    found = LogTimes(UTC).find(line, NOW)
    assert found is not None
    assert found[0] == event_time_ns(expected)


@pytest.mark.parametrize("line", ["up", "", "2026-13-14T09:12:00Z up", "17734 up", "[99/Foo/2026:10:12:00 +0100]"])
def test_what_is_no_time_is_none(line: str) -> None:
    assert LogTimes(UTC).find(line, NOW) is None


def test_columns_are_found_by_the_pattern_and_by_what_a_log_has() -> None:
    found = decoder().decode([b"2026-03-14T09:12:00.123Z web-1 WARNING user 17 is slow\n\tat x\nValueError: bad 3"])
    assert found.streams == ("web-1",)
    assert found.texts == (("WARN",), ("user <*> is slow | ValueError: bad <*>",))
    assert found.values.tolist() == [[3.0, 78.0, 0.0]]


def test_without_a_pattern_level_and_message_are_looked_for() -> None:
    found = decoder(LogLines(), stream="=app").decode([b"2026-03-14 09:12:00,123 [main] error: disk 3 is full"])
    assert found.texts == (("ERROR",), ("[main] error: disk <*> is full",))


def test_equal_lines_of_one_tick_are_not_one_reading_told_twice() -> None:
    lines = [b"2026-03-14T09:12:00Z web-1 INFO ok"] * 3
    base = event_time_ns("2026-03-14T09:12:00Z")
    whole, parts = decoder(), decoder()
    assert whole.decode(lines).event_time.tolist() == [base, base + 1, base + 2]
    parts.sequence = 2
    assert parts.decode(lines[2:]).event_time.tolist() == [base + 2]


def test_binary_lines_have_a_defined_result() -> None:
    found = decoder().decode([b"2026-03-14T09:12:00Z web-1 INFO \xff\x00ok", b"\x00\xff", b"2026-03-14T09:12:01Z \xff"])
    assert found.texts[1] == ("\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}ok",)
    assert found.values[:, 2].tolist() == [2.0]
    assert found.rejected == {"bad-time": 1, "bad-stream": 1}


def test_a_log_without_times_is_told_by_when_it_is_read() -> None:
    found = decoder(LogLines(), stream="=app", time="arrival").decode([b"up", b"down"])
    assert found.event_time.tolist() == [NOW, NOW + 1]


event = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=30).map(lambda b: b"2026-03-14T09:12:00.5Z web-1 INFO " + b),
    st.builds(
        lambda a, b: b"2026-03-14 09:12:0" + a + b" h ERROR x\n" + b, st.binary(max_size=3), st.binary(max_size=9)
    ),
)


@given(st.lists(event, max_size=10), st.integers(0, 10))
def test_every_event_is_a_reading_or_counted_and_blocks_do_not_matter(events: list[bytes], cut: int) -> None:
    whole, parts = decoder(), decoder()
    found = whole.decode(events)
    assert len(found) + sum(found.rejected.values()) == len(events)
    some = [parts.decode(events[:cut]), parts.decode(events[cut:])]
    joined = Records.join(some)
    assert joined.streams == found.streams
    assert joined.texts == found.texts
    assert joined.event_time.tolist() == found.event_time.tolist()
    assert joined.values.tolist() == found.values.tolist()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("format: log, log: {pattern: '('}", "sources.web.log.pattern: '(' is no regular expression"),
        ("format: log, stream: host", "a log has no column 'host', expected one of arrival"),
        ("format: log, categories: {m: arrival}", "sources.web.column: 'arrival' is a log's time and nothing else"),
        ("format: log, time: arrival, categories: {m: time}", "'time' is a log's time and nothing else, expected one"),
        ("format: log, stream: arrival", "'arrival' is a log's time and nothing else, expected one of length, level"),
        ("format: log, time: ts", "sources.web.time: expected time or arrival, found 'ts'"),
        ("format: jsonl, log: {}", "sources.web.log: expected only with format: log, found format: jsonl"),
        ("format: log, log: {wait: 2d}", "sources.web.log.wait: expected from 10ms to 1h, found '2d'"),
    ],
)
def test_what_a_log_source_says_is_checked(change: str, sentence: str) -> None:
    source = "type: tail, path: /a.log, stream: '=x', time: time, categories: {m: message}"
    keys = {part.split(":")[0].strip() for part in change.split(", ")}
    kept = ", ".join(part for part in source.split(", ") if part.split(":")[0] not in keys)
    text = f"version: 1\nnode: n\ndata_dir: /d\nmodels: {{}}\nsources:\n  web: {{{kept}, {change}}}\n"
    with pytest.raises(ConfigError) as caught:
        parse(text, Config, "agent.yaml")
    assert sentence in str(caught.value)


def test_a_year_that_a_line_does_not_tell_is_the_newest_that_is_not_ahead() -> None:
    at = LogTimes(UTC).find("Mar 15 11:00:00 x", NOW)
    assert at is not None
    assert datetime.fromtimestamp(at[0] / 1e9, UTC).year == 2026


@pytest.mark.parametrize(
    "stamp",
    ["9999-12-31 23:59:59", "0001-01-01T00:00:00Z", "9999999999", "9999999999999", "[31/Dec/9999:23:59:59 +0000]"],
)
def test_a_time_that_no_event_can_have_is_counted_and_the_line_behind_is_read(stamp: str) -> None:
    found = decoder(LogLines(), "=log").decode([f"{stamp} up".encode(), b"2026-03-14T09:12:00Z up"])

    assert found.rejected == {"bad-time": 1}
    assert len(found) == 1


AUTUMN = event_time_ns("2026-10-25T01:00:00Z") // 10**9
"""When 03:00 becomes 02:00 in Paris."""


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S,000", "%b %d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])
def test_the_hour_that_daylight_saving_repeats_is_told_apart(form: str) -> None:
    true = range(AUTUMN - 5400, AUTUMN + 5400, 60)
    lines = [datetime.fromtimestamp(at, ZoneInfo("Europe/Paris")).strftime(f"{form} INFO up").encode() for at in true]
    config = TailConfig(path="x", format="log", stream="=app", time="time", zone="Europe/Paris",
                        channels={"bytes": "length"})  # fmt: skip
    local, passes, found = LogDecoder(config, LogLines(), lambda: AUTUMN * 10**9), Passes(), list[int]()
    for at in range(0, len(lines), 25):
        part = local.decode(lines[at : at + 25])
        found += (passes.settle(part.streams, part.event_time, part.again) // 10**9).tolist()
    assert found == list(true)


def test_what_counts_something_may_be_a_category_and_a_stream() -> None:
    config = TailConfig(path="x", format="log", stream="lines", time="time", categories={"bytes": "length"})
    found = LogDecoder(config, LogLines(), lambda: NOW).decode([b"2026-03-14T09:12:00Z up"])
    assert (found.streams, found.texts) == (("1",), (("23",),))


@pytest.mark.parametrize("evil", [b":", b"/a", b"a.", b"a1-", b"ab:", b"aError_", b"1.", b"\0", b"\xff"])
def test_no_line_costs_much_time(evil: bytes) -> None:
    began = time.thread_time()
    decoder().decode([b"2026-03-14T09:12:00Z web-1 INFO " + evil * (4000 // len(evil)), evil * (1 << 18)])
    assert time.thread_time() - began < 0.1
