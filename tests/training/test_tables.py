from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from edgectl_agent.core.units import event_time_ns
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import ConfigError
from edgectl.training import cells
from edgectl.training.columns import Columns
from edgectl.training.recipe import Recipe, load
from edgectl.training.tables import Table, read
from tests.training.test_recipe import write as write_recipe

MINUTE = 60 * 10**9


def recipe(folder: Path, zone: str = "UTC", **change: Any) -> Recipe:
    """Channels a and b (optional), stream column ``machine``."""
    plain = {
        "channels": {"a": {}, "b": {"optional": True}},
        "features": [{"of": "a", "instant": ["value"]}],
        "sampling": {},
        "time.zone": zone,
        "train": {},
        **change,
    }
    return load(write_recipe(folder, plain))


def csv(folder: Path, rows: Sequence[str], name: str = "data.csv", head: str = "ts,machine,a,b") -> Path:
    path = folder / name
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


ROWS = ["2026-03-14 09:00:00,m1,1.5,7", "2026-03-14 09:00:00,m2,2,", "2026-03-14 09:01:00,m1,3,9"]


def same(x: Table, y: Table) -> bool:
    return (
        x.streams == y.streams
        and np.array_equal(x.stream, y.stream)
        and np.array_equal(x.event_time, y.event_time)
        and np.array_equal(x.values, y.values, equal_nan=True)
    )


def test_csv_parquet_and_json_lines_of_the_same_readings_are_the_same_table(tmp_path: Path) -> None:
    r = recipe(tmp_path)
    lines = [
        {"ts": "2026-03-14T09:00:00Z", "machine": "m1", "a": 1.5, "b": 7},
        {"ts": "2026-03-14T09:00:00Z", "machine": "m2", "a": 2},
        {"ts": "2026-03-14T09:01:00Z", "machine": "m1", "a": 3, "b": 9},
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    times = [datetime(2026, 3, 14, 9, m, tzinfo=UTC) for m in (0, 0, 1)]
    columns = {"ts": times, "machine": ["m1", "m2", "m1"], "a": [1.5, 2, 3], "b": [7, None, 9]}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    tables = [read([p], r) for p in (csv(tmp_path, ROWS), tmp_path / "data.jsonl", tmp_path / "data.parquet")]
    assert same(tables[0], tables[1])
    assert same(tables[0], tables[2])
    assert tables[0].streams == ("m1", "m2")
    assert tables[0].interval_ns == MINUTE
    assert np.isnan(tables[0].values[1, 1])


def test_several_files_are_one_history_in_any_order(tmp_path: Path) -> None:
    r = recipe(tmp_path)
    first = csv(tmp_path, ROWS, "1.csv")
    second = csv(tmp_path, ["2026-03-14 10:00:00,m2,4,1", "2026-03-14 10:01:00,m3,5,1"], "2.csv")
    assert same(read([first, second], r), read([second, first], r))
    assert read([second, first], r).streams == ("m1", "m2", "m3")


def test_without_a_stream_column_all_readings_are_one_stream(tmp_path: Path) -> None:
    table = read([csv(tmp_path, ["2026-03-14,1", "2026-03-15,2"], head="ts,a")], recipe(tmp_path, stream=None))
    assert table.streams == ("press",)


def test_nested_json_is_found_by_a_dotted_column(tmp_path: Path) -> None:
    r = recipe(tmp_path, channels={"a": {"column": "v.rms"}})
    path = tmp_path / "data.jsonl"
    path.write_text('{"ts": 1, "machine": 7, "v": {"rms": 0.5}}\n{"ts": 2, "machine": 7, "v": {"rms": 1}}\n')
    table = read([path], r)
    assert table.values[:, 0].tolist() == [0.5, 1]
    assert table.streams == ("7",)


BAD: list[tuple[str, list[str], str]] = [
    ("ts,machine,temp", ["2026-03-14,m,1"], "column 'a' is missing, the file has ts, machine, temp"),
    ("ts,machine,a", [], "the file has a header but no readings"),
    ("ts,machine,a,a", ["2026-03-14,m,1,2"], "expected each column once, found 'a' 2 times"),
    ("ts,machine,a", ["2026-03-14,m,1", "2026-03-14,m,off"], "row 3, column 'a': expected a number, found 'off'"),
    ("ts,machine,a", ["2026-03-14,m,1", "2026-03-14,m,inf"], "row 3, column 'a': expected a finite number, found inf"),
    ("ts,machine,a", ["2026-03-14,m,1", "2026-03-14,m,1e999"], "row 3, column 'a': expected a finite number"),
    ("ts,machine,a", ["2026-03-14,m,NaN", "2026-03-15,m,"], "column 'a' has no value in any of 2 readings"),
    ("ts,machine,a", ["2026-03-14,m,5", "2026-03-15,m,5"], "every channel is constant (a = 5), so there is nothing"),
    ("ts,machine,a", ["2026-03-14,m,1", "14th of March,m,2"], "row 3, column 'ts': expected a time such as"),
    ("ts,machine,a", ["2026-03-14,m,1", ",m,2"], "row 3, column 'ts': expected a time such as"),
    ("ts,machine,a", ["2026-03-14,m,1", "2026-03-15T00:00:00Z,m,2"], "row 3, column 'ts': expected times all with or"),
    ("ts,machine,a", ["2026-03-14,m,1", "2026-03-15,,2"], "row 3, column 'machine': expected the name of a stream"),
    ("ts,machine,a", ["2026-03-14,m,1", "2026-03-15,m"], "row 3: expected 3 cells, found 2: '2026-03-15,m'"),
    (
        "ts,machine,a",
        ["2026-03-14,m,1", "2026-03-13,n,1", "2026-03-13,m,2"],
        "row 4: time of stream 'm' goes back from 2026-03-14T00:00:00Z to 2026-03-13T00:00:00Z",
    ),
]


@pytest.mark.parametrize(("head", "rows", "sentence"), BAD, ids=[sentence[:40] for *_, sentence in BAD])
def test_bad_data_is_named_by_file_row_and_column(tmp_path: Path, head: str, rows: list[str], sentence: str) -> None:
    path = csv(tmp_path, rows, head=head)
    with pytest.raises(ConfigError) as caught:
        read([path], recipe(tmp_path))
    assert caught.value.message.startswith(str(path))
    assert sentence in caught.value.message


def test_a_history_may_be_out_of_order_by_the_lateness_of_the_recipe_and_no_more(tmp_path: Path) -> None:
    rows = [f"2026-03-14T00:00:{second:02},m,{second},0" for second in (0, 7, 5, 2, 9)]
    within = read([csv(tmp_path, rows)], recipe(tmp_path, lateness="5s"))
    assert within.values[:, 0].tolist() == [0, 2, 5, 7, 9]
    with pytest.raises(ConfigError, match=r"row 5: time of stream 'm' goes back from \S+:07Z to \S+:02Z"):
        read([csv(tmp_path, rows)], recipe(tmp_path, lateness="4s"))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("data.csv", b"", "the file is empty"),
        ("data.xlsx", b"x", "expected a file that ends in .csv, .parquet, .jsonl, .ndjson, found .xlsx"),
        ("data.parquet", b"not parquet at all", "not a readable Parquet file"),
        (
            "data.csv",
            b"ts,machine,a\n2026-03-14,m,\xff\xfe\n",
            "expected text in UTF-8, found other bytes at",
        ),
        ("data.jsonl", b'{"ts": 1, "machine": "m", "a": 1}\n{"ts":', "row 2: expected one JSON object per line, found"),
        ("data.jsonl", b'{"ts": 1, "machine": "m", "a": "x"}\n', "row 1, column 'a': expected a number, found 'x'"),
        ("data.jsonl", b'{"ts": 1, "machine": "m", "a": true}\n', "row 1, column 'a': expected a number, found 'true'"),
        ("data.jsonl", b'{"ts": 1, "machine": "m", "a": NaN}\n', "row 1: expected one JSON object per line"),
        ("data.jsonl", b'{"ts": 1, "machine": "m"}\n', "column 'a' is missing, the file has ts, machine"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read([path], recipe(tmp_path))
    assert sentence in caught.value.message


def test_a_missing_file_and_a_close_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.csv: no such file"):
        read([tmp_path / "nowhere.csv"], recipe(tmp_path))
    path = csv(tmp_path, ["2026-03-14,m,1"], head="tss,machine,a")
    with pytest.raises(ConfigError, match="did you mean 'tss'"):
        read([path], recipe(tmp_path))


def test_sort_puts_readings_in_order_instead_of_refusing_them(tmp_path: Path) -> None:
    table = read([csv(tmp_path, list(reversed(ROWS)))], recipe(tmp_path), sort=True)
    assert table.event_time.tolist() == [event_time_ns(row.split(",")[0]) for row in ROWS]
    assert sorted(table.values[:, 0].tolist()) == [1.5, 2, 3]


def test_equal_times_are_accepted(tmp_path: Path) -> None:
    table = read([csv(tmp_path, ["2026-03-14,m,1,", "2026-03-14,m,2,", "2026-03-14,m,2,"])], recipe(tmp_path))
    assert len(table) == 3


def test_the_hour_that_daylight_saving_repeats_runs_on_in_utc(tmp_path: Path) -> None:
    """Paris, 25 October 2026: 02:00–02:59 comes twice; both passes are there, and no time goes back."""
    utc = [datetime(2026, 10, 24, 23, 0, tzinfo=UTC).timestamp() + 600 * i for i in range(24)]
    local = [datetime.fromtimestamp(t, ZoneInfo("Europe/Paris")).strftime("%Y-%m-%d %H:%M:%S") for t in utc]
    assert len(set(local)) < len(local)
    path = csv(tmp_path, [f"{t},m,{i},0" for i, t in enumerate(local)])
    found = read([path], recipe(tmp_path, "Europe/Paris")).event_time
    assert (found // 10**9).tolist() == [int(t) for t in utc]


def test_summer_and_winter_have_their_own_offset(tmp_path: Path) -> None:
    path = csv(tmp_path, ["2026-01-01 12:00:00,m,1,", "2026-07-01 12:00:00,m,2,"])
    found = read([path], recipe(tmp_path, "Europe/Paris")).event_time
    assert found.tolist() == [event_time_ns("2026-01-01T11:00:00Z"), event_time_ns("2026-07-01T10:00:00Z")]


TIMES = st.one_of(
    st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.isoformat(" ")),
    st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(lambda t: t.isoformat()),
    st.integers(10**8, 4 * 10**9).map(str),
    st.floats(1e8, 4e9).map(lambda t: f"{t:.6f}"),
    st.integers(10**11, 4 * 10**12).map(str),
    st.integers(10**18, 4 * 10**18).map(str),
    st.integers(10**18, 4 * 10**18).map(lambda ns: f"{ns // 10**9}.{ns % 10**9:09d}"),
)


@given(st.lists(TIMES, min_size=1, max_size=5))
def test_a_column_of_times_means_what_each_cell_means_to_a_node(texts: list[str]) -> None:
    column = Columns(Path("x.csv"), 2, ("ts",), {"ts": pa.array(texts, pa.string())})
    expected = [event_time_ns(t) for t in texts]
    try:
        found = cells.times(column, "ts")[0].tolist()
    except ConfigError as e:
        assert "all with or all without an offset" in e.message  # noqa: PT017 - the mixture is refused as a whole
        return
    assert found == expected
