#!/usr/bin/env python3
"""Random interleavings of DDL and writes, to show that a replica follows or starts anew, and never differs in silence.

`scripts/fuzz_ddl.py 2000 [--seed N]`: each case makes a primary and a replica and then, some rounds long, runs a random script in the
system's sqlite3 or by apsw (CREATE, ALTER and DROP of everything, VACUUM, ANALYZE, tables rebuilt in twelve steps, our triggers taken away
and put back, an application's triggers added late; between them INSERT, UPDATE and DELETE with every OR clause), and brings the replica up
to date as the server would: by replay, or by a snapshot when a new epoch has begun. Exit code 1 unless both hold the same afterwards,
schema included. Now and then what reads the primary is started anew, so that it does not know up to where the schema had not moved.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import apsw
import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.bootstrap import fit_out
from changelog.connection import connect, remove_database, rows
from changelog.errors import Divergence
from changelog.install import install
from changelog.primary import Primary
from changelog.reconcile import run_ddl
from changelog.replay import connect_replica, position_of, replay
from changelog.schema import Table, identifier, read_tables, schema_hash
from changelog.wire import decode_frame, encode_frame
from scripts.fuzz_capture import contents

ROUNDS = 6
STATEMENTS = 7
VALUES = ["1", "2", "3", "'a'", "'B'", "'b'", "NULL", "1.5", "-0.0", "x'00ff'", "'it''s'", "CAST(x'61ff' AS TEXT)"]
TYPES = ["TEXT", "INTEGER", "REAL", "", "TEXT COLLATE NOCASE", "TEXT DEFAULT 'd'", "INTEGER DEFAULT 5", "REAL NOT NULL DEFAULT 2"]
DDL = ["add", "add", "rename", "column", "index", "unique", "view", "trigger", "drop", "other", "vacuum", "rebuild", "off"]
KEYS = ["k INTEGER PRIMARY KEY", "k TEXT PRIMARY KEY", "k TEXT NOT NULL PRIMARY KEY", "k", "k INTEGER PRIMARY KEY AUTOINCREMENT"]
OR = ["", "", "OR REPLACE", "OR IGNORE", "OR FAIL"]


class Script:
    """Random statements that fit the schema as it is in `db`."""

    def __init__(self, db: apsw.Connection, chance: random.Random) -> None:
        self.random = chance
        self.tables = read_tables(db)
        self.others = rows(db, "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('index','view','trigger') AND sql IS NOT NULL")

    def lines(self) -> list[str]:
        """One round."""
        return [self._ddl() if self.random.random() < 0.3 else self._dml() for _ in range(self.random.randint(1, STATEMENTS))]

    def name(self) -> str:
        """A name that may be free."""
        return identifier(self.random.choice(["alpha", "beta", "gam ma", 'de"lta', "select", "Ünï"]) + str(self.random.randint(0, 3)))

    def _table(self) -> Table | None:
        return self.random.choice(self.tables) if self.tables else None

    def _dml(self) -> str:
        table = self._table()
        if table is None:
            return self._create_table()
        name, columns = identifier(table.name), [identifier(c.name) for c in table.columns]
        value, where = self._value, f"{self.random.choice(columns)} {self.random.choice(['=', '<>', 'IS'])} {self._value()}"
        kind = self.random.random()
        if kind < 0.5:
            chosen = self.random.sample(columns, self.random.randint(1, len(columns)))
            return f"INSERT {self.random.choice(OR)} INTO {name}({','.join(chosen)}) VALUES({','.join(value() for _ in chosen)})"
        if kind < 0.85:
            return f"UPDATE {self.random.choice(OR)} {name} SET {self.random.choice(columns)} = {value()} WHERE {where}"
        return f"DELETE FROM {name} WHERE {where}"

    def _value(self) -> str:
        return self.random.choice(VALUES)

    def _create_table(self) -> str:
        columns = [self.random.choice(KEYS), *(f"c{i} {self.random.choice(TYPES)}" for i in range(self.random.randint(1, 3)))]
        tail = self.random.choice(["", "", ", UNIQUE(c0)"])
        without = " WITHOUT ROWID" if "NOT NULL" in columns[0] and self.random.random() < 0.5 else ""
        return f"CREATE TABLE {self.name()}({', '.join(columns)}{tail}){without}"

    def _ddl(self) -> str:  # noqa: PLR0911
        table = self._table()
        if table is None or self.random.random() < 0.15:
            return self._create_table()
        name, column = identifier(table.name), identifier(self.random.choice(table.all_columns).name)
        kind = self.random.choice(DDL)
        if kind == "add":
            generated = self.random.random() < 0.2
            return f"ALTER TABLE {name} ADD COLUMN {self.name()} " + (f"AS ({column})" if generated else self.random.choice(TYPES))
        if kind == "rename":
            return f"ALTER TABLE {name} RENAME TO {self.name()}"
        if kind == "column":
            return f"ALTER TABLE {name} RENAME COLUMN {column} TO {self.name()}"
        if kind in ("index", "unique"):
            where = self.random.choice(["", f" WHERE {column} IS NOT NULL"])
            return f"CREATE {kind if kind == 'unique' else ''} INDEX {self.name()} ON {name}({column}){where}"
        if kind == "view":
            return f"CREATE VIEW {self.name()} AS SELECT * FROM {name}"
        if kind == "trigger":
            event = self.random.choice(["AFTER INSERT", "BEFORE UPDATE", "AFTER DELETE"])
            body = self.random.choice([f"UPDATE OR IGNORE {name} SET {column} = 1", f"DELETE FROM {name} WHERE {column} = 'a'", "SELECT 1"])
            return f"CREATE TRIGGER {self.name()} {event} ON {name} BEGIN {body}; END"
        if kind == "drop":
            return f"DROP TABLE {name}" if self.random.random() < 0.4 else "ANALYZE"
        if kind == "other" and self.others:
            of, gone, _ = self.random.choice(self.others)
            return f"DROP {of} {identifier(gone)}"
        if kind == "rebuild":
            return self._rebuild(table)
        if kind == "off":
            return self._capture_off(table)
        return "VACUUM"

    def _rebuild(self, table: Table) -> str:
        """The twelve steps of SQLite's manual, in short."""
        columns = ",".join(identifier(c.name) for c in table.columns)
        name = identifier(table.name)
        made = f"CREATE TABLE rebuilt({columns}); INSERT INTO rebuilt SELECT {columns} FROM {name}"
        return f"{made}; DROP TABLE {name}; ALTER TABLE rebuilt RENAME TO {name}"

    def _capture_off(self, table: Table) -> str:
        """Our trigger taken away, a row written, the very same trigger put back."""
        ours = [(gone, sql) for of, gone, sql in self.others if of == "trigger" and gone.startswith("_changelog_ai_")]
        if not ours:
            return "ANALYZE"
        gone, sql = self.random.choice(ours)
        return f"DROP TRIGGER {identifier(gone)}; {self._dml()}; {sql}"


class Case:
    """One primary, one replica."""

    def __init__(self, seed: int, folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        self.random = random.Random(seed)
        self.path, self.copy = folder / "primary.db", folder / "replica.db"
        self.story: list[str] = []
        self.counts: Counter[str] = Counter()
        db = connect(self.path, create=True)
        script = Script(db, self.random)
        for _ in range(self.random.randint(1, 3)):
            self._run(db, script._create_table())
        self._fill(db)
        install(db)
        db.close()
        self.source = Primary(self.path)
        self._bootstrap()

    def run(self) -> str | None:
        """All rounds; what went wrong, or None."""
        try:
            for _ in range(ROUNDS):
                if self.random.random() < 0.2:
                    self.source.close()
                    self.source = Primary(self.path)
                self._round()
                problem = self._synchronised()
                if problem:
                    return problem
            return None
        finally:
            self.replica.close()
            self.source.close()

    def _round(self) -> None:
        db = connect(self.path)
        try:
            lines = Script(db, self.random).lines()
            if self.random.random() < 0.15:
                self._drop_column(db)
            elif self.random.random() < 0.4:
                for line in lines:
                    self._run(db, line)
        finally:
            db.close()
        self.story += lines
        subprocess.run(["sqlite3", str(self.path)], input=";\n".join(lines) + ";\n", capture_output=True, text=True, check=False)

    def _drop_column(self, db: apsw.Connection) -> None:
        tables = read_tables(db)
        if tables:
            table = self.random.choice(tables)
            sql = f"ALTER TABLE {identifier(table.name)} DROP COLUMN {identifier(self.random.choice(table.columns).name)}"
            self.story.append(f"-- by our command: {sql}")
            with contextlib.suppress(apsw.Error):  # a key, or indexed: SQLite refuses it
                run_ddl(db, sql)

    def _synchronised(self) -> str | None:
        start, head = position_of(self.replica), self.source.head()
        if start.epoch == head.epoch:
            header, found = self.source.frame(start)
            frame = b"".join(encode_frame(header, found))
            try:
                replay(self.replica, *decode_frame([frame]))
            except Divergence:  # said, and mended as the server does: an application's trigger changed the key of the row being updated
                self._bootstrap_again("surprises")
            else:
                self.counts["replays"] += 1
                self.counts["DDL replayed"] += frame.count(b',"X",')
        else:
            self._bootstrap_again("new epochs")
        with self.source.snapshot() as db:
            if schema_hash(db) != schema_hash(self.replica):
                return "the schemas differ"
            mine, theirs = contents(db), contents(self.replica)
        return None if mine == theirs else f"the primary holds {mine}\n  the replica {theirs}"

    def _bootstrap_again(self, reason: str) -> None:
        self.counts[reason] += 1
        self.replica.close()
        self._bootstrap()

    def _bootstrap(self) -> None:
        remove_database(self.copy)
        self.source.copy_to(self.copy)
        fit_out(self.copy, None)
        self.replica = connect_replica(self.copy)

    def _fill(self, db: apsw.Connection) -> None:
        script = Script(db, self.random)
        for _ in range(8):
            self._run(db, script._dml())

    def _run(self, db: apsw.Connection, sql: str) -> None:
        self.story.append(sql)
        try:
            db.execute(sql)
        except apsw.Error as exc:
            self.story.append(f"--   {exc}")


@click.command(help="Run COUNT random cases.")
@click.argument("count", type=int, default=100)
@click.option("--seed", type=int, default=None, help="Of the first case; the others count on. Printed, so that a run can be repeated.")
def main(count: int, seed: int | None) -> None:
    """The command line."""
    first = random.SystemRandom().randrange(10**9) if seed is None else seed
    failed, counts = 0, Counter[str]()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for number in range(first, first + count):
            case = Case(number, Path(folder))
            problem = case.run()
            counts += case.counts
            if problem:
                failed += 1
                click.echo(f"seed {number}:\n  " + ";\n  ".join([*case.story, problem]))
    click.echo(", ".join(f"{number} {what}" for what, number in counts.items()))
    click.echo(f"{count} interleavings from seed {first}: {count - failed} identical, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
