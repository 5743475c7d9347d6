"""Where a run takes place: its folder, its sizes, and the herds that several parts use."""

from __future__ import annotations

import copy
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw
from office_farm import PASSWORD_HASH

from changelog.bootstrap import fit_out
from changelog.connection import connect
from changelog.primary import Primary
from changelog.replay import connect_replica
from pi.farm import make_primary
from scripts.large_farm import Farm, Seed, add_animals
from server.indexes import LOCAL_INDEXES

IN_A_PEN = 200  # animals
CATTLE = "INSERT INTO cattle(batch_id, cattle_id, sex, weight, lf_tag, uhf_tag) VALUES(?, ?, 'cow', ?, ?, ?)"
# What tells animals apart on the pages: one in four has no pen, one in twenty was exported, one in five was never weighed.
PENS = (
    """WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i<?1-1)
       INSERT INTO pens(pen_number, capacity) SELECT printf('P%05d', i+1), 150+i%100 FROM n""",
    """UPDATE cattle SET pen_id=CASE id%4 WHEN 0 THEN NULL ELSE id*7919%?1+1 END, weight=CASE id%5 WHEN 0 THEN NULL ELSE weight END,
         status=CASE id%20 WHEN 0 THEN 'exported' ELSE 'active' END""",
)
ROWS_AN_ANIMAL = 3.115  # itself, a weight, a payload, a tenth of a former pair, its share of batch and pen


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5  # pairs of measurements with a peer
    commits: int = 500  # of one row, for each kind and round
    changes: int = 100_000  # of a catch-up
    log: int = 1_000_000  # changes among which one cell's history is asked for
    herds: tuple[int, ...] = (10_000, 100_000, 1_000_000)  # animals
    herd: int = 100_000  # likewise, where there is one size
    realtime: int = 300  # commits of each writer
    browser: int = 100
    shipped: int = 12  # commits
    mib: int = 68  # of a database that is restored: as large as the herd
    payloads: int = 4_000  # by eight clients
    backlog: int = 20_000  # payloads for the worker
    replicas: tuple[int, ...] = (1, 10, 50)
    rates: tuple[int, ...] = (1, 10, 100)  # payloads a second
    seconds: float = 10.0  # of what is measured by the second
    idle: float = 30.0  # s
    syncs: tuple[int, ...] = (100, 1_000, 10_000, 100_000)  # records of the document's claims
    page_rounds: int = 100

    @classmethod
    def quick(cls) -> Sizes:
        """A minute in all."""
        return cls(
            rounds=3, commits=60, changes=5_000, log=20_000, herds=(2_000, 20_000), herd=3_000, realtime=40, browser=10, shipped=3, mib=4,
            payloads=600, backlog=1_500, replicas=(1, 5), rates=(20,), seconds=2.0, idle=3.0, syncs=(100, 1_000), page_rounds=15,
        )  # fmt: skip


class Ground:
    """One run. `clock` is that of work in this process: CPU time in a short run, which others on the machine hardly disturb."""

    def __init__(self, folder: Path, sizes: Sizes, say: Callable[[str], object], clock: Callable[[], float] = time.perf_counter) -> None:
        self.folder, self.sizes, self.say, self.clock = folder, sizes, say, clock
        self._seed: Seed | None = None
        self._herds: dict[int, Seed] = {}
        self._replicas: dict[int, Path] = {}
        self._numbers = iter(range(1_000_000))

    def place(self, name: str) -> Path:
        """A new folder."""
        made = self.folder / f"{name}-{next(self._numbers)}"
        made.mkdir(parents=True)
        return made

    @contextmanager
    def room(self, name: str) -> Iterator[Path]:
        """The same, removed at the block's end: a run has many gigabytes in all."""
        made = self.place(name)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def herd(self, animals: int) -> Seed:
        """A Pi's data with so many animals, made once: its log is installed, and tells of none of them."""
        if animals not in self._herds:
            self._seed = self._seed or Seed(self.folder / "seed")
            found = copy.copy(self._seed)
            found.folder = self.folder / f"herd-{animals}"
            shutil.copytree(self._seed.folder, found.folder)
            if animals:
                fill(found.folder / "farm.db", animals)
            self._herds[animals] = found
        return self._herds[animals]

    @contextmanager
    def farm(self, animals: int, name: str = "farm") -> Iterator[Farm]:
        """A Pi with so many animals, and a server that has none yet; not started, ended with the block."""
        with self.room(name) as folder:
            made = Farm(folder, self.herd(animals))
            try:
                yield made
            finally:
                made.close()

    def replica(self, animals: int) -> Path:
        """A folder with the replica.db of such a Pi, as the server has it; for readers only."""
        if animals not in self._replicas:
            folder = self.place("replica")
            with closing(Primary(self.herd(animals).folder / "farm.db")) as primary:
                primary.copy_to(folder / "replica.db")
            fit_out(folder / "replica.db", None)
            with closing(connect_replica(folder / "replica.db")) as db:
                index(db)
            self._replicas[animals] = folder
        return self._replicas[animals]

    def keep_replica(self, animals: int, path: Path) -> None:
        """Take a replica that a server has made, and ended with, for `replica`."""
        if animals not in self._replicas:
            folder = self.place("replica")
            path.rename(folder / "replica.db")
            self._replicas[animals] = folder


def fill(path: Path, animals: int) -> None:
    """Animals, pens, weights and payloads in a farm; the log is installed after them."""
    add_animals(path, 0, animals, logged=False)
    with closing(connect(path)) as db:
        db.pragma("synchronous", "OFF")
        with db:
            for sql in PENS:
                db.execute(sql, (max(1, animals // IN_A_PEN),))
            db.execute("INSERT INTO users(username, password_hash, role) VALUES('admin', ?, 'admin')", (PASSWORD_HASH,))
        make_primary(db)
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def index(db: apsw.Connection) -> None:
    """The indexes that the server adds."""
    for sql in LOCAL_INDEXES:
        db.execute(sql)


def animal(n: int) -> tuple[object, ...]:
    """The values of the n-th animal, for CATTLE."""
    return n // 100 + 1, f"B{n // 100:05d}-{n:06d}", 300 + n * 7919 % 2000 / 10, f"LF{n:08d}", f"UHF{n:012d}"


def cpu_of(pids: list[int]) -> float:
    """Seconds of CPU that these processes have used."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def program(name: str, *words: object) -> list[str]:
    """The command of a module of this package that is a process of its own."""
    return [sys.executable, "-m", f"scripts.bench.{name}", *map(str, words)]
