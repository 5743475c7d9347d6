"""Rows of one log put into another file, as SQLite holds them: at once where that is possible, row by row where it is not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from changelog.apply import mark
from changelog.connection import rows
from changelog.install import slot_count, widen
from changelog.layout import slot_names
from changelog.storage import is_damage
from changelog.values import RawText, Value, exact_rows
from changelog.wire import FACTS

READ_ROWS = 4_096  # in one go, where rows are read one by one
UNREADABLE_ROWS = 16  # a stretch of so few is given up when it cannot be read

logger = logging.getLogger(__name__)


def copy_log(source: apsw.Connection, target: apsw.Connection, first: int, last: int) -> int:
    """Copy the log rows `first` to `last`, and what names their slots, into `target`; returns how many rows.

    `target` is a file that nobody else has open and that is thrown away when this raises; within no transaction. What of a damaged source
    cannot be read is left out, with a warning. Flat in memory.
    """
    with target:
        widen(target, slot_count(source))
        _copy_columns(source, target)
    count: int | None = None
    try:
        with _attached(source, target) as attached:
            if attached:
                with target:
                    count = _copy_at_once(source, target, first, last)
    except apsw.Error as exc:
        if not is_damage(exc):
            raise
        logger.warning("The old log is damaged: what can be read of it is kept (%s)", exc)
    if count is not None:
        return count
    with target:
        copied = sum(_write(target, source, run) for run in _readable(source, first, last))
    return copied


@contextmanager
def _attached(source: apsw.Connection, target: apsw.Connection) -> Iterator[bool]:
    """Whether the source could be attached as `source`: files of different text encodings cannot, nor one that was moved away."""
    try:
        target.execute("ATTACH ? AS source", (source.filename,))
    except apsw.Error:
        yield False
        return
    try:
        newest = "SELECT seq, nonce FROM {}changelog ORDER BY seq DESC LIMIT 1"
        yield rows(target, newest.format("source.")) == rows(source, newest.format(""))  # else another file is at that path now
    finally:
        target.execute("DETACH source")


def _copy_at_once(source: apsw.Connection, target: apsw.Connection, first: int, last: int) -> int:
    columns = ",".join([*FACTS, *slot_names(slot_count(source))])
    target.execute(
        f"INSERT OR ABORT INTO main.changelog({columns}) SELECT {columns} FROM source.changelog WHERE seq BETWEEN ? AND ? ORDER BY seq",
        (first, last),
    )
    return target.changes()


def _copy_columns(source: apsw.Connection, target: apsw.Connection) -> None:
    insert = "INSERT OR IGNORE INTO changelog_cols(tbl,gen,pos,col,pk,mask) VALUES(?,?,?,?,?,?)"
    target.executemany(insert, rows(source, "SELECT tbl,gen,pos,col,pk,mask FROM changelog_cols"))


def _readable(source: apsw.Connection, first: int, last: int) -> Iterator[list[tuple[Value, ...]]]:
    """The rows in runs; stretches that are damaged are left out."""
    columns = [*FACTS, *slot_names(slot_count(source))]
    todo = [(start, min(start + READ_ROWS - 1, last)) for start in range(first, last + 1, READ_ROWS)][::-1]
    while todo:
        start, end = todo.pop()
        try:
            yield list(exact_rows(source, columns, "FROM changelog WHERE seq BETWEEN ? AND ? ORDER BY seq", (start, end)))
        except apsw.Error as exc:
            if not is_damage(exc):
                raise
            middle = (start + end) // 2
            if end - start < UNREADABLE_ROWS:
                logger.warning("The changes %d to %d of the old log cannot be read: they are lost here", start, end)
            else:
                todo += [(middle + 1, end), (start, middle)]


def _write(target: apsw.Connection, source: apsw.Connection, run: list[tuple[Value, ...]]) -> int:
    columns = [*FACTS, *slot_names(slot_count(source))]
    for row in run:
        marks = ",".join(mark(type(value) is RawText) for value in row)
        target.execute(f"INSERT OR ABORT INTO changelog({','.join(columns)}) VALUES({marks})", row)
    return len(run)
