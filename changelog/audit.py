"""The log for people: a primary's or a replica's, chosen, masked, one line a change, and what comes next."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

from changelog.asof.lineage import Lineage
from changelog.connection import connect, one, rows
from changelog.errors import BadRequest, NotAPrimary
from changelog.gaps import Gap, gaps_of, trimmed_upto
from changelog.guard import is_guard
from changelog.install import is_installed
from changelog.log import head
from changelog.primary import Primary
from changelog.reader import log_rows
from changelog.render import as_change
from changelog.rescue.lost import is_rescued
from changelog.schema import is_ours

REPLICA_POLL = 0.1  # s between looks at a replica that is being followed
WAIT = 1.0  # s after which a wait returns in any case
SHOWN_LENGTH = 60  # characters of a value on a line

UNKNOWN = "unknown writer"  # as the views have it


def is_replica(db: apsw.Connection) -> bool:
    """Whether this file follows a primary. (A primary that was made out of a replica has kept the table of its position.)"""
    if not db.table_exists("main", "changelog_position") or not one(db, "SELECT 1 FROM changelog_position"):
        return False
    triggers = rows(db, "SELECT name FROM sqlite_schema WHERE type='trigger'")
    return not any(is_ours("trigger", name) and not is_guard(name) for (name,) in triggers)


class LogFile:
    """A primary, a replica or a file of rescued changes at `path`, to be read.

    A primary whose schema has moved is reconciled first, as before serving it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._primary: Primary | None = None
        db = connect(path, readonly=True)
        try:
            if not is_installed(db):
                raise NotAPrimary
            if not is_replica(db) and not is_rescued(db):
                self._primary = Primary(path)
        finally:
            db.close()

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """A read transaction."""
        if self._primary:
            with self._primary.snapshot() as db:
                yield db
            return
        db = connect(self.path, readonly=True)
        try:
            with db:
                yield db
        finally:
            db.close()

    def wait(self, seq: int) -> None:
        """Return when the head is not at `seq` any more, or after WAIT."""
        if self._primary:
            self._primary.commits.wait(seq, WAIT)
            return
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            with self.snapshot() as db:
                if head(db) != seq:
                    return
            time.sleep(REPLICA_POLL)

    def close(self) -> None:
        """Close what is open."""
        if self._primary:
            self._primary.close()


@dataclass(frozen=True)
class Chosen:
    """Which changes are asked for. `since` is exclusive as a seq, inclusive as a time; `until` is inclusive; `last` 0 is all."""

    tables: tuple[str, ...] = ()
    key: str | None = None
    column: str | None = None
    actor: str | None = None
    ops: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    last: int = 0


def changes(db: apsw.Connection, chosen: Chosen, after: int = 0) -> Iterator[dict[str, Any]]:
    """The changes that are asked for and come after seq `after`, oldest first, as `render.as_change` has them, masked.

    Where the log has a gap stands a change with the op "gap" and the fields `first` and `last`.
    """
    lineage = Lineage(db)
    terms = ["seq>?"]
    values: list[Any] = [after]
    for sql, bindings in _conditions(db, chosen):
        terms.append(sql)
        values += bindings
    if chosen.last:
        newest = f"SELECT seq FROM changelog WHERE {' AND '.join(terms)} ORDER BY seq DESC LIMIT {chosen.last}"
        terms = [f"seq IN ({newest})"]
    gaps = [gap for gap in gaps_of(db) if gap.last > after and _in_range(db, gap, chosen)]
    shown_any = False
    for row in log_rows(db, f"WHERE {' AND '.join(terms)} ORDER BY seq", tuple(values)):
        seq = int(str(row[0]))
        while gaps and gaps[0].last < seq:
            gap = gaps.pop(0)
            if shown_any or not chosen.last:
                yield _gap(gap)
        shown_any = True
        yield as_change(row, lineage.columns(seq, row[4], row[7]), masked=True)
    yield from map(_gap, gaps)


def begins_later(db: apsw.Connection, chosen: Chosen) -> int:
    """The seq at which a trimmed log begins, where changes from before it are asked for; else 0."""
    before = trimmed_upto(db)
    since = moment(chosen.since) if chosen.since is not None else 0
    first = one(db, "SELECT at FROM changelog WHERE seq=?", (before + 1,)) or ""
    early = since < before if isinstance(since, int) else since < first
    return before + 1 if before and early and not chosen.last else 0


def _in_range(db: apsw.Connection, gap: Gap, chosen: Chosen) -> bool:
    """Whether changes in a gap may be among those asked for, by their seq or by the times before and after it."""
    around = [one(db, "SELECT at FROM changelog WHERE seq=?", (seq,)) for seq in (gap.first - 1, gap.last + 1)]
    since, until = (None if text is None else moment(text) for text in (chosen.since, chosen.until))
    early = until is not None and (gap.first > until if isinstance(until, int) else (around[0] or "") > until)
    late = since is not None and (gap.last <= since if isinstance(since, int) else around[1] is not None and around[1] < since)
    return not early and not late


def _gap(gap: Gap) -> dict[str, Any]:
    nothing: dict[str, Any] = {"at": None, "actor": None, "table": None, "op": "gap", "key": None, "old": {}, "new": {}}
    return {"seq": gap.last, **nothing, "first": gap.first, "last": gap.last}


def line(change: dict[str, Any]) -> str:
    """A change on one line."""
    if change["op"] == "gap":
        return f"{change['first']:>7}  gap: {Gap(change['first'], change['last'])}"
    table, key = change["table"] or "", "" if change["op"] in ("X", "B") else _shown_key(change["key"])
    what = change["key"] if change["op"] == "X" else f"epoch {change['key']} begins" if change["op"] == "B" else _columns(change)
    text = f"{change['seq']:>7}  {change['at']}  {change['actor'] or UNKNOWN}  {change['op']} {table} {key}".rstrip()
    return printable(f"{text}  {what}")


def printable(text: str) -> str:
    """`text` without what could move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def moment(text: str) -> int | str:
    """A seq, or a time as the log writes it. A time without a zone is UTC. Raises BadRequest."""
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"neither a seq nor a time: {text[:80]!r} (a time is written like 2026-11-23T16:20:07.612Z)") from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def _conditions(db: apsw.Connection, chosen: Chosen) -> Iterator[tuple[str, Sequence[Any]]]:
    if chosen.tables:
        yield f"tbl COLLATE NOCASE IN ({','.join('?' * len(chosen.tables))})", chosen.tables
    if chosen.ops:
        yield f"op IN ({','.join('?' * len(chosen.ops))})", chosen.ops
    if chosen.actor is not None:
        yield ("actor IS NULL", ()) if chosen.actor == UNKNOWN else ("actor=?", (chosen.actor,))
    if chosen.key is not None:
        yield _key_condition(db, chosen.tables, chosen.key)
    if chosen.column is not None:
        yield _column_condition(db, chosen.column)
    for text, seq_test, time_test in ((chosen.since, "seq>?", "at>=?"), (chosen.until, "seq<=?", "at<=?")):
        if text is not None:
            at = moment(text)
            yield (seq_test if isinstance(at, int) else time_test), (at,)


def _key_condition(db: apsw.Connection, tables: Sequence[str], key: str) -> tuple[str, Sequence[Any]]:
    """Rows whose key was or became `key`, which is written as `show` prints it."""
    given = keys(key)
    tests, values = [f"key IN ({','.join('?' * len(given))})"], list(given)
    for table, gen in rows(db, "SELECT DISTINCT tbl, gen FROM changelog_cols"):
        if table.lower() in {t.lower() for t in tables}:
            slots = rows(db, "SELECT pos FROM changelog_cols WHERE tbl=? AND gen=? AND pk ORDER BY pk", (table, gen))
            parts = [f"n{pos}" for (pos,) in slots]
            became = parts[0] if len(parts) == 1 else "||','||".join(f"quote({p})" for p in parts) or "rid"
            tests.append(f"(op='U' AND tbl=? AND gen=? AND {became} IN ({','.join('?' * len(given))}))")
            values += [table, gen, *given]
    return f"({' OR '.join(tests)})", values


def keys(text: str) -> list[Any]:
    """The values that a key typed by somebody may stand for."""
    found: list[Any] = [text]
    for kind in (int, float):
        try:
            found.append(kind(text))
        except ValueError:
            continue
    if re.fullmatch(r"x'([0-9a-f]{2})*'", text):
        found.append(bytes.fromhex(text[2:-1]))
    return [v for v in found if not isinstance(v, int) or -(2**63) <= v < 2**63]


def _column_condition(db: apsw.Connection, column: str) -> tuple[str, Sequence[Any]]:
    """Rows that changed this column; inserts and deletes of a table that has it do."""
    tests: list[str] = []
    values: list[Any] = []
    for slot in rows(db, "SELECT tbl, gen, pos+1 FROM changelog_cols WHERE col=? COLLATE NOCASE", (column,)):
        tests.append("(?,?,?)")
        values += slot
    if not tests:
        raise BadRequest(f"no table of this log has a column {column}")
    has = "c.column1=tbl AND c.column2=gen AND (op<>'U' OR substr(chg,c.column3,1)='1')"
    return f"EXISTS(SELECT 1 FROM (VALUES{','.join(tests)}) c WHERE {has})", values


def _columns(change: dict[str, Any]) -> str:
    old, new, op = change["old"], change["new"], change["op"]
    if op != "U":
        return ", ".join(f"{name}={shown(value)}" for name, value in (new or old).items() if value is not None)
    key_only = [name for name in old if not _moved(old[name], new[name])]
    return ", ".join(f"{name}: {shown(old[name])} -> {shown(new[name])}" for name in old if name not in key_only) or "nothing changed"


def _moved(old: Any, new: Any) -> bool:
    return json.dumps(old) != json.dumps(new) or old == "***"


def _shown_key(key: Any) -> str:
    """A key as `--key` takes it."""
    return key if isinstance(key, str) else shown(key)


def shown(value: Any) -> str:
    """A value as it stands on a line."""
    if isinstance(value, dict):
        [(kind, text)] = value.items()
        value = {"b": f"x'{text}'", "t": f"text x'{text}'"}.get(kind, text)
    elif value is None:
        return "NULL"
    elif isinstance(value, str) and value != "***":
        value = json.dumps(value, ensure_ascii=False)
    text = str(value)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}… ({len(text)})"
