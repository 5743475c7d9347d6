#!/usr/bin/env python3
"""Bad weather on the line between a real Pi and a real server, while somebody writes: `scripts/prove_network.py 1000`.

1. A pull, and a write with an Idempotency-Key, are cut at every byte of their connection, TLS handshake included, in either direction.
2. The server's connections are cut, delayed, changed beneath TLS, swallowed, and made to drip, CASES of them.
3. A proxy that ends TLS passes requests on twice, changes a bit of an answer, and breaks answers off, CASES times.

The writer moves money between accounts and numbers its commits. Exit code 1 unless every state that was ever seen in the replica's file is
one of the Pi's, whole and in order (the sum, the number of commits, and the balances that the newest of them names), no page goes back,
each change is applied once and each write written once, nothing is said to be unwritten that is written, and both sides end identical.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import apsw
import click
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.connection import connect
from changelog.errors import Conflict, DroverError, Unreachable
from changelog.node.settings import Settings
from changelog.position import Position
from scripts.large_farm import Behaviour, CuttingProxy, Farm, contents, figure, judge, new_farm
from server.pi_writer import PiWriter
from server.replica import Replica
from server.state import SyncState
from server.store import Store
from server.sync import SyncService

from farm_processes import make_certificate  # of tests  # isort: skip
from meddling_proxy import MeddlingProxy  # of tests  # isort: skip

SEED = 1
ACCOUNTS, MONEY = 10, 100
INTERVAL = 0.3  # s, DB_SYNC_INTERVAL: so the back-off is short too
COMMIT_EVERY = 0.02  # s
ENDED = 3  # connections in a row that were shorter than the cut, after which every byte had its turn
LIFE = 0.6  # s after which a connection ends in any case: how long the server waits for a silent one is shown by prove_cuts.py
KINDS = ("cut", "cut up", "delay", "drip", "flip", "flip up", "silence", "black hole", "pass")
SETTLED = 90.0  # s

_SCHEMA = f"""
CREATE TABLE bank(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE ledger(n INTEGER PRIMARY KEY, balances TEXT NOT NULL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ACCOUNTS}) INSERT INTO bank SELECT i, {MONEY} FROM n;
INSERT INTO pens(pen_number, capacity) VALUES('BANK', 0);
"""
_BALANCES = "(SELECT group_concat(balance) FROM (SELECT balance FROM bank ORDER BY id))"
_LOOK = f"""SELECT (SELECT seq FROM changelog_position), (SELECT max(seq) FROM changelog), (SELECT ifnull(max(n), 0) FROM ledger),
  (SELECT count(*) FROM ledger), (SELECT sum(balance) FROM bank), {_BALANCES},
  (SELECT balances FROM ledger ORDER BY n DESC LIMIT 1), (SELECT capacity FROM pens WHERE pen_number='BANK')"""


class Bank:
    """Writes to the Pi's file, as any program may."""

    def __init__(self, farm: Farm, seed: int) -> None:
        self._path, self._chance, self.commits = farm.pi.database, random.Random(seed), 0
        self._stopped = threading.Event()

    def transfer(self) -> None:
        """One numbered commit."""
        giver, taker = self._chance.sample(range(1, ACCOUNTS + 1), 2)
        with closing(connect(self._path)) as db, db:
            db.execute("UPDATE bank SET balance=balance-7 WHERE id=?", (giver,))
            db.execute("UPDATE bank SET balance=balance+7 WHERE id=?", (taker,))
            db.execute(f"INSERT INTO ledger VALUES(?, {_BALANCES})", (self.commits + 1,))
            db.execute("UPDATE pens SET capacity=? WHERE pen_number='BANK'", (self.commits + 1,))
        self.commits += 1

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Commits all the time while the block runs."""
        self._stopped.clear()
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(COMMIT_EVERY):
            self.transfer()


class Witness:
    """Looks at the replica's file, and at a page where there are any, and remembers whatever was never a state of the Pi."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.looks = self.pages = 0
        self.problems: list[str] = []
        self._seq = self._page_seq = 0

    def look(self) -> None:
        """Once."""
        with suppress(DroverError, apsw.BusyError), closing(connect(self._path, readonly=True)) as db:
            seq, newest, n, count, money, balances, told, capacity = db.execute(_LOOK).fetchall()[0]
            self.looks += 1
            if seq != newest or n != count or n != capacity or money != ACCOUNTS * MONEY or (told or balances) != balances:
                self.problems.append(
                    f"no state of the Pi: seq {seq}/{newest}, n {n}/{count}/{capacity}, {money}, {balances} and not {told}"
                )
            if seq < self._seq:
                self.problems.append(f"the replica went back from seq {self._seq} to {seq}")
            self._seq = seq

    def read_page(self, browser: requests.Session, url: str) -> None:
        """A page, whose rows are of one state too."""
        answer = browser.get(f"{url}/office/pens", timeout=30, allow_redirects=False)
        seq, capacity = re.search(r'data-seq="(\d+)"', answer.text), re.search(r">BANK<", answer.text)
        if answer.status_code != 200 or seq is None or capacity is None:
            self.problems.append(f"a page was answered with {answer.status_code}: {answer.text[:200]}")
            return
        self.pages += 1
        if int(seq[1]) < self._page_seq:
            self.problems.append(f"a page went back from seq {self._page_seq} to {seq[1]}")
        self._page_seq = int(seq[1])

    @contextmanager
    def watching(self, farm: Farm) -> Iterator[None]:
        """All the time while the block runs."""
        stopped, browser = threading.Event(), farm.login()

        def run() -> None:
            while not stopped.wait(0.01):
                self.look()
                self.read_page(browser, farm.server.url)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def settings_of(farm: Farm, port: int, folder: Path) -> Settings:
    """The server's, with files in `folder`, behind a proxy at `port`."""
    values = {name: str(value) for name, value in farm.server.settings.items()} | {"REMOTE_PI_PORT": str(port), "DATA_DIR": str(folder)}
    return Settings.load(Path("/nonexistent"), values | {"PI_CERT": str(farm.server.data / "pi-cert.pem")})


def cut_pulls(farm: Farm, bank: Bank, folder: Path, stride: int, counts: Counter[str]) -> list[str]:
    """A pull over a new connection, cut after every `stride`-th number of bytes in each direction; the next goes on with what came."""
    folder.mkdir()
    with CuttingProxy(int(str(farm.pi.settings["PI_PORT"]))) as proxy:
        settings = settings_of(farm, proxy.port, folder)
        store, replica = Store(settings.server_db), Replica(settings.replica_db)
        sync = SyncService(settings, replica, store, SyncState(60))
        witness, problems = Witness(settings.replica_db), []
        sync.follower.step()
        for direction in ("down", "up"):
            after, short = 0, 0
            while short < ENDED:
                if sync.follower.position() == head_of(farm):  # one commit at a time, so that each exchange is the same
                    bank.transfer()
                sync.follower.close()
                sync._client.close()
                proxy.behaviour, before = Behaviour(cut_after=after, direction=direction), proxy.cuts
                try:
                    sync.follower.step()
                except Unreachable:
                    counts[f"a pull cut, {direction}"] += 1
                except DroverError as exc:
                    problems.append(f"a pull cut after {after} bytes {direction} ended in {type(exc).__name__}: {exc}")
                short = short + 1 if proxy.cuts == before else 0
                witness.look()
                after += stride
            counts[f"bytes of a pull, {direction}"] = after
        proxy.behaviour = Behaviour()
        sync._client.close()
        sync.follower.step()
        witness.look()
        if contents(farm.pi.database) != contents(settings.replica_db):
            problems.append("after the cut pulls the two sides differ")
        if store.totals().total_syncs and one_bootstrap(store) != 1:
            problems.append(f"{one_bootstrap(store)} copies were fetched, and the first one is all that is needed")
        sync.follower.close()
        sync._client.close()
        replica.close()
        store.close()
        counts["looks at the replica"] += witness.looks
        return problems + witness.problems


def head_of(farm: Farm) -> Position:
    """The newest position of the Pi."""
    with closing(connect(farm.pi.database, readonly=True)) as db:
        return Position.of_head(db)


def one_bootstrap(store: Store) -> int:
    """How many copies were installed."""
    return sum(line.times for line in store.history().rows if line.kind == "bootstrap")


def cut_writes(farm: Farm, folder: Path, stride: int, counts: Counter[str]) -> list[str]:
    """A write over a new connection, cut likewise, and sent again with the same key until it is answered: it is written once."""
    problems = []
    with CuttingProxy(int(str(farm.pi.settings["PI_PORT"]))) as proxy:
        writer = PiWriter(settings_of(farm, proxy.port, folder))
        for direction in ("down", "up"):
            after, short = 0, 0
            while short < ENDED:
                name = f"{direction}{after}"
                proxy.behaviour, before = Behaviour(cut_after=after, direction=direction), proxy.cuts
                try:
                    send_pen(writer, name)
                except Unreachable as exc:
                    counts[f"a write cut, {direction}"] += 1
                    if not exc.facts.get("sent") and farm.pi.sql(f"SELECT 1 FROM pens WHERE pen_number='{name}'"):
                        problems.append(f"{name}: said to be unwritten, and it is written")
                short = short + 1 if proxy.cuts == before else 0
                proxy.behaviour = Behaviour()
                writer.close()
                send_pen(writer, name)
                writer.close()
                after += stride
            counts[f"bytes of a write, {direction}"] = after
    twice = farm.pi.sql(
        "SELECT group_concat(key) FROM (SELECT n1 AS key FROM changelog WHERE tbl='pens' AND op='I' GROUP BY 1 HAVING count(*)>1)"
    )
    return problems + ([f"written twice: {twice}"] if twice else [])


def send_pen(writer: PiWriter, name: str) -> None:
    """As a form of the office does it."""
    writer.send("POST", "/pens", {"pen_number": name, "capacity": 1}, actor="boss", key=f"key-of-{name}")


class Weather:
    """The farm behind a proxy at which each connection of the server meets something."""

    def __init__(self, farm: Farm, seed: int, counts: Counter[str]) -> None:
        self.farm, self._chance, self._counts = farm, random.Random(seed), counts
        self._times: dict[int, float] = {}  # when each connection was first seen
        self.proxy = CuttingProxy(int(str(farm.pi.settings["PI_PORT"])))

    def next(self) -> Behaviour:
        """What the next connection meets."""
        kind, after = self._chance.choice(KINDS), int(10 ** self._chance.uniform(0, 4.7))
        self._counts[f"weather: {kind}"] += 1
        return {
            "cut": Behaviour(cut_after=after),
            "cut up": Behaviour(cut_after=after, direction="up"),
            "delay": Behaviour(delay=self._chance.uniform(0, 0.05)),
            "drip": Behaviour(piece=64, delay=0.001),
            "flip": Behaviour(flip_after=after),
            "flip up": Behaviour(flip_after=after, direction="up"),
            "silence": Behaviour(stall_after=after),
            "black hole": Behaviour(black_hole=True),
            "pass": Behaviour(),
        }[kind]

    def storm(self, cases: int) -> None:
        """Until so many connections have met something."""
        seen = self.proxy.connections
        until = seen + cases
        while seen < until:
            if self.proxy.connections > seen:
                seen = self.proxy.connections
                self.proxy.behaviour = self.next()
            for link in self.proxy.links[-6:]:
                if not link.ended and time.monotonic() - self._times.setdefault(link.number, time.monotonic()) > LIFE:
                    link.end(reset=True)
            time.sleep(0.002)
        self.proxy.behaviour = Behaviour()
        self.proxy.cut_all()


def judged(farm: Farm, applied: float, head: int, bootstraps: int, what: str) -> list[str]:
    """Both sides at the same, by replay alone, each change once."""
    farm.assert_identical(SETTLED)
    problems = [] if contents(farm.pi.database) == contents(farm.server.database) else [f"{what}: the two sides differ"]
    made, counted = int(farm.pi.sql("SELECT max(seq) FROM changelog")) - head, figure(farm, "drover_changes_applied_total") - applied
    if made != counted:
        problems.append(f"{what}: {made} changes were made, and {counted:.0f} applied")
    if copies := figure(farm, "drover_bootstraps_total") - bootstraps:
        problems.append(f"{what}: {copies:.0f} copies were fetched, and none was needed")
    if "Traceback" in farm.server.log + farm.pi.log:
        problems.append(f"{what}: there is a traceback in a log")
    return problems


def bad_weather(farm: Farm, bank: Bank, cases: int, counts: Counter[str]) -> list[str]:
    """Part 2."""
    weather = Weather(farm, SEED, counts)
    with weather.proxy as proxy:
        farm.server.settings |= {"REMOTE_PI_PORT": proxy.port, "DB_SYNC_INTERVAL": INTERVAL}
        farm.server.start()
        farm.assert_identical()
        applied, head = figure(farm, "drover_changes_applied_total"), int(farm.pi.sql("SELECT max(seq) FROM changelog"))
        witness = Witness(farm.server.database)
        with witness.watching(farm), bank.busy():
            weather.storm(cases)
        problems = judged(farm, applied, head, 1, "bad weather")
        counts["bytes changed beneath TLS"] = proxy.flips
        farm.server.stop()
    counts["looks at the replica"] += witness.looks
    counts["pages read"] += witness.pages
    return problems + witness.problems


def meddled(farm: Farm, bank: Bank, folder: Path, cases: int, counts: Counter[str]) -> list[str]:
    """Part 3: without a socket, since the proxy knows none, and compressed or not."""
    folder.mkdir()
    make_certificate(folder, "proxy")
    chance, problems = random.Random(SEED + 2), []
    names = [folder / f"proxy-{part}.pem" for part in ("cert", "key")]

    def meddle(method: str, path: str) -> str:
        if method != "GET":
            return "twice"
        return chance.choice(("pass", "twice", "flip", "flip", "cut")) if path.startswith("/api/sync/changes") else "pass"

    for plain in (True, False):
        with MeddlingProxy(farm.pi.url, farm.pi.data / "pi-cert.pem", *names, meddle, plain=plain, seed=SEED) as proxy:
            farm.server.settings |= {"REMOTE_PI_PORT": proxy.port, "DB_SYNC_INTERVAL": INTERVAL, "PI_CERT": names[0]}
            farm.server.start()
            applied, head = figure(farm, "drover_changes_applied_total"), int(farm.server.sql("SELECT seq FROM changelog_position"))
            writer, witness, number = PiWriter(settings_of_proxy(farm, proxy.port, folder)), Witness(farm.server.database), 0
            with witness.watching(farm), bank.busy():
                while proxy.done["flip"] + proxy.done["cut"] + proxy.done["twice"] < cases // 2:
                    number += 1
                    with suppress(Conflict):
                        send_pen(writer, f"twice{plain}{number}")
                    time.sleep(0.05)
            writer.close()
            proxy.meddle = lambda method, path: "pass"
            problems += [*judged(farm, applied, head, 0, f"meddled, plain={plain}"), *witness.problems]
            if farm.pi.sql(f"SELECT count(*) FROM pens WHERE pen_number LIKE 'twice{plain}%'") != str(number):
                problems.append(f"{number} pens were sent, and others are there")
            counts.update({f"meddled: {what}, {'plain' if plain else 'compressed'}": times for what, times in proxy.done.items()})
            farm.server.stop()
        counts["pages read"] += witness.pages
    return problems


def settings_of_proxy(farm: Farm, port: int, folder: Path) -> Settings:
    """The server's, for a writer beside it that pins the proxy."""
    values = {name: str(value) for name, value in farm.server.settings.items()} | {"REMOTE_PI_PORT": str(port), "DATA_DIR": str(folder)}
    return Settings.load(Path("/nonexistent"), values)


@click.command(help=__doc__)
@click.argument("cases", type=click.IntRange(20), default=1_000)
@click.option("--stride", type=click.IntRange(1), default=1, help="Cut at every so many bytes only.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the files stand.  [default: a new one that is removed]")
def main(cases: int, stride: int, folder: Path | None) -> None:
    """The proof."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as made, new_farm((folder or Path(made)) / "farm") as farm:
        place = (folder or Path(made)).absolute()
        farm.pi.sql(_SCHEMA)
        farm.pi.start()
        bank = Bank(farm, SEED)
        problems: list[str] = []
        for part in (
            lambda: cut_pulls(farm, bank, place / "pulls", stride, counts),
            lambda: cut_writes(farm, place / "pulls", stride, counts),
            lambda: bad_weather(farm, bank, cases, counts),
            lambda: meddled(farm, bank, place / "proxy", cases, counts),
        ):
            began, found = time.monotonic(), part()
            problems += found
            click.echo(f"{part.__code__.co_names[0]}: {time.monotonic() - began:.0f} s, {len(found)} problems")
        counts["commits of the bank"] = bank.commits
    for what, times in sorted(counts.items()):
        click.echo(f"{times:8,} {what}")
    judge(problems)


if __name__ == "__main__":
    main()
