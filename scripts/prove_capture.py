#!/usr/bin/env python3
"""Random statements, to show that the log holds every change and no other: `scripts/prove_capture.py 1000000 [--seed N]`.

Schemas and statements are those of fuzz_capture.py (every OR clause, UPSERT, key changes, savepoints, rollbacks, triggers of an
application), with a table of foreign keys beside them, written by the system's sqlite3 or by apsw, recursive_triggers off or on. Around
each transaction the whole contents are read; the difference, row by row and to the bit, must be what the log rows of that transaction
come to, folded by key. Exit code 1 when one change is missing in the log, or one stands there that did not happen.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import apsw
import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.connection import connect, remove_database
from changelog.install import install
from changelog.log import head
from changelog.reader import read_log
from changelog.schema import Table, identifier, read_tables
from changelog.values import encode_row
from changelog.verify.digest import table_rows
from changelog.wire import FACTS
from scripts.fuzz_capture import Case

STATEMENTS_A_SCHEMA = 1_000
MOST_ROWS = 30  # of a table, so that the whole contents are read quickly
ACTIONS = ["CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION DEFERRABLE INITIALLY DEFERRED"]

Rows = dict[tuple[str, str], str]  # (table, key) -> row, each value with its type and to the bit


class Writer(Protocol):
    """Runs the statements of one transaction, whatever they answer; returns the complaints."""

    def run(self, statements: list[str]) -> str:
        """Run them all."""

    def close(self) -> None:
        """Let the file go."""


def attempt(db: apsw.Connection, sql: str) -> str:
    """Run one statement; returns its complaint: a constraint, as in life."""
    try:
        db.execute(sql).fetchall()
    except (apsw.Error, UnicodeDecodeError) as exc:  # RETURNING may show text that is not UTF-8
        return str(exc)
    return ""


class ApswWriter:
    """The newest SQLite, in this process."""

    def __init__(self, path: Path, pragmas: list[str]) -> None:
        self._db = connect(path)
        self.run(pragmas)

    def run(self, statements: list[str]) -> str:
        return "\n".join(attempt(self._db, sql) for sql in statements)

    def close(self) -> None:
        self._db.close()


class ShellWriter:
    """The system's sqlite3, one process for all statements."""

    def __init__(self, path: Path, pragmas: list[str]) -> None:
        # Its answers and complaints go the same way, so that nothing fills up unread.
        self._shell = subprocess.Popen(
            ["sqlite3", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self.run(pragmas)

    def run(self, statements: list[str]) -> str:
        said = []
        assert self._shell.stdin and self._shell.stdout
        self._shell.stdin.write(";\n".join([*statements, "SELECT 'all' || ' done'"]) + ";\n")
        self._shell.stdin.flush()
        while (line := self._shell.stdout.readline()) and line != "all done\n":
            said.append(line)
        assert line, "the shell has ended"
        return "".join(said)

    def close(self) -> None:
        self._shell.communicate()


class History:
    """One random schema, and what is written to it."""

    def __init__(self, seed: int, path: Path) -> None:
        remove_database(path)
        self._random = random.Random(f"capture {seed}")
        self._case = case = Case(seed)
        self._db = connect(path, create=True)
        self._db.pragma("synchronous", "OFF")
        self._db.pragma("recursive_triggers", case.recursive)
        self._foreign = self._random.random() < 0.5
        for sql in [*case.schema, *self._child(), *case.triggers, *case.seeds]:
            attempt(self._db, sql)
        install(self._db)
        self._tables = read_tables(self._db)
        pragmas = [
            "PRAGMA synchronous=OFF",
            f"PRAGMA recursive_triggers={int(case.recursive)}",
            f"PRAGMA foreign_keys={int(self._foreign)}",
        ]
        self.writer: Writer = (ShellWriter if case.shell else ApswWriter)(path, pragmas)
        self.held, self.seq = self._contents(), head(self._db)

    def run(self, statements: int, counts: Counter[str]) -> str | None:
        """That many statements, in their transactions; what went wrong, or None."""
        try:
            for transaction in self._transactions(statements):
                self.writer.run(transaction)
                counts["statements"] += len(transaction)
                counts["transactions"] += 1
                problem = self._compared(counts)
                if problem:
                    return ";\n  ".join([*self._case.schema, *self._case.triggers, *transaction, problem])
        finally:
            self.writer.close()
            self._db.close()
        return None

    def _transactions(self, statements: int) -> Iterator[list[str]]:
        while statements > 0:
            transaction: list[str] = []
            for sql in self._case._statements():
                transaction.append(sql)
                if transaction[0] != "BEGIN" or sql in ("COMMIT", "ROLLBACK"):
                    if transaction[0] == "BEGIN" and self._foreign:
                        transaction.append("ROLLBACK")  # a deferred foreign key may have refused the COMMIT
                    yield transaction
                    statements -= len(transaction)
                    transaction = []
            if self._foreign:
                yield [self._child_statement()]
                statements -= 1
            for name, count in Counter(table for table, _ in self.held).items():
                if count > MOST_ROWS:
                    yield [f"DELETE FROM {identifier(name)} WHERE v IS NOT 'a'", f"DELETE FROM {identifier(name)} WHERE u IS NOT 'b'"]
                    statements -= 1

    def _child(self) -> list[str]:
        if not self._foreign:
            return []
        parent, pick = self._random.choice(list(self._case.columns)).replace('"', '""'), self._random.choice
        return [
            f'CREATE UNIQUE INDEX parent_key ON "{parent}"(u)',
            f"""CREATE TABLE child(id INTEGER PRIMARY KEY, u {pick(["", "TEXT", "UNIQUE"])} DEFAULT 'a'
                REFERENCES "{parent}"(u) ON UPDATE {pick(ACTIONS[:4])} ON DELETE {pick(ACTIONS)}, v)""",
        ]

    def _child_statement(self) -> str:
        value, number = self._case._value, self._random.randint(1, 12)
        return self._random.choice(
            [
                f"INSERT OR REPLACE INTO child VALUES({number}, {value()}, {value()})",
                f"INSERT OR IGNORE INTO child(u, v) VALUES({value()}, {value()})",
                f"UPDATE child SET u = {value()} WHERE id = {number}",
                f"UPDATE child SET id = id + 20, v = {value()} WHERE id = {number}",
                f"DELETE FROM child WHERE id > {number}",
            ]
        )

    def _compared(self, counts: Counter[str]) -> str | None:
        """Whether the log since the last look tells the difference between then and now; what is wrong, or None."""
        before, self.held = self.held, self._contents()
        after, self.seq = self.seq, head(self._db)
        log = read_log(self._db, after, self.seq, limit=10**9)
        counts["log rows"] += len(log)
        changed = {key for key, _ in before.items() ^ self.held.items()}
        counts["changes"] += len(changed)
        told = dict(before)
        problem = _fold(log, {t.name: t for t in self._tables}, told, strict=not self._case.triggers)
        missing = {key for key in changed if told.get(key) != self.held.get(key)}
        extra = {key for key in told.keys() | before.keys() if told.get(key) != before.get(key)} - changed
        counts["missing"] += len(missing)
        counts["extra"] += len(extra)
        if problem or missing or extra:
            return f"{problem or ''} missing {missing} extra {extra}\n  before {before}\n  after {self.held}\n  log {log}"
        return None

    def _contents(self) -> Rows:
        """Nobody writes meanwhile."""
        return {
            (table.name, _key(table, row)): encode_row(row[int(table.keyed_by_rowid) :])
            for table in self._tables
            for row in table_rows(self._db, table)
        }


def _key(table: Table, row: tuple[Any, ...]) -> str:
    """What tells this row, as `row_names` lists it, from the others."""
    return encode_row(row[:1] if table.keyed_by_rowid else tuple(row[slot] for slot in table.key_slots))


def _fold(log: list[tuple[Any, ...]], tables: dict[str, Table], told: Rows, strict: bool) -> str | None:
    """Let `told` follow the log; the first row that does not fit what the rows before it left, or None.

    `strict` looks at the old values too. A trigger of the application that runs BEFORE may change a row, and SQLite's OLD does not show it.
    """
    for row in log:
        facts = dict(zip(FACTS, row, strict=False))
        table, op = tables[facts["tbl"]], facts["op"]
        width = len(table.columns)
        new, old = row[len(FACTS) : len(FACTS) + width], row[-width:]
        if op in "UD":
            known = told.pop((table.name, _key(table, (facts["orid"], *old) if table.keyed_by_rowid else old)), None)
            if known is None:
                return f"seq {row[0]} changes a row that is not there"
            if strict:
                shown = [i for i in range(width) if op == "D" or facts["chg"][i] == "1"]
                claimed = [old[i] if i in shown else new[i] for i in range(width)]  # what is not said to have changed has not
                if encode_row(tuple(claimed)) != known:
                    return f"seq {row[0]} says that the row was {claimed}, and it was {known}"
        if op in "IU":
            key = table.name, _key(table, (facts["rid"], *new) if table.keyed_by_rowid else new)
            if key in told:
                return f"seq {row[0]} makes a row that is there already"
            told[key] = encode_row(new)
    return None


@click.command(help="Run at least COUNT random statements and compare after each transaction.")
@click.argument("count", type=int, default=10_000)
@click.option("--seed", type=int, default=None, help="Of the first schema; the others count on. Printed, so that a run can be repeated.")
def main(count: int, seed: int | None) -> None:
    """The command line."""
    first = number = random.SystemRandom().randrange(10**9) if seed is None else seed
    failed, counts = 0, Counter[str]()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        while counts["statements"] < count:
            problem = History(number, Path(folder) / "primary.db").run(min(STATEMENTS_A_SCHEMA, count - counts["statements"]), counts)
            if problem:
                failed += 1
                click.echo(f"seed {number}:\n  {problem}")
            number += 1
    click.echo(", ".join(f"{counts[what]} {what}" for what in ("statements", "transactions", "log rows", "changes", "missing", "extra")))
    click.echo(f"{number - first} schemas from seed {first}: {number - first - failed} exact, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
