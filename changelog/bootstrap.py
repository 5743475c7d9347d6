"""How a snapshot becomes a replica: checked, fitted out, given the older history of the old one, and put in its place in a single step."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from pathlib import Path

import apsw

from changelog.connection import connect, one, remove_journal, rows, sync_path
from changelog.errors import BadRequest, CannotCapture, DamagedFile, NotAPrimary, Stranger
from changelog.facts import facts_of, keep_facts
from changelog.guard import keep_guards, pass_guards
from changelog.install import describe, masks_of, slot_count
from changelog.layout import slot_names
from changelog.position import Position
from changelog.reader import descends
from changelog.replay import POSITION_TABLE, distrust, move_position
from changelog.rescue.common import common_seq, nonce_at
from changelog.rescue.logcopy import copy_log
from changelog.schema import identifier, is_ours
from changelog.storage import is_damage, is_outage
from changelog.wire import FACTS

LINES_OF_DAMAGE = 10  # looked at; those about pages come first
LONGEST_LINE = 200  # characters of one, shown

logger = logging.getLogger(__name__)


def fit_out(incoming: Path, accepted_epoch: str | None) -> Position:
    """Turn a snapshot, a file that nobody else has open, into a replica; returns its position.

    Nothing that the file holds is run or believed before it was looked at: it comes from another machine. Raises Stranger when
    `accepted_epoch` is given and this history does not contain it, DamagedFile when the file is no snapshot, or is damaged.
    """
    db = connect(incoming, scratch=True)
    try:
        pass_guards(db)
        distrust(db)
        _check_log(db)
        _check_pages(db)
        position = Position.parse(str(Position.of_head(db)))
        if accepted_epoch is not None and not descends(db, accepted_epoch):
            raise Stranger(
                f"the primary's history (epoch {position.epoch}) does not descend from the one accepted here ({accepted_epoch}): refused."
                " If it is the right one, run: python -m server accept",
                epoch=position.epoch,
            )
        with db:
            for (name,) in rows(db, "SELECT name FROM sqlite_schema WHERE type='trigger'"):
                if is_ours("trigger", name):  # a replica logs what it is sent, not what happens in it
                    db.execute(f"DROP TRIGGER {identifier(name)}")
            db.execute("DROP TABLE IF EXISTS changelog_position")
            db.execute(POSITION_TABLE)
            describe(db, masks_of(db))  # the views by which people read the log are ours, not what somebody sent under their names
            move_position(db, position)
            keep_facts(db, facts_of(db))
            keep_guards(db)
        db.pragma("journal_mode", "wal")
    except (apsw.Error, NotAPrimary, BadRequest, CannotCapture, TypeError, ValueError) as exc:
        if is_outage(exc):
            raise
        raise DamagedFile(f"the snapshot is not usable: {exc}") from exc
    finally:
        db.close()
    _settle(incoming)
    return position


def _check_log(db: apsw.Connection) -> None:
    """The log's tables are tables, with the columns that they have with us: a view of that name could be anything."""
    slots = slot_names(slot_count(db))
    expected = {
        "changelog": {*FACTS, *slots},
        "changelog_cols": {"tbl", "gen", "pos", "col", "pk", "mask"},
        "changelog_meta": {"name", "value", "seq"},
        "changelog_stash": {"tbl", "rid", *(name for name in slots if name.startswith("o"))},
    }
    for table, columns in expected.items():
        kinds = rows(db, "SELECT type FROM pragma_table_list WHERE schema='main' AND name=?", (table,))
        found = rows(db, "SELECT name, hidden FROM pragma_table_xinfo(?)", (table,))
        if kinds != [("table",)] or {name for name, _ in found} != columns or any(hidden for _, hidden in found):
            raise DamagedFile(f"the snapshot is not usable: its {table} is not as ours")


def _check_pages(db: apsw.Connection) -> None:
    """Raises DamagedFile where the file is damaged: a Pi whose card fails must not take the good copy with it.

    Rows that break a constraint are the application's affair: what a CHECK says is not even asked, which takes a third of the time, and the
    other lines about them are not those about pages.
    """
    db.pragma("ignore_check_constraints", True)
    found = [line for (line,) in rows(db, f"PRAGMA quick_check({LINES_OF_DAMAGE})") if line.startswith("***")]
    if found:
        raise DamagedFile(f"the snapshot is damaged: {' '.join(found[0].split())[:LONGEST_LINE]}")


def carry_over(replica: apsw.Connection, incoming: Path) -> int:
    """Copy the rows of the replica's log that are older than the fitted snapshot's oldest, and are its history, into the snapshot.

    Returns how many. What lies between the two logs, if anything does, is marked as a `gap`. To be called before the snapshot is installed.
    Of a damaged replica what can be read is copied. Raises what a full disk raises; then the snapshot is to be fetched again.
    """
    try:
        with closing(connect(incoming)) as db:
            oldest = one(db, "SELECT min(seq) FROM changelog")
            last = min(oldest - 1, common_seq(replica, db))
            first = one(replica, "SELECT min(seq) FROM changelog")
            if first is None or first > last:
                return 0
            marks = rows(replica, "SELECT name, value, seq FROM changelog_meta WHERE name IN ('trimmed','anchor','gap')")
            pass_guards(db)
            db.pragma("journal_mode", "memory")  # few pages of the snapshot change: most are new ones
            db.pragma("synchronous", "OFF")
            count = copy_log(replica, db, first, last)
            with db:
                _mark_holes(db, marks, oldest)
                describe(db, masks_of(db))  # column lists that are no more may be among the rows
            db.pragma("journal_mode", "wal")
    except apsw.Error as exc:
        if not is_damage(exc):
            raise
        logger.warning("The replica's log cannot be read, the history that it alone held stays in the old file: %s", exc)
        return 0
    _settle(incoming)
    return count


def _settle(incoming: Path) -> None:
    remove_journal(incoming)
    sync_path(incoming)


def _mark_holes(db: apsw.Connection, ours: list[tuple[str, int, int]], oldest: int) -> None:
    """The marks of what was trimmed are those of the replica's own log now; what the primary knew of its trim is an anchor."""
    carried = one(db, "SELECT max(seq) FROM changelog WHERE seq<?", (oldest,))
    if carried is None:
        return
    db.execute("UPDATE changelog_meta SET name='anchor' WHERE name='trimmed'")
    add = "INSERT INTO changelog_meta(name,value,seq) VALUES(?,?,?)"
    for name, value, seq in ours:
        if value <= carried if name == "gap" else seq <= carried and nonce_at(db, seq) is None:
            db.execute(add, (name, value, seq))
    if carried < oldest - 1:
        db.execute(add, ("gap", carried + 1, oldest - 1))


def copy_over(incoming: Path, live: apsw.Connection) -> bool:
    """Put the content of `incoming` into the live replica in one commit, its readers undisturbed. False where only a new file can do it.

    A file's page size and text encoding are fixed, and the backup API cannot change them under open connections.
    """
    source = connect(incoming)
    try:
        if any(one(source, f"PRAGMA {fact}") != one(live, f"PRAGMA {fact}") for fact in ("page_size", "encoding")):
            return False
        with live.backup("main", source, "main") as backup:
            backup.step(-1)
    finally:
        source.close()
    return True


def put_in_place(incoming: Path, target: Path) -> None:
    """Make `incoming` the file at `target`. No connection of this process may be open there.

    The -wal of the old file goes first, for good: next to the new one it would be played into it, also after a power cut between the two.
    """
    remove_journal(target)
    sync_path(target.parent)
    os.replace(incoming, target)
    sync_path(target.parent)


def empty_wal(target: Path) -> None:
    """Move all of the -wal of a sound database into its file, so that nothing is lost when a crash falls between the two steps above."""
    try:
        db = connect(target)
    except DamagedFile:
        return
    try:
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.Error:
        pass  # somebody reads the old rows: they are to be replaced in any case
    finally:
        db.close()
