"""A log as history: templates are mined from what the model is fitted to, and mean the same on the node."""

from __future__ import annotations

import builtins
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from edgectl_agent import config as agent
from edgectl_agent.config import LogLines
from edgectl_agent.core.batch import Batch, StreamTable
from edgectl_agent.core.bundle import FeatureSpec, TemplateFeatures, Templates, decode, encode
from edgectl_agent.core.categories import code_table
from edgectl_agent.core.features import FeatureBuilder, feature_names
from edgectl_agent.engine import Engine
from edgectl_agent.sources.interface import Chunk
from edgectl_agent.sources.syslog import SyslogSource

from edgectl.cli import wiring
from edgectl.core.errors import ConfigError
from edgectl.generate.weblog import Fault, Service
from edgectl.inventory import agent_config, shorthand
from edgectl.inventory.reading import parse
from edgectl.machine.layout import Layout
from edgectl.training.logs import read_log
from edgectl.training.mining import Mining, mine
from edgectl.training.pipeline import Trained, train
from edgectl.training.recipe import Recipe, find, load, log_config
from edgectl.training.report import render
from edgectl.training.tables import read
from edgectl.workspace import Workspace

SERVICE = Service(seed=2, hosts=("web-1", "web-2"))
HOURS = 9


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("logs")
    (folder / "history.log").write_text("".join(SERVICE.lines(0, HOURS * 60)), encoding="utf-8")
    recipe = find("logs", None)
    return train(recipe, read([folder / "history.log"], recipe))


def test_templates_are_mined_and_the_commonest_comes_first() -> None:
    messages = ["the job <*> was done", "the job <*> was lost", *["disk is full"] * 3, ""]
    found = mine("m", messages, Mining(similarity=0.6))
    assert found.texts == ("disk is full", "the job <*> was <*>")
    assert found.bits[0] < found.bits[1] < found.unseen_bits


def test_mining_depends_on_the_order_of_first_appearance_alone() -> None:
    messages = ["a b c", "a b d", "x y z", "a b c"]
    again = [*messages, "a b c", "x y z"]
    assert set(mine("m", messages, Mining()).texts) == set(mine("m", again, Mining()).texts)


def test_no_message_and_no_drain3_are_one_sentence_each(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="category 'm' has no message"):
        mine("m", ["", ""], Mining())
    real = builtins.__import__

    def without(name: str, *more: Any, **named: Any) -> Any:
        if name.startswith("drain3"):
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError) as caught:
        mine("m", ["a"], Mining())
    assert "needs drain3" in str(caught.value)
    assert "pip install 'edgectl[logs]'" in str(caught.value)


def test_the_shipped_recipe_learns_the_services_templates(trained: Trained) -> None:
    bundle = decode(trained.built[0].raw)
    known = bundle.features.templates_of("template")
    assert known is not None
    assert known.texts[0] == "GET <*> <*> <*>ms user=<*> ip=<*>"
    assert "health check ok, <*> connections" in known.texts
    assert encode(bundle) == trained.built[0].raw
    assert any("health check ok" in name for name in bundle.feature_names)


def test_the_report_of_a_recipe_without_channels_says_that_there_were_no_synthetic_faults(trained: Trained) -> None:
    page = render(trained.report)
    assert "\nSynthetic faults: none; they change channels" in page
    assert "0 of 0" not in page


def test_a_node_gives_a_line_the_code_that_training_gave_it(trained: Trained, tmp_path: Path) -> None:
    recipe, log = trained.recipe, tmp_path / "live.log"
    fault = Fault(host="web-1", kind="new-message", first=HOURS * 60, count=10)
    log.write_text("".join(SERVICE.lines(HOURS * 60, 12, [fault])), encoding="utf-8")
    columns = dict(zip(recipe.features.categories, recipe.category_columns, strict=True))
    records = read_log(log, log_config(log_of(recipe), recipe.stream_column, "time", "UTC", {}, columns))
    engine = Engine.load(trained.built[0].raw, "1.0.0", "n", StreamTable(), 10, lambda seconds: None)
    chunk = Chunk(records.streams, records.event_time, records.values, {}, 0, texts=records.texts)
    (batch,) = engine.batches(chunk, (), recipe.features.categories)
    assert batch.codes is not None
    assert (batch.codes == code_table(recipe.features).encode(records.texts, len(records))).all()
    at = recipe.features.categories.index("template")
    known = code_table(recipe.features).encode(
        [None] * at + [list(texts_of(recipe).texts)], len(texts_of(recipe).texts)
    )
    unseen = ~(batch.codes[:, at][:, None] == known[:, at]).any(axis=1)
    assert 0 < unseen.sum() < len(records)


@pytest.mark.needs("logger")
def test_the_shipped_recipe_reads_syslog_as_the_short_form_says_it(trained: Trained, tmp_path: Path) -> None:
    name, entry = shorthand.source("app=syslog:127.0.0.1:0")
    node = {"name": "a", "sources": {name: entry}, "models": {"logs": [name]}}
    fleet = parse(yaml.safe_dump({"version": 1, "fleet": "a", "nodes": [node]}))
    columns = {"logs": wiring.columns(Workspace(tmp_path))("logs")}
    (tmp_path / "agent.yaml").write_text(agent_config.render(fleet.nodes[0], columns, agent_config.there(Layout())))
    config = agent.load(tmp_path / "agent.yaml")[0].sources[name]
    assert isinstance(config, agent.SyslogConfig)
    with closing(SyslogSource(config)) as source:
        source.open(None)
        for priority, text in (("user.info", "health check ok, 17 connections"), ("user.err", "never seen before")):
            command = ["logger", "-n", "127.0.0.1", "-P", str(source.port), "--tcp", "--rfc5424", "-p", priority, text]
            subprocess.run(command, check=True, timeout=60)
        chunks, deadline = list[Chunk](), time.monotonic() + 60
        while sum(map(len, chunks)) < 2:
            assert time.monotonic() < deadline
            chunks.append(source.poll(10, 0.1))
    engine = Engine.load(trained.built[0].raw, "1.0.0", "n", StreamTable(), 10, lambda seconds: None)
    batches = [b for chunk in chunks for b in engine.batches(chunk, (), tuple(config.categories))]
    codes = np.concatenate([batch.codes for batch in batches if batch.codes is not None])
    known = {"level": ["INFO", "ERROR"], "template": ["health check ok, <*> connections", "never seen before"]}
    expected = code_table(trained.recipe.features).encode([known[c] for c in trained.recipe.features.categories], 2)
    assert codes.tolist() == expected.tolist()


def test_training_tells_the_hour_apart_that_daylight_saving_repeats(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("2026-10-25 02:55:00 up\n2026-10-25 02:05:00 up\n2026-10-25 03:05:00 up\n", encoding="utf-8")
    records = read_log(log, log_config(LogLines(), "=x", "time", "Europe/Paris", {}, {"level": "level"}))
    assert [(at - records.event_time[0]) // (60 * 10**9) for at in records.event_time] == [0, 10, 70]


def log_of(recipe: Recipe) -> Any:
    assert recipe.log is not None
    return recipe.log


def texts_of(recipe: Recipe) -> Templates:
    found = recipe.features.templates_of("template")
    assert found is not None
    return found


def test_unseen_and_rare_values_of_a_window_are_counted() -> None:
    spec = FeatureSpec(
        channels=(), warm_up_ns=0,
        features=(TemplateFeatures(categories=("m",), window_ns=100, panes=10, top=2,
                                   kinds=("count", "unseen", "rarity")),),
        templates=(Templates(category="m", texts=("a b", "c <*>"), bits=(1.0, 3.0), unseen_bits=9.0),),
    )  # fmt: skip
    codes = code_table(spec).encode([["a b", "c d", "x y", "", "a b"]], 5)
    builder = FeatureBuilder(spec)
    rows = builder.push(Batch(np.zeros(5, np.int32), np.array([0, 1, 2, 3, 200]), np.empty((5, 0)), codes))
    assert feature_names(spec) == (
        "m #1 'a b'.count.100ns", "m #2 'c <*>'.count.100ns", "m.unseen.100ns", "m.rarity.100ns",
    )  # fmt: skip
    assert rows.x[:, :3].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0]]
    assert rows.x[:, 3].tolist() == pytest.approx([1, 2, 13 / 3, 13 / 3, 1], abs=0.01)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("mine: true", "mine: {similarity: 7}"),
            "mine.similarity: expected a share from 0.1 to 1",
        ),
        (("mine: true", "mine: false"), "expected a category that says mine: true, found none"),
        (("stream: host", "stream: machine"), "a log has no column 'machine'"),
        (("(?P<host>", "(?P<host"), "log.pattern"),
        (("adapt: [0.8, 1.2]", "adapt: [2, 3]"), "alerts.adapt: expected [low, high]"),
        (("top: 12", "top: 999"), "features[0].top: expected a number of templates from 0 to 200, found 999"),
    ],
)
def test_what_a_recipe_says_of_a_log_is_checked(tmp_path: Path, change: tuple[str, str], sentence: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(find("logs", None).path.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert sentence in str(caught.value)


def test_a_file_without_any_event_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.log").write_bytes(b"\x00\xff no time here\n")
    with pytest.raises(ConfigError, match=r"empty\.log: found no event with a time in it \(1 bad-time\)"):
        read([tmp_path / "empty.log"], find("logs", None))
    with pytest.raises(ConfigError, match=r"gone\.log: no such file"):
        read([tmp_path / "gone.log"], find("logs", None))
