"""What payloads mean for batches and animals."""

from __future__ import annotations

import pytest
from pi_parts import NOW, make_farm

from changelog.connection import connect, one
from changelog.errors import Conflict, NotFound
from pi import herd
from pi.lora import parse_payload

LATER = "2024-01-16T08:00:00"


@pytest.fixture
def db(tmp_path):
    db = connect(make_farm(tmp_path), foreign_keys=True)
    db.execute("BEGIN IMMEDIATE")
    yield db
    db.execute("ROLLBACK")
    db.close()


def receive(db, payload, now=NOW, **facts):
    return herd.receive(db, parse_payload(payload), now, **facts)


def animals(db):
    return db.execute(
        "SELECT c.cattle_id, b.batch_number, lf_tag, uhf_tag, status FROM cattle c JOIN batches b ON b.id=batch_id ORDER BY c.id"
    ).fetchall()


def test_an_unknown_pair_makes_its_batch_and_its_animal(db):
    stored = receive(db, "hxb:BATCH001:LF123:UHF456", rssi=-99, snr=4.5)
    assert (stored.status, stored.duplicate, stored.received_at, stored.times_received) == ("processed", False, NOW, 1)
    assert db.execute("SELECT batch_number, induction_date, source, source_type, notes, created_at FROM batches").fetchall() == [
        ("BATCH001", "2024-01-15", "Barn (HXB)", "hxb", "Auto-created from LoRa payload", NOW)
    ]
    assert db.execute("SELECT cattle_id, lf_tag, uhf_tag, status, sex, weight, induction_date FROM cattle").fetchall() == [
        ("BATCH001-LF123", "LF123", "UHF456", "active", None, None, NOW)
    ]
    columns = "raw_payload, status, batch_id, processed_at, rssi, snr, times_received"
    assert db.execute(f"SELECT {columns} FROM lora_payload_buffer").fetchall() == [
        ("hxb:BATCH001:LF123:UHF456", "processed", 1, NOW, -99.0, 4.5, 1)
    ]


def test_a_known_pair_moves_to_the_batch_that_it_is_in_now(db):
    receive(db, "hxb:B1:L1:U1")
    receive(db, "hxb:B2:L1:U1", LATER)
    assert animals(db) == [("B1-L1", "B2", "L1", "U1", "active")]
    assert one(db, "SELECT count(*) FROM pair_history") == 0


def test_one_known_tag_is_a_re_pairing_and_the_old_pair_becomes_history(db):
    receive(db, "hxb:B1:L1:U1")
    receive(db, "hxb:B1:L1:U2", LATER)
    receive(db, "hxb:B1:L2:U2", "2024-01-17T00:00:00")
    assert animals(db) == [("B1-L1", "B1", "L2", "U2", "active")]
    assert db.execute("SELECT cattle_id, lf_tag, uhf_tag, paired_at, unpaired_at, updated_by FROM pair_history").fetchall() == [
        (1, "L1", "U1", NOW, LATER, "lora"),
        (1, "L1", "U2", LATER, "2024-01-17T00:00:00", "lora"),
    ]


def test_tags_of_two_animals_end_in_error_naming_both(db):
    receive(db, "hxb:B1:L1:U1")
    receive(db, "hxb:B1:L2:U2")
    stored = receive(db, "hxb:B9:L1:U2")
    assert stored.status == "error"
    assert "B1-L1" in stored.error_message
    assert "B1-L2" in stored.error_message
    assert one(db, "SELECT count(*) FROM batches WHERE batch_number='B9'") == 0
    assert len(animals(db)) == 2


def test_an_error_that_is_sent_again_is_pending_again_and_can_succeed(db):
    receive(db, "hxb:B1:L1:U1")
    receive(db, "hxb:B1:L2:U2")
    failed = receive(db, "hxb:B1:L1:U2")
    db.execute("UPDATE cattle SET uhf_tag=NULL WHERE lf_tag='L2'")
    again = receive(db, "hxb:B1:L1:U2", LATER)
    assert (again.id, again.status, again.duplicate, again.received_at, again.times_received) == (failed.id, "processed", False, NOW, 2)
    assert one(db, "SELECT error_message FROM lora_payload_buffer WHERE id=?", (failed.id,)) is None
    assert animals(db)[0] == ("B1-L1", "B1", "L1", "U2", "active")


def test_a_repetition_is_counted_and_tells_when_it_came_first(db):
    first = receive(db, "hxb:B1:L1:U1")
    second = receive(db, "hxb:B1:L1:U1", LATER)
    assert (second.duplicate, second.id, second.received_at, second.times_received) == (True, first.id, NOW, 2)
    assert one(db, "SELECT count(*) FROM lora_payload_buffer") == 1


def test_after_a_re_pairing_the_old_pair_may_come_again(db):
    receive(db, "hxb:B1:L1:U1")
    receive(db, "hxb:B1:L1:U2", LATER)
    back = receive(db, "hxb:B1:L1:U1", "2024-01-17T00:00:00")
    assert (back.duplicate, back.status) == (False, "processed")
    assert animals(db) == [("B1-L1", "B1", "L1", "U1", "active")]


def test_an_export_makes_its_batch_and_the_animal_exported(db):
    receive(db, "hxb:B1:L1:U1")
    receive(db, "hxe:X1:L1:U1", LATER)
    assert animals(db) == [("B1-L1", "B1", "L1", "U1", "exported")]
    assert db.execute("SELECT source, source_type FROM batches WHERE batch_number='X1'").fetchall() == [("Export (HXE)", "hxe")]
    assert one(db, "SELECT b.batch_number FROM lora_payload_buffer p JOIN batches b ON b.id=p.batch_id ORDER BY p.id DESC") == "X1"


def test_an_unknown_animal_is_exported_in_the_export_batch(db):
    receive(db, "hxe:X1:L1:U1")
    assert animals(db) == [("X1-L1", "X1", "L1", "U1", "exported")]


def test_an_exported_animal_that_is_inducted_again_is_active(db):
    receive(db, "hxe:X1:L1:U1")
    receive(db, "hxb:B1:L1:U1", LATER)
    assert animals(db) == [("X1-L1", "B1", "L1", "U1", "active")]


def test_a_tag_that_comes_on_another_animal_of_the_batch_gets_another_name(db):
    receive(db, "hxb:B1:L1:U1")
    receive(db, "hxb:B1:L2:U1", LATER)
    receive(db, "hxb:B1:L1:U3", LATER)
    assert [animal[0] for animal in animals(db)] == ["B1-L1", "B1-L1-2"]


def test_a_payload_that_changes_nothing_writes_nothing_about_its_animal(db):
    receive(db, "hxb:B1:L1:U1")
    receive(db, "hxb:B2:L1:U1")
    db.execute("INSERT INTO lora_payload_buffer(raw_payload) VALUES('hxb:B2:L1:U1')")
    before = one(db, "SELECT max(seq) FROM changelog")
    assert herd.process_received(db, 10, LATER) == 1
    assert db.execute("SELECT op, tbl FROM changelog WHERE seq>?", (before,)).fetchall() == [("U", "lora_payload_buffer")]


def test_what_a_shell_put_into_the_buffer_is_processed_or_ends_in_error(db):
    db.execute("INSERT INTO lora_payload_buffer(raw_payload) VALUES('hxb:B1:L1:U1'), ('nonsense'), (x'ff00'), (7), (CAST(x'ff' AS TEXT))")
    db.execute("INSERT INTO lora_payload_buffer(raw_payload) VALUES(?)", ("x" * 300,))
    assert herd.process_received(db, 10, NOW) == 6
    assert [status for (status,) in db.execute("SELECT status FROM lora_payload_buffer")] == ["processed", *["error"] * 5]
    assert one(db, "SELECT count(*) FROM lora_payload_buffer WHERE status='error' AND error_message IS NULL") == 0
    assert not herd.any_received(db)


def test_a_constraint_of_the_farmers_own_ends_one_payload_in_error_and_undoes_all_of_it(db):
    db.execute("CREATE TEMP TRIGGER no_nines BEFORE INSERT ON cattle WHEN NEW.lf_tag='L9' BEGIN SELECT raise(ABORT, 'no nines here'); END")
    stored = receive(db, "hxb:NEW:L9:U9")
    assert (stored.status, "no nines here" in stored.error_message) == ("error", True)
    assert one(db, "SELECT count(*) FROM batches") == 0


def test_pens_are_made_changed_and_deleted_when_empty(db):
    pen = herd.add_pen(db, "P9", 40, None, NOW)
    assert (pen["pen_number"], pen["capacity"], pen["created_at"]) == ("P9", 40, NOW)
    with pytest.raises(Conflict, match="P9"):
        herd.add_pen(db, "P9", 1, None, NOW)
    changed = herd.change_pen(db, pen["id"], {"capacity": 41}, LATER)
    assert (changed["capacity"], changed["updated_at"], changed["created_at"]) == (41, LATER, NOW)
    receive(db, "hxb:B1:L1:U1")
    db.execute("UPDATE cattle SET pen_id=?", (pen["id"],))
    with pytest.raises(Conflict, match="1 animals"):
        herd.delete_pen(db, pen["id"])
    db.execute("UPDATE cattle SET pen_id=NULL")
    assert herd.delete_pen(db, pen["id"])["pen_number"] == "P9"
    with pytest.raises(NotFound):
        herd.change_pen(db, pen["id"], {"capacity": 1}, LATER)


def test_a_weight_is_recorded_and_only_the_newest_stands_on_the_animal(db):
    receive(db, "hxb:B1:L1:U1")
    herd.record_weight(db, 1, 412.5, recorded_at=LATER, recorded_by="scale", now=LATER)
    herd.record_weight(db, 1, 390.0, recorded_at=NOW, recorded_by="scale", now=LATER)
    assert one(db, "SELECT weight FROM cattle") == 412.5
    assert one(db, "SELECT count(*) FROM weight_records") == 2
    with pytest.raises(NotFound):
        herd.record_weight(db, 99, 1.0, recorded_at=NOW, recorded_by=None, now=NOW)
