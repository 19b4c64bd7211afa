"""A fleet behind real SSH servers of this machine: one sshd, one host key and one real agent per node.

The agents run as on a machine without systemd (below a folder of their own, under the supervising script); the
operator's side is a workspace whose fleet.yaml reaches them by ``via: ssh`` with pinned host keys.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
import yaml
from edgectl_agent.core.bundle import Bundle, Golden, digest, encode
from onnx import TensorProto, helper, numpy_helper

from edgectl.cli import wiring
from edgectl.delivery.parallel import each
from edgectl.fleet.membership import files, run
from edgectl.machine.layout import Layout
from edgectl.machine.supervisor import script
from edgectl.trust.keys import KeyStore
from edgectl.trust.repository import Repository
from edgectl.workspace import Workspace
from tests.scenarios.fleets import RECIPE
from tests.support.bundles import make_bundle, make_release
from tests.support.cli import Shell
from tests.support.sshd import Sshd, make_key

WIDTH = 40_000
"""Columns of the benchmark's model: 2 x 40,000 weights, 320 kB, as a mid-sized autoencoder has."""


class SshFleet:
    """`count` nodes ``n-001`` …; the agents run between `start` and the end.

    Each node has a loopback address of its own, and `per_server` of them share an sshd, its port and its host key.
    """

    def __init__(self, folder: Path, count: int, per_server: int = 1) -> None:
        self.folder = folder
        self.names = tuple(f"n-{i:03d}" for i in range(1, count + 1))
        self.hosts = {name: f"127.0.0.{i}" for i, name in enumerate(self.names, start=1)}
        self.key = make_key(folder / "client")
        self.servers: dict[str, Sshd] = {}
        for first in range(0, count, per_server):
            names = self.names[first : first + per_server]
            more = "\n".join(f"ListenAddress {self.hosts[name]}" for name in names if self.hosts[name] != "127.0.0.1")
            server = Sshd(folder / "sshd" / names[0], key=self.key, more=more)
            self.servers |= dict.fromkeys(names, server)
        self.work = folder / "work"
        self.work.mkdir()
        self.shell = Shell(self.work)

    def base(self, name: str) -> Path:
        """The node's folder."""
        return self.folder / "nodes" / name

    def layout(self, name: str) -> Layout:
        return Layout.within(str(self.base(name)))

    def __enter__(self) -> SshFleet:
        try:
            self._set_up()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        self._end()

    def _set_up(self) -> None:
        for server in set(self.servers.values()):
            server.start()
        self.shell.ok("init", "--fleet", "bench")
        self.repository = Repository(self.work / "repo", KeyStore(self.work / ".edgectl" / "keys"))
        (self.work / "models" / "press").mkdir(parents=True)
        (self.work / "models" / "press" / "recipe.yaml").write_text(RECIPE)
        pins = (f"[{self.hosts[name]}]:{server.port} {server.host_key}\n" for name, server in self.servers.items())
        (self.work / "known_hosts").write_text("".join(pins))
        self._write_fleet()
        for name in self.names:
            self._install(name)

    def _end(self) -> None:
        for name in self.names:
            for group in self._groups(name):
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
        for server in set(self.servers.values()):
            server.stop()

    def start(self) -> None:
        """Place what each node needs and start its agent, as `edgectl nodes start` does, several at a time."""
        workspace = Workspace(self.work)
        fleet = wiring.inventory(workspace)
        reach, columns = wiring.connecting(workspace, fleet), wiring.columns(workspace)
        root = self.repository.root_bytes()
        wanted = {node.name: files(node, workspace, columns, root) for node in fleet.nodes}

        def begin(name: str) -> None:
            connector = reach(fleet.node(name))
            run(connector, wanted[name], restart=False)
            connector.close()

        each(self.names, begin, forks=2 * processors(), stop=threading.Event())

    def release(self, version: str, seed: int) -> bytes:
        """Sign a new release; its bundle's bytes."""
        raw = encode(bundle(seed))
        older = self.repository.releases()
        fallbacks = tuple(ref.sha256 for release in older for ref in release.variants)
        made = make_release("press", version, len(older) + 1, raw, fallbacks=fallbacks)
        self.repository.add_release(made, {digest(raw): raw}, None, datetime.now(UTC))
        return raw

    def agents(self) -> dict[str, int]:
        """Process id of every agent that says that it runs."""
        found = {}
        for name in self.names:
            with suppress(OSError):
                found[name] = int(msgspec.json.decode(Path(self.layout(name).api_json).read_bytes())["pid"])
        return found

    def _groups(self, name: str) -> set[int]:
        found = set()
        with suppress(OSError, ValueError):
            found.add(os.getpgid(int((self.base(name) / "data" / "service.pid").read_text())))
        with suppress(OSError, KeyError):
            found.add(os.getpgid(self.agents()[name]))
        return found - {os.getpgid(0)}

    def _install(self, name: str) -> None:
        """What bootstrap would have left: the environment (here ours, by a link) and the supervising script."""
        base = self.base(name)
        command = base / "agent" / "current" / "bin" / "edgectl-agent"
        command.parent.mkdir(parents=True)
        needs = {name: os.environ[name] for name in ("PYTHONPATH", "PYTHONPYCACHEPREFIX") if name in os.environ}
        given = " ".join(f"{name}={value}" for name, value in needs.items())
        command.write_text(f'#!/bin/sh\n{given} exec {sys.executable} -P -m edgectl_agent "$@"\n')
        command.chmod(0o755)
        (base / "agent" / "supervise.sh").write_text(script(self.layout(name)))
        (base / "s.jsonl").touch()

    def _write_fleet(self) -> None:
        nodes = [
            {
                "name": name,
                "connect": {"host": self.hosts[name], "port": self.servers[name].port},
                "agent": {"folder": str(self.base(name))},
                "sources": {"s": {"type": "tail", "path": str(self.base(name) / "s.jsonl")}},
                "models": {"press": ["s"]},
            }
            for name in self.names
        ]
        user = next(iter(self.servers.values())).user
        connect = {"via": "ssh", "user": user, "key": str(self.key)}
        document = {"version": 1, "fleet": "bench", "defaults": {"connect": connect}, "nodes": nodes}
        (self.work / "fleet.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def bundle(seed: int) -> Bundle:
    """The tests' small bundle with a model of 320 kB: one layer of random weights and its mean square."""
    small = make_bundle(seed)
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 1, (2, WIDTH)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["hidden"]),
        helper.make_node("Mul", ["hidden", "hidden"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["score"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rows = np.frombuffer(small.golden.inputs, np.float32).reshape(-1, 2)
    scores = ((rows @ weights) ** 2).mean(axis=1, dtype=np.float32)
    golden = Golden(rows=len(rows), inputs=small.golden.inputs, scores=scores.tobytes(), tolerance=1e-3)
    return msgspec.structs.replace(small, model=model.SerializeToString(deterministic=True), golden=golden)


def compiled(folder: Path) -> None:
    """From here on our Python code is compiled once, as after a pip install, and not in the source tree."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")


def processors() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def quiet(command: list[str], **more: object) -> subprocess.CompletedProcess[str]:
    """Run a command, its output kept for the case that it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} → {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done  # type: ignore[no-any-return]
