"""What the tests of the changelog share: a primary made from SQL, its replica, the system's sqlite3, and exact contents."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw

from changelog.bootstrap import fit_out
from changelog.connection import connect, rows
from changelog.guard import pass_guards
from changelog.install import install
from changelog.layout import slot_names
from changelog.position import Position
from changelog.primary import Primary
from changelog.replay import connect_replica, position_of, replay
from changelog.schema import identifier, schema_objects, sequences_of
from changelog.wire import FACTS, decode_frame

REPOSITORY = Path(__file__).resolve().parents[1]


def make_database(path: Path, sql: str, *before: str) -> Path:
    """A new database in WAL mode; `before` are statements for the moment when it is still empty (encoding, page size)."""
    db = apsw.Connection(str(path))
    for statement in before:
        db.execute(statement)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(sql)
    db.close()
    return path


def make_primary(path: Path, sql: str, *before: str, masks: list[str] | None = None) -> Path:
    make_database(path, sql, *before)
    db = connect(path)
    install(db, masks)
    db.close()
    return path


def make_replica(primary: Path, path: Path) -> Path:
    """A replica of `primary` as it is now, by the road of a bootstrap."""
    source = Primary(primary)
    source.copy_to(path)
    source.close()
    fit_out(path, None)
    return path


def run_sql(path: Path, *statements: str) -> None:
    db = connect(path)
    try:
        for sql in statements:
            db.execute(sql)
    finally:
        db.close()


@contextmanager
def unguarded(path: Path) -> Iterator[apsw.Connection]:
    """A connection that damages a replica on purpose: the guards that stop everybody else's writes do not stop it."""
    with closing(connect(path)) as db:
        pass_guards(db)
        yield db


def damage(path: Path, *statements: str) -> None:
    """Run these on a replica, round its guards."""
    with unguarded(path) as db:
        for sql in statements:
            db.execute(sql)


def shell(path: Path | str, sql: str, *options: str) -> str:
    """What the system's sqlite3 prints; fails where it complains."""
    done = shell_run(path, sql, *options)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def shell_run(path: Path | str, sql: str, *options: str) -> subprocess.CompletedProcess[str]:
    # The bail makes an error the exit code, as in a script of a farmer.
    return subprocess.run(["sqlite3", "-bail", *options, str(path)], input=sql, capture_output=True, text=True, check=False)


def frame_of(primary: Path, after: Position) -> bytes:
    source = Primary(primary)
    try:
        return b"".join(source.encoded_frame(after)[1])
    finally:
        source.close()


def follow(primary: Path, replica: Path) -> Position:
    """Bring the replica to the primary's head with one frame, as bytes of the wire."""
    db = connect_replica(replica)
    try:
        return replay(db, *decode_frame([frame_of(primary, position_of(db))]))
    finally:
        db.close()


def contents(path: Path) -> dict[str, Any]:
    """All rows of all tables of an application with types and bytes, rowids too where a table has no key; counters and header fields."""
    db = connect(path)
    try:
        held: dict[str, Any] = {"schema": schema_objects(db), "sequences": sequences_of(db)}
        for fact in ("user_version", "application_id", "encoding"):
            held[fact] = db.pragma(fact)
        for name, without_rowid in rows(db, "SELECT name, wr FROM pragma_table_list WHERE schema='main' AND type='table'"):
            if not name.startswith(("sqlite_", "changelog")):
                held[f"table {name}"] = _rows_of(db, name, bool(without_rowid))
        return held
    finally:
        db.close()


def _rows_of(db: apsw.Connection, table: str, without_rowid: bool) -> list[Any]:
    columns = [identifier(c) for (c,) in rows(db, "SELECT name FROM pragma_table_xinfo(?)", (table,))]
    keyed = one_key(db, table)
    if not without_rowid and not keyed:
        columns.append("rowid")
    return sorted(rows(db, f"SELECT {_exact(columns)} FROM {identifier(table)}"), key=repr)


def one_key(db: apsw.Connection, table: str) -> bool:
    return bool(rows(db, "SELECT 1 FROM pragma_table_info(?) WHERE pk", (table,)))


def log_of(path: Path, after: int = 0) -> list[Any]:
    """The log, column by column with types and bytes."""
    db = connect(path)
    try:
        slots = len(rows(db, "SELECT 1 FROM pragma_table_info('changelog') WHERE name GLOB 'n[0-9]*'"))
        columns = [*FACTS, *slot_names(slots)]
        parts = [columns[i : i + 900] for i in range(0, len(columns), 900)]  # SQLite answers with 2000 columns at most
        return [rows(db, f"SELECT {_exact(part)} FROM changelog WHERE seq>? ORDER BY seq", (after,)) for part in parts]
    finally:
        db.close()


def _exact(columns: list[str]) -> str:
    # -0.0 and 0.0 are one value to SQLite and to Python: only text tells them apart.
    return ",".join(
        f"typeof({c}), CASE typeof({c}) WHEN 'text' THEN CAST({c} AS BLOB) WHEN 'real' THEN printf('%!.17g',{c}) ELSE {c} END"
        for c in columns
    )


def story(path: Path, *, after: int = 1) -> list[tuple[Any, ...]]:
    """(op, table, key) of every log row: what happened, in short."""
    db = connect(path)
    try:
        return rows(db, "SELECT op, tbl, key FROM changelog WHERE seq>? AND op<>'B' ORDER BY seq", (after,))
    finally:
        db.close()


def assert_alike(primary: Path, replica: Path) -> None:
    """Same rows, same schema, same counters, same log from the replica's first row on."""
    assert contents(replica) == contents(primary)
    assert log_of(replica) == log_of(primary)


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)
    return value
