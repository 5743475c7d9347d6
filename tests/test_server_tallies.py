"""What pages count of the whole farm is kept up by the log, and is what a fresh count gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest
from office_farm import make_replica, move_position
from office_pages import Office

from changelog.connection import connect, rows
from server.clock import utc_text
from server.office import Office as Parts
from server.state import SyncState
from server.tallies import COUNTED, Tallies
from server.tally import RECOUNT

pytestmark = pytest.mark.usefixtures("patience")

SPANS = [(f"2026-11-20T{hour:02}:00:00", f"2026-11-20T{hour + 1:02}:00:00") for hour in range(6, 9)]
PAYLOAD = "INSERT INTO lora_payload_buffer(raw_payload, source_type, batch_number, status, received_at) VALUES('hxb:B:L:U', 'hxb', 'B', {})"


def counted(db: apsw.Connection) -> tuple[dict[str, int], dict[int | None, int]]:
    statuses = dict(rows(db, "SELECT status, count(*) FROM cattle GROUP BY status"))
    return statuses, dict(rows(db, "SELECT pen_id, count(*) FROM cattle WHERE status='active' GROUP BY pen_id"))


STEPS = (
    "INSERT INTO cattle(batch_id, cattle_id, pen_id) VALUES(1, 'new', 2)",
    "UPDATE cattle SET status='sold' WHERE id=2",
    "UPDATE cattle SET pen_id=2 WHERE id<4",
    "UPDATE cattle SET weight=3 WHERE id<9",
    "DELETE FROM cattle WHERE id IN (3, 8)",
    "INSERT OR REPLACE INTO cattle(id, batch_id, cattle_id, status) VALUES(1, 1, 'other', 'exported')",
    "UPDATE cattle SET id=900 WHERE id=5",
    "UPDATE cattle SET status=CAST(x'ff' AS TEXT), pen_id='many' WHERE id=6",
    "DELETE FROM cattle",
)


def test_counts_move_on_with_the_changelog_and_are_those_of_a_fresh_count(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db")
    tallies, asked = Tallies(SyncState(30.0)), []
    tallies.herd(db)
    db.set_exec_trace(lambda cursor, sql, bindings: asked.append(sql) is None)
    for sql in STEPS:
        with db:
            db.execute(sql)
        move_position(db)
        asked.clear()
        herd = tallies.herd(db)
        assert not any("GROUP BY" in each for each in asked), "counted anew, not moved on"
        if "ff" not in sql:
            assert (herd.statuses, herd.pens) == counted(db)
        else:
            assert herd.statuses["\ufffd"] == 1
    db.close()


def test_counts_are_right_again_after_what_the_log_does_not_tell(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db")
    now = [0.0]
    state = SyncState(30.0)
    tallies = Tallies(state, lambda: now[0])
    triggers = rows(db, "SELECT name FROM sqlite_schema WHERE type='trigger'")
    assert tallies.herd(db).animals == 12
    for (name,) in triggers:
        db.execute(f'DROP TRIGGER "{name}"')
    tallies.herd(db)
    db.execute("DELETE FROM cattle WHERE id=1")  # as a repair does
    assert tallies.herd(db).animals == 12
    state.verified("1 row repaired", utc_text(), True)
    assert tallies.herd(db).animals == 11
    db.execute("DELETE FROM cattle WHERE id=2")
    now[0] += RECOUNT + 1
    assert tallies.herd(db).animals == 10
    db.execute("UPDATE changelog_position SET epoch='another'")
    db.execute("DELETE FROM cattle WHERE id=3")
    assert tallies.herd(db).animals == 9
    db.close()


def test_a_page_of_an_older_snapshot_has_the_counts_of_that(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db")
    tallies, old = Tallies(SyncState(30.0)), connect(tmp_path / "replica.db", readonly=True)
    old.execute("BEGIN")
    assert tallies.herd(old).animals == 12
    with db:
        db.execute("DELETE FROM cattle WHERE id=1")
    move_position(db)
    assert tallies.herd(db).animals == 11
    assert tallies.herd(old).animals == 12
    assert tallies.herd(db).animals == 11
    old.close()
    db.close()


def test_the_office_shares_one_count(office: Office) -> None:
    parts: Parts = office.app.extensions["office"]
    client = office.client()
    client.get("/office/pens")
    first = parts.tallies._herd._known
    client.get("/office/cattle")
    assert parts.tallies._herd._known is first is not None


PEN_STEPS = (
    "UPDATE pens SET capacity=4 WHERE id=1",
    "UPDATE cattle SET pen_id=2 WHERE id<6",
    "UPDATE pens SET capacity='many' WHERE id=2",
    "INSERT INTO pens(pen_number, capacity) VALUES('new', 1), ('no room', 0), ('unknown', '')",
    "INSERT INTO cattle(batch_id, cattle_id, pen_id) SELECT 1, 'in the new one', max(id)-2 FROM pens",
    "UPDATE pens SET id=77 WHERE id=1",
    "DELETE FROM pens WHERE id=2",
)


def test_the_order_of_the_pens_is_that_of_a_fresh_count_after_each_change(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db")
    state = SyncState(30.0)
    tallies = Tallies(state)
    tallies.pens_by_occupancy(db)
    for sql in PEN_STEPS:
        with db:
            db.execute(sql)
        move_position(db)
        for descending in (True, False):
            assert tallies.pens_by_occupancy(db, descending) == Tallies(state).pens_by_occupancy(db, descending), sql
    db.close()


NOT_OF_PENS = (
    "UPDATE cattle SET weight=7",
    "UPDATE pens SET description='by the gate'",
    PAYLOAD.format("'processed', '2026-11-20T07:10:00'"),
)


def test_the_pens_are_put_in_order_only_after_a_change_that_concerns_them(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db")
    tallies = Tallies(SyncState(30.0))
    made = tallies.pens_by_occupancy(db)
    for sql in NOT_OF_PENS:
        with db:
            db.execute(sql)
        move_position(db)
        assert tallies.pens_by_occupancy(db) is made
    with db:
        db.execute("UPDATE cattle SET pen_id=2 WHERE id=1")
    move_position(db)
    assert tallies.pens_by_occupancy(db) is not made
    db.close()


PAYLOAD_STEPS = (
    PAYLOAD.format("'processed', '2026-11-20T07:10:00'"),
    PAYLOAD.format("'error', '2026-11-20T07:59:59'") + ", ('hxe:B:L:U', 'hxe', 'B', 'received', '2026-11-20T08:00:00')",
    "UPDATE lora_payload_buffer SET status='processed' WHERE status='error'",
    "UPDATE lora_payload_buffer SET received_at='2026-11-20T06:30:00' WHERE status='received'",
    "UPDATE lora_payload_buffer SET received_at='2026-11-20T07' WHERE source_type='hxe'",  # which in the order of texts is before 07:00:00
    "UPDATE lora_payload_buffer SET received_at=7, status='error' WHERE source_type='hxe'",
    "DELETE FROM lora_payload_buffer",
)


def test_the_payloads_of_an_hour_are_those_of_a_fresh_count_after_each_change(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db")
    tallies = Tallies(SyncState(30.0))
    assert tallies.payloads_of(db, SPANS) == [{}, {}, {}]
    seen: list[Any] = []
    for sql in PAYLOAD_STEPS:
        with db:
            db.execute(sql)
        move_position(db)
        seen.append(tallies.payloads_of(db, SPANS))
        assert seen[-1] == [by_status(db, *span) for span in SPANS], sql
    assert len({str(each) for each in seen}) == len(seen) - 1, "a step that changes nothing shows nothing"
    db.close()


def by_status(db: apsw.Connection, begin: str, end: str) -> dict[str, int]:
    times = "typeof(received_at)='text' AND received_at>=? AND received_at<?"
    sql = f"SELECT status, count(*) FROM lora_payload_buffer WHERE {times} GROUP BY status"
    return dict(rows(db, sql, (begin, end)))


def test_only_the_hours_of_changed_payloads_are_counted_again(tmp_path: Path) -> None:
    db, asked = make_replica(tmp_path / "replica.db"), []
    tallies = Tallies(SyncState(30.0))
    tallies.payloads_of(db, SPANS)
    with db:
        db.execute(PAYLOAD.format("'processed', '2026-11-20T07:10:00'"))
    move_position(db)
    db.set_exec_trace(lambda cursor, sql, bindings: asked.append((sql, bindings)) is None)
    tallies.payloads_of(db, SPANS)
    assert [bindings for sql, bindings in asked if "GROUP BY" in sql] == [(*SPANS[1], COUNTED)]
    db.close()


def test_after_a_change_of_the_schema_all_is_counted_anew(tmp_path: Path) -> None:
    db, asked = make_replica(tmp_path / "replica.db"), []
    tallies = Tallies(SyncState(30.0))
    tallies.herd(db)
    db.execute("UPDATE cattle SET status='sold' WHERE id=2; ALTER TABLE cattle ADD COLUMN breed TEXT")
    move_position(db)
    db.set_exec_trace(lambda cursor, sql, bindings: asked.append(sql) is None)
    assert tallies.herd(db).statuses == {"active": 11, "sold": 1}
    assert any("GROUP BY" in each for each in asked), "moved on by rows of another schema"
    db.close()
