"""What was no reading can be looked at: some of each reason, in bounded space, and never at the readings' cost."""

from __future__ import annotations

import base64
import json
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
from edgectl_agent.config import Mapping
from edgectl_agent.core.sampling import FIRST, WINDOW_NS, Sampler
from edgectl_agent.deadletters import DeadLetters
from edgectl_agent.sources.decode import CsvDecoder, JsonDecoder
from edgectl_agent.sources.interface import Chunk, Sample

NOW = 1_773_479_520 * 10**9
COLUMNS: dict[str, Any] = {"stream": "s", "time": "ts", "channels": {"v": "v"}}


def chunk(reasons: dict[str, int], *samples: Sample, at: int = NOW) -> Chunk:
    none = np.empty(0, np.int64)
    return Chunk((), none, np.empty((0, 1)), {"offset": 7}, at, rejected=reasons, samples=samples)


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_flood_of_one_reason_is_sampled_ever_less_and_hides_no_other() -> None:
    sampler = Sampler()
    flood = sum(sampler.due("unparsable", 1, NOW + i) for i in range(100_000))

    assert flood == FIRST + 13  # the 16th, 32nd, … 65,536th
    assert sampler.due("bad-time", 3, NOW) == 3
    assert sampler.due("unparsable", 1, NOW + WINDOW_NS) == 1
    assert sampler.due("unparsable", 100_000, NOW) == FIRST + 13  # the clock was set back


def test_how_rejects_are_grouped_into_chunks_does_not_change_how_many_are_due() -> None:
    one, other = Sampler(), Sampler()

    assert sum(one.due("r", 7, NOW) for _ in range(100)) == other.due("r", 700, NOW)


def test_a_letter_says_when_where_why_and_shows_the_record(tmp_path: Path) -> None:
    path = tmp_path / "dead-letters" / "press.jsonl"
    letters = DeadLetters(path, 100_000)
    letters.add(chunk({"unparsable": 2}, Sample("unparsable", b'{"ts":', 6), Sample("unparsable", b"\xff\xfe", 2)))
    letters.add(chunk({"too-long": 1}, at=NOW + 10**9))

    text, raw, bare = written(path)
    assert text == {"time": "2026-03-14T09:12:00Z", "reason": "unparsable", "count": 2, "position": {"offset": 7},
                    "bytes": 6, "text": '{"ts":'}  # fmt: skip
    assert base64.b64decode(raw["base64"]) == b"\xff\xfe"
    assert bare == {"time": "2026-03-14T09:12:01Z", "reason": "too-long", "count": 1, "position": {"offset": 7}}
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(path.parent).st_mode & 0o777 == 0o700


def test_a_flood_takes_no_more_room_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "press.jsonl"
    letters = DeadLetters(path, 64_000)
    for i in range(2000):  # a new window each time: the most that can be written
        samples = [Sample("unparsable", b"x" * 1024, 5000)] * 8
        letters.add(chunk({"unparsable": 8}, *samples, at=NOW + i * WINDOW_NS))

    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert 32_000 < sum(sizes) <= 64_000


def test_without_a_limit_nothing_is_written(tmp_path: Path) -> None:
    DeadLetters(tmp_path / "d" / "press.jsonl", 0).add(chunk({"unparsable": 1}, Sample("unparsable", b"x", 1)))

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_the_letters_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("a file")
    letters = DeadLetters(tmp_path / "d" / "press.jsonl", 10_000)
    letters.add(chunk({"unparsable": 1}, Sample("unparsable", b"x", 1)))
    (tmp_path / "d").unlink()
    letters.add(chunk({"unparsable": 1}, Sample("unparsable", b"y", 1), at=NOW + 10**9))
    assert not (tmp_path / "d").exists()  # not tried again at once

    letters.add(chunk({"unparsable": 1}, Sample("unparsable", b"z", 1), at=NOW + 61 * 10**9))
    assert [letter["text"] for letter in written(tmp_path / "d" / "press.jsonl")] == ["z"]


def test_what_a_full_disk_tore_stays_alone(tmp_path: Path) -> None:
    path, before = tmp_path / "press.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    letters = DeadLetters(path, 10_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))  # room for half of it
    try:
        letters.add(chunk({"unparsable": 1}, Sample("unparsable", b"x", 1)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    letters.add(chunk({"unparsable": 1}, Sample("unparsable", b"y", 1), at=NOW + 61 * 10**9))
    torn, whole = path.read_bytes().splitlines()
    assert len(torn) == 50
    assert json.loads(whole)["text"] == "y"


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "press.jsonl").symlink_to(tmp_path / "elsewhere")
    DeadLetters(tmp_path / "press.jsonl", 10_000).add(chunk({"unparsable": 1}, Sample("unparsable", b"x", 1)))

    assert not (tmp_path / "elsewhere").exists()


def test_decoders_keep_the_records_that_they_refuse_each_under_its_reason() -> None:
    lines = [
        b'{"s":"a","ts":1,"v":2}',
        b'{"s":"a","ts":1,"v":1e309}',
        b"{",
        b'{"s":"a","ts":"x","v":1}',
        b'{"ts":1,"v":2}',
    ]
    found = JsonDecoder(Mapping(path="-", **COLUMNS)).decode(lines)
    cells = CsvDecoder(Mapping(path="-", format="csv", **COLUMNS), b"s,ts,v", "f").decode([b"a,1,2", b"a,1", b"a,1,x"])

    assert {(sample.reason, sample.record) for sample in found.samples} == {
        ("not-finite", lines[1]), ("unparsable", lines[2]), ("bad-time", lines[3]), ("bad-stream", lines[4])
    }  # fmt: skip
    assert {(sample.reason, sample.record) for sample in cells.samples} == {
        ("columns", b"a,1"), ("not-a-number", b"a,1,x")
    }  # fmt: skip


def test_of_many_and_large_records_few_and_little_are_kept() -> None:
    found = JsonDecoder(Mapping(path="-", **COLUMNS)).decode([b"{" + b"x" * 100_000] * 1000)

    assert found.rejected == {"unparsable": 1000}
    assert sum(len(sample.record) for sample in found.samples) <= 8 * 1024
    assert found.samples[0].size == 100_001
