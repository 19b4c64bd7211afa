"""The fleet's own certificates, judged by the TLS library that the agent and the operator's tools use."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edgectl.core.errors import TrustError
from edgectl.trust import certificates
from edgectl.trust.authority import Authority
from tests.support.tls import Fleet, handshake, sign_request

NOW = datetime.now(UTC)


@pytest.fixture
def acme(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "acme", "acme")


def test_a_node_and_an_operator_of_one_fleet_accept_each_other(acme: Fleet) -> None:
    assert handshake(acme.server("press-01", "127.0.0.1"), acme.client(), "press-01") == ("", "")
    assert handshake(acme.server("press-01", "127.0.0.1"), acme.client(), "127.0.0.1") == ("", "")


def test_a_node_cannot_command_another_node(acme: Fleet) -> None:
    acme.server("press-01")
    thief = acme.client(certificate=acme.folder / "press-01.crt", key=acme.folder / "press-01.key")
    server, client = handshake(acme.server("press-02"), thief, "press-02")
    assert "CERTIFICATE_VERIFY_FAILED" in server
    assert client


def test_an_operators_certificate_does_not_pass_for_a_node(acme: Fleet) -> None:
    posing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    posing.load_cert_chain(acme.authority.operator_certificate, acme.authority.operator_key)
    assert "CERTIFICATE_VERIFY_FAILED" in handshake(posing, acme.client(), "press-01")[1]


def test_another_fleet_is_a_stranger_on_both_sides(acme: Fleet, tmp_path: Path) -> None:
    other = Fleet(tmp_path / "other", "other")
    assert "CERTIFICATE_VERIFY_FAILED" in handshake(other.server("press-01"), acme.client(), "press-01")[1]
    mixed = other.client(trust=acme.authority.trusted("nodes"))
    assert "CERTIFICATE_VERIFY_FAILED" in handshake(acme.server("press-01"), mixed, "press-01")[0]


def test_a_certificate_holds_for_its_names_alone(acme: Fleet) -> None:
    assert "Hostname mismatch" in handshake(acme.server("press-01"), acme.client(), "press-02")[1]


def test_names_in_a_request_are_ignored(acme: Fleet) -> None:
    key = certificates.new_key()
    wish = x509.SubjectAlternativeName([x509.DNSName("press-02")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "press-02")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(wish, critical=False)
    asked = builder.sign(key, SHA256()).public_bytes(Encoding.PEM)
    made = x509.load_pem_x509_certificate(acme.authority.certify("press-01", ["10.0.0.7"], asked, NOW))
    assert certificates.names_of(made) == ("press-01", "10.0.0.7")
    assert certificates.life_of(made).subject == "press-01"


@pytest.mark.parametrize("kind", ["nothing", "ed25519", "p384", "altered"])
def test_an_unsound_request_is_refused_with_the_nodes_name(acme: Fleet, kind: str) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    raw = {
        "nothing": b"hello",
        "ed25519": builder.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(Encoding.PEM),
        "p384": builder.sign(ec.generate_private_key(ec.SECP384R1()), SHA256()).public_bytes(Encoding.PEM),
        "altered": _altered(certificates.request(certificates.new_key(), "x")),
    }[kind]
    with pytest.raises(TrustError, match="node press-01: "):
        acme.authority.certify("press-01", [], raw, NOW)


def test_every_certificate_has_another_serial_number_and_the_fleets_name(acme: Fleet) -> None:
    made = [x509.load_pem_x509_certificate(sign_request(acme.authority, "n", NOW)[0]) for _ in range(5)]
    assert len({one.serial_number for one in made}) == 5
    assert {certificates.life_of(one).issuer_fleet for one in made} == {"acme"}


def test_a_certificate_is_due_when_less_than_a_third_of_its_life_is_left(acme: Fleet) -> None:
    life = certificates.life_of(x509.load_pem_x509_certificate(sign_request(acme.authority, "n", NOW)[0]))
    assert life.left(NOW) > 0.99
    assert not life.due(NOW + timedelta(days=240))
    assert life.due(NOW + timedelta(days=250))
    assert life.left(NOW + timedelta(days=400)) < 0


def test_keys_are_private_and_only_the_one_that_lets_people_command_is_guarded(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "acme", "acme", passphrase="correct horse")
    for path in (tmp_path / "acme" / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Authority(tmp_path / "acme" / "keys", tmp_path / "acme" / "certificates", "acme")
    assert again.locked()
    sign_request(again, "press-01", NOW)
    later = NOW + timedelta(days=300)
    with pytest.raises(TrustError, match="needs the passphrase") as caught:
        again.renew_operator("mona", None, later)
    assert caught.value.reason == "passphrase-needed"
    with pytest.raises(TrustError, match="wrong passphrase"):
        again.renew_operator("mona", "guess", later)
    assert again.renew_operator("mona", "correct horse", later)
    assert fleet.authority.lives()["operator"].ends > later


def test_making_an_authority_again_changes_nothing(acme: Fleet) -> None:
    before = {p: p.read_bytes() for p in (acme.folder / "keys").iterdir()}
    assert not acme.authority.create(None, NOW)
    assert not acme.authority.renew_operator("mona", None, NOW)
    assert {p: p.read_bytes() for p in (acme.folder / "keys").iterdir()} == before


def test_an_authority_that_was_interrupted_is_completed(acme: Fleet) -> None:
    key = (acme.folder / "keys" / "nodes-ca.pem").read_bytes()
    (acme.folder / "keys" / "nodes-ca.crt").unlink()
    assert not acme.authority.exists()
    assert acme.authority.create(None, NOW)
    assert (acme.folder / "keys" / "nodes-ca.pem").read_bytes() == key
    assert handshake(acme.server("press-01"), acme.client(), "press-01") == ("", "")


def test_a_server_here_keeps_its_certificate_until_it_is_due_or_gets_another_name(acme: Fleet) -> None:
    first = acme.authority.serve("receiver", ["hub.example"], NOW)[0].read_bytes()
    assert acme.authority.serve("receiver", ["hub.example"], NOW)[0].read_bytes() == first
    assert acme.authority.serve("receiver", ["other.example"], NOW)[0].read_bytes() != first
    second = acme.authority.serve("receiver", ["other.example"], NOW)[0].read_bytes()
    assert acme.authority.serve("receiver", ["other.example"], NOW + timedelta(days=300))[0].read_bytes() != second


def test_nothing_is_issued_without_the_authority(tmp_path: Path) -> None:
    nobody = Authority(tmp_path / "keys", tmp_path / "certificates", "acme")
    request = certificates.request(certificates.new_key(), "n").public_bytes(Encoding.PEM)
    with pytest.raises(TrustError, match=r"there is no certificate .*nodes-ca\.crt → edgectl init makes it"):
        nobody.certify("press-01", [], request, NOW)


def _altered(request: x509.CertificateSigningRequest) -> bytes:
    raw = bytearray(request.public_bytes(Encoding.DER))
    raw[-5] ^= 1
    return ssl.DER_cert_to_PEM_cert(bytes(raw)).replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()
