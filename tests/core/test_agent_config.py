"""agent.yaml as edgectl writes it, for nodes here and elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from edgectl_agent import config as agent

from edgectl.core.errors import ConfigError
from edgectl.fleet import membership
from edgectl.inventory.agent_config import Columns, here, render, sha256, there
from edgectl.inventory.reading import parse
from edgectl.inventory.types import Node
from edgectl.machine.layout import Layout
from edgectl.workspace import Workspace

COLUMNS = {"press": Columns(stream="machine", time="at", zone="UTC", channels={"vib": "v"})}


def node(text: str) -> Node:
    return parse(f"version: 1\nfleet: a\nnodes:\n  - {text}\n").nodes[0]


PRESS = "{name: '0417', sources: {s: {type: %s, path: %s}}, models: {press: [s]}, actions: [{type: log, path: %s}]}"


def test_a_node_elsewhere_has_its_own_paths_the_journal_and_a_free_port(tmp_path: Path) -> None:
    text = render(node(PRESS % ("tail", "/var/log/p.csv", "/var/log/a.jsonl")), COLUMNS, there(Layout()))
    (tmp_path / "agent.yaml").write_text(text)
    found, sha = agent.load(tmp_path / "agent.yaml")
    assert (found.node, found.data_dir, found.log.to) == ("0417", "/var/lib/edgectl-agent", "journald")
    assert found.sources["s"].path == "/var/log/p.csv"  # type: ignore[union-attr]
    assert found.actions[0].path == "/var/log/a.jsonl"
    assert found.api.listen == "127.0.0.1:0"
    assert sha == sha256(text)


KAFKA = (
    "{name: a, sources: {s: {type: kafka, brokers: ['k:9093'], topics: [t], group: g, stream: '@key', from: end, "
    "tls: {ca_file: %s}, sasl: {user: edge, password_file: /etc/pw}}}, models: {press: [s]}}"
)


def test_a_kafka_source_takes_its_columns_from_the_recipe_and_its_files_are_the_nodes_own(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(render(node(KAFKA % "/etc/ca.pem"), COLUMNS, there(Layout())))
    found = agent.load(tmp_path / "agent.yaml")[0].sources["s"]
    assert isinstance(found, agent.KafkaConfig)
    assert (found.stream, found.time, found.channels, found.start) == ("@key", "at", {"vib": "v"}, "end")
    assert (found.group, found.tls, found.buffer) == ("g", agent.ClientTls(ca_file="/etc/ca.pem"), "16M")
    with pytest.raises(ConfigError, match=r"source 's': tls\.ca_file: expected an absolute path of the node's own"):
        render(node(KAFKA % "ca.pem"), COLUMNS, there(Layout()))


MQTT = (
    "{name: a, sources: {s: {type: mqtt, url: 'mqtts://broker', topic: plant/+/vib, stream: topic.1, "
    "user: edge, password_file: %s, tls: {ca_file: /etc/ca.pem}}}, models: {press: [s]}}"
)


def test_an_mqtt_source_names_the_file_of_its_password_on_the_node_and_never_the_password(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(render(node(MQTT % "/etc/mqtt.pw"), COLUMNS, there(Layout())))
    found = agent.load(tmp_path / "agent.yaml")[0].sources["s"]
    assert isinstance(found, agent.MqttConfig)
    assert (found.filters, found.stream, found.time, found.channels) == (
        ("plant/+/vib",),
        "topic.1",
        "at",
        {"vib": "v"},
    )
    assert (found.password_file, found.tls, found.protocol) == (
        "/etc/mqtt.pw", agent.ClientTls(ca_file="/etc/ca.pem"), "5",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"source 's': password_file: expected an absolute path of the node's own"):
        render(node(MQTT % "mqtt.pw"), COLUMNS, there(Layout()))
    with pytest.raises(ConfigError, match=r"sources\.s\.password: unknown key, did you mean 'password_file'"):
        node(MQTT.replace("password_file: %s", "password: secret"))
    with pytest.raises(ConfigError, match=r"node a: agent\.yaml: sources\.s\.topic: expected \+ only as a whole level"):
        render(node((MQTT % "/pw").replace("plant/+/", "plant+/")), COLUMNS, there(Layout()))


def test_syslog_and_opc_ua_are_named_in_fleet_yaml_and_give_what_the_recipe_needs(tmp_path: Path) -> None:
    syslog = "{type: syslog, listen: '0.0.0.0:5514', allow: [10.0.0.0/8], channels: {vib: sd.plant@32473.v}}"
    opcua = "{type: opcua, url: 'opc.tcp://plc', streams: {press: {vib: 'ns=2;s=Vib'}}}"
    both = "{name: a, sources: {s: %s, o: %s}, models: {press: [s, o]}}"
    (tmp_path / "agent.yaml").write_text(render(node(both % (syslog, opcua)), COLUMNS, there(Layout())))
    found = agent.load(tmp_path / "agent.yaml")[0].sources
    one, other = found["s"], found["o"]
    assert isinstance(one, agent.SyslogConfig)
    assert isinstance(other, agent.OpcuaConfig)
    assert (one.stream, one.time, one.channels, one.transport) == (
        "host", "time", {"vib": "sd.plant@32473.v"}, ("tcp", "udp"),
    )  # fmt: skip
    assert (other.channels, other.every) == (("vib",), "1s")
    with pytest.raises(ConfigError, match="has no channel 'vib', which press needs; it has temp"):
        render(node(both % (syslog, opcua.replace("{vib:", "{temp:"))), COLUMNS, there(Layout()))


def test_a_recording_elsewhere_need_not_exist_here() -> None:
    assert "path: /data/no.csv" in render(node(PRESS % ("replay", "/data/no.csv", "''")), COLUMNS, there(Layout()))


@pytest.mark.parametrize(
    ("source", "action", "says"),
    [
        ("p.csv", "''", "node 0417: source 's': expected an absolute path of the node's own, found 'p.csv'"),
        ("/p.csv", "a.jsonl", "node 0417: action: expected an absolute path of the node's own, found 'a.jsonl'"),
    ],
)
def test_a_path_of_a_node_elsewhere_is_absolute(source: str, action: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render(node(PRESS % ("tail", source, action)), COLUMNS, there(Layout()))
    assert str(caught.value) == says


def test_categories_come_from_the_recipe_and_the_sources_own_column_wins() -> None:
    cards = Columns(stream="card", time="at", zone="UTC", channels={}, categories={"shop": "s", "land": "l"})
    said = node("{name: a, sources: {s: {type: http, categories: {land: to.land}}}, models: {cards: [s]}}")
    found = yaml.safe_load(render(said, {"cards": cards}, there(Layout())))["sources"]["s"]
    assert found["categories"] == {"land": "to.land", "shop": "s"}
    assert "channels" not in found


def test_what_the_agent_would_refuse_is_never_written(tmp_path: Path) -> None:
    tiny = node("{name: a, agent: {memory: 1M}}")
    with pytest.raises(ConfigError, match=r"node a: agent\.yaml: limits\.memory: expected at least 64M"):
        render(tiny, {}, here(tmp_path, lambda path: tmp_path / path))


def test_limits_log_and_port_are_what_fleet_yaml_says() -> None:
    agent = "{memory: 300M, cpu: 15%, disk: 1M, streams: 7, idle: 2h, listen: '127.0.0.1:8710', log: file}"
    said = node(f"{{name: a, agent: {agent}}}")
    found = yaml.safe_load(render(said, {}, there(Layout())))
    assert found["limits"] == {"memory": "300M", "cpu": "15%", "outbox": "1M", "streams": 7, "idle": "2h"}
    assert (found["log"], found["api"]) == ({"to": "file"}, {"listen": "127.0.0.1:8710"})


def test_what_every_node_should_have_is_known_without_reaching_one(tmp_path: Path) -> None:
    text = (
        "version: 1\nfleet: a\nnodes:\n  - {name: 'p-[1-3]', sources: {h: {type: host-metrics}}, models: {host: [h]}}\n"
    )
    fleet = parse(text + "  - {name: q, sources: {s: {type: tail, path: x.dat}}}\n")
    workspace = Workspace(tmp_path)

    def columns(recipe: str) -> Columns:
        return Columns(stream="=host", time="t", zone="UTC", channels={"cpu": "cpu"})

    found, wrong = membership.desired(fleet, workspace, columns)
    files = membership.files(fleet.node("p-2"), workspace, columns, b"root")
    assert found["p-2"] == sha256(files["agent.yaml"].decode())
    assert len(set(found.values())) == 3
    assert list(wrong) == ["q"]
    assert "cannot tell the format" in wrong["q"]


def test_a_node_that_only_a_stick_reaches_has_its_data_where_every_node_elsewhere_has_it(tmp_path: Path) -> None:
    gap = node("{name: gap, connect: {via: usb}}")
    files = membership.files(gap, Workspace(tmp_path), lambda recipe: COLUMNS[recipe], b"root")
    assert "data_dir: /var/lib/edgectl-agent\n" in files["agent.yaml"].decode()


def pulling(more: str) -> Node:
    text = f"version: 1\nfleet: a\n{more}\nnodes:\n  - {{name: far, connect: {{via: pull, every: 15m}}}}\n"
    return parse(text).nodes[0]


def outbound(text: str, tmp_path: Path) -> tuple[agent.Repository | None, agent.Uplink | None]:
    (tmp_path / "agent.yaml").write_text(text)
    found, _ = agent.load(tmp_path / "agent.yaml")
    return found.repository, found.uplink


def test_a_node_that_pulls_is_told_where_to_poll_and_to_report(tmp_path: Path) -> None:
    said = "repository: {url: 'https://models.acme.example'}\nreceiver: {url: 'https://hub.acme.example'}"
    polls, reports = outbound(render(pulling(said), {}, there(Layout())), tmp_path)
    assert polls == agent.Repository(url="https://models.acme.example", every="15m")
    assert reports == agent.Uplink(
        url="https://hub.acme.example",
        every="1m",
        token_file="/etc/edgectl-agent/uplink.token",
        ca_file="/etc/edgectl-agent/receiver-ca.pem",
    )


def test_the_receiver_serves_the_repository_if_nobody_else_does(tmp_path: Path) -> None:
    polls, reports = outbound(
        render(pulling("receiver: {url: 'https://hub.acme.example'}"), {}, there(Layout())), tmp_path
    )
    assert polls is not None
    assert reports is not None
    assert (polls.url, polls.ca_file) == ("https://hub.acme.example/repo", reports.ca_file)
    polls, reports = outbound(
        render(pulling("receiver: {url: 'https://hub.acme.example', ca: system}"), {}, there(Layout())), tmp_path
    )
    assert polls is not None
    assert polls.ca_file == ""


def test_a_node_that_pulls_needs_somewhere_to_pull_from_and_no_secret_in_the_clear() -> None:
    with pytest.raises(ConfigError, match="node far pulls, and nothing says from where → say repository"):
        pulling("time_zone: UTC")
    with pytest.raises(ConfigError, match=r"node far: agent\.yaml: uplink\.url: expected https"):
        render(pulling("receiver: {url: 'http://hub.acme.example'}"), {}, there(Layout()))


def test_a_source_of_a_join_needs_only_the_channels_that_it_says(tmp_path: Path) -> None:
    joined = {"line": Columns(stream="m", time="at", zone="UTC", channels={"p": "p", "t": "t"}, joined=True)}
    sources = (
        "{press: {type: tail, path: /p.jsonl, channels: {p: bar}}, oven: {type: http}, host: {type: host-metrics}}"
    )
    said = f"{{name: a, sources: {sources}, models: {{line: [press, oven]}}}}"
    (tmp_path / "agent.yaml").write_text(render(node(said), joined, there(Layout())))
    found = agent.load(tmp_path / "agent.yaml")[0].sources
    assert found["press"].channels == {"p": "bar"}  # type: ignore[union-attr]
    assert found["oven"].channels == {"p": "p", "t": "t"}  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"source 'host' has no channel 'p', which line needs; it has cpu, "):
        render(node(said.replace("[press, oven]", "[press, oven, host]")), joined, there(Layout()))
