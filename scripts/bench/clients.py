"""Clients of a role, as a process of its own: `python -m scripts.bench.clients PORT CERTIFICATE COUNT CLIENTS FIRST PATH RATE`.

Each has one connection over TLS, and sends its next payload, from number FIRST on, when the last is answered; with a RATE other than 0 all
together so many a second. A PATH that takes no payloads is asked for instead. Prints the seconds that it all took, then of each request.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator

RECEIVE = "/api/lora/receive"
TIMEOUT = 30.0  # s


def payload(n: int) -> str:
    """The n-th: a new animal, a hundred in a batch."""
    return f"hxb:LOAD{n // 100:05d}:LF9{n:08d}:UHF9{n:010d}"


def request(path: str, n: int) -> bytes:
    """What a client sends."""
    head = f"{'POST' if path == RECEIVE else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\n"
    if path != RECEIVE:
        return f"{head}\r\n".encode()
    body = f'{{"payload": "{payload(n)}"}}'
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


class Client(threading.Thread):
    """One of them."""

    def __init__(self, port: int, certificate: str, path: str, numbers: Iterator[int], pace: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._path, self._numbers, self._pace = path, numbers, pace
        context = ssl.create_default_context(cafile=certificate)
        context.check_hostname = False
        self._socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT))
        self.seconds: list[float] = []
        self.wrong: list[bytes] = []

    def run(self) -> None:
        """Until there are no more numbers."""
        for n in self._numbers:
            self._pace()
            began = time.perf_counter()
            self._socket.sendall(request(self._path, n))
            answer = self._answer()
            self.seconds.append(time.perf_counter() - began)
            if answer.split(b" ", 2)[1] not in (b"200", b"201"):
                self.wrong.append(answer[:300])

    def _answer(self) -> bytes:
        """Head and body."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._socket.recv(65_536)
        length = next(int(line.split(b":")[1]) for line in data[:end].split(b"\r\n") if line.lower().startswith(b"content-length:"))
        while len(data) < end + 4 + length:
            data += self._socket.recv(65_536)
        return data


class Pace:
    """Lets so many begin a second, evenly; all at once with 0."""

    def __init__(self, rate: float) -> None:
        self._apart, self._due, self._lock = 1 / rate if rate else 0.0, time.perf_counter(), threading.Lock()

    def __call__(self) -> None:
        if self._apart:
            with self._lock:
                self._due = due = max(self._due + self._apart, time.perf_counter() - 1)
            time.sleep(max(0.0, due - time.perf_counter()))


def main(port: str, certificate: str, count: str, clients: str, *, first: str, path: str, rate: str) -> None:
    """Send them all."""
    lock, numbers, pace = threading.Lock(), iter(range(int(first), int(first) + int(count))), Pace(float(rate))

    def shared() -> Iterator[int]:
        while True:
            with lock:
                n = next(numbers, None)
            if n is None:
                return
            yield n

    threads = [Client(int(port), certificate, path, shared(), pace) for _ in range(int(clients))]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(time.perf_counter() - began)
    for thread in threads:
        if thread.wrong:
            sys.exit(f"{len(thread.wrong)} were refused, the first with {thread.wrong[0]!r}")
        print(*thread.seconds, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:5], first=sys.argv[5], path=sys.argv[6], rate=sys.argv[7])
