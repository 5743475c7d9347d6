#!/usr/bin/env python3
"""Random damage to frames of the wire, to show that a replica takes a frame as a whole or not at all, whatever stands in it.

`scripts/fuzz_wire.py 100000 [--seed N]`: each case takes an honest frame (inserts, updates and deletes of all kinds of values, and a change
of the schema), changes it in one to three places (a value, a fact, a word of the schema, a line, a byte), and gives it to staging and
replay. Exit code 1 when anything else than an error of our family comes of it, or when a refused frame has left a trace.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.bootstrap import fit_out
from changelog.connection import connect, rows
from changelog.errors import DroverError
from changelog.install import install
from changelog.primary import Primary
from changelog.replay import connect_replica, position_of, replay
from changelog.staging import Staging
from changelog.verify.digest import digest_tables
from changelog.wire import split_frame

SCHEMA = """
CREATE TABLE pens(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, size REAL CHECK(size<>7), note);
CREATE TABLE tags(tag TEXT COLLATE NOCASE, side INTEGER, pen INTEGER, PRIMARY KEY(tag, side)) WITHOUT ROWID;
CREATE TABLE loose(a, b);
INSERT INTO pens(name, size) VALUES('north', 1.5), ('south', -0.0), (NULL, NULL);
INSERT INTO tags VALUES('LF1', 1, 1), ('LF2', 1, 2);
INSERT INTO loose VALUES(1, x'00ff'), ('a', CAST(x'61ff' AS TEXT));
"""
ROWS = """
INSERT INTO pens(name, note) VALUES('it''s', x'00ff'), ('Ünï 🐄', CAST(x'61ff' AS TEXT)), ('big', 9007199254740993);
UPDATE pens SET size=9e999, note=NULL WHERE id=1; UPDATE tags SET side=2 WHERE tag='lf1'; REPLACE INTO pens(id, name) VALUES(2, 'north');
DELETE FROM loose WHERE a=1; UPDATE loose SET b='it is'; DELETE FROM tags WHERE tag='LF2';
"""
DDL = "ALTER TABLE tags ADD COLUMN seen TEXT DEFAULT 'no'; CREATE TABLE young(id INTEGER PRIMARY KEY, x); CREATE INDEX by_pen ON tags(pen)"

VALUES: list[Any] = [None, True, -1, 0, 1, 2**31, 2**63, -(2**63) - 1, 2**64, 10**400, 0.5, 1e308, "", "x", "I", "U", "D", "X", "B"]
VALUES += ["\ud800", "a\0b", "n" * 5_000, {}, {"b": "zz"}, {"b": "00"}, {"t": "61ff"}, {"r": "inf"}, {"r": "nan"}, {"i": "9" * 30}]
VALUES += [{"x": {"y": []}}, [], [[]], [0] * 40, "sqlite_master", "sqlite_sequence", "changelog", "changelog_position", "pens", "tags"]
VALUES += ['pens"; DROP TABLE pens; --', "11111111", "CREATE TABLE q(a)", "table", "trigger", "DROP TABLE pens"]
VALUES += ["CREATE TEMP TRIGGER q AFTER INSERT ON main.changelog BEGIN DELETE FROM pens; END"]


class Wire:
    """A replica, and honest frames that lead on from where it is."""

    def __init__(self, folder: Path) -> None:
        source, self.path = folder / "primary.db", folder / "replica.db"
        db = connect(source, create=True)
        db.execute(SCHEMA)
        install(db)
        with closing(Primary(source)) as primary:
            primary.copy_to(self.path)
            self.start = fit_out(self.path, None)
            self.frames = []
            for sql in (ROWS, DDL):
                db.execute(sql)
                self.frames.append(b"".join(primary.encoded_frame(self.start)[1]))
        db.close()
        self.replica = connect_replica(self.path)
        self.staged = folder / "replica.db.staged"
        self.before = self._content()
        self.counts = Counter[str]()

    def run(self, chance: random.Random) -> str | None:
        """One case; what is wrong, if anything is. The replica stands where it stood, afterwards."""
        frame = damaged(chance.choice(self.frames), chance)
        self.replica.execute("BEGIN IMMEDIATE")
        try:
            return self._judged(frame)
        finally:
            self.replica.execute("ROLLBACK")

    def close(self) -> None:
        """Close the replica."""
        self.replica.close()

    def _judged(self, frame: bytes) -> str | None:
        staging = Staging(self.staged)
        try:
            header, pieces = split_frame([frame])
            staging.receive(header, pieces)
            reached = replay(self.replica, *staging.frame())
        except DroverError as exc:
            self.counts[f"refused as {type(exc).__name__}"] += 1
            return None if self._content() == self.before else f"{type(exc).__name__}: {exc}: and it has left a trace; {frame!r}"
        except Exception as exc:
            return f"{type(exc).__name__}: {exc}: {frame!r}"
        finally:
            staging.discard()
        self.counts["taken"] += 1
        return None if reached == header.end == position_of(self.replica) else f"it stands at {position_of(self.replica)}: {frame!r}"

    def _content(self) -> Any:
        db: apsw.Connection = self.replica
        tables = ("changelog", "changelog_meta", "changelog_position", "sqlite_schema", "sqlite_temp_schema")
        counted = [rows(db, f"SELECT count(*), total(rowid) FROM {table}") for table in tables]
        return position_of(db), digest_tables(db), counted


def damaged(frame: bytes, chance: random.Random) -> bytes:
    """The frame with one to three changes."""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        lines = frame.split(b"\n")
        kind, at = chance.random(), chance.randrange(len(lines))
        if kind < 0.70:
            lines[at] = _with_another_value(lines[at], chance)
        elif kind < 0.76:
            del lines[at]
        elif kind < 0.82:
            lines.insert(at, chance.choice(lines))
        elif kind < 0.88:
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        frame = b"\n".join(lines)
        if kind >= 0.88 and frame:
            place = chance.randrange(len(frame))
            frame = frame[:place] + bytes([chance.randrange(256)]) * chance.choice([0, 1, 1, 2]) + frame[place + chance.choice([0, 1]) :]
    return frame


def _with_another_value(line: bytes, chance: random.Random) -> bytes:
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return line
    return json.dumps(_changed(parsed, chance)).encode()


def _changed(value: Any, chance: random.Random) -> Any:
    """`value` with one part of it, at any depth, being something else."""
    if isinstance(value, str) and value.startswith("{") and chance.random() < 0.8:  # the schema in an X row is JSON within JSON
        try:
            return json.dumps(_changed(json.loads(value), chance))
        except (ValueError, RecursionError):
            return value
    if not isinstance(value, list | dict) or not value or chance.random() < 0.1:
        return chance.choice(VALUES)
    keys = list(range(len(value))) if isinstance(value, list) else list(value)
    key = chance.choice(keys)
    kind = chance.random()
    if kind < 0.08:
        return [v for i, v in enumerate(value) if i != key] if isinstance(value, list) else {k: v for k, v in value.items() if k != key}
    if kind < 0.12:
        return [*value, chance.choice(VALUES)] if isinstance(value, list) else {**value, "more": chance.choice(VALUES)}
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[key] = _changed(value[key], chance)
    return copy


@click.command(help="Run COUNT random cases.")
@click.argument("count", type=int, default=1_000)
@click.option("--seed", type=int, default=None, help="Of the first case; the others count on. Printed, so that a run can be repeated.")
def main(count: int, seed: int | None) -> None:
    """The command line."""
    first = random.SystemRandom().randrange(10**9) if seed is None else seed
    failed = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder, closing(Wire(Path(folder))) as case:
        for number in range(first, first + count):
            problem = case.run(random.Random(number))
            if problem:
                failed += 1
                click.echo(f"seed {number}: {problem[:2_000]}")
    click.echo(", ".join(f"{number} {what}" for what, number in sorted(case.counts.items())))
    click.echo(f"{count} damaged frames from seed {first}: {count - failed} identical, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
