"""The one place that prints, in process: what a row looks like, and what must never reach a terminal."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.cli import output
from edgectl.cli.output import Column, Format
from edgectl.core.names import closest


class Row(msgspec.Struct):
    name: str
    load: float


COLUMNS = (
    Column("NAME", "name"),
    Column("LOAD", lambda row: f"{row.load:.1f}", right=True),
    Column("ID", id, wide=True),
)
ROWS = [Row("pi-1", 0.25), Row("gateway", 12.0)]


def test_a_table_in_a_pipe_is_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit([Row("x" * 300, 1.0), *ROWS], COLUMNS, Format.TABLE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{'x' * 300}   1.0"
    assert lines[2] == f"{'pi-1':<300}   0.2"


def test_json_and_names_come_from_the_rows_and_not_from_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit(ROWS, COLUMNS, Format.JSON)
    assert json.loads(capsys.readouterr().out) == [{"name": "pi-1", "load": 0.25}, {"name": "gateway", "load": 12.0}]
    output.emit(ROWS, COLUMNS, Format.NAME)
    assert capsys.readouterr().out == "pi-1\ngateway\n"


def test_no_rows_are_said_on_stderr_and_stdout_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit([], COLUMNS, Format.TABLE, empty="no nodes")
    assert capsys.readouterr() == ("", "no nodes\n")
    output.emit([], COLUMNS, Format.JSON, empty="no nodes")
    assert capsys.readouterr() == ("[]\n", "")


@given(st.text())
def test_a_cell_is_one_line_without_control_characters(text: str) -> None:
    cell = Column("NAME", "name").text({"name": text})
    assert "\x1b" not in cell
    assert len(cell.splitlines()) <= 1


def test_closest_names_come_first_and_many_are_counted() -> None:
    assert closest("pres", ["press", "pump"]) == "did you mean 'press'?"
    assert closest("zzz", []) == "there is none yet"
    assert closest("zzz", [f"node-{i}" for i in range(10)]).endswith("node-7 and 2 more")
