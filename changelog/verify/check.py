"""A replica compared with its primary, and mended: down from the digests of whole tables to the rows that differ.

Each round asks the primary, which answers from one snapshot; then the replica is brought to exactly the position of that answer, and only
then the two are compared, in one transaction. What differed only because it was written in between is equal by then: no false alarm.

    digests of every table in some ranges -> of the parts of those that differ -> the hashes of the rows in the last of them
    -> the primary's rows that have other hashes -> named, and put in the place of ours -> all digests once more
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import apsw

from changelog.connection import one, rows
from changelog.errors import BrokenFrame, DamagedFile, Divergence, Unavailable
from changelog.facts import altered_facts, restore_fact
from changelog.position import Position
from changelog.replay import position_of
from changelog.schema import schema_hash
from changelog.values import decode_value, encode_row, exact_rows
from changelog.verify.answers import Answer
from changelog.verify.hashing import row_hash
from changelog.verify.mend import replace_rows, strays
from changelog.verify.naming import HERE, THERE, Names
from changelog.verify.ranges import LOG, Range, Row, Scope, decode_key, encode_key, part_of, rows_in, same_key, scopes_of
from changelog.verify.report import MOST_DIFFERENCES, Report

RANGES = 64  # of each table, in the first round
PARTS = 32  # of each range that differs, in the next ones
LEAF_ROWS = 64  # of a range whose rows are asked for
ROUND_RANGES = 64  # in one question
ROUND_ROWS = 4_096  # whose hashes stand in one question
PASSES = 4  # a repair is proved by comparing everything again
WHOLE_TABLE = 2**63  # rows, as far as is known
TRIES = 5  # of a range that is never to be had as of one moment, and of a schema that keeps moving

Hashes = dict[str, tuple[Any, str]]  # by key: the key for the wire, the hash of the row


class Asked(Protocol):
    """The primary: it gives what `answers.py` does, by whatever way."""

    def digests(self, ranges: int, log_from: int) -> Answer:
        """Every table, in ranges."""

    def parts(self, asked: dict[str, Any]) -> Answer:
        """The parts of some ranges."""

    def rows(self, asked: dict[str, Any]) -> Answer:
        """The rows of some ranges."""


@dataclass(frozen=True)
class _Todo:
    """A range that differs, with the number of rows in it on the side that has more."""

    scope: Scope
    range: Range
    rows: int
    whole: bool = False  # it cannot be cut up
    tries: int = 0

    @property
    def large(self) -> bool:
        return self.rows > LEAF_ROWS and not self.whole

    @property
    def wire(self) -> list[Any]:
        return [self.scope.name, encode_key(self.range.after), encode_key(self.range.upto)]


class _SchemaMoved(Exception):
    """The tables are others than when the comparison began."""


class Verification:
    """One comparison of `db`, the writing connection of a replica, with `primary`.

    `pull_to(seq)` brings the replica to exactly this seq. With `repair` what differs is made what it is on the primary.
    """

    def __init__(self, db: apsw.Connection, primary: Asked, pull_to: Callable[[int], object], repair: bool) -> None:
        self.report = Report()
        self._db, self._primary, self._pull_to, self._repair = db, primary, pull_to, repair
        self._log_from = (one(db, "SELECT max(seq) FROM changelog_meta WHERE name='trimmed'") or 0) + 1
        self._schema, self._scopes = "", dict[str, Scope]()  # as of the newest answer
        self._mended = set[str]()  # tables, in this pass

    def run(self) -> Report:
        """Compare, and repair. The report is there, as far as it came, after an error too.

        Raises Divergence where the two cannot be made equal row by row, DamagedFile where the replica's file is broken, and what `pull_to`
        and the way to the primary raise.
        """
        try:
            self._compare_facts()
            again: set[str] = set()
            for _ in range(PASSES):
                self._mended = set()
                self._pass(again)
                again = self._mended
                if not again:
                    return self.report
        except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as exc:
            raise DamagedFile(f"the replica cannot be read: {exc}") from exc
        raise Divergence("after the repair there is still a difference")

    def _pass(self, again: set[str]) -> None:
        """Compare everything, or what was mended in the pass before: tables as a whole, for a repair may put rows in each other's place."""
        for _ in range(TRIES):
            try:
                todo = [_Todo(self._scopes[name], Range(), WHOLE_TABLE) for name in sorted(again)] or self._compare_all()
                while todo:
                    self._round(todo)
                return
            except _SchemaMoved:
                again = set()
        raise Unavailable("the schema of the primary keeps changing: it cannot be compared now, try again")

    def _compare_all(self) -> list[_Todo]:
        """The first round: the ranges that differ."""
        answer = self._primary.digests(RANGES, self._log_from)
        with _well_formed():
            with self._at(answer):
                self._compare_schema(answer)
                self._drop_impossible(answer)
                if self._scopes.keys() != answer["tables"].keys():
                    raise Divergence("the tables here are not those of the primary")
                self._count(answer)
                return [t for name, parts in answer["tables"].items() for t in self._unlike(self._scopes[name], Range(), parts)]

    def _round(self, todo: list[_Todo]) -> None:
        """Take some ranges off `todo`; what is still to be done about them is put back."""
        batch = [todo.pop()]
        size = batch[0].rows
        while todo and len(batch) < ROUND_RANGES and todo[-1].large == batch[0].large:
            size += todo[-1].rows
            if not batch[0].large and size > ROUND_ROWS:
                break
            batch.append(todo.pop())
        todo += self._cut_up(batch) if batch[0].large else self._settle(batch)

    def _cut_up(self, batch: list[_Todo]) -> list[_Todo]:
        """The parts that differ of ranges that do."""
        answer = self._ask(self._primary.parts, {"parts": PARTS, "ranges": [t.wire for t in batch]})
        with _well_formed(), self._at(answer):
            left = []
            for each, parts in zip(batch, answer["ranges"], strict=True):
                found = self._unlike(self._scopes[each.scope.name], each.range, parts)
                left += [replace(t, whole=True) for t in found] if len(parts) == 1 else found
            return left

    def _unlike(self, scope: Scope, range_: Range, parts: list[Any]) -> list[_Todo]:
        """Those of the primary's `parts` of a range that are not alike here."""
        found, after = [], range_.after
        for number, (end, count, digest) in enumerate(parts, 1):
            upto = range_.upto if number == len(parts) else decode_key(end)
            ours = part_of(self._db, scope, Range(after, upto))
            if (ours.rows, ours.digest) != (count, digest):
                found.append(_Todo(scope, ours.range, max(ours.rows, count)))
            after = upto
        self.report.ranges += len(parts)
        return found

    def _settle(self, batch: list[_Todo]) -> list[_Todo]:
        """Ask for the rows of ranges, compare them one by one, and mend what differs. Returns the ranges that need another round."""
        sent = [self._hashes(each) for each in batch]
        ranges = [[*each.wire, each.whole, list(hashes.values())] for each, hashes in zip(batch, sent, strict=True)]
        answer = self._ask(self._primary.rows, {"ranges": ranges})
        with _well_formed(), self._at(answer):
            names, left = Names(self._db), []
            for each, hashes, found in zip(batch, sent, answer["ranges"], strict=True):
                now = replace(each, scope=self._scopes[each.scope.name])
                if found == "large":
                    left.append(replace(now, rows=LEAF_ROWS + 1))
                elif found is None:
                    left.append(now)
                elif not self._settle_one(now, hashes, found, names):
                    left.append(_once_more(now))
            return left

    def _hashes(self, todo: _Todo) -> Hashes:
        found = rows_in(self._db, todo.scope, todo.range)
        hashes = {encode_row(key): (encode_key(key), row_hash(row)) for row in found for key in [todo.scope.key_of(row)]}
        if len(hashes) > MOST_DIFFERENCES:
            raise Divergence(f"table {todo.scope.name}: {len(hashes)} rows that no key separates differ: only a snapshot can repair that")
        return hashes

    def _settle_one(self, todo: _Todo, sent: Hashes, found: dict[str, Any], names: Names) -> bool:
        """False where a row changed here meanwhile, and differs from one that the primary did not send: then it is to be asked for."""
        scope = todo.scope
        ours = {encode_row(scope.key_of(row)): row for row in rows_in(self._db, scope, todo.range)}
        sent_rows = [tuple(decode_value(v) for v in row) for row in found["rows"]]
        theirs = {encode_row(scope.key_of(row)): row for row in sent_rows}
        gone = {encode_row(decode_key(key) or ()) for key in found["gone"]}
        expected = {key: hash_ for key, (wire, hash_) in sent.items() if key not in gone and _is_compared(scope, wire)}
        expected |= {key: row_hash(row) for key, row in theirs.items()}
        hashes = {key: row_hash(row) for key, row in ours.items()}
        unlike = [key for key in {**hashes, **expected} if hashes.get(key) != expected.get(key)]
        if any(key in expected and key not in theirs for key in unlike):
            return False
        wrong = [ours[key] for key in unlike if key in ours]
        right = [theirs[key] for key in unlike if key in theirs]
        self._name(scope, wrong, right, names)
        if unlike and self._repair:
            self._mend(todo, wrong, right, expected)
        return True

    def _name(self, scope: Scope, wrong: list[Row], right: list[Row], names: Names) -> None:
        """Each wrong row with the right one of its key, as SQLite compares keys: 'a' may be 'A', and 1 is 1.0."""
        alone = {encode_row(scope.key_of(row)): row for row in wrong}
        for row in right:
            key = scope.key_of(row)
            other = alone.pop(encode_row(key), None)
            if other is None and alone:
                where, bindings = same_key(scope, key)
                like = next(exact_rows(self._db, scope.terms, f"{scope.source} {where}", bindings), None)
                other = alone.pop(encode_row(scope.key_of(like)), None) if like else None
            self.report.note(names.changed(scope, other, row) if other else names.only(scope, row, THERE))
        for row in alone.values():
            self.report.note(names.only(scope, row, HERE))

    def _mend(self, todo: _Todo, wrong: list[Row], right: list[Row], expected: dict[str, str]) -> None:
        replace_rows(self._db, todo.scope, wrong, right)
        if todo.scope.name == LOG:
            for seq in strays(self._db, todo.scope, right):
                self._drop_log_row(seq)
        if {key: hash_ for key, (_, hash_) in self._hashes(todo).items()} != expected:
            raise Divergence(f"table {todo.scope.name}: its rows cannot be made those of the primary, one by one")
        self._mended.add(todo.scope.name)
        self.report.repaired += len({encode_row(todo.scope.key_of(row)) for row in (*wrong, *right)})

    def _drop_impossible(self, answer: Answer) -> None:
        """Log rows whose seq no log has. (Rows behind the position are in the last range, which has no end.)"""
        for (seq,) in rows(self._db, "SELECT seq FROM changelog WHERE seq<1"):
            if self._repair:
                self._drop_log_row(seq)
            else:
                self.report.note({"table": LOG, "key": seq, "only": HERE})

    def _drop_log_row(self, seq: int) -> None:
        self.report.note({"table": LOG, "key": seq, "only": HERE})
        self._db.execute("DELETE FROM changelog WHERE seq=?", (seq,))
        self.report.repaired += 1

    def _compare_schema(self, answer: Answer) -> None:
        facts = answer["facts"]
        self._schema = facts["schema"]
        if schema_hash(self._db) != self._schema:
            raise Divergence("the schema here is not that of the primary: rows cannot repair that, only a snapshot")
        if self._db.pragma("encoding") != facts["encoding"]:
            raise Divergence(f"the primary holds its text in {facts['encoding']}, and this file does not: only a snapshot can change that")

    def _compare_facts(self) -> None:
        """What somebody wrote into counters and header fields. Before any pull, which makes them again what they are on the primary."""
        with self._db:
            for fact in list(altered_facts(self._db)):
                column = "seq" if fact.kind == "sqlite_sequence" else "value"
                self.report.note({"table": fact.kind, "key": fact.name, "columns": {column: [fact.here, fact.brought]}})
                if self._repair:
                    restore_fact(self._db, fact)
                    self.report.repaired += 1

    def _count(self, answer: Answer) -> None:
        counts = {name: sum(part[1] for part in parts) for name, parts in answer["tables"].items()}
        self.report.log_rows = counts.pop(LOG)
        self.report.tables, self.report.rows = len(counts), sum(counts.values())
        self.report.rounds += 1

    def _ask(self, question: Callable[[dict[str, Any]], Answer], asked: dict[str, Any]) -> Answer:
        answer = question({"schema": self._schema, "log_from": self._log_from, **asked})
        self.report.rounds += 1
        if answer.get("ranges") is None:
            raise _SchemaMoved
        return answer

    @contextmanager
    def _at(self, answer: Answer) -> Iterator[None]:
        """A transaction in which the replica stands exactly where the primary answered.

        Raises Divergence where it cannot be brought there.
        """
        position = _position(answer)
        if position_of(self._db) != position:
            self._pull_to(position.seq)
        with self._db:
            if position_of(self._db) != position:
                raise Divergence(f"the replica, at {position_of(self._db)}, cannot be brought to the primary's position {position}")
            self._scopes = scopes_of(self._db, max(self._log_from, answer["oldest"]), answer["slots"])
            self.report.position = position
            yield


def _position(answer: Answer) -> Position:
    return Position(answer["epoch"], answer["seq"], answer["check"])


def _is_compared(scope: Scope, wire: Any) -> bool:
    """Whether a key that was sent is still among what is compared: the primary may have trimmed its log meanwhile."""
    return scope.floor is None or wire[0] >= scope.floor


def _once_more(todo: _Todo) -> _Todo:
    if todo.tries >= TRIES:
        raise Divergence(f"table {todo.scope.name}: a row differs from the primary's, and is another one each time that it is asked for")
    return replace(todo, tries=todo.tries + 1)


@contextmanager
def _well_formed() -> Iterator[None]:
    """What is no answer of ours raises BrokenFrame."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as exc:
        raise BrokenFrame(f"the primary answered a comparison with what is none: {type(exc).__name__}: {exc}") from exc
