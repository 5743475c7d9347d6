"""Certificates as both roles name them: by the SHA-256 of their DER form, which `openssl x509 -fingerprint -sha256` prints too."""

from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path

from changelog.errors import BadRequest

ANNOUNCED = "X-Pi-Certificates"  # header of the Pi's answers: the fingerprint of its certificate and, while there is one, of the next

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_FINGERPRINT = re.compile(r"(?:sha256(?:fingerprint=)?)?([0-9a-f]{64})", re.IGNORECASE)


def fingerprint(der: bytes) -> str:
    """Of a certificate, in pairs of hexadecimal digits."""
    return hashlib.sha256(der).digest().hex(":").upper()


def parse_fingerprint(text: str) -> str:
    """A fingerprint as somebody types or copies it, with colons or without. Raises BadRequest."""
    found = _FINGERPRINT.fullmatch(re.sub(r"[:\s]", "", text))
    if found is None:
        raise BadRequest("that is no SHA-256 fingerprint: 64 hexadecimal digits, as `python -m pi pair` prints them")
    return ":".join(re.findall("..", found[1].upper()))


def certificates_in(path: Path) -> list[bytes]:
    """The certificates of a PEM file, each as DER. Raises OSError, and ValueError when there is none or one is damaged."""
    text = path.read_text(encoding="ascii", errors="replace")
    found = [ssl.PEM_cert_to_DER_cert(pem) for pem in _PEM.findall(text)]
    if not found:
        raise ValueError("it holds no certificate")
    return found


def der_of(pem: object) -> bytes:
    """The certificate that somebody has sent as PEM; nothing where it is none."""
    try:
        return ssl.PEM_cert_to_DER_cert(pem) if isinstance(pem, str) else b""
    except ValueError:
        return b""
