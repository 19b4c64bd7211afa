"""Bytes from devices → columns: exact where they are good, counted where they are not, never an exception."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from datetime import UTC

import numpy as np
import pytest
from edgectl_agent.config import Mapping, TailConfig
from edgectl_agent.core.errors import SourceError
from edgectl_agent.core.units import epoch_ns, event_time_ns
from edgectl_agent.sources.cells import Reasons, times
from edgectl_agent.sources.decode import CsvDecoder, Decoder, JsonDecoder
from hypothesis import example, given, settings
from hypothesis import strategies as st

MAPPING = Mapping(path="x", stream="m", time="ts", channels={"vib": "v.rms", "temp": "t"})
FLAT = Mapping(path="x", format="csv", stream="m", time="ts", channels={"vib": "v", "temp": "t"})
HEADER = b"ts,m,v,t\r\n"


def json_lines(*lines: str | bytes) -> list[bytes]:
    return [line if isinstance(line, bytes) else line.encode() for line in lines]


def test_json_columns_are_found_by_dotted_path() -> None:
    lines = json_lines(
        '{"ts": "2026-03-14T09:12:00Z", "m": "p1", "v": {"rms": 1.5, "peak": 9}, "t": 20}',
        '{"ts": 1773479520.5, "m": 7, "v": {}, "t": null, "more": [1, {"a": "b"}]}',
        '{"ts": "2026-03-14 10:12:00+01:00", "m": "p1", "t": 1e3}',
    )
    got = JsonDecoder(MAPPING).decode(lines)
    assert got.streams == ("p1", "7", "p1")
    assert got.event_time.tolist() == [1773479520 * 10**9, 1773479520_500_000_000, 1773479520 * 10**9]
    np.testing.assert_array_equal(got.values, [[1.5, 20], [math.nan, math.nan], [math.nan, 1000]])
    assert got.rejected == {}
    assert got.line.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"ts": 1, "m": "a", "t": "20"}', "not-a-number"),
        ('{"ts": 1, "m": "a", "t": true}', "not-a-number"),
        ('{"ts": 1, "m": "a", "t": [1]}', "not-a-number"),
        ('{"ts": 1, "m": "a", "v": {"rms": "x"}}', "not-a-number"),
        ('{"ts": 1, "m": "a", "t": 1e309}', "not-finite"),
        ('{"ts": 1, "m": "a", "t": NaN}', "unparsable"),
        ('{"ts": 1, "m": "a", "t": -Infinity}', "unparsable"),
        ('{"ts": 1, "m": "a", "v": 3}', "unparsable"),
        ('{"ts": "yesterday", "m": "a", "t": 1}', "bad-time"),
        ('{"ts": null, "m": "a", "t": 1}', "bad-time"),
        ('{"ts": 1e30, "m": "a", "t": 1}', "bad-time"),
        ('{"ts": 99999999999, "m": "a", "t": 1}', "bad-time"),
        ('{"m": "a", "t": 1}', "bad-time"),
        ('{"ts": 1, "t": 1}', "bad-stream"),
        ('{"ts": 1, "m": "", "t": 1}', "bad-stream"),
        ('{"ts": 1, "m": "a\\u0000", "t": 1}', "bad-stream"),
        ('{"ts": 1, "m": "' + "a" * 300 + '", "t": 1}', "bad-stream"),
        ('{"ts": 1, "m": ' + "9" * 3000 + ', "t": 1}', "bad-stream"),
        ('{"ts": 1, "m": {}, "t": 1}', "bad-stream"),
        (b'{"ts": 1, "m": "\xff", "t": 1}', "unparsable"),
        ('{"ts": 1, "m": "\\ud800", "t": 1}', "unparsable"),
        ('{"ts": 1, "m": "a", "t": 1', "unparsable"),
        ('{"ts": 1, "m": "a", "t": 1} {}', "unparsable"),
        ("[1, 2]", "unparsable"),
        ('{"ts": 1, "m": "a", "x": ' + "[" * 100_000, "unparsable"),
        ("\x00\x01", "unparsable"),
    ],
)
def test_a_bad_json_record_is_counted_and_its_neighbours_are_kept(line: str | bytes, reason: str) -> None:
    good = '{"ts": 1, "m": "a", "v": {"rms": 1}, "t": 2}'
    got = JsonDecoder(MAPPING).decode(json_lines(good, line, good))
    assert got.rejected == {reason: 1}
    assert got.line.tolist() == [0, 2]
    np.testing.assert_array_equal(got.values, [[1, 2], [1, 2]])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,a,x,2", "not-a-number"),
        ("1,a,1_000,2", "not-a-number"),
        ("1,a,١,2", "not-a-number"),
        ("1,a,nan,2", "not-finite"),
        ("1,a,-inf,2", "not-finite"),
        ("1,a,1e309,2", "not-finite"),
        ("noon,a,1,2", "bad-time"),
        (",a,1,2", "bad-time"),
        ("inf,a,1,2", "bad-time"),
        ("1,,1,2", "bad-stream"),
        ("1,a,1", "columns"),
        ("1,a,1,2,3", "columns"),
        ('1,"a,1,2', "unparsable"),
        (b"1,\xff,1,2", "unparsable"),
    ],
)
def test_a_bad_csv_record_is_counted_and_its_neighbours_are_kept(line: str | bytes, reason: str) -> None:
    got = CsvDecoder(FLAT, HEADER, "f.csv").decode(json_lines("1,a,1,2\r", line, "1,a,1,2"))
    assert got.rejected == {reason: 1}
    assert got.line.tolist() == [0, 2]


def test_csv_cells_may_be_quoted_empty_or_in_another_order() -> None:
    decoder = CsvDecoder(FLAT, b'\xef\xbb\xbf"t", v ,note,m,ts', "f.csv")
    got = decoder.decode(json_lines('"1.5",,"a ""b"", c",press 1,2026-01-01', "", " 2 ,3,,p2,0\r"))
    assert got.streams == ("press 1", "p2")
    np.testing.assert_array_equal(got.values, [[math.nan, 1.5], [3, 2]])
    assert got.line.tolist() == [0, 2]
    assert not got.rejected


def test_a_column_that_the_header_lacks_is_named() -> None:
    with pytest.raises(SourceError, match=r"f\.csv: column 'v' is missing, the header has: ts, m, t"):
        CsvDecoder(FLAT, b"ts,m,t\n", "f.csv")


def test_times_without_offset_are_local_to_the_zone() -> None:
    mapping = Mapping(path="x", stream="=one", time="ts", channels={"t": "t"}, zone="Europe/Paris")
    got = JsonDecoder(mapping).decode(
        json_lines('{"ts": "2026-07-01T12:00:00"}', '{"ts": "2026-01-01T12:00:00"}', '{"ts": "2026-01-01T12:00:00Z"}')
    )
    expected = ["2026-07-01T10:00:00Z", "2026-01-01T11:00:00Z", "2026-01-01T12:00:00Z"]
    assert got.event_time.tolist() == [event_time_ns(t) for t in expected]
    assert got.streams == ("one",) * 3


@given(st.lists(st.floats(-1e19, 1e19) | st.integers(-(10**20), 10**20) | st.floats(1e9, 2e9), min_size=1))
def test_numeric_times_mean_in_a_block_what_each_means_alone(numbers: list[float]) -> None:
    got = JsonDecoder(MAPPING).decode([json.dumps({"ts": n, "m": "a"}).encode() for n in numbers])
    expected = []
    for number in numbers:
        try:
            ns = epoch_ns(number) if isinstance(number, float) else event_time_ns(str(number))
        except ValueError:
            continue
        if abs(ns) < 9_200_000_000_000_000_000:
            expected.append(ns)
            if isinstance(number, float):
                assert abs(ns - event_time_ns(repr(number))) <= 1 + abs(ns) * 2**-52, "its text, but for its rounding"
    assert got.event_time.tolist() == expected


_value = st.floats(-1e6, 1e6) | st.integers(-5, 5) | st.none() | st.text(max_size=4) | st.just(float("nan"))
_record = st.fixed_dictionaries(
    {"ts": st.integers(0, 10**12) | st.floats() | st.datetimes().map(str) | st.text(max_size=5)},
    optional={
        "m": st.text(max_size=3) | st.integers(),
        "v": st.fixed_dictionaries({}, optional={"rms": _value}),
        "t": _value,
    },
)
_hostile = st.binary(max_size=60) | _record.map(lambda r: json.dumps(r).encode())


def _csv_line(cells: Sequence[object]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue().rstrip("\r\n").replace("\n", " ").encode("utf-8", "surrogatepass")


_hostile_csv = st.binary(max_size=40) | st.lists(
    st.integers(0, 9) | st.floats() | st.text(max_size=4), min_size=3, max_size=5
).map(_csv_line)


def _check_law(decoder: Decoder, lines: list[bytes], cut: int) -> None:
    whole = decoder.decode(lines)
    blank = sum(not line.strip() for line in lines)
    assert len(whole.streams) + sum(whole.rejected.values()) + blank == len(lines)
    assert np.isfinite(whole.values[~np.isnan(whole.values)]).all()
    parts = [decoder.decode(lines[:cut]), decoder.decode(lines[cut:])]
    assert whole.streams == parts[0].streams + parts[1].streams
    np.testing.assert_array_equal(whole.event_time, np.concatenate([p.event_time for p in parts]))
    np.testing.assert_array_equal(whole.values, np.concatenate([p.values for p in parts]))


@settings(max_examples=300, deadline=None)
@given(st.lists(_hostile.map(lambda b: b.replace(b"\n", b" ")), max_size=8), st.integers(0, 8))
@example([b'{"ts":1,"m":"a"} {"ts":1,"m":"b"}', b'{"ts":1,', b'"m":"c"}'], 1)
def test_hostile_json_never_raises_and_does_not_depend_on_the_batch(lines: list[bytes], cut: int) -> None:
    _check_law(JsonDecoder(MAPPING), lines, cut)


@settings(max_examples=300, deadline=None)
@given(st.lists(_hostile_csv.map(lambda b: b.replace(b"\n", b" ")), max_size=8), st.integers(0, 8))
@example([b"1,a,1,2\r1,a,1,2", b"1,a,1_0,2", b'1,"a', b'",1,2'], 2)
def test_hostile_csv_never_raises_and_does_not_depend_on_the_batch(lines: list[bytes], cut: int) -> None:
    _check_law(CsvDecoder(FLAT, HEADER, "f.csv"), lines, cut)


NS = 1_790_000_000_123_456_789


@pytest.mark.parametrize("many", [1, 20])
def test_whole_numbers_and_decimal_text_are_exact_to_the_nanosecond_alone_and_in_a_block(many: int) -> None:
    def told(*cells: object) -> list[int]:
        lines = [json.dumps({"ts": cell, "m": "a", "t": 1}).encode() for cell in cells]
        return JsonDecoder(MAPPING).decode(lines).event_time.tolist()

    assert told(*[NS] * many) == [NS] * many
    assert told(*[str(NS)] * many) == [NS] * many
    assert told(*["1790000000.123456789"] * many) == [NS] * many
    assert told(*["1790000000123.456789"] * many) == [NS] * many
    assert told(*["2026-09-21T14:13:20.123456789Z"] * many) == [NS] * many
    assert told(*[NS, 1_790_000_000.5] * many) == [NS, 1_790_000_000_500_000_000] * many
    assert told(*[-NS] * many) == [-NS] * many


TOLD = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.integers(0, 2**63).map(str),
    st.decimals(0, 10**19, allow_nan=False).map(str),
    st.sampled_from(["99999999999", "100000000000", "99999999999999999", "9199999999999999999", "9200000000000000000"]),
)

ALIKE = st.builds(lambda whole, tails: [f"{whole}.{t}" for t in tails], st.integers(0, 10**18),
                  st.lists(st.text("0123456789", max_size=11), min_size=7, max_size=9))  # fmt: skip


@given(st.lists(TOLD, min_size=1, max_size=20) | ALIKE)
@example(["0", 0, 0, 0, 0, 0, 0.5])
def test_what_a_time_means_does_not_depend_on_the_cells_beside_it(cells: list[int | float | str]) -> None:
    why = Reasons()
    found = times(cells, UTC, why)
    for i, cell in enumerate(cells):
        alone = Reasons()
        assert times([cell], UTC, alone)[0] == found[i] or why[i]
        assert why[i] == alone[0]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_record_in_another_unit_is_refused_and_one_that_says_none_is_taken(form: str) -> None:
    mapping = TailConfig(
        path="x", stream="=m", time="ts", channels={"t": "t"}, units={"t": "degC"}, unit_columns={"t": "u"}
    )
    if form == "jsonl":
        decoder: Decoder = JsonDecoder(mapping)
        lines = [b'{"ts":1,"t":20,"u":"degC"}', b'{"ts":2,"t":68,"u":"degF"}', b'{"ts":3,"t":21}']
    else:
        decoder, lines = CsvDecoder(mapping, b"ts,t,u", "x"), [b"1,20,degC", b"2,68,degF", b"3,21,"]
    found = decoder.decode(lines)
    assert (found.values[:, 0].tolist(), found.rejected) == ([20, 21], {"unit-mismatch": 1})
    assert found.line.tolist() == [0, 2]
