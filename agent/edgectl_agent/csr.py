"""The node's own private key: made on the node, never leaving it; only the request for a certificate does."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from edgectl_agent.core.errors import ConfigError, StorageError


def request(path: Path, node: str) -> bytes:
    """A signing request (PEM) for the private key at `path`, which is made if it is not there and never leaves it.

    A new key is readable by the group of the folder that it lies in, which is the agent's.

    Raises:
        ConfigError: what lies at `path` is no EC key.
        StorageError: it cannot be written or read.
    """
    try:
        if not path.exists():
            _make(path)
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as e:
        raise ConfigError(f"{path}: expected a private key in PEM without a passphrase, found none: {e}") from e
    except OSError as e:
        raise StorageError(f"{path}: {e.strerror or e}") from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: expected an EC key, found another kind")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    return x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256()).public_bytes(Encoding.PEM)


def _make(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        folder.mkdir(mode=0o750, parents=True)
        _belong(folder, folder.parent.stat().st_gid)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        _belong(temporary, folder.stat().st_gid)
        temporary.chmod(0o640)
        os.link(temporary, path)  # never over a key that another process made meanwhile
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)


def _belong(path: Path, group: int) -> None:
    if path.stat().st_gid != group:
        os.chown(path, -1, group)
