"""What an agent or an operator of an earlier version wrote is read for ever: samples are added, never regenerated.

CLI and agent may differ by two minor versions, so each also reads what a newer peer says with fields that it does not
know, and what an older one says without those that came later.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from edgectl_agent import config
from edgectl_agent.core.messages import AlertPage, Assignment, Release, Report, UpdateResult
from edgectl_agent.outbox import Outbox
from edgectl_agent.snapshots import SnapshotStore

SAMPLES = Path(__file__).parent / "messages"
TYPES = {
    "report": Report,
    "alert-page": AlertPage,
    "update-result": UpdateResult,
    "release": Release,
    "assignment": Assignment,
}
FILES = sorted(SAMPLES.glob("*.json"))


def kind(path: Path) -> Any:
    return TYPES[path.stem.rpartition("-")[0]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_message_of_an_earlier_version_keeps_every_value(path: Path) -> None:
    sample = json.loads(path.read_bytes())
    decoded = msgspec.json.decode(path.read_bytes(), type=kind(path))
    again = json.loads(msgspec.json.encode(decoded))
    assert keeps(again, sample) == []


def keeps(new: Any, old: Any, path: str = "$") -> list[str]:
    """Paths of what `old` says and `new` does not; what came later may be there as well."""
    if isinstance(old, dict):
        return [p for key, value in old.items() for p in keeps(new.get(key), value, f"{path}.{key}")]
    if isinstance(old, list):
        pairs = zip(new, old, strict=True)
        return [p for i, (mine, theirs) in enumerate(pairs) for p in keeps(mine, theirs, f"{path}[{i}]")]
    return [] if new == old else [path]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_newer_peer_may_say_more_everywhere(path: Path) -> None:
    sample = json.loads(path.read_bytes())
    more = json.dumps(widened(sample))
    assert msgspec.json.decode(more, type=kind(path)) == msgspec.json.decode(path.read_bytes(), type=kind(path))


def widened(value: Any) -> Any:
    """`value` with a field more in every object that is a message: those with another key than data (recipe names)."""
    if isinstance(value, list):
        return [widened(item) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {key: widened(item) for key, item in value.items()}
    named_by_data = all(isinstance(item, int) for item in value.values()) or all(
        isinstance(item, list) for item in value.values()
    )
    return inner if named_by_data else inner | {"of_a_later_version": {"x": [1]}}


def without_one(value: dict[str, Any], of: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for field in msgspec.structs.fields(of):
        if not field.required and field.encode_name in value:
            yield field.name, {key: item for key, item in value.items() if key != field.encode_name}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_older_peer_may_leave_out_what_has_a_default(path: Path) -> None:
    for _, less in without_one(json.loads(path.read_bytes()), kind(path)):
        msgspec.convert(less, kind(path))


REQUIRED = {
    "Report": {"node", "agent", "boot", "clock_ns", "uptime_s", "state", "outbox"},
    "AlertPage": {"node", "records", "next_after"},
    "UpdateResult": {"state"},
    "Release": {"recipe", "version", "counter", "variants"},
    "Assignment": {"fleet", "epoch", "models"},
}


@pytest.mark.parametrize("of", TYPES.values(), ids=lambda of: of.__name__)
def test_a_field_that_is_new_is_never_required(of: Any) -> None:
    """An agent that is two minor versions older does not send it."""
    assert {field.name for field in msgspec.structs.fields(of) if field.required} == REQUIRED[of.__name__]


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_agent_yaml_of_an_earlier_version_is_still_taken(path: Path) -> None:
    found, _ = config.load(path)
    assert found.node == "lyon-pi-0417"
    assert set(found.sources) == {"press", "past", "host"}
    assert found.limits.outbox == "200M"


def test_an_outbox_of_an_earlier_version_is_opened_with_every_record(tmp_path: Path) -> None:
    folder = shutil.copytree(Path(__file__).parent / "outbox-0.1", tmp_path / "outbox")
    outbox = Outbox(folder, boot="later", limit_bytes=10**6)
    found = outbox.open()
    assert (found.lost, outbox.status().head_seq) == ((), 3)
    assert [(r.seq, bytes(r.payload)) for r in outbox.read(1, 10)] == [(2, b'{"n":2}'), (3, b'{"n":3}')]
    outbox.close()


def test_a_snapshot_of_an_earlier_version_is_loaded(tmp_path: Path) -> None:
    folder = shutil.copytree(Path(__file__).parent / "snapshots-0.1", tmp_path / "snapshots")
    state = SnapshotStore(folder).load()
    assert state is not None
    assert (state["format"], state["sources"]) == (1, {"press": {"offset": 4096}})
