"""What a primary that went back in time has lost and its replica still holds: kept in a small file before the replica is replaced.

The file is an SQLite database with the log of those changes, in the tables and views that every log has (changelog_audit,
changelog_of_<table>), for people and for `rescue.adopt`. Its changelog_meta also has `common` (nonce and seq of the newest row that both
sides share), `rescued` (when, and the primary's head then), `objects` (the schema in which the newest of these changes were made) and,
once played back, `adopted` (when).
"""

from __future__ import annotations

import json
import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw

from changelog.connection import connect, one, rows, sync_path
from changelog.errors import DamagedFile, NotFound
from changelog.install import describe_as, masks_of
from changelog.log import head
from changelog.position import Position
from changelog.rescue.common import common_seq, nonce_at
from changelog.rescue.logcopy import copy_log
from changelog.schema import read_tables, schema_objects
from changelog.storage import is_damage

MODE = 0o660  # as the databases: an operator of the group may look
PATTERN = "*.rescued-*.db"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rescued:
    """A file of lost changes: the seqs `first` to `last` of `epoch`, of which `tables` counts those of rows, by table."""

    path: Path
    at: str  # UTC, when the loss was found
    epoch: str
    common: int
    first: int
    last: int
    changes: int
    tables: dict[str, int]
    adopted: str | None  # UTC, when somebody played them back


def keep_lost(replica: apsw.Connection, incoming: Path, beside: Path) -> Rescued | None:
    """Keep what the replica holds and the snapshot `incoming` does not, in a file next to `beside`; None where nothing was lost.

    To be called before the snapshot is installed. The file's name says which changes they are, so a repetition makes no second one. A
    stranger's snapshot (no epoch in common) has lost nothing of ours. Raises what a full disk raises: then the snapshot must wait.
    """
    try:
        with closing(connect(incoming)) as theirs:
            common = common_seq(replica, theirs)
            primary = head(theirs)
        newest = Position.of_head(replica)
        if not common or newest.seq <= common:
            return None
        path = beside.with_name(f"{beside.name}.rescued-{newest.epoch[:8]}-{common + 1}-{newest.seq}-{newest.check:x}.db")
        if not path.exists():
            _write(replica, path, common, newest, primary)
        kept = read_rescued(path)
    except (apsw.Error, DamagedFile) as exc:
        cause = exc.__cause__ if isinstance(exc, DamagedFile) else exc
        if cause is not None and not is_damage(cause):
            raise
        logger.warning("The replica is damaged: what it alone held cannot be told (%s)", exc)
        return None
    logger.warning("The primary lost %d changes that this replica holds: they are kept in %s", kept.changes, path)
    return kept


def list_rescued(folder: Path) -> list[Rescued]:
    """The files of lost changes in a folder, the oldest first. One that cannot be read is named in a warning."""
    found = []
    for path in folder.absolute().glob(PATTERN):
        try:
            found.append(read_rescued(path))
        except (DamagedFile, NotFound, apsw.Error) as exc:
            logger.warning("%s cannot be read: %s", path, exc)
    return sorted(found, key=lambda each: (each.at, each.first))


def read_rescued(path: Path) -> Rescued:
    """What a file of lost changes holds. Raises NotFound when it is none."""
    with closing(connect(path, readonly=True)) as db:
        if not is_rescued(db):
            raise NotFound(f"{path} is no file of rescued changes: `python -m server rescued` lists them")
        meta = {name: (value, seq) for name, value, seq in rows(db, "SELECT name, value, seq FROM changelog_meta")}
        counted = rows(db, "SELECT tbl, count(*) FROM changelog WHERE tbl IS NOT NULL GROUP BY tbl ORDER BY tbl")
        [(first, last, changes)] = rows(db, "SELECT min(seq), max(seq), count(*) FROM changelog")
    adopted = meta.get("adopted", (None, None))[0]
    return Rescued(path, meta["rescued"][0], meta["epoch"][0], meta["common"][1], first, last, changes, dict(counted), adopted)


def is_rescued(db: apsw.Connection) -> bool:
    """Whether this database is a file of lost changes."""
    return db.table_exists("main", "changelog_meta") and bool(one(db, "SELECT 1 FROM changelog_meta WHERE name='rescued'"))


def _write(replica: apsw.Connection, path: Path, common: int, newest: Position, primary: int) -> None:
    incoming = path.with_name(f"{path.name}.incoming")
    incoming.unlink(missing_ok=True)
    try:
        with closing(connect(incoming, create=True, scratch=True)) as db:
            db.pragma("encoding", replica.pragma("encoding"))
            db.pragma("journal_mode", "memory")
            with db:
                describe_as(db, [], [])
            copy_log(replica, db, common + 1, newest.seq)
            with db:
                _describe(replica, db, common, primary)
        incoming.chmod(MODE)
        sync_path(incoming)
        incoming.replace(path)
        sync_path(path.absolute().parent)
    finally:
        incoming.unlink(missing_ok=True)


def _describe(replica: apsw.Connection, db: apsw.Connection, common: int, primary: int) -> None:
    """The views, and what stands in changelog_meta."""
    describe_as(db, read_tables(replica), masks_of(replica))
    add = "INSERT INTO changelog_meta(name,value,seq) VALUES(?,?,?)"
    for fact in rows(replica, "SELECT name, value, seq FROM changelog_meta WHERE name IN ('epoch','ancestor')"):
        db.execute(add, fact)
    for gap in rows(replica, "SELECT name, value, seq FROM changelog_meta WHERE name='gap' AND value>?", (common,)):
        db.execute(add, gap)
    db.execute(add, ("common", nonce_at(replica, common), common))
    db.execute(add, ("objects", json.dumps(schema_objects(replica)), None))
    db.execute("INSERT INTO changelog_meta(name,value,seq) VALUES('rescued',strftime('%Y-%m-%dT%H:%M:%fZ','now'),?)", (primary,))
