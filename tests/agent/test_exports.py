"""The file that carries a node's report and alerts: whole, it is read as written; anything else is refused."""

from __future__ import annotations

import msgspec
import pytest
from edgectl_agent.core.airgap import Head, read_export, write_export
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.messages import Alert, OutboxRecord, OutboxStatus, Report
from hypothesis import given, settings
from hypothesis import strategies as st

REPORT = Report(
    node="press-9", agent="0.1.0", boot="b", clock_ns=10**18, uptime_s=1.0, state="healthy",
    outbox=OutboxStatus(records=0, bytes=0, limit_bytes=1, head_seq=9, log_id="l"),
)  # fmt: skip
HEAD = Head(edgectl_export=1, report=REPORT, root_sha256="ab" * 32, log_id="l")


def record(seq: int, stream: str = "m1") -> OutboxRecord:
    alert = Alert(
        id=f"a-{seq}", node="press-9", stream=stream, recipe="press", version="1", bundle="x", variant="fp32",
        severity="warning", state="open", onset_ns=seq, changed_ns=seq, score=1.0, threshold=0.5, surprise=3.0,
    )  # fmt: skip
    return OutboxRecord(boot="b", seq=seq, alert=alert)


def export(*pages: list[OutboxRecord]) -> bytes:
    return b"".join(write_export(HEAD, [*((page, ((3, 4),)) for page in pages), ((), ((3, 4),))]))


@given(st.lists(st.lists(st.text(max_size=20), max_size=3), max_size=3))
@settings(deadline=None)
def test_an_export_is_read_as_it_was_written(pages: list[list[str]]) -> None:
    numbered = [[record(100 * i + j, text) for j, text in enumerate(page)] for i, page in enumerate(pages)]
    found = read_export(export(*numbered), "f")
    assert found.head == HEAD
    assert found.records == tuple(r for page in numbered for r in page)
    assert found.lost == ((3, 4),)


RAW = export([record(1), record(2)], [record(3)])


@given(st.integers(0, len(RAW) - 2))
@settings(deadline=None)
def test_an_export_cut_short_anywhere_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match=r"f: "):
        read_export(RAW[:length], "f")


@given(st.integers(0, len(RAW) - 2), st.integers(1, 255))
@settings(deadline=None)
def test_an_export_with_any_byte_changed_is_refused_or_says_the_same(at: int, flip: int) -> None:
    changed = bytearray(RAW)
    changed[at] ^= flip
    try:
        found = read_export(bytes(changed), "f")
    except ConfigError:
        return
    assert found == read_export(RAW, "f")  # a byte of the tail's own spelling


def test_an_export_without_its_newest_record_is_refused_even_if_the_lines_are_whole() -> None:
    lines = RAW.splitlines(keepends=True)
    with pytest.raises(ConfigError, match="damaged or cut short on the way: its digest differs → copy it again"):
        read_export(b"".join([*lines[:-2], lines[-1]]), "f")
    with pytest.raises(ConfigError, match="its end is missing"):
        read_export(b"".join(lines[:-1]), "f")


def test_another_file_is_told_from_a_damaged_one() -> None:
    with pytest.raises(ConfigError, match="is not a file of `edgectl-agent export`"):
        read_export(msgspec.json.encode({"alerts": []}), "f")
