#!/usr/bin/env python3
"""Clients that begin and never end, against a Pi and a server as real processes: `scripts/prove_abuse.py 600 --half 80`.

For so many seconds --half TLS handshakes and as many requests stand half-sent at the Pi, and twice as many half-sent requests at the
server, which has no TLS here; each is opened anew as soon as it is dropped. Meanwhile somebody calls either role, over new connections and
over one that is kept. Exit code 1 when a call fails, or when the slowest of a hundred takes more than --most.
"""

from __future__ import annotations

import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.large_farm import Farm, judge, new_farm

CALL_EVERY = 0.05  # s
LOOK_EVERY = 1.0  # s
HALF_A_HEAD = b"POST /api/lora/receive HTTP/1.1\r\nHost: pi\r\nContent-Length: 40\r\n"
HALF_A_BODY = HALF_A_HEAD + b'\r\n{"payload": "hxb:'


class HalfOpen:
    """Connections that are opened, begin with something, and wait; each is opened anew when the other side ends it."""

    def __init__(self, connect: Callable[[], socket.socket], opening: bytes, count: int, over: threading.Event) -> None:
        self._connect, self._opening, self._over = connect, opening, over
        self.opened = 0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for the end."""
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            with suppress(OSError), self._connect() as sock:
                self.opened += 1
                sock.sendall(self._opening)
                sock.settimeout(LOOK_EVERY)
                while not self._over.is_set():
                    with suppress(TimeoutError):
                        if not sock.recv(4_096):
                            break


class Caller:
    """Somebody who calls one role, in turns over a new connection and over the one that is kept."""

    def __init__(self, name: str, urls: list[str], certificate: Path | None, headers: dict[str, str], over: threading.Event) -> None:
        self._name, self._urls, self._over = name, urls, over
        self._certificate, self._headers = certificate, headers
        self.seconds: list[float] = []
        self.failed: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def problems(self, most: float) -> list[str]:
        """Says how long the calls took, and returns what was wrong with them."""
        if len(self.seconds) < 2:
            return [*self.failed, f"{self._name}: only {len(self.seconds)} calls were answered"]
        half, slow, longest = (sorted(self.seconds)[int(part * (len(self.seconds) - 1))] * 1000 for part in (0.5, 0.99, 1.0))
        times = f"p50 {half:.1f}, p99 {slow:.1f}, longest {longest:.1f} ms"
        click.echo(f"{self._name}: {len(self.seconds)} calls, {times}, {len(self.failed)} failed")
        return self.failed + ([f"{self._name}: p99 is {slow:.0f} ms"] if slow > most * 1000 else [])

    def _run(self) -> None:
        kept = requests.Session()
        number = 0
        while not self._over.wait(CALL_EVERY):
            number += 1
            url, client = self._urls[number % len(self._urls)], kept if number % 2 else requests
            began = time.monotonic()
            try:
                answer = client.get(url, headers=self._headers, verify=str(self._certificate) if self._certificate else True, timeout=30)
                self.seconds.append(time.monotonic() - began)
                if answer.status_code != 200:
                    self.failed.append(f"{self._name}: {url} answered {answer.status_code}")
            except requests.RequestException as exc:
                self.failed.append(f"{self._name}: {url}: {exc}")
        kept.close()


def client_hello() -> bytes:
    """The first bytes of a real TLS handshake."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(into, out, server_hostname="localhost").do_handshake()
    return out.read()


def abuse(farm: Farm, seconds: float, half: int, most: float) -> list[str]:
    """All of it at once; what was wrong."""
    pi, server = (("127.0.0.1", int(str(role.settings[port]))) for role, port in ((farm.pi, "PI_PORT"), (farm.server, "SERVER_PORT")))
    certificate = farm.pi.data / "pi-cert.pem"
    trusting = ssl.create_default_context(cafile=str(certificate))

    def plain(address: tuple[str, int]) -> Callable[[], socket.socket]:
        return lambda: socket.create_connection(address, timeout=30)

    def secure() -> socket.socket:
        return trusting.wrap_socket(plain(pi)(), server_hostname="localhost")

    over = threading.Event()
    rude = {
        "handshakes at the Pi": HalfOpen(plain(pi), client_hello()[:100], half, over),
        "requests at the Pi": HalfOpen(secure, HALF_A_HEAD, half, over),
        "heads at the server": HalfOpen(plain(server), HALF_A_HEAD, half, over),
        "bodies at the server": HalfOpen(plain(server), HALF_A_BODY, half, over),
    }
    key = {"X-API-Key": farm.api_key}
    callers = [
        Caller("the Pi", [f"{farm.pi.url}/api/sync/health", f"{farm.pi.url}/api/sync/schema"], certificate, key, over),
        Caller("the server", [f"{farm.server.url}/livez", f"{farm.server.url}/office/api/sync-status"], None, {}, over),
    ]
    time.sleep(seconds)
    over.set()
    for each in (*rude.values(), *callers):
        each.join()
    for name, kind in rude.items():
        click.echo(f"{half} half-open {name} at a time, {kind.opened} in all")
    problems = [f"the {name} were opened {kind.opened} times, fewer than {half}" for name, kind in rude.items() if kind.opened < half]
    return problems + [problem for caller in callers for problem in caller.problems(most)]


@click.command(help="Hold half-open connections for SECONDS.")
@click.argument("seconds", type=float, default=600)
@click.option("--half", default=80, show_default=True, help="Of each kind, at a time.")
@click.option("--most", default=1.0, show_default=True, help="Seconds that 99 of 100 calls may take at most.")
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), help="Where to work (default: the usual place for what is temporary)."
)
def main(seconds: float, half: int, most: float, folder: Path | None) -> None:
    """The command line."""
    with tempfile.TemporaryDirectory(dir=folder) as work, new_farm(Path(work) / "farm") as farm:
        farm.start()
        problems = abuse(farm, seconds, half, most)
    judge(problems)


if __name__ == "__main__":
    main()
