"""A proxy before an S3 server that treats requests as a bad line, a busy server and a hotel's login page do."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, get_args

TIMEOUT = 60.0  # s for the server's answer
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset at once
HTML = b"<!doctype html><html><head><title>Welcome</title><body><p>Sign in to use the network<br>"
XHTML = b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>Sign in</p></body></html>'
REFUSALS = ((500, "InternalError"), (503, "ServiceUnavailable"), (503, "SlowDown"), (429, "TooManyRequests"), (400, "RequestTimeout"))
DRIP = 0.001  # s between two pieces of a drip

Kind = Literal["cut asked", "cut answer", "half answer", "refuse", "refuse late", "hole", "drip", "twice", "html", "xhtml", "empty", "say"]
KINDS: tuple[Kind, ...] = get_args(Kind)[:-1]


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    `cut asked`: so many bytes of its body are read, then a reset, and the server never hears of it. `cut answer`: the server has done it,
    and so many bytes of its answer arrive, then a reset; `half answer`: then the end, with no length told. `refuse`: an error of S3;
    `refuse late`: the same though the server has done it. `hole`: nothing, for `seconds`. `drip`: the answer in pieces of `at` bytes.
    `twice`: the server hears it twice. `html`, `xhtml`, `empty`: 200, and a page of somebody else's or nothing, and the server never
    hears of it. `say`: the status `at` and `content`.
    """

    kind: Kind
    at: int = 0  # bytes, or the number of a refusal
    seconds: float = 0.3
    content: bytes = b""


Choose = Callable[[str, str], Fault | None]  # method and path -> what happens to it


class BadBucket(ThreadingHTTPServer):
    """Listens on `port` of 127.0.0.1, and asks the server that listens on `target`; `choose` may be changed at any time."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target: int, choose: Choose = lambda method, path: None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.choose = target, choose
        self.port: int = self.server_address[1]
        self.done: Counter[str] = Counter()  # by kind
        self.requests = 0
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> BadBucket:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """The client has gone."""


class _Handler(BaseHTTPRequestHandler):
    server: BadBucket
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT

    def log_message(self, *_words: object) -> None:
        """Nothing."""

    def _pass_on(self) -> None:
        server = self.server
        fault = server.choose(self.command, self.path)
        with server.lock:
            server.requests += 1
            server.done[fault.kind if fault else ""] += 1
        if fault is None:
            self.wfile.write(self._asked(self._body()))
        else:
            self._treat(fault)

    def _treat(self, fault: Fault) -> None:
        if fault.kind == "cut asked":
            self.rfile.read(min(fault.at, self._length()))
            self._cut()
            return
        body = self._body()
        if fault.kind == "refuse":
            self.wfile.write(_refusal(fault.at))
        elif fault.kind == "say":
            self.wfile.write(_answer(fault.at, fault.content))
        elif fault.kind in ("html", "xhtml", "empty"):
            self.wfile.write(_answer(200, {"html": HTML, "xhtml": XHTML, "empty": b""}[fault.kind], "text/html"))
        elif fault.kind == "hole":
            time.sleep(fault.seconds)
            self._cut()
        else:
            answer = self._asked(body)
            self._tell(fault, self._asked(body) if fault.kind == "twice" else answer)

    def _tell(self, fault: Fault, answer: bytes) -> None:
        """An answer of the server, treated."""
        if fault.kind == "cut answer":
            self.wfile.write(answer[: fault.at])
            self._cut()
        elif fault.kind == "half answer":
            head, _, content = answer.partition(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
            self.wfile.write(b"\r\n".join([*lines, b"Connection: close", b"", content[: fault.at]]))
            self.close_connection = True
        elif fault.kind == "refuse late":
            self.wfile.write(_refusal(fault.at))
        elif fault.kind == "drip":
            step = max(1, fault.at)
            for place in range(0, len(answer), step):
                self.wfile.write(answer[place : place + step])
                time.sleep(DRIP)
        else:
            self.wfile.write(answer)

    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _body(self) -> bytes:
        return self.rfile.read(self._length())

    def _asked(self, body: bytes) -> bytes:
        """The server's whole answer."""
        onward = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=TIMEOUT)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}
            onward.request(self.command, self.path, body, headers)
            reply = onward.getresponse()
            content = reply.read()
        finally:
            onward.close()
        told = [f"{name}: {value}" for name, value in reply.getheaders() if name.lower() not in ("connection", "transfer-encoding")]
        if not any(line.lower().startswith("content-length") for line in told):
            told.append(f"Content-Length: {len(content)}")
        return "\r\n".join([f"HTTP/1.1 {reply.status} {reply.reason}", *told, "", ""]).encode() + content

    def _cut(self) -> None:
        with suppress(OSError):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on


def _answer(status: int, content: bytes, kind: str = "application/xml") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def _refusal(number: int) -> bytes:
    status, code = REFUSALS[number % len(REFUSALS)]
    return _answer(status, f"<Error><Code>{code}</Code><Message>not now</Message></Error>".encode())
