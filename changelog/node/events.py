"""What happened, for programs and pages: domain events, made of log rows by one function on both machines.

An event is a name such as `batch:created` and its facts {seq, at, actor, table, op, key, old, new}, masked: `old` holds the key and what
changed, `new` the whole row. One row is one event, whoever wrote it; a changed schema is `schema:changed`, the birth of a log is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from changelog.render import Columns, as_change, sides
from changelog.wire import FACTS

MOST = 100  # rows at once that are told one by one

NOUNS = {  # of the farm; any other table has its own name
    "lora_payload_buffer": "payload",
    "batches": "batch",
    "cattle": "cattle",
    "pens": "pen",
    "weight_records": "weight",
    "pair_history": "pair",
    "users": "user",
}
VERBS = {"I": "created", "U": "updated", "D": "deleted"}
DONE = ("processed", "error")  # the states in which a payload ends


class Event(NamedTuple):
    """The name under which it is sent, and its one argument, ready for JSON."""

    name: str
    facts: dict[str, Any]


def events_of(rows: Sequence[Sequence[Any]], columns: Columns, most: int = MOST) -> list[Event]:
    """The events of neighbouring log rows, as `read_log` gives them, oldest first; more than `most` rows are one event `changes`.

    `columns` are those of `columns_of`.
    """
    if len(rows) > most:
        return [changes(rows[0][0], rows[-1][0])]
    return [Event(name, as_change(row, columns, masked=True)) for row in rows if (name := name_of(row, columns))]


def changes(first: int, last: int) -> Event:
    """The one event for the rows from seq `first` to `last` that are too many, or too large, to be told one by one."""
    return Event("changes", {"first": first, "last": last, "count": last - first + 1})


def name_of(row: Sequence[Any], columns: Columns) -> str | None:
    """Under which name a log row is told, None where it is not."""
    table, op = row[4], row[5]
    if op not in VERBS:
        return "schema:changed" if op == "X" else None
    verb = VERBS[op]
    if table == "lora_payload_buffer":
        verb = "received" if op == "I" else "processed" if op == "U" and _is_done(row, columns) else verb
    return f"{NOUNS.get(table, table)}:{verb}"


def _is_done(row: Sequence[Any], columns: Columns) -> bool:
    """Whether this update brought a payload to its end."""
    names = [name for name, _, _ in columns.get((row[4], row[7]), [])]
    if "status" not in names:
        return False
    place = names.index("status")
    changed: str = row[FACTS.index("chg")]
    return changed[place] == "1" and sides(row, len(names))[0][place] in DONE
