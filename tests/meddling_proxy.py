"""A proxy on loopback that ends TLS, as a company's does, and meddles with what it sees: requests come twice, answers are changed."""

from __future__ import annotations

import random
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "host", "upgrade")  # headers that are not passed on
TIMEOUT = 60.0  # s for one request

Meddle = Callable[[str, str], str]  # method and path -> "pass", "twice", "flip" (a bit of the answer), "cut" (the answer breaks off)


class MeddlingProxy:
    """Listens on `port` of 127.0.0.1 with a certificate of its own, and asks the Pi at `target` (https://...)."""

    def __init__(self, target: str, trusted: Path, certificate: Path, key: Path, meddle: Meddle, *, plain: bool, seed: int) -> None:
        """`trusted` is the Pi's certificate. `plain`: the Pi is asked for answers that are not compressed, as such proxies do."""
        self.target, self.trusted, self.meddle, self.plain = target, trusted, meddle, plain
        self.chance, self.lock = random.Random(seed), threading.Lock()
        self.done: Counter[str] = Counter()  # by what was done
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> MeddlingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def flipped(self, body: bytes) -> bytes:
        """The body with one bit changed."""
        with self.lock:
            place, bit = self.chance.randrange(len(body)), 1 << self.chance.randrange(8)
        return body[:place] + bytes([body[place] ^ bit]) + body[place + 1 :]


class _Handler(BaseHTTPRequestHandler):
    proxy: MeddlingProxy
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT

    def log_message(self, *_words: object) -> None:
        """Nothing."""

    def _pass_on(self) -> None:
        proxy = self.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/socket.io"):
            self._answer(501, {}, b"")
            return
        what = proxy.meddle(self.command, self.path)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        headers |= {"Accept-Encoding": "identity"} if proxy.plain else {}
        answers = [self._ask(headers, body) for _ in range(2 if what == "twice" else 1)]
        status, told, content = answers[-1]
        if what == "flip" and content:
            content = proxy.flipped(content)
        with proxy.lock:
            proxy.done[what] += 1
        self._answer(status, told, content, len(content) // 2 if what == "cut" else None)

    def _ask(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        with requests.Session() as session:
            session.trust_env = False
            with session.request(
                self.command, self.proxy.target + self.path, headers=headers, data=body, verify=str(self.proxy.trusted),
                stream=True, timeout=TIMEOUT, allow_redirects=False,
            ) as answer:  # fmt: skip
                told = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
                return answer.status_code, told, b"".join(answer.raw.stream(65_536, decode_content=False))

    def _answer(self, status: int, headers: dict[str, str], content: bytes, cut: int | None = None) -> None:
        with suppress(OSError):
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True

    do_GET = do_POST = do_PATCH = do_DELETE = _pass_on
