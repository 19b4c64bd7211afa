"""The private keys of a fleet, one PEM file per role.

``root``, ``targets`` and ``models`` are encrypted when there is a passphrase: whoever takes the laptop's disk can then
neither replace keys nor introduce a model. ``rollout``, ``snapshot`` and ``timestamp`` are plain, so that deploying and
cron work unattended; with them a thief can pick among the signed models, and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from edgectl_agent.durable import write_file
from securesystemslib.signer import CryptoSigner

from edgectl.core.errors import StorageError, TrustError

Role = Literal["root", "targets", "models", "rollout", "snapshot", "timestamp"]
GUARDED: tuple[Role, ...] = ("root", "targets", "models")
"""Roles whose key a passphrase encrypts."""
ONLINE: tuple[Role, ...] = ("rollout", "snapshot", "timestamp")
ROLES: tuple[Role, ...] = GUARDED + ONLINE


class KeyStore:
    """The keys in one folder. A key that was unlocked once stays so for the life of this object."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._signers: dict[Role, CryptoSigner] = {}

    def create(self, passphrase: str | None) -> tuple[Role, ...]:
        """Make the keys that are not there yet; existing ones are never touched.

        Returns:
            The roles that got a new key: empty when called again.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
        except OSError as e:
            raise StorageError(f"{self._folder}: cannot be made: {e.strerror}") from e
        made = tuple(role for role in ROLES if not self._path(role).exists())
        for role in made:
            key = Ed25519PrivateKey.generate()
            encryption: KeySerializationEncryption = NoEncryption()
            if passphrase and role in GUARDED:
                encryption = BestAvailableEncryption(passphrase.encode())
            write_file(self._path(role), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), 0o600)
            self._signers[role] = CryptoSigner(key)
        return made

    def signer(self, role: Role, passphrase: str | None = None) -> CryptoSigner:
        """The key of `role`, ready to sign.

        Raises:
            TrustError: no such key (reason ``no-key``), not readable, encrypted and no passphrase was given
                (``passphrase-needed``), or the passphrase is wrong (``wrong-passphrase``).
        """
        if role not in self._signers:
            self._signers[role] = self._load(role, passphrase)
        return self._signers[role]

    def locked(self, role: Role) -> bool:
        """Whether `role` cannot sign without a passphrase: encrypted, and not unlocked yet. Raises `TrustError`."""
        return role not in self._signers and b"ENCRYPTED PRIVATE KEY" in self._read(role)

    def _path(self, role: Role) -> Path:
        return self._folder / f"{role}.pem"

    def _read(self, role: Role) -> bytes:
        path = self._path(role)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise TrustError(
                f"the key of role {role} is not at {path}",
                reason="no-key",
                hint="copy it from the machine that has it; `edgectl init` makes keys for a new fleet only",
            ) from None
        except OSError as e:
            raise TrustError(f"{path}: cannot be read: {e.strerror}", reason="no-key") from e

    def _load(self, role: Role, passphrase: str | None) -> CryptoSigner:
        pem, path = self._read(role), self._path(role)
        encrypted = b"ENCRYPTED PRIVATE KEY" in pem
        if encrypted and not passphrase:
            raise TrustError(
                f"signing as {role} needs the passphrase of {path}",
                reason="passphrase-needed",
                hint="set EDGECTL_PASSPHRASE or run it in a terminal",
            )
        try:
            key = load_pem_private_key(pem, passphrase.encode() if encrypted and passphrase else None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            if encrypted:
                raise TrustError(f"wrong passphrase for {path}", reason="wrong-passphrase") from e
            raise TrustError(f"{path} is not a private key: {e}", reason="no-key") from e
        if not isinstance(key, Ed25519PrivateKey):
            raise TrustError(f"{path} is not an ed25519 key", reason="no-key")
        return CryptoSigner(key)
