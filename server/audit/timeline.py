"""When the changes were made, a block at a time: which parts of the log can hold a change of some hour.

Clocks jump, so the times of a log are in no order, and an index of them all would cost every replay. Remembered is, of each whole block of
changes, the earliest and the latest time. A block is read once; what is not read yet is read by whoever asks, a few blocks at a time.
"""

from __future__ import annotations

import threading

import apsw

from changelog.connection import one, rows

BLOCK = 4_096  # changes
READ_AT_ONCE = 6  # blocks, some ms

Range = tuple[int, int]  # first and last seq


class Timeline:
    """The times of one replica's log. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: dict[int, tuple[str, str]] = {}  # number: the earliest and the latest time in it
        self._checked: tuple[int, int | None] = (0, None)  # the newest change of these blocks, and its nonce

    def ranges(self, db: apsw.Connection, since: str | None, until: str | None, upto: int) -> tuple[list[Range], int]:
        """Where changes between the two times can stand, the newest range first, and the seq from which on that is certain.

        Looked at is the log up to seq `upto`; at most READ_AT_ONCE blocks are read for it.
        """
        first = one(db, "SELECT min(seq) FROM changelog") or 0
        with self._lock:
            self._forget_another_history(db)
            known = self._read(db, first, upto)
            return self._meeting(db, since or "", until, max(first, known), upto), known

    def warm(self, db: apsw.Connection) -> bool:
        """Read some blocks more; False when all are read."""
        [(first, head)] = rows(db, "SELECT min(seq), max(seq) FROM changelog")
        with self._lock:
            self._forget_another_history(db)
            return bool(first) and self._read(db, first, head) > first

    def _read(self, db: apsw.Connection, first: int, upto: int) -> int:
        """Read blocks from `upto` downwards; returns from which seq on all are known."""
        left = READ_AT_ONCE
        for number in range(upto // BLOCK, first // BLOCK - 1, -1):
            if number in self._blocks:
                continue
            low, high = number * BLOCK, number * BLOCK + BLOCK - 1
            if not one(db, "SELECT 1 FROM changelog WHERE seq>=? LIMIT 1", (high,)):
                continue  # it still grows: nothing is remembered of it, and it is always looked through
            if not left:
                return high + 1
            left -= 1
            [(earliest, latest)] = rows(db, "SELECT min(at), max(at) FROM changelog WHERE seq BETWEEN ? AND ?", (low, high))
            self._blocks[number] = (str(earliest or ""), str(latest or ""))
            if high > self._checked[0]:
                self._checked = (high, one(db, "SELECT nonce FROM changelog WHERE seq=?", (high,)))
        return first

    def _meeting(self, db: apsw.Connection, since: str, until: str | None, low: int, high: int) -> list[Range]:
        found: list[Range] = []
        for number in range(high // BLOCK, low // BLOCK - 1, -1):
            earliest, latest = self._blocks.get(number, ("", "\U0010ffff"))
            if latest < since or (until is not None and earliest >= until):
                continue
            first, last = max(low, number * BLOCK), min(high, number * BLOCK + BLOCK - 1)
            if found and found[-1][0] == last + 1:
                found[-1] = (first, found[-1][1])
            else:
                found.append((first, last))
        return found

    def _forget_another_history(self, db: apsw.Connection) -> None:
        """The same nonce at the same seq is the same write, and the same history before it; any other is another log."""
        seq, nonce = self._checked
        if seq and one(db, "SELECT nonce FROM changelog WHERE seq=?", (seq,)) != nonce:
            self._blocks.clear()
            self._checked = (0, None)
