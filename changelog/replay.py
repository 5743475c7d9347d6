"""Replay: the log's rows applied to a replica, strictly, in one transaction together with the position that they reach.

Plain INSERT, UPDATE and DELETE, each of which must change exactly one row. No OR REPLACE and no merging of changes: those hide divergence.
Any surprise raises, everything is rolled back, and the caller takes the one road out of doubt: a snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import apsw

from changelog.connection import Path_, connect
from changelog.digest import row_names
from changelog.errors import BrokenFrame, DamagedFile, Divergence
from changelog.position import Position
from changelog.schema import Table, identifier, read_tables, schema_hash, sequences_of, tables_with_triggers
from changelog.values import RawText, decode_value
from changelog.wire import FACTS, Header, Page, Row

CACHE_KIB = 32_000  # a long replay dirties many pages; spilling them would write them twice

TableContents = Mapping[str, list[dict[str, Any]]]  # rows as JSON objects, by table

POSITION_TABLE = "CREATE TABLE IF NOT EXISTS changelog_position(epoch TEXT, seq INTEGER, nonce INTEGER, at TEXT)"


def connect_replica(path: Path_) -> apsw.Connection:
    """The one writing connection of a replica. Raises DamagedFile, also where the file never became a replica."""
    db = connect(path, checkpoints=True)
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)  # what the primary's triggers did is in the log already
    db.pragma("ignore_check_constraints", True)  # somebody on the primary may have
    db.pragma("cache_size", -CACHE_KIB)
    try:
        position_of(db)
    except BaseException:
        db.close()
        raise
    return db


def position_of(db: apsw.Connection) -> Position:
    """How far this replica is. Raises DamagedFile where there is no position."""
    try:
        row = db.execute("SELECT epoch, seq, nonce FROM changelog_position").fetchone()
    except (apsw.SQLError, apsw.CorruptError, apsw.NotADBError, apsw.IOError) as exc:
        raise DamagedFile(f"this is not a replica: {exc}") from exc
    if row is None:
        raise DamagedFile("this is not a replica: it has no position")
    return Position(*row)


def move_position(db: apsw.Connection, position: Position) -> None:
    """Within the transaction that makes it true."""
    db.execute("DELETE FROM changelog_position")
    db.execute(
        "INSERT INTO changelog_position(epoch,seq,nonce,at) VALUES(?,?,?,strftime('%Y-%m-%dT%H:%M:%fZ','now'))",
        (position.epoch, position.seq, position.check),
    )


def replay(db: apsw.Connection, header: Header, pages: Iterable[Page], contents: TableContents | None = None) -> Position:
    """Apply one whole frame and return the position reached; or raise, and nothing has happened.

    With `contents`, all rows as of the frame's end, the frame only goes into the log and the tables are filled anew.
    Raises Divergence when the frame does not fit this replica, and what decoding the frame raises.
    """
    with db:
        before = position_of(db)
        if (header.epoch, header.after, header.check) != (before.epoch, before.seq, before.check):
            raise Divergence(f"a frame after {header.epoch}/{header.after}/{header.check} does not fit a replica at {before}")
        if header.schema != schema_hash(db):
            raise Divergence("the schema of the replica is not that of the primary")
        last = Applier(db, log_only=contents is not None).apply(pages)
        if contents is not None:
            _fill_tables(db, contents)
        _follow_facts(db, header)
        if last is None and header.upto == header.after:
            return before
        if last is None or last[0] != header.upto:
            raise BrokenFrame(f"the frame ends before its upto {header.upto}")
        after = Position(header.epoch, header.upto, last[2])
        move_position(db, after)
    return after


def _fill_tables(db: apsw.Connection, contents: TableContents) -> None:
    for table in read_tables(db):
        if table.name not in contents:
            raise Divergence(f"table {table.name} is not in the export")
        db.execute(f"DELETE FROM {identifier(table.name)}")
        names = row_names(table)
        insert = f"INSERT OR ABORT INTO {identifier(table.name)}({','.join(map(identifier, names))}) VALUES"
        for row in contents[table.name]:
            values = [decode_value(row[name]) for name in names]
            db.execute(f"{insert}({','.join(_mark(type(v) is RawText) for v in values)})", values)


class Applier:
    """Applies pages of log rows to the tables and to the replica's own log, inside the caller's transaction."""

    def __init__(self, db: apsw.Connection, log_only: bool = False) -> None:
        self._db = db
        self._log_only = log_only
        self._tables = {(t.name, t.gen): t for t in read_tables(db)}
        self._triggered = tables_with_triggers(db)
        self._statements: dict[Any, _Statements] = {}

    def apply(self, pages: Iterable[Page]) -> Row | None:
        """Apply every row and return the last one. Raises Divergence at the first surprise."""
        last = None
        for page in pages:
            self._apply_page(page)
            last = page.rows[-1]
        return last

    def _apply_page(self, page: Page) -> None:
        cursor = self._db.cursor()
        before, expected = self._db.total_changes(), 0
        first, last = page.rows[0][0], page.rows[-1][0]
        groups: dict[Any, list[Row]] = {}
        try:
            for run in _runs(page):
                statements = self._statements_for(run[0], page.raw)
                if statements.apply and not self._log_only:
                    cursor.executemany(statements.apply, map(statements.arguments, run))
                    expected += len(run)
                groups.setdefault(statements.log, []).extend(run)
            for log, rows in groups.items():  # their order in the log is their seq, whatever the order of writing
                cursor.executemany(log, rows)
                expected += len(rows)
        except (apsw.Error, TypeError, OverflowError, UnicodeEncodeError) as exc:
            raise Divergence(f"seq {first} to {last}: {type(exc).__name__}: {exc}", seq=first) from exc
        if self._db.total_changes() - before != expected:
            raise Divergence(f"seq {first} to {last}: a row that changed on the primary is not on the replica", seq=first)

    def _statements_for(self, row: Row, raw: bool) -> _Statements:
        raw_at = tuple(i for i, v in enumerate(row) if type(v) is RawText) if raw else ()
        key = (*_shape(row), raw_at)
        found = self._statements.get(key)
        if found is None:
            table = self._tables.get((row[4], row[7]))
            if table is None:
                raise Divergence(f"seq {row[0]}: table {row[4]} does not exist here with these columns", seq=row[0])
            whole = table.name in self._triggered
            found = self._statements[key] = _Statements.for_row(table, row, raw_at, whole)
        return found


def _shape(row: Row) -> tuple[Any, ...]:
    """What decides the statements for a row: table, op, column list, changed columns, and whether its rowid moved."""
    return row[4], row[5], row[7], row[8], row[9] != row[10]


def _runs(page: Page) -> Iterator[list[Row]]:
    """Neighbours that one statement can apply, in the order of the log."""
    if page.raw:
        yield from ([row] for row in page.rows)
        return
    run: list[Row] = []
    last: tuple[Any, ...] = ()
    for row in page.rows:
        shape = _shape(row)
        if shape != last:
            if run:
                yield run
            run, last = [], shape
        run.append(row)
    yield run


@dataclass(frozen=True)
class _Statements:
    """The SQL for log rows of one shape. `log` takes the whole row, `apply` what `arguments` picks out of it."""

    log: str
    apply: str | None
    arguments: Callable[[Row], Any]

    @classmethod
    def for_row(cls, table: Table, row: Row, raw_at: tuple[int, ...], whole: bool) -> _Statements:
        kinds = {"I": "n", "U": "no", "D": "o"}[row[5]]
        width, first = len(table.columns), len(FACTS)
        if len(row) != first + width * len(kinds) or (row[5] == "U" and not re.fullmatch(rf"[01]{{{width}}}", row[8] or "")):
            raise Divergence(f"seq {row[0]}: the row does not fit the columns of table {table.name}", seq=row[0])
        names = [*FACTS, *(f"{kind}{i}" for kind in kinds for i in range(width))]
        marks = [_mark(i in raw_at) for i in range(len(names))]
        log = f"INSERT OR ABORT INTO changelog({','.join(names)}) VALUES({','.join(marks)})"
        sql, picked = _apply_sql(table, row, marks, whole)
        return cls(log, sql, _picker(picked))


def _apply_sql(table: Table, row: Row, marks: list[str], whole: bool) -> tuple[str | None, list[int]]:
    """The statement that applies `row` to its table, and which fields of the row it takes.

    OR ABORT everywhere: a constraint of the schema may say REPLACE or IGNORE, and the log already holds what that did.
    An UPDATE sets what changed and no more, because to set an unchanged key or indexed column costs as much as to insert the row; but
    the `whole` row where the table has triggers of its own: one that ran BEFORE may have changed the row, and OLD does not show it.
    """
    op, width, first = row[5], len(table.columns), len(FACTS)
    name, columns = identifier(table.name), [identifier(c.name) for c in table.columns]
    rowid = identifier(table.rowid or "")
    old = first + width if op == "U" else first  # where the old values begin
    keys = [(rowid, 10)] if table.keyed_by_rowid else [(columns[slot], old + slot) for slot in table.key_slots]
    where = " AND ".join(f"{column}={marks[at]}" for column, at in keys)
    if op == "D":
        return f"DELETE FROM {name} WHERE {where}", [at for _, at in keys]
    values = [(c, first + i) for i, c in enumerate(columns) if op == "I" or whole or row[8][i] == "1"]
    if table.keyed_by_rowid and row[9] != row[10]:
        values.append((rowid, 9))
    if op == "I":
        into, given = ",".join(c for c, _ in values), ",".join(marks[at] for _, at in values)
        return f"INSERT OR ABORT INTO {name}({into}) VALUES({given})", [at for _, at in values]
    if not values:
        return None, []
    assigned = ",".join(f"{c}={marks[at]}" for c, at in values)
    return f"UPDATE OR ABORT {name} SET {assigned} WHERE {where}", [at for _, at in values + keys]


def _mark(raw: bool) -> str:
    return "CAST(? AS TEXT)" if raw else "?"  # apsw binds no text that is not UTF-8


def _picker(picked: list[int]) -> Callable[[Row], Any]:
    return itemgetter(*picked) if len(picked) > 1 else lambda row: tuple(row[at] for at in picked)


def _follow_facts(db: apsw.Connection, header: Header) -> None:
    """What belongs to the database and is in no table: the AUTOINCREMENT counters (an ignored INSERT burns ids), and two header fields."""
    if header.sequences:
        ours = sequences_of(db)
        for name, seq in header.sequences.items():
            if name in ours and ours[name] != seq:
                db.execute("UPDATE sqlite_sequence SET seq=? WHERE name=?", (seq, name))
            elif name not in ours:
                db.execute("INSERT INTO sqlite_sequence(name,seq) VALUES(?,?)", (name, seq))
    for pragma in ("user_version", "application_id"):
        value = getattr(header, pragma)
        if db.pragma(pragma) != value:
            db.pragma(pragma, value)
