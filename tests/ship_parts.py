"""What proof and tests of the shipper share: a bank whose money never changes, those who disturb it, and the shipper as a process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import apsw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.connection import connect, one, remove_database
from changelog.ltx.restore import restore
from changelog.ltx.status import Status, read_status
from changelog.ltx.store.names import LEVELS, Store

ROOT = Path(__file__).resolve().parents[1]
ACCOUNTS, BALANCE = 100, 100
DISTURBANCE = 0.25  # s between two checkpoints of somebody else, at most
RIVAL_PATIENCE = 300  # ms
STOP_LIMIT = 5.0  # s


def make_bank(path: Path, page_size: int = 4096) -> None:
    """A database in WAL mode: accounts with money, and a table that grows and shrinks."""
    with closing(connect(path, create=True)) as db:
        db.pragma("journal_mode", "delete")
        db.pragma("page_size", page_size)
        db.execute("VACUUM")
        db.pragma("journal_mode", "wal")
        with db:
            db.execute("CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER); CREATE TABLE ballast(data BLOB)")
            db.executemany("INSERT INTO accounts VALUES(?,?)", [(number, BALANCE) for number in range(ACCOUNTS)])
        assert one(db, "PRAGMA page_size") == page_size


def transfer(db: apsw.Connection, chance: random.Random) -> None:
    """Move money from an account to another one, and ballast in or out, in one transaction."""
    with db:
        giver, taker = chance.sample(range(ACCOUNTS), 2)
        db.execute("UPDATE accounts SET balance=balance-7 WHERE id=?", (giver,))
        db.execute("UPDATE accounts SET balance=balance+7 WHERE id=?", (taker,))
        db.execute("INSERT INTO ballast VALUES(?)", (chance.randbytes(chance.randrange(3000)),))
        if chance.random() < 0.02:
            db.execute("DELETE FROM ballast WHERE rowid%3=?", (chance.randrange(3),))
        if chance.random() < 0.005:
            db.execute("DELETE FROM ballast")


def is_sound(path: Path) -> bool:
    """Whether the bank in a file is whole, and all the money is there."""
    with closing(connect(path, readonly=True)) as db:
        return bool(one(db, "PRAGMA integrity_check") == "ok" and one(db, "SELECT sum(balance) FROM accounts") == ACCOUNTS * BALANCE)


def bytes_of(path: Path) -> bytes:
    """A database as its file alone: all of the -wal is moved into it. Nobody else may have it open."""
    with closing(connect(path)) as db:
        assert db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE) == (0, 0)
    return path.read_bytes()


def restored(store: Store, target: Path, txid: int | None = None) -> bytes:
    """The bytes of the bank as of a transaction, which must be sound."""
    remove_database(target)
    restore(store, target, txid)
    image = target.read_bytes()
    assert is_sound(target), f"transaction {txid} is not sound"
    return image


def txids(store: Store) -> list[int]:
    """Every transaction at which a file of the store ends."""
    return sorted({file.name.max_txid for level in LEVELS for file in store.list(level)})


class Running:
    """A process of this file's, or any other: ended by SIGTERM, or by the block's end."""

    def __init__(self, *command: object, log: Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(list(map(str, command)), env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> float:
        """End it; returns how many seconds that took."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(2 * STOP_LIMIT)
            finally:
                self.kill9()
        return time.monotonic() - began

    def kill9(self) -> None:
        """As a power cut."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def memory(self) -> float:
        """MB that it has in memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) / 1024

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def disturb(what: str, path: Path, *words: object, log: Path) -> Running:
    """A process that does `what` (write, rival) to the bank at `path`."""
    return Running(sys.executable, __file__, what, path, *words, log=log)


class ShipProcess:
    """`python -m pi ship` on the database at `path`, started and ended as often as one likes."""

    def __init__(self, path: Path, env: dict[str, str], **settings: object) -> None:
        self.path = path
        self.log = path.with_name("ship.out")
        self._env = env | {"DATA_DIR": str(path.parent), "PI_DATABASE": str(path), "PYTHONPATH": str(ROOT)}
        self.settings = {key: str(value) for key, value in settings.items()}
        self.running: Running | None = None

    def start(self, *words: str, wrap: tuple[str, ...] = ()) -> Running:
        """Start it, by way of the command `wrap` if given."""
        command = (*wrap, sys.executable, "-m", "pi", "ship", *words)
        self.running = Running(*command, log=self.log, env=self._env | self.settings, cwd=self.path.parent)
        return self.running

    def kill9(self) -> None:
        """As a power cut."""
        if self.running:
            self.running.kill9()

    def stop(self) -> float:
        """SIGTERM; returns how many seconds it took to end."""
        return self.running.stop() if self.running else 0.0

    @property
    def text(self) -> str:
        """All that it printed so far."""
        return self.log.read_text()

    @property
    def status(self) -> Status:
        """What it tells of itself."""
        told = read_status(self.path)
        return told[0] if told else Status()

    def is_through(self) -> bool:
        """Whether all that was committed until now is in the store: nothing waits, and nothing was committed for some time."""
        before = self.status
        time.sleep(1.5)  # its status is a second late at most
        return before == self.status and before.state == "shipping" and not before.pending_objects


def _write(path: Path, seed: int, seconds: float) -> None:
    chance, until, count = random.Random(seed), time.monotonic() + seconds, 0
    with closing(connect(path)) as db:
        while time.monotonic() < until:
            with suppress(apsw.BusyError):
                transfer(db, chance)
                count += 1
            time.sleep(chance.uniform(0, 0.008))
    print(f"commits {count}")


def _rival(path: Path, seed: int, seconds: float) -> None:
    """All four kinds of checkpoint, and VACUUM, at random."""
    chance, until = random.Random(seed), time.monotonic() + seconds
    kinds = [apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_FULL, apsw.SQLITE_CHECKPOINT_RESTART, apsw.SQLITE_CHECKPOINT_TRUNCATE]
    with closing(connect(path, patience=RIVAL_PATIENCE)) as db:
        while time.monotonic() < until:
            with suppress(apsw.BusyError):
                kind = chance.choice([*kinds, None])
                if kind is None:
                    db.execute("VACUUM")
                else:
                    db.wal_checkpoint(mode=kind)
            time.sleep(chance.uniform(0, DISTURBANCE))


if __name__ == "__main__":
    {"write": _write, "rival": _rival}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
