#!/usr/bin/env python3
"""Verify and repair against a real Pi, over TLS: `scripts/prove_verify.py CORRUPTIONS VERIFIES [--cattle N] [--seed N]`.

A Pi runs as a process of its own; this process is the office. Then:

1. CORRUPTIONS times one or several cells of replica.db are changed by another connection: any table, any column, keys and the log too, to
   values of any type. Each must be named by `verify`, mended, and both files hold the same then, by a digest that verify does not use.
2. VERIFIES times both sides are compared while others write on the Pi: its own writer (payloads by HTTP), sqlite3, DDL now and then.
   None may find a difference. A third program writes all the time, during the comparisons and without them: its longest waits are printed.
3. With --cattle so many animals, weights and payloads each: the time of a comparison and of a repair, bytes, memory, the writer's waits.

The exit code is 1 unless everything was so.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from farm_processes import Farm, Seed

from changelog.connection import connect, one, rows
from changelog.errors import DroverError
from changelog.guard import pass_guards
from changelog.node.settings import Settings
from changelog.reader import log_rows
from changelog.schema import identifier, read_tables
from changelog.values import encode_row, for_json
from changelog.verify.digest import digest_tables, row_names
from changelog.wire import FACTS
from scripts.large_farm import SteadyWriter, add_animals, peak_memory, waits_in_words
from server.replica import Replica
from server.state import SyncState
from server.store import Store
from server.sync import SyncService
from server.verifier import Verdict

ODD = """
CREATE TABLE odd_nocase(name TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, v);
CREATE TABLE odd_pair(a TEXT, b INTEGER, c BLOB, PRIMARY KEY(a, b)) WITHOUT ROWID;
CREATE TABLE odd_none(x, y REAL);
CREATE TABLE odd_any(k NOT NULL PRIMARY KEY, v UNIQUE);
CREATE TABLE odd_counter(id INTEGER PRIMARY KEY AUTOINCREMENT, v);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<150) INSERT INTO odd_nocase SELECT 'Name '||i, i%7 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<150) INSERT INTO odd_pair SELECT 'p'||(i%9), i, randomblob(9) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<150) INSERT INTO odd_none SELECT i%3, i/7.0 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<150) INSERT INTO odd_any
  SELECT CASE i%4 WHEN 0 THEN i WHEN 1 THEN i+0.5 WHEN 2 THEN 'k'||i ELSE CAST('b'||i AS BLOB) END, CASE WHEN i%5 THEN 'v'||i END FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<150) INSERT INTO odd_counter(v) SELECT CAST(x'61ff' AS TEXT)||i FROM n;
"""
VALUES = [
    *(
        "NULL",
        "0",
        "1",
        "1.0",
        "-1",
        "9223372036854775807",
        "0.1",
        "-0.0",
        "0.0",
        "9e999",
        "-9e999",
        "''",
        "' '",
        "'a'",
        "'A'",
        "'1'",
        "'🐄'",
    ),
    *("x''", "x'00'", "x'61'", "CAST(x'61ff' AS TEXT)", "CAST(x'610062' AS TEXT)", "zeroblob(5000)", "random()", "hex(randomblob(4))"),
]
SMALL_FARM = 150  # animals
FIRST_OF_LARGE = 10_000  # the number of the first animal that is added to them
DDL = ["CREATE TABLE IF NOT EXISTS made_{0}(id INTEGER PRIMARY KEY, v)", "CREATE INDEX made_index_{0} ON cattle(weight)"]
DDL += ["ALTER TABLE odd_none ADD COLUMN c{0} DEFAULT {0}", "DROP INDEX IF EXISTS made_index_{1}", "DROP TABLE IF EXISTS made_{1}"]
DDL_EVERY = 25  # verifies
LARGE_VERIFIES = 5
PAUSE = 0.1  # s between two writes of each writer: the log, which each comparison reads whole, is not to grow for the sake of the proof


Wait = tuple[float, float]


@dataclass(frozen=True)
class Cell:
    """What was changed: the row's key as it was, as verify names it."""

    table: str
    key: Any
    column: str

    def is_named(self, verdict: Verdict) -> bool:
        """Whether the verdict tells about it."""
        return any(
            d["table"] == self.table and d["key"] == self.key and ("only" in d or self.column in d["columns"])
            for d in verdict.report.differences
        )


class Office:
    """The server's side in this process: files, client, the follower and its verify."""

    def __init__(self, farm: Farm) -> None:
        settings = {k: str(v) for k, v in farm.server.settings.items()} | {"DATA_DIR": str(farm.server.data)}
        self.settings = Settings.load(Path("/nonexistent"), settings)
        self.store, self.replica = Store(self.settings.server_db), Replica(self.settings.replica_db)
        self.sync = SyncService(self.settings, self.replica, self.store, SyncState(30))
        self.step()

    def step(self) -> None:
        """One turn of the follower."""
        self.sync.follower.step()

    def verify(self, repair: bool = True) -> Verdict:
        """What the sync thread does."""
        return self.sync.verify(repair)

    def close(self) -> None:
        """Close everything."""
        self.sync.follower.close()
        self.replica.close()
        self.store.close()


class Proof:
    """One farm and what is tried on it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance, self.failed = random.Random(seed), 0
        (folder / "seed").mkdir()
        self.farm = Farm(folder, Seed(folder / "seed"))
        self.farm.fill(SMALL_FARM)
        self.farm.pi.sql(ODD)
        self.farm.pi.start()
        for number in range(20):
            self.farm.post(f"hxb:PROOF:LF{number}:UHF{number}")
        self.farm.pi.sql("INSERT INTO weight_records(cattle_id, weight) SELECT id, 100+id FROM cattle; UPDATE cattle SET weight=weight+1")
        self.office = Office(self.farm)

    def close(self) -> None:
        """End the Pi."""
        self.office.close()
        self.farm.close()

    def fail(self, text: str) -> None:
        """Say what was wrong."""
        self.failed += 1
        click.echo(f"FAILED {text}")

    # -- 1

    def corruptions(self, count: int) -> None:
        """Corrupt, find, name, mend, compare."""
        done, cells, moved, seconds, tables = 0, 0, list[int](), list[float](), Counter[str]()
        while done < count:
            changed = self._corrupt(1 if self.chance.random() < 0.7 else self.chance.randint(2, 5))
            if not changed:
                continue
            verdict = self.office.verify()
            done, cells = done + 1, cells + len(changed)
            tables.update(cell.table for cell in changed)
            moved.append(verdict.moved)
            seconds.append(verdict.seconds)
            missed = [cell for cell in changed if not cell.is_named(verdict)]
            if missed or not verdict.mended or verdict.snapshot:
                self.fail(f"corruption {done}: {missed or changed}: {verdict.sentence()} {verdict.reason} {verdict.report.differences}")
            if not self._alike():
                self.fail(f"corruption {done}: {changed}: the files differ after the repair")
                self.office.sync.follower.bootstrap("the proof failed")
        clean = self.office.verify()
        if not clean.identical:
            self.fail(f"after all: {clean.sentence()}")
        self._check_file()
        click.echo(f"{done} corruptions of {cells} cells in {len(tables)} tables ({tables['changelog']} of the log), {self.failed} failed")
        click.echo(f"bytes moved: {_spread(moved)}, without any corruption {clean.moved}; seconds: {_spread(seconds)}")

    def _corrupt(self, count: int) -> list[Cell]:
        db = connect(self.office.settings.replica_db)
        try:
            pass_guards(db)
            db.pragma("ignore_check_constraints", True)
            db.pragma("synchronous", "OFF")
            return [cell for _ in range(count) if (cell := self._corrupt_one(db))]
        finally:
            db.close()

    def _corrupt_one(self, db: apsw.Connection) -> Cell | None:
        table, columns, key = self._some_table(db)
        total = one(db, f"SELECT count(*) FROM {identifier(table)}")
        if not total:
            return None
        column, names = self.chance.choice(columns), [identifier(k) for k in key]
        place = f"SELECT {', '.join(f'typeof({k}), CAST({k} AS BLOB)' for k in names)} FROM {identifier(table)}"
        row = rows(db, f"{place} ORDER BY {', '.join(names)} LIMIT 1 OFFSET ?", (self.chance.randrange(total),))[0]
        where = " AND ".join(f"typeof({k})=? AND CAST({k} AS BLOB)=?" for k in names)
        try:
            known = rows(db, f"SELECT {', '.join(names)} FROM {identifier(table)} WHERE {where}", row)[0]
            before = self._exactly(db, table, column, where, row)
            db.execute("BEGIN")
            db.execute(f"UPDATE {identifier(table)} SET {identifier(column)}={self.chance.choice(VALUES)} WHERE {where}", row)
            left = rows(db, f"SELECT 1 FROM {identifier(table)} WHERE {where}", row)
            same = bool(left) and self._exactly(db, table, column, where, row) == before
            db.execute("ROLLBACK" if same else "COMMIT")
        except (apsw.Error, UnicodeDecodeError):  # a constraint forbids it, or the key is text that Python cannot show
            if db.in_transaction:
                db.execute("ROLLBACK")
            return None
        shown = [for_json(v) for v in known]
        return None if same else Cell(table, shown[0] if len(shown) == 1 else shown, column)

    def _some_table(self, db: apsw.Connection) -> tuple[str, list[str], list[str]]:
        if self.chance.random() < 0.2:
            columns = [name for (name,) in rows(db, "SELECT name FROM pragma_table_info('changelog')")]
            return "changelog", self.chance.choice([list(FACTS), columns]), ["seq"]
        table = self.chance.choice(read_tables(db))
        return table.name, row_names(table), [c.name for c in table.primary_key] if table.key_slots else [table.rowid or "rowid"]

    def _exactly(self, db: apsw.Connection, table: str, column: str, where: str, row: Any) -> Any:
        name = identifier(column)
        value = f"CASE typeof({name}) WHEN 'real' THEN printf('%!.17g', {name}) ELSE CAST({name} AS BLOB) END"
        return rows(db, f"SELECT typeof({name}), {value} FROM {identifier(table)} WHERE {where}", row)

    def _alike(self) -> bool:
        """By whole tables, hashed row by row in Python, and the whole log."""
        return _held(self.farm.pi.database) == _held(self.office.settings.replica_db)

    def _check_file(self) -> None:
        db = connect(self.office.settings.replica_db, readonly=True)
        found = one(db, "PRAGMA integrity_check")
        db.close()
        if found != "ok":
            self.fail(f"integrity_check: {found}")

    # -- 2

    def alarms(self, count: int) -> None:
        """Compare while others write; every other while nothing is compared, with the same writers, for the waits of one of them."""
        outcome, seconds, spans = Counter[str](), list[float](), list[tuple[float, float]]()

        def alternate() -> None:
            for first in range(0, count, DDL_EVERY):
                began = time.monotonic()
                self._verify_often(range(first, min(count, first + DDL_EVERY)), outcome, seconds)
                spans.append((began, time.monotonic()))
                self._follow_only(spans[-1][1] - began, first)

        with self._writers():
            taken = self._waits(alternate)
        click.echo(f"{count} verifies under concurrent writes: {dict(outcome)}; seconds: {_spread(seconds)}")
        click.echo(f"the Pi's head is at seq {self.farm.pi.sql('SELECT max(seq) FROM changelog')}")
        _show_waits(taken, spans)
        self.office.step()
        if not self._alike():
            self.fail("the files differ at the end")

    def _follow_only(self, seconds: float, number: int) -> None:
        """What the office does when it compares nothing."""
        self._change_schema(number + 1_000_000)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.office.step()
            time.sleep(PAUSE)

    def _verify_often(self, numbers: range, outcome: Counter[str], seconds: list[float]) -> None:
        outcome["DDL"] += self._change_schema(numbers[0])
        for number in numbers:
            try:
                verdict = self.office.verify(repair=self.chance.random() < 0.5)
            except DroverError as exc:
                outcome[f"not made: {type(exc).__name__}"] += 1
                click.echo(f"verify {number}: {exc.message}")
                continue
            seconds.append(verdict.seconds)
            outcome["identical" if verdict.identical else "FALSE ALARM"] += 1
            if not verdict.identical:
                self.fail(f"verify {number}: {verdict.sentence()} {verdict.reason} {verdict.report.differences[:3]}")

    def _change_schema(self, number: int) -> bool:
        return _typed(self.farm.pi.database, self.chance.choice(DDL).format(number, number - DDL_EVERY * self.chance.choice([1, 2])))

    @contextmanager
    def _writers(self) -> Iterator[None]:
        """Somebody who types into sqlite3. (The Pi's own writer is kept busy by `write_payloads`.)"""
        stop = threading.Event()
        thread = threading.Thread(target=self._shell, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _shell(self, stop: threading.Event) -> None:
        chance = random.Random(1)
        while not stop.wait(PAUSE):
            one_id = chance.randint(1, SMALL_FARM)
            _typed(
                self.farm.pi.database,
                f"""BEGIN IMMEDIATE;
                UPDATE cattle SET weight=weight+1, notes='n{one_id}' WHERE id={one_id};
                REPLACE INTO odd_nocase VALUES('name {chance.randint(1, 200)}', random());
                DELETE FROM odd_pair WHERE b={chance.randint(1, 400)};
                INSERT OR IGNORE INTO odd_pair VALUES('p', {chance.randint(1, 400)}, randomblob(20));
                UPDATE odd_none SET x=random() WHERE rowid={one_id};
                INSERT INTO odd_counter(v) VALUES(NULL); DELETE FROM odd_counter WHERE id<(SELECT max(id)-150 FROM odd_counter);
                COMMIT;""",
            )

    # -- waits of a writer

    def _waits(self, work: Callable[[], None]) -> dict[str, list[Wait]]:
        """Start and length (s) of each write while `work` ran: payloads to the Pi's own writer, and commits by another program."""
        context = multiprocessing.get_context("spawn")
        stop, queue = context.Event(), context.Queue()
        arguments = (self.farm.pi.url, str(self.farm.pi.data / "pi-cert.pem"), stop, queue)
        radio = context.Process(target=write_payloads, args=arguments, daemon=True)
        radio.start()
        assert queue.get(timeout=30) == "ready"
        with SteadyWriter(self.farm.pi.database, 1 / PAUSE, 1) as program:
            try:
                work()
            finally:
                stop.set()
                payloads = queue.get(timeout=30)
                radio.join()
        return {"a payload, answered 201": payloads, "a commit of another program": program.commits}

    # -- 3

    def large(self, cattle: int) -> None:
        """A large farm."""
        self.farm.pi.stop()
        add_animals(self.farm.pi.database, FIRST_OF_LARGE, cattle, logged=True)
        self.farm.pi.start()
        self.office.step()
        before, found, spans = _memory(self.farm), list[Verdict](), list[tuple[float, float]]()

        def alternate() -> None:
            for _ in range(LARGE_VERIFIES):
                began = time.monotonic()
                found.append(self.office.verify())
                spans.append((began, time.monotonic()))
                time.sleep(spans[-1][1] - began)

        taken = self._waits(alternate)
        if not all(v.identical for v in found):
            self.fail(f"{[v.sentence() for v in found]}")
        first = found[0]
        click.echo(f"{cattle} animals: {first.rows} rows and {first.report.log_rows} of the log")
        middle = statistics.median(v.seconds for v in found)
        click.echo(f"compared in {middle:.2f} s, {first.moved} bytes moved, in {first.report.ranges} ranges")
        db = connect(self.office.settings.replica_db)
        pass_guards(db)
        db.execute("UPDATE cattle SET weight=weight+0.5 WHERE id=(SELECT id FROM cattle ORDER BY random() LIMIT 1)")
        db.close()
        repaired = self.office.verify()
        if not repaired.mended or repaired.report.repaired != 1:
            self.fail(f"{repaired.sentence()}")
        click.echo(f"one cell found and mended in {repaired.seconds:.2f} s, {repaired.moved} bytes moved, the second comparison included")
        after = _memory(self.farm)
        click.echo(f"peak memory, MB, before and after: the Pi {before[0]:.0f} -> {after[0]:.0f}, here {before[1]:.0f} -> {after[1]:.0f}")
        _show_waits(taken, spans)


def write_payloads(url: str, certificate: str, stop: Any, queue: Any) -> None:
    """A radio's payloads, one after another, to the Pi's own writer. (A process of its own.)"""
    import requests

    session, taken, number = requests.Session(), list[Wait](), int(time.time() * 1000)
    session.verify, session.trust_env = certificate, False

    def send() -> None:
        answer = session.post(f"{url}/api/lora/receive", json={"payload": f"hxb:WAITS:L{number}:U{number}"}, timeout=30)
        assert answer.status_code == 201, answer.text

    send()
    queue.put("ready")
    while not stop.wait(PAUSE):
        number, began = number + 1, time.monotonic()  # one clock for all processes of a machine
        send()
        taken.append((began, time.monotonic() - began))
    queue.put(taken)


def _show_waits(found: dict[str, list[Wait]], spans: list[tuple[float, float]]) -> None:
    """The waits in the spans of time in which something was compared, and in the others."""
    for what, taken in sorted(found.items()):
        for when, inside in (("during verify ", True), ("without verify", False)):
            waits = [seconds for at, seconds in taken if any(low - seconds <= at <= high for low, high in spans) is inside]
            click.echo(f"{when}: {what}: {waits_in_words(waits)}")


def _spread(values: list[Any]) -> str:
    if not values:
        return "none"
    low, middle, high = min(values), statistics.median(values), max(values)
    digits = 3 if isinstance(low, float) else 0
    return f"{low:.{digits}f} to {high:.{digits}f}, half of them up to {middle:.{digits}f}"


def _typed(database: Path, sql: str) -> bool:
    """Typed into sqlite3 by somebody who waits for a lock; False where SQLite refuses."""
    command = ["sqlite3", "-bail", "-cmd", ".timeout 8000", str(database)]
    return subprocess.run(command, input=sql, capture_output=True, text=True, check=False).returncode == 0


def _held(path: Path) -> Any:
    db = connect(path, readonly=True)
    try:
        with db:
            log = hashlib.sha256()
            for row in log_rows(db, "ORDER BY seq"):
                log.update(encode_row(row).encode())
            return digest_tables(db), log.hexdigest()
    finally:
        db.close()


def _memory(farm: Farm) -> tuple[float, float]:
    """Peak resident memory in MB: the largest process of the Pi, and this one."""
    return peak_memory(farm.pi) / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux tells kB


@click.command(help="Try CORRUPTIONS corrupted replicas, and VERIFIES comparisons under writes.")
@click.argument("corruptions", type=int, default=1_000)
@click.argument("verifies", type=int, default=1_000)
@click.option("--cattle", type=int, default=0, help="Then a farm with so many animals, weights and payloads.")
@click.option("--seed", type=int, default=None, help="Of all that is random here. Printed, so that a run can be repeated.")
def main(corruptions: int, verifies: int, cattle: int, seed: int | None) -> None:
    """The command line."""
    logging.disable()
    number = random.SystemRandom().randrange(10**9) if seed is None else seed
    click.echo(f"seed {number}")
    with tempfile.TemporaryDirectory() as folder:
        proof = Proof(Path(folder), number)
        try:
            if corruptions:
                proof.corruptions(corruptions)
            if verifies:
                proof.alarms(verifies)
            if cattle:
                proof.large(cattle)
        finally:
            proof.close()
    click.echo("all as it should be" if not proof.failed else f"{proof.failed} FAILED")
    sys.exit(1 if proof.failed else 0)


if __name__ == "__main__":
    main()
