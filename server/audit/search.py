"""Finding changes: any mixture of filters costs some seeks, however long the log is and however few fit.

One index holds (table, actor, kind, changed columns) of every change. Those four have few different values, so that each combination that
occurs and fits is a stream of its own in the order of seq, and the newest of all streams are the page. Where that index is missing, or
there are too many combinations, a part of the log is walked, and the page says how far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from changelog.connection import one, rows
from changelog.values import RawText, exact_rows
from server.audit.chosen import Chosen
from server.audit.timeline import Range, Timeline
from server.indexes import CHANGES_BY_KIND
from server.show import text_of

WALKED = 20_000  # changes that are looked at one by one for one page
MOST_STREAMS = 400
EVERYTHING: Range = (0, 2**62)

Condition = tuple[str, list[Any]]  # SQL and its bindings


@dataclass(frozen=True, slots=True)
class Found:
    """The seqs of a page, the newest first, and from which seq on the log was looked through: None where that is all of it."""

    seqs: list[int]
    more: bool
    looked_from: int | None = None


def find(
    db: apsw.Connection, timeline: Timeline, chosen: Chosen, limit: int, *, below: int | None = None, above: int | None = None
) -> Found:
    """The newest `limit` changes with a seq below `below`, or the oldest ones above `above`, that fit."""
    head = one(db, "SELECT max(seq) FROM changelog") or 0
    low, high = (above or 0) + 1, (below - 1 if below is not None else head)
    ranges, known = ([(low, high)], low)
    if chosen.since is not None or chosen.until is not None:
        ranges, known = timeline.ranges(db, chosen.since, chosen.until, high)
        ranges = [(max(first, low), last) for first, last in ranges if last >= low]
    upward = above is not None
    streams = _streams(db, chosen)
    if streams is None:
        return _walked(db, chosen, limit, (low, high), upward)
    seqs: list[int] = []
    for span in reversed(ranges) if upward else ranges:
        for stream in streams:
            seqs += _newest(db, [stream, *_rest(chosen)], limit + 1, span, upward)
        if len(seqs) > limit:
            break  # the ranges come in order, so the others hold nothing that belongs on this page
    seqs.sort(reverse=not upward)
    more, page = len(seqs) > limit, seqs[:limit]
    certain = more or upward or known <= max(low, one(db, "SELECT min(seq) FROM changelog") or 0)
    return Found(sorted(page, reverse=True), more, None if certain else known)


def actors_of(db: apsw.Connection, most: int = 100) -> list[str]:
    """Who has written, as far as they said so."""
    if not _is_indexed(db):
        return []
    found = {actor for table in _tables(db, Chosen()) for actor in _each(db, "actor", ("tbl IS ?", [table]), most)}
    return sorted(str(text_of(actor)) for actor in found if actor is not None)[:most]


def _walked(db: apsw.Connection, chosen: Chosen, limit: int, span: Range, upward: bool) -> Found:
    """The page out of a part of the log that is walked through."""
    low, high = (span[0], min(span[1], span[0] + WALKED)) if upward else (max(span[0], span[1] - WALKED), span[1])
    conditions = [*_facts(db, chosen), *_rest(chosen)]
    seqs = _newest(db, conditions, limit + 1, (low, high), upward)
    begins = one(db, "SELECT min(seq) FROM changelog") or 0
    more = len(seqs) > limit
    return Found(sorted(seqs[:limit], reverse=True), more, None if more or upward or low <= max(begins, span[0]) else low)


def _newest(db: apsw.Connection, conditions: Sequence[Condition], limit: int, span: Range, upward: bool) -> list[int]:
    where = " AND ".join([*(sql for sql, _ in conditions), "seq BETWEEN ? AND ?"])
    bindings = [value for _, values in conditions for value in values]
    sql = f"SELECT seq FROM changelog WHERE {where} ORDER BY seq {'ASC' if upward else 'DESC'} LIMIT ?"
    return [seq for (seq,) in db.execute(sql, (*bindings, *span, limit))]


def _streams(db: apsw.Connection, chosen: Chosen) -> list[Condition] | None:
    """Conditions that an index answers each in the order of seq, and that together are all that is asked for but the time; or None."""
    if chosen.key:
        rest = _facts(db, chosen, table=False)
        tables = [table for table in _tables(db, chosen) if table is not None]
        return [_both([("tbl=? AND key=?", [table, key]), *rest]) for table in tables for key in chosen.keys]
    if not (chosen.table or chosen.column or chosen.actor or chosen.kind):
        return [("1", [])]
    if not _is_indexed(db):
        return None
    streams: list[Condition] = []
    for stream in _combinations(db, chosen):
        streams.append(stream)
        if len(streams) > MOST_STREAMS:
            return None
    return streams


def _combinations(db: apsw.Connection, chosen: Chosen) -> Iterator[Condition]:
    columns = _columns(db, chosen.column) if chosen.column else None
    for table in _tables(db, chosen):
        if columns is not None and table not in columns:
            continue
        actors = [chosen.by] if chosen.actor else _each(db, "actor", ("tbl IS ?", [table]), MOST_STREAMS)
        for actor in actors:
            for op in chosen.ops:
                if (op in "XB") != (table is None):
                    continue
                stream: Condition = (f"tbl IS ? AND actor IS {_place(actor)} AND op=?", [table, actor, op])
                if op != "U":
                    yield _both([stream, ("chg IS ?", [None])])
                    continue
                for changed in _each(db, "chg", stream, MOST_STREAMS):
                    place = _changed(columns[table], changed) if columns is not None and table is not None else None
                    if place is not None or columns is None:
                        yield _both([stream, ("chg IS ?", [changed]), *([place] if place else [])])


def _each(db: apsw.Connection, column: str, within: Condition, most: int) -> list[Any]:
    """The different values of a column of the index, each found by one seek."""
    sql, bindings = within
    found: list[Any] = [None] if one(db, f"SELECT 1 FROM changelog WHERE {sql} AND {column} IS NULL LIMIT 1", bindings) else []
    following: Condition = (f"{column} IS NOT NULL", [])
    while len(found) <= most:
        where, values = _both([within, following])
        value = next(exact_rows(db, [column], f"FROM changelog WHERE {where} ORDER BY {column} LIMIT 1", tuple(values)), None)
        if value is None:
            break
        found += value
        following = (f"{column}>{_place(found[-1])}", [found[-1]])
    return found


def _place(value: Any) -> str:
    """The SQL in which a value is bound: what a shell wrote as text need not be UTF-8, and would come back as a blob."""
    return "CAST(? AS TEXT)" if isinstance(value, RawText) else "?"


def _facts(db: apsw.Connection, chosen: Chosen, table: bool = True) -> list[Condition]:
    """The filters as conditions on a row of the log, without key and time."""
    conditions: list[Condition] = []
    if chosen.table and table:
        conditions.append(("tbl=?", [chosen.table]))
    if chosen.actor:
        conditions.append(("actor IS ?", [chosen.by]))
    if chosen.kind:
        conditions.append((f"op IN ({','.join('?' * len(chosen.ops))})", list(chosen.ops)))
    if chosen.column:
        places = [(name, gen, pos + 1) for name, found in _columns(db, chosen.column).items() for gen, pos in found]
        tests = " OR ".join("(tbl=? AND gen=? AND (op<>'U' OR substr(chg,?,1)='1'))" for _ in places)
        conditions.append((f"({tests or 0})", [value for place in places for value in place]))
    return conditions


def _rest(chosen: Chosen) -> list[Condition]:
    """The time, which no stream is in the order of."""
    times = (("at>=?", chosen.since), ("at<?", chosen.until))
    return [(sql, [at]) for sql, at in times if at is not None]


def _columns(db: apsw.Connection, column: str) -> dict[str, list[tuple[int, int]]]:
    """Where a column of this name stands: (gen, slot) by table."""
    found: dict[str, list[tuple[int, int]]] = {}
    for table, gen, pos in rows(db, "SELECT tbl, gen, pos FROM changelog_cols WHERE col=? COLLATE NOCASE", (column,)):
        found.setdefault(table, []).append((gen, pos))
    return found


def _changed(places: Sequence[tuple[int, int]], changed: str) -> Condition | None:
    """The condition that an update with this `chg` changed the column, or None where none of them can have."""
    fit = [(gen, pos) for gen, pos in places if changed[pos : pos + 1] == "1"]
    return (f"gen IN ({','.join('?' * len(fit))})", [gen for gen, _ in fit]) if fit else None


def _tables(db: apsw.Connection, chosen: Chosen) -> list[str | None]:
    """The tables that are asked for; None stands for changes of no table."""
    if chosen.table:
        return [chosen.table]
    return [*(name for (name,) in rows(db, "SELECT DISTINCT tbl FROM changelog_cols")), None]


def _both(conditions: Sequence[Condition]) -> Condition:
    return " AND ".join(sql for sql, _ in conditions), [value for _, values in conditions for value in values]


def _is_indexed(db: apsw.Connection) -> bool:
    return bool(one(db, "SELECT 1 FROM sqlite_schema WHERE type='index' AND name=?", (CHANGES_BY_KIND,)))
