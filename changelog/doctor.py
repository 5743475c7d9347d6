"""What may be wrong with a primary or a replica, or surprise its owner: each finding with what to do about it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from changelog import layout, triggers
from changelog.audit import is_replica
from changelog.connection import one, rows
from changelog.gaps import gaps_of, trimmed_upto
from changelog.guard import unguarded_tables
from changelog.install import is_installed, masks_of, schema_moved, slot_count
from changelog.position import Position
from changelog.replay import position_of
from changelog.retention import log_bytes
from changelog.schema import Table, is_ours, read_tables, virtual_tables

FREE_DISK = 256 * 1024 * 1024  # bytes below which it is too little for a snapshot and a day of work
FREE_FOR_COPIES = 2  # times the database: a snapshot lies beside it
LOG_SIZE = 1024 * 1024 * 1024  # bytes from which a log is worth a look
_WAL_RESET_FIXED = ((3, 44, 6), (3, 50, 7))  # repaired in these branches before 3.51.3

_ASK_VERSION = "import sqlite3; print(sqlite3.sqlite_version)"


@dataclass(frozen=True)
class Finding:
    """One thing found. `wrong`: it must be mended; else it is only good to know."""

    check: str
    wrong: bool
    fact: str
    advice: str = ""


def examine(db: apsw.Connection, path: Path) -> Iterator[Finding]:
    """All findings about the database of `db`, a read-only connection to `path`."""
    if not is_installed(db):
        yield Finding("changelog", True, "no changelog is installed: nothing is captured", f"python -m changelog install {path}")
    elif is_replica(db):
        yield Finding("role", False, f"a replica, at {position_of(db)}")
        yield _guards(db)
        yield from _log(db)
    else:
        yield Finding("role", False, f"a primary, at {Position.of_head(db)}")
        yield from _capture(db, path)
        yield from _log(db)
    for check in (_integrity, _tables, _settings):
        yield from check(db)
    yield from _versions()
    yield from _disk(db, path)


def _guards(db: apsw.Connection) -> Finding:
    missing = unguarded_tables(db)
    if missing:
        advice = "whatever follows the primary with this file puts them back"
        return Finding("guards", True, f"without a guard against writes of others than replay: {', '.join(missing)}", advice)
    return Finding("guards", False, "only replay can write to its tables")


def _capture(db: apsw.Connection, path: Path) -> Iterator[Finding]:
    again = f"python -m changelog install {path} begins a new epoch, whose replicas start from a snapshot"
    if schema_moved(db):
        yield Finding(
            "schema",
            True,
            "the schema has moved since the log last looked (DDL or VACUUM)",
            f"python -m changelog show {path}, or any pull, logs the change; whatever serves this file does so by itself",
        )
    found = [finding for table in read_tables(db) for finding in _triggers_of(db, table, again)]
    yield from found or [Finding("capture", False, "all tables have our five triggers, and none is newer than they are")]


def _triggers_of(db: apsw.Connection, table: Table, again: str) -> Iterator[Finding]:
    found = rows(db, "SELECT name, sql FROM sqlite_schema WHERE type='trigger' AND tbl_name=? COLLATE NOCASE ORDER BY rowid", (table.name,))
    ours = {sql for name, sql in found if is_ours("trigger", name)}
    missing = [sql for sql in triggers.table_triggers(table) if sql not in ours]
    if not ours:
        yield Finding("capture", True, f"table {table.name} is not captured: it has none of our triggers", again)
    elif missing:
        yield Finding("capture", True, f"table {table.name}: {len(missing)} of our 5 triggers are missing or not as they should be", again)
    names = [is_ours("trigger", name) for name, _ in found]
    if True in names and False in names[names.index(True) :]:
        fact = f"table {table.name} has a trigger that is newer than ours: its changes may be logged out of order"
        yield Finding("triggers", True, fact, again)


def _log(db: apsw.Connection) -> Iterator[Finding]:
    [(count, oldest, newest)] = rows(db, "SELECT count(*), min(seq), max(seq) FROM changelog")
    size = log_bytes(db)
    advice = "python -m changelog trim, or lower CHANGELOG_MAX_BYTES; a replica keeps its own history" if size > LOG_SIZE else ""
    yield Finding("log", False, f"{count} changes, {size} bytes, seq {oldest} to {newest}", advice)
    if count and trimmed_upto(db):
        yield Finding("log", False, f"the log is trimmed: what was before seq {oldest} is not here; as-of begins after seq {oldest - 1}")
    yield from _gaps(db, count, oldest, newest)
    masks = masks_of(db)
    yield Finding("masks", False, f"shown as ***: {', '.join(masks)}" if masks else "no column is masked in the views")
    if slot_count(db) < layout.MIN_SLOTS:
        yield Finding("log", True, "the log has fewer slots than any version of ours makes", "python -m changelog install FILE")


def _gaps(db: apsw.Connection, count: int, oldest: int, newest: int) -> Iterator[Finding]:
    """The gaps that a snapshot left in a replica's log, and rows that are missing without one."""
    gaps = gaps_of(db)
    for gap in gaps:
        fact = f"the log has a gap, {gap}: its primary had trimmed them when a snapshot was taken; as-of begins after seq {gap.last}"
        yield Finding("log", False, fact)
    known = sum(gap.last - gap.first + 1 for gap in gaps)
    there = sum(one(db, "SELECT count(*) FROM changelog WHERE seq BETWEEN ? AND ?", (gap.first, gap.last)) for gap in gaps)
    if count and (there or newest - oldest + 1 != count + known):
        yield Finding("log", True, "the log has a gap: somebody deleted rows of it", "python -m changelog install FILE begins a new epoch")


def _integrity(db: apsw.Connection) -> Iterator[Finding]:
    answer = one(db, "PRAGMA quick_check(1)")
    if answer != "ok":
        yield Finding("file", True, f"the file is damaged: {answer}", "take a copy of it, then restore a backup, or resync a replica")


def _tables(db: apsw.Connection) -> Iterator[Finding]:
    for name in virtual_tables(db):
        fact = f"virtual table {name} is not captured: only snapshots carry it"
        yield Finding("tables", False, fact, "rebuild it on the replica if it is read there")
    keyless = [t.name for t in read_tables(db) if t.keyed_by_rowid]
    if keyless:
        yield Finding(
            "tables",
            False,
            f"without a key that is never NULL: {', '.join(keyless)}; their rows are known by rowid",
            "VACUUM gives them new rowids, and so begins a new epoch; a PRIMARY KEY that is NOT NULL avoids that",
        )
    declaring = rows(db, "SELECT DISTINCT s.name FROM sqlite_schema s, pragma_foreign_key_list(s.name) WHERE s.type='table' ORDER BY 1")
    if declaring:
        fact = f"foreign keys are declared on {', '.join(name for (name,) in declaring)}"
        yield Finding("tables", False, fact, "SQLite enforces them only where a program says PRAGMA foreign_keys=ON")


def _settings(db: apsw.Connection) -> Iterator[Finding]:
    mode = db.pragma("journal_mode")
    wrong = mode != "wal"
    advice = "PRAGMA journal_mode=WAL, so that readers and the writer do not wait for each other" if wrong else ""
    yield Finding("settings", wrong, f"journal_mode is {mode}", advice)
    default = {"0": "OFF", "1": "NORMAL", "2": "FULL"}.get(_shell("sqlite3", ":memory:", "PRAGMA synchronous") or "")
    if default == "OFF":
        advice = "PRAGMA synchronous=FULL in ~/.sqliterc: a power cut can ruin the file"
        yield Finding("settings", True, "the sqlite3 shell writes with synchronous=OFF", advice)
    elif default:
        yield Finding("settings", False, f"the sqlite3 shell writes with synchronous={default}; ours is FULL")


def _versions() -> Iterator[Finding]:
    found = {
        "ours (apsw)": apsw.sqlite_lib_version(),
        "the sqlite3 shell": (_shell("sqlite3", "--version") or "").split(" ")[0],
        # Asked in a process of its own: imported here it would drop our file locks.
        "Python's sqlite3 module": _shell(sys.executable, "-c", _ASK_VERSION),
    }
    for who, version in found.items():
        if not version:
            yield Finding("sqlite", False, f"{who} is not there")
        elif has_wal_reset_bug(version):
            yield Finding(
                "sqlite",
                False,
                f"{who} is SQLite {version}, which can corrupt a WAL file when two connections checkpoint at once",
                "let only one program checkpoint: PRAGMA wal_autocheckpoint=0 in the others; or update to 3.51.3, 3.50.7 or 3.44.6",
            )
        else:
            yield Finding("sqlite", False, f"{who} is SQLite {version}")


def has_wal_reset_bug(version: str) -> bool:
    """Whether this SQLite is one of 3.7.0 to 3.51.2, without 3.44.6 and 3.50.7 and what follows those in their branches."""
    number = tuple(map(int, re.findall(r"\d+", version)[:3]))
    repaired = any(number[:2] == fixed[:2] and number >= fixed for fixed in _WAL_RESET_FIXED)
    return (3, 7, 0) <= number < (3, 51, 3) and not repaired


def _disk(db: apsw.Connection, path: Path) -> Iterator[Finding]:
    free, size = shutil.disk_usage(path.absolute().parent).free, db.pragma("page_count") * db.pragma("page_size")
    wrong = free < max(FREE_DISK, FREE_FOR_COPIES * size)
    advice = "make room: a snapshot needs as much as the database" if wrong else ""
    yield Finding("disk", wrong, f"{free} bytes are free, the database has {size}", advice)


def _shell(*command: str) -> str | None:
    """What a program prints, or None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
