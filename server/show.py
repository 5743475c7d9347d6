"""How values look on a page: times, counts, values of the changelog, and the sentences about replication."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from flask import Flask, url_for
from markupsafe import Markup

from changelog.values import RawText
from server.native import native, typed
from server.paging import Row
from server.state import Facts

NOTHING = "\N{EN DASH}"  # in place of a value that is not known
LONGEST_VALUE = 40  # characters of a changed value
NEVER_SHOWN = "password_hash"  # how the names of columns end that are shown nowhere, even where nobody masked them
OWN_COLUMNS = ("id", "created_at", "updated_at")  # say nothing beside the line that they stand in
NOUNS = {
    "batches": "batch",
    "pens": "pen",
    "cattle": "animal",
    "users": "user",
    "lora_payload_buffer": "payload",
    "weight_records": "weight",
}
VERBS = {"I": "added", "U": "changed", "D": "removed"}

STATE_WORDS = {
    "starting": "Starting",
    "bootstrapping": "Fetching a copy",
    "following": "Following the Pi",
    "snapshots": "Following by whole copies",
    "stale": "Stale",
    "refused": "Refused",
    "pages-only": "Pages only",
}


def install_filters(app: Flask) -> None:
    """The filters and functions that the templates use."""
    filters = app.jinja_env.filters
    filters.update(moment=moment, count=count, size=size, span=span, since=since, measure=measure, gain=gain, value=value, words=words)
    filters.update(native=native, typed=typed, columns=columns, called=called)
    app.jinja_env.globals.update(asset=asset, address=address, state_word=state_word, replication_note=replication_note)


def columns(rows: Iterable[Any], *names: str) -> Iterator[tuple[Any, ...]]:
    """These columns of each row, two or more: for a loop over many rows, since looking each up by its name is dear in a template."""
    return map(attrgetter(*names), rows)


@lru_cache(maxsize=8_192, typed=True)
def moment(text: Any, kind: Literal["minute", "second", "age"] = "minute") -> str | Markup:
    """A UTC text of the database as <time>, exact in its title: the script shows it in the viewer's zone, or as an age.

    The latest ones are kept: a page that keeps itself fresh shows the same times again and again.
    """
    if text is None:
        return NOTHING
    try:
        at = datetime.fromisoformat(str(text))
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter: in UTC it is before the year 1, or after 9999
        return str(text_of(text))
    iso = at.isoformat()[:19]  # several times quicker than strftime, and a page has fifty of them
    exact = f"{iso[:10]} {iso[11:]} UTC"
    shown = exact if kind == "second" else f"{exact[:16]} UTC"
    return Markup(f'<time datetime="{iso}Z" title="{exact}" data-show="{kind}">{shown}</time>')


def count(number: int | None) -> str:
    """1234567 as 1 234 567, with thin spaces."""
    return NOTHING if number is None else f"{number:,}".replace(",", "\u202f")


def measure(found: Any, unit: str) -> str:
    """A measured value with its unit, or what else stands in its place."""
    if found is None:
        return NOTHING
    return f"{found:g}\u00a0{unit}" if isinstance(found, (int, float)) else text_of(found)


def gain(found: float | None) -> str:
    """A gain of weight in kg a day."""
    return NOTHING if found is None else f"{found:+.2f}\u00a0kg"


def called(name: Any, row_id: Any) -> Any:
    """The name of a row, for a link to it; of one whose name has nothing to be seen, its id."""
    return name if name and not (type(name) is str and name.isspace()) else f"#{row_id}"


def text_of(found: Any) -> Any:
    """What a template prints for any value: of a BLOB, its length; of text that is not UTF-8, what can be read of it."""
    if isinstance(found, RawText):
        return found.decode(errors="replace")
    return f"blob of {size(len(found))}" if isinstance(found, bytes) else found


def size(number: int | None) -> str:
    """Bytes for people."""
    amount = float(number or 0)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def span(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit, unit, length in ((90, "s", 1), (5400, "min", 60), (129_600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def since(seconds: float | None) -> str | Markup:
    """How long something has lasted; the script keeps it up to date."""
    if seconds is None:
        return NOTHING
    began = datetime.now(UTC) - timedelta(seconds=seconds)
    exact = f"since {began:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}" data-show="span">{}</time>').format(f"{began:%Y-%m-%dT%H:%M:%SZ}", exact, span(seconds))


def value(found: Any, longest: int = LONGEST_VALUE) -> str:
    """One value of a row, as an auditor reads it, cut after so many characters."""
    if found is None:
        return "nothing"
    text = str(text_of(found))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def words(change: Row) -> str:
    """What a change did, without its subject: `changed animal 7: weight 250 → 260`."""
    verb = VERBS.get(change.op)
    if verb is None:
        return {"B": "began a new log", "X": "changed the schema"}.get(change.op, f"recorded {change.op}")
    parts = [_part(change.op, *column) for column in change.columns if column[0] not in OWN_COLUMNS]
    told = ", ".join(part for part in parts if part)
    return f"{verb} {NOUNS.get(change.tbl, change.tbl)} {value(change.key)}{': ' if told else ''}{told}"


def _part(op: str, column: str, old: Any, new: Any) -> str:
    if op == "U":
        return f"{column} {value(old)} → {value(new)}"
    found = new if op == "I" else old
    return "" if found is None else f"{column} {value(found)}"


def state_word(facts: Facts) -> str:
    """What the replica does, in a word or two."""
    return "Following the bucket" if facts.source == "bucket" and facts.state == "following" else STATE_WORDS[facts.state]


def replication_note(facts: Facts) -> str | Markup:
    """One sentence about how the rows of this page relate to the Pi's."""
    if facts.state == "pages-only":
        return "This server does not follow the Pi (IS_SERVER_UI=False)."
    if facts.state == "bootstrapping":
        done, total = facts.progress or (0, None)
        return f"{size(done)} of {size(total)} have arrived." if total else f"{size(done)} have arrived."
    if facts.source == "bucket" and facts.state == "following":
        return _of_the_bucket(facts)
    if facts.state == "snapshots":
        return f"Changes could not be repeated here, so whole copies are fetched from time to time. {facts.last_error}"
    return facts.alarm or facts.last_error or _lag(facts)


def _of_the_bucket(facts: Facts) -> Markup:
    """Where the rows come from, and how old they are."""
    why = f"The Pi cannot be reached ({facts.bucket_why}), so the rows" if facts.bucket_why else "The rows"
    text = Markup("{} {} come from the bucket that the Pi ships to: they are those of {}.")
    return text.format(facts.alarm or "", why, moment(facts.bucket_at, "age"))


def _lag(facts: Facts) -> str | Markup:
    if facts.state in ("stale", "refused"):
        whose = "bucket" if facts.source == "bucket" else "Pi"
        return Markup("The {} has not answered for {}.").format(whose, since(facts.silent_seconds))
    if facts.state == "starting":
        return "This server has just started, and asks the Pi what is new."
    if facts.lag_changes and facts.fetched:
        return f"{count(facts.lag_changes)} changes behind, {count(facts.fetched - (facts.seq or 0))} of them have arrived."
    if facts.lag_changes:
        return f"{count(facts.lag_changes)} changes behind."
    return "Up to date." if facts.lag_changes == 0 else ""


@cache
def address(endpoint: str) -> str:
    """The address of a page that needs nothing else: `url_for`, which takes its time, asked once."""
    return url_for(endpoint)


@cache
def asset(name: str) -> str:
    """The address of a static file, which changes with the file so that browsers may keep it."""
    changed = os.stat(Path(__file__).with_name("static") / name).st_mtime_ns
    return url_for("static", filename=name, v=f"{changed // 1_000_000:x}")
