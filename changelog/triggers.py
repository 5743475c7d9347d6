"""The five triggers that log every change of a table, as SQL text.

Everything here runs inside whatever program writes to the database, down to the sqlite3 3.40 shell of Raspberry Pi OS, so only its
functions may be used, and nothing that we write may be able to fail: the writer's own conflict clause (OR ABORT, OR IGNORE ...) overrides
ours, hence no constraint on any table that a trigger writes.

Why BEFORE triggers: a REPLACE deletes rows without firing a delete trigger (recursive_triggers is off by default, and the writer decides).
So BEFORE sets aside every row that could be killed, and AFTER logs as deleted those that are really gone. A row may stay set aside when
its statement was ignored or became an UPSERT: AFTER UPDATE keeps it true, AFTER DELETE drops it, and only the newest few are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from changelog.layout import AT, DOUBT, NONCE
from changelog.schema import Column, Table, UniqueKey, identifier, literal

_FACTS = "at,nonce,tbl,op,key,gen"

# SQLite's own "error in trigger NAME after drop column" can carry nothing but the trigger's name, so the name says what to do.
_HINT = " (to drop a column: python -m changelog ddl FILE SQL)"
OUR_TRIGGER = re.compile(rf"_changelog_(?:ai|au|ad|bi|bu)_(.*){re.escape(_HINT)}", re.DOTALL)  # group 1: the table, as it was named then


def log_all_rows(table: Table) -> str:
    """The statement that logs every row of a table that has just appeared."""
    columns = ",".join(f"n{i}" for i in range(len(table.columns)))
    values = ",".join(f"x.{identifier(c.name)}" for c in table.columns)
    rid, rid_value = _rowid_slots(table, "rid", "x")
    facts = _facts(table, "I", "x")
    return f"INSERT INTO changelog({_FACTS}{rid},{columns}) SELECT {facts}{rid_value},{values} FROM {identifier(table.name)} x"


def log_added_columns(table: Table, added: Sequence[str], defaults: Sequence[str | None]) -> str:
    """The statement that logs, as updates, the rows whose value in a new column is not the default: a replica gives them that."""
    changed = "".join(str(int(c.name in added)) for c in table.columns)
    new = ",".join(f"x.{identifier(c.name)}" for c in table.columns)
    old = ",".join(f"x.{identifier(c.name)}" if i in table.key_slots else "NULL" for i, c in enumerate(table.columns))
    columns = ",".join(f"{kind}{i}" for kind in "no" for i in range(len(table.columns)))
    rid, rid_value = _rowid_slots(table, "rid", "x")
    orid, orid_value = _rowid_slots(table, "orid", "x")
    free = {c.name for c in table.columns if c.affinity == "BLOB"}
    tests = " OR ".join(_is_not_default(name, default, name in free) for name, default in zip(added, defaults, strict=True))
    return (
        f"INSERT INTO changelog({_FACTS},chg{rid}{orid},{columns})"
        f" SELECT {_facts(table, 'U', 'x')},'{changed}'{rid_value}{orid_value},{new},{old} FROM {identifier(table.name)} x WHERE {tests}"
    )


def _is_not_default(name: str, default: str | None, free: bool) -> str:
    value = f"({default})" if default is not None else "NULL"
    test = f"x.{identifier(name)} IS NOT {value} COLLATE BINARY"
    return f"{test} OR typeof(x.{identifier(name)})<>typeof({value})" if free else test


def table_triggers(table: Table) -> list[str]:
    """The five CREATE TRIGGER statements of `table`."""
    return [_after_insert(table), _after_update(table), _after_delete(table), _before_insert(table), _before_update(table)]


def drop_triggers(table: Table) -> list[str]:
    """The statements that take them away, if they are there."""
    return [f"DROP TRIGGER IF EXISTS {_trigger_name(table, kind)}" for kind in ("ai", "au", "ad", "bi", "bu")]


def _trigger_name(table: Table, kind: str) -> str:
    return identifier(f"_changelog_{kind}_{table.name}{_HINT}")


def _create(table: Table, kind: str, event: str, when: str, body: Sequence[str]) -> str:
    lines = "".join(f"\n  {statement};" for statement in body)
    return f"CREATE TRIGGER {_trigger_name(table, kind)} {event} ON {identifier(table.name)}{when} BEGIN{lines}\nEND"


def _after_insert(table: Table) -> str:
    values = ",".join(f"NEW.{identifier(c.name)}" for c in table.columns)
    columns = ",".join(f"n{i}" for i in range(len(table.columns)))
    rid, rid_value = _rowid_slots(table, "rid", "NEW")
    log = f"INSERT INTO changelog({_FACTS}{rid},{columns}) VALUES({_facts(table, 'I', 'NEW')}{rid_value},{values})"
    return _create(table, "ai", "AFTER INSERT", "", [*_log_killed(table, "NEW"), log])


def _after_update(table: Table) -> str:
    changed = [_differs(c) for c in table.columns]
    new = ",".join(f"NEW.{identifier(c.name)}" for c in table.columns)
    old = ",".join(
        f"OLD.{identifier(c.name)}" if i in table.key_slots else f"CASE WHEN {changed[i]} THEN OLD.{identifier(c.name)} END"
        for i, c in enumerate(table.columns)
    )
    columns = ",".join(f"{kind}{i}" for kind in "no" for i in range(len(table.columns)))
    rid, rid_value = _rowid_slots(table, "rid", "NEW")
    orid, orid_value = _rowid_slots(table, "orid", "OLD")
    log = (
        f"INSERT INTO changelog({_FACTS},chg{rid}{orid},{columns})"
        f" VALUES({_facts(table, 'U', 'OLD')},{_joined(changed)}{rid_value}{orid_value},{new},{old})"
    )
    return _create(table, "au", "AFTER UPDATE", "", [*_log_killed(table, "NEW", but_old=True), _keep_aside(table), log, *_doubt(table)])


def _after_delete(table: Table) -> str:
    values = ",".join(f"OLD.{identifier(c.name)}" for c in table.columns)
    columns = ",".join(f"o{i}" for i in range(len(table.columns)))
    orid, orid_value = _rowid_slots(table, "orid", "OLD")
    log = f"INSERT INTO changelog({_FACTS}{orid},{columns}) VALUES({_facts(table, 'D', 'OLD')}{orid_value},{values})"
    forget = f"DELETE FROM changelog_stash WHERE tbl={literal(table.name)} AND {_stashed(table, 'OLD')}"
    # What a REPLACE killed may by its foreign keys' actions have taken the row with it that was to take its place: then no AFTER comes.
    killed = _log_killed(table, None) if table.actions.on_delete and table.actions.revisit else []
    return _create(table, "ad", "AFTER DELETE", "", [log, forget, *killed])


def _before_insert(table: Table) -> str:
    conditions = _conflicts(table)
    return _create(table, "bi", "BEFORE INSERT", _when(table, conditions), _set_aside(table, conditions))


def _before_update(table: Table) -> str:
    conditions = [f"{c} AND NOT ({_same(table, 'x', 'OLD')})" for c in _conflicts(table)]
    event = "BEFORE UPDATE"
    if all(u.plain for u in table.uniques):  # else a term may depend on any column
        taken = {c.name.lower() for c in table.all_columns}
        # An UPDATE may name the rowid by any of its names, and `UPDATE OF` matches only what it lists.
        names = [] if table.rowid is None else [n for n in ("rowid", "_rowid_", "oid") if n not in taken]
        listed = dict.fromkeys([*(t for u in table.uniques for t, _ in u.terms), *([identifier(table.ipk)] if table.ipk else []), *names])
        event += f" OF {','.join(listed)}"
    return _create(table, "bu", event, _when(table, conditions), _set_aside(table, conditions))


def _log_killed(table: Table, new: str | None, *, but_old: bool = False) -> list[str]:
    """Log as deleted what was set aside and is gone: its key is that of `new` now, or nobody's. The row being updated is not gone."""
    vanished = f"NOT EXISTS(SELECT 1 FROM {identifier(table.name)} y WHERE {_stashed(table, 'y')})"
    gone = f"({_stashed(table, new)} OR {vanished})" if new else vanished
    killed = f"changelog_stash.tbl={literal(table.name)} AND {gone}"
    if but_old:
        killed += f" AND NOT ({_stashed(table, 'OLD')})"
    columns = ",".join(f"o{i}" for i in range(len(table.columns)))
    orid, orid_value = (",orid", ",rid") if table.keyed_by_rowid else ("", "")
    facts = _facts(table, "D", None)
    return [
        f"INSERT INTO changelog({_FACTS}{orid},{columns}) SELECT {facts}{orid_value},{columns} FROM changelog_stash WHERE {killed}",
        f"DELETE FROM changelog_stash WHERE {killed}",
    ]


def _keep_aside(table: Table) -> str:
    """A row set aside is kept as it now is: an application's trigger may change it before the statement that kills it goes on."""
    assigned = [f"o{i}=NEW.{identifier(c.name)}" for i, c in enumerate(table.columns)]
    if table.rowid:
        assigned.append(f"rid=NEW.{identifier(table.rowid)}")
    return f"UPDATE changelog_stash SET {','.join(assigned)} WHERE tbl={literal(table.name)} AND {_stashed(table, 'OLD')}"


def _doubt(table: Table) -> list[str]:
    """Ask for a new epoch where the row is not as this trigger was told.

    The actions of foreign keys run before AFTER triggers: one that comes back to the row which is being updated (it refers to itself, or
    a trigger on those that refer to it writes here) has been logged before the update that caused it.
    """
    if not table.actions.revisit or not table.actions.followed:
        return []
    moved = " OR ".join(f"OLD.{name} IS NOT NEW.{name} COLLATE BINARY" for name in map(identifier, table.actions.followed))
    told = " AND ".join(f"x.{identifier(c.name)} IS NEW.{identifier(c.name)} COLLATE BINARY" for c in table.columns)
    there = f"SELECT 1 FROM {identifier(table.name)} x WHERE {_same(table, 'x', 'NEW')} AND {told}"
    return [f"UPDATE changelog_meta SET value={DOUBT} WHERE name='schema_version' AND ({moved}) AND NOT EXISTS({there})"]


def _set_aside(table: Table, conditions: Sequence[str]) -> list[str]:
    rid = f"x.{identifier(table.rowid)}" if table.rowid else "NULL"
    row = ",".join([f"{rid} AS rid", *(f"x.{identifier(c.name)} AS o{i}" for i, c in enumerate(table.columns))])
    found = " UNION ".join(f"SELECT {row} FROM {identifier(table.name)} x WHERE {c}" for c in conditions)
    columns = ",".join(f"o{i}" for i in range(len(table.columns)))
    kept = 4 + 2 * len(conditions)  # what one statement and another inside it can set aside; each row kept costs every write a look-up
    known = f"SELECT 1 FROM changelog_stash e WHERE e.tbl={literal(table.name)} AND {_same_slots(table, 'e', 'c')}"
    return [
        f"DELETE FROM changelog_stash WHERE rowid<=(SELECT max(rowid) FROM changelog_stash)-{kept}",
        f"INSERT INTO changelog_stash(tbl,rid,{columns}) SELECT {literal(table.name)},c.* FROM ({found}) c WHERE NOT EXISTS({known})",
    ]


def _when(table: Table, conditions: Sequence[str]) -> str:
    return " WHEN " + " OR ".join(f"EXISTS(SELECT 1 FROM {identifier(table.name)} x WHERE {c})" for c in conditions)


def _conflicts(table: Table) -> list[str]:
    """For each thing that makes rows unique: the SQL condition under which row x stands in NEW's way."""
    values = {identifier(c.name): _new_value(c) for c in table.all_columns}
    conditions = [_conflict(u, values) for u in table.uniques]
    if table.rowid:
        rowid = identifier(table.rowid)
        conditions.insert(0, f"x.{rowid}=NEW.{rowid}")
    return conditions


def _conflict(unique: UniqueKey, values: dict[str, str]) -> str:
    if unique.plain:
        return " AND ".join(f"x.{term}={values[term]} COLLATE {identifier(coll)}" for term, coll in unique.terms)
    # Expressions stand in their own text, once over x and once over NEW dressed as a row: only so does SQLite use the index. All columns
    # stand in that row, because a generated one is NULL in BEFORE UPDATE unless its inputs are named too.
    row = "(SELECT " + ",".join(f"{value} AS {name}" for name, value in values.items()) + ")"
    tests = [f"({term})=(SELECT {term} FROM {row}) COLLATE {identifier(coll)}" for term, coll in unique.terms]
    return " AND ".join([*tests, *([f"({unique.where})"] if unique.where else [])])


def _new_value(column: Column) -> str:
    """NEW's value as it will be stored: under OR REPLACE a NULL in a NOT NULL column becomes the default."""
    new = f"NEW.{identifier(column.name)}"
    return f"coalesce({new},{column.default})" if column.notnull and column.default is not None else new


def _identity(table: Table) -> list[tuple[str, str, str]]:
    """(column, stash slot, collation) of what tells one row from another while a statement runs."""
    if table.rowid:
        return [(identifier(table.rowid), "rid", "BINARY")]
    return [(identifier(c.name), f"o{table.columns.index(c)}", c.key_collation) for c in table.primary_key]


def _same(table: Table, left: str, right: str) -> str:
    return " AND ".join(f"{left}.{column}={right}.{column} COLLATE {identifier(coll)}" for column, _, coll in _identity(table))


def _stashed(table: Table, row: str) -> str:
    """Whether the set-aside row is `row`. (DELETE in a trigger takes no alias, so the stash goes by its full name.)"""
    return " AND ".join(f"{row}.{column}=changelog_stash.{slot} COLLATE {identifier(coll)}" for column, slot, coll in _identity(table))


def _same_slots(table: Table, left: str, right: str) -> str:
    return " AND ".join(f"{left}.{slot}={right}.{slot} COLLATE {identifier(coll)}" for _, slot, coll in _identity(table))


def _rowid_slots(table: Table, slot: str, row: str) -> tuple[str, str]:
    return (f",{slot}", f",{row}.{identifier(table.rowid or '')}") if table.keyed_by_rowid else ("", "")


def _facts(table: Table, op: str, row: str | None) -> str:
    """The values for _FACTS; `row` None takes the key from the stash."""
    key = _key(table, (lambda c: f"{row}.{identifier(c.name)}") if row else (lambda c: f"o{table.columns.index(c)}"), row)
    return f"{AT},{NONCE},{literal(table.name)},'{op}',{key},{table.gen}"


def _key(table: Table, value: Callable[[Column], str], row: str | None) -> str:
    """The key as people read it: native for one column, quote()-joined for several, the rowid where none is declared."""
    if not table.primary_key:
        return f"{row}.{identifier(table.rowid or '')}" if row else "rid"
    if len(table.primary_key) == 1:
        return value(table.primary_key[0])
    return "||','||".join(f"quote({value(c)})" for c in table.primary_key)


def _differs(column: Column) -> str:
    """Whether OLD and NEW differ to the bit: 'bob' is not 'BOB' in a NOCASE column, and 1 is not 1.0."""
    name = identifier(column.name)
    collate = "" if column.collation == "BINARY" else " COLLATE BINARY"
    test = f"OLD.{name} IS NOT NEW.{name}{collate}"
    if column.affinity in ("TEXT", "REAL"):
        return f"({test})"  # under these equal values have one storage class
    test += f" OR typeof(OLD.{name})<>typeof(NEW.{name})"
    if column.affinity == "BLOB":
        test += f" OR (typeof(NEW.{name})='real' AND NEW.{name}=0)"  # 0.0 and -0.0: no function of 3.40 tells them apart
    return f"({test})"


def _joined(parts: Sequence[str]) -> str:
    """`a||b||...` as a balanced tree: a chain of 900 would pass SQLite's depth limit."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_joined(parts[:half])}||{_joined(parts[half:])})"
