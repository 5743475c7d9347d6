"""What the changelog adds to a database beside its triggers, as SQL text: the log's tables, the views for people, and how an epoch begins.

Only what the sqlite3 3.40 shell of Raspberry Pi OS knows may be used: triggers.sql holds it all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from changelog.schema import Table, identifier, literal

MIN_SLOTS = 16  # so that a column more does not widen the log at once

AT = "strftime('%Y-%m-%dT%H:%M:%fZ','now')"
NONCE = "random() & 9007199254740991"  # 53 bits: exact in every JSON parser, and too many to meet by chance

DOUBT = -1  # in the place of the schema_version: a trigger met what the log cannot tell exactly

# A schema as JSON, in the SQL of 3.40 because triggers.sql takes one too. Generated columns have hidden 2 or 3.
IMAGE_SQL = """SELECT json_object(
  'version', (SELECT schema_version FROM pragma_schema_version),
  'objects', json((SELECT json_group_array(json_array(type, name, tbl_name, sql)) FROM
    (SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid))),
  'columns', json((SELECT json_group_object(name, json(cols)) FROM
    (SELECT s.name, (SELECT json_group_array(json_array(c.name, c.hidden)) FROM
      (SELECT name, hidden FROM pragma_table_xinfo(s.name) ORDER BY cid) c) AS cols FROM sqlite_schema s WHERE s.type='table'))),
  'roots', json((SELECT json_group_object(name, rootpage) FROM sqlite_schema WHERE type='table')),
  'shadows', json((SELECT json_group_array(name) FROM pragma_table_list WHERE schema='main' AND type='shadow')))"""

# The index comes and goes so that the schema_version says more statements than a dump of this file has: who plays a dump into a new file
# gets all our tables, the epoch in them, but not the rowids and not every value.
NEW_EPOCH = (
    "CREATE INDEX changelog_local_birth ON changelog_meta(name)",
    "DROP INDEX changelog_local_birth",
    "INSERT INTO changelog_meta(name,value,seq)"
    " SELECT 'ancestor',value,(SELECT max(seq) FROM changelog) FROM changelog_meta WHERE name='epoch'",
    "DELETE FROM changelog_meta WHERE name='epoch'",
    f"INSERT INTO changelog(at,nonce,op,key) VALUES({AT},{NONCE},'B',lower(hex(randomblob(16))))",
    "INSERT INTO changelog_meta(name,value,seq) SELECT 'epoch',key,seq FROM changelog ORDER BY seq DESC LIMIT 1",
)

# Last, after all DDL of ours: a schema_version that moves from here on means that somebody else changed the schema.
KEEP_IMAGE = (
    "DELETE FROM changelog_meta WHERE name IN ('schema_version','schema')",
    "INSERT INTO changelog_meta(name,value) SELECT 'schema_version',schema_version FROM pragma_schema_version",
    f"INSERT INTO changelog_meta(name,value) SELECT 'schema',({IMAGE_SQL})",
)


def slots_for(tables: Iterable[Table]) -> int:
    """How many value slots a log row needs."""
    return max([MIN_SLOTS, *(len(t.columns) for t in tables)])


def slot_names(slots: int) -> list[str]:
    """n0..nK, o0..oK."""
    return [f"{kind}{i}" for kind in "no" for i in range(slots)]


def log_tables(slots: int) -> list[str]:
    """The changelog and its three companions.

    seq without AUTOINCREMENT: that would write the page of sqlite_sequence at every commit, a third of all the bytes. The next seq is the
    greatest one plus 1, so it never goes back as long as the head row stays (trimming keeps it); if somebody deletes it, the nonces tell.
    """
    old = ",".join(f"o{i}" for i in range(slots))
    return [
        f"""CREATE TABLE IF NOT EXISTS changelog(seq INTEGER PRIMARY KEY, at TEXT, nonce INTEGER, actor TEXT,
  tbl TEXT, op TEXT, key, gen INTEGER, chg TEXT, rid INTEGER, orid INTEGER,
  {",".join(slot_names(slots))})""",
        "CREATE TABLE IF NOT EXISTS changelog_cols(tbl TEXT, gen INTEGER, pos INTEGER, col TEXT, pk INTEGER, mask INTEGER,"
        " PRIMARY KEY(tbl, gen, pos)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS changelog_meta(name TEXT, value, seq INTEGER)",
        f"CREATE TABLE IF NOT EXISTS changelog_stash(tbl TEXT, rid INTEGER, {old})",
    ]


def column_rows(table: Table, masks: Sequence[str]) -> list[str]:
    """The statements that name the slots of `table` for people and for other programs."""
    masked = {m.lower() for m in masks}
    rows = ",".join(
        f"({literal(table.name)},{table.gen},{pos},{literal(c.name)},{c.pk},{int(f'{table.name}.{c.name}'.lower() in masked)})"
        for pos, c in enumerate(table.columns)
    )
    return [f"INSERT OR REPLACE INTO changelog_cols(tbl,gen,pos,col,pk,mask) VALUES{rows}"]


def audit_view(slots: int) -> list[str]:
    """changelog_audit: one row per changed column, for people."""

    def side(kind: str) -> str:
        cases = " ".join(f"WHEN {i} THEN l.{kind}{i}" for i in range(slots))
        value = f"CASE c.pos {cases} END"
        return f"CASE WHEN c.mask AND {value} IS NOT NULL THEN '***' ELSE {value} END"

    return [
        "DROP VIEW IF EXISTS changelog_audit",
        f"""CREATE VIEW changelog_audit AS SELECT l.seq, l.at, coalesce(l.actor,'unknown writer') AS actor, l.tbl, l.op, l.key, c.col,
  {side("o")} AS old,
  {side("n")} AS new
  FROM changelog l LEFT JOIN changelog_cols c ON c.tbl=l.tbl AND c.gen=l.gen
  WHERE l.op IN ('I','D','X') OR (l.op='U' AND substr(l.chg,c.pos+1,1)='1')""",
    ]


def table_view(table: Table, masks: Sequence[str], earlier: Mapping[int, Sequence[tuple[str, bool]]] | None = None) -> list[str]:
    """changelog_of_<table>: its changes with the real column names, the old value beside the new one.

    `earlier` holds the (column, masked) lists of the generations before; of their columns those that are still there are shown.
    """
    masked = {m.lower() for m in masks}
    now = [(c.name, f"{table.name}.{c.name}".lower() in masked) for c in table.columns]
    hidden = {name for name, hide in now if hide}
    generations = {table.gen: now} | {gen: found for gen, found in (earlier or {}).items() if gen != table.gen}
    selects = []
    for gen, columns in generations.items():
        places = {name.lower(): (pos, hide or name in hidden) for pos, (name, hide) in enumerate(columns)}
        pairs = ",\n  ".join(_pair(name, places.get(name.lower())) for name, _ in now)
        selects.append(
            f"SELECT seq, at, coalesce(actor,'unknown writer') AS actor, op, key, chg,\n  {pairs}\n"
            f"  FROM changelog WHERE tbl={literal(table.name)} AND gen={gen}"
        )
    name = identifier("changelog_of_" + table.name)
    return [f"DROP VIEW IF EXISTS {name}", f"CREATE VIEW {name} AS " + "\n  UNION ALL ".join(selects)]


def _pair(name: str, place: tuple[int, bool] | None) -> str:
    """A column's new and old value, from its slots in one generation; NULL where it did not exist."""
    pos, hide = place or (None, False)
    slots = ["NULL" if pos is None else f"CASE WHEN {kind}{pos} IS NOT NULL THEN '***' END" if hide else f"{kind}{pos}" for kind in "no"]
    return f"{slots[0]} AS {identifier(name)}, {slots[1]} AS {identifier('old_' + name)}"


def log_ddl(change: str, summary: str) -> tuple[str, tuple[str, str]]:
    """The statement, with its values, that writes an X row: `change` is what replicas repeat, `summary` what people read."""
    return f"INSERT INTO changelog(at,nonce,op,key,n0) VALUES({AT},{NONCE},'X',?,?)", (summary, change)
