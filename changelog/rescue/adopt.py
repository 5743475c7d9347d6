"""Lost changes played back into a primary: in order, in one transaction, through its own triggers, and never over what was written since.

What contradicts that is left as it is now and named as a conflict. To adopt a second time changes nothing.
"""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

import apsw

from changelog.connection import connect
from changelog.errors import Conflict, NotFound
from changelog.install import schema_moved
from changelog.log import head
from changelog.position import ancestors_of, epoch_of
from changelog.reconcile import reconcile
from changelog.rescue.lost import is_rescued
from changelog.rescue.outcome import Adopted
from changelog.rescue.playback import Playback, unresolved

PASSES = 4  # at most


def adopt(primary: Path, rescued: Path, dry_run: bool = False) -> Adopted:
    """Play the changes of the file `rescued` back into the primary, while others may write to it or not; `dry_run` undoes it at the end.

    Raises NotFound for another kind of file, Conflict for changes of another history, NotAPrimary, and what SQLite raises; then nothing
    has happened.
    """
    with closing(connect(rescued, readonly=True)) as lost, closing(connect(primary, foreign_keys=True)) as db:
        if not is_rescued(lost):
            raise NotFound(f"{rescued} is no file of rescued changes: `python -m server rescued` lists them")
        _begin(db)
        try:
            _refuse_strangers(lost, db)
            done = _played(lost, db, rescued)
            db.execute("ROLLBACK" if dry_run else "COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
    if not dry_run:
        _mark(rescued, len(done.conflicts))
    return done


def _begin(db: apsw.Connection) -> None:
    """A transaction in which the capture is complete."""
    while True:
        reconcile(db)
        db.execute("BEGIN IMMEDIATE")
        if not schema_moved(db):
            return
        db.execute("ROLLBACK")


def _refuse_strangers(lost: apsw.Connection, db: apsw.Connection) -> None:
    theirs, ours = {epoch_of(lost), *ancestors_of(lost)}, {epoch_of(db), *ancestors_of(db)}
    if not theirs & ours:
        raise Conflict(f"these changes belong to another primary's history (epoch {epoch_of(lost)}): nothing was done")


def _played(lost: apsw.Connection, db: apsw.Connection, path: Path) -> Adopted:
    """Deferred foreign keys show themselves at the end only: then all is played again, and no change may leave one behind."""
    before = head(db)
    db.execute("SAVEPOINT adoption")
    done = _pass_by_pass(lost, db, path, strict=False)
    if unresolved(db):
        db.execute("ROLLBACK TO adoption")
        done = _pass_by_pass(lost, db, path, strict=True)
    db.execute("RELEASE adoption")
    if head(db) > before:
        done.first, done.last = before + 1, head(db)
    return done


def _pass_by_pass(lost: apsw.Connection, db: apsw.Connection, path: Path, strict: bool) -> Adopted:
    """What was left out may find its place when all that came later has been played."""
    done = Playback(lost, db, Adopted(path), strict).run()
    for _ in range(PASSES - 1):
        if not done.conflicts:
            break
        more = Playback(lost, db, Adopted(path), strict).run()
        further = more.after(done)
        done = more
        if not further:
            break
    return done


def _mark(rescued: Path, conflicts: int) -> None:
    """Best effort: the file may be a copy on a stick, or somebody else's."""
    with suppress(apsw.Error, OSError), closing(connect(rescued)) as db, db:
        db.execute("DELETE FROM changelog_meta WHERE name='adopted'")
        db.execute("INSERT INTO changelog_meta(name,value,seq) VALUES('adopted',strftime('%Y-%m-%dT%H:%M:%fZ','now'),?)", (conflicts,))
