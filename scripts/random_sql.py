"""Random SQL of every kind that SQLite has, made to fit the schema that it meets: what prove_model.py writes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

import apsw

from changelog.schema import Column, Table, identifier
from scripts.fuzz_ddl import Script

NAMES = ["plain", "with space", 'quo"te', "it's", "select", "Ünï 🐄", "MiXeD", "[br]", "a;b", "tab\tin", "100", "-- no", "x.y"]
COLUMN_NAMES = ["a", "b", "group by", 'a"b', "c'd", "Order", "é", "1st", "oid", "new", "old", "tbl", "seq"]
COMMON = ["1", "2", "3", "4", "'a'", "'b'", "'B'", "NULL"]
EVERY_CLASS = [
    *("9223372036854775807", "-9223372036854775808", "9007199254740993", "1.0", "-0.0", "0.5", "9e999", "-9e999", "1e300", "5e-324"),
    *("''", "'it''s'", "'🐄'", "'1'", "'1e3'", "CAST(x'610062' AS TEXT)", "CAST(x'61ff' AS TEXT)", "CAST(x'00d8' AS TEXT)"),
    *("x''", "x'00ff'", "zeroblob(3000)", "replace(hex(zeroblob(400)), '0', 'é')", '\'{"b":"00"}\'', "TRUE"),
]
LONG_REALS = ["0.1+0.2", "1.7976931348623157e308", "2.2250738585072011e-308"]  # SQLite 3.40 makes other text of them than later ones
OR = ["", "", "OR REPLACE", "OR REPLACE", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT", "OR ROLLBACK"]
ON_CONFLICT = ["", "", "", "ON CONFLICT REPLACE", "ON CONFLICT IGNORE", "ON CONFLICT FAIL", "ON CONFLICT ROLLBACK"]
ACTIONS = ["CASCADE", "CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"]
TYPES = ["", "TEXT", "INTEGER", "REAL", "NUMERIC", "BLOB", "TEXT COLLATE NOCASE", "TEXT COLLATE RTRIM", "DATETIME", "VARCHAR(3)"]
STRICT_TYPES = ["INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY"]
MOST_TABLES = 6
MANY_COLUMNS = 200

T = TypeVar("T")


class Statements(Script):
    """Statements for the schema as it is in `db`; `chance` may be set anew before each."""

    def __init__(self, db: apsw.Connection, chance: random.Random) -> None:
        super().__init__(db, chance)
        self.version = db.pragma("schema_version")

    def name(self) -> str:
        """A name that may be free."""
        return identifier(self.random.choice(NAMES) + self.random.choice(["", "", "2"]))

    # -- rows

    def insert(self) -> str:
        """INSERT with every OR clause, of one row, many, another table's, or none but the defaults."""
        table = self._some_table()
        name, columns = identifier(table.name), self._some_columns(table)
        listed, kind = ",".join(identifier(c.name) for c in columns), self.random.random()
        start = f"{self._pick(['REPLACE', *[f'INSERT {clause}' for clause in OR]])} INTO {name}"
        if kind < 0.05:
            return f"{start} DEFAULT VALUES{self._returning()}"
        if kind < 0.13:
            other = self._some_table()
            return f"{start}({listed}) SELECT {','.join(self._read(other) for _ in columns)} FROM {identifier(other.name)} LIMIT 4"
        if kind < 0.2:
            terms = ",".join(self._pick(["x", "x % 3", self._value_for(c)]) for c in columns)
            numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 4)"
            return f"{numbers} {start}({listed}) SELECT {terms} FROM n"
        return f"{start}({listed}) VALUES{self._tuples(columns)}{self._returning()}"

    def upsert(self) -> str:
        """INSERT ON CONFLICT, with the target that a table offers, or with none."""
        table = self._some_table()
        columns = self._some_columns(table)
        targets = [f"({','.join(f'{term} COLLATE {coll}' for term, coll in u.terms)})" for u in table.uniques if u.plain]
        if table.ipk:
            targets.append(f"({identifier(table.ipk)})")
        changed = self._pick(list(table.columns))
        update = f"DO UPDATE SET {identifier(changed.name)}={self._new_value(changed)}"
        excluded = f"DO UPDATE SET {identifier(changed.name)}=excluded.{identifier(self._pick(columns).name)}"
        clauses = f"ON CONFLICT {self._pick([*targets, *targets, ''])} {self._pick([update, excluded, 'DO NOTHING'])}"
        start = f"INSERT {self._pick(OR)} INTO {identifier(table.name)}({','.join(identifier(c.name) for c in columns)})"
        return f"{start} VALUES{self._tuples(columns)} {clauses}{self._returning()}"

    def update(self) -> str:
        """UPDATE of any columns, two of them changing places now and then."""
        table = self._some_table()
        one, two = self._pick(list(table.columns)), self._pick(list(table.columns))
        if one is not two and self.random.random() < 0.2:
            assigned = f"{identifier(one.name)}={identifier(two.name)}, {identifier(two.name)}={identifier(one.name)}"
        else:
            assigned = ", ".join(f"{identifier(c.name)}={self._new_value(c)}" for c in dict.fromkeys([one, two]))
        return f"UPDATE {self._pick(OR)} {identifier(table.name)} SET {assigned}{self._where(table)}{self._returning()}"

    def change_keys(self) -> str:
        """UPDATE of what identifies rows: shifted, turned round, swapped."""
        table = self._some_table()
        key = identifier(table.primary_key[0].name if table.primary_key and self.random.random() < 0.8 else table.rowid or "rowid")
        one, two = self._pick(COMMON[:6]), self._pick(COMMON[:6])
        swap = f"{key}=CASE {key} WHEN {one} THEN {two} WHEN {two} THEN {one} ELSE {key} END"
        change = self._pick([f"{key}={key}+1", f"{key}=-{key}", f"{key}={key}||'x'", f"{key}={one}", swap, swap])
        return f"UPDATE {self._pick(OR)} {identifier(table.name)} SET {change}{self._where(table)}{self._returning()}"

    def update_from(self) -> str:
        """UPDATE FROM another table."""
        table, other = self._some_table(), self._some_table()
        changed, read = self._pick(list(table.columns)), self._read(other, "f.")
        match = f"{identifier(self._pick(list(table.columns)).name)} IS {self._read(other, 'f.')}"
        source = f"(SELECT * FROM {identifier(other.name)} LIMIT 3) f"
        return f"UPDATE {self._pick(OR)} {identifier(table.name)} AS t SET {identifier(changed.name)}={read} FROM {source} WHERE t.{match}"

    def delete(self) -> str:
        """DELETE of some rows, rarely of all."""
        table = self._some_table()
        return f"DELETE FROM {identifier(table.name)}{self._where(table, 0.96)}{self._returning()}"

    def any_write(self) -> str:
        """Any of these."""
        return self._pick([self.insert, self.insert, self.upsert, self.update, self.change_keys, self.update_from, self.delete])()

    def transaction(self) -> list[str]:
        """Writes in savepoints within savepoints, some of them undone; DDL in the middle of it now and then."""
        lines, depth = [self._pick(["BEGIN", "BEGIN IMMEDIATE", "SAVEPOINT s0"])], 0
        for _ in range(self.random.randint(2, 7)):
            kind = self.random.random()
            if kind < 0.15:
                depth += 1
                lines.append(f"SAVEPOINT s{depth}")
            elif kind < 0.3 and depth:
                lines += self._pick([[f"ROLLBACK TO s{depth}"], [f"RELEASE s{depth}"], [f"ROLLBACK TO s{depth}", f"RELEASE s{depth}"]])
                depth -= "RELEASE" in lines[-1]
            else:
                lines += self.any_ddl() if kind > 0.96 else [self.any_write()]
        return [*lines, self._pick(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"])]

    # -- schema

    def any_ddl(self) -> list[str]:
        """CREATE, ALTER or DROP of anything, VACUUM, ANALYZE, a table rebuilt, capture off and on."""
        kind = self.random.random()
        if not self.tables or (kind < 0.2 and len(self.tables) < MOST_TABLES):
            return [self.create_table()]
        if len(self.tables) >= MOST_TABLES:
            return [f"DROP TABLE {identifier(self._some_table().name)}"]
        if kind < 0.4:
            return self._pick([lambda: [self._trigger()], lambda: [self.create_index()], self.view_with_trigger])()
        return [self._ddl()]

    def drop_column(self) -> str:
        """What SQLite refuses while our triggers are there."""
        table = self._some_table()
        return f"ALTER TABLE {identifier(table.name)} DROP COLUMN {identifier(self._pick(list(table.all_columns)).name)}"

    def create_table(self) -> str:
        """Keys of every kind, constraints with conflict clauses, generated columns, foreign keys, STRICT, WITHOUT ROWID."""
        pick, chance = self._pick, self.random.random
        strict = chance() < 0.2
        names = [identifier(c) for c in self.random.sample(COLUMN_NAMES, self.random.randint(2, 5))]
        columns = {c: pick(STRICT_TYPES if strict else TYPES) for c in names}
        key, tail, options = names[0], [], ["STRICT"] if strict else []
        kind = pick(["rowid", "rowid", "counter", "single", "single not null", "pair", "without rowid", "without rowid", "none", "desc"])
        if kind in ("rowid", "counter", "desc"):
            after = {"rowid": f" {pick(ON_CONFLICT)}", "counter": " AUTOINCREMENT", "desc": " DESC"}[kind]
            columns[key] = f"INTEGER PRIMARY KEY{after}"
        elif kind.startswith("single"):
            columns[key] += (" NOT NULL" if "not null" in kind else "") + f" PRIMARY KEY {pick(ON_CONFLICT)}"
        elif kind != "none":
            tail.append(f"PRIMARY KEY({pick([f'{key}, {names[1]}', key, f'{names[1]}, {key} COLLATE NOCASE'])}) {pick(ON_CONFLICT)}")
            options += ["WITHOUT ROWID"] * (kind == "without rowid")
        for c in names[1:]:
            if chance() < 0.25:
                columns[c] += f" NOT NULL {pick(ON_CONFLICT)} DEFAULT {pick(['1', '2'])}" if "BLOB" not in columns[c] else ""
            if chance() < 0.2:
                columns[c] += f" UNIQUE {pick(ON_CONFLICT)}"
            if chance() < 0.08:
                columns[c] += f" CHECK({c} IS NOT 3)"
            if chance() < 0.3:
                columns[c] += self._reference()
        if chance() < 0.2:
            name, made = identifier("gen"), pick([f"coalesce({key}, 0) + 1", f"{names[-1]} || '.'", f"typeof({names[-1]})", f"abs({key})"])
            columns[name] = f"{'ANY' if strict else ''} AS ({made}) {pick(['STORED', 'VIRTUAL'])} {pick(['', 'UNIQUE'])}"
        if chance() < 0.02:
            columns |= {f"w{i}": "ANY" if strict else "" for i in range(MANY_COLUMNS)}
        return f"CREATE TABLE {self.name()}({', '.join([*(f'{c} {t}' for c, t in columns.items()), *tail])}) {', '.join(options)}"

    def create_index(self) -> str:
        """Unique mostly; partial, of expressions, with collations."""
        table = self._some_table()
        one, two = (identifier(self._pick(list(table.all_columns)).name) for _ in range(2))
        term = self._pick(
            [one, one, f"{one} COLLATE NOCASE", f"lower({one})", f"{one}, {two} DESC", f"abs({one})", f"typeof({one}), {two}"]
        )
        where = self._pick(["", "", f" WHERE {two} IS NOT NULL", f" WHERE {two} > 1"])
        return f"CREATE {self._pick(['UNIQUE', 'UNIQUE', ''])} INDEX {self.name()} ON {identifier(table.name)}({term}){where}"

    def view_with_trigger(self) -> list[str]:
        """A view that takes inserts, and one of them."""
        table, view = self._some_table(), self.name()
        column, name = identifier(self._pick(list(table.columns)).name), identifier(table.name)
        body = f"INSERT {self._pick(OR)} INTO {name}({column}) VALUES(NEW.{column})"
        trigger = f"CREATE TRIGGER {self.name()} INSTEAD OF INSERT ON {view} BEGIN {body}; END"
        return [f"CREATE VIEW {view} AS SELECT {column} FROM {name}", trigger, f"INSERT INTO {view} VALUES(2)"]

    def _trigger(self) -> str:
        table, other = self._some_table(), self._some_table()
        column, name = identifier(self._pick(list(table.columns)).name), identifier(other.name)
        read = identifier(self._pick(list(other.columns)).name)
        bodies = [
            *(f"SELECT RAISE({how}) WHERE NEW.{column} IS 3" for how in ("IGNORE", "ABORT, 'no'", "FAIL, 'no'", "ROLLBACK, 'no'")),
            f"INSERT OR IGNORE INTO {name}({read}) VALUES(NEW.{column})",
            f"DELETE FROM {name} WHERE {read} IS NEW.{column}",
        ]
        if other is not table:
            bodies += [f"UPDATE OR REPLACE {name} SET {read}=NEW.{column} WHERE {read} IS OLD.{column}"]
        when, event = self._pick(["BEFORE", "AFTER"]), self._pick(["INSERT", "UPDATE", "UPDATE"])
        return f"CREATE TRIGGER {self.name()} {when} {event} ON {identifier(table.name)} BEGIN {self._pick(bodies)}; END"

    def _reference(self) -> str:
        parents = [t for t in self.tables if len(t.primary_key) == 1]
        if not parents:
            return ""
        parent = self._pick(parents)
        deferred = self._pick(["", "", " DEFERRABLE INITIALLY DEFERRED"])
        target = f"{identifier(parent.name)}({identifier(parent.primary_key[0].name)})"
        return f" REFERENCES {target} ON DELETE {self._pick(ACTIONS)} ON UPDATE {self._pick(ACTIONS)}{deferred}"

    # -- parts

    def _pick(self, among: Sequence[T]) -> T:
        return self.random.choice(among)

    def _some_table(self) -> Table:
        return self._pick(self.tables)

    def _some_columns(self, table: Table) -> list[Column]:
        columns = [c for c in table.columns if c.notnull or self.random.random() < 0.8]
        return columns or [table.columns[0]]

    def _tuples(self, columns: list[Column]) -> str:
        return ",".join(f"({','.join(self._value_for(c) for c in columns)})" for _ in range(self._pick([1, 1, 1, 2, 4])))

    def _value_for(self, column: Column) -> str:
        if self.random.random() < 0.7:
            return self._pick([*COMMON[:4], "NULL"] if column.pk and column.affinity == "INTEGER" else COMMON)
        return self._pick([*EVERY_CLASS, *(LONG_REALS if self._keeps_long_reals() else [])])

    def _keeps_long_reals(self) -> bool:
        """Whether nothing here makes text of a value, which the two SQLites do differently from 15 digits on."""
        return all(u.plain for t in self.tables for u in t.uniques) and not any(c.generated for t in self.tables for c in t.all_columns)

    def _new_value(self, column: Column) -> str:
        name = identifier(column.name)
        return self._pick(
            [self._value_for(column), self._value_for(column), f"{name}||'x'", f"{name}+1", name, f"-{name}", f"CAST({name} AS BLOB)"]
        )

    def _read(self, table: Table, of: str = "") -> str:
        return of + identifier(self._pick(list(table.columns)).name)

    def _where(self, table: Table, chance: float = 0.85) -> str:
        if self.random.random() > chance:
            return ""
        column = identifier(self._pick(list(table.all_columns)).name)
        return f" WHERE {column} {self._pick(['=', '=', 'IS', '<>', '>', '<'])} {self._pick(COMMON)}"

    def _returning(self) -> str:
        return self._pick([""] * 7 + [" RETURNING *"])
