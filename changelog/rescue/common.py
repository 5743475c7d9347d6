"""How far two logs have the same history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from changelog.connection import one
from changelog.position import ancestors_of, epoch_of
from changelog.storage import is_damage


def common_seq(ours: apsw.Connection, theirs: apsw.Connection) -> int:
    """The newest seq up to which the replica `ours` and the primary `theirs` (a snapshot will do) hold the same history; 0 for strangers.

    Equal nonces at one seq mean equal history before it, so this is a binary search over the seqs whose nonce both know: by their rows,
    and by the marks of what was trimmed. Where the primary has trimmed past us and nothing contradicts, we are taken to be on its history.
    """
    low, high = _bounds(ours, theirs)
    agreed, refuted, last = low, False, high
    while low < high:
        middle = (low + high + 1) // 2
        seq = _newest_known_to_both(ours, theirs, middle)
        if seq > low and nonce_at(ours, seq) != nonce_at(theirs, seq):
            high, refuted = seq - 1, True
        else:  # nothing that is known between low and middle contradicts
            agreed, low = max(agreed, seq), middle
    return agreed if refuted else last


def nonce_at(db: apsw.Connection, seq: int) -> int | None:
    """The nonce of the row at `seq`, also where only a mark of it was kept; None where it is not known."""
    return _read(
        db,
        """SELECT nonce FROM changelog WHERE seq=?1
           UNION ALL SELECT value FROM changelog_meta WHERE name IN ('trimmed','anchor') AND seq=?1""",
        (seq,),
    )


def _bounds(ours: apsw.Connection, theirs: apsw.Connection) -> tuple[int, int]:
    """Between which seqs the answer lies: the birth of the newest epoch that both know, and the end of what both can share."""
    (births, ends), (_, their_ends) = _epochs(ours), _epochs(theirs)
    shared = max((epoch for epoch in ends if epoch in their_ends), key=births.__getitem__, default=None)
    if shared is None:
        return 0, 0
    return births[shared], max(births[shared], min(ends[shared], their_ends[shared]))


def _epochs(db: apsw.Connection) -> tuple[dict[str, int], dict[str, int]]:
    """The epochs of this log, each with the seqs where it began and ended (the present one has not: its head)."""
    ended = sorted(ancestors_of(db).items(), key=lambda each: each[1])
    ends = dict([*ended, (epoch_of(db), _read(db, "SELECT max(seq) FROM changelog") or 0)])
    return dict(zip(ends, [1, *(end + 1 for _, end in ended)], strict=True)), ends


def _newest_known_to_both(ours: apsw.Connection, theirs: apsw.Connection, upto: int) -> int:
    """The newest seq up to `upto` whose nonce both know, or 0. Logs have few holes, so few steps find it."""
    while True:
        seq = _newest_known(theirs, _newest_known(ours, upto))
        if seq in (0, upto):
            return seq
        upto = seq


def _newest_known(db: apsw.Connection, upto: int) -> int:
    return (
        _read(
            db,
            """SELECT max(s) FROM (SELECT max(seq) AS s FROM changelog WHERE seq<=?1
               UNION ALL SELECT max(seq) FROM changelog_meta WHERE name IN ('trimmed','anchor') AND seq<=?1)""",
            (upto,),
        )
        or 0
    )


def _read(db: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> Any:
    """One value; None also where the file is damaged: what cannot be read is not known."""
    try:
        return one(db, sql, bindings)
    except apsw.Error as exc:
        if not is_damage(exc):
            raise
        return None
