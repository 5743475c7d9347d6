"""A client of a role's sockets that speaks Socket.IO by hand, so that a test decides what is read, answered, or left lying."""

from __future__ import annotations

import json
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import websocket

OPEN_TIMEOUT = 10.0  # s


class Refused(Exception):
    """Socket.IO said no; the message is the reason."""


class Listener:
    """One connection."""

    def __init__(
        self, url: str, certificate: Path | None, key: str | None, replica: str = "", *, timeout: float = OPEN_TIMEOUT, packing: str = ""
    ) -> None:
        """Connect to the role at `url`. Raises Refused, or what websocket-client raises where there was no upgrade."""
        named = {"X-API-Key": key, "X-Replica-Id": replica, "X-Frame-Packing": packing}
        headers = {name: value for name, value in named.items() if value}
        tls = {"ca_certs": str(certificate), "check_hostname": False} if certificate else {"cert_reqs": ssl.CERT_NONE}
        address = "ws" + url.removeprefix("http") + "/socket.io/?EIO=4&transport=websocket"
        self.ws = websocket.create_connection(address, header=headers, sslopt=tls, timeout=timeout)
        self.answers_pings = True
        self._reading = threading.Lock()
        self.opened = json.loads(self._read()[1:])
        self.ws.send("40")
        while not (reply := self._read()).startswith(("40", "44")):
            pass
        if reply.startswith("44"):
            self.close()
            raise Refused(json.loads(reply[2:])["message"])

    def next(self, timeout: float = OPEN_TIMEOUT) -> tuple[str, Any]:
        """The next event and its argument. Raises websocket's timeout, and its closed connection."""
        until = time.monotonic() + timeout
        while True:
            self.ws.settimeout(max(0.001, until - time.monotonic()))
            packet = self._read()
            if packet.startswith("42"):
                name, facts = json.loads(packet[2:])
                return name, facts
            if packet.startswith("451-"):
                name, facts = json.loads(packet[4:])
                (binary,) = (each for each, value in facts.items() if value == {"_placeholder": True, "num": 0})
                return name, facts | {binary: self._read()}

    def next_named(self, event: str, timeout: float = OPEN_TIMEOUT) -> Any:
        """The argument of the next event of this name; others are passed over."""
        until = time.monotonic() + timeout
        while True:
            name, facts = self.next(until - time.monotonic())
            if name == event:
                return facts

    def ended(self, timeout: float) -> float:
        """Read until the other side ends the connection; the seconds that took."""
        began = time.monotonic()
        with suppress(websocket.WebSocketConnectionClosedException, OSError):
            while True:
                self.next(timeout - (time.monotonic() - began))
        return time.monotonic() - began

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError, websocket.WebSocketException):
            self.ws.close(timeout=1)
        self.ws.shutdown()  # which gives the socket back, however that went

    def _read(self) -> Any:
        while True:
            packet: Any = self.ws.recv()
            if packet == "":
                raise websocket.WebSocketConnectionClosedException("closed")
            if packet != "2":
                return packet
            if self.answers_pings:
                self.ws.send("3")
