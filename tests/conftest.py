"""What tests may need of the machine: skipped with a reason where it is missing, never passed silently."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import kafka, lab, mosquitto, postgresql, prometheus, sshd

ROOT = Path(__file__).parents[1]


def shared_data() -> Path:
    """Real labelled data beside the project (or at EDGECTL_SHARED); it is never committed."""
    return Path(os.environ.get("EDGECTL_SHARED", ROOT.parent / "shared")) / "data"


def _system_python() -> bool:
    """Whether every user of a node can run these tests' libraries, from outside of root's home."""
    script = "import sys, venv; print(*sys.version_info[:2])"
    done = subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True, text=True, check=False)
    return done.stdout.split() == [str(part) for part in sys.version_info[:2]]


def _index_answers() -> bool:
    """Whether pip finds wheels as an operator's pip would; the smallest package is asked for."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--retries", "0", "h11", "-d"]
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run([*command, folder], capture_output=True, timeout=120, check=False).returncode == 0


MISSING: dict[str, Callable[[], str | None]] = {
    "aeon": lambda: None if importlib.util.find_spec("aeon") else "needs aeon (pip install --no-deps aeon)",
    "a Kafka broker": functools.cache(kafka.missing),
    "busybox": lambda: None if shutil.which("busybox") else "needs busybox",
    "dash": lambda: None if shutil.which("dash") else "needs dash",
    "index": functools.cache(lambda: None if _index_answers() else "needs a package index that pip reaches"),
    "lab": lab.missing,
    "logger": lambda: None if shutil.which("logger") else "needs logger of bsdutils",
    "logrotate": lambda: None if shutil.which("logrotate", path="/usr/sbin:/usr/bin:/sbin") else "needs logrotate",
    "mosquitto": mosquitto.missing,
    "postgresql": postgresql.missing,
    "prometheus": prometheus.missing,
    "root": lambda: None if os.geteuid() == 0 else "needs root (mounts a small tmpfs)",
    "sshd": sshd.missing,
    "system-python": lambda: None if _system_python() else "needs /usr/bin/python3 of the version that runs the tests",
    "systemd-analyze": lambda: None if shutil.which("systemd-analyze") else "needs systemd-analyze",
    "rsyslogd": lambda: None if shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/sbin") else "needs rsyslogd",
    "shared": lambda: None if shared_data().is_dir() else "needs the labelled data in ../shared/data",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: at the end no worker shall have one of them left while the others have nothing to do."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    needs = {component for marker in item.iter_markers("needs") for component in marker.args}
    return 0 if "lab" in needs else 1 if "scenarios" in item.path.parts else 2


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for component in marker.args:
            reason = MISSING[component]()
            if reason:
                pytest.skip(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the labelled data; the test that asks for it is skipped where there is none."""
    if not shared_data().is_dir():
        pytest.skip(str(MISSING["shared"]()))
    return shared_data()


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    """A real sshd on the loopback; the test that asks for it is skipped where there is none."""
    if reason := sshd.missing():
        pytest.skip(reason)
    with sshd.Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)
