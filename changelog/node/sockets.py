"""WebSockets of a role: Socket.IO on the role's own port, made so that no client can hold up or fill the process.

Each socket takes one thread of the server's pool and three of its own. Who may have one is judged before the upgrade; who may not is told
why by Socket.IO, on one of a few spare sockets, and cut off. What is told is encoded once, and waits in a queue for each client, which a
thread of its own sends from: a client that leaves too much there, or answers no pings, is cut off, and pulls when it comes again.
"""

from __future__ import annotations

import base64
import errno
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import engineio  # type: ignore[import-untyped]
import socketio  # type: ignore[import-untyped]
from flask import Flask, request
from flask_socketio import SocketIO  # type: ignore[import-untyped]

from changelog.errors import BadRequest, DroverError, Unavailable

PATH = "/socket.io/"
PING, PONG = 5, 5  # s between two pings, and until one must be answered
LOOK = 1.0  # s between two looks at who is silent, or should have gone
WAITING = 1_000  # packets that may wait for one client
WAITING_BYTES = 8 * 2**20  # the same in bytes; looked at only from FEW packets on
FEW = 64
STRANGERS = 16  # sockets beyond the cap, on which those are refused who are not let in; the others get a plain answer
STRANGERS_KEPT = 10.0  # s for which one of those counts, which is longer than it can last
PATIENCE = 5.0  # s from the upgrade until a client is through the handshake of Socket.IO
FAREWELL = 1.0  # s from the end of a socket until its connection is cut
TALK = 2**20  # bytes that a client may send in its life; at one answer to a ping every 5 s that is a week
SEND_BUFFER = 128 * 1024  # bytes that the kernel keeps for a client that does not read
STOP_GRACE = 0.5  # s for clients to take their leave when the process stops

logger = logging.getLogger(__name__)

_QUIET = logging.getLogger("socketio.quiet")  # the libraries log each packet, and every refused client as an error
_QUIET.setLevel(logging.CRITICAL)


class Wire:
    """The connection of one client, as the threads of its socket use it: writes go out whole and one at a time, and anybody may cut it.

    What the library does by itself would write into other clients' connections: one thread closes while another one writes, and the number
    of the file descriptor is given to who comes next.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._writing = threading.Lock()
        self._ending = threading.Lock()
        self._used = False
        self._closed = threading.Event()
        self._heard = 0

    def send(self, data: bytes) -> int:
        """Send all. Two threads that write to one TLS connection at a time would ruin it, or the process."""
        self._used = True
        try:
            with self._writing:
                if self._closed.is_set():
                    raise ConnectionAbortedError
                self._sock.sendall(data)
        except OSError as exc:
            raise BrokenPipeError(errno.EPIPE, "the client has gone") from exc  # the one error that neither library nor gunicorn logs
        return len(data)

    def recv(self, size: int) -> bytes:
        """What came."""
        piece = self._sock.recv(size)
        self._heard += len(piece)
        if self._heard > TALK:
            raise ConnectionAbortedError("a client says more than any that means well")
        return piece

    def cut(self) -> None:
        """End the connection at once, whoever is reading or writing; beneath TLS, whose state belongs to those threads."""
        with self._ending, suppress(OSError):
            if not self._closed.is_set():
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the file descriptor back: called by the thread that reads, as its last act."""
        self.cut()
        with self._writing, self._ending:
            self._sock.close()
            self._closed.set()

    def settle(self) -> None:
        """Return when no thread uses the connection any more, so that its owner may close it."""
        if self._used and not self._closed.wait(FAREWELL):
            self.cut()
            self._closed.wait(FAREWELL)

    def fileno(self) -> int:
        """The file descriptor."""
        return self._sock.fileno()


@dataclass(eq=False)
class Link:
    """One client, from its request until its thread is free again."""

    wire: Wire
    caller: Any = None  # what `admit` said of it
    refusal: DroverError | None = None  # why it is not let in
    began: float = field(default_factory=time.monotonic)
    sid: str = ""  # Socket.IO's name for it, once it is through the handshake
    queue: str = ""  # Engine.IO's
    ready: bool = False  # greeted: from now on it is told everything
    ended: float | None = None  # time.monotonic() when either side ended it

    def is_over(self, now: float) -> bool:
        """Whether its connection is to be cut."""
        return now - self.ended > FAREWELL if self.ended is not None else not self.sid and now - self.began > PATIENCE


class Sockets:
    """The sockets of `app`: a service of its role."""

    def __init__(self, app: Flask, admit: Callable[[], Any], greet: Callable[[Link], object], most: int) -> None:
        """At most `most` clients at once.

        `admit` is called in the context of a client's request: it returns who that is, or raises a DroverError whose message the client is
        told. `greet` is called for each new client, under `lock`, before it is told anything else.
        """
        self.lock = threading.RLock()  # one `tell` at a time, so that all clients hear the same in the same order
        self.dropped = 0  # clients that were cut off because too much waited for them
        self._admit, self._greet, self._most = admit, greet, most
        self._links: set[Link] = set()
        self._strangers: list[float] = []  # time.monotonic() of the last ones
        self._held = threading.Lock()  # for these two
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sockets", daemon=True)
        self._app, self._plain = app, app.wsgi_app
        self._io = SocketIO(
            app,
            async_mode="threading",
            transports=["websocket"],
            ping_interval=PING,
            ping_timeout=PONG,
            monitor_clients=False,  # `_look` does it, in less time
            async_handlers=False,  # else each packet of a client starts a thread
            manage_session=False,
            logger=_QUIET,
            engineio_logger=_QUIET,
        )
        self._upgrading = app.wsgi_app
        self._io.on("connect")(self._connected)
        self._io.on("disconnect")(self._disconnected)
        app.wsgi_app = self._gate  # type: ignore[method-assign]
        app.add_url_rule(PATH, "sockets", self._refuse, methods=["GET", "POST", "OPTIONS"])

    @property
    def links(self) -> list[Link]:
        """The clients that are told what happens, at this moment."""
        with self._held:
            return [link for link in self._links if link.ready and link.ended is None]

    def tell(self, links: Iterable[Link], event: str, facts: dict[str, Any]) -> None:
        """Send an event to these clients: it is encoded once and queued for each; nobody waits for anybody."""
        server = self._io.server
        encoded = server.packet_class(socketio.packet.EVENT, namespace="/", data=[event, facts]).encode()
        packets = [engineio.packet.Packet(engineio.packet.MESSAGE, each) for each in (encoded if isinstance(encoded, list) else [encoded])]
        with self.lock:
            for link in links:
                with suppress(engineio.exceptions.SocketIsClosedError):
                    for packet in packets:
                        server.eio.send_packet(link.queue, packet)

    def shed(self) -> None:
        """Cut off the clients for which too much waits."""
        for link in self.links:
            if self._waiting_too_much(link):
                self.dropped += 1
                logger.warning("a client reads too slowly and is cut off caller=%s", link.caller)
                self._end(link)
                link.wire.cut()

    def dismiss(self, link: Link) -> None:
        """Tell this client nothing more, and cut it off when what it has been told should have arrived."""
        link.ended = link.ended or time.monotonic()

    def start(self) -> None:
        """Watch over the clients."""
        self._thread.start()

    def stop(self) -> None:
        """Let nobody in any more, and end all sockets in a way in which clients come again."""
        self._stopped.set()
        for link in self._all():
            self._end(link)
        until = time.monotonic() + STOP_GRACE
        while self._all() and time.monotonic() < until:
            time.sleep(0.01)
        for link in self._all():
            link.wire.cut()
        if self._thread.is_alive():
            self._thread.join()

    def _all(self) -> list[Link]:
        with self._held:
            return list(self._links)

    # --- a client comes

    def _gate(self, environ: dict[str, Any], start_response: Any) -> Any:
        """The application, with a judge before the library: what passes here is a WebSocket, and one of few."""
        if not environ["PATH_INFO"].startswith(PATH):
            return self._plain(environ, start_response)
        link = self._open(environ)
        if link is None:
            environ.pop("HTTP_UPGRADE", None)  # or Flask looks for a route that is a WebSocket
            return self._plain(environ, start_response)
        environ["gunicorn.socket"], environ["drover.link"] = link.wire, link
        environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)  # no compression: it would be done again for every client
        try:
            return self._upgrading(environ, start_response)  # returns, or raises, when the socket has ended
        except (ValueError, RecursionError) as exc:  # the library's, from the first letter or the JSON of a packet
            logger.debug("a client says what is no packet, and is cut off caller=%s cause=%s", link.caller, exc)
            link.wire.cut()
            raise StopIteration from exc  # which is how the library tells gunicorn that a socket has ended
        finally:
            self._forget(link)

    def _open(self, environ: dict[str, Any]) -> Link | None:
        """A client's link, or None where it is not even refused on a socket; then `_refuse` answers with what stands in environ."""
        if not _is_websocket(environ):
            environ["drover.refusal"] = BadRequest(f"connect to {PATH} by WebSocket: with transports=['websocket'] in a Socket.IO client")
            return None
        link = Link(Wire(environ["gunicorn.socket"]))
        try:
            with self._app.request_context(environ):
                link.caller = self._admit()
        except DroverError as exc:
            link.refusal = exc
        with self._held:
            if link.refusal is None and sum(1 for each in self._links if not each.refusal) >= self._most:
                link.refusal = Unavailable(f"all {self._most} sockets are taken: pull, and try again later")
            if self._stopped.is_set():
                link.refusal = Unavailable("this process is stopping")
            if link.refusal and not self._may_hear_why(link):
                environ["drover.refusal"] = link.refusal
                return None
            self._links.add(link)
        with suppress(OSError):
            environ["gunicorn.socket"].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        return link

    def _may_hear_why(self, link: Link) -> bool:
        """Whether there is a socket for a stranger: each one leaves threads behind for a while."""
        self._strangers = [at for at in self._strangers if link.began - at < STRANGERS_KEPT]
        if self._stopped.is_set() or len(self._strangers) >= STRANGERS:
            return False
        self._strangers.append(link.began)
        return True

    def _refuse(self) -> Any:
        raise request.environ.get("drover.refusal") or BadRequest("sockets are not served here")

    def _connected(self, _auth: object = None) -> None:
        """Socket.IO's handshake; what it answers is sent only after this returns."""
        link: Link = request.environ["drover.link"]
        if link.sid:
            raise socketio.exceptions.ConnectionRefusedError("one connection is one client: connect anew")
        if link.refusal:
            link.ended = time.monotonic()
            raise socketio.exceptions.ConnectionRefusedError(link.refusal.message)
        link.queue = self._io.server.manager.eio_sid_from_sid(request.sid, "/")  # type: ignore[attr-defined]
        link.sid = request.sid  # type: ignore[attr-defined]
        threading.Thread(target=self._welcome, args=(link,), name="welcome", daemon=True).start()

    def _welcome(self, link: Link) -> None:
        """Greet a client once the library has told it that it is in: an event that overtook that would confuse it."""
        until = link.began + PATIENCE
        while not self._io.server.manager.is_connected(link.sid, "/"):
            if link.ended is not None or time.monotonic() > until:
                return
            time.sleep(0.001)
        with self.lock:
            self._greet(link)
            link.ready = True

    # --- and goes

    def _forget(self, link: Link) -> None:
        """Its thread is free again. Gunicorn is told so by an exception, behind which the library does not clean up."""
        server = self._io.server
        for queue in [queue for queue, environ in list(server.environ.items()) if environ.get("drover.link") is link]:
            if (waiting := server.eio.sockets.get(queue)) is not None:
                waiting.close(wait=False, abort=True)  # it is closed already, but behind a packet that is none
            server.environ.pop(queue, None)
        link.wire.settle()
        with self._held:
            self._links.discard(link)
        for queue, waiting in list(server.eio.sockets.items()):
            if waiting.closed:
                server.eio.sockets.pop(queue, None)

    def _disconnected(self, _reason: object = None) -> None:
        link: Link = request.environ["drover.link"]
        link.ended = link.ended or time.monotonic()

    def _end(self, link: Link) -> None:
        """End a socket by a plain close of the WebSocket: at a farewell of Socket.IO clients do not come again."""
        link.ended = link.ended or time.monotonic()
        waiting = self._io.server.eio.sockets.get(link.queue)
        if waiting is not None:
            waiting.close(wait=False, abort=True)

    def _waiting_too_much(self, link: Link) -> bool:
        waiting = self._io.server.eio.sockets.get(link.queue)
        if waiting is None or waiting.queue.qsize() <= FEW:
            return False
        with waiting.queue.mutex:
            packets = list(waiting.queue.queue)
        return len(packets) > WAITING or sum(len(packet.data or "") for packet in packets if packet) > WAITING_BYTES

    def _run(self) -> None:
        while not self._stopped.wait(LOOK):
            try:
                self._look()
            except Exception:
                logger.exception("the sockets could not be looked after")

    def _look(self) -> None:
        """Cut off who is silent, slow, or should have gone."""
        self.shed()
        for link in self._all():
            waiting = self._io.server.eio.sockets.get(link.queue)
            if waiting is not None and link.ended is None:
                with suppress(engineio.exceptions.SocketIsClosedError):
                    waiting.check_ping_timeout()  # ends it when the last ping is too old, which calls `_disconnected`
            if link.is_over(time.monotonic()):
                link.wire.cut()


def _is_websocket(environ: dict[str, Any]) -> bool:
    """Whether this is the request of a new Engine.IO client that begins with a WebSocket: the library stumbles over half of one."""
    asked = parse_qs(environ.get("QUERY_STRING", ""))
    tokens = {token.strip().lower() for token in environ.get("HTTP_CONNECTION", "").split(",")}
    return (
        environ["PATH_INFO"] == PATH
        and environ["REQUEST_METHOD"] == "GET"
        and "gunicorn.socket" in environ
        and "upgrade" in tokens
        and environ.get("HTTP_UPGRADE", "").lower() == "websocket"
        and environ.get("HTTP_SEC_WEBSOCKET_VERSION") == "13"
        and _is_nonce(environ.get("HTTP_SEC_WEBSOCKET_KEY", ""))
        and asked.get("transport") == ["websocket"]
        and asked.get("EIO") == ["4"]
        and not {"sid", "j"} & asked.keys()
    )


def _is_nonce(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9+/]{22}==", text)) and len(base64.b64decode(text)) == 16
