"""A wheelhouse is what a machine of another architecture installs from: real pip, and a package index of our own.

The index serves small wheels for the platforms that the story needs; `test_the_real_index_…` asks the machine's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import re
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgectl.core.errors import ConfigError, RemoteRefused, StorageError
from edgectl.core.machines import MachineFacts, Python
from edgectl.core.wheels import PLATFORMS, Manifest
from edgectl.inventory.reading import parse
from edgectl.inventory.types import Node
from edgectl.machine import packages, requirements, wheelhouse
from edgectl.provisioning.choosing import Choice
from tests.support.cli import Shell

PYTHON = "3.11"
PINS = dict(re.findall(r"^(\S+)==(\S+)$", packages.constraints().decode(), re.M))
ORT, NUMPY, TYPING = PINS["onnxruntime"], PINS["numpy"], PINS["typing_extensions"]


def make_wheel(folder: Path, name: str, version: str, tag: str, requires: tuple[str, ...] = ()) -> Path:
    """A wheel of nothing but metadata."""
    stem = name.replace("-", "_")
    path = folder / f"{stem}-{version}-{tag}.whl"
    needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
    info = f"{stem}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        out.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
        out.writestr(f"{info}/RECORD", "")
    return path


class Index(http.server.BaseHTTPRequestHandler):
    """PEP 503 over a folder; `served` counts the wheels that went over."""

    folder: Path
    served: list[str]
    slow: threading.Event

    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name.endswith(".whl"):
            self.served.append(name)
            raw = (self.folder / name).read_bytes()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(raw[:100])
            if name.startswith("onnxruntime"):
                self.slow.wait(60)
            with contextlib.suppress(ConnectionError):  # whoever was interrupted hung up
                self.wfile.write(raw[100:])
            return
        wheels = [p for p in sorted(self.folder.glob("*.whl")) if p.name.split("-")[0].replace("_", "-") == name]
        links = "".join(f'<a href="/{p.name}#sha256={_sha256(p)}">{p.name}</a>' for p in wheels)
        self.send_response(200 if links else 404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(links.encode())

    def log_message(self, *args: object) -> None:
        del args


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Index]]:
    """An index that has ONNX Runtime and numpy for both platforms, and is what pip asks."""
    folder = tmp_path / "index"
    folder.mkdir()
    for platform in PLATFORMS:
        make_wheel(folder, "onnxruntime", ORT, f"cp311-cp311-manylinux_2_28_{platform}", ("numpy>=2",))
        make_wheel(folder, "numpy", NUMPY, f"cp311-cp311-manylinux_2_17_{platform}")
    make_wheel(folder, "numpy", NUMPY, "cp311-cp311-musllinux_1_2_x86_64")
    make_wheel(folder, "typing-extensions", TYPING, "py3-none-any")
    handler = type("Here", (Index,), {"folder": folder, "served": [], "slow": threading.Event()})
    handler.slow.set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in pip_environment(f"http://127.0.0.1:{server.server_port}/").items():
        monkeypatch.setenv(name, value)
    yield handler
    handler.slow.set()
    server.shutdown()
    server.server_close()


def pip_environment(url: str) -> dict[str, str]:
    return {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": url, "PIP_FIND_LINKS": "", "PIP_NO_CACHE_DIR": "1",
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # fmt: skip


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """A small agent's wheel."""
    return make_wheel(tmp_path, "edgectl-agent", "1.4.0", "py3-none-any", ("onnxruntime>=1", "numpy>=2"))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_it_holds_the_wheels_of_the_platform_asked_for_and_says_what_they_need(
    index: type[Index], agent: Path, tmp_path: Path, platform: str
) -> None:
    found, new = wheelhouse.build(tmp_path / "w", agent, f"numpy=={NUMPY}\n".encode(), platform, PYTHON)  # type: ignore[arg-type]
    assert new
    assert [path.name for path in found.wheels] == [
        "edgectl_agent-1.4.0-py3-none-any.whl",
        f"numpy-{NUMPY}-cp311-cp311-manylinux_2_17_{platform}.whl",
        f"onnxruntime-{ORT}-cp311-cp311-manylinux_2_28_{platform}.whl",
    ]
    manifest = msgspec.json.decode((tmp_path / "w/manifest.json").read_bytes(), type=Manifest)
    assert (manifest.agent, manifest.platform, manifest.python, manifest.glibc) == ("1.4.0", platform, "3.11", "2.28")
    assert [(f.name, f.sha256, f.bytes) for f in manifest.files] == [
        (path.name, _sha256(path), path.stat().st_size) for path in found.wheels
    ]
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == sorted(
        ["manifest.json", *(path.name for path in found.wheels)]
    )


NEEDS = ("onnxruntime>=1", "numpy>=2", "typing-extensions>=4; extra == 'kafka'")
MACHINE = MachineFacts(
    machine="x86_64", bits=64, libc="glibc", glibc=(2, 36),
    pythons=(Python(path="python3", version=(3, 11, 2), venv=True, pip=True),),
    memory_bytes=10**9, available_bytes=10**9, clock_s=0.0, user="edge",
)  # fmt: skip
READS_KAFKA = "{name: a, sources: {s: {type: kafka, brokers: ['b:1'], topics: [t]}}, agent: {packages: %s}}"


def node(text: str) -> Node:
    return parse(f"version: 1\nfleet: a\nnodes: [{text}]").nodes[0]


def test_what_a_source_needs_is_added_on_request(index: type[Index], tmp_path: Path) -> None:
    agent = make_wheel(tmp_path, "edgectl-agent", "1.4.0", "py3-none-any", NEEDS)
    plain, _ = wheelhouse.build(tmp_path / "w", agent, b"", "x86_64", PYTHON)
    full, new = wheelhouse.build(tmp_path / "w", agent, b"", "x86_64", PYTHON, extras=("kafka",))
    more = {path.name for path in full.wheels} - {path.name for path in plain.wheels}
    assert (more, new) == ({f"typing_extensions-{TYPING}-py3-none-any.whl"}, True)
    assert wheelhouse.build(tmp_path / "w", agent, b"", "x86_64", PYTHON, extras=("kafka",)) == (full, False)


def test_a_node_gets_no_wheelhouse_that_lacks_what_its_sources_need(index: type[Index], tmp_path: Path) -> None:
    agent = make_wheel(tmp_path, "edgectl-agent", "1.4.0", "py3-none-any", NEEDS)
    houses = [wheelhouse.build(tmp_path / "w", agent, b"", "x86_64", PYTHON)[0]]
    choice = Choice(agent=agent, wheelhouses=houses)
    assert len(choice(node("{name: a, sources: {s: {type: host-metrics}}}"), MACHINE).wheels) == 2
    with pytest.raises(RemoteRefused) as refused:
        choice(node(READS_KAFKA % "wheelhouse"), MACHINE)
    assert "edgectl wheelhouse build --platform x86_64 --python 3.11 --extra kafka" in str(refused.value)
    houses.append(wheelhouse.build(tmp_path / "full", agent, b"", "x86_64", PYTHON, extras=("kafka",))[0])
    assert len(choice(node(READS_KAFKA % "wheelhouse"), MACHINE).wheels) == 3


def test_an_index_is_asked_for_what_a_nodes_sources_need(agent: Path) -> None:
    choice = Choice(agent=agent, wheelhouses=[])
    plain, kafka = choice(node("{name: a}"), MACHINE), choice(node(READS_KAFKA % "index"), MACHINE)
    assert (plain.extras, kafka.extras) == ((), ("kafka",))
    assert plain.name != kafka.name, "the node's environment is made anew when it gets such a source"


def test_a_second_build_does_nothing_and_a_damaged_one_is_built_again(
    index: type[Index], agent: Path, tmp_path: Path
) -> None:
    found, _ = wheelhouse.build(tmp_path / "w", agent, b"", "x86_64", PYTHON)
    served = len(index.served)
    assert wheelhouse.build(tmp_path / "w", agent, b"", "x86_64", PYTHON) == (found, False)
    assert len(index.served) == served

    found.wheels[1].write_bytes(b"torn")
    assert wheelhouse.damaged(found) == (found.wheels[1].name,)
    again, new = wheelhouse.build(tmp_path / "w", agent, b"", "x86_64", PYTHON)
    assert (again, new) == (found, True)
    assert wheelhouse.damaged(again) == ()
    assert wheelhouse.build(tmp_path / "w", agent, b"numpy<3\n", "x86_64", PYTHON)[1], "other versions were asked for"


def test_what_pip_leaves_out_because_of_this_machines_python_is_fetched_too(index: type[Index], tmp_path: Path) -> None:
    condition = 'typing-extensions>=4; python_version >= "3.12"'  # not so where this test runs with 3.11
    agent = make_wheel(tmp_path, "edgectl-agent", "1.4.0", "py3-none-any", ("numpy>=2", condition))
    for platform in PLATFORMS:
        make_wheel(index.folder, "numpy", NUMPY, f"cp314-cp314-manylinux_2_28_{platform}")
    found, _ = wheelhouse.build(tmp_path / "w", agent, b"", "aarch64", "3.14")
    assert f"typing_extensions-{TYPING}-py3-none-any.whl" in [path.name for path in found.wheels]
    assert requirements.missing(found.wheels, agent, "aarch64", "3.14") == ()
    assert requirements.missing(found.wheels[:1], agent, "aarch64", "3.11") == ("numpy>=2",)


def test_a_killed_download_goes_on_with_what_it_has_whole(index: type[Index], agent: Path, tmp_path: Path) -> None:
    shell = Shell(tmp_path / "work", env=dict(os.environ))
    shell.folder.mkdir()
    shell.ok("init", "--fleet", "acme")
    index.slow.clear()
    args = ("wheelhouse", "build", "--platform", "aarch64", "--wheel", str(agent))
    interrupted = shell.start(*args)
    wait_for = time.monotonic() + 60
    while not any(name.startswith("onnxruntime") for name in index.served):
        assert time.monotonic() < wait_for
        time.sleep(0.02)
    os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
    assert interrupted.wait(60) == 130
    assert "the same command again completes it" in interrupted.communicate()[1]
    assert shell.ok("wheelhouse", "list", "-o", "json") == "[]\n"

    index.slow.set()
    shell.ok(*args)
    (row,) = json.loads(shell.ok("wheelhouse", "list", "-o", "json"))
    assert (row["platform"], row["damaged"], row["wheels"]) == ("aarch64", [], 3)
    assert [p.name for p in (shell.folder / ".edgectl/wheelhouses").iterdir()] == ["1.4.0-aarch64-py3.11"]


# ── bad input ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_built_is_one_sentence(index: type[Index], agent: Path, tmp_path: Path) -> None:
    shell = Shell(tmp_path / "work", env=dict(os.environ))
    shell.folder.mkdir()
    shell.ok("init", "--fleet", "acme")
    build = ("wheelhouse", "build", "--wheel", str(agent))
    shell.fails(2, *build, "--platform", "armv7", says="ONNX Runtime has no wheel for 32-bit ARM")
    shell.fails(2, *build, "--platform", "musl", says="ONNX Runtime has no wheel for musl")
    shell.fails(
        3, *build, "--platform", "x86_64", "--python", "3.14", says=f"no wheel of onnxruntime {ORT} for Python 3.14"
    )
    shell.fails(3, *build, "--platform", "x86_64", "--dir", str(tmp_path), says="is not empty and no wheelhouse")
    shell.fails(3, *build[:2], "--platform", "x86_64", "--wheel", "/etc/passwd", says="/etc/passwd is not a wheel")
    other = make_wheel(tmp_path, "numpy", "9", "py3-none-any")
    shell.fails(3, *build[:2], "--platform", "x86_64", "--wheel", str(other), says="is the wheel of numpy, expected")
    offline = Shell(shell.folder, env=pip_environment("http://127.0.0.1:9/"))
    offline.fails(75, *build, "--platform", "x86_64", says="the package index does not answer")
    assert not (shell.folder / ".edgectl/wheelhouses/1.4.0-x86_64-py3.11").exists()


@pytest.mark.needs("root")
def test_a_full_disk_is_said_and_the_wheelhouse_is_as_it_was(index: type[Index], agent: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(1_000_000))
    with pytest.raises(StorageError, match=r"disk is full|no space left"):
        wheelhouse.build(small_disk / "w", agent, b"x" * 100_000, "x86_64", PYTHON)
    assert not (small_disk / "w").exists()


def test_a_manifest_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match=re.escape(f"delete {tmp_path} and build again")):
        wheelhouse.read(tmp_path)


# ── the real thing ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_agents_wheel_is_built_once_from_the_clone(tmp_path: Path) -> None:
    wheel = packages.agent_wheel(tmp_path)
    stamp = wheel.stat().st_mtime_ns
    assert packages.agent_wheel(tmp_path) == wheel
    assert wheel.stat().st_mtime_ns == stamp
    assert packages.version(wheel) == wheel.name.split("-")[1]
    assert b"onnxruntime==" in packages.constraints()


@pytest.mark.needs("index")
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_real_index_gives_what_an_agent_needs_on_both_platforms(tmp_path: Path, platform: str) -> None:
    wheel = packages.agent_wheel(tmp_path / "cache")
    found, _ = wheelhouse.build(tmp_path / "w", wheel, packages.constraints(), platform, PYTHON)  # type: ignore[arg-type]
    names = {path.name.split("-")[0] for path in found.wheels}
    assert {"edgectl_agent", "onnxruntime", "numpy", "msgspec", "psutil", "tuf", "uvicorn"} <= names
    assert found.manifest.glibc == "2.28", "docs/guides/support-matrix.md says so"
    assert requirements.missing(found.wheels, wheel, platform, PYTHON) == ()  # type: ignore[arg-type]
    compiled = [path.name for path in found.wheels if not path.name.endswith("-any.whl")]
    assert len(compiled) >= 6
    assert all(platform in name for name in compiled)
    print(f"{platform}: {len(found.wheels)} wheels, {found.manifest.bytes / 1e6:.0f} MB")
