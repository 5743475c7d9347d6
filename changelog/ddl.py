"""What happened to a schema: explained statement by statement from two images of it, or not explained, and then never guessed.

An image is taken whenever the capture is complete, and kept in changelog_meta. Every DDL statement raises SQLite's schema_version by
exactly one (3.40 to 3.54), so an explanation is complete when it has as many statements as the version has moved; one more may be a
VACUUM, which leaves no trace in the schema. What went on unseen (triggers taken away and put back, a table rebuilt) makes the count wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import apsw

from changelog.connection import one
from changelog.layout import IMAGE_SQL
from changelog.schema import is_ours
from changelog.triggers import OUR_TRIGGER

_TRIGGERS_A_TABLE = 5
_STATISTICS = re.compile(r"sqlite_stat\d")

ColumnMap = list[tuple[str, str | None]]  # (name now, name before or None), in order


@dataclass(frozen=True)
class Image:
    """A schema at one moment: objects as (type, name, table, sql) in the order of their creation, columns as (name, hidden)."""

    version: int
    objects: tuple[tuple[str, str, str, str], ...]
    columns: dict[str, list[tuple[str, int]]]
    roots: dict[str, int]
    shadows: frozenset[str]  # tables that belong to a virtual one

    @classmethod
    def of(cls, db: apsw.Connection) -> Image:
        """The image of this database as it is."""
        return cls.parse(one(db, IMAGE_SQL))

    @classmethod
    def parse(cls, text: str) -> Image:
        """The image that IMAGE_SQL gave."""
        facts = json.loads(text)
        columns = {name: [(c, hidden) for c, hidden in found] for name, found in facts["columns"].items()}
        objects = tuple(map(tuple, facts["objects"]))
        shadows = facts["shadows"] if "shadows" in facts else _named_like_shadows(objects)  # an older image
        return cls(facts["version"], objects, columns, facts["roots"], frozenset(shadows))

    def of_application(self, kind: str) -> dict[str, tuple[str, str]]:
        """The objects of one type that are not ours: (table, sql) by name."""
        return {
            name: (table, sql)
            for type_, name, table, sql in self.objects
            if type_ == kind and not is_ours(kind, name) and not name.startswith("sqlite_")
        }

    @property
    def statistics(self) -> bool:
        """Whether ANALYZE has made its tables."""
        return any(_STATISTICS.match(name) for name in self.roots)


@dataclass
class Explanation:
    """How one schema became another."""

    tables: dict[str, str] = field(default_factory=dict)  # name now -> name before, of those that went on
    columns: dict[str, ColumnMap] = field(default_factory=dict)  # of those tables, by the name now
    new_tables: list[str] = field(default_factory=list)
    statements: int = 0  # that it took
    needs_quiet: bool = False  # exact only if nothing was written meanwhile: a unique index or a trigger that capture did not know yet
    vacuumed: bool = False


class Unexplained(Exception):
    """The schema changed in a way that only a new epoch can follow; the text says what was met."""


def last_image(db: apsw.Connection) -> Image | None:
    """The schema when the capture was last complete."""
    text = one(db, "SELECT value FROM changelog_meta WHERE name='schema'")
    return None if text is None else Image.parse(text)


def explain(before: Image, after: Image, by_roots: bool = False) -> Explanation:
    """The statements between two images. Raises Unexplained.

    Tables are followed by our triggers, which go where their table goes; `by_roots` follows them by root page instead, which is sound
    only around a single statement.
    """
    found = Explanation()
    _follow_tables(found, before, after, by_roots)
    _follow_columns(found, before, after)
    _follow_others(found, before, after)
    found.statements += after.statistics and not before.statistics
    unseen = after.version - before.version - found.statements
    if unseen not in (0, 1):
        raise Unexplained(f"{after.version - before.version} statements changed the schema, and {found.statements} of them can be seen")
    found.vacuumed = unseen == 1
    return found


def _follow_tables(found: Explanation, before: Image, after: Image, by_roots: bool) -> None:
    old, new = before.of_application("table"), after.of_application("table")
    if _virtual(old) != _virtual(new):
        raise Unexplained("a virtual table changed")
    if by_roots:
        named = {before.roots[name]: name for name in old}
        ordinary = [name for name in new if name not in after.shadows and name not in _virtual(new)]
        origins = {name: named[after.roots[name]] for name in ordinary if after.roots[name] in named}
    else:
        origins = _origins(after)
    for name in new:
        origin = origins.get(name)
        if origin in old:
            found.tables[name] = origin
            found.statements += name != origin
        elif name in old and name not in origins.values() and not _virtual({name: new[name]}) and name not in after.shadows:
            raise Unexplained(f"table {name} was without our triggers")
        elif name not in after.shadows and not _virtual({name: new[name]}):
            found.new_tables.append(name)
            found.statements += 1
    found.statements += _cycles({old_name: name for name, old_name in found.tables.items() if name != old_name})
    gone = [name for name in old if name not in found.tables.values() and name not in before.shadows and not _virtual({name: old[name]})]
    found.statements += len(gone)


def _cycles(renamed: dict[str, str]) -> int:
    """How often tables changed names with each other: each time it takes one name in passing, and so one statement more."""
    count, seen = 0, set[str]()
    for start in renamed:
        name, path = start, set[str]()
        while name in renamed and name not in seen:
            seen.add(name)
            path.add(name)
            name = renamed[name]
        count += name in path
    return count


def _origins(image: Image) -> dict[str, str]:
    """For each table with our triggers: the name that it had when they were made. Raises Unexplained where some are missing."""
    seen: dict[str, list[str]] = {}
    for kind, name, table, _ in image.objects:
        match = OUR_TRIGGER.fullmatch(name) if kind == "trigger" else None
        if match:
            seen.setdefault(table, []).append(match[1])
    for table, names in seen.items():
        if len(names) != _TRIGGERS_A_TABLE or len(set(names)) != 1:
            raise Unexplained(f"table {table} has lost some of our triggers")
    return {table: names[0] for table, names in seen.items()}


def _virtual(tables: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: sql for name, (_, sql) in tables.items() if re.match(r"\s*CREATE\s+VIRTUAL\b", sql, re.IGNORECASE)}


def _named_like_shadows(objects: Sequence[tuple[str, ...]]) -> list[str]:
    """The tables whose names begin with that of a virtual one."""
    tables = {name: (name, sql) for kind, name, _, sql in objects if kind == "table"}
    return [name for name in tables if any(name.startswith(f"{v}_") for v in _virtual(tables))]


def _follow_columns(found: Explanation, before: Image, after: Image) -> None:
    for name, origin in found.tables.items():
        old, new = before.columns[origin], after.columns[name]
        if len(new) < len(old):
            found.columns[name] = _without_dropped(name, old, new)
            found.statements += len(old) - len(new)
            continue
        if [hidden for _, hidden in old] != [hidden for _, hidden in new[: len(old)]]:
            raise Unexplained(f"the columns of table {name} are others now")
        pairs: ColumnMap = [(c, o) for (c, _), (o, _) in zip(new, old, strict=False)]
        found.columns[name] = pairs + [(c, None) for c, _ in new[len(old) :]]
        found.statements += len(new) - len(old) + sum(c != o for c, o in pairs)


def _without_dropped(table: str, old: list[tuple[str, int]], new: list[tuple[str, int]]) -> ColumnMap:
    left = [column for column in old if column in new]
    if left != new:
        raise Unexplained(f"columns of table {table} were dropped and others changed")
    return [(c, c) for c, _ in new]


def _follow_others(found: Explanation, before: Image, after: Image) -> None:
    """Indexes, views and triggers of the application: those that are new, gone, or made anew."""
    renamed = any(n != o for n, o in found.tables.items()) or any(n != o and o for c in found.columns.values() for n, o in c)
    names = {origin: name for name, origin in found.tables.items()}
    for kind in ("index", "view", "trigger"):
        old, new = before.of_application(kind), after.of_application(kind)
        for name, (table, sql) in new.items():
            created = name not in old
            # A rename rewrites the text of what mentions the name, in the same statement.
            replaced = not created and sql != old[name][1] and not renamed
            found.statements += created + 2 * replaced
            if (created or replaced) and table not in found.new_tables:
                found.needs_quiet |= kind == "trigger" or (kind == "index" and _is_unique(sql))
        kept_places = {*names, *(n for n in before.of_application("view") if n in after.of_application("view"))}
        found.statements += sum(name not in new and (kind == "view" or table in kept_places) for name, (table, _) in old.items())


def _is_unique(sql: str) -> bool:
    return bool(re.match(r"\s*CREATE\s+UNIQUE\b", sql, re.IGNORECASE))


def schema_list(image: Image) -> list[tuple[str, str, str, str]]:
    """What an X row carries of an image: the application's objects in the order of their creation."""
    return [
        (kind, name, table, sql) for kind, name, table, sql in image.objects if not is_ours(kind, name) and not name.startswith("sqlite_")
    ]
