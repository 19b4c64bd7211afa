"""A real machine, installed over SSH and commanded over mutual TLS: a key that never leaves it, and renewal."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from edgectl.trust.authority import Authority
from tests.scenarios.fleets import until
from tests.support.lab import Lab
from tests.support.machines import LOGS, MachineFleet, left, wheelhouse

pytestmark = pytest.mark.needs("lab", "system-python")

TLS = "/etc/edgectl-agent/tls"


def test_a_machine_is_certified_when_it_is_installed_renewed_when_it_is_due_and_left_without_a_trace(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wheels = wheelhouse(tmp_path_factory)
    with Lab(tmp_path / "lab") as lab:
        machine = lab.node("press")
        lab.boot()
        before = machine.snapshot(LOGS)
        fleet = MachineFleet(tmp_path / "fleet", lab)
        connect = {"via": "http", "host": machine.address, "user": "edge", "key": str(lab.key)}
        fleet.write("press", connect=connect)

        (row,) = fleet.json("nodes", "bootstrap", "press", "--wheelhouse", str(wheels))
        assert "make a key there and certify it" in row["steps"]
        assert machine.run(f"stat -c '%a %U %G' {TLS}/node.key").strip() == "640 root edgectl-agent"
        assert b"PRIVATE" not in b"".join(p.read_bytes() for p in fleet.folder.rglob("node.*"))
        fleet.shell.ok("collect")
        (listed,) = json.loads(fleet.shell.ok("nodes", "list", "-o", "json"))
        assert listed["state"] == "healthy"

        serial = _shown(machine.address)
        keys = fleet.folder / ".edgectl"
        authority = Authority(keys / "keys", keys / "certificates", "acme")
        soon = datetime.now(UTC) - timedelta(days=300)  # as if it had been issued then
        request = machine.run("/opt/edgectl-agent/current/bin/edgectl-agent csr --config /etc/edgectl-agent/agent.yaml")
        authority.certify("press", [machine.address], request.encode(), soon)
        assert "certificate-expiring" in fleet.shell.run("audit", "--offline").stdout
        fleet.shell.ok("nodes", "configure", "press", "--yes", timeout_s=600)
        assert _shown(machine.address) != serial
        until(lambda: fleet.shell.run("collect").returncode == 0)

        fleet.shell.ok("nodes", "remove", "press", "--yes", timeout_s=600)
        assert left(before, machine) == []
        assert authority.issued("press") is None


def _shown(address: str) -> int:
    """The serial number of the certificate that the node shows."""
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((address, 8710)).encode()).serial_number
