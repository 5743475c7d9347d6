"""A primary that nobody can reach, followed by what it ships to a store: a source to pull from, as a file or the sync API is one.

What is applied to a replica is the log in the mirror, through the same frame, decoder and replay as a pull.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import apsw

from changelog.connection import connect, one
from changelog.errors import DamagedFile, HistoryTrimmed, PositionMismatch, Unavailable
from changelog.install import schema_moved
from changelog.ltx.mirror import Holding, Mirror
from changelog.position import Position, ancestors_of, epoch_of
from changelog.reader import READ_ROWS, check_position, frame_header, read_log
from changelog.replay import position_of, replay
from changelog.rescue.common import nonce_at
from changelog.storage import is_damage
from changelog.values import Value
from changelog.wire import Header, Page, decode_frame, encode_frame

Standing = Literal["ahead", "same", "behind", "anew", "rewound", "forked", "stranger"]

BROKEN = (apsw.CorruptError, apsw.NotADBError, apsw.IOError)


class BucketSource:
    """The mirror as a source. Satisfies `changelog.pull.Source`. For one thread."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def forget(self) -> None:
        """What was replayed from here met a surprise: the next `refresh` restores the mirror anew."""
        self._mirror.forget()

    @property
    def holding(self) -> Holding | None:
        """What the mirror holds."""
        return self._mirror.holding

    def refresh(self) -> bool:
        """Fetch what is new in the store; whether anything was. Raises what `Mirror.advance` raises."""
        return self._mirror.advance()

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """The primary as it was when the newest file was shipped.

        Raises NotAPrimary where it keeps no log, Unavailable where somebody had just changed its schema and the log did not know it yet.
        """
        try:
            db = connect(self._mirror.path, immutable=True)
        except DamagedFile:
            self._mirror.forget()
            raise
        try:
            db.execute("BEGIN")
            if schema_moved(db):
                raise Unavailable("the newest state in the store is in the middle of a change of its schema: the next one is waited for")
            yield db
        except BROKEN as exc:
            if not is_damage(exc):  # it is only read here: a disk that cannot be written is that of the replica
                raise
            self._mirror.forget()
            raise DamagedFile(f"{self._mirror.path} is damaged and is restored anew: {exc}") from exc
        finally:
            db.close()

    def head(self) -> Position:
        """The position of the newest change."""
        with self.snapshot() as db:
            return Position.of_head(db)

    def epochs(self) -> list[str]:
        """Its epoch, and then those that it descends from."""
        with self.snapshot() as db:
            return [epoch_of(db), *ancestors_of(db)]

    @contextmanager
    def frame(self, after: Position) -> Iterator[tuple[Header, Iterator[Page]]]:
        """The frame that leads a replica at `after` to the newest commit. Raises PositionMismatch, HistoryTrimmed."""
        with self.snapshot() as db:
            header = frame_header(db, after)
            yield decode_frame(encode_frame(header, _rows(db, header)))

    def replay_onto(self, replica: apsw.Connection, before: Position) -> Position:
        """Bring a replica that stands at `before` to the newest commit."""
        with self.frame(before) as frame:
            return replay(replica, *frame)

    def copy_to(self, target: Path) -> int:
        """Write a snapshot to a new file; returns its size in bytes."""
        with self.snapshot():  # else a file that nobody may install
            return self._mirror.copy_to(target)

    def standing(self, replica: apsw.Connection) -> Standing:
        """How the store relates to a replica: a store is late by nature, and what it holds may be older than what was pulled.

        `behind`: the replica has all of it already. `anew`: a new epoch that descends from the replica's. `rewound`: the same epoch with
        other, later changes under the same seqs; `forked`: with earlier ones. `stranger`: nothing in common.
        """
        with self.snapshot() as image:
            return _standing(replica, image)


def _standing(replica: apsw.Connection, image: apsw.Connection) -> Standing:
    ours, theirs = position_of(replica), Position.of_head(image)
    try:
        check_position(image, ours)
    except HistoryTrimmed:
        return "ahead"  # replay meets it again, and takes the road
    except PositionMismatch as exc:
        if theirs.epoch in ancestors_of(replica):
            return "behind"  # a life of the primary that ended
        if theirs.epoch == ours.epoch:
            known = nonce_at(replica, theirs.seq)
            if theirs.seq < ours.seq and known in (None, theirs.check):
                return "behind"
            return "rewound" if _written_at(image, theirs) > _written_at(replica, ours) else "forked"
        return "anew" if exc.facts.get("descends") else "stranger"
    return "same" if theirs == ours else "ahead"


def _written_at(db: apsw.Connection, position: Position) -> str:
    """When the change at a position was made, by the primary's clock."""
    return str(one(db, "SELECT at FROM changelog WHERE seq=?", (position.seq,)) or "")


def _rows(db: apsw.Connection, header: Header) -> Iterator[tuple[Value, ...]]:
    after = header.after
    while after < header.upto:
        rows = read_log(db, after, header.upto, READ_ROWS)
        yield from rows
        after += len(rows)
