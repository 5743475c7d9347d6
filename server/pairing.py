"""Joining this server to a Pi: its certificate is pinned and a key of our own fetched, by a code that the Pi has printed.

Nothing is sent before the Pi has shown the certificate with the expected fingerprint, and no code is used up before it is known that the
files can be written.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from getpass import getpass
from pathlib import Path

import click

from changelog.connection import write_whole
from changelog.errors import BadRequest, BrokenFrame, ConfigError, DroverError, Unreachable
from changelog.node.certificates import certificates_in, fingerprint
from changelog.node.env_file import read_env, with_setting, write_env
from changelog.node.settings import Settings
from server.credentials import PIN_MODE
from server.pi_writer import ANSWERS, PiWriter
from server.pinned import innermost, why_unreachable
from server.remote import settings_for

TIMEOUT = 8.0  # s for each step
LARGEST_ANSWER = 16 * 1024  # bytes
CLOCKS_APART = 86_400.0  # s between the two machines' clocks, from which on it is said

_KEY = re.compile(r"hxb_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Paired:
    """What the Pi gave."""

    address: str
    name: str  # of the key
    role: str
    key: str = field(repr=False)
    certificate: bytes = field(repr=False)  # DER
    changed: tuple[str, ...] = ()  # settings in .env besides the key that are others now
    clock: str = ""  # the Pi's, where it is far from ours
    writes: bool | None = None  # whether the key may write, as the Pi said when it was tried


def pair(settings: Settings, env_file: Path, host: str, expected: str, code: str) -> Paired:
    """Fetch a key from the Pi at `host` (HOST or HOST:PORT) that shows the certificate with this fingerprint; write `env_file` and the pin.

    Raises BadRequest for what is no address, ConfigError where a file cannot be written or the environment says otherwise, Unreachable
    with both fingerprints where another certificate is shown, and what the Pi refuses with.
    """
    found = replace(settings_for(host, settings), use_ssl_for_pi=True, use_self_signed_cert=True)
    if host.startswith("http://"):
        raise BadRequest(f"{host}: pairing needs TLS; write https:// or the host alone, and PI_TLS=True on the Pi")
    wanted = _wanted(settings, found)
    _check_environment(wanted)
    _check_files(found, env_file, expected)
    certificate, answer = _ask(found, expected, code)
    paired = _read(found, certificate, answer)
    if not _is_pinned(found, certificate):
        write_whole(found.pi_cert, ssl.DER_cert_to_PEM_cert(certificate).encode(), PIN_MODE)
    found.announced_cert.unlink(missing_ok=True)  # of a Pi of before
    text = _text_of(env_file)
    for name, value in (wanted | {"PI_API_KEY": paired.key}).items():
        text = with_setting(text, name, value)
    write_env(env_file, text)
    return replace(paired, changed=tuple(wanted), writes=PiWriter(replace(found, pi_api_key=paired.key)).may_write())


def typed_code() -> str:
    """The code that is typed on the terminal, unseen; without one it is PAIRING_CODE, or the first line of standard input."""
    code = os.environ.get("PAIRING_CODE", "")
    if not code:
        code = getpass("code: ") if sys.stdin.isatty() else sys.stdin.readline()
    return code.strip()


def print_paired(paired: Paired) -> None:
    """Say what was done, and what is left to do."""
    click.echo(f"paired with {paired.address}: its certificate is pinned, and PI_API_KEY in .env is the key {paired.name} ({paired.role})")
    tried = {True: "the Pi knows it, and lets it write", False: "the Pi knows it, to read only", None: "it could not be tried"}
    click.echo(tried[paired.writes])
    if paired.clock:
        click.echo(f"the Pi's clock says {paired.clock} UTC: set it, for the times in the log are its own (timedatectl there)")
    if paired.changed:
        click.echo(f"set in .env: {', '.join(paired.changed)}; a server that runs already needs a restart for these")


def _wanted(settings: Settings, found: Settings) -> dict[str, str]:
    """The settings by which this Pi is reached, where they are others than the present ones."""
    names = ("remote_pi_host", "remote_pi_port", "use_ssl_for_pi", "use_self_signed_cert")
    return {name.upper(): str(getattr(found, name)) for name in names if getattr(found, name) != getattr(settings, name)}


def _check_environment(wanted: dict[str, str]) -> None:
    """Raises ConfigError where the environment would win over what is to be written."""
    for name in (*wanted, "PI_API_KEY"):
        if os.environ.get(name, "").strip():
            raise ConfigError(f"{name} is set in the environment, which wins over .env: take it out there first")


def _check_files(settings: Settings, env_file: Path, expected: str) -> None:
    """Raises ConfigError where one cannot be written, or the pin would be written over a Pi's own certificate."""
    read_env(env_file)
    if settings.pi_key.exists() and not any(fingerprint(der) == expected for der in _pinned(settings)):
        raise ConfigError(f"{settings.pi_cert} is the certificate of a Pi on this machine: set PI_CERT to another file, for the pin")
    for path in (env_file, settings.pi_cert):
        folder = path.resolve().parent
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
            if path.exists() and path.stat().st_uid != os.geteuid() and os.geteuid():
                raise PermissionError(1, "it belongs to somebody else")
        except OSError as exc:
            raise ConfigError(f"{path} cannot be written ({exc.strerror}): run this as its owner (sudo -u drover)") from exc


def _text_of(env_file: Path) -> str:
    """All of it, the ends of its lines too."""
    if not env_file.exists():
        return ""
    with env_file.open(encoding="utf-8", newline="") as file:
        return file.read()


def _pinned(settings: Settings) -> list[bytes]:
    try:
        return certificates_in(settings.pi_cert)
    except (OSError, ValueError):
        return []


def _is_pinned(settings: Settings, certificate: bytes) -> bool:
    return _pinned(settings) == [certificate]


def _ask(settings: Settings, expected: str, code: str) -> tuple[bytes, tuple[int, bytes]]:
    """The certificate that the Pi has shown, and status and body of its answer."""
    try:
        with _connected(settings) as sock:
            certificate = sock.getpeercert(binary_form=True) or b""
            if fingerprint(certificate) != expected:
                shown = f"it shows {fingerprint(certificate)}, expected was {expected}"
                raise Unreachable(f"another certificate than the Pi's at {settings.pi_address}: nothing was sent; {shown}")
            connection = http.client.HTTPConnection(settings.remote_pi_host, settings.remote_pi_port)
            connection.sock = sock
            connection.request("POST", "/api/pair", json.dumps({"code": code}), {"Content-Type": "application/json", "Connection": "close"})
            response = connection.getresponse()
            return certificate, (response.status, response.read(LARGEST_ANSWER))
    except (OSError, http.client.HTTPException) as exc:
        words = why_unreachable(innermost(exc), settings).replace("see USE_SSL_FOR_PI", "pairing needs TLS: PI_TLS=True on the Pi")
        raise Unreachable(words) from exc


@contextmanager
def _connected(settings: Settings) -> Iterator[ssl.SSLSocket]:
    """A TLS connection to whoever is there: who that is, its user looks at before anything is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((settings.remote_pi_host, settings.remote_pi_port), timeout=TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=settings.remote_pi_host) as sock,
    ):
        yield sock


def _read(settings: Settings, certificate: bytes, answer: tuple[int, bytes]) -> Paired:
    """What stands in the answer. Raises what the Pi refuses with, and BrokenFrame for what is not the answer of a Pi."""
    status, body = answer
    try:
        facts = json.loads(body)
    except ValueError:
        facts = None
    facts = facts if isinstance(facts, dict) else {}
    if status != http.HTTPStatus.CREATED:
        kind: type[DroverError] = ANSWERS.get(status, Unreachable) if "message" in facts else BrokenFrame
        raise kind(f"{settings.pi_address}: {facts.get('message', 'is that a Pi with this version of Drover?')} (HTTP {status})")
    name, role, key, clock = (str(facts.get(name)) for name in ("name", "role", "key", "timestamp"))
    if not _KEY.fullmatch(key):
        raise BrokenFrame(f"{settings.pi_address} answered without a key")
    return Paired(settings.pi_address, name, role, key, certificate, clock=_far(clock))


def _far(clock: str) -> str:
    """The Pi's clock, where it is a day or more from ours; else nothing."""
    try:
        apart = abs(datetime.fromisoformat(clock).replace(tzinfo=UTC).timestamp() - time.time())
    except ValueError:
        return ""
    return clock if apart >= CLOCKS_APART else ""
