"""The document's story with both processes running: a tag is read in the barn, and the office sees it. Rows typed in the shell likewise."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from farm_processes import Farm, audit, eventually

SOON = 1.0  # s from the payload to the page


def test_a_tag_read_in_the_barn_is_on_the_office_page_within_a_second(running_farm: Farm) -> None:
    farm = running_farm
    browser = farm.login()
    payload = "hxb:TEST001:LF999:UHF888"

    received_at = time.monotonic()  # 0:00 the radio's payload arrives
    answer = farm.post(payload)
    assert answer.status_code == 201 and answer.json()["success"], answer.text

    tags = "SELECT b.batch_number, b.source, b.source_type, c.cattle_id, c.lf_tag, c.uhf_tag, c.status"
    tags += " FROM cattle c JOIN batches b ON b.id=c.batch_id WHERE c.lf_tag='LF999'"
    story = "TEST001|Barn (HXB)|hxb|TEST001-LF999|LF999|UHF888|active"
    buffered = f"SELECT status, times_received FROM lora_payload_buffer WHERE raw_payload='{payload}'"
    assert farm.pi.sql(buffered) == "processed|1"
    assert farm.pi.sql(tags) == story

    eventually(lambda: farm.server.sql(tags) == story, SOON)
    assert farm.server.sql(buffered) == "processed|1"
    eventually(lambda: "TEST001" in farm.page(browser), SOON)
    assert time.monotonic() - received_at < SOON
    batch = farm.server.sql("SELECT id FROM batches WHERE batch_number='TEST001'")
    assert "TEST001-LF999" in farm.page(browser, f"/office/batches/{batch}")
    assert payload in farm.page(browser, "/office/payloads")

    again = farm.post(payload)
    assert again.status_code == 409 and not again.json()["success"] and again.json()["received_at"], again.text
    farm.assert_identical()
    assert farm.server.sql(buffered) == "processed|2"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"payload":"nonsense"}', 400),
        (b'{"payload":7}', 400),
        (b"{}", 400),
        (b"", 400),
        (b"no json at all", 400),
        (json.dumps({"payload": "hxb:B:L:" + "U" * 292}).encode(), 413),
    ],
)
def test_what_is_no_payload_is_refused_with_a_reason_and_nothing_is_stored(running_farm: Farm, body: bytes, status: int) -> None:
    before = running_farm.pi.sql("SELECT max(seq) FROM changelog")
    answer = running_farm.ask("POST", "/api/lora/receive", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["success"] is False and answer.json()["message"]
    assert running_farm.pi.sql("SELECT max(seq) FROM changelog") == before


def test_statements_typed_into_the_shell_reach_the_replica_in_order_and_both_audits_tell_the_same(running_farm: Farm) -> None:
    farm = running_farm
    before = int(farm.pi.sql("SELECT max(seq) FROM changelog"))
    for sql, expected in (
        ("INSERT INTO pens(pen_number, capacity) VALUES('P9', 40)", "P9|40"),
        ("UPDATE pens SET capacity=41 WHERE pen_number='P9'", "P9|41"),
        ("DELETE FROM pens WHERE pen_number='P9'", ""),
    ):
        farm.pi.sql(sql)
        eventually(lambda expected=expected: farm.server.sql("SELECT pen_number, capacity FROM pens WHERE pen_number='P9'") == expected)
    farm.assert_identical()
    story = audit(farm.pi.database, before, "seq, at, actor, tbl, op, key, col, old, new")
    assert audit(farm.server.database, before, "seq, at, actor, tbl, op, key, col, old, new") == story
    told = audit(farm.pi.database, before, f"seq-{before}, tbl, op, col, old, new").splitlines()
    assert [line for line in told if "capacity" in line] == ["1|pens|I|capacity||40", "2|pens|U|capacity|40|41", "3|pens|D|capacity|41|"]


def test_three_statements_in_one_line_of_the_shell_all_arrive(running_farm: Farm) -> None:
    farm = running_farm
    before = int(farm.pi.sql("SELECT max(seq) FROM changelog"))
    farm.pi.sql(
        """INSERT INTO pens(pen_number, capacity) VALUES('P8', 40); UPDATE pens SET capacity=41 WHERE pen_number='P8';
        DELETE FROM pens WHERE pen_number='P8'"""
    )
    farm.assert_identical()
    assert farm.server.sql(f"SELECT group_concat(op, '') FROM changelog WHERE seq>{before}") == "IUD"


def test_values_that_json_cannot_hold_arrive_to_the_bit(running_farm: Farm) -> None:
    farm = running_farm
    farm.pi.sql(
        """INSERT INTO batches(batch_number, notes) VALUES('EXACT', CAST(x'61ff62' AS TEXT));
        INSERT INTO batches(batch_number, notes) VALUES('NUL', 'a'||char(0)||'b');
        INSERT INTO batches(batch_number, notes) VALUES('BIG', '');
        UPDATE batches SET notes=x'00ff10', source=1<<60, source_type=9e999 WHERE batch_number='BIG';
        INSERT INTO cattle(batch_id, cattle_id, weight, notes, sex) VALUES(1, 'exact', 1<<60, x'00', 0.1);
        UPDATE cattle SET weight=-9e999, health_status='ü€😀', pen_id=NULL WHERE cattle_id='exact';
        UPDATE cattle SET weight=0.1+0.2 WHERE cattle_id='exact'"""
    )
    farm.assert_identical()
    notes = "SELECT typeof(notes), hex(notes) FROM batches WHERE batch_number IN ('EXACT','NUL','BIG') ORDER BY batch_number"
    assert farm.server.sql(notes) == "blob|00FF10\ntext|61FF62\ntext|610062"
    assert farm.server.sql("SELECT printf('%!.17g', weight) FROM cattle WHERE cattle_id='exact'") == "0.30000000000000004"
    farm.pi.sql("CREATE TABLE odd(id INTEGER PRIMARY KEY, v)")
    farm.assert_identical()
    farm.pi.sql("INSERT INTO odd(v) VALUES(1<<60),(x'00ff'),(9e999),(-9e999),(NULL)")
    farm.assert_identical()
    assert farm.server.sql("SELECT typeof(v), v FROM odd WHERE id IN (1,3,4)") == f"integer|{1 << 60}\nreal|Inf\nreal|-Inf"
    for path in ("/changes?limit=5000", "/full-export"):  # and the JSON of both is JSON, with the same values
        data = farm.ask("GET", f"/api/sync{path}", farm.api_key).json()["data"]
        assert [row["v"] for row in data["odd"]] == [{"i": str(1 << 60)}, {"b": "00ff"}, {"r": "inf"}, {"r": "-inf"}, None]
        assert {"t": "61ff62"} in [row["notes"] for row in data["batches"]]


@pytest.mark.parametrize("path", ["changes?after=0", "full-export"])
def test_jq_finds_the_batches_where_the_document_shows_them(running_farm: Farm, path: str) -> None:
    farm = running_farm
    farm.post("hxb:JQ001:LFJQ:UHFJQ")
    trusted = ["--cacert", str(farm.pi.data / "pi-cert.pem"), "-H", f"X-API-Key: {farm.api_key}"]
    body = subprocess.run(["curl", "-sS", *trusted, f"{farm.pi.url}/api/sync/{path}"], check=True, capture_output=True).stdout
    found = subprocess.run(["jq", ".data.batches"], input=body, check=True, capture_output=True).stdout
    (batch,) = (row for row in json.loads(found) if row["batch_number"] == "JQ001")
    named = ("id", "batch_number", "induction_date", "source", "source_type", "notes", "created_at", "updated_at")
    assert batch.keys() >= set(named)
    assert (batch["source"], batch["source_type"], batch["notes"]) == ("Barn (HXB)", "hxb", "Auto-created from LoRa payload")
    answer = json.loads(body)
    assert answer["success"] is True and answer["counts"].keys() == answer["data"].keys() >= {"batches", "cattle", "pens"}
    assert answer.keys() >= ({"timestamp", "next", "has_more"} if path.startswith("changes") else {"exported_at", "seq"})


def test_the_schema_and_the_health_of_the_pi_have_the_documents_fields(running_farm: Farm) -> None:
    schema = running_farm.sync("/schema")
    assert schema["success"] and schema["schema_version"] == "1.0" and schema["timestamp"]
    assert {"batches", "cattle", "lora_payload_buffer", "pens", "users"} <= set(schema["tables"])
    health = running_farm.ask("GET", "/api/sync/health").json()
    assert health["success"] and health["status"] == "ok"


def test_the_status_of_the_sync_has_the_documents_fields(running_farm: Farm) -> None:
    status = running_farm.status()
    counted = ("total_syncs", "successful_syncs", "failed_syncs", "total_records_synced")
    assert status["running"] is True and status["sync_interval"] == 0.5 and all(status[name] >= 0 for name in counted)
    assert status["state"] == "following" and status["last_error"] is None and status["last_sync_time"]


def test_changes_can_be_read_on_from_next_until_nothing_is_left(running_farm: Farm) -> None:
    farm = running_farm
    farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('PAGE1', 1),('PAGE2', 2),('PAGE3', 3)")
    after, seqs, more = 0, [], True
    while more:
        reply = farm.sync("/changes", after=after, limit=2)
        seqs += [change["seq"] for change in reply["changes"]]
        after, more = reply["next"], reply["has_more"]
    assert seqs == list(range(1, int(farm.pi.sql("SELECT max(seq) FROM changelog")) + 1))


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("since=2024-01-15T10:30:00", 400, "after"),
        ("limit=0", 400, "limit"),
        ("limit=5001", 400, "limit"),
        ("limit=-1", 400, "limit"),
        ("limit=many", 400, "limit"),
        ("after=-1", 400, "after"),
        ("after=yesterday", 400, "after"),
        ("after=999999999", 409, "head"),
        ("after=1&epoch=00000000000000000000000000000000&check=1", 409, "epoch"),
    ],
)
def test_a_question_that_cannot_be_answered_says_what_to_ask_instead(running_farm: Farm, query: str, status: int, says: str) -> None:
    answer = running_farm.ask("GET", f"/api/sync/changes?{query}", running_farm.api_key)
    assert answer.status_code == status and says in answer.json()["message"], answer.text
    assert answer.json()["success"] is False
    if status == 409:
        assert answer.json()["action"] == "resync" and answer.json()["head"] > 0


@pytest.mark.parametrize("limit", [1, 5000])
def test_the_bounds_of_limit_themselves_are_allowed(running_farm: Farm, limit: int) -> None:
    assert len(running_farm.sync("/changes", after=0, limit=limit)["changes"]) <= limit
