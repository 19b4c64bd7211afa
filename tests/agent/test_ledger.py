"""Alerts are recorded before they are acted upon, and a killed agent's replay neither records nor acts twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from edgectl_agent.actions.log import Entry
from edgectl_agent.actions.log import LogAction as LogFile
from edgectl_agent.config import LogAction
from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.messages import Alert
from edgectl_agent.ledger import Ledger
from edgectl_agent.outbox import Outbox

_open: list[Outbox] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


def alert(n: int, state: str = "open", severity: str = "warning") -> Alert:
    return Alert(
        id=f"a-{n}", node="n1", stream="s", recipe="r", version="1", bundle="b", variant="fp32",
        severity=severity, state=state, onset_ns=n, changed_ns=n, score=1.0, threshold=0.5, surprise=3.0,  # type: ignore[arg-type]
    )  # fmt: skip


class Node:
    """A ledger on real files; `kill` forgets what is in memory."""

    def __init__(self, folder: Path, on: str = "any", limit_bytes: int = 10_000_000) -> None:
        self._folder, self._on, self._limit = folder, on, limit_bytes
        self.kill()

    def kill(self, state: dict[str, Any] | None = None) -> None:
        self.outbox = Outbox(self._folder / "outbox", boot="b", limit_bytes=self._limit)
        _open.append(self.outbox)
        self.outbox.open()
        action = LogFile(self._folder / "actions.jsonl")
        self.ledger = Ledger(self.outbox, [(LogAction(on=self._on), action)])  # type: ignore[arg-type]
        self.ledger.recover(state)

    def record(self, *alerts: Alert) -> None:
        self.ledger.offer(alerts)
        self.ledger.flush(1)

    @property
    def blocked(self) -> str:
        return self.ledger.blocked.reason if self.ledger.blocked else ""

    @property
    def recorded(self) -> list[str]:
        found = [msgspec.json.decode(r.payload, type=Alert) for r in self.outbox.read(0, 100)]
        return [f"{a.id} {a.state} {a.severity}" for a in found]

    @property
    def fired(self) -> list[str]:
        path = self._folder / "actions.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        entries = [msgspec.json.decode(line, type=Entry).alert for line in lines if line.endswith(b"}}")]
        return [f"{a.id} {a.state} {a.severity}" for a in entries]


def test_each_state_and_severity_of_an_alert_is_one_record_and_one_effect(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.record(alert(1), alert(1, severity="critical"), alert(1, "cleared", "critical"))
    expected = ["a-1 open warning", "a-1 open critical", "a-1 cleared critical"]
    assert node.recorded == node.fired == expected
    assert node.ledger.alerts == {"warning": 1, "critical": 2}


def test_an_action_hears_only_its_severity(tmp_path: Path) -> None:
    node = Node(tmp_path, on="critical")
    node.record(alert(1), alert(2, severity="critical"))
    assert node.fired == ["a-2 open critical"]


def test_a_replay_after_a_kill_neither_records_nor_acts_again(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.record(alert(1), alert(2))
    node.kill()
    node.record(alert(1), alert(2), alert(3))
    assert node.recorded == node.fired == ["a-1 open warning", "a-2 open warning", "a-3 open warning"]


def test_a_replay_of_what_was_collected_meanwhile_does_not_act_again(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.record(alert(1))
    node.outbox.release(1)
    node.kill()
    node.record(alert(1))
    assert node.fired == ["a-1 open warning"]
    assert node.outbox.status().head_seq == 2  # recorded again: the store merges by id


def test_an_alert_that_was_acknowledged_but_not_acted_upon_is_acted_upon_at_the_next_start(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.outbox.append(msgspec.json.encode(alert(1)), 1)
    node.outbox.commit()
    assert node.fired == []
    node.kill()
    assert node.fired == ["a-1 open warning"]
    node.kill()
    assert node.fired == ["a-1 open warning"]


def test_a_line_torn_by_a_kill_is_written_again_on_its_own_line(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.record(alert(1), alert(2))
    log = tmp_path / "actions.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    node.kill()
    assert node.fired.count("a-1 open warning") == 1
    assert [line for line in log.read_bytes().splitlines() if line.endswith(b"}}")] == [
        msgspec.json.encode(Entry("1970-01-01T00:00:00Z", alert(n))) for n in (1, 2)
    ]


def test_only_what_came_after_the_snapshot_is_looked_at(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.record(alert(1))
    state = node.ledger.snapshot()
    node.record(alert(2))
    node.kill(state)
    node.record(alert(2))
    assert node.recorded == node.fired == ["a-1 open warning", "a-2 open warning"]


def test_a_snapshot_in_the_middle_of_a_replay_still_knows_what_the_rest_of_it_will_find(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.record(alert(1), alert(2))
    node.kill()
    node.record(alert(1))
    node.kill(node.ledger.snapshot())
    node.record(alert(2), alert(3))
    assert node.recorded == node.fired == ["a-1 open warning", "a-2 open warning", "a-3 open warning"]
    assert node.ledger.snapshot()["recorded"] == []
    assert node.ledger.snapshot()["actions"][0]["fired"] == []


def test_an_action_log_that_was_rotated_away_is_read_from_its_start(tmp_path: Path) -> None:
    node = Node(tmp_path)
    for n in range(10):
        node.record(alert(n))
    state = node.ledger.snapshot()
    (tmp_path / "actions.jsonl").rename(tmp_path / "actions.jsonl.1")
    node.record(alert(11))
    node.kill(state)
    node.record(alert(11))
    assert node.fired == ["a-11 open warning"]


def test_while_the_outbox_refuses_alerts_wait_unacted_and_go_on_by_themselves(tmp_path: Path) -> None:
    node = Node(tmp_path, limit_bytes=20_000)
    for n in range(100):
        node.record(alert(n))
    assert node.blocked == "outbox-full"
    done = len(node.recorded)
    assert 0 < done < 100
    assert node.fired == node.recorded
    while not node.ledger.settled:
        node.outbox.release(node.outbox.status().head_seq)
        node.ledger.flush(2)
    assert node.blocked == ""
    assert node.fired == [f"a-{n} open warning" for n in range(100)]


def test_a_failing_action_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", boot="b", limit_bytes=1_000_000)
    _open.append(outbox)
    outbox.open()
    nowhere = LogFile(tmp_path / "no" / "such" / "folder.jsonl")
    ledger = Ledger(outbox, [(LogAction(), nowhere)])
    ledger.recover(None)
    ledger.offer([alert(1)])
    assert ledger.flush(1)
    assert ledger.failed_actions == 1
    with pytest.raises(StorageError, match="cannot be written"):
        nowhere.fire(alert(1))
