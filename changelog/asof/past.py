"""A row, a table or a whole database as it was right after some seq: out of the log and what is there now.

A row that no change after that seq touched is what it is now. Of a row that was touched, the first change after the seq tells the whole
row before it (what it did not change, it names as new values); rows are not undone one change after another, so what a BEFORE trigger hid
from a later change does not matter. Where that is not enough the log before the seq is read too, backwards to the row's newest change:
in tables with triggers of an application (a seq in the midst of a statement sees what was stored, not what the trigger left to be seen),
for columns and tables that were dropped since, and for a row asked for across the birth of an epoch. A log that was trimmed, or that has a
gap, is read as far back as it is whole. Nothing is ever guessed: what neither side tells raises, naming it.

What no log row tells is taken as it is now: AUTOINCREMENT counters, user_version, application_id. Virtual tables are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apsw

from changelog.asof.histories import History, Identity, Known, LogRows, Progress, exact
from changelog.asof.lineage import Lineage, Names, Objects
from changelog.connection import connect, one, rows
from changelog.definitions import make
from changelog.errors import BadRequest, CannotRebuild, NotFound
from changelog.gaps import check_unbroken, unbroken_after
from changelog.log import head
from changelog.schema import Table, read_tables
from changelog.values import Value
from changelog.verify.digest import row_names, table_rows


class Past:
    """The database of `db`, within the caller's transaction, as it was right after `seq`. Raises HistoryTrimmed and BadRequest.

    Only tables named in `only` (all if None) can be asked for then.
    """

    def __init__(self, db: apsw.Connection, seq: int, only: str | None = None, progress: Progress = lambda done, total: None) -> None:
        self._db, self.seq, self._progress = db, seq, progress
        self._head = head(db)
        self._check_range()
        self._lineage = Lineage(db)
        self.objects, self.virtual = _without_virtual(db, self._lineage.schema_at(seq))
        self.names: Names = self._lineage.at(seq)
        self._rebirth = one(db, "SELECT min(seq) FROM changelog WHERE op='B' AND seq>?", (seq,))
        birth, self._begin = one(db, "SELECT max(seq) FROM changelog WHERE op='B' AND seq<=?", (seq,)) or 0, unbroken_after(db, seq)
        self._birth = max(birth, self._begin)  # nothing before it is of use
        # What is there now says nothing about a time before the birth of an epoch.
        self._present = {} if self._rebirth else {self._lineage.now.table(t.name): t for t in read_tables(db)}
        self.tables = {t.name: t for t in _tables_of(self.objects)}
        self._only = None if only is None else self._find(only).name
        log = LogRows(db, self._lineage, progress)
        self._histories = {number: History() for number in self._wanted()}
        log.read_after(self._histories, seq, (self._rebirth or self._head + 1) - 1)
        log.read_before(self._histories, seq, self._birth, self._looked_for())
        self._unsure_upto = self._first_statement_ends() if self._begin and self._begin == self._birth else 0

    def table(self, name: str) -> Table:
        """A table of that time, whatever the case of its name. Raises NotFound."""
        return self._find(name)

    def masked(self, table: Table) -> set[str]:
        """The columns of this table that people are not to see."""
        return {c.name for c in table.all_columns if self._lineage.is_masked(self.seq, table.name, table.gen, c.name)}

    def rows_of(self, table: Table) -> Iterator[dict[str, Value]]:
        """All rows of a table, each as the values of its stored columns, and of the rowid where that is the key; a column that is missing
        holds its default. Raises CannotRebuild."""
        number = self.names.table(table.name)
        self._check_complete(table, number)
        self._check_beginning(table, number)
        history = self._histories[number]
        present = self._present.get(number)
        if present:
            for identity, known in self._present_rows(present, number):
                if identity not in history.after:
                    yield self._row(table, identity, [known, history.before.get(identity)])
        for identity in history.after if present else dict.fromkeys([*history.before, *history.after]):
            found = [history.before.get(identity), history.after.get(identity)]
            if _exists(found):
                yield self._row(table, identity, found)

    def row(self, table: Table, identity: Identity) -> dict[str, Value] | None:
        """One row, or None where there was none. Raises CannotRebuild."""
        number = self.names.table(table.name)
        history, present = self._histories[number], self._present.get(number)
        found = [history.before.get(identity), history.after.get(identity)]
        if found[0] is None and found[1] is not None:
            self._check_beginning(table, number)
        if found == [None, None]:
            self._check_complete(table, number)
            found += [next((known for key, known in self._present_rows(present, number) if key == identity), None)] if present else []
        return self._row(table, identity, found) if _exists(found) else None

    def rows_with_key(self, table: Table, text: str, values: Sequence[Value]) -> Iterator[dict[str, Value]]:
        """The rows whose key people read as `text`, or, where it is one column, as one of `values`. Raises CannotRebuild."""
        key = [c.name for c in table.primary_key]
        if table.keyed_by_rowid and key:  # two rows may have one key: NULL, or what only the rowid tells apart
            for row in self.rows_of(table):
                if row[key[0]] in values if len(key) == 1 else self._quoted(row, key) == text:
                    yield row
        elif len(key) > 1:
            places = [c.name for c in table.columns if c.pk]
            history = self._histories[self.names.table(table.name)]
            known = {*history.before, *history.after}
            if not self._rebirth:
                present = self._present.get(self.names.table(table.name))
                known |= {identity for identity, _ in self._present_rows(present, 0)} if present else set()
            for identity in known:
                if self._quoted(dict(zip(places, identity, strict=True)), key) == text:
                    yield from filter(None, [self.row(table, identity)])
        else:
            history = self._histories[self.names.table(table.name)]
            identities_ = [(value,) for value in dict.fromkeys(values)]
            found = [identity for identity in identities_ if identity in history.before or identity in history.after]
            yield from filter(None, (self.row(table, identity) for identity in found or identities_))

    def _quoted(self, row: Mapping[str, Any], key: list[str]) -> str:
        """A key of several columns as the log shows it."""
        return one(self._db, "SELECT " + "||','||".join("quote(?)" for _ in key), tuple(row[name] for name in key))

    def identity_of(self, table: Table, row: dict[str, Value]) -> Identity:
        """What tells this row from the others."""
        if table.keyed_by_rowid:
            return (row[table.rowid or ""],)
        return exact(tuple(row[c.name] for c in table.columns if c.pk))

    def _check_range(self) -> None:
        if self.seq > self._head:
            raise BadRequest(f"seq {self.seq} is past the head, which is {self._head}")
        check_unbroken(self._db, self.seq, self._head)

    def _first_statement_ends(self) -> int:
        """The last seq that may be of the same statement as the first row of a log which does not begin at a birth.

        All that one statement logs, triggers and all, bears one time: SQLite's 'now' stands still until it is done.
        """
        first = one(self._db, "SELECT at FROM changelog WHERE seq=?", (self._begin + 1,))
        other = one(self._db, "SELECT seq FROM changelog WHERE seq>? AND at IS NOT ? ORDER BY seq LIMIT 1", (self._begin, first))
        return (other or self._head + 1) - 1

    def _check_beginning(self, table: Table, number: int) -> None:
        """Raises CannotRebuild where a row's newest change up to the seq may be trimmed, and triggers have hidden it from the next one."""
        if self.seq >= self._unsure_upto or number not in self._triggered_since():
            return
        touched = "SELECT 1 FROM changelog WHERE seq>? AND seq<=? AND (tbl=? COLLATE NOCASE OR op='X')"
        if one(self._db, touched, (self.seq, self._unsure_upto, table.name)):
            raise CannotRebuild(
                f"table {table.name}: the log begins after seq {self._begin}, perhaps in the midst of a statement, and a trigger of this"
                f" table may have changed the same rows earlier in it; from seq {self._unsure_upto} on it can be rebuilt"
            )

    def _find(self, name: str) -> Table:
        for table in self.tables.values():
            if table.name.lower() == name.lower():
                return table
        raise NotFound(f"there was no table {name} at seq {self.seq}; there were {', '.join(self.tables) or 'none'}")

    def _wanted(self) -> dict[int, Table]:
        return {self.names.table(t.name): t for t in self.tables.values() if self._only in (None, t.name)}

    def _looked_for(self) -> dict[int, bool]:
        """The tables for which the log before the seq is needed: for every row (True), or for those that were touched since (False)."""
        triggered = self._triggered_since()
        result = {}
        for number, table in self._wanted().items():
            if self._rebirth or number not in self._present or self._dropped(table, number):
                result[number] = True
            elif number in triggered:
                result[number] = False
        return result

    def _triggered_since(self) -> set[int]:
        seqs = [self.seq, *(seq for seq, _ in self._lineage.changes if seq > self.seq)]
        found = set()
        for seq in seqs:
            by_name = {name.lower(): number for name, number in self._lineage.at(seq).tables.items()}
            found |= {by_name.get(table.lower(), -1) for kind, _, table, _ in self._lineage.schema_at(seq) if kind == "trigger"}
        found |= {self.names.table(t.name) for t in self.tables.values() if t.actions}
        found |= {number for number, t in self._present.items() if t.actions}
        return found

    def _dropped(self, table: Table, number: int) -> list[str]:
        """The columns of this table that are no more."""
        present = self._present.get(number)
        now = {self._lineage.now.column(number, c.name) for c in present.columns} if present else set()
        return [c.name for c in table.columns if present and self.names.column(number, c.name) not in now]

    def _present_rows(self, table: Table, number: int) -> Iterator[tuple[Identity, Known]]:
        names = row_names(table)
        first = len(names) - len(table.columns)
        columns = [self._lineage.now.column(number, c.name) for c in table.columns]
        for row in table_rows(self._db, table):
            values = dict(zip(columns, row[first:], strict=True))
            identity = (row[0],) if table.keyed_by_rowid else exact(tuple(row[i + first] for i, c in enumerate(table.columns) if c.pk))
            yield identity, Known(values)

    def _row(self, table: Table, identity: Identity, found: Iterable[Known | None]) -> dict[str, Value]:
        """The values of one row, each from the first that has it."""
        number = self.names.table(table.name)
        sources = [known for known in found if known and known.values is not None]
        row: dict[str, Value] = {table.rowid or "": identity[0]} if table.keyed_by_rowid else {}
        for column in table.columns:
            key = self.names.column(number, column.name)
            for known in sources:
                if known.values is not None and key in known.values:
                    row[column.name] = known.values[key]
                    break
            else:
                if not any(known.written for known in sources):
                    raise CannotRebuild(self._lost_column(table, column.name))
        return row

    def _check_complete(self, table: Table, number: int) -> None:
        """Raises CannotRebuild unless every row of the table is told by the log, or there now."""
        if self._born(number):
            return
        if self._rebirth:
            raise CannotRebuild(
                f"table {table.name}: a new epoch began at seq {self._rebirth} ({self._at(self._rebirth)}), and what was written"
                f" unseen before it is not in the log; before seq {self._rebirth} only single rows that were changed can be rebuilt (--key)"
            )
        if number not in self._present:
            raise CannotRebuild(self._lost_table(table, number))

    def _born(self, number: int) -> bool:
        """Whether the whole life of a table stands in the log, from its creation to the seq."""
        for seq, change in self._lineage.changes:
            if self._birth < seq <= self.seq and number not in self._lineage.at(seq - 1).tables.values():
                created = number in self._lineage.at(seq).tables.values()
                if created and number not in [self._lineage.at(seq).tables[name] for name in change["tables"]]:
                    return True
        return False

    def _lost_table(self, table: Table, number: int) -> str:
        for seq, _ in self._lineage.changes:
            if seq > self.seq and number not in self._lineage.at(seq).tables.values():
                return (
                    f"table {table.name}: it was dropped by seq {seq} ({self._at(seq)}), and the log does not go back to"
                    " its creation, so that it does not hold all of its rows; single rows that were changed can be rebuilt (--key)"
                )
        return f"table {table.name}: it is not there any more, and the log does not say what became of it"

    def _lost_column(self, table: Table, column: str) -> str:
        number = self.names.table(table.name)
        for seq, _ in self._lineage.changes:
            if seq > self.seq and self.names.column(number, column) not in self._lineage.at(seq).columns.get(number, {}).values():
                return (
                    f"column {table.name}.{column}: it was dropped by seq {seq} ({self._at(seq)}), and there are rows whose"
                    " value in it stands nowhere in the log"
                )
        return f"column {table.name}.{column}: there are rows whose value in it stands nowhere in the log"

    def _at(self, seq: int) -> str:
        return one(self._db, "SELECT at FROM changelog WHERE seq=?", (seq,))


def _exists(found: Iterable[Known | None]) -> bool:
    """Whether the row was there: the first that knows it says so."""
    return next((known.values is not None for known in found if known), False)


def _without_virtual(db: apsw.Connection, objects: Objects) -> tuple[Objects, list[str]]:
    """A schema without its virtual tables and what belongs to them, and their names."""
    virtual = [name for kind, name, _, sql in objects if kind == "table" and re.match(r"\s*CREATE\s+VIRTUAL\b", sql, re.IGNORECASE)]
    named_like_theirs = {name for kind, name, _, _ in objects if kind == "table" and any(name.startswith(f"{v}_") for v in virtual)}
    captured = {name for (name,) in rows(db, "SELECT DISTINCT tbl FROM changelog_cols")} if named_like_theirs else set[str]()
    gone = {*virtual, *(named_like_theirs - captured)}
    return [o for o in objects if o[2] not in gone and o[1] not in gone], virtual


def _tables_of(objects: Objects) -> list[Table]:
    db = connect(":memory:", create=True, scratch=True)
    try:
        for each in objects:
            if each[0] == "table":
                make(db, each)
        return read_tables(db)
    finally:
        db.close()
