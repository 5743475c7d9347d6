"""A primary from what is left of one: an image of its file, or a replica of it.

It begins an epoch that descends from the one that the file was in, and goes on counting. So whoever followed the lost primary takes one
snapshot and goes on: nobody has to accept anything, and what a replica holds beyond this file is kept beside it when it does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw

from changelog.bootstrap import put_in_place
from changelog.connection import JOURNAL, connect, identity, one, remove_database, remove_journal, rows, sync_path
from changelog.errors import Conflict, DamagedFile, DroverError, Unavailable
from changelog.guard import drop_guards
from changelog.install import begin_epoch, is_installed
from changelog.position import Position
from changelog.schema import identifier, is_ours
from changelog.storage import in_words, is_damage

MODE = 0o660
PATIENCE = 1_000  # ms that a program which has the old file open is given


def promote(path: Path) -> Position | None:
    """Turn the file at `path`, which nobody else has open, into a primary in a new epoch; returns where that ended which it was in.

    None, and only the journal mode is set, where it keeps no log at all. Raises DamagedFile, CannotCapture.
    """
    with closing(connect(path)) as db:
        try:
            if (fault := one(db, "PRAGMA quick_check(1)")) != "ok":
                raise DamagedFile(f"{path} is damaged: {fault}")
            ended = Position.of_head(db) if is_installed(db) else None
            if ended is not None:
                with db:
                    _remove_what_is_local(db)
                    begin_epoch(db, None)
            db.pragma("journal_mode", "wal")
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as exc:
            raise DamagedFile(f"{path} is damaged: {exc}") from exc
    remove_journal(path)
    sync_path(path)
    return ended


def copy_of(source: Path, target: Path) -> None:
    """Copy a database as of one commit, its -wal included, to a new file. It may be on a medium that cannot be written."""
    with closing(_readable(source)) as db, closing(connect(target, create=True, scratch=True)) as copy:
        with copy.backup("main", db, "main") as backup:
            backup.step(-1)
    os.chmod(target, MODE)


@contextmanager
def replacing(target: Path, aside: str, force: bool) -> Iterator[Path]:
    """Gives the name of a file for the block to make; it becomes `target` when the block ends without an error.

    What is there is kept under its name and `aside`, with `force`; else it raises Conflict, as it does while any program has it open.
    """
    if not target.absolute().parent.is_dir():
        raise Conflict(f"there is no folder {target.absolute().parent}")
    if target.exists() and not force:
        raise Conflict(f"{target} is there: it is never replaced unasked. With --force it is kept as {target.name}.{aside}")
    incoming = target.with_name(f"{target.name}.incoming")
    remove_database(incoming)
    try:
        yield incoming
        with _set_aside(target, target.with_name(f"{target.name}.{aside}")):
            put_in_place(incoming, target.absolute())
    finally:
        remove_database(incoming)


def _remove_what_is_local(db: apsw.Connection) -> None:
    """What only a replica has, in a transaction: its position goes with the new epoch."""
    drop_guards(db)
    for (name,) in rows(db, "SELECT name FROM sqlite_schema WHERE type='index' AND sql IS NOT NULL"):
        if is_ours("index", name):
            db.execute(f"DROP INDEX {identifier(name)}")
    db.execute("DELETE FROM changelog_meta WHERE name='facts'")


def _readable(path: Path) -> apsw.Connection:
    try:
        return connect(path, readonly=True)
    except (DamagedFile, apsw.Error) as exc:
        if os.access(path.parent, os.W_OK) or any(Path(f"{path}{suffix}").exists() for suffix in JOURNAL):
            raise exc if isinstance(exc, DroverError) else DamagedFile(f"{path} cannot be read: {exc}") from exc
    return connect(path, immutable=True)


@contextmanager
def _set_aside(target: Path, kept: Path) -> Iterator[None]:
    """The old file is kept under another name when the block puts a new one in its place; when that fails it is what it was."""
    if not target.exists():
        yield
        return
    _leave_wal(target)
    try:
        moved = [suffix for suffix in JOURNAL if Path(f"{target}{suffix}").exists()]  # of a damaged one
        for suffix in moved:
            Path(f"{target}{suffix}").replace(f"{kept}{suffix}")
        try:
            os.link(target, kept)  # so that at no moment there is none
        except OSError:  # where a file cannot have two names
            target.replace(kept)
    except OSError as exc:
        raise Unavailable(f"{target} cannot be set aside: {exc.strerror}") from exc
    old = identity(kept)
    try:
        yield
    except BaseException:
        if identity(target) in (None, old):
            for suffix in ("", *moved):
                Path(f"{kept}{suffix}").replace(f"{target}{suffix}")
            kept.unlink(missing_ok=True)  # two names of one file: replacing one by the other does nothing
        raise


def _leave_wal(target: Path) -> None:
    """All of the old file into itself: in the other journal mode there is no -wal, and nobody else can have it open."""
    try:
        with closing(connect(target, patience=PATIENCE)) as db:
            db.pragma("journal_mode", "delete")
    except apsw.BusyError as exc:
        raise Conflict(f"{target} is open in another program: stop the Pi (and its shipper) first") from exc
    except DamagedFile:
        pass  # then as it is
    except apsw.Error as exc:
        if not is_damage(exc):
            raise Unavailable(f"{target} cannot be set aside: {in_words(exc)}") from exc
