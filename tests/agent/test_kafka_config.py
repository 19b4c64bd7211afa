"""What agent.yaml may say of a Kafka source, and the one sentence for what it may not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from edgectl_agent.config import KafkaConfig, load
from edgectl_agent.core.errors import ConfigError, SourceError
from edgectl_agent.sources import build
from edgectl_agent.sources.kafka_settings import settings

TEXT = """
version: 1
node: n1
data_dir: /tmp/x
sources:
  press: {type: kafka, brokers: ["kafka.acme.example:9093"], topics: [plant.vib, "^press-.*"], group: plant,
          stream: "@key", time: ts, channels: {vib: v.rms},
          tls: {ca_file: /etc/ca.pem}, sasl: {user: edge, password_file: /etc/kafka.pw}, buffer: 8M, session: 30s}
"""


def read(folder: Path, text: str) -> KafkaConfig:
    path = folder / "agent.yaml"
    path.write_text(text)
    found = load(path)[0].sources["press"]
    assert isinstance(found, KafkaConfig)
    return found


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kafka.acme.example:9093", "kafka.acme.example", "brokers[0]: expected"),
        ("kafka.acme.example:9093", "kafka.acme.example:0", "brokers[0]: expected a port from 1 to 65535, found"),
        ("[plant.vib, ", "[plant/vib, ", "topics[0]: expected a topic or a regular expression after ^, found 'plant/"),
        ("^press-.*", "^press-(", "topics[1]: '^press-(' is no regular expression: missing ), unterminated subpattern"),
        ('[plant.vib, "^press-.*"]', "[]", "topics: expected"),
        ("buffer: 8M", "buffer: 8k", "buffer: expected at least 2M, found '8k'"),
        ("session: 30s", "session: soon", "session: expected a duration such as 30s"),
        ("ca_file: /etc/ca.pem", "cert: /etc/x.crt", "tls: expected cert and key together, or neither"),
        ("tls: {ca_file: /etc/ca.pem}, sasl: {u", "sasl: {mechanism: PLAIN, u", "sasl: PLAIN would send the password"),
        ("user: edge, ", "", "sasl.user: required key is missing"),
        ("buffer: 8M", "format: csv", "columns: expected one that is called 'ts', found: none"),
        ("buffer: 8M", "format: csv, columns: [ts]", "columns: expected one that is called 'v.rms', found: ts"),
        ("buffer: 8M", "columns: [ts]", "columns: expected only with format: csv"),
        ("buffer: 8M", "compression: gzip", "compression: unknown key"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_what_was_expected(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert read(tmp_path, TEXT).group == "plant"
    with pytest.raises(ConfigError) as found:
        read(tmp_path, TEXT.replace(old, new))
    assert f": sources.press.{message}" in str(found.value)


def test_a_missing_library_is_said_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "edgectl_agent.sources.kafka", raising=False)
    monkeypatch.delitem(sys.modules, "edgectl_agent.sources.kafka_member", raising=False)
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    config = KafkaConfig(brokers=("b:9092",), topics=("t",), stream="@key", time="ts", channels={"v": "v"})
    with pytest.raises(ConfigError) as found:
        build(config, "n1", "press")
    assert str(found.value) == (
        "sources.press: type kafka needs confluent_kafka, which is not installed → pip install 'edgectl-agent[kafka]'"
    )


def test_a_node_without_a_group_has_one_of_its_own_and_passwords_come_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\nnot this\n")
    config = read(tmp_path, TEXT.replace("group: plant,", "").replace("/etc/kafka.pw", str(secret)))
    with pytest.raises(SourceError, match=r"/etc/ca.pem cannot be read: No such file or directory"):
        settings(config, "n1.press")
    (tmp_path / "ca.pem").write_text("")
    config = read(tmp_path, TEXT.replace("group: plant,", "").replace("/etc/kafka.pw", str(secret)).replace(
        "/etc/ca.pem", str(tmp_path / "ca.pem")))  # fmt: skip
    found = settings(config, "n1.press")
    assert (found["group.id"], found["group.instance.id"], found["sasl.password"]) == (
        "n1.press",
        "n1.press",
        "hunter2",
    )
    assert found["security.protocol"] == "SASL_SSL"
    secret.write_text("\n")
    with pytest.raises(SourceError, match="the first line is empty, expected the password"):
        settings(config, "n1.press")
