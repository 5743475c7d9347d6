#!/usr/bin/env python3
"""Random schemas under random statements, to show that the log is exact: `scripts/fuzz_capture.py 10000 [--seed N]`.

Each case makes a database of two random tables (keys of every kind, unique, partial, NOCASE and expression indexes, triggers of an
application), and three copies of it: a primary with the changelog installed, a replica, and a control without any of it. The same random
statements (every OR clause, UPSERT, rowid and key changes, savepoints, rollbacks) run on primary and control, written by the system's
sqlite3 or by apsw, recursive_triggers off or on. Then the log is replayed onto the replica. Exit code 1 unless in every case

- each statement failed or succeeded on the primary as on the control, with the same message, and left the same rows;
- the replica holds the same rows as the primary, to the bit, rowids included where only they tell rows apart.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import apsw
import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog import replay as replaying
from changelog.connection import connect
from changelog.errors import DroverError
from changelog.install import install, schema_moved
from changelog.position import Position
from changelog.reader import frame_header, read_log
from changelog.schema import identifier, read_tables, sequences_of
from changelog.wire import decode_frame, encode_frame

TEXTS = ["'a'", "'A'", "'b'", "'B'", "'c'", "''"]
VALUES = [*TEXTS, "1", "2", "3", "1.0", "-0.0", "0.5", "NULL", "x'00ff'", "9e999", "CAST(x'61ff' AS TEXT)"]
LONG = ["9007199254740993", "0.1"]  # SQLite 3.40 writes such a real with 15 digits where an index or a generated column makes it text
OR = ["", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT", "OR ROLLBACK"]
ON_CONFLICT = ["", "", "", "ON CONFLICT REPLACE", "ON CONFLICT IGNORE", "ON CONFLICT FAIL"]
STATEMENTS = 14
SEED_ROWS = 6


class Case:
    """One random schema with the statements that run on it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.columns: dict[str, list[str]] = {}
        self.rowid: dict[str, bool] = {}
        self.integer_keys: set[str] = set()
        self.recursive = self.random.random() < 0.5
        self.shell = self.random.random() < 0.35
        self.schema = [sql for name in ("t", 'o"dd') for sql in self._table(name)]
        self.late_triggers = self.random.random() < 0.2
        self.triggers = self._application_triggers() if self.random.random() < 0.35 else []
        self.seeds = [self._insert(name) for name in self.columns for _ in range(SEED_ROWS)]
        self.statements = self._statements()

    def preparation(self) -> list[str]:
        """What every copy of the database starts with."""
        early = [] if self.late_triggers else self.triggers
        return ["PRAGMA journal_mode=WAL", *self.schema, *early, *self.seeds]

    def run_on(self, path: Path) -> tuple[object, dict[str, object]]:
        """Run the statements; returns what they answered, and what the database holds then."""
        said = (_run_shell if self.shell else _run_apsw)(path, self.statements, self.recursive)
        db = connect(path)
        held = contents(db)
        db.close()
        return said, held

    def _table(self, name: str) -> list[str]:
        pick = self.random.choice
        kind = pick(["ipk", "ipk", "autoincrement", "text", "text not null", "pair", "without rowid", "without rowid pair", "none", "desc"])
        columns = ["k", "u", "v", "w"][: self.random.randint(3, 4)]
        types = {c: pick(["TEXT", "TEXT COLLATE NOCASE", "INTEGER", "REAL", "", "NUMERIC", "BLOB", "NOT NULL DEFAULT 1"]) for c in columns}
        tail, options = [], ""
        if kind in ("ipk", "autoincrement"):
            self.integer_keys.add(name)
            types["k"] = "INTEGER PRIMARY KEY " + ("AUTOINCREMENT" if kind == "autoincrement" else pick(ON_CONFLICT))
        elif kind == "desc":
            types["k"] = "INTEGER PRIMARY KEY DESC"  # looks like the rowid and is not
        elif kind == "text":
            types["k"] += " PRIMARY KEY"
        elif kind == "text not null":
            types["k"] += " NOT NULL PRIMARY KEY"
        elif kind == "pair":
            tail.append("PRIMARY KEY(k, u)")
        elif kind.startswith("without rowid"):
            tail.append("PRIMARY KEY(k, u)" if kind.endswith("pair") else "PRIMARY KEY(k)")
            options = " WITHOUT ROWID"
        if self.random.random() < 0.5:
            types["u"] += f" UNIQUE {pick(ON_CONFLICT)}"
        if self.random.random() < 0.2:
            tail.append(f"UNIQUE(v, u) {pick(ON_CONFLICT)}")
        self.columns[name], self.rowid[name] = columns, not options
        if not options and re.fullmatch(r"INTEGER (NOT NULL )?PRIMARY KEY", types["k"]):
            self.integer_keys.add(name)
        body = [f"{c} {types[c]}" for c in columns]
        if self.random.random() < 0.25:
            body.append("g " + pick(["AS (v || u) STORED", "AS (coalesce(v, 0) + 1)", "TEXT AS (upper(u)) STORED"]))
            if self.random.random() < 0.6:
                tail.append("UNIQUE(g)")
        schema = [f"CREATE TABLE {identifier(name)}({', '.join(body + tail)}){options}"]
        for i in range(self.random.choice([0, 0, 1, 1, 2])):
            term = pick(["v", "lower(u)", "v COLLATE NOCASE", "u, v DESC", "abs(v), u", "(v || 'x') /* , */ COLLATE NOCASE"])
            where = pick(["", "", " WHERE v > 1", " WHERE u = 'a' AND v IS NOT NULL", " WHERE lower(u) <> 'b'"])
            schema.append(f"CREATE UNIQUE INDEX {identifier(f'i{i}{name}')} ON {identifier(name)}({term}){where}")
        return schema

    def _application_triggers(self) -> list[str]:
        [one, two] = [identifier(n) for n in self.columns]
        # With recursive_triggers on, an UPDATE of its own table would call itself until SQLite gives up: no statement ends then.
        own = [] if self.recursive else [f"UPDATE {one} SET v = v WHERE u = NEW.u", f"UPDATE OR IGNORE {one} SET v = 5 WHERE v = 'a'"]
        key = "length(NEW.u)" if list(self.columns)[1] in self.integer_keys else "NEW.k"
        bodies = [
            *own,
            f"INSERT OR IGNORE INTO {two}(u, v) VALUES(NEW.u, NEW.v)",
            f"INSERT OR REPLACE INTO {two}(k, u, v) VALUES({key}, NEW.u, 7)",
            f"DELETE FROM {two} WHERE v = NEW.v",
            "SELECT RAISE(IGNORE) WHERE NEW.u = 'b'",
            "SELECT RAISE(ABORT, 'the application forbids it') WHERE NEW.v = 3",
        ]
        events = [f"{when} {event}" for when in ("BEFORE", "AFTER") for event in ("INSERT", "UPDATE")]
        return [
            f"CREATE TRIGGER app{i} {self.random.choice(events)} ON {one} BEGIN {self.random.choice(bodies)}; END"
            for i in range(self.random.randint(1, 2))
        ]

    def _value(self) -> str:
        values = VALUES if self.shell else VALUES + LONG
        return self.random.choice(values if self.random.random() < 0.6 else [*TEXTS, "1", "2", "3"])

    def _insert(self, name: str, clause: str = "OR IGNORE") -> str:
        columns = list(self.columns[name])
        if self.random.random() < 0.3:
            columns.remove("k")
        elif self.rowid[name] and self.random.random() < 0.15:
            columns.append("rowid")
        rows = ",".join(
            "(" + ",".join(self._rowid() if self._is_rowid(name, c) else self._value() for c in columns) + ")"
            for _ in range(self.random.choice([1, 1, 3]))
        )
        return f"INSERT {clause} INTO {identifier(name)}({','.join(columns)}) VALUES{rows}"

    def _is_rowid(self, name: str, column: str) -> bool:
        # No text goes there: a datatype mismatch in the middle of a statement leaves its first rows behind in SQLite itself (3.40 to 3.54),
        # when no trigger makes it open a statement journal.
        return column in ("rowid", "oid") or (column == "k" and name in self.integer_keys)

    def _rowid(self) -> str:
        return self.random.choice([str(self.random.randint(1, 9)), "NULL"])

    def _statements(self) -> list[str]:
        statements: list[str] = []
        while len(statements) < STATEMENTS:
            kind = self.random.random()
            if kind < 0.12:
                inner = [self._statement() for _ in range(self.random.randint(1, 3))]
                statements += ["BEGIN", *inner, "SAVEPOINT s", self._statement(), self.random.choice(["ROLLBACK TO s", "RELEASE s"])]
                statements += [self.random.choice(["COMMIT", "COMMIT", "ROLLBACK"])]
            else:
                statements.append(self._statement())
        return statements

    def _statement(self) -> str:
        pick, name = self.random.choice, self.random.choice(list(self.columns))
        table, columns = identifier(name), self.columns[name]
        where = f"{pick(columns)} {pick(['=', '<>', '>', 'IS'])} {self._value()}"
        kind = self.random.random()
        if kind < 0.3:
            return self._insert(name, pick(OR))
        if kind < 0.45:
            does = pick(["NOTHING", f"UPDATE SET v = {self._value()}", f"UPDATE SET u = {self._value()}, v = excluded.v"])
            return f"{self._insert(name, pick(OR))} ON CONFLICT DO {does}"
        if kind < 0.85:
            targets = [*columns, *(["rowid", "oid"] if self.rowid[name] else [])]
            assigned = ", ".join(f"{c} = {self._new_value(name, c)}" for c in self.random.sample(targets, self.random.randint(1, 2)))
            return f"UPDATE {pick(OR)} {table} SET {assigned}" + (f" WHERE {where}" if self.random.random() < 0.8 else "")
        return f"DELETE FROM {table}" + (f" WHERE {where}" if self.random.random() < 0.9 else "")

    def _new_value(self, name: str, column: str) -> str:
        if self._is_rowid(name, column):
            return self.random.choice([str(self.random.randint(1, 9)), "rowid + 1", "-rowid"])
        return self.random.choice([self._value(), self._value(), f"{column} || 'x'", f"{column} + 1"])


class Result(NamedTuple):
    """What went wrong in a case, or None; and whether SQLite answered otherwise as soon as any trigger wrote anything."""

    problem: str | None
    peculiar: bool


def run_case(seed: int, folder: Path) -> Result:
    """Run the case of this seed in `folder`, which is emptied."""
    for path in folder.iterdir():
        path.unlink()
    case, primary, replica = Case(seed), folder / "primary.db", folder / "replica.db"
    _run_apsw(primary, case.preparation(), case.recursive)
    db = connect(primary)
    install(db)
    if case.late_triggers:  # of an application, and newer than ours: they would log their own changes before the one that fired them
        for sql in case.triggers:
            db.execute(sql)
        if case.triggers and not schema_moved(db):
            return Result("a late trigger was not noticed", False)
        install(db)
    _make_replica(db, replica)
    start = Position.of_head(db)
    db.close()
    outcome = case.run_on(primary)
    peculiar = outcome != (meant := _control(case, folder / "control.db", others=False))
    if peculiar and outcome != _control(case, folder / "others.db", others=True):
        return Result(f"the statements gave {outcome}\n  instead of {meant}", True)
    return Result(_replayed(primary, replica, start), peculiar)


def _control(case: Case, path: Path, others: bool) -> tuple[object, dict[str, object]]:
    """The outcome without a changelog. `others`: with a trigger of each kind that only notes a number in a table of its own.

    Such a trigger makes SQLite open statement journals, and 3.40 check constraints once more after a REPLACE: both change what a few
    failing statements leave behind, whatever the trigger notes.
    """
    _run_apsw(path, case.preparation(), case.recursive)
    if case.late_triggers:
        _run_apsw(path, case.triggers, False)
    if others:
        events = [f"{when} {event}" for when in ("BEFORE", "AFTER") for event in ("INSERT", "UPDATE", "DELETE")]
        _run_apsw(
            path,
            ["CREATE TABLE noted(a)"]
            + [
                f"CREATE TRIGGER {identifier(f'{e} {n}')} {e} ON {identifier(n)} BEGIN INSERT INTO noted VALUES(1); END"
                for e in events
                for n in case.columns
            ],
            False,
        )
    said, held = case.run_on(path)
    held.pop("noted", None)
    return said, held


def _try(db: apsw.Connection, sql: str) -> str:
    try:
        return repr(db.execute(sql).fetchall())
    except apsw.Error as exc:
        return str(exc)


def _run_apsw(path: Path, statements: list[str], recursive: bool) -> list[str]:
    db = connect(path, create=True)
    db.pragma("synchronous", "OFF")
    db.pragma("recursive_triggers", recursive)
    said = [_try(db, sql) for sql in statements]
    db.close()
    return said


def _run_shell(path: Path, statements: list[str], recursive: bool) -> str:
    script = [f"PRAGMA synchronous=OFF; PRAGMA recursive_triggers={int(recursive)}", *statements, "SELECT 'done'"]
    result = subprocess.run(["sqlite3", str(path)], input=";\n".join(script) + ";\n", capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


def _make_replica(db: apsw.Connection, path: Path) -> None:
    target = connect(path, create=True)
    with target.backup("main", db, "main") as backup:
        backup.step()
    target.execute(replaying.POSITION_TABLE)
    replaying.move_position(target, Position.of_head(target))
    target.close()


def _replayed(primary: Path, replica: Path, start: Position) -> str | None:
    source, target = connect(primary), replaying.connect_replica(replica)
    try:
        if schema_moved(source):
            return "the schema moved without DDL"
        with source:
            header = frame_header(source, start)
            frame = b"".join(encode_frame(header, read_log(source, start.seq, header.upto, limit=100_000)))
        shown = frame.decode(errors="replace")
        try:
            replaying.replay(target, *decode_frame([frame]))
        except DroverError as exc:
            return f"replay: {type(exc).__name__}: {exc}\n{shown}"
        rows, copy = contents(source), contents(target)
        return None if rows == copy else f"the primary holds {rows}\n  the replica {copy}\n{shown}"
    finally:
        source.close()
        target.close()


def contents(db: apsw.Connection) -> dict[str, object]:
    """All rows of all tables, each value with its type and bytes."""
    result: dict[str, object] = {}
    for table in read_tables(db):
        names = [c.name for c in table.all_columns] + ([table.rowid] if table.keyed_by_rowid and table.rowid else [])
        exact = ",".join(f"typeof({n}), CASE typeof({n}) WHEN 'text' THEN CAST({n} AS BLOB) ELSE {n} END" for n in map(identifier, names))
        rows = db.execute(f"SELECT {exact} FROM {identifier(table.name)}").fetchall()
        result[table.name] = sorted(rows, key=repr)
    result["sqlite_sequence"] = sorted(sequences_of(db).items())
    return result


@click.command(help="Run COUNT random cases and compare primary, control and replica after each.")
@click.argument("count", type=int, default=500)
@click.option("--seed", type=int, default=None, help="Of the first case; the others count on. Printed, so that a run can be repeated.")
def main(count: int, seed: int | None) -> None:
    """The command line."""
    first = random.SystemRandom().randrange(10**9) if seed is None else seed
    failed = peculiar = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for number in range(first, first + count):
            result = run_case(number, Path(folder))
            peculiar += result.peculiar
            if result.problem:
                failed += 1
                case = Case(number)
                how = f"recursive={case.recursive} shell={case.shell} late={case.late_triggers}"
                click.echo(f"seed {number} ({how}):\n  " + ";\n  ".join([*case.schema, *case.triggers, result.problem]))
    click.echo(f"{peculiar} sequences in which SQLite itself answers otherwise as soon as any trigger writes anything")
    click.echo(f"{count} sequences from seed {first}: {count - failed} identical, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
