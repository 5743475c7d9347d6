"""DDL as part of the log: a schema that somebody changed is logged as an X row, which replicas repeat; or else a new epoch begins."""

from __future__ import annotations

import json
import logging
import re

import apsw

from changelog.connection import one, rows
from changelog.ddl import Explanation, Image, Unexplained, explain, last_image, schema_list
from changelog.errors import BadRequest
from changelog.install import begin_epoch, capture_again, drop_triggers, in_doubt, in_wal_mode, masks_of, schema_moved
from changelog.layout import KEEP_IMAGE, log_ddl
from changelog.log import head
from changelog.schema import Table, identifier, is_ours, read_tables, schema_hash
from changelog.triggers import log_added_columns, log_all_rows

logger = logging.getLogger(__name__)

_BLANK = r"(\s|--[^\n]*(\n|$)|/\*.*?\*/)*"
_DDL = re.compile(rf"{_BLANK}(CREATE|ALTER|DROP)\b", re.IGNORECASE | re.DOTALL)
_COMMENT = re.compile(_BLANK, re.DOTALL)


def reconcile(db: apsw.Connection, quiet_since: int | None = None) -> bool:
    """Bring the capture in line with a schema that somebody changed. True when there was something to do.

    `quiet_since` is the seq that was the head when the schema was last seen as we know it: rows after it may have been written under
    triggers or unique indexes that capture did not know. What cannot be logged exactly begins a new epoch.
    """
    if not in_wal_mode(db):  # somebody took it out while nobody had the file open
        db.pragma("journal_mode", "wal")
    if not schema_moved(db):
        return False
    with db:
        if not schema_moved(db):
            return False  # another connection was quicker
        try:
            if in_doubt(db):
                raise Unexplained("a foreign key's action changed a row before the change that it follows was logged")
            before = last_image(db)
            if before is None:
                raise Unexplained("there is no image of the schema before")
            _log_change(db, explain(before, Image.of(db)), before, quiet_since)
        except Unexplained as exc:
            logger.warning("The schema changed, and a new epoch begins: %s", exc)
            begin_epoch(db, None)
    return True


def run_ddl(db: apsw.Connection, sql: str) -> str | None:
    """Run one statement that our triggers stand in the way of, such as DROP COLUMN, and log it.

    Returns why a new epoch began instead, or None. Raises BadRequest for what is not one CREATE, ALTER or DROP, and what SQLite raises;
    then nothing has happened.
    """
    reconcile(db)
    with db:
        drop_triggers(db)
        before, quiet_since = Image.of(db), head(db)
        _run_one(db, sql)
        after = Image.of(db)
        if after.version == before.version:
            raise BadRequest("this statement changes no schema: write rows as ever, in any program")
        if _of_ours(before) != _of_ours(after):
            raise BadRequest("this is the changelog's own, or one of the names that it keeps for itself: nothing was changed")
        try:
            _log_change(db, explain(before, after, by_roots=True), before, quiet_since)
        except Unexplained as exc:
            logger.warning("The schema changed, and a new epoch begins: %s", exc)
            begin_epoch(db, None)
            return str(exc)
    return None


def _run_one(db: apsw.Connection, sql: str) -> None:
    """Run what must be one statement of DDL: rows that another one wrote would not be captured, and a COMMIT would leave it so."""
    seen: list[str] = []

    def look(cursor: apsw.Cursor, statement: str, bindings: object) -> bool:
        if _COMMENT.fullmatch(statement):
            return True
        seen.append(statement)
        if len(seen) > 1 or not _DDL.match(statement):
            raise BadRequest("one CREATE, ALTER or DROP at a time: our triggers are away while it runs; all else can be run in any program")
        return True

    cursor = db.cursor()
    cursor.exec_trace = look
    cursor.execute(sql).fetchall()
    if not seen:
        raise BadRequest("there is no statement in it")


def _of_ours(image: Image) -> set[tuple[str, ...]]:
    return {each for each in image.objects if is_ours(each[0], each[1])}


def _log_change(db: apsw.Connection, change: Explanation, before: Image, quiet_since: int | None) -> None:
    """Log what `change` explains and make the capture fit again. Raises Unexplained where the log would not be exact."""
    quiet = head(db) == quiet_since
    if change.needs_quiet and not quiet:
        raise Unexplained("rows may have been written under a trigger or unique index that was not known yet")
    if change.vacuumed and any(not quiet or _has_rows(db, t) for t in read_tables(db) if t.keyed_by_rowid):
        raise Unexplained("VACUUM gave new rowids to rows that nothing else identifies")
    after = Image.of(db)
    masks = _masks_after(db, change)
    tables = {t.name: t for t in capture_again(db, masks)}
    if _is_visible(change, before, after):
        text = {
            "before": schema_list(before),  # replicas have it; as-of needs it when the rows before this one are trimmed
            "objects": schema_list(after),
            "tables": change.tables,
            "columns": change.columns,
            "masks": masks,
            "hash": schema_hash(db),
        }
        db.execute(*log_ddl(json.dumps(text), _summary(change, before, after)))
    for name in change.new_tables:
        db.execute(log_all_rows(tables[name]))
    for name, pairs in change.columns.items():
        _log_added(db, tables[name], [now for now, old in pairs if old is None])
    for sql in KEEP_IMAGE:
        db.execute(sql)


def _log_added(db: apsw.Connection, table: Table, added: list[str]) -> None:
    stored = [name for name in added if name in {c.name for c in table.columns}]  # replicas compute generated ones
    if stored:
        defaults = dict(rows(db, "SELECT name, dflt_value FROM pragma_table_info(?)", (table.name,)))
        db.execute(log_added_columns(table, stored, [defaults[name] for name in stored]))


def _has_rows(db: apsw.Connection, table: Table) -> bool:
    return bool(one(db, f"SELECT EXISTS(SELECT 1 FROM {identifier(table.name)})"))


def _masks_after(db: apsw.Connection, change: Explanation) -> list[str]:
    """The masked columns under the names that they have now."""
    names = {f"{change.tables[t]}.{old}".lower(): f"{t}.{now}" for t, pairs in change.columns.items() for now, old in pairs if old}
    return [names[mask.lower()] for mask in masks_of(db) if mask.lower() in names]


def _is_visible(change: Explanation, before: Image, after: Image) -> bool:
    return schema_list(before) != schema_list(after) or any(new != old for new, old in change.tables.items())


def _summary(change: Explanation, before: Image, after: Image) -> str:
    """The change in words, for the audit."""
    parts = [f"table {old} renamed to {new}" for new, old in change.tables.items() if new != old]
    parts += [f"table {name} created" for name in change.new_tables]
    parts += [f"table {name} dropped" for name in before.of_application("table") if name not in change.tables.values()]
    for table, pairs in change.columns.items():
        names = {old for _, old in pairs}
        parts += [f"column {table}.{new} added" for new, old in pairs if old is None]
        parts += [f"column {table}.{old} renamed to {new}" for new, old in pairs if old not in (None, new)]
        parts += [f"column {table}.{name} dropped" for name, _ in before.columns[change.tables[table]] if name not in names]
    for kind in ("index", "view", "trigger"):
        old, new = before.of_application(kind), after.of_application(kind)
        parts += [f"{kind} {name} created" for name in new if name not in old]
        parts += [f"{kind} {name} dropped" for name in old if name not in new]
        parts += [f"{kind} {name} changed" for name in new if name in old and new[name][1] != old[name][1]]
    return "; ".join(parts) or "definition changed"
