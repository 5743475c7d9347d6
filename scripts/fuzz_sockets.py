#!/usr/bin/env python3
"""Says what nobody means well by to the sockets of both roles: `scripts/fuzz_sockets.py 10000`.

A Pi (TLS, gunicorn) and a server that follows it run; the cases go to the Pi's push and to the server's pages, a few at a time, with a key
or a session or without. Meanwhile rows are committed on the Pi, and a well-behaved listener on either side must hear of each at once.
Exit code 1 unless it does, no log has a traceback or an error, threads, open files and sockets are as before when all is over, memory does
not go on growing, no process was replaced, and both sides end equal. The cases are the same each time.
"""

from __future__ import annotations

import itertools
import random
import re
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import websocket

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.connection import connect, one
from scripts.large_farm import Farm, InVain, judge, new_farm, wait_for
from scripts.socket_cases import CASES, ENGINE, UPGRADE, Case, Rude

SEED = 1
AT_ONCE = 4  # cases
CASE_TIMEOUT = 15.0  # s that the other side may take to end a connection, which is longer than it does
SETTLED = 40.0  # s in which everything must be as before
POOL = 80  # threads that may be at work in a pool at a time: one is busy for two seconds after some cases
SPARE = 4  # threads and descriptors that come and go without anybody
NEWS_EVERY = 0.02  # s


@dataclass
class Side:
    """One role as somebody rude meets it: where it listens, what lets one in, and which of its processes does the work."""

    name: str
    port: int
    admitted: bytes  # lines of a request's head
    tls: ssl.SSLContext | None
    worker: int  # process id
    done: Counter[str] = field(default_factory=Counter)  # cases by kind

    def connect(self) -> socket.socket:
        """A new connection."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=CASE_TIMEOUT)
        return plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname="localhost")

    def head(self, let_in: bool) -> bytes:
        """A good request for a socket, but for what follows the last of these lines."""
        return b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s" % (ENGINE, self.port, self.admitted if let_in else b"")

    def size(self) -> dict[str, int]:
        """What a process must not have more and more of."""
        process, files = Path(f"/proc/{self.worker}"), []
        for path in (process / "fd").iterdir():
            with suppress(OSError):
                files.append(str(path.readlink()))
        others = [name for name in files if ".db" not in name]  # of databases there are as many as readers, which are few
        return {"threads": len(list((process / "task").iterdir())), "open files": len(others)}

    def memory(self) -> float:
        """MB resident."""
        return int(Path(f"/proc/{self.worker}/statm").read_text().split()[1]) * 4096 / 1e6


class News:
    """Commits one row after another on the Pi, and waits until a listener of each side has heard of it."""

    def __init__(self, farm: Farm, most: float) -> None:
        from listener import Listener  # of tests
        from live_socket import LiveSocket

        self._farm, self._most = farm, most
        session = farm.login()
        farm.page(session)
        self.cookie = "; ".join(f"{name}={value}" for name, value in session.cookies.items())
        self.page = LiveSocket(farm.server.url, self.cookie)
        self.replica = Listener(farm.pi.url, farm.pi.data / "pi-cert.pem", farm.api_key, "listener")
        self.heard = 0  # the newest seq, by the replica
        self.late: list[float] = []  # s, one for each commit
        self.problems: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._listen, self._commit)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End."""
        self._over.set()
        self._threads[1].join()
        self.replica.close()
        self._threads[0].join()

    def _listen(self) -> None:
        try:
            while not self._over.is_set():
                with suppress(websocket.WebSocketTimeoutException):
                    self.heard = self.replica.next_named("changelog", 1)["head"]
        except (OSError, websocket.WebSocketException) as exc:
            if not self._over.is_set():
                self.problems.append(f"the well-behaved replica lost its socket: {exc!r}")

    def _commit(self) -> None:
        with closing(connect(self._farm.pi.database)) as db:
            for number in itertools.count():
                db.execute("UPDATE pens SET capacity=?", (number,))
                seq, began = one(db, "SELECT max(seq) FROM changelog"), time.monotonic()
                try:
                    wait_for(partial(self._pushed, seq), self._most, "a push to the replica", 0.002)
                    wait_for(partial(self._told, seq), self._most, "an event on the page", 0.002)
                except InVain as exc:
                    self.problems.append(f"news {number}: {exc}")
                self.late.append(time.monotonic() - began)
                if self._over.wait(NEWS_EVERY):
                    return

    def _pushed(self, seq: int) -> bool:
        return self.heard >= seq

    def _told(self, seq: int) -> bool:
        events, self.page.events[:-5] = self.page.events[-5:], []
        return any(event.name == "pen:updated" and event.argument["seq"] >= seq for event in events)


def meet(side: Side, case: Case) -> None:
    """One case: connect, say it, and stay or go as it wants. The other side may end it at any time."""
    with suppress(OSError, ValueError), closing(Rude(side.connect())) as rude:
        rude.say(case, side.head(case.let_in))


def warm_up(sides: list[Side]) -> None:
    """Have as many threads in each pool as there will be."""
    for side in sides:
        with ExitStack() as stack:
            for sock in [stack.enter_context(side.connect()) for _ in range(POOL)]:
                sock.sendall(b"\r\n".join((side.head(True) + UPGRADE[0], *UPGRADE[1:], b"", b"")))
                assert b"HTTP/1.1 101" in sock.recv(4096)


def throw(sides: list[Side], cases: int, only: tuple[str, ...]) -> None:
    """All cases, a few at a time."""
    numbers = iter(range(cases))
    lock = threading.Lock()
    kinds = [name for name in CASES if not only or name in only]

    def run() -> None:
        while True:
            with lock:
                number = next(numbers, None)
                if number is None:
                    return
                side, kind = sides[number % len(sides)], kinds[number // len(sides) % len(kinds)]
                side.done[kind] += 1
            meet(side, CASES[kind](random.Random(f"{SEED} {number}")))

    threads = [threading.Thread(target=run) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def as_before(sides: list[Side], before: list[dict[str, int]]) -> list[str]:
    """What has grown and stays so."""

    def grown() -> list[str]:
        return [
            f"{side.name}: {count} {what}, before {was[what]}"
            for side, was in zip(sides, before, strict=True)
            for what, count in side.size().items()
            if count > was[what] + SPARE
        ]

    until = time.monotonic() + SETTLED
    while grown() and time.monotonic() < until:
        time.sleep(0.2)
    return grown()


def open_sockets(farm: Farm) -> float:
    """As the Pi tells."""
    lines = farm.ask("GET", "/metrics", farm.api_key).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("drover_sockets "))


def complaints(log: str) -> Counter[str]:
    """The errors in a log, a traceback by where it ends."""
    ends = re.findall(r"^Traceback.*\n(?:  .*\n)*?(  File .*)\n(?:   .*\n)*(\S.*)", log, re.MULTILINE)
    found = Counter(f"{end}: {' '.join(place.split())}" for place, end in ends)
    return found + Counter(re.findall(r"\[(?:ERROR|CRITICAL)\] .*", log))


@contextmanager
def two_sides(farm: Farm, news: News) -> Iterator[list[Side]]:
    """Both."""
    trusting = ssl.create_default_context(cafile=str(farm.pi.data / "pi-cert.pem"))
    (_, pi), (_, server) = (sorted(role.pids()) for role in farm.roles)
    key = f"X-API-Key: {farm.api_key}\r\n".encode()
    session = f"Cookie: {news.cookie}\r\nOrigin: {farm.server.url}\r\n".encode()
    yield [
        Side("pi", int(str(farm.pi.settings["PI_PORT"])), key, trusting, pi),
        Side("server", int(str(farm.server.settings["SERVER_PORT"])), session, None, server),
    ]


def fuzz(farm: Farm, cases: int, only: tuple[str, ...], most: float, growth: float) -> list[str]:
    """All of it; what was wrong."""
    from live_socket import listening  # of tests

    farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('told', 0)")
    news = News(farm, most)
    with ExitStack() as stack:
        stack.enter_context(listening(news.page))
        sides = stack.enter_context(two_sides(farm, news))
        warm_up(sides)
        news.start()
        wait_for(lambda: len(news.late) >= 5 and open_sockets(farm) == 2, 20, "the first news")
        before, memory = [side.size() for side in sides], []
        for part in (cases // 2, cases - cases // 2):
            throw(sides, part, only)
            memory.append([side.memory() for side in sides])
        problems = as_before(sides, before)
        problems += [f"pi: {open_sockets(farm):.0f} sockets are open, two listen"] if open_sockets(farm) != 2 else []
        news.stop()
    for side, first, last in zip(sides, *memory, strict=True):
        click.echo(f"{side.name}: " + ", ".join(f"{kind} {count}" for kind, count in side.done.items()))
        click.echo(f"{side.name}: {side.done.total()} cases, {last:.1f} MB resident, after half of them {first:.1f}")
        if last - first > growth:
            problems.append(f"{side.name}: memory grows: {first:.1f} MB after one half, {last:.1f} MB after the other")
    click.echo(f"{len(news.late)} commits heard of on both sides, p50 {statistics.median(news.late) * 1000:.1f} ms,", nl=False)
    click.echo(f" longest {max(news.late) * 1000:.0f} ms")
    for role, side in zip(farm.roles, sides, strict=True):
        problems += [f"{role.name}: its worker was replaced"] if side.worker not in role.pids() else []
        problems += [f"{role.name}: in its log {count} times {what}" for what, count in complaints(role.log).items()]
    try:
        farm.assert_identical(60)
    except AssertionError as exc:
        problems.append(f"both sides end equal: {exc}")
    return problems + news.problems


@click.command(help=__doc__)
@click.argument("cases", type=click.IntRange(20), default=10_000)
@click.option("--kind", "only", multiple=True, type=click.Choice(list(CASES)), help="May be given again. Without it, all.")
@click.option("--most", default=2.0, show_default=True, help="Seconds after which a listener must have heard of a commit.")
@click.option("--growth", default=15.0, show_default=True, help="MB that a process may grow by in the second half.")
def main(cases: int, only: tuple[str, ...], most: float, growth: float) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, new_farm(Path(folder)) as farm:
        farm.start()
        problems = fuzz(farm, cases, only, most, growth)
    click.echo(f"{cases} cases in {time.monotonic() - began:.0f} s")
    judge(problems)


if __name__ == "__main__":
    main()
