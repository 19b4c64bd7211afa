"""Why a TLS connection was not made, as a sentence that names the side that refused.

What a TLS library says is "certificate verify failed"; an operator needs to know whose certificate, and what to do. The
certificate that the other side shows is looked at without being trusted: it only serves the sentence.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from cryptography import x509

from edgectl.trust import certificates

_LOOK_S = 5.0
_EXPIRED, _NOT_YET, _NAME, _ADDRESS = 10, 9, 62, 64
"""OpenSSL's verification results."""


@dataclass(frozen=True)
class Refusal:
    """Who refused whom; `expired` tells a certificate that has ended from one that was never good."""

    sentence: str
    hint: str = ""
    expired: bool = False


def explain(url: str, said: ssl.SSLError | None, fresh: Callable[[], ssl.SSLContext] | None) -> Refusal | None:
    """Why the connection to `url` failed; None if TLS was not the reason.

    Args:
        said: what the TLS library said first, if anything.
        fresh: makes a context like the one that the connection was tried with.
    """
    parts = urlsplit(url)
    place = (parts.hostname or "", parts.port or 443)
    if isinstance(said, ssl.SSLCertVerificationError):
        return _unlike(said, place)
    if said is not None and said.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
        return Refusal(f"what listens at {parts.netloc} does not speak TLS", "look at connect.url")
    if said is not None and said.reason in ("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"):
        return Refusal(f"{parts.netloc} speaks no TLS version that is still safe; expected 1.2 or newer")
    if fresh is not None and _turned_away(place, fresh()):
        return Refusal(
            f"{parts.netloc} does not accept this certificate: it takes operators of its own fleet, by its own clock",
            "edgectl nodes configure gives it this fleet's operators CA",
        )
    return None


def _unlike(said: ssl.SSLCertVerificationError, place: tuple[str, int]) -> Refusal:
    """The other side's certificate was not good enough for us."""
    shown = _shown(place)
    life = certificates.life_of(shown) if shown is not None else None
    where = f"{place[0]}:{place[1]}"
    renew = "edgectl nodes configure renews it"
    if said.verify_code == _EXPIRED:
        ended = f" {life.ends:%Y-%m-%d}" if life and life.ends < datetime.now(UTC) else ""
        return Refusal(f"the certificate of {where} has expired{ended}", renew, expired=True)
    if said.verify_code == _NOT_YET:
        return Refusal(f"the certificate of {where} does not hold yet", "set the clock of this machine")
    if said.verify_code in (_NAME, _ADDRESS):
        names = ", ".join(certificates.names_of(shown)) if shown is not None else "another name"
        return Refusal(f"the certificate of {where} is for {names}", f"look at connect.url; {renew}")
    if life is not None and life.issuer_fleet:
        other = "look at connect.url, or work where that fleet's keys are"
        return Refusal(f"the certificate of {where} was not issued by this fleet, but by {life.issuer_fleet!r}", other)
    return Refusal(
        f"the certificate of {where} was not issued by this fleet: {said.verify_message}", "look at connect.url"
    )


def _shown(place: tuple[str, int]) -> x509.Certificate | None:
    """The certificate that `place` shows, untrusted; None if it shows none."""
    look = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    look.check_hostname = False
    look.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection(place, _LOOK_S) as raw, look.wrap_socket(raw) as side:
            der = side.getpeercert(binary_form=True)
            return x509.load_der_x509_certificate(der) if der else None
    except (OSError, ValueError):
        return None


def _turned_away(place: tuple[str, int], context: ssl.SSLContext) -> bool:
    """Whether the other side ends a handshake at our certificate.

    In TLS 1.3 that shows only later, and as a connection that ended; in 1.2 it is part of the handshake.
    """
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with socket.create_connection(place, _LOOK_S) as raw:
            context.wrap_socket(raw, server_hostname=place[0]).close()
    except ConnectionResetError:
        return True
    except ssl.SSLError as e:
        return not isinstance(e, ssl.SSLCertVerificationError)
    except OSError:
        return False
    return False
