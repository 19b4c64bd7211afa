"""A recipe that joins streams: what it may say, and that training and a node make the same rows of them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from edgectl_agent.config import HttpConfig
from edgectl_agent.core.batch import StreamTable
from edgectl_agent.core.bundle import Join, JoinMember
from edgectl_agent.core.units import SECOND_NS
from edgectl_agent.engine import Engine, Trial
from edgectl_agent.feeds import Feed
from edgectl_agent.roster import Roster
from edgectl_agent.slots import Slots
from edgectl_agent.sources.http import HttpSource
from edgectl_agent.sources.interface import Chunk
from edgectl_agent.updater import Updater

from edgectl.core.errors import ConfigError
from edgectl.training import recipe as recipes
from edgectl.training.pipeline import train
from edgectl.training.tables import read
from tests.training.test_recipe import write

JOIN: dict[str, Any] = {
    "sampling": {},
    "channels": {"pressure": {"column": "value"}, "temp": {"column": "value"}},
    "join": {"streams": {"pressure": "press", "temp": "oven"}, "within": "20s", "idle": "30s"},
    "features": [{"of": "all", "instant": ["value"]}, {"of": "all", "window": "1m", "stats": ["mean", "std"]}],
    "model": {"type": "pca", "seed": 7},
    "train": {},
    "time": {"column": "ts"},
    "ship": {"variants": ["fp32"]},
}
KEYED = {"streams": {"pressure": "press-*/p", "temp": "oven"}, "within": "2s", "every": "1s", "stream": "line-*"}
START = 1_790_000_000


def joining(folder: Path, change: dict[str, Any] | None = None) -> recipes.Recipe:
    return recipes.load(write(folder, deepcopy({**JOIN, **(change or {})})))


def test_a_join_in_a_recipe_becomes_members_and_durations(tmp_path: Path) -> None:
    join = joining(tmp_path, {"join": KEYED}).features.join
    assert join == Join(
        stream="line-*",
        members=(
            JoinMember(streams="press-*/p", channels=("pressure",)),
            JoinMember(streams="oven", channels=("temp",)),
        ),
        within_ns=2 * SECOND_NS,
        every_ns=SECOND_NS,
        idle_ns=2 * SECOND_NS,
        columns=("value", "value"),
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stream": None}, "stream: expected the column that names the streams, which join.streams tells apart"),
        ({"join.streams": {"pressure": "press"}}, "join.streams: expected the streams that bring each channel, also"),
        ({"join.streams.speed": "mill"}, "join.streams.speed: expected one of the channels pressure, temp, found"),
        ({"join.streams.temp": "o*n*"}, "join.streams.temp: expected a stream, or a pattern with one *, found 'o*n*'"),
        (
            {"join.streams.temp": "oven-*"},
            "join.streams.pressure: expected a pattern with *, since the first one leads",
        ),
        ({"join.stream": "line-*"}, "join.stream: expected a name without *, since no stream has one, found 'line-*'"),
        ({"join": {**KEYED, "stream": "line"}}, "join.stream: expected a name with one * for the key, found 'line'"),
        ({"join.within": "0s"}, "join.within: expected a duration above zero, found '0s'"),
        ({"join.within": "30d"}, "join.within: expected at most 7d, found 30d"),
        ({"join.every": "21s"}, "join.every: expected from a thousandth of within (20s) to all of it, found 21s"),
        ({"categories": {"shop": None}}, "join: expected a recipe of channels alone, since only numbers are joined"),
    ],
)
def test_a_wrong_join_is_refused_in_one_sentence(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        joining(tmp_path, change)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def history(path: Path, rows: int = 900) -> Path:
    """Pressures every second and temperatures every five, in one column, by time."""
    rng = np.random.default_rng(3)
    lines = ["machine,ts,value"]
    for i in range(rows):
        lines.append(f"press,{START + i},{rng.normal(5, 1):.6f}")
        if i % 5 == 0:
            lines.append(f"oven,{START + i + 0.25},{rng.normal(200, 2):.6f}")
        lines.append(f"fan,{START + i},1")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def chunk(path: Path, stream: str) -> Chunk:
    cells = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    mine = [(float(time), float(value)) for name, time, value in cells if name == stream]
    times = np.array([round(time * 1e9) for time, _ in mine], np.int64)
    return Chunk((stream,) * len(mine), times, np.array([[value] for _, value in mine]), {}, 0)


def test_a_node_scores_the_very_rows_that_training_held_out(tmp_path: Path) -> None:
    data = history(tmp_path / "data.csv")
    recipe = joining(tmp_path)
    table = read([data], recipe)
    assert table.streams == (recipe.name,)
    assert len(table) == 900
    assert np.isnan(table.values[:, 1]).sum() == 1  # the first pressure comes before any temperature
    trained = train(recipe, table)
    engine = Engine.load(trained.built[0].raw, "1", "n1", StreamTable(), 100, lambda seconds: None)
    press, oven = chunk(data, "press"), chunk(data, "oven")
    fan = chunk(data, "fan")
    scores = []
    for at in range(0, 900, 20):  # the oven's source is always a step behind, and reads in bigger pieces
        for source, part in (
            (press, slice(at, at + 20)),
            (fan, slice(at, at + 20)),
            (oven, slice(at // 5, at // 5 + 4)),
        ):
            some = Chunk(source.streams[part], source.event_time[part], source.values[part], {}, 0)
            for batch in engine.batches(some, ("value",)):
                scores.append(engine.process(batch, 0, 0, None).scores)
        if at == 440:
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(engine.snapshot()))
            engine = Engine.load(trained.built[0].raw, "1", "n1", StreamTable(), 100, lambda seconds: None)
            engine.restore(state)
    scores.append(engine.flush(0).scores)
    live = np.concatenate(scores)
    held = trained.held
    assert len(live) == len(table)
    assert np.array_equal(live[held.rows], held.scores, equal_nan=True)
    assert trained.report.remarks[0] == (
        "the readings are rows joined from press, oven; a node waits for the slowest of these, up to 30s"
    )
    assert engine.detector.counters["not_joined"] == 900
    assert engine.detector.counters["late"] == 0


def test_a_model_on_trial_waits_for_a_source_that_is_behind_as_the_running_one_does(tmp_path: Path) -> None:
    data = history(tmp_path / "data.csv")
    raw = train(joining(tmp_path), read([data], joining(tmp_path))).built[0].raw
    roster = Roster("n1", slots := Slots(tmp_path / "slots"), Updater(tmp_path, "n1", slots), 100, lambda seconds: None)
    running = roster.load(raw, "1")
    roster.install(running, 0)
    trial = roster.trials[running.recipe] = Trial(roster.load(raw, "2", running.detector.streams), running)
    config = msgspec.convert({"type": "http", "stream": "m", "time": "ts", "channels": {"value": "v"}}, HttpConfig)
    feed, press, oven = Feed("s", config, HttpSource(config)), chunk(data, "press"), chunk(data, "oven")
    first, more, last = (
        Chunk(oven.streams[part], oven.event_time[part], oven.values[part], {}, 0)
        for part in (slice(0, 1), slice(1, 120), slice(120, 121))  # not to its end
    )
    for source in (first, press, more):
        roster.process(running.recipe, source, feed, 0, until_ns=int(first.event_time[0]))
    assert (running.inferences, trial.scored, trial.failure) == (0, False, "")
    roster.process(running.recipe, last, feed, 0, until_ns=int(more.event_time[-1]))
    assert (running.inferences > 0, trial.scored, trial.failure) == (True, True, "")


def test_a_model_on_trial_sees_joined_rows_and_one_that_takes_over_goes_on_with_what_waits(tmp_path: Path) -> None:
    data = history(tmp_path / "data.csv")
    raw = train(joining(tmp_path), read([data], joining(tmp_path))).built[0].raw
    streams = StreamTable()
    running, candidate = (Engine.load(raw, v, "n1", streams, 100, lambda seconds: None) for v in ("1", "2"))
    trial = Trial(candidate, running)
    for part, name in ((slice(0, 300), "press"), (slice(0, 40), "oven"), (slice(40, 60), "oven")):
        source = chunk(data, name)
        some = Chunk(source.streams[part], source.event_time[part], source.values[part], {}, 0)
        for batch in running.batches(some, ("value",)):
            trial.observe(batch, 0, 0, None)
            running.process(batch, 0, 0, None)
    assert (trial.scored, trial.failure) == (True, "")
    held = running.detector.held
    assert held > 0
    assert candidate.inherits(running)
    assert candidate.succeed(running)
    assert candidate.detector.held == held
    assert len(candidate.flush(0).scores) + running.inferences >= held


def test_training_names_a_member_whose_stream_the_data_lacks(tmp_path: Path) -> None:
    recipe = joining(tmp_path, {"join.streams.temp": "kiln"})
    with pytest.raises(ConfigError, match=r"join.streams.temp: the data has no stream 'kiln', it has press, oven, fan"):
        read([history(tmp_path / "data.csv", 50)], recipe)
