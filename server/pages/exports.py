"""The lists as CSV files."""

from __future__ import annotations

from typing import Any

import apsw
from flask import Response, request

from changelog.connection import rows
from server.export import csv_answer, csv_of_parts
from server.login import signed_in
from server.office import office
from server.pages.animals import NOBODY, listed_animals
from server.pages.batches import ORDERS, listed_batches
from server.pages.cattle import wanted_cattle
from server.pages.payloads import streams_of, wanted_payloads
from server.pages.pens import BY_NUMBER, SORTS, count_animals, pens_of
from server.pages.routes import chosen_order, pages, search_text
from server.paging import Part, page_of_parts

PAYLOADS = """SELECT id, received_at, raw_payload, source_type, batch_number, lf_tag, uhf_tag, status, error_message,
  processed_at, rssi, snr, times_received FROM lora_payload_buffer WHERE """
COUNTS = "SELECT count(*), count(*) FILTER (WHERE status='active') FROM cattle WHERE batch_id=?"


@pages.get("/office/cattle.csv")
@signed_in
def cattle_csv(db: apsw.Connection) -> Response:
    """The animals that /office/cattle shows at this address."""
    _, wanted = wanted_cattle(db)
    listed = listed_animals(db, wanted) if wanted else NOBODY
    return csv_of_parts(db, "cattle", _folder(), listed.parts, ascending=listed.ascending)


@pages.get("/office/batches.csv")
@signed_in
def batches_csv(db: apsw.Connection) -> Response:
    """Likewise the batches, with how many animals are in each."""
    sort, descending = chosen_order(ORDERS, "-newest")
    for parts, _ in listed_batches(db, search_text(), sort):
        if page_of_parts(db, parts, {}, size=1).rows:
            break

    def counts(row: Any) -> tuple[Any, ...]:
        return rows(db, COUNTS, (row[0],))[0]

    return csv_of_parts(db, "batches", _folder(), parts, ascending=not descending, more=("animals", "active"), add=counts)


@pages.get("/office/pens.csv")
@signed_in
def pens_csv(db: apsw.Connection) -> Response:
    """Likewise the pens, with how many active animals stand in each."""
    sort, descending = chosen_order(SORTS, "number")
    if sort == "occupancy":
        found = pens_of(db, [row_id for _, row_id in office().tallies.pens_by_occupancy(db, descending)])
    else:
        found = page_of_parts(db, [BY_NUMBER], {}, ascending=not descending, size=2**31).rows
        count_animals(db, found)
    names = ("id", "pen_number", "capacity", "description", "animals")
    return csv_answer("pens", _folder(), [names, *([getattr(pen, name) for name in names] for pen in found)])


@pages.get("/office/payloads.csv")
@signed_in
def payloads_csv(db: apsw.Connection) -> Response:
    """The payloads that /office/payloads shows at this address."""
    streams = streams_of(wanted_payloads(request.args))
    part = Part(f"{PAYLOADS} ({' OR '.join(f'({where})' for where, _ in streams)})", [value for _, values in streams for value in values])
    return csv_of_parts(db, "payloads", _folder(), [part], ascending=False)


def _folder() -> Any:
    return office().settings.data_dir
