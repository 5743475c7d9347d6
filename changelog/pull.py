"""A replica made or advanced from another file, by the wire and the replay that the server uses.

The one road out of doubt is the same too: whatever does not fit, a snapshot follows. But a file that is no replica of this primary is
somebody else's, and stays unless the caller says otherwise.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import apsw

from changelog.audit import is_replica
from changelog.bootstrap import carry_over, copy_over, empty_wal, fit_out, put_in_place
from changelog.connection import connect, remove_database
from changelog.errors import BadRequest, Conflict, DamagedFile, Divergence, HistoryTrimmed, NotFound, PositionMismatch, Stranger
from changelog.guard import keep_guards
from changelog.position import Position, ancestors_of, epoch_of
from changelog.primary import Primary
from changelog.replay import checkpoint, connect_replica, position_of, replay
from changelog.rescue.lost import Rescued, keep_lost
from changelog.wire import decode_frame, encode_frame


@dataclass(frozen=True)
class Pulled:
    """What one pull did. `before` is None where there was no replica; `reason` says why a snapshot was taken, "" after a replay;
    `rescued` is where the changes were kept that the primary has lost."""

    before: Position | None
    after: Position
    reason: str
    rescued: Rescued | None = None

    @property
    def changes(self) -> int:
        """How many changes further the replica is."""
        return self.after.seq - (self.before.seq if self.before else 0)


class Source(Protocol):
    """A primary to pull from: a file, or one behind the sync API (`server/remote.py`)."""

    def epochs(self) -> list[str]:
        """Its epoch, and then those that it descends from."""

    def replay_onto(self, replica: apsw.Connection, before: Position) -> Position:
        """Bring a replica that stands at `before` to the newest commit. Raises PositionMismatch, HistoryTrimmed, Divergence."""

    def copy_to(self, target: Path) -> object:
        """Write a snapshot to a new file."""


class LocalSource:
    """The primary in a file. Raises Conflict when that is a replica itself."""

    def __init__(self, primary: Primary) -> None:
        _refuse_replica(primary.path)
        self._primary = primary
        self.copy_to = primary.copy_to

    def epochs(self) -> list[str]:
        """Its epoch, and then those that it descends from."""
        with self._primary.snapshot() as db:
            return [epoch_of(db), *ancestors_of(db)]

    def replay_onto(self, replica: apsw.Connection, before: Position) -> Position:
        """Bring a replica that stands at `before` to the newest commit."""
        header, found = self._primary.frame(before)
        return replay(replica, *decode_frame(encode_frame(header, found)))


def pull_file(primary: Primary, target: Path, overwrite: bool = False) -> Pulled:
    """`pull` from a primary in a file. Raises BadRequest when that is `target` itself, Conflict when it is a replica."""
    if target.exists() and primary.path.exists() and os.path.samefile(primary.path, target):
        raise BadRequest("SOURCE and TARGET are the same file")
    return pull(LocalSource(primary), target, overwrite)


def pull(source: Source, target: Path, overwrite: bool = False) -> Pulled:
    """Bring the replica at `target` to the newest commit of `source`, making it where there is none.

    Raises Stranger when the file at `target` is no replica of this primary, unless `overwrite`.
    """
    if not target.absolute().parent.is_dir():
        raise NotFound(f"there is no folder {target.absolute().parent}")
    before, doubt = _look_at(source, target, overwrite)
    if before is not None and not doubt:
        try:
            return Pulled(before, _advance(source, target, before), "")
        except (PositionMismatch, HistoryTrimmed, Divergence) as exc:
            doubt = exc.message
    return Pulled(before, *_bootstrap(source, target, doubt))


def _refuse_replica(source: Path) -> None:
    """A replica has no triggers: taken for a primary, it would begin an epoch of its own, and follow nobody any more."""
    db = connect(source, readonly=True)
    try:
        if is_replica(db):
            raise Conflict(f"{source} is a replica itself: pull from its primary")
    finally:
        db.close()


def _look_at(source: Source, target: Path, overwrite: bool) -> tuple[Position | None, str]:
    """Where the replica is, and why it cannot go on from there, if it cannot."""
    if not target.exists():
        return None, "there was no replica"
    try:
        db = connect_replica(target)
    except DamagedFile as exc:
        if not overwrite:
            raise Stranger(f"{target} is there and is no replica ({exc.message}): it is left alone; to replace it, add --yes") from exc
        return None, f"what was there was no replica: {exc.message}"
    try:
        position, follows = position_of(db), is_replica(db)
    finally:
        db.close()
    epochs = source.epochs()
    epoch, ours = epochs[0], follows and position.epoch in epochs
    if not ours and not overwrite:
        what = f"follows another primary (epoch {position.epoch}, and this one has {epoch})" if follows else "is a primary itself"
        raise Stranger(f"{target} {what}: it is left alone; to replace it, add --yes")
    if not ours:
        return position, "what was there followed another primary"
    return position, "" if position.epoch == epoch else f"a new epoch has begun: {epoch}"


def _advance(source: Source, target: Path, before: Position) -> Position:
    db = connect_replica(target)
    try:
        position = source.replay_onto(db, before)
        with db:
            keep_guards(db)  # of a replica that was made before there were any
        checkpoint(db)
        return position
    finally:
        db.close()


def _bootstrap(source: Source, target: Path, doubt: str) -> tuple[Position, str, Rescued | None]:
    incoming = target.with_name(f"{target.name}.incoming")
    remove_database(incoming)
    try:
        source.copy_to(incoming)
        position = fit_out(incoming, None)
        rescued = _save_history(target, incoming)
        if not _copied_over(incoming, target):
            empty_wal(target)
            put_in_place(incoming, target.absolute())
    finally:
        remove_database(incoming)
    return position, doubt, rescued


def _save_history(target: Path, incoming: Path) -> Rescued | None:
    """What the old replica alone holds: the changes that the primary lost, kept in a file, and older history, put into the snapshot."""
    if not target.exists():
        return None
    try:
        db = connect_replica(target)
    except DamagedFile:  # or never a replica: the caller said that it may be replaced
        return None
    try:
        rescued = keep_lost(db, incoming, target)
        carry_over(db, incoming)
    finally:
        db.close()
    return rescued


def _copied_over(incoming: Path, target: Path) -> bool:
    """Whether the snapshot went into the replica that is there, its readers undisturbed."""
    try:
        db = connect(target, checkpoints=True)
    except DamagedFile:
        return False
    try:
        return copy_over(incoming, db)
    except apsw.Error:
        return False
    finally:
        db.close()
