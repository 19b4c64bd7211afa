"""Bytes from outside may be anything: reading them ends in an error of ours, never in another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import edgectl_agent
import pytest
from edgectl_agent import yamlfile
from edgectl_agent.config import Config
from edgectl_agent.core import bundle
from edgectl_agent.core.errors import ConfigError, EdgeError
from edgectl_agent.core.messages import Assignment
from edgectl_agent.trust_client import _decode

import edgectl
from edgectl.connectors import answers
from edgectl.connectors.client import NodeClient
from edgectl.connectors.interface import Connector
from edgectl.core import last_words
from edgectl.core.errors import RemoteRefused
from edgectl.inventory import ansible
from edgectl.machine import move, setup
from edgectl.trust import contents

HOSTILE = {
    "nothing": b"",
    "no JSON": b"\xff\xfe\0",
    "no UTF-8": b'{"node": "\xff", "error": "\xff", "url": "\xff", "bundles": ["\xff"]}',
    "deep": b'{"reasons": ' + b"[" * 100_000,
    "another type": b"[1, 2]",
}
YAML = (
    "a: 0x_", "a: 2024-13-45", "? [a]\n: b", "[" * 3000, "{a: " * 3000, "a: &a [*a]", "a: !!python/object:os.system x",
)  # fmt: skip


class Echo(Connector):
    """A node that answers everything with the same bytes."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def request(self, method: str, path: str, body: bytes = b"", timeout_s: float = 10.0) -> bytes:
        return self._raw

    def place(self, files: Mapping[str, bytes]) -> bool:
        raise NotImplementedError

    def start(self, timeout_s: float = 30.0) -> None:
        raise NotImplementedError

    def stop(self, timeout_s: float = 15.0) -> None:
        raise NotImplementedError

    def remove(self, keep_data: bool = False) -> None:
        raise NotImplementedError

    def upload(self, files: Mapping[str, bytes | Path]) -> None:
        raise NotImplementedError


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> bytes:
    return bytes(request.param)


def test_what_a_node_answers_is_refused_in_one_sentence_or_left_out(hostile: bytes) -> None:
    client = NodeClient("pi-1", Echo(hostile))
    for call in (client.status, client.alerts, client.have):
        with pytest.raises(RemoteRefused, match=r"node pi-1: its answer is not a \w+: "):
            call()
    assert str(answers.refused("pi-1", 500, hostile)).startswith("node pi-1: HTTP 500")
    assert answers.api(hostile) is None
    assert len(last_words.spoken(hostile.decode(errors="replace"))) <= last_words.LONGEST_LINE
    assert move.report(hostile) is None
    assert setup.node_name(hostile) == ""
    assert not setup.same_fleet(hostile, hostile)


def test_what_a_repository_holds_is_refused_in_one_sentence(hostile: bytes) -> None:
    for read in (
        lambda: bundle.decode(hostile),
        lambda: _decode(hostile, Assignment, "assignment"),
        lambda: contents._decode(hostile, Assignment, "assignment"),
    ):
        with pytest.raises(EdgeError, match="does not decode: "):
            read()


@pytest.mark.parametrize("text", YAML, ids=lambda text: text[:12])
def test_yaml_that_only_yaml_could_like_is_an_invalid_config(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^agent\.yaml: "):
        yamlfile.parse(text, Config, "agent.yaml")
    try:
        ansible.load_yaml(text, "hosts.yml")
    except ConfigError as e:
        assert e.message.startswith("hosts.yml:")  # noqa: PT017 - Ansible's own loader takes some of them
    assert setup.node_name(text.encode()) == ""


def test_whoever_catches_what_msgspec_raises_catches_all_of_it() -> None:
    """`UNREADABLE` names it; a bare ``except msgspec.MsgspecError`` lets text that is no UTF-8 through."""
    for package in (edgectl, edgectl_agent):
        for path in Path(*package.__path__).rglob("*.py"):
            assert not re.search(r"except \(?msgspec\.(MsgspecError|DecodeError)\)?( as e)?:", path.read_text()), path
