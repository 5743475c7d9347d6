"""Whom the server believes to be the Pi: one pinned certificate, or the system's CAs; for requests and for the socket alike."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import Any

from requests.adapters import HTTPAdapter

from changelog.errors import ConfigError
from changelog.node.settings import Settings

_OUT_OF_TIME = {9: "is not valid yet", 10: "is not valid any more"}  # by OpenSSL's numbers


class PinnedAdapter(HTTPAdapter):
    """Trusts what its SSL context trusts, whatever the environment says (requests lets REQUESTS_CA_BUNDLE override `verify`)."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        """The pool of connections, with our context."""
        return super().init_poolmanager(*args, ssl_context=self._context, assert_hostname=self._context.check_hostname or False, **kwargs)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: requests would load its own CAs into the connection here."""


def trusted_context(settings: Settings) -> ssl.SSLContext:
    """What a connection to the Pi is checked with. Raises ConfigError when the certificate to pin cannot be read."""
    if not settings.use_self_signed_cert:
        return ssl.create_default_context()
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cafile=settings.pi_cert)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"the Pi's certificate {settings.pi_cert} cannot be read ({exc}): copy it from the Pi, it is what this server trusts"
        ) from exc
    context.check_hostname = False  # exactly one certificate is trusted, by whatever address the Pi is reached
    return context


def innermost(exc: BaseException) -> BaseException:
    """What lies at the bottom of an error that libraries have wrapped."""
    while isinstance(inner := exc.__cause__ or exc.__context__, Exception):
        exc = inner
    return exc


def why_unreachable(cause: BaseException, settings: Settings) -> str:
    """A connection's failure in words that name the Pi and what to look at."""
    host = f"{settings.remote_pi_host}:{settings.remote_pi_port}"
    if isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _OUT_OF_TIME:
        now = datetime.now(UTC)
        pinned = f", the one pinned in {settings.pi_cert}," if settings.use_self_signed_cert else ""
        return (
            f"the certificate of {host}{pinned} {_OUT_OF_TIME[cause.verify_code]}, by the clock of this server ({now:%Y-%m-%d}):"
            " set that clock, or renew the certificate"
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        pinned = f"is not the one pinned in {settings.pi_cert}" if settings.use_self_signed_cert else "is not trusted"
        return f"the certificate of {host} {pinned}: nothing was sent ({cause.verify_message})"
    if isinstance(cause, ssl.SSLError):
        return f"{host} does not speak TLS as expected: {cause.reason or cause} (see USE_SSL_FOR_PI)"
    if isinstance(cause, TimeoutError) and "handshake" in str(cause):  # a plain http server waits for the rest of our request
        return f"{host} does not answer in TLS (see USE_SSL_FOR_PI): {cause}"
    return f"{host} cannot be reached: {cause.strerror if isinstance(cause, OSError) and cause.strerror else cause}"
