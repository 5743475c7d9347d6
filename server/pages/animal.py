"""One animal: what is known of it now, its weights, tags and whereabouts, and its whole history from the changelog."""

from __future__ import annotations

from typing import Any

import apsw
from flask import render_template, request

from changelog.errors import NotFound
from server.history import Named, history_page, last_known, names_of, stays_of
from server.login import signed_in
from server.pages.animals import ALL
from server.pages.batches import forget_lost
from server.pages.routes import ROW_ID, pages
from server.paging import Row, rows_of
from server.plot import daily_gain, plot_of, weighing
from server.show import value

WEIGHINGS = 100  # the newest ones, in the plot and in the table
PAIRS = 50
PAYLOADS = 10
MOST_TAGS = 20  # whose payloads are looked for


@pages.get(f"/office/cattle/<{ROW_ID}:number>")
@signed_in
def animal(db: apsw.Connection, number: int) -> str:
    """One animal, or what the changelog still knows of one that was removed. Raises NotFound."""
    found = rows_of(db, f"{ALL} c.id=?", (number,))
    gone = None if found else last_known(db, number)
    if not found and gone is None:
        raise NotFound("There is no such animal, and the changelog has never known one with this id.")
    shown = found[0] if found else gone_animal(number, gone)
    weights, plot = weights_of(db, number)
    pairs = rows_of(db, f"SELECT * FROM pair_history WHERE cattle_id=? ORDER BY unpaired_at DESC, id DESC LIMIT {PAIRS}", (number,))
    now = {"pen_id": shown.pen_id, "batch_id": shown.batch_id} if found else None
    return render_template(
        "animal.html",
        animal=shown,
        gone=gone,
        weights=weights,
        weighings=WEIGHINGS,
        plot=plot,
        pairs=pairs,
        stays=named_stays(db, number, now),
        payloads=payloads_of(db, [shown, *pairs]),
        history=history_page(db, number, request.args),
    )


def gone_animal(number: int, gone: Any) -> Row:
    """The columns of an animal that is not there any more, as far as the log has them."""
    names = ("cattle_id", "lf_tag", "uhf_tag", "sex", "weight", "health_status", "status", "induction_date", "batch_id", "pen_id", "notes")
    shown = Row(id=number, batch_number=None, pen_number=None, **{name: gone.values.get(name) for name in names})
    shown.cattle_id = f"#{number}" if shown.cattle_id is None else shown.cattle_id
    return shown


def weights_of(db: apsw.Connection, number: int) -> tuple[list[Row], Any]:
    """The newest weighings, newest first, each with its `gain` (kg a day) since the one before, and their plot."""
    newest = f"""SELECT id, weight, recorded_at, recorded_by FROM weight_records WHERE cattle_id=?
                 ORDER BY recorded_at DESC, id DESC LIMIT {WEIGHINGS}"""
    found = rows_of(db, newest, (number,))
    before, known = None, []
    for row in reversed(found):
        row.gain = None
        if (now := weighing(row.recorded_at, row.weight)) is not None:
            row.gain = daily_gain(before, now) if before else None
            before = now
            known.append(now)
    return found, plot_of(sorted(known))


def named_stays(db: apsw.Connection, number: int, now: Any) -> list[tuple[Any, Named]]:
    """Each stay, and what its pen or batch is called."""
    stays = stays_of(db, number, now)
    names = {
        kind: names_of(db, table, f"{kind}_number", [stay.number for stay in stays if stay.kind == kind])
        for kind, table in (("pen", "pens"), ("batch", "batches"))
    }
    return [(stay, names[stay.kind].get(stay.number, Named(f"#{value(stay.number)}", False))) for stay in stays]


def payloads_of(db: apsw.Connection, pairs: list[Row]) -> list[Row]:
    """The newest payloads that named one of these tags."""
    sql = """SELECT id, received_at, raw_payload, batch_id, batch_number, status, error_message FROM lora_payload_buffer
             WHERE {}=? ORDER BY id DESC LIMIT ?"""
    found: dict[int, Row] = {}
    for column in ("lf_tag", "uhf_tag"):
        tags = dict.fromkeys(getattr(pair, column) for pair in pairs[:MOST_TAGS])
        for tag in tags:
            if tag is not None:
                found |= {row.id: row for row in rows_of(db, sql.format(column), (tag, PAYLOADS))}
    newest = sorted(found.values(), key=lambda row: -row.id)[:PAYLOADS]
    forget_lost(db, newest)
    return newest
