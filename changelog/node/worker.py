"""gunicorn's threaded worker, made patient: no client holds a thread before its request has arrived.

gthread shakes hands and reads requests in its pool, so as many silent clients as there are threads stop the server for as long as they
like, and a client that is slow to close stops its main loop. Here the loop does all of that without blocking: handshake, request head,
small body and the wait after the last byte each have a deadline that no dripping extends. A thread is taken only for a whole request.
"""

from __future__ import annotations

import errno
import json
import re
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.http.errors import (  # type: ignore[import-untyped]
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    NoMoreData,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn, ThreadWorker  # type: ignore[import-untyped]

from changelog.node.problems import FAILED

HANDSHAKE_DEADLINE = 5.0  # s from accept to the end of the TLS handshake
REQUEST_DEADLINE = 10.0  # s for a request head and a small body
BODY_DEADLINE = 15.0  # s for a body that is read in a thread, because it is large or of unknown length
LINGER = 2.0  # s that a client has to close its side after our last byte
STOP_LINGER = 0.25  # s that a stopping worker still waits for what is held
HEAD_LIMIT = 32 * 1024  # bytes of a request head
GATHERED_BODY = 64 * 1024  # bytes of a body up to which it is awaited without a thread
HELD_LIMIT = 512  # connections held without a thread; beyond, the one held longest is dropped
SEND_STALL = 60_000  # ms after which the kernel gives up a client that takes nothing of our answer
READ = 64 * 1024  # bytes asked of a socket at once

_HEAD_END = b"\r\n\r\n"
_SMALL_BODY = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,6})[ \t]*\r\n", re.IGNORECASE)
_WAITS_FOR_US = re.compile(rb"\r\n(expect|transfer-encoding):", re.IGNORECASE)
_STATUS: tuple[tuple[Any, int, str], ...] = (  # the first that fits
    ((InvalidResponseHeader, InvalidResponseHeaderName), 500, FAILED),
    (LimitRequestLine, 414, "The address is too long: send less in the query"),
    (LimitRequestHeaders, 431, "The head of the request is too long, or has too many fields"),
    (UnsupportedTransferCoding, 501, "Of the transfer codings only chunked is known here"),
    (ExpectationFailed, 417, "Of the expectations only 100-continue is known here"),
    ((ParseException, ssl.SSLError), 400, "What came is no well-formed HTTP request"),
    (Exception, 500, FAILED),
)


def _problem(status: int, message: str) -> bytes:
    """The whole answer to a request that never reaches the application."""
    facts = {"title": HTTPStatus(status).phrase, "status": status, "detail": message, "success": False, "message": message}
    body = json.dumps({"type": "about:blank", **facts}) + "\n"
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


class BodyReader(SocketUnreader):
    """What a pool thread reads a large body with: however slowly that drips, it ends at `deadline`."""

    deadline = 0.0  # s, monotonic

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes of the client; raises NoMoreData when they do not come in time, or never."""
        left = self.deadline - time.monotonic()
        try:
            self.sock.settimeout(max(left, 0.001))
            try:
                piece: bytes = super().chunk(size_hint)
            finally:
                self.sock.settimeout(None)
        except OSError as exc:
            raise NoMoreData from exc
        if not piece:
            raise NoMoreData
        return piece


class Connection(TConn):
    """A client's connection, and how far its next request has come."""

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any, tls: ssl.SSLContext | None) -> None:
        super().__init__(cfg, sock, client, server)
        if tls is not None:
            self.sock = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.initialized = True  # or the base class would shake hands again, in a thread
        self.parser = RequestParser(cfg, self.sock, client)
        self.parser.unreader = BodyReader(self.sock)
        self.shaken = tls is None
        self.idle = False  # kept alive, and nothing has come since the last answer
        self.lingering = False  # we have sent our last byte
        self.received = bytearray()
        self.deadline = 0.0

    def advance(self) -> int:
        """Go on without blocking. Returns the event to wait for, or 0 when a whole request has been received.

        Raises OSError when the connection is over, ParseException when the head is too long.
        """
        try:
            if not self.shaken:
                self.sock.do_handshake()
                self.shaken = True
                self.deadline = time.monotonic() + REQUEST_DEADLINE
            while not self._whole():
                self._receive()
        except (BlockingIOError, ssl.SSLWantReadError):
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        return 0

    def has_unseen(self) -> bool:
        """Whether there is something that no poller reports: bytes taken off the socket before, by the parser or by TLS."""
        return bool(self.received) or (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0)

    def is_upgraded(self) -> bool:
        """Whether the last request asked for another protocol: then the socket may have belonged to a WebSocket."""
        request = self.parser.mesg
        return request is not None and any(name == "UPGRADE" for name, _ in request.headers)

    def _receive(self) -> None:
        piece = self.sock.recv(READ)
        if not piece:
            raise ConnectionResetError
        if self.idle:
            self.idle = False
            self.deadline = time.monotonic() + REQUEST_DEADLINE
        self.received += piece

    def _whole(self) -> bool:
        """Whether the head is there, and so much of the body as is awaited; the parser judges later whether they are right."""
        end = self.received.find(_HEAD_END)
        if end < 0:
            if len(self.received) > HEAD_LIMIT:
                raise LimitRequestHeaders("the request head is too long")
            return False
        head = self.received[: end + 2]
        length = _SMALL_BODY.search(head)
        if length is None or int(length[1]) > GATHERED_BODY or _WAITS_FOR_US.search(head):
            return True
        return len(self.received) >= end + len(_HEAD_END) + int(length[1])


class Answering:
    """A client's connection while it is answered: the head of an answer waits for the first piece of its body.

    gunicorn sends the head by itself, which makes two TLS records, two packets and two wake-ups of the client for each small answer.
    """

    def __init__(self, conn: Connection) -> None:
        self.client, self.server, self._sock = conn.client, conn.server, conn.sock
        self._head: bytes | None = None

    @property
    def sock(self) -> Answering:
        """What gunicorn writes to."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, data: bytes) -> None:
        """Keep the head, which comes first; send it with what comes next."""
        if self._head is None:
            self._head = data
        elif self._head and len(data) <= READ:
            self._sock.sendall(self._head + data)
            self._head = b""
        else:
            self.flush()
            self._sock.sendall(data)

    def sendfile(self, *args: Any, **kwargs: Any) -> int:
        """A file behind the head."""
        self.flush()
        return self._sock.sendfile(*args, **kwargs)

    def flush(self) -> None:
        """Send a head behind which nothing comes."""
        if self._head:
            self._sock.sendall(self._head)
            self._head = b""


class PatientWorker(ThreadWorker):
    """The worker of both roles. `held` are the connections without a thread; only the main loop touches them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held: dict[Connection, None] = {}  # oldest first

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop on Ctrl-C as on SIGTERM: gunicorn would drop everything in the middle."""
        self.handle_exit(sig, frame)

    def accept(self, listener: Any) -> None:
        """Take a new connection into the loop."""
        try:
            client, address = listener.accept()
        except OSError as exc:
            if exc.errno in (errno.EMFILE, errno.ENFILE):
                self._shed()
            return
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_STALL)
            tls = self.app.tls.context() if self.app.tls else None  # gunicorn would read the certificate again for every connection
            conn = Connection(self.cfg, client, address, listener.getsockname(), tls)
        except OSError:
            client.close()
            return
        self.nr_conns += 1
        self._hold(conn, REQUEST_DEADLINE if conn.shaken else HANDSHAKE_DEADLINE)

    def handle_request(self, req: Any, conn: Connection) -> bool:
        """Answer as gunicorn does, with the head and the first piece of the body in one write."""
        if conn.is_upgraded():  # then what is written need not be HTTP
            return bool(super().handle_request(req, conn))
        answering = Answering(conn)
        kept: bool = super().handle_request(req, answering)
        answering.flush()
        return kept

    def finish_request(self, conn: Connection, fs: Future[Any]) -> None:
        """After an answer: wait for the next request, or for the client to close."""
        if not fs.cancelled() and fs.exception() is None and fs.result():
            conn.received += conn.parser.unreader.take_buffered()  # a next request that came with the last body
            conn.idle = not conn.received
            self._hold(conn, self.cfg.keepalive if conn.idle else REQUEST_DEADLINE)
        elif conn.is_upgraded():
            self._forget(conn)  # a thread of the WebSocket may still read it, or have closed it
        else:
            self._linger(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        """Drop the connections whose time is over, or all."""
        now = time.monotonic()
        for conn in [conn for conn in self.held if force or conn.deadline <= now]:
            self._drop(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """gunicorn calls this once, when it begins to stop: end the services, and wait for nobody who has not asked anything."""
        self.app.begin_stop()
        soon = time.monotonic() + STOP_LINGER
        for conn in self.held:
            conn.deadline = min(conn.deadline, soon)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """One turn of the loop; a stopping worker looks more often whether it may end."""
        super().wait_for_and_dispatch_events(timeout if self.alive else 0.05)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer what never reached the application with a problem document."""
        status, words = next((status, words) for kind, status, words in _STATUS if isinstance(exc, kind))
        if status == 500:
            self.log.error("a request failed outside the application", exc_info=exc)
        try:
            util.write_nonblock(client, _problem(status, words))
        except OSError:
            self.log.debug("the client of a malformed request has gone")

    def _hold(self, conn: Connection, seconds: float) -> None:
        """Wait for `conn` in the loop, `seconds` at most; what is already there is taken at once."""
        try:
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, selectors.EVENT_READ, self._watch(conn))
        except (OSError, ValueError):
            self._forget(conn)
            return
        conn.deadline = time.monotonic() + (seconds if self.alive else min(seconds, STOP_LINGER))
        self.held[conn] = None
        if len(self.held) > HELD_LIMIT:
            self._shed()
        if conn.has_unseen():
            self._go_on(conn, None)

    def _watch(self, conn: Connection) -> Callable[[Any], None]:
        return partial(self._go_on, conn)

    def _go_on(self, conn: Connection, _: Any) -> None:
        """Take what has come for a held connection, and hand it to a thread when its request is whole."""
        if conn not in self.held:
            return  # dropped earlier in this turn
        try:
            if conn.lingering:
                if not conn.sock.recv(READ):
                    self._drop(conn)
                return
            event = conn.advance()
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except (ParseException, ssl.SSLError) as exc:
            self._release(conn)
            self._refuse(conn, exc)
        except (OSError, ValueError):
            self._drop(conn)
        else:
            if event:
                self.poller.modify(conn.sock, event, self._watch(conn))
            else:
                self._dispatch(conn)

    def _dispatch(self, conn: Connection) -> None:
        self._release(conn)
        conn.parser.unreader.unread(bytes(conn.received))
        conn.parser.unreader.deadline = time.monotonic() + BODY_DEADLINE
        conn.received.clear()
        self.enqueue_req(conn)

    def _refuse(self, conn: Connection, exc: Exception) -> None:
        """Answer a head that is too long, and http where https is spoken; then close."""
        if isinstance(exc, ParseException):
            self.handle_error(None, conn.sock, conn.client, exc)
        elif getattr(exc, "reason", None) == "HTTP_REQUEST":
            with suppress(OSError):
                socket.socket.send(conn.sock, _problem(400, "This port speaks https: write https:// before the address"))  # beneath TLS
        self._linger(conn)

    def _linger(self, conn: Connection) -> None:
        """Say that nothing more comes and let the client close: with unread bytes a close() would cut off our answer by a reset."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._forget(conn)
            return
        conn.lingering = True
        self._hold(conn, LINGER)

    def _release(self, conn: Connection) -> None:
        del self.held[conn]
        self.poller.unregister(conn.sock)

    def _drop(self, conn: Connection) -> None:
        self._release(conn)
        self._forget(conn)

    def _shed(self) -> None:
        """Make room: who is not through after so many others came is slow, idle or hostile."""
        if self.held:
            self._drop(next(iter(self.held)))

    def _forget(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()
