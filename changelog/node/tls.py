"""The TLS side of a listener: 1.2 and 1.3, and a certificate that may be replaced by another one while the process serves."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

from changelog.errors import ConfigError
from changelog.storage import not_yours

logger = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None

REMEDY = "bring both back, or remove both: `scripts/run.sh pi --prepare` makes new ones, and `pi pair` joins the servers again"


class ServerTls:
    """The context for connections that come in, made anew when the files are others. Used by one thread."""

    def __init__(self, certificate: Path, key: Path | None) -> None:
        """Raises ConfigError when the files cannot be used."""
        self._files = (certificate, key)
        self._seen = self._stamps()
        self._context = tls_context(certificate, key)
        self._failure = ""

    def context(self) -> ssl.SSLContext:
        """What a new connection is to be made with. While the files cannot be used, the context before them stays, and why is said once."""
        seen = self._stamps()
        if seen != self._seen:
            try:
                self._context = tls_context(*self._files)
            except ConfigError as exc:  # between the renames of key and certificate, too: the next connection looks again
                if exc.message != self._failure:
                    logger.warning("the certificate of before stays in use: %s", exc.message)
                self._failure = exc.message
            else:
                self._seen, self._failure = seen, ""  # as of before they were read: what changed meanwhile is read again
                logger.info("new connections are made with the certificate that now stands in %s", self._files[0])
        return self._context

    def _stamps(self) -> tuple[Stamp, ...]:
        return tuple(stamp_of(path) for path in self._files if path is not None)


def stamp_of(path: Path) -> Stamp:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """What the server side of TLS 1.2 and 1.3 needs; raises ConfigError when the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        for path in (certificate, key):
            if path is not None:
                path.open("rb").close()  # load_cert_chain does not say which of the two is missing
        context.load_cert_chain(certificate, key, password=_refuse_passphrase)
    except ssl.SSLError as exc:
        raise ConfigError(f"{certificate} and {key} are not a certificate and its private key: {REMEDY}") from exc
    except PermissionError as exc:
        raise ConfigError(f"{exc.filename} cannot be read: {not_yours(Path(exc.filename))}") from exc
    except OSError as exc:
        raise ConfigError(f"{exc.filename} cannot be read: {exc.strerror}: {REMEDY}") from exc
    return context


def _refuse_passphrase() -> str:
    raise ConfigError("the private key has a passphrase, and nobody is there to type it: store it without")
