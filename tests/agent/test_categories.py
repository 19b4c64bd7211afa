"""Categories travel from records to codes that mean the same everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from edgectl_agent.config import Mapping, ReplayConfig
from edgectl_agent.core.batch import StreamTable
from edgectl_agent.core.bundle import NewFeatures, encode
from edgectl_agent.core.categories import MISSING, CodeTable, code
from edgectl_agent.engine import Engine
from edgectl_agent.feeds import Feed
from edgectl_agent.sources import build
from edgectl_agent.sources.decode import CsvDecoder, JsonDecoder, Records
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bundles import make_bundle

MAPPING = Mapping(
    path="x", stream="card", time="ts", channels={"amount": "amount"}, categories={"shop": "to.shop", "land": "land"}
)
FLAT = Mapping(path="x", format="csv", stream="card", time="ts", channels={}, categories={"shop": "shop"})


def decoded(*records: object) -> Records:
    return JsonDecoder(MAPPING).decode([json.dumps(r).encode() for r in records])


def test_a_json_category_is_text_a_whole_number_a_truth_value_or_missing() -> None:
    got = decoded(
        {"ts": 1, "card": "a", "amount": 5, "to": {"shop": " bäckerei "}, "land": "NA"},
        {"ts": 2, "card": "a", "amount": 5, "to": {"shop": 5812}, "land": True},
        {"ts": 3, "card": "a", "amount": 5, "to": {"shop": None}},
        {"ts": 4, "card": "a", "amount": 5, "land": ""},
    )
    assert got.texts == (("bäckerei", "5812", "", ""), ("NA", "true", "", ""))
    assert not got.rejected


@pytest.mark.parametrize("wrong", [1.5, [], {}, "x" * 1001])
def test_what_names_nothing_is_counted_and_its_neighbours_are_kept(wrong: object) -> None:
    good = {"ts": 1, "card": "a", "amount": 5, "land": "FR"}
    got = decoded(good, good | {"land": wrong}, good)
    assert got.rejected == {"bad-category": 1}
    assert got.texts == (("", ""), ("FR", "FR"))


def test_csv_gives_the_texts_of_its_cells_and_needs_no_channel() -> None:
    got = CsvDecoder(FLAT, b"ts,card,shop\n", "f.csv").decode(
        [b"1,a, baker ", b"x,a,baker", b'2,a,"one, two"', b"3,a,"]
    )
    assert got.texts == (("baker", "one, two", ""),)
    assert got.values.shape == (3, 0)
    assert got.rejected == {"bad-time": 1}


def test_parts_of_records_join_to_the_whole() -> None:
    whole = decoded(*({"ts": i, "card": "a", "amount": i, "land": str(i)} for i in range(7)))
    parts = [whole[0:3], whole[3:3], whole[3:7]]
    joined = Records.join(parts)
    assert (joined.streams, joined.texts) == (whole.streams, whole.texts)
    np.testing.assert_array_equal(joined.values, whole.values)


def test_a_model_gets_the_codes_of_its_categories_by_name_whatever_the_source_calls_and_has(tmp_path: Path) -> None:
    wanted = make_bundle()
    new = NewFeatures(categories=("land", "shop", "unknown"), memory_ns=10**9)
    spec = msgspec.structs.replace(wanted.features, features=(*wanted.features.features, new))
    raw = encode(msgspec.structs.replace(wanted, features=spec))
    engine = Engine.load(raw, "1.0.0", "n", StreamTable(), 10, lambda seconds: None)
    path = tmp_path / "f.jsonl"
    path.write_text('{"ts": 1, "card": "a", "v": 2, "to": "x", "c": "FR"}\n{"ts": 2, "card": "a", "v": 2, "to": "y"}\n')
    config = ReplayConfig(
        path=str(path),
        stream="card",
        time="ts",
        channels={"value": "v"},
        categories={"shop": "to", "land": "c"},
        speed="max",
    )
    feed = Feed("s", config, build(config, "n", "s"))
    chunk = feed.poll(10, 0.0)
    feed.close()
    assert chunk is not None
    codes = next(engine.batches(chunk, feed.channels, feed.categories)).codes
    assert codes is not None
    assert codes.tolist() == [[code("FR"), code("x"), MISSING], [MISSING, code("y"), MISSING]]


@given(st.lists(st.text(max_size=5), max_size=200), st.integers(1, 8))
def test_a_code_is_the_same_however_little_the_table_remembers(texts: list[str], kept: int) -> None:
    table = CodeTable(max_kept=kept)
    codes = table.encode([texts, None], len(texts))
    assert codes[:, 0].tolist() == [code(text) for text in texts]
    assert (codes[:, 1] == MISSING).all()
    assert len(table) <= kept
    assert (table.refills > 0) == (len(set(texts)) > kept)


def test_codes_never_change_between_releases() -> None:
    assert [code(text) for text in ("", "FR", "bäckerei")] == [-1, 1007635249, 1539177706]
