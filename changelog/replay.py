"""Replay: the log's rows applied to a replica, strictly, in one transaction together with the position that they reach.

Plain INSERT, UPDATE and DELETE, each of which must change exactly one row. No OR REPLACE and no merging of changes: those hide divergence.
Any surprise raises, everything is rolled back, and the caller takes the one road out of doubt: a snapshot.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apsw

from changelog.apply import Applier, mark
from changelog.connection import Path_, connect
from changelog.durable import rewrite_wal
from changelog.errors import BrokenFrame, DamagedFile, Divergence
from changelog.facts import follow_facts
from changelog.guard import pass_guards
from changelog.position import Position
from changelog.schema import committed_schema_hash, identifier, read_tables, schema_hash
from changelog.storage import is_outage, usable
from changelog.values import RawText, decode_value
from changelog.verify.digest import row_names
from changelog.wire import Header, Page

CHECKPOINT_BYTES = 4 * 2**20  # of the -wal
GARBAGE_THRESHOLD = 200_000  # new objects between two looks for cycles
LONG = 2_000  # changes, from which on a replay dirties many pages; spilling them would write them twice
CACHE_KIB, LONG_CACHE_KIB = 4_000, 32_000  # of pages that are kept, usually and during a long replay

TableContents = Mapping[str, list[dict[str, Any]]]  # rows as JSON objects, by table

POSITION_TABLE = "CREATE TABLE IF NOT EXISTS changelog_position(epoch TEXT, seq INTEGER, nonce INTEGER, at TEXT)"


def connect_replica(path: Path_) -> apsw.Connection:
    """The one writing connection of a replica. Raises DamagedFile, also where the file never became a replica.

    What it holds is on the disk: a process that was killed may have left a commit in the -wal that it had not confirmed.
    """
    db = connect(path)  # its checkpoints are made by `checkpoint`, when nobody waits for a commit
    pass_guards(db)  # and the application's triggers: what they did on the primary is in the log already
    distrust(db)
    db.pragma("ignore_check_constraints", True)  # somebody on the primary may have
    db.pragma("cache_size", -CACHE_KIB)
    db.pragma("journal_size_limit", 0)  # else a -wal stays as long as it ever was, and its size says nothing about what waits in it
    try:
        position_of(db)
        if os.path.exists(db.filename_wal) and os.stat(db.filename_wal).st_size:
            with usable(path), db:
                rewrite_wal(db)
    except BaseException:
        db.close()
        raise
    return db


def distrust(db: apsw.Connection) -> None:
    """What the schema of this file runs (generated columns, expressions of indexes) may call nothing that has an effect outside."""
    db.pragma("trusted_schema", False)
    db.pragma("cell_size_check", True)


def checkpoint(db: apsw.Connection) -> None:
    """Move the -wal into the file when it has grown: after a commit, so that no reader of the new rows has to wait for it."""
    with contextlib.suppress(FileNotFoundError, apsw.BusyError):
        if os.stat(db.filename_wal).st_size > CHECKPOINT_BYTES:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


def position_of(db: apsw.Connection) -> Position:
    """How far this replica is. Raises DamagedFile where there is no position."""
    try:
        row = db.execute("SELECT epoch, seq, nonce FROM changelog_position").fetchone()
    except (apsw.SQLError, apsw.CorruptError, apsw.NotADBError, apsw.IOError) as exc:
        if is_outage(exc):
            raise
        raise DamagedFile(f"this is not a replica: {exc}") from exc
    if row is None:
        raise DamagedFile("this is not a replica: it has no position")
    return Position(*row)


def move_position(db: apsw.Connection, position: Position) -> None:
    """Within the transaction that makes it true."""
    db.execute("DELETE FROM changelog_position")
    db.execute(
        "INSERT INTO changelog_position(epoch,seq,nonce,at) VALUES(?,?,?,strftime('%Y-%m-%dT%H:%M:%fZ','now'))",
        (position.epoch, position.seq, position.check),
    )


def replay(db: apsw.Connection, header: Header, pages: Iterable[Page], contents: TableContents | None = None) -> Position:
    """Apply one whole frame and return the position reached; or raise, and nothing has happened.

    With `contents`, all rows as of the frame's end, the frame only goes into the log and the tables are filled anew.
    Raises Divergence when the frame does not fit this replica, and what decoding the frame raises.
    """
    with _room_for(db, header.upto - header.after), db, _rare_garbage_collection():
        before = position_of(db)
        if header.start != before:
            raise Divergence(f"a frame after {header.start} does not fit a replica at {before}")
        applier = Applier(db, log_only=contents is not None)
        last = applier.apply(pages)
        if contents is not None:
            try:
                _fill_tables(db, contents)
            except (apsw.SQLError, apsw.ConstraintError, apsw.MismatchError, TypeError, ValueError, KeyError, OverflowError) as exc:
                raise Divergence(f"the export does not fit the tables here: {type(exc).__name__}: {exc}") from exc
        reached = (last[0], last[2]) if last else (header.after, header.check)
        if reached != (header.upto, header.upto_check):
            raise BrokenFrame(f"the frame ends at seq {reached[0]}, which is not its upto {header.upto}")
        if header.schema not in (None, schema_hash(db) if applier.reshaped else committed_schema_hash(db)):
            raise Divergence("the schema of the replica is not that of the primary")
        try:
            follow_facts(db, vars(header))
        except apsw.SQLError as exc:  # a counter of a table that has none
            raise Divergence(f"the counters of the primary do not fit here: {exc}") from exc
        if last is not None:
            move_position(db, header.end)
    return header.end


@contextlib.contextmanager
def _room_for(db: apsw.Connection, changes: int) -> Iterator[None]:
    """Memory for the pages of a long replay, which is given back: pages that fill up with time would be a process that grows."""
    if changes > LONG:
        db.pragma("cache_size", -LONG_CACHE_KIB)
    try:
        yield
    finally:
        if changes > LONG:
            db.pragma("cache_size", -CACHE_KIB)


@contextlib.contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Millions of values and not one cycle: looking for them as often as ever takes a tenth of the time."""
    usual = gc.get_threshold()
    gc.set_threshold(max(usual[0], GARBAGE_THRESHOLD), *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _fill_tables(db: apsw.Connection, contents: TableContents) -> None:
    for table in read_tables(db):
        if table.name not in contents:
            raise Divergence(f"table {table.name} is not in the export")
        db.execute(f"DELETE FROM {identifier(table.name)}")
        names = row_names(table)
        insert = f"INSERT OR ABORT INTO {identifier(table.name)}({','.join(map(identifier, names))}) VALUES"
        for row in contents[table.name]:
            values = [decode_value(row[name]) for name in names]
            db.execute(f"{insert}({','.join(mark(type(v) is RawText) for v in values)})", values)
