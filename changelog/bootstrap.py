"""How a snapshot becomes a replica: checked, fitted out, and put in the place of the old one in a single step."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from changelog.connection import connect, one, rows, sync_path
from changelog.errors import DamagedFile, NotAPrimary, Stranger
from changelog.facts import facts_of, keep_facts
from changelog.position import Position
from changelog.reader import descends
from changelog.replay import POSITION_TABLE, move_position
from changelog.schema import identifier, is_ours


def fit_out(incoming: Path, accepted_epoch: str | None) -> Position:
    """Turn a snapshot, a file that nobody else has open, into a replica; returns its position.

    Raises Stranger when `accepted_epoch` is given and this history does not contain it, DamagedFile when the file is no snapshot.
    """
    db = connect(incoming, scratch=True)
    try:
        position = Position.of_head(db)
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
            db.execute(POSITION_TABLE)
            move_position(db, position)
            keep_facts(db, facts_of(db))
        db.pragma("journal_mode", "wal")
    except (apsw.Error, NotAPrimary) as exc:
        raise DamagedFile(f"the snapshot is not usable: {exc}") from exc
    finally:
        db.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{incoming}{suffix}").unlink(missing_ok=True)
    sync_path(incoming)
    return position


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

    The -wal of the old file goes first: next to the new one it would be played into it.
    """
    for suffix in ("-wal", "-shm"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
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
