"""What training reads of a category is what a node decodes of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from edgectl_agent.config import Mapping
from edgectl_agent.core.bundle import decode
from edgectl_agent.core.categories import CodeTable, code
from edgectl_agent.core.features import FeatureBuilder
from edgectl_agent.sources.decode import JsonDecoder

from edgectl.core.errors import ConfigError
from edgectl.training.pipeline import train
from edgectl.training.recipe import Recipe, load
from edgectl.training.tables import read

LOGINS = """
recipe: logins
stream: host
time: {column: ts}
categories: {user: , port: {column: from.port}, local: }
features:
  - {of: [user, port, local], new: 1h}
  - {of: user, distinct: 5m}
  - {of: user, counts: 5m}
  - {timing: [since_last]}
model: {type: pca}
alerts: {budget: {warning: 1/day, critical: 1/30d}}
ship: {variants: [fp32]}
"""
RECORDS: list[dict[str, Any]] = [
    {"ts": 60, "host": "h", "user": "ann", "from.port": 22, "local": True},
    {"ts": 120, "host": "h", "user": None, "from.port": 8022, "local": False},
    {"ts": 180, "host": "h", "user": " NA ", "from.port": None, "local": None},
]


def logins(folder: Path, **change: Any) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(LOGINS) | change, sort_keys=False), encoding="utf-8")
    return load(path)


def jsonl(folder: Path, records: list[dict[str, Any]]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def test_every_format_and_the_node_give_a_category_the_same_codes(tmp_path: Path) -> None:
    r = logins(tmp_path)
    with (tmp_path / "data.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(RECORDS[0]))
        out.writeheader()
        out.writerows({k: str(v).lower() if isinstance(v, bool) else v for k, v in r.items()} for r in RECORDS)
    columns = {name: [record[name] for record in RECORDS] for name in RECORDS[0]}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    gaps = pa.table(columns | {"from.port": pa.array([22.0, 8022.0, None], pa.float64())})
    pq.write_table(gaps, tmp_path / "gaps.parquet")
    mapping = Mapping(path="x", stream="host", time="ts", categories={"user": "user", "port": "p", "local": "local"})
    lines = [json.dumps(r | {"p": r["from.port"]}).encode() for r in RECORDS]
    node = CodeTable().encode(JsonDecoder(mapping).decode(lines).texts, 3)
    assert node.tolist() == [
        [code("ann"), code("22"), code("true")],
        [-1, code("8022"), code("false")],
        [code("NA"), -1, -1],
    ]
    for path in (jsonl(tmp_path, RECORDS), *(tmp_path / n for n in ("data.csv", "data.parquet", "gaps.parquet"))):
        np.testing.assert_array_equal(read([path], r).codes, node, err_msg=str(path))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"user": 1.5}, "data.jsonl column 'user': expected texts or whole numbers, found values of type double"),
        ({"user": "x" * 1001}, "data.jsonl row 1, column 'user': expected at most 1000 characters, found 1001"),
        ({"usr": 1, "user": None}, "data.jsonl: column 'user' is missing"),
    ],
)
def test_what_names_nothing_is_refused_in_one_sentence(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read([jsonl(tmp_path, [RECORDS[0] | change])], logins(tmp_path))
    assert caught.value.message.startswith(str(tmp_path / sentence))


def test_a_model_can_be_trained_on_nothing_but_categories(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    records = [
        {
            "ts": 20 * i,
            "host": "h",
            "user": f"u{random.integers(5)}",
            "from.port": 22,
            "local": bool(random.integers(2)),
        }
        for i in range(1500)
    ]
    r = logins(tmp_path)
    table = read([jsonl(tmp_path, records)], r)
    bundle = decode(train(r, table).built[0].raw)
    assert bundle.features.categories == ("user", "port", "local")
    x = FeatureBuilder(bundle.features).push(table.batch()).x
    assert set(x[-500:, list(bundle.feature_names).index("user.distinct.5m")]) <= {3.0, 4.0, 5.0}
