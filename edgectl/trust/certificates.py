"""The fleet's certificates as values: made, issued and judged without any I/O.

A fleet has two roots that share nothing. ``operators`` issues client certificates: whoever holds one may command nodes.
``nodes`` issues server certificates: whoever holds one may answer as that node. An agent accepts the first root only
and an operator's tools the second only, so no certificate of a node commands another node, whatever it says.

Times are UTC; keys are EC P-256, signatures ECDSA with SHA-256.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgectl.core.errors import TrustError

Purpose = Literal["operators", "nodes"]
PrivateKey = ec.EllipticCurvePrivateKey
PURPOSES: tuple[Purpose, ...] = ("operators", "nodes")
CA_LIFE = timedelta(days=3650)
LIFE = timedelta(days=365)
RENEW_SHARE = 1 / 3
"""A certificate with a smaller part of its life left is replaced at the next occasion."""
_BACKDATED = timedelta(days=1)
"""Clocks of nodes differ: a certificate holds from a day before it was made."""

_USAGE = {"operators": ExtendedKeyUsageOID.CLIENT_AUTH, "nodes": ExtendedKeyUsageOID.SERVER_AUTH}
_SIGNS = ("key_cert_sign", "crl_sign")
_LEAF = ("digital_signature",)
_KEY_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Life:
    """From when to when a certificate holds, and whose it is."""

    subject: str
    issuer_fleet: str
    """Organisation of the issuer: the fleet's name; empty if it has none."""
    begins: datetime
    ends: datetime

    def left(self, now: datetime) -> float:
        """The part of its life that is left: 1 when fresh, 0 or less once it has ended."""
        return (self.ends - now) / (self.ends - self.begins)

    def due(self, now: datetime) -> bool:
        """Whether it should be replaced now."""
        return self.left(now) < RENEW_SHARE


def new_key() -> PrivateKey:
    """A fresh private key."""
    return ec.generate_private_key(ec.SECP256R1())


def root(purpose: Purpose, fleet: str, key: PrivateKey, now: datetime) -> x509.Certificate:
    """The self-signed certificate under which `purpose` issues, valid for `CA_LIFE`."""
    name = _name(fleet, f"edgectl {purpose} CA")
    builder = _builder(name, name, key.public_key(), key.public_key(), now, CA_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(_key_usage(*_SIGNS), critical=True).sign(key, SHA256())


def issue(
    purpose: Purpose,
    issuer: tuple[x509.Certificate, PrivateKey],
    public_key: ec.EllipticCurvePublicKey,
    names: Iterable[str],
    now: datetime,
    life: timedelta = LIFE,
) -> x509.Certificate:
    """A certificate of `purpose` for `public_key`.

    Args:
        names: whom it stands for, the first one is shown as its subject: host names or IP addresses. They are the
            issuer's choice; what a request asks for is never looked at. For operators, who is shown to people.
    """
    (authority, signing), known = issuer, list(dict.fromkeys(names))
    subject = _name(fleet_of(authority.subject), known[0])
    builder = _builder(subject, authority.subject, public_key, signing.public_key(), now, life)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(*_LEAF), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGE[purpose]]), critical=False)
    )
    if purpose == "nodes":
        alternatives = x509.SubjectAlternativeName([_alternative(name) for name in known])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(signing, SHA256())


def request(key: PrivateKey, name: str) -> x509.CertificateSigningRequest:
    """Proof that whoever asks has `key`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())


def requested_key(pem: bytes, who: str) -> ec.EllipticCurvePublicKey:
    """The key that a signing request proves to have. Raises `TrustError` for anything but a sound P-256 request."""
    try:
        found = x509.load_pem_x509_csr(pem)
        sound = found.is_signature_valid
        key = found.public_key()
    except (ValueError, TypeError) as e:
        raise TrustError(f"{who}: expected a certificate signing request in PEM, found none") from e
    if not sound:
        raise TrustError(f"{who}: the signing request is not signed by the key that it names")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError(f"{who}: expected a request with an EC P-256 key, found another kind of key")
    return key


def pem(certificate: x509.Certificate) -> bytes:
    """As it lies in a file."""
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: PrivateKey, passphrase: str | None = None) -> bytes:
    """As it lies in a file, encrypted if there is a passphrase."""
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def life_of(certificate: x509.Certificate) -> Life:
    """Whose `certificate` is and how long it holds."""
    return Life(
        subject=_first(certificate.subject, NameOID.COMMON_NAME),
        issuer_fleet=fleet_of(certificate.issuer),
        begins=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
    )


def fleet_of(name: x509.Name) -> str:
    """The fleet that a subject or issuer names; empty if none."""
    return _first(name, NameOID.ORGANIZATION_NAME)


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Host names and addresses that `certificate` stands for."""
    try:
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in said)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    signing: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    now = now.astimezone(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing), critical=False)
    )


def _key_usage(*granted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in granted for usage in _KEY_USAGES})


def _name(fleet: str, common: str) -> x509.Name:
    # X.520 bounds both at 64 characters; the names that are compared stand in the alternative names, whole.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, common[:64]),
        ]
    )


def _first(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = name.get_attributes_for_oid(oid)
    return str(found[0].value) if found else ""


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
