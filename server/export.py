"""Lists as CSV files: the whole result of a filter, in the order shown.

What is promised: every file shows one moment, the snapshot in which its page would have been read, and is complete or visibly cut (its
length is told before). It is written to a temporary file first and sent from there, so that a slow client holds neither a connection to
the replica nor its snapshot, and one that goes away leaves nothing behind.
"""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import apsw
from flask import Response
from werkzeug.wsgi import FileWrapper

from changelog.errors import TooMany
from server.paging import Part, all_of, decoded

PIECE = 64 * 1024  # bytes that are read and sent at once
AT_ONCE = threading.Semaphore(2)  # files that are written at the same time: each keeps a core busy
WAIT = 5.0  # s
FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")  # what makes a spreadsheet calculate a text; the last are as wide as a kanji

Names = Sequence[str]
Rows = Iterable[Sequence[Any]]


def csv_of_parts(
    db: apsw.Connection,
    name: str,
    folder: Path,
    parts: Sequence[Part],
    *,
    ascending: bool,
    more: Names = (),
    add: Callable[..., Any] | None = None,
) -> Response:
    """The list as a file. `add(row)` gives the values of the columns `more`, which the query does not have. Raises TooMany."""

    def rows(exact: bool) -> Iterator[Sequence[Any]]:
        names: Sequence[str] = ()
        for sql, bindings in all_of(db, parts, ascending=ascending):
            columns, found = decoded(db, sql, bindings) if exact else _plain(db, sql, bindings)
            if not names:
                names = columns
                yield [*names, *more]
            yield from ((*row, *add(row)) for row in found) if add else found

    try:
        return csv_answer(name, folder, rows(exact=False))
    except UnicodeDecodeError:
        return csv_answer(name, folder, rows(exact=True))


def csv_answer(name: str, folder: Path, lines: Rows) -> Response:
    """The lines, of which the first holds the names, as a download `NAME-DATE.csv`; `folder` has room for a temporary file."""
    if not AT_ONCE.acquire(timeout=WAIT):
        raise TooMany("Other lists are being written just now: try again in a few seconds.")
    file: BinaryIO = TemporaryFile(dir=folder)  # noqa: SIM115  # without a name: it is gone when the answer is closed
    try:
        _write(file, lines)
    except BaseException:
        file.close()
        raise
    finally:
        AT_ONCE.release()
    size = file.tell()
    file.seek(0)
    answer = Response(FileWrapper(file, PIECE), mimetype="text/csv", direct_passthrough=True)  # closes the file, sent or not
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}-{datetime.now(UTC):%Y-%m-%d}.csv"'
    answer.content_length = size
    return answer


def cell(found: Any) -> Any:
    """A value as it stands in the file: no text that a spreadsheet would take for a formula; of a BLOB its bytes in hexadecimal."""
    if isinstance(found, str):
        return f"'{found}" if found.startswith(FORMULA) else found
    return found.hex() if isinstance(found, bytes) else found


def _write(file: BinaryIO, lines: Rows) -> None:
    text = io.TextIOWrapper(file, "utf-8-sig", newline="", write_through=False)  # without the mark Excel takes it for another encoding
    writer = csv.writer(text)
    writer.writerows([cell(found) for found in row] for row in lines)
    text.flush()
    text.detach()


def _plain(db: apsw.Connection, sql: str, bindings: Sequence[Any]) -> tuple[Names, Rows]:
    cursor = db.execute(sql, bindings)
    try:
        return [name for name, *_ in cursor.get_description()], cursor
    except apsw.ExecutionCompleteError:  # no rows: apsw has forgotten the statement
        return decoded(db, sql, bindings)
