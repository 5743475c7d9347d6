"""What the server shows the Pi, and whom it believes to be the Pi, as the files say at this moment.

The key in .env and the pinned certificates may change while the server runs: by hand, by `server pair`, or because the Pi announces its
next certificate. Whoever connects asks here first; that costs three looks at the file system while nothing has changed.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

from changelog.connection import write_whole
from changelog.errors import ConfigError
from changelog.node.certificates import fingerprint
from changelog.node.settings import Settings
from changelog.node.tls import Stamp, stamp_of
from server.pinned import PinnedContext, pinned_certificates, pinning_context, system_context

FRESH = 2.0  # s after its last change in which a file is read at each look: two changes may bear the same time
PIN_MODE = 0o644  # of a pinned certificate, which is no secret

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Credential:
    """One state of them: as long as nothing changes, it is the same object."""

    key: str = field(repr=False)
    context: ssl.SSLContext | None  # None: without TLS


class Credentials:
    """The key and the trust of one process, for many threads."""

    def __init__(self, settings: Settings, env_file: Path | None = None) -> None:
        """The key of `settings`, until `env_file` or the environment says another one. Nothing is read yet."""
        self._settings, self._env_file = settings, env_file
        self.pinning = settings.use_ssl_for_pi and settings.use_self_signed_cert  # else nobody asks which certificates there are
        self._key, self._said = settings.pi_api_key, ""
        self._first: Settings | None = None  # what .env said at the first look, when the process began
        self._later: list[str] = []  # what it says otherwise since, and that was told
        self._present: Credential | None = None
        self._pins: tuple[list[bytes], list[bytes]] = ([], [])
        self._stamps: tuple[Stamp, ...] = ()
        self._lock = threading.Lock()

    def present(self, *, again: bool = False) -> Credential:
        """What is to be used from now on; with `again` the files are read whatever their times say.

        Raises ConfigError when the certificate to pin cannot be read, and never could.
        """
        with self._lock:
            if isinstance(context := self._present and self._present.context, PinnedContext) and context.presented in self._pins[1]:
                self._promote(context.presented)
            stamps = tuple(stamp_of(path) for path in self._files())
            if again or self._present is None or stamps != self._stamps:
                fresh = any(stamp and abs(time.time() - stamp[0] / 1e9) < FRESH for stamp in stamps)
                self._read()
                self._stamps = () if fresh else stamps
            assert self._present is not None
            return self._present

    def is_pinned(self, shown: str) -> bool:
        """Whether the certificate with this fingerprint is trusted, or announced as the next one that will be."""
        with self._lock:
            return any(fingerprint(der) == shown for pins in self._pins for der in pins)

    def is_next(self, shown: str) -> bool:
        """Whether this is the fingerprint of the one that the Pi has announced as its next."""
        with self._lock:
            return any(fingerprint(der) == shown for der in self._pins[1])

    def announced(self, certificate: bytes) -> bool:
        """Trust this certificate (DER) as well: the Pi says that it is its next one. Whether that could be kept, in a file."""
        path = self._settings.announced_cert
        try:
            ssl.create_default_context(cadata=certificate)
            write_whole(path, ssl.DER_cert_to_PEM_cert(certificate).encode(), PIN_MODE)
        except (OSError, ssl.SSLError) as exc:
            self._warn(f"the Pi's next certificate cannot be kept in {path} ({exc}): copy its pi-cert.pem to {self._settings.pi_cert} then")
            return False
        logger.info("The Pi has announced its next certificate, %s; it is trusted from now on", fingerprint(certificate))
        return True

    def none_announced(self) -> None:
        """The Pi says that it has no next certificate: one that was announced, and withdrawn, is trusted no more."""
        with self._lock:
            if self._pins[1]:
                try:
                    self._settings.announced_cert.unlink(missing_ok=True)
                except OSError as exc:
                    self._warn(f"{self._settings.announced_cert} cannot be removed ({exc}), and is still trusted")
                else:
                    logger.info("The Pi has withdrawn the next certificate that it had announced")

    def _files(self) -> list[Path]:
        """Where they stand."""
        pins = [self._settings.pi_cert, self._settings.announced_cert] if self.pinning else []
        return [*pins, *([self._env_file] if self._env_file else [])]

    def _read(self) -> None:
        self._read_key()
        context = self._present.context if self._present else None
        try:
            if self.pinning:
                pins = pinned_certificates(self._settings)
                if pins != self._pins or context is None:
                    context = pinning_context(self._settings, [*pins[0], *pins[1]])
                    self._pins = pins
            elif self._present is None and self._settings.use_ssl_for_pi:
                context = system_context()
        except ConfigError as exc:
            if self._present is None:
                raise
            self._warn(f"{exc.message}; the one of before stays trusted")
        if self._present is None or (self._key, context) != (self._present.key, self._present.context):
            if self._present is not None:
                logger.info("The server goes on with the key in .env and the certificates that are pinned now")
            self._present = Credential(self._key, context)

    def _read_key(self) -> None:
        """An .env that cannot be read, or names no key, may be one that somebody is writing: the key of before stays."""
        if self._env_file is None:
            return
        try:
            said = Settings.load(self._env_file)
        except ConfigError as exc:
            self._warn(f"{exc.message}; the key of before stays in use")
            return
        self._key = said.pi_api_key or self._key
        self._compare(said)

    def _compare(self, said: Settings) -> None:
        """Whoever changes another setting waits in vain for it to count: say so once."""
        self._first = self._first or said
        names = [field.name for field in fields(Settings) if field.name != "pi_api_key"]
        later = [name.upper() for name in names if getattr(said, name) != getattr(self._first, name)]
        if later and later != self._later:
            logger.warning("%s in %s changed: that counts after a restart of the server", ", ".join(later), self._env_file)
        self._later = later

    def _promote(self, certificate: bytes) -> None:
        """The Pi shows the one that it had announced: from now on that one alone is trusted."""
        settings = self._settings
        try:
            if pinned_certificates(settings)[0] != [certificate]:
                write_whole(settings.pi_cert, ssl.DER_cert_to_PEM_cert(certificate).encode(), PIN_MODE)
            settings.announced_cert.unlink(missing_ok=True)
        except (OSError, ConfigError) as exc:
            self._warn(f"{settings.pi_cert} cannot be written ({exc}): put {settings.announced_cert} there, which the Pi uses by now")
        else:
            logger.info("The Pi has changed its certificate to %s, which alone is trusted from now on", fingerprint(certificate))

    def _warn(self, words: str) -> None:
        """Say it once."""
        if words != self._said:
            self._said = words
            logger.warning("%s", words)
