"""Bodies that other programs post → readings in a bounded queue: all of a request or none, whatever its bytes."""

from __future__ import annotations

import gzip
import json
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgectl_agent.config import HttpConfig, TailConfig
from edgectl_agent.core.errors import ConfigError, UsageError
from edgectl_agent.ingest import Tokens, form, split, unpack
from edgectl_agent.sources.decode import JsonDecoder
from edgectl_agent.sources.http import HttpSource, NotTaken, QueueFull
from hypothesis import given, settings
from hypothesis import strategies as st

COLUMNS: dict[str, Any] = {"stream": "m", "time": "ts", "channels": {"v": "v.rms", "t": "t"}}
LIMIT = 10_000


def source(queue: int = 100) -> HttpSource:
    return HttpSource(HttpConfig(queue=queue, **COLUMNS), clock=lambda: 7)


def records(*values: float, stream: str = "a") -> list[bytes]:
    return [json.dumps({"ts": i, "m": stream, "v": {"rms": v}, "t": 1}).encode() for i, v in enumerate(values)]


# ── the queue ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_readings_come_out_in_order_however_they_are_asked_for() -> None:
    fed = source()
    for start in (0, 10, 20):
        fed.offer(records(*range(start, start + 10)))
    got = [fed.poll(limit, 0.0) for limit in (3, 1, 12, 100)]
    assert [len(chunk) for chunk in got] == [3, 1, 12, 14]
    assert np.concatenate([chunk.values[:, 0] for chunk in got]).tolist() == list(range(30))
    assert got[0].streams == ("a", "a", "a")
    assert got[0].accepted_ns == 7
    assert not fed.pending
    assert len(fed.poll(10, 0.0)) == 0


def test_a_request_that_does_not_fit_is_refused_as_a_whole_and_counts_for_nothing() -> None:
    fed = source(queue=10)
    assert fed.offer(records(*range(8))).accepted == 8
    with pytest.raises(QueueFull, match="8 readings wait to be scored, 3 more do not fit"):
        fed.offer([*records(1, 2, 3), b"nonsense"])
    fed.offer(records(1, 2))
    chunk = fed.poll(100, 0.0)
    assert (len(chunk), chunk.rejected) == (10, {})
    assert fed.offer(records(*range(10))).accepted == 10, "room comes back"


def test_a_request_that_could_never_fit_says_so() -> None:
    with pytest.raises(NotTaken, match="11 readings in one request, this source's queue holds 10") as caught:
        source(queue=10).offer(records(*range(11)))
    assert caught.value.reason == "oversized"


def test_bad_records_are_counted_by_reason_and_good_ones_are_kept() -> None:
    fed = source()
    bad = [b"{}", b'{"ts": "x", "m": "a"}', b'{"ts": 1, "m": "a", "t": "warm"}', b"{", b"", b" \r"]
    taken = fed.offer([*records(1), *bad, *records(2), b"x" * (1 << 20) + b"x"])
    counted = {"bad-time": 1, "bad-stream": 1, "not-a-number": 1, "unparsable": 1, "too-long": 1}
    assert taken.accepted == 2
    assert sum(taken.rejected.values()) == sum(counted.values())
    assert fed.poll(10, 0.0).rejected == taken.rejected


@pytest.mark.parametrize(
    ("bodies", "sentence"),
    [
        ([b"", b'{"ts": 1, "m": "a", "t": "warm"}', b"{"], "record 2: not-a-number"),
        ([b"nonsense"], "record 1: unparsable"),
        ([b"", b" "], "there is no record in the body"),
        ([], "there is no record in the body"),
    ],
)
def test_a_request_without_a_single_reading_is_refused_with_record_and_reason(
    bodies: list[bytes], sentence: str
) -> None:
    with pytest.raises(NotTaken, match=rf"^{sentence}$"):
        source().offer(bodies)


def test_after_the_seal_nothing_comes_in_and_all_that_was_accepted_comes_out() -> None:
    fed = source()
    fed.offer(records(1, 2))
    fed.seal()
    with pytest.raises(QueueFull, match="the agent is stopping"):
        fed.offer(records(3))
    assert fed.pending
    assert len(fed.poll(10, 0.0)) == 2


def test_a_waiting_worker_is_woken_by_the_first_reading() -> None:
    fed, got = source(), []
    worker = threading.Thread(target=lambda: got.append(fed.poll(10, 60.0)))
    worker.start()
    fed.offer(records(1))
    worker.join(60)
    assert [len(chunk) for chunk in got] == [1]


def test_it_cannot_be_replayed_and_its_times_are_the_present() -> None:
    assert (HttpSource.replayable, HttpSource.live) == (False, True)


# ── bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content_type", "encoding", "found"),
    [
        ("application/json", "", ("json", False)),
        ("Application/JSON; charset=utf-8", "identity", ("json", False)),
        ("application/x-ndjson", "gzip", ("lines", True)),
        ("application/jsonl", " GZIP ", ("lines", True)),
    ],
)
def test_what_is_sent_is_told_by_its_headers(content_type: str, encoding: str, found: tuple[str, bool]) -> None:
    assert form(content_type, encoding) == found


@pytest.mark.parametrize(
    ("content_type", "encoding"), [("", ""), ("text/plain", ""), ("application/json", "br"), ("text/csv", "gzip")]
)
def test_any_other_form_is_refused(content_type: str, encoding: str) -> None:
    with pytest.raises(UsageError, match="expected") as caught:
        form(content_type, encoding)
    assert caught.value.reason == "media-type"


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4))
def test_gzip_of_any_number_of_members_is_unpacked(parts: list[bytes]) -> None:
    assert unpack(b"".join(map(gzip.compress, parts)), LIMIT) == b"".join(parts)


@given(st.binary(max_size=300))
def test_anything_that_is_not_gzip_is_refused_and_never_raises_else(raw: bytes) -> None:
    with pytest.raises(UsageError):
        unpack(raw, LIMIT)


@given(st.binary(min_size=1, max_size=500), st.data())
def test_gzip_that_is_cut_off_is_refused(body: bytes, data: st.DataObject) -> None:
    packed = gzip.compress(body)
    with pytest.raises(UsageError, match=r"cut off|not gzip"):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))], LIMIT)


def test_a_bomb_is_unpacked_no_further_than_the_limit() -> None:
    bomb = gzip.compress(bytes(50_000_000), compresslevel=1)
    with pytest.raises(UsageError, match="more than 10000 bytes when it is unpacked"):
        unpack(bomb, LIMIT)
    with pytest.raises(UsageError, match="more than 10000 bytes"):
        unpack(gzip.compress(bytes(6000)) * 2, LIMIT)


@given(
    st.lists(
        st.recursive(
            st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda x: st.dictionaries(st.text(), x),
        )
    )
)
def test_an_array_and_lines_of_the_same_records_are_taken_alike(found: list[Any]) -> None:
    lines = split("\n".join(map(json.dumps, found)).encode(), "lines", 1000)
    array = split(json.dumps(found, indent=1).encode(), "json", 1000)
    decoder = JsonDecoder(TailConfig(path="x", **COLUMNS))
    one, other = decoder.decode(lines), decoder.decode(array)
    assert one.rejected == other.rejected
    assert one.streams == other.streams


JUNK = st.one_of(
    st.binary(max_size=200),
    st.text(alphabet='[]{}",:0123456789eE.-tsmv \n\\u', max_size=200).map(str.encode),
    st.lists(st.sampled_from([*records(1.5), b"[", b"]", b",", b"{}", b"null", b"\xff", b"[" * 3000]), max_size=20).map(
        b"".join
    ),
)


@settings(max_examples=300)
@given(JUNK, st.sampled_from(["json", "lines"]))
def test_no_bytes_whatever_raise_anything_but_a_refusal_and_none_get_lost(body: bytes, kind: str) -> None:
    fed = source(queue=1000)
    try:
        taken = fed.offer(split(body, kind, 1000))
    except (UsageError, NotTaken):
        assert not fed.pending
    else:
        assert len(fed.poll(1000, 0.0)) == taken.accepted > 0


def test_nesting_that_would_exhaust_the_stack_is_refused() -> None:
    with pytest.raises((UsageError, NotTaken)):
        source().offer(split(b"[" * 1_000_000, "json", 1000))
    with pytest.raises((UsageError, NotTaken)):
        source().offer(split(b'{"t":' * 200_000, "json", 1000))


# ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tokens_are_rotated_without_a_restart_and_a_broken_file_leaves_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# press line\nfirst\n\nsecond\n")
    tokens = Tokens(path)
    assert tokens.accept("Bearer first")
    assert tokens.accept("Bearer second")
    for wrong in ("", "first", "Bearer ", "Bearer firs", "Bearer # press line", "Basic first", "Bearer \xff"):
        assert not tokens.accept(wrong)
    (tmp_path / "new").write_text("third\n")
    (tmp_path / "new").replace(path)
    assert tokens.accept("Bearer third")
    assert not tokens.accept("Bearer first")
    path.unlink()
    assert tokens.accept("Bearer third")
    path.write_text("# none\n")
    assert tokens.accept("Bearer third")
    with pytest.raises(ConfigError, match="expected a token per line, found none"):
        Tokens(path)


@pytest.mark.parametrize("body", [b"[" + b"{}," * 500_000 + b"{}]", b"[" + b"1," * 900_000 + b"1]", b"1\n" * 900_000])
def test_a_body_of_a_million_tiny_records_is_refused_before_each_costs_fifty_times_its_size(body: bytes) -> None:
    kind = "lines" if body.endswith(b"\n") else "json"
    tracemalloc.start()
    try:
        with pytest.raises(UsageError):
            split(body, kind, 1000)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20  # it would be 100 MiB
    finally:
        tracemalloc.stop()
