"""What the office writes: requests to the Pi's write API, for many threads, each sent twice at most and written once."""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests
import urllib3

from changelog import errors
from changelog.errors import BadRequest, BrokenFrame, ConfigError, DroverError, Unreachable
from changelog.node.settings import Settings
from changelog.position import Position
from changelog.wire import parse_json
from server.credentials import Credential, Credentials
from server.pace import PacedAdapter
from server.pinned import PinnedAdapter, innermost, why_unreachable

CONNECT_TIMEOUT = 3.0  # s
READ_TIMEOUT = 8.0  # s: somebody sits before the page
GRACE = 4.0  # s beyond READ_TIMEOUT for all of an answer, see server/pace.py
ASK_TIMEOUT = 1.5  # s, twice: what a page may wait for the answer whether this server may write
LARGEST_ANSWER = 2**20  # bytes
FACTS = ("field", "present", "outcome", "written")  # of a refusal, as the Pi tells them
NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")  # what a handshake fails with where nobody speaks TLS; later failures tell nothing
IDLE = 4  # sessions that are kept
KNOWN_FOR = {True: 60.0, False: 10.0, None: 10.0}  # s for which an answer, or that there was none, counts

ANSWERS: dict[int, type[DroverError]] = {
    cls.status: cls
    for cls in (
        errors.BadRequest, errors.Unauthorized, errors.Forbidden, errors.NotFound, errors.Conflict, errors.TooLarge, errors.TooMany,
        errors.Unavailable,
    )
}  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """What the Pi answered, and the position at which the replica has it."""

    reply: dict[str, Any]
    position: Position


class PiWriter:
    """The write API of the Pi that `settings` name. A session (and its connection) is lent to one thread at a time."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic, credentials: Credentials | None = None) -> None:
        """Key and trust are those of `credentials`, else of `settings`. Nothing is read or opened yet. `clock` (s) is for tests."""
        self._settings, self._clock = settings, clock
        self._credentials, self._credential = credentials or Credentials(settings), Credential("", None)
        self.host = settings.pi_address
        self._base = f"{'https' if settings.use_ssl_for_pi else 'http'}://{self.host}/api"
        self._idle: list[requests.Session] = []
        self._lock, self._asking = threading.Lock(), threading.Lock()
        self._may_write: bool | None = None
        self._known_until = 0.0

    def send(self, method: str, path: str, body: dict[str, Any] | None, *, actor: str, key: str) -> Written:
        """Write for the user `actor`. The same `key` (8 to 64 letters and digits) is written once, however often it is sent.

        Raises what the Pi refuses with, with its facts (`field`, `present`...), and Unreachable with `sent`: whether it may be written
        all the same.
        """
        headers = {"X-Actor": quote(actor, safe=""), "Idempotency-Key": key, "Accept": "application/json"}
        data = None if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            reply = self._ask(method, path, (CONNECT_TIMEOUT, READ_TIMEOUT), headers=headers, data=data)
            written = Written(reply, Position.parse(str(reply.get("position"))))
        except (errors.Forbidden, errors.Unauthorized):
            self._known_until = 0.0  # it is asked for anew
            raise
        except (BrokenFrame, BadRequest) as exc:
            if isinstance(exc, BadRequest) and "status" in exc.facts:
                raise
            raise Unreachable(f"{self.host} answered with something else than the Pi's API: {exc.message}", sent=True) from exc
        self._learn(True)
        return written

    def may_write(self) -> bool | None:
        """Whether the Pi lets this server's key write; None where the Pi does not say just now."""
        if self._clock() < self._known_until or not self._asking.acquire(blocking=False):
            return self._may_write
        try:
            self._learn(bool(self._ask("GET", "/key", (ASK_TIMEOUT, ASK_TIMEOUT)).get("writes")))
        except errors.Unauthorized:
            self._learn(False)
        except DroverError as exc:
            logger.debug("the Pi does not say whether this server may write: %s", exc.message)
            self._learn(None)
        finally:
            self._asking.release()
        return self._may_write

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def _learn(self, may_write: bool | None) -> None:
        self._may_write, self._known_until = may_write, self._clock() + KNOWN_FOR[may_write]

    def _ask(self, method: str, path: str, timeout: tuple[float, float], **more: Any) -> dict[str, Any]:
        """The JSON object of an answer. Raises what the Pi refuses with, BrokenFrame, and Unreachable."""
        try:
            return self._ask_twice(method, path, timeout, **more)
        except errors.Unauthorized:
            if not self._renewed(again=True):
                raise
        return self._ask_twice(method, path, timeout, **more)  # there was another key in .env

    def _ask_twice(self, method: str, path: str, timeout: tuple[float, float], **more: Any) -> dict[str, Any]:
        with self._session() as (session, used):
            try:
                return self._answer(session, method, path, timeout, **more)
            except Unreachable as exc:
                session.close()
                if not used or not isinstance(innermost(exc), ConnectionError):
                    raise
                first = bool(exc.facts.get("sent"))
            try:  # the Pi had closed the connection, as it does when it restarts: once more, over a new one
                return self._answer(session, method, path, timeout, **more)
            except Unreachable as exc:
                raise Unreachable(exc.message, sent=first or exc.facts.get("sent")) from exc

    def _answer(self, session: requests.Session, method: str, path: str, timeout: tuple[float, float], **more: Any) -> dict[str, Any]:
        try:
            with session.request(method, self._base + path, timeout=timeout, stream=True, allow_redirects=False, **more) as response:
                body = _first_bytes(response)
                status = response.status_code
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:  # urllib3's where the answer breaks off
            cause = innermost(exc)
            raise Unreachable(why_unreachable(cause, self._settings), sent=_may_have_arrived(exc)) from exc
        try:
            reply = parse_json(body)
        except BrokenFrame:
            reply = None
        if status >= 400:
            facts = reply if isinstance(reply, dict) else {}
            message = str(facts.get("message") or f"{self.host} answered HTTP {status}")
            kind = ANSWERS.get(status, Unreachable)
            known = {name: facts[name] for name in FACTS if name in facts}
            raise kind(message, **known, status=status, sent=status >= 500 and known.get("written") is not False)
        if not isinstance(reply, dict):
            raise BrokenFrame(f"HTTP {status} without a JSON object")
        return reply

    def _renewed(self, *, again: bool = False) -> bool:
        """Whether key or trust are others than at the last request; then no session of before is used again."""
        try:
            credential = self._credentials.present(again=again)
        except ConfigError as exc:
            raise Unreachable(exc.message, sent=False) from exc
        with self._lock:
            if credential is self._credential:
                return False
            self._credential, old, self._idle = credential, self._idle, []
            self._known_until = 0.0
        for session in old:
            session.close()
        return True

    @contextmanager
    def _session(self) -> Iterator[tuple[requests.Session, bool]]:
        """A session that nobody else uses meanwhile, and whether it was used before. Raises Unreachable without a usable certificate."""
        self._renewed()
        with self._lock:
            session, credential = self._idle.pop() if self._idle else None, self._credential
        used = session is not None
        if session is None:
            session = _new_session(credential)
        try:
            yield session, used
        finally:
            with self._lock:
                kept = len(self._idle) < IDLE and credential is self._credential
                if kept:
                    self._idle.append(session)
            if not kept:
                session.close()


def _new_session(credential: Credential) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.headers["X-API-Key"] = credential.key
    session.mount("http://", PacedAdapter(GRACE))
    if credential.context is not None:
        session.mount("https://", PinnedAdapter(credential.context, GRACE))
    return session


def _first_bytes(response: requests.Response) -> bytes:
    """As much of the body as an answer of ours can have. Raises RequestException, also for an encoding that is none."""
    body = bytearray()
    for piece in response.iter_content(LARGEST_ANSWER):
        body += piece
        if len(body) >= LARGEST_ANSWER:
            break
    return bytes(body[:LARGEST_ANSWER])


def _may_have_arrived(exc: Exception) -> bool:
    """Whether the Pi may have got the request though no answer came: not where there was no connection, or no trust."""
    cause = innermost(exc)
    unsaid = isinstance(cause, ConnectionRefusedError | ssl.SSLCertVerificationError) or getattr(cause, "reason", "") in NO_TLS
    return not (unsaid or isinstance(exc, requests.exceptions.ConnectTimeout) or "NewConnectionError" in repr(exc))
