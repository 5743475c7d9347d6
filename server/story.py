"""What happened, as sentences: made of log rows, with links to what they tell of. Who and when stand beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apsw
from flask import url_for
from markupsafe import Markup

from changelog.audit import UNKNOWN
from changelog.reader import log_rows
from changelog.render import as_change, columns_of
from server.history import names_of
from server.show import NEVER_SHOWN, OWN_COLUMNS, called, measure, value

READ_FOR_ONE = 4  # log rows that are looked at for each sentence: some say nothing, or what another one says
NEARBY = 4  # log rows between two that were written together
RADIO = {"hxb": "from the barn radio", "hxe": "from the export radio"}
DONE = {"I": "added", "U": "changed", "D": "removed"}

Change = dict[str, Any]  # as `changelog.render.as_change` has it, with the values of the database


@dataclass(frozen=True, slots=True)
class Story:
    """One sentence without its end: `who` did it, `at` (UTC). `who` is None where the sentence says so itself."""

    seq: int
    at: str
    who: str | None
    text: Markup


def latest_stories(db: apsw.Connection, limit: int) -> list[Story]:
    """The newest sentences, the newest first."""
    columns = columns_of(db)
    found = log_rows(db, "WHERE seq>(SELECT max(seq) FROM changelog)-? ORDER BY seq DESC", (limit * READ_FOR_ONE,))
    return tell(db, [as_change(row, columns, masked=True, shown_as=as_it_is) for row in found])[:limit]


def as_it_is(found: Any) -> Any:
    """A value as the database has it, and not as JSON would: an id may be too large for that, and a blob stand in its place."""
    return found


def tell(db: apsw.Connection, changes: Sequence[Change]) -> list[Story]:
    """These changes, the newest first, as sentences; those that say nothing by themselves are left out."""
    names = _Names(db, changes)
    recorded = (change for change in changes if (change["table"], change["op"]) == ("weight_records", "I"))
    weighed = {(str(change["new"].get("cattle_id")), change["seq"]) for change in recorded}
    ended: set[Any] = set()  # payloads of which a newer change has told
    stories = []
    for change in changes:
        if _is_echo(change, weighed):
            continue
        if change["table"] == "lora_payload_buffer":
            if str(change["key"]) in ended:
                continue
            ended.add(str(change["key"]))
        text = _text(change, names)
        if text:
            stories.append(Story(change["seq"], change["at"], _who(change), text))
    return stories


class _Names:
    """What the rows that the changes name are called."""

    def __init__(self, db: apsw.Connection, changes: Iterable[Change]) -> None:
        ids: dict[str, set[Any]] = {"cattle": set(), "batches": set(), "pens": set()}
        for change in changes:
            ids.get(change["table"], set()).add(change["key"])
            for side in (change["old"], change["new"]):
                ids["pens"].add(side.get("pen_id"))
                ids["batches"].add(side.get("batch_id"))
                if change["table"] in ("weight_records", "pair_history"):
                    ids["cattle"].add(side.get("cattle_id"))
        self._names = {
            table: names_of(db, table, column, ids[table])
            for table, column in (("cattle", "cattle_id"), ("batches", "batch_number"), ("pens", "pen_number"))
        }
        self._at = {"cattle": url_for("pages.cattle"), "batches": url_for("pages.batches"), "pens": url_for("pages.pens")}

    def link(self, table: str, number: Any, name: Any = None) -> Markup:
        """A row by its name, which leads to its page, where there is one: animals that are gone still have theirs."""
        known = self._names[table].get(number)
        shown = value(called(known.name if known and name is None else name, value(number)))
        if known is None or not (known.here or table == "cattle"):
            return Markup("{}").format(shown)
        return Markup('<a href="{}/{}">{}</a>').format(self._at[table], number, shown)


def _is_echo(change: Change, weighed: set[tuple[str, int]]) -> bool:
    """Whether this is the animal's row taking over the weight that was recorded beside it."""
    if (change["table"], change["op"]) != ("cattle", "U") or _changed(change) != {"weight"}:
        return False
    return any((str(change["key"]), change["seq"] + step) in weighed for step in range(-NEARBY, NEARBY + 1))


def _who(change: Change) -> str | None:
    if change["table"] == "batches" and change["op"] == "I" and change["new"].get("source_type") in RADIO:
        return None
    if change["actor"] is None:
        return UNKNOWN
    return "the barn radio" if str(change["actor"]).partition(":")[0] == "lora" else value(change["actor"])


def _text(change: Change, names: _Names) -> Markup | None:
    if change["op"] not in DONE:
        return Markup({"B": "A new log began", "X": "The schema changed"}.get(change["op"], "Something was recorded"))
    if change["op"] == "U" and not _changed(change):
        return None
    return TELLERS.get(change["table"], _anything)(change, names)


def _changed(change: Change) -> set[str]:
    """The columns that an update changed and that say something."""
    old, new = change["old"], change["new"]
    return {name for name in old if name.endswith(NEVER_SHOWN) or (name not in OWN_COLUMNS and old[name] != new.get(name))}


def _row(change: Change) -> dict[str, Any]:
    """The whole row: after the change, or before its end."""
    return change["old"] if change["op"] == "D" else change["new"]


def _cells(change: Change, columns: Iterable[str]) -> Markup:
    """The changed columns, old → new."""
    parts = [Markup("{} {} → {}").format(name, value(change["old"].get(name)), value(change["new"].get(name))) for name in sorted(columns)]
    return Markup(", ").join(parts)


def _animal(change: Change, names: _Names) -> Markup:
    row = _row(change)
    animal = Markup("Animal {}").format(names.link("cattle", change["key"], row.get("cattle_id")))
    if change["op"] == "I":
        return Markup("{} added to batch {}").format(animal, names.link("batches", row.get("batch_id")))
    if change["op"] == "D":
        return Markup("{} removed").format(animal)
    changed, told = _changed(change), []
    if "pen_id" in changed:
        pen = row.get("pen_id")
        told.append(Markup("taken out of its pen") if pen is None else Markup("moved to pen {}").format(names.link("pens", pen)))
    if "batch_id" in changed:
        told.append(Markup("moved to batch {}").format(names.link("batches", row.get("batch_id"))))
    if "status" in changed:
        told.append(Markup("is {} now").format(value(row.get("status"))))
    rest = changed - {"pen_id", "batch_id", "status"}
    if rest:
        told.append(_cells(change, rest))
    return Markup("{} {}").format(animal, Markup(", ").join(told))


def _weight(change: Change, names: _Names) -> Markup:
    row = _row(change)
    animal = names.link("cattle", row.get("cattle_id"))
    if change["op"] == "I":
        return Markup("Animal {} weighed {}").format(animal, measure(row.get("weight"), "kg"))
    if change["op"] == "D":
        return Markup("A weight of animal {} removed: {}").format(animal, measure(row.get("weight"), "kg"))
    return Markup("A weight of animal {} corrected: {}").format(animal, _cells(change, _changed(change)))


def _pair(change: Change, names: _Names) -> Markup:
    row = _row(change)
    tags = Markup("{} and {}").format(value(row.get("lf_tag")), value(row.get("uhf_tag")))
    verb = {"I": "gave up the tags", "U": "had its former tags corrected to", "D": "no longer has on record the tags"}[change["op"]]
    return Markup("Animal {} {} {}").format(names.link("cattle", row.get("cattle_id")), verb, tags)


def _batch(change: Change, names: _Names) -> Markup:
    batch = Markup("Batch {}").format(names.link("batches", change["key"], _row(change).get("batch_number")))
    if change["op"] == "I":
        return Markup("{} created {}").format(batch, RADIO.get(str(change["new"].get("source_type")), "")).rstrip()
    return _updated_or_removed(batch, change)


def _pen(change: Change, names: _Names) -> Markup:
    pen = Markup("Pen {}").format(names.link("pens", change["key"], _row(change).get("pen_number")))
    return Markup("{} created").format(pen) if change["op"] == "I" else _updated_or_removed(pen, change)


def _payload(change: Change, names: _Names) -> Markup:
    row = _row(change)
    payload = Markup('<a href="{}">Payload</a> {}').format(url_for("pages.payloads"), value(row.get("raw_payload")))
    if change["op"] == "D":
        return Markup("{} removed").format(payload)
    if row.get("status") == "error":
        return Markup("{} ended in an error: {}").format(payload, value(row.get("error_message")))
    return Markup("{} {}").format(payload, "received" if row.get("status") == "received" else value(row.get("status")))


def _user(change: Change, names: _Names) -> Markup:
    user = Markup("User {}").format(value(_row(change).get("username")))
    if change["op"] == "U" and any(name.endswith(NEVER_SHOWN) for name in _changed(change)):
        return Markup("{} has another password").format(user)
    return Markup("{} added").format(user) if change["op"] == "I" else _updated_or_removed(user, change)


def _updated_or_removed(subject: Markup, change: Change) -> Markup:
    if change["op"] == "D":
        return Markup("{} removed").format(subject)
    shown = {name for name in _changed(change) if not name.endswith(NEVER_SHOWN)}
    return Markup("{}: {}").format(subject, _cells(change, shown)) if shown else Markup("{} changed").format(subject)


def _anything(change: Change, names: _Names) -> Markup:
    return Markup("{} {} {}").format(change["table"], value(change["key"]), DONE[change["op"]])


TELLERS: dict[str, Callable[[Change, _Names], Markup]] = {
    "cattle": _animal,
    "weight_records": _weight,
    "pair_history": _pair,
    "batches": _batch,
    "pens": _pen,
    "lora_payload_buffer": _payload,
    "users": _user,
}
