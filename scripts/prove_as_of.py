#!/usr/bin/env python3
"""Rebuilds random moments of random histories and compares them with what was recorded then: `scripts/prove_as_of.py 1000 [--seed N]`.

Histories are those of fuzz_capture.py (every OR clause, UPSERT, key changes, triggers of an application) and of fuzz_ddl.py (CREATE, ALTER
and DROP between the writes). After each statement the whole contents are recorded with the seq that the log had reached; at the end they
are rebuilt for as many random seqs as there are positions to try: as a file, and one table and one row of it by themselves. Some of the
logs are trimmed before, or get a gap as a replica's log may have one. Exit code 1 unless each is the same to the bit, or refused where a
table or a column was dropped, or a new epoch began, since; or where the log is gone.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import apsw
import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.asof.past import Past
from changelog.asof.rebuild import in_memory, write_file
from changelog.connection import connect, remove_database, rows
from changelog.errors import CannotRebuild, HistoryTrimmed
from changelog.install import install
from changelog.log import head
from changelog.primary import Primary
from changelog.reconcile import reconcile, run_ddl
from changelog.retention import Limits, trim_run
from changelog.schema import identifier, read_tables
from changelog.verify.digest import row_names, table_rows
from scripts import fuzz_capture, fuzz_ddl

STATEMENTS = 40
POSITIONS_A_HISTORY = 12


class History:
    """One primary with what it held after each statement."""

    def __init__(self, seed: int, path: Path) -> None:
        remove_database(path)
        self.random, self.path = random.Random(seed), path
        self.recorded: dict[int, str] = {}
        self.known_from = 0  # the first seq after which the log is whole
        self.story: list[str] = []
        self._db = connect(path, create=True)
        self._db.pragma("synchronous", "OFF")
        (self._write_rows if self.random.random() < 0.5 else self._write_ddl)(seed)
        self._db.close()

    def cut(self, gap: bool) -> None:
        """Take the log's beginning away, as trimming does, or a part of its middle, as in a replica that took a late snapshot."""
        db = connect(self.path)
        newest = head(db)
        first, last = sorted(self.random.randint(2, max(newest - 1, 2)) for _ in range(2))
        if gap and last < newest:
            db.execute("DELETE FROM changelog WHERE seq BETWEEN ? AND ?", (first, last))
            db.execute("INSERT INTO changelog_meta(name,value,seq) VALUES('gap',?,?)", (first, last))
            self.known_from = last
        else:
            while trim_run(db, Limits(below=last), None):
                pass
            self.known_from = min(last, newest) - 1
        self.story.append(f"-- the log {f'has a gap from {first} to {last}' if gap else f'is trimmed below {last}'}")
        db.close()

    def _write_rows(self, seed: int) -> None:
        case = fuzz_capture.Case(seed)
        self._db.pragma("recursive_triggers", case.recursive)
        for sql in case.preparation():
            self._run(sql)
        install(self._db)
        for _ in range(3):
            for sql in case.statements:
                self._run(sql)
                self._record()
            case.statements = case._statements()

    def _write_ddl(self, seed: int) -> None:
        for _ in range(self.random.randint(1, 3)):
            self._run(fuzz_ddl.Script(self._db, self.random)._create_table())
        install(self._db)
        epochs = self.random.random() < 0.2  # else without what begins a new epoch, behind which nothing is rebuilt
        for _ in range(STATEMENTS):
            script = fuzz_ddl.Script(self._db, self.random)
            sql = script._ddl() if self.random.random() < 0.25 else script._dml()
            if epochs or not any(word in sql for word in ("VACUUM", "rebuilt", "DROP TRIGGER", "CREATE TRIGGER", "unique")):
                self._run(sql)
                self._record()
            if self.random.random() < 0.05:
                self._drop_column()
                self._record()

    def _drop_column(self) -> None:
        table = self.random.choice(read_tables(self._db) or [None])
        if table:
            sql = f"ALTER TABLE {identifier(table.name)} DROP COLUMN {identifier(self.random.choice(table.columns).name)}"
            self.story.append(sql)
            try:
                run_ddl(self._db, sql)
            except apsw.Error as exc:
                self.story.append(f"--   {exc}")

    def _run(self, sql: str) -> None:
        self.story.append(sql)
        try:
            self._db.execute(sql).fetchall()
        except apsw.Error as exc:
            self.story.append(f"--   {exc}")

    def _record(self) -> None:
        if not self._db.in_transaction:
            before = head(self._db)
            reconcile(self._db, before)
            self.recorded[head(self._db)] = held(self._db)
            self.story.append(f"-- seq {head(self._db)}")


def held(db: apsw.Connection) -> str:
    """All rows, schema included; the counters apart, which no log row tells."""
    found = fuzz_capture.contents(db)
    del found["sqlite_sequence"]
    return repr(found)


def problem_at(history: History, seq: int, counts: Counter[str]) -> str | None:
    """What is wrong with the rebuilding of this moment, or None."""
    target = history.path.with_name("then.db")
    target.unlink(missing_ok=True)
    source = Primary(history.path)
    try:
        with source.snapshot() as db:
            try:
                past = Past(db, seq)
            except HistoryTrimmed as exc:
                counts["gone"] += 1
                return None if seq < history.known_from else f"refused without a reason: {exc}"
            if seq < history.known_from:
                return "rebuilt, though the log does not tell it"
            try:
                write_file(db, past, target)
            except CannotRebuild as exc:
                counts["refused"] += 1
                if history.known_from and "midst of a statement" in exc.message:
                    return None
                return None if lossy(db, seq) else f"refused without a reason: {exc}"
            counts["rebuilt"] += 1
            then = connect(target)
            try:
                if held(then) != history.recorded[seq]:
                    return f"recorded {history.recorded[seq]}\n  rebuilt  {held(then)}"
                return _problem_of_one(db, past, then, seq, history.random)
            finally:
                then.close()
    finally:
        source.close()


def lossy(db: apsw.Connection, seq: int) -> bool:
    """Whether something happened after `seq` behind which not everything can be known."""
    after = rows(db, "SELECT op, key FROM changelog WHERE seq>? AND op IN ('X','B')", (seq,))
    return any(op == "B" or "dropped" in str(key) for op, key in after)


def _problem_of_one(db: apsw.Connection, past: Past, then: apsw.Connection, seq: int, chance: random.Random) -> str | None:
    """One table and one row, asked for by themselves."""
    if not past.tables:
        return None
    table = chance.choice(list(past.tables.values()))
    alone = Past(db, seq, only=table.name)
    expected = list(table_rows(then, table))
    copy = in_memory(db, alone, table, alone.rows_of(table))
    if repr(list(table_rows(copy, table))) != repr(expected):
        return f"table {table.name} alone is {list(table_rows(copy, table))}, not {expected}"
    if expected:
        row: dict[str, Any] = dict(zip(row_names(table), chance.choice(expected), strict=True))
        found = alone.row(table, alone.identity_of(table, row))
        copy = in_memory(db, alone, table, [found] if found else [])
        if repr(list(table_rows(copy, table))) != repr([tuple(row.values())]):
            return f"the row {row} of {table.name} alone is {found}"
    return None


@click.command(help="Try COUNT random positions.")
@click.argument("count", type=int, default=1_000)
@click.option("--seed", type=int, default=None, help="Of the first history; the others count on. Printed, so that a run can be repeated.")
def main(count: int, seed: int | None) -> None:
    """The command line."""
    logging.disable()  # new epochs are part of it
    first = number = random.SystemRandom().randrange(10**9) if seed is None else seed
    failed, counts = 0, Counter[str]()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        while counts["rebuilt"] < count:
            history = History(number, Path(folder) / "primary.db")
            if history.random.random() < 0.5:
                history.cut(gap=history.random.random() < 0.5)
            for seq in history.random.sample(sorted(history.recorded), min(POSITIONS_A_HISTORY, len(history.recorded))):
                problem = problem_at(history, seq, counts)
                if problem:
                    failed += 1
                    click.echo(f"history {number}, seq {seq}:\n  " + ";\n  ".join([*history.story, problem]))
            number += 1
    click.echo(f"{number - first} histories from seed {first}")
    click.echo(f"{counts['rebuilt']} positions rebuilt, {counts['refused']} refused, {counts['gone']} trimmed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
