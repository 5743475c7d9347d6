"""Lost changes played back one by one: what each does to the row that it now concerns, or why it does nothing.

A row that bears another number now, because its own was given to somebody else, is followed by the lost changes that come after and by the
declared foreign keys of later rows. A column is written only where it still holds what it held before the lost change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

import apsw

from changelog.audit import UNKNOWN, shown
from changelog.connection import rows
from changelog.log import head, signed
from changelog.render import MASK
from changelog.rescue.lives import Change, Identity, Life, Naming, State, Values, read_changes
from changelog.rescue.outcome import CAME_AND_WENT, DONE, LEFT_OUT, THERE, Adopted
from changelog.rescue.present import PresentTable, same
from changelog.rescue.references import References, without
from changelog.rescue.since import ADOPTED, Born, Since
from changelog.rescue.twins import LEVELS, Twins, alike
from changelog.schema import read_tables, schema_objects
from changelog.values import RawText, Value, for_json

NOWHERE = RawText(b"a row that is not here")


class Refused(Exception):
    """This change cannot be played back; the message says why."""


@dataclass(eq=False)
class _Now:
    """Where the row of a life is now, and of which of its columns it is decided whether the lost changes may write there."""

    row: Identity | None = None
    settled: bool = False  # it is already what the lost changes made of it
    twin: bool = False  # it was there already
    refused: bool = False  # said once
    columns: dict[int, bool] = field(default_factory=dict)


class Playback:
    """One playing back of the file `lost`, within the caller's transaction; what it does is counted in `done`.

    `strict`: no change may leave a deferred foreign key unresolved, not even until a later one.
    """

    def __init__(self, lost: apsw.Connection, db: apsw.Connection, done: Adopted, strict: bool) -> None:
        self._db, self._done, self._strict = db, done, strict
        [(nonce, common)] = rows(lost, "SELECT value, seq FROM changelog_meta WHERE name='common'")
        self._changes = read_changes(lost)
        self._ddl = dict(rows(lost, "SELECT seq, n0 FROM changelog WHERE op='X'"))
        self._since = Since(db, common, nonce)
        tables = read_tables(db)
        self._tables = {(t.name, t.gen): PresentTable(db, t) for t in tables}
        self._references = References(db, tables)
        self._twins = Twins(self._since, self._references)
        self._now: dict[Life, _Now] = {}
        self._stirred: set[tuple[str, Identity | None, int]] = set()  # columns that triggers of an application set while we wrote
        self._references.name_all(self._changes)
        firsts = [life.changes[0] for life in dict.fromkeys(c.life for c in self._changes if c.life)]
        self._concerned = {(c.table, self._since.place(c.table, c.before)) for c in firsts if c.before is not None}

    def run(self) -> Adopted:
        """Play all."""
        self._look_ahead()
        for actor, group in groupby(self._changes, lambda change: change.actor):
            name = actor if isinstance(actor, str) else UNKNOWN if actor is None else shown(for_json(actor))
            with signed(self._db, name if name.startswith(ADOPTED) else ADOPTED + name):
                for change in group:
                    self._play(change)
        return self._done

    def _look_ahead(self) -> None:
        """Which lost rows are there already, the surest first: others that look like them must not take their place.

        Before all else, because with deferred foreign keys a row may be named before it is made.
        """
        born = [(self._tables.get((c.table, c.gen)), c.life) for c in self._changes if c.op == "I"]
        for level in range(LEVELS):
            for table, life in born:
                if table is not None and life is not None and not life.ended and life not in self._now:
                    twin = self._twin(table, life, level)
                    if twin is not None:
                        self._now[life] = _Now(twin.row, settled=twin.row is None, twin=True)

    def _play(self, change: Change) -> None:
        table, life = self._tables.get((change.table, change.gen)), change.life
        if life is None:
            self._report(change)
        elif table is None:
            self._done.refuse(change, "there is no table of this name with these columns now")
        elif life.born and life.ended:
            self._done.note(change, CAME_AND_WENT)
        else:
            self._play_row(table, change, life, self._now.setdefault(life, _Now()))

    def _play_row(self, table: PresentTable, change: Change, life: Life, now: _Now) -> None:
        try:
            self._done.note(change, {"I": self._insert, "U": self._update, "D": self._delete}[change.op](table, change, life, now))
        except Refused as exc:
            if now.refused and now.row is None:
                self._done.note(change, LEFT_OUT)  # why was said at the first change of the row
            else:
                self._done.refuse(change, str(exc))
            now.refused = True

    def _report(self, change: Change) -> None:
        if change.op == "B":
            self._done.notes.append(f"seq {change.seq}: a new epoch began on the primary: nothing to do")
            return
        ddl, present = json.loads(self._ddl[change.seq]), set(schema_objects(self._db))
        before, after = ({tuple(o) for o in ddl[side]} for side in ("before", "objects"))
        if after - before <= present and not (before - after) & present:
            self._done.notes.append(f"seq {change.seq}: the schema is as this change left it: {shown(for_json(change.key))}")
        else:
            self._done.refuse(change, "a lost change of the schema: make it again by hand, and adopt once more for the rows that need it")

    # -- inserts

    def _insert(self, table: PresentTable, change: Change, life: Life, now: _Now) -> str:
        twin = None if now.twin else self._twin(table, life)
        if twin is not None:
            now.row, now.settled, now.twin = twin.row, twin.row is None, True  # played back before, and deleted since
        if now.twin:
            return THERE
        try:
            self._put(table, life, now, change.new)
        except (apsw.ConstraintError, Refused) as exc:
            if not self._put_at_last(table, change, life, now):
                self._explain(table, change, now, exc)
        return DONE["I"]

    def _twin(self, table: PresentTable, life: Life, level: int = LEVELS - 1) -> Born | None:
        states = [without(self._tried(state, life), _itself(state, life)) for state in life.states()]
        return self._twins.find(table, life.changes[-1].after, states, level)

    def _put(self, table: PresentTable, life: Life, now: _Now, state: State) -> None:
        key = life.changes[0].after or ()
        with self._statement():
            row = table.insert(self._followed(state, life), key[0][1])
            if row is None:
                raise Refused("a trigger of the application does not let it in")
            if row != key:  # where it names itself, under its new number
                for slots in _itself(state, life):
                    table.update(row, dict(zip(slots, (value for _, value in row), strict=True)))
        now.row = row
        self._twins.take(self._since.at(table.table.name, row))

    def _put_at_last(self, table: PresentTable, change: Change, life: Life, now: _Now) -> bool:
        """As it was at the end of its lost changes: what stood in the way of the beginning may not then."""
        if life.final is change.new:
            return False
        try:
            self._put(table, life, now, life.final)
        except (apsw.ConstraintError, Refused):
            return False
        now.settled = True
        return True

    def _explain(self, table: PresentTable, change: Change, now: _Now, exc: Exception) -> None:
        """Raise why the row cannot be inserted, and remember which row stands for it where its natural key says so."""
        wanted = self._tried(change.new)
        ways = table.in_the_way(wanted)
        if len(ways) != 1:
            raise Refused(str(exc) if isinstance(exc, Refused) else f"the primary refuses it: {exc}") from exc
        [(row, columns)] = ways.items()
        present = table.read(row) or wanted
        other = [i for i in table.telling if not same(present[i], wanted[i])]
        now.row = row
        differs = f", which differs: {self._compared(change, other, present, wanted)}" if other else ""
        raise Refused(f"its {' and its '.join(columns)} is taken by the row {_key(row)} of now{differs}; that stays as it is") from exc

    # -- updates

    def _update(self, table: PresentTable, change: Change, life: Life, now: _Now) -> str:
        found = self._found(table, change, life, now)
        if found is None:
            return THERE
        row, present = found
        new, old = self._tried(change.new), self._tried(change.old)
        verdicts = {i: self._verdict(life, now, i, (present[i], old[i], new[i])) for i, c in enumerate(change.chg) if c == "1"}
        wanted = {i: new[i] for i, verdict in verdicts.items() if verdict}
        refused = [i for i, verdict in verdicts.items() if verdict is None]
        nowhere = [i for i in wanted if new[i] is NOWHERE]
        for i in nowhere:
            del wanted[i]
            now.columns[i] = False
        if wanted:
            self._write(table, change, now, row, wanted)
        if nowhere:
            raise Refused(f"{', '.join(change.columns[i][0] for i in nowhere)} names a row that is not here")
        if refused:
            raise Refused(f"it was changed since: {self._compared(change, refused, present, new)}; what is there now stays")
        return DONE["U"] if wanted else THERE

    def _verdict(self, life: Life, now: _Now, slot: int, values: tuple[Value, Value, Value]) -> bool | None:
        """Whether a column is to be written; None when that is a conflict, which is said once."""
        present, old, new = values
        known, stirred = now.columns.get(slot), (life.changes[0].table, now.row, slot) in self._stirred
        if known is False or (known and same(present, new)):
            return False
        if known is None and not life.ended and same(present, self._at_last(life, slot)):
            now.columns[slot] = False  # all is as the last of the lost changes left it
            return False
        if same(present, old) or stirred:
            now.columns[slot] = True
            return True
        if known is None and any(same(present, self._tried(c.new)[slot]) for c in life.changes if c.op != "D"):
            if same(present, new):
                now.columns[slot] = True  # from here on
            return False
        now.columns[slot] = False
        return None

    def _at_last(self, life: Life, slot: int) -> Value:
        return self._tried(life.final)[slot]

    def _write(self, table: PresentTable, change: Change, now: _Now, row: Identity, wanted: dict[int, Value]) -> None:
        try:
            with self._statement():
                if not table.update(row, wanted):
                    raise Refused("a trigger of the application does not let it through")
        except apsw.ConstraintError as exc:
            now.columns |= dict.fromkeys(wanted, False)
            raise Refused(f"the primary refuses it: {exc}; what is there now stays") from exc
        now.row = table.identity_after(row, wanted)

    # -- deletes

    def _delete(self, table: PresentTable, change: Change, life: Life, now: _Now) -> str:
        try:
            found = self._found(table, change, life, now)
        except _Gone:
            found = None
        if found is None:
            return THERE
        row, present = found
        old = self._tried(change.old)
        self._refuse_other(change, present, old)
        before = head(self._db)
        try:
            with self._statement():
                if not table.delete(row):
                    raise Refused("a trigger of the application does not let it go")
                self._refuse_to_take_others_along(before, change.table, row)
        except apsw.ConstraintError as exc:
            raise Refused(f"the primary refuses to delete it: {exc}") from exc
        now.row, now.settled = None, True
        return DONE["D"]

    def _refuse_other(self, change: Change, present: Values, wanted: Values) -> None:
        other = [i for i in range(len(wanted)) if not same(present[i], wanted[i])]
        if other:
            raise Refused(f"it was changed since, so it is not deleted: {self._compared(change, other, present, wanted)}")

    def _refuse_to_take_others_along(self, before: int, table: str, row: Identity) -> None:
        """A cascade may change only what the lost changes changed, too."""
        for change in read_changes(self._db, before):
            named = change.table, change.before
            if change.op in ("U", "D") and named != (table, row) and named not in self._concerned:
                key = shown(for_json(change.key))
                raise Refused(f"to delete it would change {change.table} {key}, which the lost changes do not: it stays")

    # -- rows

    def _found(self, table: PresentTable, change: Change, life: Life, now: _Now) -> tuple[Identity, Values] | None:
        """The row that is to be changed, with its values; None where nothing is left to do. Raises Refused where it is not here."""
        if now.row is None and not now.settled and not now.refused and not life.born:
            self._locate(table, change, life, now)
        if now.settled:
            return None
        if now.row is None:
            raise Refused("its row could not be made again" if life.born else "its row is gone")
        present = table.read(now.row)
        if present is None:
            raise _Gone
        return now.row, present

    def _locate(self, table: PresentTable, change: Change, life: Life, now: _Now) -> None:
        """Find a row that was there before the lost changes."""
        row = self._since.place(change.table, change.before or ())
        present = table.read(row) if row is not None else None
        states = [self._tried(s) for s in life.states()]
        is_a_state = present is not None and any(alike(present, s) for s in states)
        if present is not None and table.table.keyed_by_rowid and self._since.renumbered and not is_a_state:
            raise Refused("the row with this number is none that it was: it was changed since, or renumbered by VACUUM; it stays")
        if present is None:
            now.settled = life.ended
        elif life.ended and not is_a_state:
            self._refuse_other(change, present, states[-1])
        else:
            now.row = row

    def _followed(self, state: State, itself: Life) -> Values:
        """The values with every reference to the row that it now means. Raises Refused where that row is not here."""
        found = self._tried(state, itself)
        lost = [n for n in state.names if any(found[slot] is NOWHERE for slot in n.slots)]
        if lost:
            raise Refused(f"it names {' and '.join(f'the row {_key(n.key)} of {n.parent}' for n in lost)}, which is not here")
        return found

    def _tried(self, state: State, itself: Life | None = None) -> Values:
        """The same with NOWHERE, which equals nothing, for such a reference. References of the row `itself` to itself stay as they are."""
        found = list(state.values)
        for naming in state.names:
            if itself is None or naming.life is not itself:
                place = self._place(naming)
                for number, slot in enumerate(naming.slots):
                    found[slot] = NOWHERE if place is None else place[number][1]
        return tuple(found)

    def _place(self, naming: Naming) -> Identity | None:
        """Where the row is that a reference of the lost changes means."""
        life = naming.life or naming.later
        now = self._now.get(life) if life else None
        if naming.life is not None:
            if naming.life.born or (now is not None and (now.row is not None or now.settled)):
                return now.row if now else None
            return self._since.place(naming.parent, naming.life.changes[0].before or ())
        row = self._since.place(naming.parent, naming.key)
        if naming.later is not None and (row is None or self._since.at(naming.parent, row)):  # just now it is another one
            return now.row if now else None
        return row

    @contextmanager
    def _statement(self) -> Iterator[None]:
        """Whole or not at all; afterwards it is known what was written, also by triggers of an application."""
        before = head(self._db)
        with self._db:
            yield
            if self._strict and unresolved(self._db):
                raise Refused("the primary refuses it: FOREIGN KEY constraint failed")
        for written in read_changes(self._db, before):
            self._notice(written)

    def _notice(self, written: Change) -> None:
        born, table = self._since.follow(written), self._tables.get((written.table, written.gen))
        if born is not None and table is not None and written.op != "D":
            self._twins.tell(table, born)
        if written.op == "U":
            self._stirred |= {(written.table, written.after, i) for i, c in enumerate(written.chg) if c == "1"}

    def _compared(self, change: Change, slots: list[int], present: Values, wanted: Values) -> str:
        def side(i: int, values: Values) -> str:
            return MASK if change.columns[i][2] and values[i] is not None else shown(for_json(values[i]))

        return ", ".join(f"{change.columns[i][0]} is {side(i, present)}, lost {side(i, wanted)}" for i in slots)


class _Gone(Refused):
    """Its row is gone."""

    def __str__(self) -> str:
        return "its row is gone"


def unresolved(db: apsw.Connection) -> bool:
    """Whether a deferred foreign key waits for a row that is not there (yet)."""
    return bool(db.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0])


def _itself(state: State, life: Life) -> list[tuple[int, ...]]:
    """The slots by which a row names itself."""
    return [naming.slots for naming in state.names if naming.life is life]


def _key(row: Identity) -> str:
    return ",".join(shown(for_json(value)) for _, value in row)
