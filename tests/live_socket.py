"""Sockets to the office without a browser: by hand, so that a test can leave out what a browser always does."""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

CONNECT, REFUSED, PING, PONG, EVENT = "40", "44", "2", "3", "42"  # of Socket.IO over Engine.IO 4
ENGINE = "/socket.io/?EIO=4&transport=websocket"
TIMEOUT = 5.0  # s


class Event(NamedTuple):
    """What was told, and when it arrived (s, monotonic)."""

    name: str
    argument: Any
    at: float


class LiveSocket:
    """A WebSocket handshake, and what follows if it is accepted; `status` is that of the answer (101)."""

    def __init__(
        self, address: str, cookie: str = "", *, origin: str | None = "", path: str = ENGINE, buffer: int = 0, upgrade: str = "websocket"
    ) -> None:
        """`origin`: "" is that of the office's own pages, None is none. `buffer`: bytes that the kernel keeps for us."""
        self.events: list[Event] = []
        self.closed = False
        self.answer = ""  # to the greeting: CONNECT or REFUSED and why
        self._rest = b""
        where = urlsplit(address)
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect((where.hostname, where.port))
        head = [f"GET {path} HTTP/1.1", f"Host: {where.netloc}", f"Upgrade: {upgrade}", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        head += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *([f"Cookie: {cookie}"] if cookie else [])]
        head += [] if origin is None else [f"Origin: {origin or address}"]
        self.socket.sendall("\r\n".join([*head, "", ""]).encode())
        answer, _, self._rest = self._until(b"\r\n\r\n")
        self.status, self.head = int(answer.split()[1]), answer.decode()

    def send(self, text: str) -> None:
        """One text message."""
        data = text.encode()
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack("!H", len(data))
        with suppress(OSError):
            self.socket.sendall(b"\x81" + size + b"\0\0\0\0" + data)

    def entered(self) -> str:
        """ "in", or why this socket is of no use; it is closed then."""
        if self.status == 101:
            self.greet()
            while not self.answer and not self.closed:
                self.receive()
        if self.answer.startswith(CONNECT):
            return "in"
        self.close()
        return self.answer if self.status == 101 else str(self.status)

    def greet(self) -> None:
        """Enter the namespace, as a page does at once."""
        self.send(CONNECT)

    def receive(self) -> None:
        """Take what is there: answer pings, keep events, see the end."""
        try:
            piece = self.socket.recv(1 << 16)
        except OSError:
            piece = b""
        if not piece:
            self.closed = True
            return
        self._rest += piece
        for text in self._messages():
            if text == PING:
                self.send(PONG)
            elif text.startswith((CONNECT, REFUSED)):
                self.answer = text
            elif text.startswith(EVENT):
                name, *arguments = json.loads(text.removeprefix(EVENT))
                self.events.append(Event(name, arguments[0] if arguments else None, time.monotonic()))

    def of(self, name: str) -> list[Event]:
        """The events of this name so far."""
        return [event for event in list(self.events) if event.name == name]

    def close(self) -> None:
        """As a machine that is switched off."""
        self.socket.close()

    def _until(self, mark: bytes) -> tuple[bytes, bytes, bytes]:
        found = b""
        while mark not in found:
            piece = self.socket.recv(4096)
            assert piece, found
            found += piece
        return found.partition(mark)

    def _messages(self) -> Iterator[str]:
        """The text messages that are whole. The server does not mask, fragment or (for us) compress."""
        while len(self._rest) >= 2:
            kind, size, start = self._rest[0] & 15, self._rest[1] & 127, 2
            if size >= 126:
                start = 4 if size == 126 else 10
                if len(self._rest) < start:
                    return
                size = int.from_bytes(self._rest[2:start])
            if len(self._rest) < start + size:
                return
            data, self._rest = self._rest[start : start + size], self._rest[start + size :]
            if kind == 1:
                yield data.decode()
            elif kind == 8:
                self.closed = True


@contextmanager
def listening(*sockets: LiveSocket) -> Iterator[None]:
    """The sockets are greeted and read, by one thread, while the block runs; then they are closed."""
    ended = threading.Event()
    selector = selectors.DefaultSelector()
    for each in sockets:
        each.greet()
        selector.register(each.socket, selectors.EVENT_READ, each)

    def read() -> None:
        while not ended.is_set():
            for key, _ in selector.select(0.1):
                key.data.receive()
                if key.data.closed:
                    selector.unregister(key.fileobj)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        selector.close()
        for each in sockets:
            each.close()


def random_text(size: int) -> str:
    """Text that no compression makes small."""
    return os.urandom(size // 2).hex()
