"""A restart finds the newest snapshot or, if that one is damaged, the one before; never a half one."""

from __future__ import annotations

import os
import random
import resource
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.errors import StorageError
from edgectl_agent.snapshots import SnapshotStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.powercut import PowerCut, die_at, operations

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.dictionaries(st.text(), PLAIN))
def test_what_was_saved_is_loaded(tmp_path: Path, state: dict[str, Any]) -> None:
    SnapshotStore(tmp_path).save(state)

    assert SnapshotStore(tmp_path).load() == state


def test_a_packed_array_survives(tmp_path: Path) -> None:
    values = np.array([[1.5, np.nan], [-0.0, np.inf]])
    SnapshotStore(tmp_path).save({"values": pack_array(values)})
    loaded = SnapshotStore(tmp_path).load()

    assert loaded is not None
    assert unpack_array(loaded["values"]).tobytes() == values.tobytes()


def test_before_the_first_save_there_is_nothing_and_no_problem(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots")

    assert store.load() is None
    assert store.problem == ""


def test_any_damage_to_the_newest_falls_back_to_the_one_before_and_says_so(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.save({"n": 1})
    store.save({"n": 2, "data": bytes(30)})
    newest = tmp_path / "state.snap"
    raw = newest.read_bytes()
    damaged = [raw[:n] for n in range(len(raw))] + [
        raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :] for at in range(len(raw))
    ]
    for bad in damaged:
        newest.write_bytes(bad)
        again = SnapshotStore(tmp_path)
        assert again.load() == {"n": 1}
        assert again.problem.startswith("state.snap ")
    newest.unlink()
    assert SnapshotStore(tmp_path).load() == {"n": 1}


def test_a_damaged_snapshot_never_replaces_the_good_one_before(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.save({"n": 1})
    store.save({"n": 2})
    (tmp_path / "state.snap").write_bytes(b"garbage")
    again = SnapshotStore(tmp_path)
    again.load()
    again.save({"n": 3})
    (tmp_path / "state.snap").write_bytes(b"garbage")

    assert SnapshotStore(tmp_path).load() == {"n": 1}


def test_with_both_damaged_the_agent_starts_afresh_and_says_why(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.save({"n": 1})
    store.save({"n": 2})
    for name in ("state.snap", "state.prev"):
        (tmp_path / name).write_bytes(b"")

    assert store.load() is None
    assert store.problem == "state.snap has only 0 bytes; state.prev has only 0 bytes"


def test_a_disk_that_refuses_leaves_the_old_snapshot(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.save({"n": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(StorageError, match="snapshot of 1008 bytes cannot be written") as refusal:
            store.save({"n": bytes(1002)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert refusal.value.reason == "disk-full"
    assert SnapshotStore(tmp_path).load() == {"n": 1}
    assert sorted(os.listdir(tmp_path)) == ["state.prev", "state.snap"]


def test_death_before_any_file_operation_leaves_old_or_new(memory_folder: Path) -> None:
    tmp_path = memory_folder
    SnapshotStore(tmp_path).save({"n": 0})

    def work() -> None:
        store = SnapshotStore(tmp_path)
        loaded = store.load()
        assert loaded is not None
        store.save({"n": loaded["n"] + 1})

    count = operations(work)
    assert count > 8
    for k in range(1, count + 1):
        before = SnapshotStore(tmp_path).load()
        die_at(k, work)
        store = SnapshotStore(tmp_path)
        after = store.load()
        assert before is not None
        assert after in (before, {"n": before["n"] + 1})
        assert store.problem == ""


@pytest.mark.parametrize("seed", range(20))
def test_a_power_cut_leaves_a_snapshot_that_was_saved(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "snapshots"
    with PowerCut(tmp_path) as disk:
        store = SnapshotStore(folder)
        for n in range(3):
            store.save({"n": n})
    disk.cut(random.Random(seed))

    assert SnapshotStore(folder).load() == {"n": 2}


def test_a_snapshot_of_another_format_is_not_misread(tmp_path: Path) -> None:
    SnapshotStore(tmp_path).save({"n": 1})
    raw = bytearray((tmp_path / "state.snap").read_bytes())
    raw[8] = 9
    (tmp_path / "state.snap").write_bytes(raw)
    store = SnapshotStore(tmp_path)

    assert store.load() is None
    assert "state.snap has format 9, expected 1" in store.problem


def test_a_state_that_cannot_be_written_down_is_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        SnapshotStore(tmp_path).save({"lock": object()})


def test_a_snapshot_that_is_whole_yet_no_document_falls_back_too(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.save({"n": 1})
    store.save({"n": 2})
    document = b"\x81\xa1n\xc1"
    header = struct.pack("<8sIIQ", b"edgesnp\n", 1, google_crc32c.value(document), len(document))
    (tmp_path / "state.snap").write_bytes(header + document)

    again = SnapshotStore(tmp_path)
    assert again.load() == {"n": 1}
    assert "state.snap does not decode" in again.problem


@pytest.mark.parametrize("dtype", ["O", "M8[ns]", "f8,f8", "(1000,1000)f8", ",", "V8"])
def test_numpy_never_interprets_a_dtype_that_no_packed_array_has(dtype: str) -> None:
    with pytest.raises(StorageError):
        unpack_array({"dtype": dtype, "shape": [1], "data": bytes(8)})
