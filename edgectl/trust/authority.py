"""The fleet's own certificate authority: its keys on disk, and the certificates it has issued.

In ``keys/``, which the operator keeps a copy of: ``operators-ca.pem`` (encrypted when there is a passphrase) lets
people command nodes; ``nodes-ca.pem`` is plain, so that enrolment and renewal work unattended: with it a thief can pose
as a node and command none; ``operator.pem`` is this workspace's client key. Beside each lies its certificate
(``.crt``). ``certificates/NAME.crt`` is the newest one of each node, so that the audit can tell what ends.

The private key of a node is made on the node (``edgectl-agent csr``) and never leaves it; `certify` signs its request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edgectl.core.errors import TrustError
from edgectl.files import write_file
from edgectl.trust import certificates
from edgectl.trust.certificates import LIFE, PURPOSES, Life, Purpose, pem

MISSING_HINT = "edgectl init makes it"


class Authority:
    """The certificate authority of one fleet. Nothing is read or made before a method says so."""

    def __init__(self, keys: Path, issued: Path, fleet: str) -> None:
        """`keys` is the folder of the fleet's keys, `issued` that of the nodes' certificates."""
        self._keys, self._issued, self._fleet = keys, issued, fleet

    # ── made once ───────────────────────────────────────────────────────────────────────────────────────────────────

    def exists(self) -> bool:
        """Whether `create` and `renew_operator` have nothing left to make."""
        made = [self._certificate_path(purpose) for purpose in PURPOSES]
        return all(path.is_file() for path in (*made, self.operator_certificate, self.operator_key))

    def create(self, passphrase: str | None, now: datetime) -> bool:
        """Make the two roots where they are missing; returns whether anything was made.

        A root's certificate without its key is left alone: the key is elsewhere, and nodes trust that root.

        Raises:
            StorageError: the disk refuses.
        """
        made = False
        self._keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        for purpose in PURPOSES:
            if self._certificate_path(purpose).exists():
                continue
            if self._key_path(purpose).exists():  # interrupted between key and certificate
                key = self._key(self._key_path(purpose), passphrase)
            else:
                key = certificates.new_key()
                self._save_key(self._key_path(purpose), key, passphrase if purpose == "operators" else None)
            self._save(self._certificate_path(purpose), certificates.root(purpose, self._fleet, key, now))
            made = True
        return made

    # ── issued ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def certify(self, node: str, names: Iterable[str], request: bytes, now: datetime, life: timedelta = LIFE) -> bytes:
        """The server certificate (PEM) of `node` for the key that its signing request proves to have.

        Args:
            names: host names and addresses under which it is reached; the node's name is added. The names in the
                request are ignored.

        Raises:
            TrustError: the request is not sound, or the authority's key is not here.
            StorageError: the disk refuses.
        """
        key = certificates.requested_key(request, f"node {node}")
        made = self._issue("nodes", key, (node, *names), now, None, life)
        write_file(self.node_certificate(node), pem(made))
        return pem(made)

    def serve(self, name: str, names: Iterable[str], now: datetime) -> tuple[Path, Path]:
        """(certificate, key) files of a server that runs here, such as a receiver; renewed when it is due.

        Raises as `certify`.
        """
        certificate, path = self._keys / f"{name}.crt", self._keys / f"{name}.pem"
        known = (name, *names)
        held = self._load(certificate) if certificate.exists() and path.exists() else None
        fits = held is not None and {*known} <= {*certificates.names_of(held)}
        if held is None or not fits or certificates.life_of(held).due(now):
            key = self._key(path) if path.exists() else certificates.new_key()
            if not path.exists():
                self._save_key(path, key, None)
            self._save(certificate, self._issue("nodes", key.public_key(), known, now, None, LIFE))
        return certificate, path

    def renew_operator(self, operator: str, passphrase: str | None, now: datetime, life: timedelta = LIFE) -> bool:
        """See that this workspace has a client certificate that is not due; returns whether one was made.

        Raises:
            TrustError: it is due and the issuing key is locked (``passphrase-needed``) or elsewhere (``no-key``).
            StorageError: the disk refuses.
        """
        held = self.operator_certificate.exists() and self.operator_key.exists()
        if held and not certificates.life_of(self._load(self.operator_certificate)).due(now):
            return False
        key = self._key(self.operator_key) if self.operator_key.exists() else certificates.new_key()
        made = self._issue("operators", key.public_key(), (operator,), now, passphrase, life)
        if not self.operator_key.exists():
            self._save_key(self.operator_key, key, None)
        self._save(self.operator_certificate, made)
        return True

    # ── looked at ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def operator_certificate(self) -> Path:
        return self._keys / "operator.crt"

    @property
    def operator_key(self) -> Path:
        return self._keys / "operator.pem"

    def operator_ends(self) -> datetime:
        """When this workspace's client certificate ends. Raises `TrustError` if there is none."""
        return certificates.life_of(self._load(self.operator_certificate)).ends

    def node_certificate(self, node: str) -> Path:
        """Where the newest certificate of `node` is kept, if one was issued."""
        return self._issued / f"{node}.crt"

    def issued(self, node: str) -> x509.Certificate | None:
        """The newest certificate of `node`; None if none was issued. Raises `TrustError` if it is damaged."""
        path = self.node_certificate(node)
        return self._load(path) if path.exists() else None

    def trusted(self, purpose: Purpose) -> bytes:
        """The root (PEM) that `purpose` issues under. Raises `TrustError` if there is none here."""
        return pem(self._load(self._certificate_path(purpose)))

    def locked(self) -> bool:
        """Whether issuing an operator's certificate needs the passphrase."""
        path = self._key_path("operators")
        return path.exists() and b"ENCRYPTED PRIVATE KEY" in path.read_bytes()

    def lives(self) -> Mapping[str, Life]:
        """Every certificate that is kept here, by what it is: ``operator``, ``node press-01``, ``nodes CA`` …

        Raises `TrustError` for a damaged one.
        """
        found = {f"{purpose} CA": self._certificate_path(purpose) for purpose in PURPOSES}
        found["operator"] = self.operator_certificate
        found |= {f"node {path.stem}": path for path in sorted(self._issued.glob("*.crt"))}
        return {what: certificates.life_of(self._load(path)) for what, path in found.items() if path.exists()}

    # ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _issue(
        self,
        purpose: Purpose,
        key: ec.EllipticCurvePublicKey,
        names: Iterable[str],
        now: datetime,
        passphrase: str | None,
        life: timedelta,
    ) -> x509.Certificate:
        authority, signing = self.issuer(purpose, passphrase)
        if now >= authority.not_valid_after_utc:
            raise TrustError(f"the {purpose} CA of this fleet ended {authority.not_valid_after_utc:%Y-%m-%d}")
        return certificates.issue(purpose, (authority, signing), key, names, now, life)

    def issuer(self, purpose: Purpose, passphrase: str | None) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """The root of `purpose` and its key. Raises `TrustError` without the key or its passphrase."""
        return self._load(self._certificate_path(purpose)), self._key(self._key_path(purpose), passphrase)

    def _key_path(self, purpose: Purpose) -> Path:
        return self._keys / f"{purpose}-ca.pem"

    def _certificate_path(self, purpose: Purpose) -> Path:
        return self._keys / f"{purpose}-ca.crt"

    def _save(self, path: Path, certificate: x509.Certificate) -> None:
        write_file(path, pem(certificate), 0o600)

    def _save_key(self, path: Path, key: ec.EllipticCurvePrivateKey, passphrase: str | None) -> None:
        write_file(path, certificates.key_pem(key, passphrase), 0o600)

    def _load(self, path: Path) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except FileNotFoundError:
            raise TrustError(f"there is no certificate {path}", reason="no-key", hint=MISSING_HINT) from None
        except (OSError, ValueError) as e:
            raise TrustError(f"{path} is not a certificate: {e}") from e

    def _key(self, path: Path, passphrase: str | None = None) -> ec.EllipticCurvePrivateKey:
        try:
            raw = path.read_bytes()
        except OSError as e:
            hint = "copy it from the machine that has it"
            raise TrustError(f"the key {path} cannot be read: {e.strerror}", reason="no-key", hint=hint) from e
        encrypted = b"ENCRYPTED PRIVATE KEY" in raw
        if encrypted and not passphrase:
            hint = "set EDGECTL_PASSPHRASE or run edgectl init in a terminal"
            raise TrustError(f"issuing needs the passphrase of {path}", reason="passphrase-needed", hint=hint)
        try:
            key = load_pem_private_key(raw, passphrase.encode() if encrypted and passphrase else None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            what = f"wrong passphrase for {path}" if encrypted else f"{path} is not a private key: {e}"
            raise TrustError(what, reason="wrong-passphrase" if encrypted else "no-key") from e
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TrustError(f"{path} is not an EC key", reason="no-key")
        return key
