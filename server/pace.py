"""How slowly the Pi may answer: a timeout for each wait alone would let one that sends a byte now and then hold a thread for ever."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from http.client import HTTPResponse
from typing import Any

from requests.adapters import HTTPAdapter

LEAST_RATE = 256  # bytes/s, on the average of an answer: an eighth of a slow radio line
GRACE = 40.0  # s beyond the timeout of one wait, and what the rate allows


class Pace:
    """What has come of one exchange, and how long that was waited for. For one thread at a time."""

    def __init__(self) -> None:
        self._patience = self._waited = 0.0
        self._received = 0

    def begin(self, patience: float) -> None:
        """A request is sent, and so many seconds are given, beyond what the rate allows."""
        self._patience, self._waited, self._received = patience, 0.0, 0

    def read(self, read: Callable[[Any], int | None], into: Any) -> int | None:
        """What `read(into)` returns. Raises TimeoutError when too little has come for the time that was waited."""
        began = time.monotonic()
        count = read(into)
        self._waited += time.monotonic() - began
        self._received += count or 0
        if count and self._waited > self._patience + self._received / LEAST_RATE:
            raise TimeoutError(f"it answers too slowly: {self._received} bytes in {self._waited:.0f} s")
        return count


class PacedAdapter(HTTPAdapter):
    """Exchanges, one at a time, of which each has to keep its pace."""

    def __init__(self, grace: float | None = None) -> None:
        """`grace`: s, GRACE where it is None."""
        self._pace, self._grace = Pace(), GRACE if grace is None else grace
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        """The pool of connections, whose answers are read by our pace."""
        super().init_poolmanager(*args, **kwargs)
        manager = self.poolmanager
        manager.pool_classes_by_scheme = {scheme: self._paced(pool) for scheme, pool in manager.pool_classes_by_scheme.items()}

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """As of requests, with a `timeout` of two numbers."""
        self._pace.begin(kwargs["timeout"][1] + self._grace)
        return super().send(request, *args, **kwargs)

    def _paced(self, pool: Any) -> Any:
        pace = self._pace

        def answer(sock: socket.socket, *args: Any, **kwargs: Any) -> HTTPResponse:
            return _PacedResponse(pace, sock, *args, **kwargs)

        connection = type("PacedConnection", (pool.ConnectionCls,), {"response_class": staticmethod(answer)})
        return type("PacedPool", (pool,), {"ConnectionCls": connection})


class _PacedResponse(HTTPResponse):
    """An answer, from its first byte on."""

    def __init__(self, pace: Pace, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Paced(self.fp.detach(), pace))


class _Paced(io.RawIOBase):
    """What a socket brings."""

    def __init__(self, raw: io.RawIOBase, pace: Pace) -> None:
        self._raw, self._pace = raw, pace

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, into: Any) -> int | None:
        """The next bytes. Raises what the socket raises, and TimeoutError."""
        return self._pace.read(self._raw.readinto, into)

    def fileno(self) -> int:
        """That of the socket."""
        return self._raw.fileno()

    def close(self) -> None:
        """Give the socket back."""
        self._raw.close()
        super().close()
