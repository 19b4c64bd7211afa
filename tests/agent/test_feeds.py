"""A source as the worker sees it: resumed, judged against the clock, and tried again after a failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from edgectl_agent.config import HostMetricsConfig, ReplayConfig, TailConfig
from edgectl_agent.feeds import Feed
from edgectl_agent.sources import build
from edgectl_agent.sources.interface import Position

NOW_NS = 1_800_000_000 * 10**9
_feeds: list[Feed] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while _feeds:
        _feeds.pop().close()


def replaying(path: Path) -> Feed:
    return feed(ReplayConfig(path=str(path), stream="=m", time="ts", channels={"v": "v"}, speed="max"))


def feed(config: ReplayConfig | TailConfig | HostMetricsConfig) -> Feed:
    _feeds.append(Feed("s", config, build(config, "n1", "s")))
    return _feeds[-1]


def write(path: Path, count: int) -> Path:
    path.write_text("".join(f'{{"ts": {i}, "v": {i}}}\n' for i in range(count)))
    return path


def test_a_feed_goes_on_after_its_snapshot_and_a_feed_of_another_file_starts_anew(tmp_path: Path) -> None:
    first = replaying(write(tmp_path / "a", 5))
    chunk = first.poll(3, 0.0)
    assert chunk is not None
    again = replaying(tmp_path / "a")
    again.restore(first.snapshot())
    chunk = again.poll(10, 0.0)
    assert chunk is not None
    np.testing.assert_array_equal(chunk.values[:, 0], [3, 4])
    other = replaying(write(tmp_path / "b", 2))
    other.restore(first.snapshot())
    chunk = other.poll(10, 0.0)
    assert chunk is not None
    assert len(chunk) == 2


def test_a_feed_says_which_channels_no_reading_has_had(tmp_path: Path) -> None:
    path = write(tmp_path / "a", 5)
    two = feed(TailConfig(path=str(path), stream="=m", time="ts", channels={"v": "v", "other": "w"}))
    assert two.status().never == ()  # nothing has come at all
    two.poll(10, 0.0)
    assert two.status().never == ("other",)
    with path.open("a") as file:
        file.write('{"ts": 6, "w": 1}\n')
    two.poll(10, 1.0)
    assert two.status().never == ()


def test_a_failed_feed_is_tried_again_after_a_while_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "later"
    late = replaying(path)
    assert late.poll(10, 0.0) is None
    assert (late.state, late.detail) == ("failed", f"{path} cannot be read: No such file or directory")
    write(path, 2)
    assert late.poll(10, 1.0) is None
    chunk = late.poll(10, 6.0)
    assert chunk is not None
    assert (len(chunk), late.state, late.accepted) == (2, "running", 2)


def test_failed_feeds_are_not_all_tried_again_at_the_same_moment(tmp_path: Path) -> None:
    feeds = [replaying(tmp_path / "later") for _ in range(20)]
    for one in feeds:
        one.poll(10, 0.0)
    write(tmp_path / "later", 2)
    back = [next(t / 10 for t in range(60) if one.poll(10, t / 10) is not None) for one in feeds]

    assert 2.5 <= min(back) < max(back) <= 5.0


def test_a_bug_in_one_source_is_told_with_its_place_and_is_no_end_of_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = replaying(write(tmp_path / "a", 5))
    with monkeypatch.context() as patch:
        patch.setattr(one.source, "poll", lambda *_: 1 // 0)
        assert one.poll(10, 0.0) is None
    assert one.state == "failed"
    assert one.detail.startswith("ZeroDivisionError: ")
    assert "in <lambda>" in caplog.records[-1].fields["exception"]  # type: ignore[attr-defined]

    chunk = one.poll(10, 6.0)
    assert chunk is not None
    assert (len(chunk), one.state) == (5, "running")


def test_a_source_is_told_that_what_a_snapshot_holds_is_covered_and_nothing_beyond_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, told = replaying(write(tmp_path / "a", 5)), list[Position]()
    monkeypatch.setattr(feed.source, "covered", told.append)
    feed.covered()
    assert told == []
    feed.poll(3, 0.0)
    feed.covered()
    assert told == [feed.snapshot()["position"]]


def test_only_live_readings_can_be_from_the_future_and_only_a_set_clock_can_tell(tmp_path: Path) -> None:
    columns = {"stream": "m", "time": "ts", "channels": {"v": "v"}}
    live = feed(TailConfig(path="x", **columns))  # type: ignore[arg-type]
    simulated = feed(TailConfig(path="x", live=False, **columns))  # type: ignore[arg-type]
    assert live.horizon_ns(NOW_NS) == NOW_NS + 600 * 10**9
    assert feed(HostMetricsConfig()).horizon_ns(NOW_NS) is not None
    assert live.horizon_ns(3600 * 10**9) == NOW_NS + 600 * 10**9, "a clock that falls back to 1970 is not believed"
    assert feed(TailConfig(path="x", **columns)).horizon_ns(3600 * 10**9) is None  # type: ignore[arg-type]
    assert simulated.horizon_ns(NOW_NS) is None
    assert replaying(tmp_path / "a").horizon_ns(NOW_NS) is None
