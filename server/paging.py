"""Lists, a page at a time, by key: page 2,000 costs what page 1 does, and a row that is added meanwhile moves nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import apsw
import apsw.ext

from changelog.errors import BadRequest

PAGE_SIZE = 50  # rows
SEPARATOR = "~"

Stream = tuple[str, Sequence[Any]]  # a condition and its bindings, which an index answers in the order of the key
Row = SimpleNamespace  # Jinja reads an attribute of it several times quicker than a key of a dict


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a list, and the cursors of the pages beside it: None at an end."""

    rows: list[Row]
    back: str | None = None
    onward: str | None = None


def rows_of(db: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> list[Row]:
    """The rows of a query, by column name."""
    try:
        return _fetch(db, sql, bindings)
    except UnicodeDecodeError:
        # SQLite takes any bytes as TEXT, and the replica is exact: show what is not UTF-8 with replacement characters.
        names = [name for name, _ in apsw.ext.query_info(db, sql).description]
        columns = ", ".join(f"""CASE typeof("{n}") WHEN 'text' THEN CAST("{n}" AS BLOB) ELSE "{n}" END AS "{n}" """ for n in names)
        found = _fetch(db, f"SELECT {columns} FROM ({sql})", bindings)
        for row in found:
            vars(row).update({name: v.decode(errors="replace") for name, v in vars(row).items() if isinstance(v, bytes)})
        return found


def page_of(
    db: apsw.Connection,
    sql: str,
    bindings: Sequence[Any],
    arguments: Mapping[str, str],
    *,
    keys: Sequence[str],
    ascending: bool = False,
    size: int = PAGE_SIZE,
) -> Page:
    """One page of `sql`, which ends inside its WHERE clause, in the order of `keys` (the last one an integer that is unique).

    `arguments` are those of the URL: `onward=CURSOR` or `back=CURSOR` of a Page, else the list begins. Raises BadRequest.
    """
    backward = "back" in arguments
    cursor = arguments.get("back", arguments.get("onward"))
    upward = ascending != backward
    where = f" AND ({', '.join(keys)}) {'>' if upward else '<'} ({', '.join('?' * len(keys))})" if cursor else ""
    order = ", ".join(f"{key} {'ASC' if upward else 'DESC'}" for key in keys)
    values = [*bindings, *(_parse(cursor, len(keys)) if cursor else ()), size + 1]
    rows = rows_of(db, f"{sql}{where} ORDER BY {order} LIMIT ?", values)
    more, rows = len(rows) > size, rows[:size]
    if backward:
        if not more:  # the beginning: shown as a full page
            return page_of(db, sql, bindings, {}, keys=keys, ascending=ascending, size=size)
        rows.reverse()
        return Page(rows, _cursor(rows[0], keys), _cursor(rows[-1], keys))
    return Page(rows, _cursor(rows[0], keys) if cursor and rows else None, _cursor(rows[-1], keys) if more else None)


def page_of_streams(
    db: apsw.Connection, sql: str, streams: Sequence[Stream], arguments: Mapping[str, str], *, key: str = "id", size: int = PAGE_SIZE
) -> Page:
    """One page of the rows of `sql` (a SELECT with its FROM) that fit any of `streams`, the greatest `key` first. Raises BadRequest.

    Each stream is read to the length of a page only, so that together they cost what the indexes do.
    """
    backward = "back" in arguments
    cursor = arguments.get("back", arguments.get("onward"))
    beyond = f" AND {key} {'>' if backward else '<'} ?" if cursor else ""
    values = _parse(cursor, 1) if cursor else []
    found: dict[int, Row] = {}
    for where, bindings in streams:
        text = f"{sql} WHERE {where}{beyond} ORDER BY {key} {'ASC' if backward else 'DESC'} LIMIT ?"
        found |= {getattr(row, key): row for row in rows_of(db, text, (*bindings, *values, size + 1))}
    rows = sorted(found.values(), key=lambda row: getattr(row, key), reverse=not backward)
    more, rows = len(rows) > size, rows[:size]
    if backward and not more:
        return page_of_streams(db, sql, streams, {}, key=key, size=size)
    rows = rows[::-1] if backward else rows
    back = _cursor(rows[0], [key]) if cursor and rows else None
    return Page(rows, back, _cursor(rows[-1], [key]) if more or backward else None)


def like(text: str) -> str:
    """`text` with nothing in it that means something to LIKE ... ESCAPE '\\'."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _fetch(db: apsw.Connection, sql: str, bindings: Sequence[Any]) -> list[Row]:
    cursor = db.execute(sql, bindings)
    names: list[str] = []
    rows = []
    for row in cursor:
        names = names or [name for name, *_ in cursor.get_description()]
        rows.append(Row(**dict(zip(names, row, strict=True))))
    return rows


def _cursor(row: Row, keys: Sequence[str]) -> str:
    return SEPARATOR.join(str(getattr(row, key.rpartition(".")[2])) for key in keys)


def _parse(cursor: str, length: int) -> list[str | int]:
    """The values of a cursor. Raises BadRequest."""
    *texts, last = cursor.rsplit(SEPARATOR, length - 1)
    if len(texts) != length - 1 or not last.lstrip("-").isdecimal() or len(last) > 19:
        raise BadRequest(f"not a place in this list: {cursor[:80]!r}. Start at its first page.")
    return [*texts, int(last)]
