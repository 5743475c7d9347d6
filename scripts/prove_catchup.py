#!/usr/bin/env python3
"""Catches up over a line that keeps breaking, with real processes: `scripts/prove_catchup.py 500000`.

While the server is stopped, so many mixed changes are made on the Pi. Then it starts behind a proxy that resets every connection after
--cut-after bytes; and, after as many changes again, over a line that goes silent half-way, where the server is killed. Exit code 1 unless
both end at the Pi's position with equal digests and without a snapshot, each page crossed the line about once, a reader that looks at the
replica all the time saw the old position and then the final one and none between, and both processes stayed within their memory.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import click
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.compression import ACCEPTED, decompress
from changelog.connection import connect, identity
from changelog.errors import DroverError
from changelog.wire import CHUNK_BYTES, MEDIA_TYPE
from scripts.large_farm import (
    Behaviour,
    CuttingProxy,
    Farm,
    InVain,
    add_animals,
    contents,
    figure,
    judge,
    megabytes,
    new_farm,
    peak_memory,
    random_changes,
    wait_for,
)

SEED = 1
CUT_AFTER = 300_000  # bytes of answers after which a connection is reset
ANIMALS_SHARE = 10  # one animal for so many changes, before them
HANDSHAKE = 8_000  # bytes that a new connection costs beside the log: TLS, certificate, HTTP head
FRAMED = 1.01  # what TLS records and HTTP chunks add
LOOK = 0.002  # s between two looks of the reader
QUIET = 0.5  # s without a byte after which a silent line is taken for silent
TARGETS = {"pi": 100e6, "server": 120e6}  # bytes of memory
SLOWEST = 2_000  # changes a second, after which the proof gives up waiting
START = 30.0  # s that it waits beside that


class Reader:
    """Looks at the replica's position all the time while the block runs, and keeps each change of what it saw."""

    def __init__(self, path: Path) -> None:
        self._path, self._ended = path, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: list[tuple[int, int]] = []  # (position, newest seq in the log)
        self.looks = 0
        self.failures: list[str] = []

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        db, file = connect(self._path, readonly=True), identity(self._path)
        with closing(db):
            over = False
            while not over:
                over = self._ended.wait(LOOK)  # with a last look behind the end
                try:
                    found = db.execute("SELECT (SELECT seq FROM changelog_position), (SELECT max(seq) FROM changelog)").fetchall()[0]
                except (apsw.Error, DroverError) as exc:
                    self.failures.append(str(exc))
                    return
                self.looks += 1
                if not self.seen or self.seen[-1] != found:
                    self.seen.append((int(str(found[0])), int(str(found[1]))))
                if identity(self._path) != file:
                    self.failures.append("the replica's file was replaced")
                    return


@dataclass
class Account:
    """What one catch-up cost."""

    changes: int
    least: int  # bytes of one whole answer
    raw: int  # the same before compression
    down: int = 0  # bytes that came
    received: float = 0  # changes that came
    connections: int = 0
    cuts: int = 0
    seconds: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def show(self, title: str) -> None:
        """In words."""
        click.echo(f"{title}: {self.changes} changes in {self.seconds:.1f} s, {self.connections} connections, {self.cuts} cut")
        click.echo(f"  bytes   {megabytes(self.down)}, the least is {megabytes(self.least)}: {self.down / self.least:.3f} times")
        click.echo(f"  changes {self.received:.0f} arrived: {self.received / self.changes:.3f} times")
        click.echo("  memory  " + ", ".join(f"{name} {megabytes(peak)}" for name, peak in self.memory.items()))

    def judge(self, interruptions: int) -> list[str]:
        """Each page once, and about one more for each interruption; a decompressor may hold back another."""
        page_bytes, page_changes = CHUNK_BYTES * self.least / self.raw, CHUNK_BYTES * self.changes / self.raw
        click.echo(f"  a page  {page_changes:.0f} changes, {page_bytes:.0f} bytes")
        click.echo(f"  each of {interruptions} interruptions cost {self._cost(interruptions)}")
        bytes_allowed = self.least * FRAMED + HANDSHAKE + interruptions * (2 * page_bytes + HANDSHAKE)
        if self.down > bytes_allowed:
            self.problems.append(f"{self.down} bytes came, and {bytes_allowed:.0f} are each page once and a little for each interruption")
        changes_allowed = self.changes + interruptions * page_changes
        if self.received < self.changes:
            self.problems.append(f"the server counted {self.received:.0f} of {self.changes} changes: how many came twice is not known")
        if self.received > changes_allowed:
            self.problems.append(
                f"{self.received:.0f} changes came, and {changes_allowed:.0f} are each page once and one for each interruption"
            )
        self.problems += [f"the {name} took {megabytes(peak)}" for name, peak in self.memory.items() if peak > TARGETS[name]]
        return self.problems

    def _cost(self, interruptions: int) -> str:
        each = max(1, interruptions)
        return f"{(self.received - self.changes) / each:.0f} changes and {(self.down - self.least) / each:.0f} bytes"


@click.command(help=__doc__)
@click.argument("changes", type=int, default=500_000)
@click.option("--cut-after", default=CUT_AFTER, show_default=True, help="Bytes of answers after which a connection is reset.")
@click.option("--kill/--no-kill", default=True, show_default=True, help="Whether the second catch-up, with a kill in its middle, is made.")
@click.option("--folder", type=click.Path(file_okay=False, exists=True), help="Where the files go.")
@click.option("--seed", default=SEED, show_default=True, help="Of the changes.")
def main(changes: int, cut_after: int, kill: bool, folder: str | None, seed: int) -> None:
    """The command line."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory(dir=folder) as work, new_farm(Path(work) / "farm") as farm:
        add_animals(farm.pi.database, 0, max(100, changes // ANIMALS_SHARE), logged=False)
        with CuttingProxy(int(str(farm.pi.settings["PI_PORT"]))) as proxy:
            farm.server.settings["REMOTE_PI_PORT"] = proxy.port
            farm.start()
            click.echo(f"seed {seed}")
            for title, part in (("cut again and again", cut_often), ("killed in the middle", killed_half_way))[: 1 + kill]:
                account = fall_behind(farm, changes, seed)
                seed += 1
                try:
                    interruptions = part(farm, proxy, account, cut_after)
                except InVain as exc:
                    came = f"{megabytes(account.down)} of {megabytes(account.least)} had come over {account.connections} connections"
                    account.problems.append(f"{title}: {exc}; {came}")
                    problems += account.problems
                    break
                account.show(title)
                problems += account.judge(interruptions)
    judge(problems)


def fall_behind(farm: Farm, changes: int, seed: int) -> Account:
    """Stop the server, make the changes on the Pi, and see what one whole answer that tells them takes."""
    farm.server.stop()
    farm.pi.stop()
    before = farm.server.sql("SELECT epoch||'/'||seq||'/'||nonce FROM changelog_position")
    head = random_changes(farm.pi.database, changes, seed)
    farm.pi.start()
    epoch, after, check = before.split("/")
    made = head - int(after)
    asked = {"after": after, "epoch": epoch, "check": check}
    headers = {"Accept": MEDIA_TYPE, "Accept-Encoding": ACCEPTED, "X-API-Key": farm.api_key}
    certificate = str(farm.pi.data / "pi-cert.pem")
    url = f"{farm.pi.url}/api/sync/changes"
    with requests.get(url, params=asked, headers=headers, verify=certificate, timeout=600, stream=True) as answer:
        assert answer.ok, answer.text
        pieces = counting(answer.raw.stream(65_536, decode_content=False), least := [0])
        raw = sum(len(piece) for piece in decompress(answer.headers.get("Content-Encoding"), pieces))
    farm.pi.restart()  # so that its peak memory is that of serving the catch-up
    return Account(made, least[0], raw)


def counting(pieces: Iterator[bytes], total: list[int]) -> Iterator[bytes]:
    """The pieces, their bytes added to total[0]."""
    for piece in pieces:
        total[0] += len(piece)
        yield piece


def cut_often(farm: Farm, proxy: CuttingProxy, account: Account, cut_after: int) -> int:
    """The catch-up over a line on which every connection is reset; returns how many were."""
    proxy.behaviour = Behaviour(cut_after=cut_after)
    try:
        with Watched(farm, proxy, account):
            farm.server.start()
            wait_until_there(farm, account)
        account.received = figure(farm, "drover_changes_received_total")
    finally:
        proxy.behaviour = Behaviour()
    return account.cuts


def killed_half_way(farm: Farm, proxy: CuttingProxy, account: Account, _: int) -> int:
    """The catch-up in which the line goes silent after half of it, the server is killed, and started again; returns 1."""
    proxy.behaviour = Behaviour(stall_after=account.least // 2)
    with Watched(farm, proxy, account):
        farm.server.start()
        wait_for(lambda: proxy.stalls > 0, patience(account), "the first half")
        first = quiet(farm)
        proxy.behaviour = Behaviour()
        farm.server.kill9()
        proxy.cut_all()
        farm.server.start()
        wait_until_there(farm, account)
    account.received = first + figure(farm, "drover_changes_received_total")
    return 1


def quiet(farm: Farm) -> float:
    """How many changes have come when no more come."""
    found, since = figure(farm, "drover_changes_received_total"), time.monotonic()
    while time.monotonic() - since < QUIET:
        time.sleep(0.05)
        if (now := figure(farm, "drover_changes_received_total")) != found:
            found, since = now, time.monotonic()
    return found


class Watched:
    """Around a catch-up: counts what crosses the line, watches the replica and, when it went well, compares the two sides."""

    def __init__(self, farm: Farm, proxy: CuttingProxy, account: Account) -> None:
        self._farm, self._proxy, self._account = farm, proxy, account
        self._reader = Reader(farm.server.database)
        self._before = proxy.bytes("down"), proxy.connections, proxy.cuts
        self._old = position(farm)

    def __enter__(self) -> None:
        self._began = time.monotonic()
        self._reader.__enter__()

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        account, proxy = self._account, self._proxy
        account.seconds = time.monotonic() - self._began
        account.down, account.connections, account.cuts = (
            now - then for now, then in zip((proxy.bytes("down"), proxy.connections, proxy.cuts), self._before, strict=True)
        )
        self._reader.__exit__()
        if kind is None:
            account.memory = {role.name: peak_memory(role) for role in self._farm.roles}
            account.problems += self._wrong()

    def _wrong(self) -> list[str]:
        new, seen = position(self._farm), self._reader.seen
        found = list(self._reader.failures)
        if seen != [(self._old, self._old), (new, new)]:
            found.append(f"the reader saw the positions {seen[:10]}, not {self._old} and then {new}")
        click.echo(f"a reader that looked {self._reader.looks} times saw {' and then '.join(str(at) for at, _ in seen[:5])}")
        if figure(self._farm, "drover_bootstraps_total"):
            found.append("a snapshot was taken")
        if contents(self._farm.pi.database) != contents(self._farm.server.database):
            found.append("the two sides differ")
        return found


def wait_until_there(farm: Farm, account: Account) -> None:
    """Until the replica stands where the Pi does. Raises InVain."""
    head = int(farm.pi.sql("SELECT max(seq) FROM changelog"))
    wait_for(lambda: position(farm) == head, patience(account), f"seq {head}")


def patience(account: Account) -> float:
    """s that a catch-up may take."""
    return START + account.changes / SLOWEST


def position(farm: Farm) -> int:
    """The replica's seq."""
    return int(farm.server.sql("SELECT seq FROM changelog_position"))


if __name__ == "__main__":
    main()
