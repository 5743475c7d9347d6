"""Whom the server believes to be the Pi: exactly the pinned certificates, or the system's CAs; for requests and for the socket alike."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from changelog.errors import ConfigError
from changelog.node.certificates import certificates_in, fingerprint
from changelog.node.settings import Settings
from server.pace import PacedAdapter

NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python's ssl does not name
OUT_OF_TIME = {9: "is not valid yet", 10: "is not valid any more"}  # by OpenSSL's numbers
NEXT_STEP = "if the Pi has a new certificate: `python -m pi pair` there and `python -m server pair` here, or copy its pi-cert.pem to {pin}"

_HINTS: tuple[tuple[type[OSError], str], ...] = (
    (ConnectionRefusedError, ": is that its port, and does Drover run there?"),
    (socket.gaierror, ": nobody here knows that name; an address such as 192.168.1.100 needs none"),
)


class PinnedContext(ssl.SSLContext):
    """Trusts exactly the certificates that are pinned, whatever their dates and names are: a Pi without a clock may believe it is 1970."""

    pins: frozenset[bytes]
    presented: bytes  # DER of the certificate that the Pi showed last

    @classmethod
    def of(cls, certificates: Collection[bytes]) -> PinnedContext:
        """For these, each as DER; none: nobody is trusted. Raises ssl.SSLError when one is damaged."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificates:
            context.load_verify_locations(cadata=b"".join(dict.fromkeys(certificates)))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
        context.check_hostname = False  # exactly these are trusted, by whatever address the Pi is reached
        context.pins, context.presented = frozenset(certificates), b""
        return context

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Shake hands. What OpenSSL believes because a pinned certificate has signed it is not what was pinned."""
        sock = super().wrap_socket(*args, **kwargs)
        shown = sock.getpeercert(binary_form=True) or b""
        if shown not in self.pins:
            sock.close()
            refusal = ssl.SSLCertVerificationError(1, "another certificate than the pinned one")
            refusal.verify_message = f"it shows {fingerprint(shown)}"
            raise refusal
        self.presented = shown
        return sock


class PinnedAdapter(PacedAdapter):
    """Trusts what its SSL context trusts, whatever the environment says (requests lets REQUESTS_CA_BUNDLE override `verify`)."""

    def __init__(self, context: ssl.SSLContext, grace: float | None = None) -> None:
        """`grace` as of PacedAdapter."""
        self._context = context
        super().__init__(grace)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        """The pool of connections, with our context."""
        return super().init_poolmanager(*args, ssl_context=self._context, assert_hostname=self._context.check_hostname or False, **kwargs)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: requests would load its own CAs into the connection here."""


def pinned_certificates(settings: Settings) -> tuple[list[bytes], list[bytes]]:
    """What is pinned (more than one where somebody has put them there), and what the Pi has announced beside it, each as DER.

    Nothing where the bucket alone is followed and none was brought. Raises ConfigError when the certificate to pin cannot be read.
    """
    if settings.follow == "bucket" and not settings.pi_cert.exists():
        return [], []
    try:
        pinned = certificates_in(settings.pi_cert)
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"the Pi's certificate {settings.pi_cert} cannot be read ({exc}): copy it from the Pi, it is what this server trusts"
        ) from exc
    try:
        return pinned, certificates_in(settings.announced_cert)
    except (OSError, ValueError):
        return pinned, []


def pinning_context(settings: Settings, certificates: Collection[bytes]) -> PinnedContext:
    """What a connection to the Pi is checked with, where these are pinned (DER). Raises ConfigError when one is damaged."""
    try:
        return PinnedContext.of(certificates)
    except ssl.SSLError as exc:
        raise ConfigError(f"the Pi's certificate {settings.pi_cert} cannot be read ({exc}): copy it from the Pi again") from exc


def system_context() -> ssl.SSLContext:
    """The same, where the system's authorities decide, and the host name."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def innermost(exc: BaseException) -> BaseException:
    """What lies at the bottom of an error that libraries have wrapped."""
    while isinstance(inner := exc.__cause__ or exc.__context__, Exception):
        exc = inner
    return exc


def why_unreachable(cause: BaseException, settings: Settings) -> str:
    """A connection's failure in words that name the Pi and what to look at."""
    host = settings.pi_address
    if isinstance(cause, ssl.SSLCertVerificationError):
        if not settings.use_self_signed_cert and cause.verify_code in OUT_OF_TIME:
            why = f"{OUT_OF_TIME[cause.verify_code]}, by the clock of this server ({datetime.now(UTC):%Y-%m-%d})"
            return f"the certificate of {host} {why}: nothing was sent; set that clock, or renew the certificate"
        if not settings.use_self_signed_cert:
            own = "USE_SELF_SIGNED_CERT=True trusts the one that the Pi made itself"
            return f"the certificate of {host} is not trusted: nothing was sent ({cause.verify_message}); {own}"
        why = f"is not the one pinned in {settings.pi_cert}: nothing was sent ({cause.verify_message})"
        return f"the certificate of {host} {why}; {NEXT_STEP.format(pin=settings.pi_cert)}"
    if isinstance(cause, ssl.SSLError):
        return f"{host} does not speak TLS as expected: {cause.reason or cause} (see USE_SSL_FOR_PI)"
    if isinstance(cause, TimeoutError) and "handshake" in str(cause):  # a plain http server waits for the rest of our request
        return f"{host} does not answer in TLS (see USE_SSL_FOR_PI): {cause}"
    hint = next((hint for kind, hint in _HINTS if isinstance(cause, kind)), "")
    return f"{host} cannot be reached: {cause.strerror if isinstance(cause, OSError) and cause.strerror else cause}{hint}"
