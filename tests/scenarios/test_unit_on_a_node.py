"""The real agent under a real systemd, with the unit that we render: it scores, is confined, and comes back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import yaml
from edgectl_agent import yamlfile
from edgectl_agent.config import Config

from edgectl.machine.layout import Layout
from edgectl.machine.unit import render
from tests.conftest import ROOT
from tests.support.agents import write_plant
from tests.support.bundles import make_bundle
from tests.support.lab import Lab, Node
from tests.support.operators import NODE, Operator

pytestmark = pytest.mark.needs("lab", "system-python")

LAYOUT = Layout()
AGENT_YAML = {
    "version": 1,
    "node": NODE,
    "data_dir": LAYOUT.data,
    "sources": {
        "s": {"type": "tail", "path": "/srv/plant.jsonl", "stream": "machine", "time": "ts",
              "channels": {"value": "value"}},
        "h": {"type": "host-metrics", "every": "100ms"},
    },
    "models": {"press": ["s"], "host": ["h"]},
    "limits": {"memory": "200M", "cpu": "100%"},
    "log": {"to": "journald"},
}  # fmt: skip
INSTALL = f"""
mkdir -p /srv/clone /srv/libraries
useradd --system --user-group --home-dir {LAYOUT.data} --shell /usr/sbin/nologin {LAYOUT.user}
mkdir -p {LAYOUT.config} {LAYOUT.home}/venvs
/usr/bin/python3 -m venv --without-pip {LAYOUT.home}/venvs/test
ln -s venvs/test {LAYOUT.current}
printf '%s\\n' /srv/clone /srv/libraries > {LAYOUT.current}/lib/python3.11/site-packages/clone.pth
printf '#!/bin/sh\\nexec {LAYOUT.current}/bin/python -P -m edgectl_agent "$@"\\n' > {LAYOUT.current}/bin/edgectl-agent
chmod 755 {LAYOUT.current}/bin/edgectl-agent
"""
"""As bootstrap leaves a node, but with this clone's code and libraries, wherever they lie."""
CALL = """
import json, sys, urllib.request
there = json.load(open("/var/lib/edgectl-agent/api.json"))
method, path = sys.argv[1:]
asked = urllib.request.Request(there["url"] + path, method=method, data=b"{}" if method == "POST" else None)
asked.add_header("Authorization", "Bearer " + there["token"])
print(urllib.request.urlopen(asked, timeout=60).read().decode())
"""


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    mona = Operator(tmp_path_factory.mktemp("mona"))
    mona.now = datetime.now(UTC).replace(microsecond=0)
    mona.release("1.0.0", seed=1)
    mona.release("2.0.0", recipe="host", bundle=make_bundle(1, "host", channel="memory", interval_s=0.1))
    press, host = mona.assignment("1.0.0"), mona.assignment("2.0.0", recipe="host")
    both = msgspec.structs.replace(press, models={**press.models, **host.models})
    mona.repository.assign(both, mona.now, mona.repository.versions().timestamp)
    return mona


@pytest.fixture(scope="module")
def node(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("lab")
    text = yaml.safe_dump(AGENT_YAML)
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    with Lab(folder) as lab:
        node = lab.node("press-01", also=INSTALL)
        lab.boot()
        node.show(ROOT / "agent", "/srv/clone")
        node.show(Path(libraries).resolve(), "/srv/libraries")
        unit = render(LAYOUT, yamlfile.parse(text, Config, "agent.yaml"), disk="500M", systemd=252)
        (node.root / LAYOUT.agent_yaml[1:]).write_text(text)
        (node.root / LAYOUT.unit[1:]).write_text(unit)
        data = node.root / LAYOUT.data[1:]
        (data / "trust").mkdir(parents=True)
        (data / "trust/root.json").write_bytes(operator.repository.root_bytes())
        push(operator, data)
        node.run(f"chown -R {LAYOUT.user}: {LAYOUT.data} && chmod 750 {LAYOUT.data}")
        write_plant(node.root / "srv/plant.jsonl", 3, 300, 3, start_s=int(time.time()) - 600)
        node.run("systemctl daemon-reload && systemctl start edgectl-agent")
        yield node


def push(operator: Operator, data: Path) -> None:
    for name, content in operator.repository.slice_for(NODE, frozenset()).items():
        path = data / "spool" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else shutil.copyfile(content, path)


def call(node: Node, method: str, path: str) -> Any:
    return json.loads(node.run(f"/usr/bin/python3 -c '{CALL}' {method} {path}"))


def status(node: Node) -> Any:
    return call(node, "GET", "/v1/status")


def scores(node: Node) -> dict[str, int]:
    return {model["recipe"]: model["counters"].get("ok", 0) for model in status(node)["models"]}


def wait(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, f"not within 60 s: {what}"
        time.sleep(0.1)


def shown(node: Node, key: str) -> str:
    return node.run(f"systemctl show -P {key} edgectl-agent").strip()


def test_start_returns_when_the_agent_is_ready_and_says_how_it_is(node: Node) -> None:
    assert shown(node, "ActiveState") == "active"
    assert shown(node, "StatusText") == "warming: host: no model yet"
    assert call(node, "GET", "/v1/live") == {"live": True}


def test_the_node_finds_nothing_to_say_about_the_unit(node: Node) -> None:
    done = node.console(f"systemd-analyze verify {LAYOUT.unit}")
    assert done.stdout + done.stderr == ""


def test_it_verifies_and_admits_a_model_and_scores_with_everything_sealed(node: Node) -> None:
    assert call(node, "POST", "/v1/update")["state"] == "confirmed"
    wait(lambda: scores(node)["press"] > 0, "readings are scored")
    report = json.loads(node.run(f"{LAYOUT.current}/bin/edgectl-agent probe --config {LAYOUT.agent_yaml}"))
    assert {model["recipe"] for model in report["models"]} == {"host", "press"}
    assert {source["name"]: source["state"] for source in report["sources"]} == {"h": "running", "s": "running"}
    print(f"agent in its cgroup: {int(shown(node, 'MemoryCurrent')) / 1e6:.0f} MB, rss {report['rss_bytes'] / 1e6:.0f}")


def test_host_metrics_see_the_whole_machine(node: Node) -> None:
    used = psutil.virtual_memory().percent
    wait(lambda: next(s for s in status(node)["sources"] if s["name"] == "h")["accepted"] > 3, "it measures")
    inside = f"nsenter -t {shown(node, 'MainPID')} -m -r -w setpriv --reuid {LAYOUT.user} --clear-groups"
    script = "import psutil; print(psutil.virtual_memory().percent, psutil.cpu_count(), len(psutil.net_io_counters()))"
    seen = node.run(f"{inside} {LAYOUT.current}/bin/python -c '{script}'").split()
    assert abs(float(seen[0]) - used) < 20
    assert int(seen[1]) == psutil.cpu_count()


@pytest.mark.parametrize("path", ["/etc/edgectl-agent/x", "/opt/edgectl-agent/x", "/srv/x", "/var/lib/x", "/x"])
def test_it_can_write_nowhere_but_into_its_data_folder(node: Node, path: str) -> None:
    enter = f"nsenter -t {shown(node, 'MainPID')} -m -r -w"
    refused = node.console(f"{enter} touch {path}")
    assert "Read-only file system" in refused.stderr
    node.run(f"{enter} touch {LAYOUT.data}/x && rm {LAYOUT.data}/x")
    assert node.run(f"{enter} ls /home /root") == "/home:\n\n/root:\n"


def test_the_operators_group_may_read_what_it_needs_and_others_nothing(node: Node) -> None:
    assert node.run(f"stat -c '%a %U %G' {LAYOUT.data} {LAYOUT.api_json}").split("\n")[:2] == [
        f"750 {LAYOUT.user} {LAYOUT.user}",
        f"640 {LAYOUT.user} {LAYOUT.user}",
    ]
    assert node.console(f"cat {LAYOUT.api_json}", user="edge").returncode != 0
    node.run(f"usermod -aG {LAYOUT.user} edge")
    assert "token" in node.run(f"cat {LAYOUT.api_json}", user="edge")


def test_the_journal_has_the_agents_events_with_their_priority(node: Node) -> None:
    lines = node.run("journalctl -u edgectl-agent -o json --no-pager").splitlines()
    entries = [json.loads(line) for line in lines]
    started = next(e for e in entries if '"event":"started"' in str(e["MESSAGE"]))
    assert started["PRIORITY"] == "6"
    assert started["SYSLOG_IDENTIFIER"] == "edgectl-agent"
    assert json.loads(started["MESSAGE"])["node"] == NODE


def test_a_killed_agent_is_back_with_its_model(node: Node) -> None:
    before = shown(node, "MainPID")
    node.run("systemctl kill -s KILL --kill-whom=main edgectl-agent")
    wait(lambda: shown(node, "MainPID") not in ("0", before) and shown(node, "ActiveState") == "active", "it is back")
    assert shown(node, "NRestarts") == "1"
    wait(lambda: scores(node)["press"] > 0, "it has its state again")


def test_an_agent_that_hangs_is_restarted(node: Node) -> None:
    drop_in = node.root / "run/systemd/system/edgectl-agent.service.d/soon.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nWatchdogSec=2s\nTimeoutAbortSec=1s\n")
    node.run("systemctl daemon-reload && systemctl restart edgectl-agent")
    before, restarts = shown(node, "MainPID"), int(shown(node, "NRestarts"))
    node.run("systemctl kill -s STOP --kill-whom=main edgectl-agent")
    wait(lambda: shown(node, "MainPID") not in ("0", before) and shown(node, "ActiveState") == "active", "it is back")
    assert int(shown(node, "NRestarts")) == restarts + 1
    drop_in.unlink()


def test_stopping_takes_a_moment_and_leaves_no_process(node: Node) -> None:
    began = time.monotonic()
    node.run("systemctl daemon-reload && systemctl stop edgectl-agent")
    print(f"stopped within {time.monotonic() - began:.1f} s")
    assert shown(node, "ActiveState") == "inactive"
    assert shown(node, "Result") == "success", "it ended by itself and was not killed"
    assert not (node.root / LAYOUT.api_json[1:]).exists()
    groups = subprocess.run(["pgrep", "-u", LAYOUT.user, "-f", NODE], capture_output=True, check=False)
    assert groups.stdout == b""
