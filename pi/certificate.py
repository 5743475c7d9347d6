"""The certificate of this Pi, made by openssl; and the next one, which stands beside it until it takes its place."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from changelog.connection import sync_path
from changelog.errors import ConfigError, Conflict
from changelog.node.certificates import certificates_in, fingerprint
from changelog.node.settings import Settings

CERTIFICATE_DAYS = 3650
LONGEST_COMMON_NAME = 64  # characters, by X.520


def make_certificate(certificate: Path, key: Path) -> None:
    """A self-signed certificate for every name and address of this machine. Raises ConfigError."""
    if shutil.which("openssl") is None:
        raise ConfigError("the certificate needs openssl: sudo apt-get install openssl")
    host = socket.gethostname()
    names = [host, f"{host}.local", "pi", "localhost"]
    addresses = ["127.0.0.1", "::1", *lan_addresses()]
    alternatives = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in addresses)])
    new = [path.with_name(f"{path.name}.new") for path in (certificate, key)]
    key.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(new[1], os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))  # openssl keeps the mode of what is there
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(CERTIFICATE_DAYS)]
    request += ["-subj", f"/CN={host[:LONGEST_COMMON_NAME]}", "-addext", f"subjectAltName={alternatives}"]
    request += ["-addext", "basicConstraints=critical,CA:FALSE", "-out", str(new[0]), "-keyout", str(new[1])]
    made = subprocess.run(request, capture_output=True, text=True, check=False)
    if made.returncode:
        raise ConfigError(f"openssl could not make the certificate: {made.stderr.strip().splitlines()[-1]}")
    new[0].chmod(0o644)
    for path in new:
        sync_path(path)
    new[1].replace(key)  # first the key: where there is a certificate, there is its key
    new[0].replace(certificate)
    sync_path(key.parent)


def lan_addresses() -> list[str]:
    """The addresses of this machine's network interfaces, as far as it tells them."""
    try:
        return subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


def fingerprint_of(path: Path) -> str:
    """Of the certificate in this file. Raises ConfigError."""
    try:
        return fingerprint(certificates_in(path)[0])
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the certificate {path} cannot be read ({exc}): `scripts/run.sh pi` makes one where there is none") from exc


def require_tls(settings: Settings) -> None:
    """Raises ConfigError where this Pi speaks plain http, and where it has no certificate."""
    if not settings.pi_tls:
        raise ConfigError("this Pi speaks plain http (PI_TLS=False): there is no certificate, and nothing secret may be sent")
    fingerprint_of(settings.pi_cert)


def has_next(settings: Settings) -> bool:
    """Whether a next certificate waits, with its key."""
    return settings.next_cert.exists() and settings.next_key.exists()


def make_next(settings: Settings) -> None:
    """Make the certificate that is to follow. Raises Conflict where one waits already, and ConfigError."""
    if has_next(settings):
        raise Conflict("a next certificate waits already: `python -m pi cert switch` puts it in use, `cert cancel` removes it")
    make_certificate(settings.next_cert, settings.next_key)


def switch(settings: Settings) -> None:
    """Put the next certificate in use: the Pi shows it to each new connection, running or not. Raises Conflict where none waits."""
    if not has_next(settings):
        raise Conflict("no next certificate waits: `python -m pi cert renew` makes one")
    settings.next_key.replace(settings.pi_key)
    sync_path(settings.pi_cert.parent)
    settings.next_cert.replace(settings.pi_cert)
    sync_path(settings.pi_cert.parent)


def settle(settings: Settings) -> None:
    """Finish a switch that a power cut has broken off: its key has taken its place, and the certificate has not."""
    if settings.next_cert.exists() and not settings.next_key.exists():
        settings.next_cert.replace(settings.pi_cert)
        sync_path(settings.pi_cert.parent)


def cancel(settings: Settings) -> None:
    """Remove the next certificate. Raises Conflict where none waits."""
    if not has_next(settings):
        raise Conflict("no next certificate waits")
    settings.next_cert.unlink()
    settings.next_key.unlink()
