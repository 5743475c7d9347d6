"""Making a database a primary, keeping it one when its schema changes, and undoing it.

Every installation begins a new epoch that descends from the one before: whatever was written while our triggers were not all there cannot
be in the log, and nothing tells whether there was any. A replica of the old epoch then takes one snapshot, and history goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import apsw

from changelog import layout, triggers
from changelog.connection import one, rows
from changelog.errors import CannotCapture, NotAPrimary
from changelog.schema import Table, identifier, is_ours, literal, read_tables

logger = logging.getLogger(__name__)

Generations = dict[str, dict[int, list[tuple[str, bool]]]]

_LOG_COLUMNS = "seq,at,nonce,actor,tbl,op,key,gen,chg,rid,orid"


def is_installed(db: apsw.Connection) -> bool:
    """Whether this database is a primary."""
    ours = """SELECT count(*)=2 FROM sqlite_schema WHERE type='table' AND (
      sql GLOB 'CREATE TABLE changelog(seq INTEGER PRIMARY KEY*' OR sql GLOB 'CREATE TABLE changelog_meta(name TEXT, value, seq*')"""
    return bool(one(db, ours)) and bool(one(db, "SELECT 1 FROM changelog_meta WHERE name='epoch'"))


def install(db: apsw.Connection, masks: Sequence[str] | None = None) -> None:
    """Make `db` a primary, or renew it, under a new epoch: whole or not at all.

    `masks` are "table.column" names that people's views show as ***; None keeps those of before. Raises CannotCapture, naming the reason.
    The file is put into WAL mode, in which readers and the one writer do not wait for each other.
    """
    with db:
        begin_epoch(db, masks)
    db.pragma("journal_mode", "wal")


def schema_moved(db: apsw.Connection) -> bool:
    """Whether any DDL (or VACUUM) ran since we last looked: capture may have been incomplete, so nothing is served before `reconcile`.

    Raises NotAPrimary.
    """
    if db.table_exists("main", "changelog_position"):
        raise NotAPrimary("this file is a replica: what it holds is written on its primary")
    known = one(db, "SELECT value FROM changelog_meta WHERE name='schema_version'") if is_installed(db) else None
    if known is None:
        raise NotAPrimary
    return known != db.pragma("schema_version")


def in_doubt(db: apsw.Connection) -> bool:
    """Whether a trigger of ours could not log exactly what happened: nothing is served before `reconcile` has begun a new epoch."""
    return one(db, "SELECT value FROM changelog_meta WHERE name='schema_version'") == layout.DOUBT


def in_wal_mode(db: apsw.Connection) -> bool:
    """Whether the file is in WAL mode, on which readers beside a writer and durable serving rest."""
    return db.pragma("journal_mode") == "wal"


@contextmanager
def schema_changes(db: apsw.Connection) -> Iterator[None]:
    """A transaction in which the block may run any DDL: our triggers are away meanwhile and come back under a new epoch."""
    with db:
        drop_triggers(db)
        yield
        begin_epoch(db, None)


def uninstall(db: apsw.Connection) -> None:
    """Take every trace of the changelog out of `db`, its history included. Raises NotAPrimary: what only has our names is not ours."""
    if not is_installed(db):
        raise NotAPrimary
    with db:
        drop_triggers(db)
        for kind, name in rows(db, "SELECT type, name FROM sqlite_schema WHERE type IN ('table','view') ORDER BY type DESC"):
            if is_ours(kind, name):
                db.execute(f"DROP {kind} {identifier(name)}")


def script(tables: Sequence[Table], masks: Sequence[str]) -> str:
    """The text of a triggers.sql for these tables: `sqlite3 FILE < triggers.sql` does what `install` does, or stops and changes nothing."""
    slots = layout.slots_for(tables)
    guards = [f"{sql};" for sql in _script_guards(tables, slots)]
    lines = [".bail on", *guards, "PRAGMA journal_mode=WAL;", "BEGIN IMMEDIATE;"]
    statements = [*layout.log_tables(slots), *_captured(tables, masks, slots), *layout.NEW_EPOCH, *layout.KEEP_IMAGE]
    lines += [f"{sql};" for sql in statements]
    return "\n".join([*lines, "COMMIT;", ""])


def begin_epoch(db: apsw.Connection, masks: Sequence[str] | None) -> None:
    """What `install` does, within a transaction."""
    _refuse_taken_names(db)
    drop_triggers(db)
    db.execute("DROP TABLE IF EXISTS changelog_position")  # a replica that is made a primary follows nobody any more
    tables = read_tables(db)
    if masks is None:
        masks = _masks_kept(db, tables)
    _check_masks(tables, masks)
    _check_known(db, tables)
    slots = _fit_log(db, tables)
    for sql in [*_captured(tables, masks, slots, _generations(db)), *layout.NEW_EPOCH, *layout.KEEP_IMAGE]:
        db.execute(sql)


def capture_again(db: apsw.Connection, masks: Sequence[str]) -> list[Table]:
    """Within a transaction: triggers, views and names of slots for the schema as it is now, and no new epoch. Returns the tables."""
    drop_triggers(db)
    tables = describe(db, masks)
    for table in tables:
        for sql in triggers.table_triggers(table):
            db.execute(sql)
    return tables


def describe(db: apsw.Connection, masks: Sequence[str]) -> list[Table]:
    """Within a transaction: all but the triggers, as a replica has it. Returns the tables."""
    tables = read_tables(db)
    describe_as(db, tables, masks)
    return tables


def describe_as(db: apsw.Connection, tables: Sequence[Table], masks: Sequence[str]) -> None:
    """The same for tables that may be elsewhere: a file that holds a log alone has views of it, too."""
    for name in views_of_tables(db):
        db.execute(f"DROP VIEW {identifier(name)}")
    for sql in _described(tables, masks, _fit_log(db, tables), _generations(db)):
        db.execute(sql)


def masks_of(db: apsw.Connection) -> list[str]:
    """The masked columns, as table.column."""
    return [m for (m,) in rows(db, "SELECT value FROM changelog_meta WHERE name='mask'")] if is_installed(db) else []


def views_of_tables(db: apsw.Connection) -> list[str]:
    """Our views changelog_of_..."""
    return [name for (name,) in rows(db, "SELECT name FROM sqlite_schema WHERE type='view'") if is_ours("view", name)]


def _fit_log(db: apsw.Connection, tables: Sequence[Table]) -> int:
    """Log tables with enough slots; returns how many there are."""
    for sql in layout.log_tables(layout.slots_for(tables)):
        db.execute(sql)
    return widen(db, layout.slots_for(tables))


def _generations(db: apsw.Connection) -> Generations:
    """The column lists that log rows may follow, by table and gen."""
    found: Generations = {}
    for tbl, gen, col, mask in rows(db, "SELECT tbl, gen, col, mask FROM changelog_cols ORDER BY tbl, gen, pos"):
        found.setdefault(tbl, {}).setdefault(gen, []).append((col, bool(mask)))
    return found


def _described(tables: Sequence[Table], masks: Sequence[str], slots: int, known: Generations | None = None) -> list[str]:
    statements = ["DELETE FROM changelog_stash", "DELETE FROM changelog_meta WHERE name='mask'"]
    statements += [f"INSERT INTO changelog_meta(name,value) VALUES('mask',{literal(m)})" for m in masks]
    statements += layout.audit_view(slots)
    for table in tables:
        statements += [*layout.column_rows(table, masks), *layout.table_view(table, masks, (known or {}).get(table.name))]
    return statements


def _captured(tables: Sequence[Table], masks: Sequence[str], slots: int, known: Generations | None = None) -> list[str]:
    """Views, names of slots and triggers. Each statement can run again on a database that has it already."""
    statements = _described(tables, masks, slots, known)
    for table in tables:
        # New, so they fire before every other trigger of the table: only then the log keeps the true order.
        statements += [*triggers.drop_triggers(table), *triggers.table_triggers(table)]
    return statements


def _script_guards(tables: Sequence[Table], slots: int) -> list[str]:
    """Plain SQL that fails where triggers.sql does not fit the file, of which nothing is changed by then, not even the journal mode.

    Only the name of a constraint can say what to do.
    """
    expected = ",".join(f"({literal(t.name)},{literal(','.join(f'{c.name}/{c.pk}' for c in t.columns))})" for t in tables)
    ours = "'changelog','changelog_cols','changelog_meta','changelog_stash','changelog_position'"
    names = ",".join([*(literal(t.name) for t in tables), ours])
    return [
        """CREATE TEMP TABLE changelog_fits(
  free CONSTRAINT "this database has something of its own named changelog, changelog_... or _changelog_...: rename it" CHECK(free),
  ok CONSTRAINT "this triggers.sql was made for another schema. Run: python -m changelog install FILE" CHECK(ok))""",
        f"""INSERT INTO changelog_fits SELECT CASE WHEN EXISTS(SELECT 1 FROM sqlite_schema WHERE type='table' AND name LIKE 'changelog')
    THEN (SELECT group_concat(name) FROM pragma_table_info('changelog')) LIKE '{_LOG_COLUMNS},%'
    ELSE NOT EXISTS(SELECT 1 FROM sqlite_schema WHERE CASE type WHEN 'trigger' THEN name LIKE '\\_changelog\\_%' ESCAPE '\\'
      ELSE lower(name) IN ({ours},'changelog_audit') OR name LIKE 'changelog\\_of\\_%' ESCAPE '\\' END) END, NOT EXISTS(
    SELECT 1 FROM (VALUES{expected or "(NULL,NULL)"}) e WHERE e.column2 IS NOT (SELECT group_concat(name||'/'||pk) FROM (
      SELECT name, pk FROM pragma_table_xinfo(e.column1) WHERE hidden=0 ORDER BY cid)))
  AND NOT EXISTS(
    SELECT 1 FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT IN ({names}))
  AND NOT EXISTS(
    SELECT 1 FROM sqlite_schema WHERE type='trigger' AND name LIKE '\\_changelog\\_%' ESCAPE '\\' AND tbl_name NOT IN ({names}))
  AND (SELECT count(*) FROM pragma_table_info('changelog') WHERE name GLOB '[no][0-9]*') IN (0,{2 * slots})""",
        "DROP TABLE changelog_fits",
    ]


def drop_triggers(db: apsw.Connection) -> None:
    for (name,) in rows(db, "SELECT name FROM sqlite_schema WHERE type='trigger'"):
        if is_ours("trigger", name):
            db.execute(f"DROP TRIGGER {identifier(name)}")


def _refuse_taken_names(db: apsw.Connection) -> None:
    """Nothing of somebody else's under one of our names is touched. Tables, views and indexes share their names."""
    if is_installed(db):
        return
    for kind, name in rows(db, "SELECT type, name FROM sqlite_schema ORDER BY name"):
        if is_ours(kind, name) or (kind != "trigger" and (is_ours("table", name) or is_ours("view", name))):
            raise CannotCapture(f"this database has a {kind} of its own named {name}: rename it, the changelog needs that name", name=name)


def _check_known(db: apsw.Connection, tables: Sequence[Table]) -> None:
    """Preparing an INSERT meets every function and collation of a table's keys, indexes and checks; a replica must know them, too.

    But not the application's triggers: no replica runs them, and one of them may be broken since somebody dropped what it names.
    """
    enabled = db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, -1)
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    try:
        for table in tables:
            db.execute(f"EXPLAIN INSERT INTO {identifier(table.name)} DEFAULT VALUES").close()
    except apsw.SQLError as exc:
        raise CannotCapture(f"table {table.name}: {exc}; only the program that made it knows that, so no replica can follow") from exc
    finally:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, enabled)


def _masks_kept(db: apsw.Connection, tables: Sequence[Table]) -> list[str]:
    columns = {f"{t.name}.{c.name}".lower() for t in tables for c in t.columns}
    kept = masks_of(db)
    for mask in kept:
        if mask.lower() not in columns:
            logger.warning("The masked column %s is no more; if it has another name now, mask that by `python -m changelog install`", mask)
    return [mask for mask in kept if mask.lower() in columns]


def _check_masks(tables: Sequence[Table], masks: Sequence[str]) -> None:
    columns = {f"{t.name}.{c.name}".lower(): c for t in tables for c in t.columns}
    for mask in masks:
        column = columns.get(mask.lower())
        if column is None:
            raise CannotCapture(f"cannot mask {mask}: there is no such column (write it as table.column)", name=mask)
        if column.pk:
            raise CannotCapture(f"cannot mask {mask}: it is part of the key by which people find a row", name=mask)


def widen(db: apsw.Connection, slots: int) -> int:
    """Give the log `slots` value slots of each kind if it has fewer; returns how many it has then."""
    for table, kinds in (("changelog", "no"), ("changelog_stash", "o")):
        have = {name for (name,) in rows(db, "SELECT name FROM pragma_table_info(?)", (table,))}
        for name in (f"{kind}{i}" for kind in kinds for i in range(slots)):
            if name not in have:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {name}")
    return slot_count(db)


def slot_count(db: apsw.Connection) -> int:
    """How many value slots of each kind this database's log rows have."""
    return one(db, "SELECT count(*) FROM pragma_table_info('changelog') WHERE name GLOB 'n[0-9]*'")
