"""agent.yaml is refused with the key, what was expected and what was found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from edgectl_agent import config as configs
from edgectl_agent.action_config import LogAction
from edgectl_agent.config import HostMetricsConfig, MqttConfig, ReplayConfig, TailConfig
from edgectl_agent.core.errors import ConfigError

from tests.agent.test_ledger import alert

GOOD = """
version: 1
node: lyon-pi-0417
data_dir: /var/lib/edgectl-agent
sources:
  press: {type: tail, path: /data/press.jsonl, stream: machine, time: ts, channels: {vib: v.rms, temp: t}, from: end}
  past: {type: replay, path: past.csv, format: csv, stream: "=one", time: ts, channels: {vib: v}, speed: max}
  host: {type: host-metrics, every: 10s}
models: {press-vibration: [press, past], host: [host]}
actions:
  - {on: critical, type: log}
limits: {memory: 200M, outbox: 50M, streams: 1000}
snapshot: {every: 5s}
batch: {max: 500, max_latency: 10ms}
log: {to: file, level: warning, rotate: 1M, keep: 2}
api: {listen: "127.0.0.1:8710"}
repository: {url: "http://models.example/press", every: 15m}
uplink: {url: "https://hub.example", every: 60s, token_file: /etc/token}
"""


def load(tmp_path: Path, text: str) -> configs.Config:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return configs.load(path)[0]


def test_a_full_file_reads_as_typed_values(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    press, past, host = config.sources.values()
    assert isinstance(press, TailConfig)
    assert (press.start, press.channels) == ("end", {"vib": "v.rms", "temp": "t"})
    assert isinstance(past, ReplayConfig)
    assert past.speed == "max"
    assert isinstance(host, HostMetricsConfig)
    assert config.models == {"press-vibration": ("press", "past"), "host": ("host",)}
    assert (config.snapshot_ns, config.idle_s, config.outbox_bytes) == (5 * 10**9, 0.01, 50_000_000)


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    config = load(tmp_path, "{version: 1, node: n, data_dir: d}")
    assert config.api.listen == "127.0.0.1:0"
    assert config.limits.streams == 2000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "type: tail",
            "type: fax",
            "sources.press.type: expected one of tail, replay, host-metrics, http, kafka, mqtt, ",
        ),
        ("from: end", "from: middle", "sources.press.from: expected one of end, start, found 'middle'"),
        ("speed: max", "speed: fast", "sources.past.speed: expected a factor above 0 or max, found 'fast'"),
        ("speed: max", "speed: 0", "sources.past.speed: expected a factor above 0 or max, found 0"),
        ("speed: max", "speed: .inf", "sources.past.speed: expected a factor above 0 or max, found inf"),
        ("speed: max", "zone: Paris", "sources.past.zone: 'Paris' is not a time zone"),
        ("time: ts, channels: {vib: v}", "time: v, channels: {vib: v}", "sources.past: column 'v' is used twice"),
        ("vib: v.rms, temp: t", "vib: v.rms, temp: v", "sources.press: column 'v' is also the path 'v.rms'"),
        ("stream: machine", "stream: '='", "sources.press.stream: '=' names no stream"),
        ("{vib: v.rms, temp: t}", "{}", "sources.press: expected at least one of channels and categories, found none"),
        ("every: 10s}", "evry: 10s}", "sources.host.evry: unknown key, did you mean 'every'?"),
        ("every: 10s}", "every: 10 parsecs}", "sources.host.every: expected a duration such as 30s"),
        ("every: 10s}", "every: 1ms}", "sources.host.every: expected at least 100ms, found '1ms'"),
        (
            "[press, past]",
            "[pres]",
            "models.press-vibration[0]: no source is called 'pres', known are: press, past, host",
        ),
        ("[press, past]", "[press, press]", "models.press-vibration: a source is named twice"),
        ("outbox: 50M", "outbox: 1k", "limits.outbox: expected at least 64k, found '1k'"),
        ("rotate: 1M", "rotate: 1k", "log.rotate: expected at least 64k, found '1k'"),
        ("keep: 2", "keep: 0", "log.keep: expected int >= 1, found 0"),
        ("to: file", "to: syslog", "log.to: expected one of file, journald, stderr, found 'syslog'"),
        ("memory: 200M", "cpu: half", "limits.cpu: expected a share of one core such as 20%, found 'half'"),
        ("streams: 1000", "streams: 0", "limits.streams: expected int >= 1, found 0"),
        ("on: critical", "on: fatal", "actions[0].on: "),
        ("127.0.0.1:8710", "0.0.0.0:8710", "api.listen: 0.0.0.0:8710 is not loopback: expected api.tls"),
        ("http://models.example/press", "models.example", "repository.url: expected a URL such as https://models"),
        ("http://models.example/press", "http://a/?b=c", "repository.url: expected a URL such as https://models"),
        ("https://hub.example", "https://me:pw@hub.example", "uplink.url: expected no user or password in it"),
        ("https://hub.example", "http://hub.example", "uplink.url: expected https (http on loopback only)"),
        ("every: 60s, token_file", "every: 1ms, token_file", "uplink.every: expected at least 1s, found '1ms'"),
        (", token_file: /etc/token", "", "uplink.token_file: required key is missing"),
        ("node: lyon-pi-0417", "", "node: required key is missing"),
        ("version: 1", "version: 2", "version: expected one of 1, found 2"),
        ("version: 1", "version: 1\nversion: 1", "line 3: key 'version' is there twice"),
        ("version: 1", "version: [", "not valid YAML"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert str(caught.value).startswith(f"{tmp_path / 'agent.yaml'}:")
    assert message in str(caught.value)


MQTT = """
version: 1
node: n
data_dir: d
sources:
  m: {type: mqtt, url: "mqtts://broker.acme.example", topic: plant/+/vib, stream: topic.1, time: ts, channels: {v: v.x}}
"""


def test_a_broker_is_found_by_its_url(tmp_path: Path) -> None:
    found = load(tmp_path, MQTT).sources["m"]
    assert isinstance(found, MqttConfig)
    assert (found.host, found.port, found.secure, found.filters) == (
        "broker.acme.example", 8883, True, ("plant/+/vib",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "mqtts://broker.acme.example",
            "broker:1883",
            "url: expected a URL such as mqtts://broker.acme.example:8883, found",
        ),
        ("mqtts://broker", "mqtts://me:secret@broker", "url: expected no user or password in it: they go to user and"),
        ("plant/+/vib", "plant/v+/vib", "topic: expected + only as a whole level, found 'plant/v+/vib'"),
        ("plant/+/vib", "[a, a]", "topic: a topic is named twice"),
        ("plant/+/vib", "[]", "topic: expected"),
        ("time: ts", "time: ts, password_file: /p", "password_file: expected user as well"),
        ("time: ts", "time: ts, tls: {cert: /c}", "tls: expected cert and key together, or neither"),
        ("time: ts", "time: ts, protocol: 4", "protocol: expected"),
        ("time: ts", "time: ts, receive_maximum: 0", "receive_maximum: expected"),
        ("time: ts", "time: ts, buffer: 1k", "buffer: expected at least 2M, found '1k'"),
        ("time: ts", "time: ts, session: 1s", "session: expected at least 1m, found '1s'"),
        ("time: ts", "time: ts, columns: [a]", "columns: expected only with format: csv"),
        (
            "time: ts",
            "time: ts, format: csv, columns: [v.x, t]",
            "columns: expected one that is called 'ts', found: v.x, t",
        ),
        ("mqtts:", "mqtt:", "url: expected mqtts (mqtt on loopback only), found"),
    ],
)
def test_a_wrong_key_of_a_broker_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = MQTT.replace(old, new)
    if new == "mqtt:":
        text = text.replace("time: ts", "time: ts, user: u, password_file: /p")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert f"sources.m.{message}" in str(caught.value)


def test_an_action_hears_every_state_of_its_severity(tmp_path: Path) -> None:
    (critical,) = load(tmp_path, GOOD).actions
    assert isinstance(critical, LogAction)
    assert (critical.when.severity, critical.when.state) == ("critical", "any")
    assert all(critical.when.takes(alert(1, state, "critical")) for state in ("open", "cleared"))
    assert not critical.when.takes(alert(1, severity="warning"))


def test_check_says_in_one_sentence_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    for text, code, message in [
        (GOOD, 0, "agent.yaml: valid"),
        (GOOD.replace("node:", "nod:"), 3, "nod: unknown key, did you mean 'node'?"),
    ]:
        path.write_text(text)
        command = [sys.executable, "-m", "edgectl_agent", "check", "--config", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (code, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "channels: {vib: v.rms, temp: t}",
            "channels: {1: v.rms}",
            "channels: expected text as a key, found 1 → write it",
        ),
        ("speed: max", "speed: !!timestamp max", "not valid YAML"),
        ("speed: max", "speed: !!bool max", "not valid YAML"),
        ("every: 5s", f"every: {'9' * 400}s", "expected a duration such as 30s"),
        ("memory: 200M", f"memory: {'9' * 400}M", "expected a size such as 500kB"),
        ("from: end", "from: end, dead_letter: {limit: 1k}", "dead_letter.limit: expected at least 64k, found '1k'"),
    ],
)
def test_what_once_gave_a_traceback_is_one_sentence(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        load(tmp_path, GOOD.replace(old, new))
