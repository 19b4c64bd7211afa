"""The systemd unit: what it says for which configuration, and what systemd itself thinks of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from edgectl_agent import yamlfile
from edgectl_agent.config import Config

from edgectl.machine.layout import Layout
from edgectl.machine.unit import STOP_S, WATCHDOG_S, render

TAIL = "{type: tail, path: %s, stream: m, time: ts, channels: {v: v}}"


def config(more: str = "") -> Config:
    return yamlfile.parse(f"{{version: 1, node: n1, data_dir: /var/lib/edgectl-agent{more}}}", Config, "agent.yaml")


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_the_limits_of_the_configuration_are_the_units() -> None:
    unit = lines(render(Layout(), config(", limits: {memory: 200M, cpu: 15%}"), disk="500M"))
    assert "MemoryMax=200000000" in unit
    assert "CPUQuota=15%" in unit
    assert "LimitFSIZE=500000000" in unit


def test_the_agent_may_write_to_its_data_folder_alone() -> None:
    unit = lines(render(Layout(), config()))
    assert "ProtectSystem=strict" in unit
    assert "StateDirectory=edgectl-agent" in unit
    assert not [line for line in unit if line.startswith("ReadWritePaths")]


def test_a_data_folder_elsewhere_is_named_and_so_is_the_folder_of_an_action() -> None:
    action = ', actions: [{type: log, path: "/srv/50% done/a b.jsonl"}]'
    unit = lines(render(Layout(data="/data/agent"), config(action)))
    assert 'ReadWritePaths="-/data/agent"' in unit
    assert 'ReadWritePaths="-/srv/50%% done"' in unit
    assert not [line for line in unit if line.startswith("StateDirectory")]


@pytest.mark.parametrize(
    ("path", "home", "temporary"),
    [
        ("/data/press.jsonl", "yes", "yes"),
        ("/home/plant/press.jsonl", "read-only", "yes"),
        ("/homes/plant/press.jsonl", "yes", "yes"),
        ("/tmp/press.jsonl", "yes", "no"),
    ],
)
def test_homes_and_temporary_files_are_in_sight_only_where_a_source_lies_there(
    path: str, home: str, temporary: str
) -> None:
    unit = lines(render(Layout(), config(f", sources: {{s: {TAIL % path}}}")))
    assert f"ProtectHome={home}" in unit
    assert f"PrivateTmp={temporary}" in unit


def test_restarts_never_end_and_back_off_where_systemd_knows_how() -> None:
    old, new = lines(render(Layout(), config(), systemd=252)), lines(render(Layout(), config(), systemd=257))
    for unit in (old, new):
        assert {"Restart=always", "StartLimitIntervalSec=0"} <= set(unit)
    assert "RestartSec=2s" in old
    assert {"RestartSec=1s", "RestartSteps=6", "RestartMaxDelaySec=60s"} <= set(new)


def test_the_watchdog_waits_longer_than_a_slow_turn_and_the_stop_longer_than_a_snapshot() -> None:
    unit = lines(render(Layout(), config()))
    assert {f"WatchdogSec={WATCHDOG_S}s", f"TimeoutStopSec={STOP_S}s", "Type=notify"} <= set(unit)


# ── what systemd says ───────────────────────────────────────────────────────────────────────────────────────────────


def analyze(*args: str | Path) -> str:
    """Everything that systemd-analyze prints: its status says nothing about misspelt keys."""
    command = ["systemd-analyze", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.fixture
def unit_file(tmp_path: Path) -> Path:
    """The unit of an installation in `tmp_path`: systemd-analyze looks whether the program is there."""
    home = tmp_path / "opt"
    (home / "current/bin").mkdir(parents=True)
    shutil.copy("/bin/true", home / "current/bin/edgectl-agent")
    text = render(Layout(home=str(home)), config(f", sources: {{s: {TAIL % '/data/x'}}}"), disk="500M")
    (tmp_path / "edgectl-agent.service").write_text(text)
    return tmp_path / "edgectl-agent.service"


@pytest.mark.needs("systemd-analyze")
def test_systemd_finds_nothing_to_say_about_the_unit(unit_file: Path) -> None:
    assert analyze("verify", unit_file) == ""
    unit_file.write_text(unit_file.read_text().replace("WatchdogSec", "WatchDogSec"))
    assert "'WatchDogSec'" in analyze("verify", unit_file), "it would have said so"


@pytest.mark.needs("systemd-analyze")
def test_the_units_exposure_is_far_below_three(unit_file: Path) -> None:
    said = analyze("security", "--offline=true", "--no-pager", unit_file)
    exposure = float(re.search(r"Overall exposure level for \S+: (\d+\.\d+)", said)[1])  # type: ignore[index]
    print(f"systemd-analyze security: {exposure}")
    assert exposure <= 1.5
