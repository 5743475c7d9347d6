"""Schema changes typed into the Pi's shell while both roles run: followed by replay, or by one bootstrap; no row is missed."""

from __future__ import annotations

import pytest
from farm_processes import Farm, eventually

PEN = "INSERT INTO pens(pen_number, capacity) VALUES('{0}', 7)"

CHANGES = {
    "add column": "ALTER TABLE cattle ADD COLUMN breed TEXT DEFAULT 'Angus'; UPDATE cattle SET breed='Hereford' WHERE id%2",
    "rename column": "ALTER TABLE pens RENAME COLUMN description TO remark; UPDATE pens SET remark='as typed'",
    "create table": "CREATE TABLE feed(id INTEGER PRIMARY KEY, kind TEXT UNIQUE, kg REAL); INSERT INTO feed(kind, kg) VALUES('hay', 12.5)",
    "without rowid": "CREATE TABLE gates(name TEXT PRIMARY KEY, open) WITHOUT ROWID; INSERT INTO gates VALUES('north', 1), ('south', 0)",
    "without key": "CREATE TABLE moves(gate TEXT, at TEXT); INSERT INTO moves VALUES('north', 'a'), ('north', 'a'), (NULL, NULL)",
    "create index": """BEGIN; CREATE UNIQUE INDEX pens_described ON pens(description) WHERE description IS NOT NULL;
        UPDATE pens SET capacity=8; COMMIT""",
    "view and trigger": """BEGIN; CREATE VIEW heavy AS SELECT * FROM cattle WHERE weight>400;
        CREATE TRIGGER stamp AFTER UPDATE OF notes ON cattle BEGIN UPDATE cattle SET updated_at='moved' WHERE id=NEW.id; END;
        UPDATE cattle SET notes='by hand' WHERE id=1; COMMIT""",
    "vacuum": "DELETE FROM cattle WHERE id%3=0; VACUUM; UPDATE cattle SET weight=400",
    "drop table": """BEGIN; CREATE TABLE brief(id INTEGER PRIMARY KEY); INSERT INTO brief VALUES(1); DROP TABLE brief; COMMIT;
        UPDATE cattle SET weight=2""",
    "rename table": "ALTER TABLE weight_records RENAME TO scales; INSERT INTO scales(cattle_id, weight) VALUES(1, 300)",
    "rebuild": """BEGIN; CREATE TABLE pens_new(id INTEGER PRIMARY KEY, pen_number TEXT NOT NULL UNIQUE, capacity REAL, description TEXT,
          created_at TEXT, updated_at TEXT);
        INSERT INTO pens_new SELECT * FROM pens; DROP TABLE pens; ALTER TABLE pens_new RENAME TO pens;
        UPDATE pens SET capacity=1.5; COMMIT""",
}


# What the log cannot hold exactly: rows written under a unique index or trigger that capture did not know yet, a table that came and
# went before anybody looked, a rebuild. In a transaction, for else the Pi may look in between and know them in time.
BY_BOOTSTRAP = {"create index", "view and trigger", "drop table", "rebuild"}


@pytest.mark.parametrize("change", CHANGES)
def test_ddl_typed_into_the_shell_is_followed_and_loses_no_row_behind_it(farm: Farm, change: str) -> None:
    farm.fill(30)
    farm.pi.sql(PEN.format("FIRST"))
    farm.start()
    epoch, bootstraps = farm.status()["epoch"], farm.server.log.count("Starting full database sync")
    farm.pi.sql(f"{CHANGES[change]}; INSERT INTO batches(batch_number) VALUES('BEHIND')")
    farm.assert_identical()
    assert farm.server.sql("SELECT count(*) FROM batches WHERE batch_number='BEHIND'") == "1"
    status = eventually(lambda: (found := farm.status())["state"] == "following" and found)
    expected = 1 if change in BY_BOOTSTRAP else 0
    assert (status["epoch"] != epoch, status["last_error"]) == (bool(expected), None)
    assert farm.server.log.count("Starting full database sync") == bootstraps + expected
    farm.pi.sql("UPDATE cattle SET weight=weight+1; DELETE FROM cattle WHERE id=4")
    assert farm.post("hxb:AFTER:LF1:UHF1").status_code in (201, 404 if change == "rename table" else 201)
    farm.assert_identical()
    assert farm.server.log.count("Starting full database sync") == bootstraps + expected, "then it follows as before"
    indexes = "SELECT count(*) FROM sqlite_schema WHERE name GLOB 'changelog_local_*'"
    assert int(farm.server.sql(indexes)) >= 5, "the pages keep their indexes"


def test_ddl_while_the_pi_is_stopped_is_found_at_its_start(farm: Farm) -> None:
    farm.fill(30)
    farm.start()
    farm.pi.stop()
    farm.pi.sql("ALTER TABLE cattle ADD COLUMN breed TEXT; UPDATE cattle SET breed='Angus', weight=7")
    farm.pi.start()
    farm.assert_identical()
    assert farm.server.sql("SELECT DISTINCT breed, weight FROM cattle") == "Angus|7.0"


def test_triggers_that_somebody_dropped_are_back_and_what_they_missed_arrives(farm: Farm) -> None:
    farm.fill(30)
    farm.start()
    ours = farm.pi.sql("SELECT name FROM sqlite_schema WHERE type='trigger' AND tbl_name='cattle'").splitlines()
    dropped = ";".join(f'DROP TRIGGER "{name}"' for name in ours)
    farm.pi.sql(f"{dropped}; UPDATE cattle SET weight=9; DELETE FROM cattle WHERE id>20")
    assert len(ours) == 5
    farm.assert_identical()
    assert farm.server.sql("SELECT count(*), min(weight) FROM cattle") == "20|9.0"
    farm.pi.sql("UPDATE cattle SET weight=10")
    farm.assert_identical()
