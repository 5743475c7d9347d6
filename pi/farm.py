"""farm.db: made, migrated to the newest schema, or taken over from the earlier system; then made a primary.

What a takeover does to the seven tables of the earlier system, in one transaction, after a copy was laid beside the file:
- every row stays, with its id; times lose their fraction and get a T; indexes and triggers of these tables go, other tables stay;
- lora_payload_buffer.payload_hash goes (it was computed from raw_payload); `received` and `processing` become `received` and are processed
  within seconds; a status that is neither these nor `processed` nor `error` becomes `error` and is named in error_message;
- users.is_admin becomes role; the bcrypt hashes open nothing here, `python -m pi user password NAME` sets new passwords;
- columns that the earlier tables lack (created_at of a weight, updated_at of a user) get the time nearest in meaning;
- nothing else is interpreted: a placeholder such as sex 'Unknown' or weight 0 stays what it is.
"""

from __future__ import annotations

import logging
import os
import runpy
from contextlib import closing
from pathlib import Path

import apsw

from changelog.connection import connect, one
from changelog.errors import ConfigError, Conflict
from changelog.install import install, is_installed, schema_changes
from changelog.reconcile import reconcile
from changelog.schema import identifier

SCHEMA = Path(__file__).with_name("schema.sql")
MIGRATIONS = Path(__file__).with_name("migrations")
MASKS = ("users.password_hash",)
TABLES = ("batches", "pens", "users", "cattle", "weight_records", "pair_history", "lora_payload_buffer")
MODE = 0o660  # of database files: an operator in the same group may use the sqlite3 shell

logger = logging.getLogger(__name__)

_EARLIER_COLUMNS = {
    "batches": "id batch_number induction_date source source_type notes created_at updated_at",
    "pens": "id pen_number capacity description created_at updated_at",
    "users": "id username email password_hash is_admin is_active created_at",
    "cattle": "id batch_id cattle_id sex weight health_status lf_tag uhf_tag pen_id notes status induction_date created_at updated_at",
    "weight_records": "id cattle_id weight recorded_at recorded_by",
    "pair_history": "id cattle_id lf_tag uhf_tag paired_at unpaired_at updated_by",
    "lora_payload_buffer": "id raw_payload payload_hash source_type batch_number lf_tag uhf_tag status batch_id error_message received_at"
    " processed_at created_at updated_at",
}
_TIMES = {"created_at", "updated_at", "recorded_at", "paired_at", "unpaired_at", "received_at", "processed_at"}
_CONVERTED = {  # (table, column): what it is made of, where not the column of the same name
    ("users", "password_hash"): "'!'",
    ("users", "role"): "CASE WHEN is_admin THEN 'admin' ELSE 'user' END",
    ("users", "updated_at"): "created_at",
    ("weight_records", "created_at"): "recorded_at",
    ("weight_records", "updated_at"): "recorded_at",
    ("pair_history", "created_at"): "unpaired_at",
    ("pair_history", "updated_at"): "unpaired_at",
    ("lora_payload_buffer", "status"): """CASE WHEN status IN ('received','processing') THEN 'received'
      WHEN status='processed' THEN status ELSE 'error' END""",
    ("lora_payload_buffer", "error_message"): """CASE WHEN status IN ('received','processing','processed','error') THEN error_message
      ELSE 'status ' || status || ' in the earlier system' || ifnull(': ' || error_message, '') END""",
    ("lora_payload_buffer", "rssi"): "NULL",
    ("lora_payload_buffer", "snr"): "NULL",
    ("lora_payload_buffer", "times_received"): "1",
}


def open_farm(path: str | os.PathLike[str]) -> None:
    """Make the file at `path` the primary that the Pi serves: a new farm, a migrated one, one taken over, or another database as it is.

    Raises Conflict when it cannot be taken over or is of a newer Drover, DamagedFile, CannotCapture; then the file is as it was.
    """
    make_file(path)
    with closing(connect(path, checkpoints=True)) as db:
        if _is_empty(db):
            db.pragma("journal_mode", "wal")
            with db:
                db.execute(SCHEMA.read_text())
            logger.info("new farm made path=%s", path)
        elif has_farm(db):
            migrate(db, MIGRATIONS)
        elif _is_earlier(db):
            _take_over(db, path)
        make_primary(db)


def make_primary(db: apsw.Connection, quiet_since: int | None = None) -> bool:
    """Let the changelog capture all of `db` as it is now. True when there was something to do. Raises CannotCapture.

    `quiet_since`: the head when the schema was last seen as it was known (see `reconcile`).
    """
    if not is_installed(db):
        install(db, masks=MASKS if has_farm(db) else ())
        return True
    return reconcile(db, quiet_since)


def make_file(path: str | os.PathLike[str]) -> None:
    """Make an empty file at `path`, usable by its group, unless there is one. Raises ConfigError."""
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    except OSError as exc:
        raise ConfigError(f"{os.fspath(path)} cannot be made: {exc.strerror}") from exc
    os.fchmod(fd, MODE)  # SQLite gives -wal and -shm the same
    os.close(fd)


def has_farm(db: apsw.Connection) -> bool:
    """Whether the tables of the farm are here: any other database is only replicated, and has no farm routes."""
    return all(_columns(db, table) for table in TABLES) and "times_received" in _columns(db, "lora_payload_buffer")


def migrate(db: apsw.Connection, folder: Path) -> None:
    """Run the migrations of `folder` that are newer than user_version, all in one transaction. Raises Conflict when the file is newer."""
    version = db.pragma("user_version")
    steps = sorted((int(step.name[:4]), step) for step in folder.glob("[0-9][0-9][0-9][0-9]_*.*"))
    newest = steps[-1][0]
    if version > newest:
        raise Conflict(f"this farm.db has schema version {version}, this Drover knows {newest}: update Drover")
    if version == 0 and _is_newest(db):  # the shell's .dump keeps everything but this number
        db.pragma("user_version", newest)
        logger.info("a farm without a version has the tables of version %d, and gets that number", newest)
        return
    if version == newest:
        return
    with schema_changes(db) if is_installed(db) else db:
        for number, step in steps:
            if number > version:
                _run(db, step)
                db.pragma("user_version", number)
    logger.info("farm migrated from=%d to=%d", version, newest)


def _is_newest(db: apsw.Connection) -> bool:
    """Whether the farm's tables have the columns of the newest version."""
    with closing(connect(":memory:", create=True, scratch=True)) as newest:
        newest.execute(SCHEMA.read_text())
        return all(_columns(db, table) == _columns(newest, table) for table in TABLES)


def _run(db: apsw.Connection, step: Path) -> None:
    """One migration: SQL text, or a Python file that has `migrate(db)`. Both work in the open transaction."""
    if step.suffix == ".py":
        runpy.run_path(str(step))["migrate"](db)
    else:
        db.execute(step.read_text())


def _is_empty(db: apsw.Connection) -> bool:
    return one(db, "SELECT count(*) FROM sqlite_schema") == 0


def _columns(db: apsw.Connection, table: str) -> set[str]:
    return {name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def _is_earlier(db: apsw.Connection) -> bool:
    """Whether this is a database of the earlier system. Raises Conflict when it looks like one but not a table of it may be guessed."""
    if "payload_hash" not in _columns(db, "lora_payload_buffer"):
        return False
    for table, columns in _EARLIER_COLUMNS.items():
        odd = _columns(db, table) ^ set(columns.split())
        if odd:
            raise Conflict(
                f"this looks like a database of the earlier system, but its table {table} differs in: {', '.join(sorted(odd))}."
                " Nothing was changed; make the table like the earlier system's, or point PI_DATABASE elsewhere"
            )
    return True


def _take_over(db: apsw.Connection, path: str | os.PathLike[str]) -> None:
    """Turn the earlier system's tables into ours, all or nothing. Raises Conflict, naming the rows that do not fit."""
    db.execute("BEGIN IMMEDIATE")
    try:
        _refuse_repeated(db, "batches", "batch_number")
        _refuse_repeated(db, "pens", "pen_number")
        copy = _copy_beside(path)
        counts = _convert(db)
        db.execute("COMMIT")
    except BaseException as exc:
        if db.in_transaction:
            db.execute("ROLLBACK")
        if isinstance(exc, apsw.ConstraintError):
            raise Conflict(f"{path} cannot be taken over, and was left as it was: {exc}") from exc
        raise
    logger.info("taken over from the earlier system copy=%s %s", copy, " ".join(f"{table}={count}" for table, count in counts.items()))


def _refuse_repeated(db: apsw.Connection, table: str, column: str) -> None:
    row = db.execute(f"SELECT {column}, group_concat(id, ', ') FROM {table} GROUP BY {column} HAVING count(*) > 1").fetchone()
    if row:
        raise Conflict(
            f"the table {table} has {row[0]} more than once (ids {row[1]}), here it must be unique. Nothing was changed;"
            f" give one of them another {column}: UPDATE {table} SET {column}=... WHERE id=..."
        )


def _copy_beside(path: str | os.PathLike[str]) -> str:
    """Copy the file as it is now to FILE.earlier (or .earlier-2, ...); the caller's open transaction keeps other writers out meanwhile."""
    target, count = f"{os.fspath(path)}.earlier", 1
    while os.path.exists(target):
        count += 1
        target = f"{os.fspath(path)}.earlier-{count}"
    make_file(target)
    # Read by another connection: a backup out of the one that holds the write lock is refused by SQLite.
    with closing(connect(path, readonly=True)) as source, closing(connect(target)) as copy, copy.backup("main", source, "main") as backup:
        backup.step()
    return target


def _convert(db: apsw.Connection) -> dict[str, int]:
    """In an open transaction: the earlier tables set aside, ours made and filled from them; returns the rows of each."""
    # So that the foreign keys and views that name these tables go on naming them, not what they are renamed to.
    db.pragma("legacy_alter_table", True)
    for table in TABLES:
        db.execute(f"ALTER TABLE {table} RENAME TO earlier_{table}")
        named = "SELECT type, name FROM sqlite_schema WHERE type IN ('index','trigger') AND sql NOTNULL AND tbl_name=?"
        for kind, name in db.execute(named, (f"earlier_{table}",)).fetchall():
            db.execute(f"DROP {kind} {identifier(str(name))}")
    db.execute(SCHEMA.read_text())
    counts = {}
    for table in TABLES:
        columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", (table,))]
        values = ", ".join(_value(table, column) for column in columns)
        db.execute(f"INSERT INTO {table}({', '.join(columns)}) SELECT {values} FROM earlier_{table}")
        counts[table] = db.changes()
        db.execute(f"DROP TABLE earlier_{table}")
    db.pragma("legacy_alter_table", False)
    return counts


def _value(table: str, column: str) -> str:
    """The SQL expression that gives our `column` from a row of the earlier `table`."""
    source = _CONVERTED.get((table, column), column)
    if column in _TIMES or (table, column) == ("cattle", "induction_date"):
        return f"CASE WHEN {source} GLOB '????-??-??[ T]??:??:??*' THEN substr({source},1,10)||'T'||substr({source},12,8) ELSE {source} END"
    return source
