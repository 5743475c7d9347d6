"""Domain events: what log rows are called, and what of them is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from changelog_parts import make_primary, run_sql, shell

from changelog.connection import connect
from changelog.install import install, schema_changes
from changelog.node.events import MOST, Event, events_of
from changelog.primary import Primary
from changelog.reader import log_rows
from changelog.render import columns_of

FARM = Path(__file__).parents[1] / "pi" / "schema.sql"


def told(path: Path, after: int = 0) -> list[Event]:
    """The events of all log rows after seq `after`; they are ready for JSON."""
    db = connect(path, readonly=True)
    try:
        events = events_of(list(log_rows(db, "WHERE seq>? ORDER BY seq", (after,))), columns_of(db))
    finally:
        db.close()
    assert json.loads(json.dumps(events)) == [[name, facts] for name, facts in events]
    return events


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    return make_primary(tmp_path / "farm.db", FARM.read_text(), masks=["users.password_hash"])


def test_the_tables_of_the_farm_have_names_and_each_row_of_a_commit_is_an_event(farm: Path) -> None:
    shell(
        farm,
        """BEGIN;
        INSERT INTO batches(batch_number) VALUES('B1'); INSERT INTO pens(pen_number, capacity) VALUES('P1', 2);
        INSERT INTO cattle(batch_id, cattle_id) VALUES(1, 'C1'); INSERT INTO weight_records(cattle_id, weight) VALUES(1, 300);
        UPDATE cattle SET weight=300; DELETE FROM weight_records; DELETE FROM cattle;
        COMMIT;""",
    )
    names = [name for name, _ in told(farm)]
    assert names == [
        *("batch:created", "pen:created", "cattle:created", "weight:created", "cattle:updated"),
        *("weight:deleted", "cattle:deleted"),
    ]


def test_the_facts_of_an_event_are_those_of_the_json_api(farm: Path) -> None:
    shell(farm, "INSERT INTO pens(pen_number, capacity) VALUES('P1', 2); UPDATE pens SET capacity=3; DELETE FROM pens;")
    created, updated, deleted = (facts for _, facts in told(farm))
    assert set(created) == {"seq", "at", "actor", "table", "op", "key", "old", "new"}
    assert (created["table"], created["op"], created["key"], created["old"], created["new"]["capacity"]) == ("pens", "I", 1, {}, 2)
    assert (updated["old"]["capacity"], updated["new"]["capacity"], updated["actor"]) == (2, 3, None)
    assert "pen_number" not in updated["old"] and updated["new"]["pen_number"] == "P1"
    assert (deleted["new"], deleted["old"]["capacity"], deleted["seq"]) == ({}, 3, created["seq"] + 2)


def test_a_payload_is_received_and_processed(farm: Path) -> None:
    shell(
        farm,
        """INSERT INTO lora_payload_buffer(raw_payload, source_type, batch_number, lf_tag, uhf_tag, status)
        VALUES('hxb:B:L:U', 'hxb', 'B', 'L', 'U', 'received'), ('hxb:B:L:V', 'hxb', 'B', 'L', 'V', 'received');
        UPDATE lora_payload_buffer SET rssi=-40 WHERE id=1;
        UPDATE lora_payload_buffer SET status='processed' WHERE id=1;
        UPDATE lora_payload_buffer SET status='error' WHERE id=2;
        UPDATE lora_payload_buffer SET times_received=2 WHERE id=1;
        DELETE FROM lora_payload_buffer WHERE id=1;""",
    )
    assert [name for name, _ in told(farm)] == [
        *("payload:received", "payload:received", "payload:updated", "payload:processed", "payload:processed"),
        *("payload:updated", "payload:deleted"),
    ]


def test_a_table_of_that_name_without_a_status_is_just_a_table(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "x.db", "CREATE TABLE lora_payload_buffer(id INTEGER PRIMARY KEY, v)")
    shell(path, "INSERT INTO lora_payload_buffer VALUES(1, 1); UPDATE lora_payload_buffer SET v=2;")
    assert [name for name, _ in told(path)] == ["payload:received", "payload:updated"]


def test_masked_columns_are_hidden(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "x.db", "CREATE TABLE logins(name PRIMARY KEY, hash BLOB, note)", masks=["logins.hash"])
    shell(path, "INSERT INTO logins VALUES('a', x'5ec4e7', 'n'), ('b', NULL, NULL); UPDATE logins SET hash='secret'; DELETE FROM logins;")
    events = told(path)
    assert "secret" not in repr(events) and "5ec4e" not in repr(events)
    assert events[0].facts["new"] == {"name": "a", "hash": "***", "note": "n"}
    assert events[1].facts["new"]["hash"] is None
    assert events[2].facts["old"] == {"name": "a", "hash": "***"} and events[-1].facts["old"]["hash"] == "***"


def test_values_that_json_does_not_have_travel_in_envelopes(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "x.db", "CREATE TABLE odd(k PRIMARY KEY, v)")
    shell(
        path,
        """INSERT INTO odd VALUES(x'00ff', CAST(x'61ff' AS TEXT)), (9007199254740993, 9e999), (0.5, -0.0), ('t', 'ä');
        UPDATE changelog SET actor=x'ff' WHERE seq>1;""",
    )
    events = told(path)
    assert [name for name, _ in events] == ["odd:created"] * 4
    assert [facts["key"] for _, facts in events] == [{"b": "00ff"}, {"i": "9007199254740993"}, 0.5, "t"]
    assert [facts["new"]["v"] for _, facts in events] == [{"t": "61ff"}, {"r": "inf"}, 0.0, "ä"]
    assert str(events[2].facts["new"]["v"]) == "-0.0"
    assert all(facts["actor"] == {"b": "ff"} for _, facts in events)


def test_tables_with_any_name_and_any_kind_of_key(tmp_path: Path) -> None:
    schema = """CREATE TABLE "a:b ""c" (x, y, PRIMARY KEY(x, y)) WITHOUT ROWID; CREATE TABLE bare(v);
      CREATE TABLE strict_one(id INTEGER PRIMARY KEY, v TEXT, w TEXT AS (v || '!')) STRICT"""
    path = make_primary(tmp_path / "x.db", schema, "PRAGMA encoding='UTF-16'")
    shell(
        path,
        """INSERT INTO "a:b ""c" VALUES(1, 'q'); INSERT INTO bare VALUES(1); UPDATE bare SET v=2; INSERT INTO strict_one(v) VALUES('z');""",
    )
    events = told(path)
    assert [name for name, _ in events] == ['a:b "c:created', "bare:created", "bare:updated", "strict_one:created"]
    assert events[0].facts["new"] == {"x": 1, "y": "q"} and events[2].facts["old"] == {"v": 1}


def test_ddl_is_one_event_and_the_birth_of_a_log_none(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "x.db", "CREATE TABLE pens(pen TEXT PRIMARY KEY)")
    assert told(path) == []
    run_sql(path, "ALTER TABLE pens ADD COLUMN size")
    source = Primary(path)
    source.head()
    source.close()
    [(name, facts)] = told(path)
    assert name == "schema:changed" and facts["op"] == "X" and facts["table"] is None and (facts["old"], facts["new"]) == ({}, {})
    db = connect(path)
    with schema_changes(db):
        db.execute("CREATE TABLE more(x)")
    install(db)
    db.close()
    assert [name for name, _ in told(path)] == ["schema:changed"]  # two more births


def test_a_table_that_is_gone_is_told_by_the_columns_that_it_had(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "x.db", "CREATE TABLE pens(pen TEXT PRIMARY KEY, size)")
    shell(path, "INSERT INTO pens VALUES('A', 1); ALTER TABLE pens RENAME COLUMN size TO area;")
    source = Primary(path)
    source.head()
    source.close()
    shell(path, "UPDATE pens SET area=2;")
    news: list[dict[str, Any]] = [facts["new"] for name, facts in told(path) if name.startswith("pen:")]
    assert news == [{"pen": "A", "size": 1}, {"pen": "A", "area": 2}]


@pytest.mark.parametrize(("count", "single"), [(MOST, True), (MOST + 1, False)])
def test_many_rows_at_once_are_one_event(tmp_path: Path, count: int, single: bool) -> None:
    path = make_primary(tmp_path / "x.db", "CREATE TABLE pens(pen)")
    shell(path, f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{count}) INSERT INTO pens SELECT i FROM n;")
    events = told(path, 1)
    if single:
        assert len(events) == count and events[-1].facts["seq"] == 1 + count
    else:
        assert events == [("changes", {"first": 2, "last": 1 + count, "count": count})]
