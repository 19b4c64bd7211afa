"""The control API over mutual TLS: a real agent, real certificates, and whoever has none that counts."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import stat
import subprocess
import sys
import threading
import warnings
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from cryptography import x509

from edgectl.connectors.client import NodeClient
from edgectl.connectors.http import HttpConnector, mutual, plain
from edgectl.core.errors import NodeUnreachable, NodeUntrusted, RemoteRefused, StorageError
from edgectl.trust import certificates
from tests.support.agents import AgentProcess
from tests.support.tls import Fleet, free_port, hang_up, kept, sign_request

NOW = datetime.now(UTC)


@dataclass
class Node:
    """A running agent of the fleet ``acme`` with a listener for operators."""

    agent: AgentProcess
    acme: Fleet
    files: dict[str, Path]
    url: str

    @property
    def spool(self) -> Path:
        return self.agent.data_dir / "spool"

    def connector(self, fleet: Fleet | None = None) -> HttpConnector:
        return HttpConnector("n1", self.url, (fleet or self.acme).wire)

    def hears(self, context: ssl.SSLContext) -> int:
        """The status of a call with `context`; raises what the library raises if there is no answer."""
        with httpx.Client(verify=context, trust_env=False) as client:
            return client.get(f"{self.url}/v1/status").status_code

    def put(self, name: str, body: bytes, digest: bytes | None = None) -> httpx.Response:
        said = b64encode(digest or hashlib.sha256(body).digest()).decode()
        with httpx.Client(verify=self.acme.client(), trust_env=False) as client:
            headers = {"Repr-Digest": f"sha-256=:{said}:"}
            return client.put(f"{self.url}/v1/spool/{name}", content=body, headers=headers)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("api")
    acme = Fleet(folder / "acme", "acme")
    files = acme.node_files("n1", "127.0.0.1")
    tls = {key: str(path) for key, path in files.items()}
    agent = AgentProcess(folder / "n1", sources={}, models={}, api={"listen": "127.0.0.1:0", "tls": tls})
    with agent:
        yield Node(agent, acme, files, agent.contact()["remote"])
        assert "Traceback" not in agent.log()
        hang_up()


# ── who may come in ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_operator_with_a_certificate_needs_no_token(node: Node) -> None:
    client = NodeClient("n1", node.connector())
    assert client.status().node == "n1"
    assert client.alerts(wait_s=0.1).records == ()
    with pytest.raises(RemoteRefused, match="n1: POST /v1/status: Method Not Allowed"):
        node.connector().request("POST", "/v1/status")


def _self_signed(node: Node, folder: Path) -> ssl.SSLContext:
    key = certificates.new_key()
    made = certificates.root("operators", "acme", key, NOW)
    return node.acme.client(*_saved(folder, made, key))


def _saved(folder: Path, made: x509.Certificate, key: certificates.PrivateKey) -> tuple[Path, Path]:
    (folder / "made.crt").write_bytes(certificates.pem(made))
    (folder / "made.key").write_bytes(certificates.key_pem(key))
    return folder / "made.crt", folder / "made.key"


def _bare(node: Node, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=node.acme.authority.trusted("nodes").decode())
    return context


def _of_another_fleet(node: Node, folder: Path) -> ssl.SSLContext:
    return Fleet(folder / "other", "acme").client(trust=node.acme.authority.trusted("nodes"))


def _of_a_node(node: Node, folder: Path) -> ssl.SSLContext:
    return node.acme.client(node.files["cert"], node.files["key"])


def _expired(node: Node, folder: Path) -> ssl.SSLContext:
    fleet = node.acme.authority
    key, long_ago = certificates.new_key(), NOW - timedelta(days=400)
    authority = fleet.issuer("operators", None)
    made = certificates.issue("operators", authority, key.public_key(), ["mona"], long_ago)
    return node.acme.client(*_saved(folder, made, key))


@pytest.mark.parametrize("thief", [_bare, _self_signed, _of_another_fleet, _of_a_node, _expired])
def test_without_an_operators_certificate_of_this_fleet_nobody_is_heard(
    node: Node, tmp_path: Path, thief: object
) -> None:
    context: ssl.SSLContext = thief(node, tmp_path)  # type: ignore[operator]
    with pytest.raises(httpx.TransportError):
        node.hears(context)
    assert node.hears(node.acme.client()) == 200, "and the agent goes on"


def test_plain_http_and_old_tls_get_no_answer(node: Node) -> None:
    port = int(node.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 30) as raw:
        raw.sendall(b"GET /v1/live HTTP/1.1\r\nHost: n1\r\n\r\n")
        with suppress(ConnectionResetError):
            assert b"HTTP/1.1" not in raw.recv(100)
    old = node.acme.client()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is old is the point
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        node.hears(old)


def test_the_plain_listener_on_loopback_wants_the_token_whatever_a_header_says(node: Node) -> None:
    url, token = (node.agent.contact()[key] for key in ("url", "token"))
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "10.0.0.1"}
    assert httpx.get(f"{url}/v1/status", headers=said, trust_env=False).status_code == 401
    wire = kept(plain())
    assert NodeClient("n1", HttpConnector("n1", url, lambda: wire, token=lambda: token)).status().node == "n1"
    with pytest.raises(RemoteRefused, match=r"n1: the token is missing, wrong or of an earlier start") as caught:
        HttpConnector("n1", url, lambda: wire, token=lambda: "old").request("GET", "/v1/status")
    assert caught.value.exit_code == 40


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"api": {"listen": "0.0.0.0:8710"}}, "api.listen: 0.0.0.0:8710 is not loopback: expected api.tls"),
        ({"api": {"listen": "[::]:8710"}}, "api.listen: [::]:8710 is not loopback: expected api.tls"),
        ({"api": {"listen": "n1.example:8710"}}, "is not loopback"),
        ({"ingest": {"listen": "0.0.0.0:8711"}}, "ingest.listen: 0.0.0.0:8711 is not loopback: expected ingest.tls"),
        ({"api": {"listen": "127.0.0.1:99999"}}, "api.listen: expected a port of at most 65535"),
        ({"api": {"tls": {"cert": "/no/c", "key": "/no/k", "client_ca": "/no/a"}}}, "api.tls: /no/c: no such file"),
        ({"api": {"tls": {"cert": "/no/c", "key": "/no/k"}}}, "api.tls.client_ca: required key is missing"),
    ],
)
def test_an_open_door_without_certificates_is_refused_by_check(
    tmp_path: Path, said: dict[str, object], sentence: str
) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(yaml.safe_dump({"version": 1, "node": "n1", "data_dir": str(tmp_path / "data")} | said))
    done = _agent("check", config)
    assert (done.returncode, sentence in done.stderr, done.stderr.count("\n")) == (3, True, 1), done.stderr


# ── what an operator is told ────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def showing(cert: Path, key: Path) -> Iterator[str]:
    """A server with a certificate, on loopback; its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                raw, _ = server.accept()
                with raw:
                    raw.settimeout(60)
                    with suppress(OSError):
                        context.wrap_socket(raw, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            socket.create_connection(server.getsockname(), 60).close()
            thread.join()


def _refused(fleet: Fleet, url: str) -> NodeUntrusted:
    with pytest.raises(NodeUntrusted) as caught:
        HttpConnector("n1", url, fleet.wire).request("GET", "/v1/status", timeout_s=30)
    return caught.value


def test_a_server_that_is_not_the_node_is_told_apart(node: Node, tmp_path: Path) -> None:
    acme, other = node.acme, Fleet(tmp_path / "other", "rival")
    cases = [
        (other.node_files("n1", "127.0.0.1"), "was not issued by this fleet, but by 'rival'", 40),
        (acme.node_files("n2", "10.0.0.2"), "is for n2, 10.0.0.2 → look at connect.url", 40),
        (acme.node_files("n3", "127.0.0.1", now=NOW - timedelta(days=400)), "has expired", 41),
    ]
    for files, sentence, exit_code in cases:
        with showing(files["cert"], files["key"]) as url:
            error = _refused(acme, url)
        assert sentence in str(error)
        assert str(error).startswith("node n1: the certificate of 127.0.0.1:")
        assert error.exit_code == exit_code


def test_a_node_that_does_not_accept_the_operator_is_named_as_the_one_who_refuses(node: Node, tmp_path: Path) -> None:
    other = Fleet(tmp_path / "other", "rival")
    pair = other.authority.operator_certificate, other.authority.operator_key
    wire = kept(mutual(node.acme.authority.trusted("nodes"), *pair))
    with pytest.raises(NodeUntrusted, match=r"does not accept this certificate: it takes operators of its own fleet"):
        HttpConnector("n1", node.url, lambda: wire).request("GET", "/v1/status")


def test_what_speaks_no_tls_and_what_does_not_listen_are_named(node: Node) -> None:
    port = node.agent.contact()["url"].rpartition(":")[2]
    assert "does not speak TLS → look at connect.url" in str(_refused(node.acme, f"https://127.0.0.1:{port}"))
    silent = free_port()
    with pytest.raises(NodeUnreachable, match=rf"^node n1: nothing listens at 127\.0\.0\.1:{silent} → ") as caught:
        HttpConnector("n1", f"https://127.0.0.1:{silent}", node.acme.wire).request("GET", "/v1/status")
    assert caught.value.exit_code == 31


def test_a_host_that_does_not_answer_is_given_up_in_time(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"https://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(NodeUnreachable, match=r"answers?.* within 0\.3 s"):
            HttpConnector("n1", url, node.acme.wire).request("GET", "/v1/status", timeout_s=0.3)


def test_connections_are_kept_and_used_again(node: Node) -> None:
    connector = node.connector()
    for _ in range(5):
        connector.request("GET", "/v1/live")
    pool = node.acme.wire().http._transport._pool  # type: ignore[attr-defined]
    assert len(pool.connections) == 1


# ── certificates on the node ────────────────────────────────────────────────────────────────────────────────────────


def test_a_renewed_certificate_is_shown_without_a_restart(node: Node) -> None:
    before = _serial(node)
    made, key = sign_request(node.acme.authority, "n1", NOW, "127.0.0.1")
    node.files["cert"].write_bytes(made)  # for a moment certificate and key do not fit
    assert _serial(node) == before
    node.files["key"].write_bytes(key)
    assert _serial(node) == x509.load_pem_x509_certificate(made).serial_number != before
    assert node.hears(node.acme.client()) == 200


def _serial(node: Node) -> int:
    port = int(node.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), 60) as raw,
        node.acme.client().wrap_socket(raw, server_hostname="n1") as side,
    ):
        der = side.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


def test_the_nodes_key_is_made_on_the_node_once_and_only_a_request_leaves_it(node: Node, tmp_path: Path) -> None:
    config, tls = tmp_path / "agent.yaml", {"cert": "c", "client_ca": "a", "key": str(tmp_path / "tls" / "node.key")}
    said = {"version": 1, "node": "n9", "data_dir": str(tmp_path / "data"), "api": {"listen": "0.0.0.0:1", "tls": tls}}
    config.write_text(yaml.safe_dump(said))
    first, second = _agent("csr", config), _agent("csr", config)
    assert first.returncode == second.returncode == 0
    key = tmp_path / "tls" / "node.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o640
    made = node.acme.authority.certify("n9", ["127.0.0.1"], second.stdout.encode(), NOW)
    (tmp_path / "c").write_bytes(made)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "c", key)
    config.write_text(yaml.safe_dump(said | {"api": {}}))
    assert "no certificate is needed" in _agent("csr", config).stderr


def _agent(verb: str, config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgectl_agent", verb, "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# ── the spool ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_upload_arrives_whole_under_its_name(node: Node, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 20_000)
    node.connector().upload({"metadata/1.root.json": b"{}", "targets/bundles/a%2Fb x.bundle": big})
    assert (node.spool / "metadata" / "1.root.json").read_bytes() == b"{}"
    assert (node.spool / "targets" / "bundles" / "a%2Fb x.bundle").read_bytes() == big.read_bytes()
    assert not list(node.spool.rglob(".put-*"))


@pytest.mark.parametrize("name", ["%2e%2e/x", "a/%2e%2e/%2e%2e/x", "a//b", "a/%2e", ".put-x", "%00", "a" * 300, ""])
def test_a_name_outside_the_spool_is_refused(node: Node, name: str) -> None:
    assert node.put(name, b"x").status_code in (400, 404, 405)
    assert not (node.agent.data_dir / "x").exists()


def test_a_link_in_the_spool_does_not_lead_out_of_it(node: Node, tmp_path: Path) -> None:
    node.spool.mkdir(exist_ok=True)
    (node.spool / "link").symlink_to(tmp_path)
    answer = node.put("link/x", b"x")
    assert answer.status_code == 400
    assert "link/x cannot be put into the spool: link is a link, expected a folder" in answer.text
    assert list(tmp_path.iterdir()) == []
    (node.spool / "link").unlink()


def test_other_bytes_than_announced_or_too_many_leave_the_old_file(node: Node) -> None:
    assert node.put("metadata/timestamp.json", b"old").status_code == 204
    assert node.put("metadata/timestamp.json", b"new", digest=b"0" * 32).status_code == 422
    with httpx.Client(verify=node.acme.client(), trust_env=False) as client:
        url = f"{node.url}/v1/spool/metadata/timestamp.json"
        assert client.put(url, content=b"new").status_code == 400, "there is no digest"
    with _putting(node, "metadata/timestamp.json", 10**9, b"0" * 32) as side:
        assert side.recv(100).startswith(b"HTTP/1.1 413")
    assert (node.spool / "metadata" / "timestamp.json").read_bytes() == b"old"
    assert not list(node.spool.rglob(".put-*"))


@pytest.mark.parametrize("sent", [0, 1, 65_536, 199_999])
def test_an_upload_that_is_cut_at_any_byte_leaves_the_old_file_and_no_litter(node: Node, sent: int) -> None:
    assert node.put("metadata/cut.json", b"old").status_code == 204
    body = b"n" * 200_000
    with _putting(node, "metadata/cut.json", len(body), hashlib.sha256(body).digest()) as side:
        side.sendall(body[:sent])
        node.agent.wait(lambda: bool(list(node.spool.rglob(".put-*"))))
    node.agent.wait(lambda: not list(node.spool.rglob(".put-*")))
    assert (node.spool / "metadata" / "cut.json").read_bytes() == b"old"
    node.connector().upload({"metadata/cut.json": body})
    assert (node.spool / "metadata" / "cut.json").read_bytes() == body


@contextmanager
def _putting(node: Node, name: str, length: int, digest: bytes) -> Iterator[ssl.SSLSocket]:
    """A connection that has announced an upload and sent none of it."""
    head = f"PUT /v1/spool/{name} HTTP/1.1\r\nHost: n1\r\nContent-Length: {length}\r\n"
    with (
        socket.create_connection(("127.0.0.1", int(node.url.rpartition(":")[2])), 60) as raw,
        node.acme.client().wrap_socket(raw, server_hostname="n1") as side,
    ):
        side.sendall(f"{head}Repr-Digest: sha-256=:{b64encode(digest).decode()}:\r\n\r\n".encode())
        yield side


def test_a_local_file_that_is_missing_is_a_storage_error(node: Node, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"node n1: cannot put metadata/x into its spool: No such file"):
        node.connector().upload({"metadata/x": tmp_path / "missing"})


def test_a_full_disk_is_the_nodes_storage_error(small_disk: Path, tmp_path: Path) -> None:
    acme = Fleet(tmp_path / "acme", "acme")
    tls = {key: str(path) for key, path in acme.node_files("n1", "127.0.0.1").items()}
    agent = AgentProcess(tmp_path / "n1", sources={}, models={}, api={"listen": "127.0.0.1:0", "tls": tls})
    (agent.data_dir).mkdir()
    (agent.data_dir / "spool").symlink_to(small_disk)
    with agent:
        connector = HttpConnector("n1", agent.contact()["remote"], acme.wire)
        with pytest.raises(StorageError, match="n1: targets/x cannot be put into the spool: No space left"):
            connector.upload({"targets/x": b"x" * 2_000_000})
        assert json.loads(connector.request("GET", "/v1/live")) == {"live": True}
    assert not list(small_disk.rglob("*.*"))
