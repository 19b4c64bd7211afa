"""What is built works without the clone: both wheels in an environment of their own, used from another folder."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import psutil
import pytest

from edgectl.generate import plant
from tests.conftest import ROOT
from tests.support.cli import Shell

START_NS = 20_000 * 86_400 * 10**9


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT / "agent"), str(ROOT))
    return folder


@pytest.fixture(scope="module")
def installed(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheels, and the libraries of the one that runs this test."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    # A folder that a .pth file adds has its own .pth files ignored: the clone's editable install stays out of sight.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip("--python", str(python), "install", "--no-deps", "--no-index", *map(str, sorted(wheels.glob("*.whl"))))
    return folder / "bin"


def pip(*args: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"pip {' '.join(args)}\n{done.stdout}\n{done.stderr}"


def test_the_wheel_carries_recipes_the_example_and_the_agents_wheel(wheels: Path) -> None:
    (wheel,) = wheels.glob("edgectl-*.whl")
    (agents,) = wheels.glob("edgectl_agent-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        inner = archive.read(f"edgectl/_wheels/{agents.name}")
        pins = archive.read("edgectl/_wheels/constraints.txt")

    recipes = {f"edgectl/_models/{path.parent.name}/recipe.yaml" for path in (ROOT / "models").glob("*/recipe.yaml")}
    assert len(recipes) >= 4
    assert recipes | {"edgectl/_models/fleet.yaml.example"} <= names
    assert not {name for name in names if name.split("/")[0] in ("tests", "bench", "agent")}
    assert inner == agents.read_bytes()
    assert pins == (ROOT / "constraints.txt").read_bytes()


def test_what_runs_is_the_installed_code_and_not_the_clone(installed: Path, tmp_path: Path) -> None:
    script = "import edgectl, edgectl_agent; print(edgectl.__file__, edgectl_agent.__file__, sep='\\n')"
    done = subprocess.run(
        [installed / "python", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    for place in done.stdout.split():
        assert Path(place).is_relative_to(installed.parent)


def test_both_commands_are_there(installed: Path, tmp_path: Path) -> None:
    assert Shell(tmp_path, command=(str(installed / "edgectl"),)).ok("--version").startswith("edgectl 0.")
    assert Shell(tmp_path, command=(str(installed / "edgectl-agent"),)).ok("--version").startswith("edgectl-agent 0.")


def test_the_main_job_works_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    shell = Shell(tmp_path, command=(str(installed / "edgectl"),))
    with (tmp_path / "history.jsonl").open("w") as out:
        for row in plant.rows(1, ("m1", "m2"), 0, 1440, START_NS):
            out.write(json.dumps(row) + "\n")
    (tmp_path / "live.jsonl").touch()

    shell.ok("init", "--fleet", "acme")
    shell.ok("train", "plant", "--data", "history.jsonl")
    shell.ok("models", "sign", "plant")
    shell.ok("nodes", "add", "n1", "--source", "plant=tail:live.jsonl", "--model", "plant=plant")
    try:
        shell.ok("deploy", "plant", "--yes")
        api = json.loads((tmp_path / ".edgectl/nodes/n1/data/api.json").read_bytes())
        assert psutil.Process(api["pid"]).cmdline()[0].startswith(str(installed))
        assert "plant" in shell.ok("status")
    finally:
        shell.ok("nodes", "stop", "n1")


def test_help_on_fleet_yaml_prints_the_packaged_example(installed: Path, tmp_path: Path) -> None:
    shell = Shell(tmp_path, command=(str(installed / "edgectl"),))

    assert shell.ok("help", "fleet.yaml").strip() == (ROOT / "fleet.yaml.example").read_text().strip()
