#!/usr/bin/env python3
"""Foreign keys that do something, in random schemas under random statements: `scripts/fuzz_actions.py 400 [--seed N]`.

Each case makes a database of three tables that refer to each other and to themselves by each action, some with triggers of an application,
and three copies of it: a primary with the changelog installed, a replica, and a control without it. The same transactions run on primary
and control, foreign keys on, some of them deferred; after each the replica pulls. Exit code 1 unless in every case

- each transaction gave the same on the primary as on the control, whose triggers note a number: with any, SQLite answers a few otherwise;
- the replica holds the same rows as the primary after each, whether the log told them or a new copy was taken;
- the past, after each, is rebuilt from the log as it was, or refused in words.
"""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.asof.past import Past
from changelog.asof.rebuild import write_file
from changelog.connection import connect, remove_database
from changelog.errors import CannotRebuild
from changelog.install import install
from changelog.log import head
from changelog.primary import Primary
from changelog.pull import pull_file
from scripts.fuzz_capture import contents

TABLES = ("p", "c", "d")
KEYS = "1234"
ACTIONS = ("CASCADE", "CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION")
VALUES = ("1", "2", "3", "4", "'a'", "'A'", "NULL")
TRANSACTIONS, STATEMENTS = 5, 3
NOTED = "noted"  # the table of the control's triggers


class Case:
    """One random schema, and the transactions that run on it."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        rows = [
            f"INSERT OR IGNORE INTO {t} VALUES({i},{i},{self._pick('123')},{self._pick(('NULL', '1', '2'))},0)"
            for t in TABLES
            for i in (1, 2, 3)
        ]
        self.schema = [*(self._table(name) for name in TABLES), *self._triggers()]
        self.preparation = [*self.schema, *rows]
        self.transactions = [self._transaction() for _ in range(TRANSACTIONS)]

    def _pick(self, among: Any) -> Any:
        return self._random.choice(among)

    def _table(self, name: str) -> str:
        without_rowid = self._random.random() < 0.3
        key = (
            "NOT NULL PRIMARY KEY" if without_rowid else self._pick(("INTEGER PRIMARY KEY", "INTEGER PRIMARY KEY", "NOT NULL PRIMARY KEY"))
        )
        other = self._pick(("", "TEXT", "TEXT COLLATE NOCASE"))
        columns = f"id {key}, k {other} UNIQUE, x{self._reference()}, y{self._reference()}, n DEFAULT 0"
        return f"CREATE TABLE {name}({columns}){' WITHOUT ROWID' if without_rowid else ''}"

    def _reference(self) -> str:
        target, deferred = f"{self._pick(TABLES)}({self._pick(('k', 'k', 'id'))})", self._pick(("", " DEFERRABLE INITIALLY DEFERRED"))
        actions = f"ON DELETE {self._pick(ACTIONS)} ON UPDATE {self._pick(ACTIONS)}"
        return f" DEFAULT {self._pick(('NULL', '1', '2'))} REFERENCES {target} {actions}{deferred}"

    def _triggers(self) -> list[str]:
        """Of an application: none, or one or two, that write to another table."""
        made = []
        for number in range(self._pick((0, 0, 1, 2))):
            table, event = self._pick(TABLES), self._pick(("UPDATE", "UPDATE OF x", "DELETE"))
            target = self._pick([name for name in TABLES if name != table])
            body = self._pick(
                (
                    f"UPDATE {target} SET n=n+1 WHERE id IS OLD.x",
                    f"UPDATE {target} SET n=n+1 WHERE k IS OLD.k",
                    f"DELETE FROM {target} WHERE k IS OLD.k",
                    f"INSERT OR IGNORE INTO {target}(id, k) VALUES(OLD.id, OLD.k)",
                    f"UPDATE {target} SET x=NULL WHERE y IS OLD.k",
                )
            )
            made.append(f"CREATE TRIGGER app{number} {self._pick(('AFTER', 'AFTER', 'BEFORE'))} {event} ON {table} BEGIN {body}; END")
        return made

    def _transaction(self) -> str:
        begin = self._pick(("", "BEGIN;", "BEGIN; PRAGMA defer_foreign_keys=1;"))
        statements = "".join(f"{self._statement()};\n" for _ in range(STATEMENTS))
        return f"PRAGMA foreign_keys=ON; {begin}\n{statements}{'COMMIT;' if begin else ''}"

    def _statement(self) -> str:
        kind, table = self._random.random(), self._pick(TABLES)
        if kind < 0.25:
            values = ",".join(self._pick(VALUES) for _ in range(3))
            clause = self._pick(("", "OR REPLACE", "OR REPLACE", "OR IGNORE"))
            return f"INSERT {clause} INTO {table}(id,k,x,y) VALUES({self._pick(KEYS)},{values})"
        if kind < 0.85:
            column = self._pick(("id", "k", "k", "x"))
            value = self._pick((self._pick(VALUES), self._pick(VALUES), f"{column}+1", f"{column}||9", "n"))
            where = self._pick(("", f"WHERE id={self._pick(KEYS)}", f"WHERE k={self._pick(VALUES)}"))
            return f"UPDATE {self._pick(('', 'OR REPLACE', 'OR IGNORE'))} {table} SET {column}={value}{self._pick(('', ', n=n+1'))} {where}"
        return f"DELETE FROM {table} WHERE {self._pick(('id', 'k'))}={self._pick(VALUES)}"


class Trial:
    """The copies of one case in `folder`. `counted` is told what happened."""

    def __init__(self, case: Case, folder: Path, counted: Counter[str]) -> None:
        self._case, self._counted = case, counted
        self._primary, self._replica, self._control, self._then = (
            folder / f"{name}.db" for name in ("primary", "replica", "control", "then")
        )
        for path in (self._primary, self._replica, self._control):
            remove_database(path)
        for path in (self._primary, self._control):
            _typed(path, "PRAGMA journal_mode=WAL;" + ";\n".join(case.preparation) + ";")
        events = [f"{when} {event}" for when in ("BEFORE", "AFTER") for event in ("INSERT", "UPDATE", "DELETE")]
        notes = [f'CREATE TRIGGER "{e} {t}" {e} ON {t} BEGIN INSERT INTO {NOTED} VALUES(1); END;' for e in events for t in TABLES]
        _typed(self._control, f"CREATE TABLE {NOTED}(a);" + "".join(notes))
        with closing(connect(self._primary)) as db:
            install(db)

    def run(self) -> str | None:
        """What is wrong, if anything is."""
        with closing(Primary(self._primary)) as primary:
            pull_file(primary, self._replica)
            moments = [self._moment()]
            for number, sql in enumerate(self._case.transactions):
                said, meant = _typed(self._primary, sql), _typed(self._control, sql)
                _, held = self._moment()
                wanted = _held(self._control)
                wanted.pop(NOTED)
                if (said, held) != (meant, wanted):
                    return f"transaction {number}: {said!r} and {held}\n  instead of {meant!r} and {wanted}"
                if pull_file(primary, self._replica).reason:
                    self._counted["new copies, because the log could not tell"] += 1
                    moments.clear()  # nor what was before
                if (copy := _held(self._replica)) != held:
                    return f"transaction {number}: the primary holds {held}\n  the replica {copy}"
                moments.append(self._moment())
        return self._past(moments)

    def _moment(self) -> tuple[int, dict[str, object]]:
        with closing(connect(self._primary, readonly=True)) as db, db:
            return head(db), contents(db)

    def _past(self, moments: list[tuple[int, dict[str, object]]]) -> str | None:
        for seq, held in moments:
            remove_database(self._then)
            try:
                with closing(connect(self._replica, readonly=True)) as db, db:
                    write_file(db, Past(db, seq), self._then)
            except CannotRebuild:
                self._counted["moments of the past refused"] += 1
                continue
            self._counted["moments of the past rebuilt"] += 1
            rebuilt = _held(self._then)
            if {**rebuilt, "sqlite_sequence": []} != {**held, "sqlite_sequence": []}:
                return f"at {seq} there was {held}\n  and not {rebuilt}"
        return None


def _typed(path: Path, sql: str) -> str:
    done = subprocess.run(["sqlite3", str(path)], input=sql, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _held(path: Path) -> dict[str, object]:
    with closing(connect(path, readonly=True)) as db, db:
        return contents(db)


@click.command(help="Run COUNT random cases and compare primary, control, replica and the past in each.")
@click.argument("count", type=int, default=400)
@click.option("--seed", type=int, default=None, help="Of the first case; the others count on. Printed, so that a run can be repeated.")
def main(count: int, seed: int | None) -> None:
    """The command line."""
    logging.disable()
    first = random.SystemRandom().randrange(10**9) if seed is None else seed
    failed, counted = 0, Counter[str]()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for number in range(first, first + count):
            case = Case(number)
            if problem := Trial(case, Path(folder), counted).run():
                failed += 1
                click.echo(f"seed {number}:\n  " + ";\n  ".join([*case.schema, *case.transactions, problem]))
    click.echo(", ".join(f"{times:,} {what}" for what, times in sorted(counted.items()) if times))
    click.echo(f"{count} schemas from seed {first}: {count - failed} identical, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
