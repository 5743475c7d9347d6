"""A piece of work, and what a database holds before and after it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from farm_processes import Farm

from changelog.connection import connect, one
from changelog.install import is_installed
from changelog.position import Position
from changelog.replay import position_of
from changelog.verify.digest import digest_tables
from scripts.faults.inject import Fault

LEFT_OVERS = ("*.incoming*", "*.staged", "*.restoring*", "*.tmp", "tmp*")

State = tuple[Position | None, object]  # where a database stands, and what it holds


@dataclass(frozen=True)
class Work:
    """`prepare` makes the files, `run` is what meets the fault, `check` says what is wrong when it has ended well once.

    `lives`: it is a service, which says why it cannot go on, and goes on by itself when it can: `run` ends well whatever fails in between.
    `many`: it commits several times, and the end of each commit is sound.
    """

    name: str
    prepare: Callable[[Path, Farm], None]
    run: Callable[[Path, Fault], object]
    check: Callable[[Path, Farm, set[str]], None]
    database: str  # in the folder: it must hold what was there before, or what is to be there after
    lives: bool = False
    many: bool = False
    sound: Callable[[Path], None] = lambda folder: None  # what else must hold at any moment


def state_of(path: Path) -> State | None:
    """None where there is no database yet. Raises AssertionError where it is damaged."""
    if not path.exists() or not path.stat().st_size:
        return None
    with closing(connect(path)) as db:
        check = one(db, "PRAGMA integrity_check")
        assert check == "ok", f"{path.name}: integrity_check: {check}"
        if not is_installed(db):
            return None, one(db, "SELECT count(*) FROM sqlite_schema")
        replica = db.table_exists("main", "changelog_position")
        seqs = db.execute("SELECT min(seq), max(seq), count(*) FROM changelog").fetchone()
        assert seqs and seqs[1] - seqs[0] + 1 == seqs[2], f"{path.name}: the log has a gap: {seqs}"
        position = position_of(db) if replica else Position.of_head(db)
        assert position.seq == seqs[1], f"{path.name}: the position {position} is not that of the newest row, {seqs[1]}"
        return position, digest_tables(db)


def alike(state: State | None) -> object:
    """A state without what is another one each time that the same is written: the check of its position, and an epoch that it began."""
    return state and (state[0] and state[0].seq, state[1])


def nothing_left(folder: Path) -> None:
    """Raises AssertionError where a file lies about that was to be temporary."""
    left = [str(path) for pattern in LEFT_OVERS for path in folder.rglob(pattern) if "bucket" not in path.parts]  # that is tidied later
    assert not left, f"left over: {left}"
