"""A TCP proxy on loopback that treats connections as a barn does: it cuts, delays, stalls and swallows them, and counts what passes."""

from __future__ import annotations

import fcntl
import re
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

DRAIN = 2.0  # s that a cut waits for the bytes before it
PIECE = 16 * 1024  # bytes passed on at a time
UPGRADE = re.compile(rb"\r\nUpgrade: *websocket\r\n", re.IGNORECASE)
REFUSAL = b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset at once

Direction = Literal["down", "up"]  # down: from the target to the client


@dataclass(frozen=True)
class Behaviour:
    """How a connection is treated, from its beginning to its end; the default is to pass everything on."""

    cut_after: int | None = None  # bytes in `direction`, exactly so many, after which both sides get a reset
    direction: Direction | Literal["both"] = "down"  # which bytes count for the two limits
    stall_after: int | None = None  # bytes after which nothing passes any more, in either direction, and nothing is closed
    delay: float = 0.0  # s before each piece is passed on
    refuse_upgrades: bool = False  # as a proxy that knows no WebSocket does; seen only where nothing is encrypted
    piece: int = PIECE  # bytes that are passed on at a time: with a delay, a slow drip
    flip_after: int | None = None  # bytes in `direction` after which one byte is changed
    black_hole: bool = False  # the connection is accepted, and nobody ever hears of it


@dataclass
class Link:
    """One connection of a client, the `number`-th since the start, to a target."""

    number: int
    behaviour: Behaviour
    client: socket.socket
    target: socket.socket | None = None
    passed: dict[Direction, int] = field(default_factory=lambda: {"down": 0, "up": 0})
    ended: bool = False
    is_socket: bool = False  # a WebSocket was asked for; known only where nothing is encrypted
    lock: threading.Lock = field(default_factory=threading.Lock)

    def room(self, direction: Direction, size: int) -> tuple[int, str]:
        """How many of `size` bytes still pass, counted as passed; and what then happens: "cut", "stall" or nothing."""
        how = self.behaviour
        with self.lock:
            counted = sum(self.passed.values()) if how.direction == "both" else self.passed[how.direction]
            fate, allowed = "", size
            if how.direction in ("both", direction):
                for name, limit in (("stall", how.stall_after), ("cut", how.cut_after)):
                    if limit is not None and counted + allowed >= limit:
                        fate, allowed = name, limit - counted
            elif how.stall_after is not None and counted >= how.stall_after:
                fate, allowed = "stall", 0
            self.passed[direction] += allowed
        return allowed, fate

    def end(self, reset: bool = False) -> None:
        """Close both sides."""
        self.ended = True
        sides = [side for side in (self.client, self.target) if side is not None]
        for side in sides:
            with suppress(OSError):
                side.shutdown(socket.SHUT_RD)  # nothing on the wire, but it wakes who waits in recv(): until then close() closes nothing
        for side in sides:
            with suppress(OSError):
                if reset:
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            side.close()


class CuttingProxy:
    """Listens on `port` of 127.0.0.1 and passes connections on to one of `targets`, ports of 127.0.0.1.

    `behaviour` and `choose` (the number of a connection, from 0, -> its target) may be changed at any time: they count for new connections.
    """

    def __init__(self, *targets: int, behaviour: Behaviour | None = None, choose: Callable[[int], int] | None = None) -> None:
        self.targets = targets
        self.behaviour = behaviour or Behaviour()
        self.choose = choose or (lambda number: self.targets[0])
        self.cuts = self.stalls = self.flips = 0
        self.links: list[Link] = []
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self.links)

    def bytes(self, direction: Direction) -> int:
        """How many passed, of all connections."""
        return sum(link.passed[direction] for link in list(self.links))

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._thread.join()
        self.cut_all()

    def sockets(self) -> list[Link]:
        """The WebSockets that are open."""
        return [link for link in list(self.links) if link.is_socket and not link.ended]

    def cut_all(self) -> None:
        """Reset every connection that is open."""
        for link in list(self.links):
            link.end(reset=True)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            link = Link(len(self.links), self.behaviour, client)
            self.links.append(link)
            if not link.behaviour.black_hole:
                threading.Thread(target=self._connect, args=(link,), daemon=True).start()

    def _connect(self, link: Link) -> None:
        try:
            link.target = socket.create_connection(("127.0.0.1", self.choose(link.number)), timeout=5)
        except OSError:  # nobody listens there: neither do we
            link.end(reset=True)
            return
        link.target.settimeout(None)
        threading.Thread(target=self._pump, args=(link, link.client, link.target, "up"), daemon=True).start()
        self._pump(link, link.target, link.client, "down")

    def _pump(self, link: Link, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        try:
            while data := source.recv(link.behaviour.piece):
                if direction == "up" and not link.is_socket and UPGRADE.search(data):
                    link.is_socket = True
                    if link.behaviour.refuse_upgrades:
                        source.sendall(REFUSAL)
                        _drain(source)
                        link.end()
                        return
                allowed, fate = link.room(direction, len(data))
                if link.behaviour.delay:
                    time.sleep(link.behaviour.delay)
                sink.sendall(self._changed(link, data[:allowed], direction))
                if fate == "cut":
                    self.cuts += 1
                    _drain(sink)
                    link.end(reset=True)
                    return
                if fate == "stall":
                    self.stalls += 1
                    self._closed.wait()
                    return
            if not link.ended:
                sink.shutdown(socket.SHUT_WR)
        except (OSError, ValueError):  # one side is gone, or was closed here meanwhile: the other learns it
            link.end()

    def _changed(self, link: Link, data: bytes, direction: Direction) -> bytes:
        """What is passed on of `data`, which is counted already."""
        how = link.behaviour
        place = -1 if how.flip_after is None else how.flip_after - link.passed[direction] + len(data)
        if how.direction != direction or not 0 <= place < len(data):
            return data
        self.flips += 1
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def _drain(sock: socket.socket) -> None:
    """Wait, not for ever, until the other side's kernel has all that was sent: a reset throws the rest away."""
    until = time.monotonic() + DRAIN
    while time.monotonic() < until and int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
        time.sleep(0.001)
