"""The WebSockets of browsers: who may open one, how many there are, and how each of them ends.

A socket holds a thread of gunicorn as long as it is open, so everything is decided before the handshake is answered.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import simple_websocket  # type: ignore[import-untyped]
from flask import Flask, request
from flask_socketio import SocketIO, emit  # type: ignore[import-untyped]

from changelog.errors import BadRequest, Forbidden, Unauthorized, Unavailable
from server.login import session_name, session_user
from server.replica import Replica

MOST_SOCKETS = 100  # at once; the threads of the process are twice as many and some: see changelog/node/runner.py
PING = 5  # s between two pings, and until a browser must have answered one
MOST_WAITING = 1_000  # packets that a browser may leave unread
LARGEST_MESSAGE = 4_096  # bytes that a browser may send: it has nothing to say
GREETING = 10.0  # s from the handshake to the first word of the protocol
FAREWELL = 1.0  # s that the last event has to arrive in
PATH = "/socket.io/"
VISIT = "drover.visit"  # our entry in the WSGI environment

logger = logging.getLogger(__name__)
for library in ("socketio.server", "engineio.server"):
    logging.getLogger(library).setLevel(logging.ERROR)  # or they add a handler of their own, and log every packet


@dataclass(eq=False, slots=True)
class Visit:
    """A socket from the handshake to its end. `sid` is its name in Socket.IO, once it has one."""

    environ: dict[str, Any]
    session: str  # see `login.session_name`
    since: float = field(default_factory=time.monotonic)
    sid: str | None = None
    over: float | None = None  # when it was told that it is not wanted any more


class BoundedWebSocket:
    """What Engine.IO speaks through: simple-websocket with a limit on what comes in, and with threads that keep no process alive."""

    def __init__(self, handler: Callable[[Any], Any], _server: Any) -> None:
        self._handler = handler

    def __call__(self, environ: dict[str, Any], _start_response: Any) -> Any:
        """Answer the handshake and serve the socket to its end."""
        threads = partial(threading.Thread, daemon=True)
        self._socket = simple_websocket.Server(environ, max_message_size=LARGEST_MESSAGE, thread_class=threads)
        self._handler(self)
        raise StopIteration  # tells gunicorn that the connection is used up

    def wait(self) -> Any:
        """The next message, None at the end."""
        with suppress(simple_websocket.ConnectionClosed):
            return self._socket.receive()

    def send(self, message: Any) -> None:
        """Raises OSError when it is closed."""
        try:
            self._socket.send(message)
        except simple_websocket.ConnectionClosed as exc:
            raise OSError from exc

    def close(self) -> None:
        """Say so to the other side."""
        with suppress(simple_websocket.ConnectionClosed, OSError):
            self._socket.close()


class Sockets:
    """All sockets of this process, and the gate before them: a WSGI application around that of the pages."""

    def __init__(self, app: Flask, replica: Replica, greeting: Callable[[], tuple[str, Any]]) -> None:
        """Takes its place before `app`. `greeting` is the first event of each socket and its argument."""
        self._app, self._replica, self._greeting = app, replica, greeting
        self._lock = threading.Lock()
        self._visits: set[Visit] = set()
        self._closed = False
        self._pages = app.wsgi_app
        self._io = SocketIO(
            app,
            async_mode="threading",
            transports=["websocket"],
            ping_interval=PING,
            ping_timeout=PING,
            max_http_buffer_size=LARGEST_MESSAGE,
            cors_allowed_origins=[],  # no rule of its own: ours is stricter
            manage_session=False,
            async_handlers=False,
            allow_upgrades=False,
        )
        self._io.server.eio._async = {**self._io.server.eio._async, "websocket": BoundedWebSocket}
        self._protocol = app.wsgi_app
        app.wsgi_app = self  # type: ignore[method-assign]
        self._io.on_event("connect", self._greet)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Pages to the pages; a handshake is answered with a problem document, or held until its socket ends."""
        if not environ.get("PATH_INFO", "").startswith(PATH):
            return self._pages(environ, start_response)
        with self._app.request_context(environ):
            try:
                visit = self._admit(environ)
            except Exception as exc:
                refusal = self._app.make_response(self._app.handle_user_exception(exc))
                return self._app.process_response(refusal)(environ, start_response)
        environ[VISIT] = visit
        try:
            return self._protocol(environ, start_response)
        finally:
            with self._lock:
                self._visits.discard(visit)

    @property
    def any(self) -> bool:
        """Whether somebody listens, or is about to."""
        return bool(self._visits)

    def tell(self, event: str, argument: Any) -> None:
        """Send an event to everybody; returns without waiting for anybody."""
        self._drop_the_slow()
        try:
            self._io.emit(event, argument)
        except Exception:  # a socket that ended meanwhile; who stood behind it in the row has not been told
            logger.debug("an event is sent again", exc_info=True)
            self._io.emit(event, argument)

    def sign_out(self, session: str) -> None:
        """End the sockets of this session."""
        for visit in self._now():
            if visit.session == session:
                self._see_off(visit)

    def review_users(self) -> None:
        """End the sockets whose session has run out, or whose user changed, was deactivated or deleted. Raises Unavailable."""
        with self._replica.read() as db:
            for visit in self._now():
                with self._app.request_context(visit.environ):
                    if session_user(db) is None:
                        self._see_off(visit)

    def review_links(self) -> None:
        """Cut off who has been told to go, who never greeted, and whom the protocol has given up already."""
        now = time.monotonic()
        alive = {environ.get(VISIT) for environ in self._io.server.environ.copy().values()}
        for visit in self._now():
            told_to_go = visit.over is not None and now - visit.over > FAREWELL
            silent = visit.sid is None and now - visit.since > GREETING
            given_up = visit not in alive and now - visit.since > GREETING
            if told_to_go or silent or given_up:
                self._cut(visit)

    def close(self) -> None:
        """Cut off everybody and admit nobody any more. Browsers come again by themselves."""
        self._closed = True
        for visit in self._now():
            self._cut(visit)

    def _admit(self, environ: dict[str, Any]) -> Visit:
        """The visit of this request. Raises BadRequest, Forbidden, Unauthorized and Unavailable."""
        if request.args.get("transport") != "websocket" or request.headers.get("Upgrade", "").lower() != "websocket":
            raise BadRequest("Only WebSocket is spoken here.")
        if urlsplit(request.headers.get("Origin", "")).netloc != request.host:
            raise Forbidden("Only the pages of this server may listen here.")
        with self._replica.read() as db:
            user = session_user(db)
        if user is None or not session_name():
            raise Unauthorized("Sign in and load a page first.")
        visit = Visit(environ, session_name())
        with self._lock:
            if self._closed or len(self._visits) >= MOST_SOCKETS:
                raise Unavailable(f"There are {MOST_SOCKETS} sockets open, and no more are allowed: the page looks for news by itself.")
            self._visits.add(visit)
        return visit

    def _greet(self) -> None:
        visit: Visit = request.environ[VISIT]
        visit.sid = request.sid  # type: ignore[attr-defined]
        emit(*self._greeting())

    def _now(self) -> list[Visit]:
        with self._lock:
            return list(self._visits)

    def _drop_the_slow(self) -> None:
        for name, link in self._io.server.eio.sockets.copy().items():
            if link.queue.qsize() > MOST_WAITING:
                visit = self._io.server.environ.get(name, {}).get(VISIT)
                if visit is not None:
                    logger.info("a browser does not read what it is told, and is cut off: address=%s", visit.environ.get("REMOTE_ADDR"))
                    self._cut(visit)

    def _see_off(self, visit: Visit) -> None:
        """Tell that the session is over, then end; `review_links` does, for Socket.IO's own way waits until all is read."""
        if visit.over is None:
            visit.over = time.monotonic()
            if visit.sid is not None:
                self._io.emit("signed-out", to=visit.sid)

    def _cut(self, visit: Visit) -> None:
        with suppress(OSError, KeyError):  # it is closed already
            visit.environ["gunicorn.socket"].shutdown(socket.SHUT_RDWR)
