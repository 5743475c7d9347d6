"""What the radio sent: how much of it lately, what became of it, and each payload, however many there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import apsw
from flask import render_template, request

from changelog.connection import one
from changelog.errors import BadRequest
from server.login import signed_in
from server.office import office
from server.pages.bars import HOURS, PICTURE, Hour, bars
from server.pages.batches import forget_lost
from server.pages.routes import pages, without_blanks
from server.paging import Page, Row, Stream, page_of_streams, rows_of
from server.tallies import COUNTED

PAYLOAD_STATES = ("received", "processed", "error")
SOURCES = ("hxb", "hxe")
FILTERS = ("status", "source", "batch", "tag", "repeats")
LONGEST_FILTER = 255  # characters, as of a payload


@pages.get("/office/payloads")
@signed_in
def payloads(db: apsw.Connection) -> Any:
    """What the radio sent, the newest first, of one status, source, batch or tag, or of all. Raises BadRequest."""
    if (shorter := without_blanks("pages.payloads", FILTERS)) is not None:
        return shorter
    chosen = wanted_payloads(request.args)
    page = page_of_streams(db, "SELECT * FROM lora_payload_buffer", streams_of(chosen), request.args)
    _add_animals(db, page)
    forget_lost(db, page.rows)
    this = datetime.now(UTC).replace(minute=0, second=0, microsecond=0, tzinfo=None)
    hours = hours_of(db, this - timedelta(hours=HOURS - 1))
    return render_template(
        "payloads.html",
        page=page,
        chosen=chosen,
        status=chosen.get("status", ""),
        states=PAYLOAD_STATES,
        sources=SOURCES,
        counts={each: _some(db, each) if each != "processed" else None for each in PAYLOAD_STATES},
        hours=hours,
        bars=bars(hours, PAYLOAD_STATES),
        totals={each: sum(hour.counts.get(each, 0) for hour in hours) for each in PAYLOAD_STATES},
        counted=COUNTED,
        picture=PICTURE,
    )


def wanted_payloads(arguments: Mapping[str, str]) -> dict[str, str]:
    """The filters that are set at this address. Raises BadRequest."""
    chosen = {name: text for name in FILTERS if (text := arguments.get(name, "").strip())}
    if chosen.get("status", "received") not in PAYLOAD_STATES:
        raise BadRequest(f"A payload's status is one of {', '.join(PAYLOAD_STATES)}.")
    if chosen.get("source", "hxb") not in SOURCES:
        raise BadRequest(f"A payload's source is one of {', '.join(SOURCES)}.")
    for name, text in chosen.items():
        if len(text) > LONGEST_FILTER:
            raise BadRequest(f"What is typed as {name} is longer than any payload: {LONGEST_FILTER} characters at most.")
    return chosen


def streams_of(chosen: dict[str, str]) -> list[Stream]:
    """What is asked for, as conditions that an index answers each in the order of id; nothing long is left to be sieved."""
    few = "repeats" in chosen and not {"tag", "batch"} & set(chosen)  # those that came more than once have an index of their own
    plus = "+" if few else ""  # by which SQLite is told to leave the other indexes alone
    tests = {"status": f"{plus}status=?", "source": f"{plus}source_type=?", "batch": "batch_number=?"}
    rest: list[tuple[str, list[Any]]] = [(test, [chosen[name]]) for name, test in tests.items() if name in chosen]
    if "repeats" in chosen:
        rest.append(("times_received>1", []))
    if "tag" in chosen:
        drivers = [("lf_tag=?", [chosen["tag"]]), ("uhf_tag=?", [chosen["tag"]])]
    elif set(chosen) == {"source"}:  # behind the source its index has the status, and only behind that the ids in order
        drivers = [("status=?", [status]) for status in PAYLOAD_STATES]
    else:
        drivers = [("1", [])]
    streams: list[Stream] = []
    for test, values in drivers:
        parts = [(test, values), *rest]
        streams.append((" AND ".join(sql for sql, _ in parts), [value for _, bindings in parts for value in bindings]))
    return streams


def _add_animals(db: apsw.Connection, page: Page) -> None:
    """Add to each payload the animals that carry one of its tags now: (id, name)."""
    tags = sorted({tag for row in page.rows for tag in (row.lf_tag, row.uhf_tag) if isinstance(tag, str)})
    carried: dict[str, list[Row]] = {}
    for column in ("lf_tag", "uhf_tag"):
        sql = f"SELECT id, cattle_id, {column} AS tag FROM cattle WHERE {column} IN (SELECT value FROM json_each(?))"
        for animal in rows_of(db, sql, (json.dumps(tags),)):
            carried.setdefault(animal.tag, []).append(animal)
    for row in page.rows:
        found = {animal.id: animal.cattle_id for tag in (row.lf_tag, row.uhf_tag) for animal in carried.get(tag, [])}
        row.animals = sorted(found.items())


def hours_of(db: apsw.Connection, first: datetime) -> list[Hour]:
    """How many payloads came in each of the HOURS hours from `first` on (UTC, without a zone), by status; as far as it matters."""
    begins = [(first + timedelta(hours=n)).isoformat() for n in range(HOURS + 1)]
    spans = list(pairwise(begins))
    return [Hour(begin, counts) for (begin, _), counts in zip(spans, office().tallies.payloads_of(db, spans), strict=True)]


def _some(db: apsw.Connection, status: str) -> int | str:
    """How many payloads have this status, counted as far as it matters."""
    many = one(db, "SELECT count(*) FROM (SELECT 1 FROM lora_payload_buffer WHERE status=? LIMIT ?)", (status, COUNTED + 1))
    return many if many <= COUNTED else f"{COUNTED}+"
