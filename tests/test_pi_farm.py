"""farm.db: made, migrated, taken over from the earlier system, or another database left as it is."""

from __future__ import annotations

import os
import random
import re
import stat
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from pi_parts import make_farm, rows, running_writer, shell, wait_until

from changelog.connection import connect, one
from changelog.errors import Conflict, DamagedFile
from changelog.install import is_installed
from changelog.position import Position, ancestors_of
from pi import farm

EARLIER = Path(__file__).with_name("earlier_schema.sql")
ANIMALS = 3_000


def schema_of(db: apsw.Connection) -> list[tuple[str, str, str]]:
    """Every object with its text, without comments and spaces."""
    found = db.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql NOTNULL ORDER BY type, name").fetchall()
    return [(kind, name, re.sub(r"\s+", "", re.sub(r"--[^\n]*", "", sql))) for kind, name, sql in found]


def make_earlier(path: Path, changes: str = "") -> None:
    """A database of the earlier system with thousands of rows, as SQLAlchemy writes them."""
    rng = random.Random(1)
    with closing(apsw.Connection(str(path))) as db, db:
        db.execute(EARLIER.read_text())
        db.execute("CREATE INDEX ix_cattle_lf ON cattle(lf_tag)")
        db.execute("CREATE TABLE alembic_version(version_num TEXT); INSERT INTO alembic_version VALUES('abc')")
        t = "2023-05-06 07:08:09.123456"
        db.execute("INSERT INTO users VALUES(3,'ann','a@x','$2b$12$abc',1,1,?), (5,'bob','b@x','$2b$12$def',0,0,?)", (t, t))
        for i in range(1, 31):
            db.execute("INSERT INTO batches VALUES(?,?,?,?,?,?,?,?)", (i * 2, f"B{i}", "2023-05-06", "Barn (HXB)", "hxb", None, t, t))
        for i in range(1, 21):
            db.execute("INSERT INTO pens VALUES(?,?,?,?,?,?)", (i * 3, f"P{i}", 40, "é", t, t))
        for i in range(1, ANIMALS + 1):
            tags = (f"L{i}", f"U{i}")
            facts = (i * 2, rng.randint(1, 30) * 2, f"C{i}", "Unknown", rng.random() * 500, "ok", *tags, 3, "note", "active", t, t, t)
            db.execute("INSERT INTO cattle VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)", facts)
            db.execute("INSERT INTO weight_records VALUES(?,?,?,?,?)", (i, i * 2, rng.random() * 500, t, "scale"))
            status = ("received", "processing", "processed", "error", "duplicate")[i % 5] if i > 20 else "processed"
            facts = (i, f"hxb:B1:L{i}:U{i}", f"hash{i}", "hxb", "B1", *tags, status, 2, "why" if status == "error" else None, t, None, t, t)
            db.execute("INSERT INTO lora_payload_buffer VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)", facts)
        for i in range(1, 101):
            db.execute("INSERT INTO pair_history VALUES(?,?,?,?,?,?,?)", (i, i * 2, "old", None, t, t, "lora"))
        if changes:
            db.execute(changes)


def test_schema_sql_is_the_result_of_all_migrations(tmp_path):
    with closing(connect(tmp_path / "new.db", create=True)) as new, closing(connect(tmp_path / "migrated.db", create=True)) as migrated:
        new.execute(farm.SCHEMA.read_text())
        farm.migrate(migrated, farm.MIGRATIONS)
        assert schema_of(new) == schema_of(migrated)
        assert new.pragma("user_version") == migrated.pragma("user_version") >= 1


def test_a_new_farm_is_a_primary_in_wal_mode_that_its_group_can_use(tmp_path):
    path = make_farm(tmp_path)
    with closing(connect(path)) as db:
        assert farm.has_farm(db)
        assert is_installed(db)
        assert db.pragma("journal_mode") == "wal"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    shell(path, "INSERT INTO pens(pen_number, capacity) VALUES('P9', 40)")
    assert rows(path, "SELECT actor, op, tbl FROM changelog ORDER BY seq DESC LIMIT 1") == [(None, "I", "pens")]
    assert rows(path, "SELECT count(*) FROM pens WHERE created_at GLOB '????-??-??T??:??:??'") == [1]
    assert rows(path, "SELECT value FROM changelog_meta WHERE name='mask'") == ["users.password_hash"]


def test_opening_again_changes_nothing(tmp_path):
    path = make_farm(tmp_path)
    with closing(connect(path)) as db:
        before = Position.of_head(db)
    farm.open_farm(path)
    with closing(connect(path)) as db:
        assert Position.of_head(db) == before


def test_a_schema_that_somebody_changed_is_logged_and_captured_again(tmp_path):
    path = make_farm(tmp_path)
    with closing(connect(path)) as db:
        before = Position.of_head(db)
    shell(path, "ALTER TABLE pens ADD COLUMN colour TEXT")
    farm.open_farm(path)
    shell(path, "INSERT INTO pens(pen_number, capacity, colour) VALUES('P1', 1, 'red')")
    with closing(connect(path)) as db:
        assert Position.of_head(db).epoch == before.epoch
    assert rows(path, "SELECT key FROM changelog WHERE op='X'") == ["column pens.colour added"]
    assert rows(path, "SELECT colour FROM changelog_of_pens WHERE op='I'") == ["red"]


def test_migrations_run_in_order_on_an_installed_farm_and_the_log_goes_on(tmp_path):
    path = make_farm(tmp_path)
    steps = tmp_path / "migrations"
    steps.mkdir()
    (steps / "0001_farm.sql").write_text("SELECT no_such_function();")
    (steps / "0002_colour.sql").write_text("ALTER TABLE pens ADD COLUMN colour TEXT DEFAULT 'grey';")
    (steps / "0003_paint.py").write_text("def migrate(db):\n    db.execute(\"UPDATE pens SET colour='red'\")\n")
    shell(path, "INSERT INTO pens(pen_number, capacity) VALUES('P1', 1)")
    with closing(connect(path)) as db:
        before = Position.of_head(db)
        farm.migrate(db, steps)
        assert db.pragma("user_version") == 3
        assert one(db, "SELECT colour FROM pens") == "red"
        after = Position.of_head(db)
        assert (after.epoch != before.epoch, after.seq > before.seq) == (True, True)
    shell(path, "UPDATE pens SET colour='blue'")
    assert rows(path, "SELECT new FROM changelog_audit WHERE op='U' AND col='colour'") == ["blue"]


def test_a_failing_migration_leaves_the_file_as_it_was(tmp_path):
    path = make_farm(tmp_path)
    steps = tmp_path / "migrations"
    steps.mkdir()
    (steps / "0002_colour.sql").write_text("ALTER TABLE pens ADD COLUMN colour TEXT;")
    (steps / "0003_wrong.sql").write_text("UPDATE no_such_table SET a=1;")
    with closing(connect(path)) as db:
        before = schema_of(db)
        with pytest.raises(apsw.SQLError, match="no_such_table"):
            farm.migrate(db, steps)
        assert schema_of(db) == before
        assert db.pragma("user_version") == 1


def test_a_farm_of_a_newer_version_is_refused(tmp_path):
    path = make_farm(tmp_path)
    shell(path, "PRAGMA user_version=99")
    with pytest.raises(Conflict, match="update Drover"):
        farm.open_farm(path)


def test_a_farm_from_the_shells_dump_gets_its_version_back_and_a_new_epoch_that_descends_from_the_old_one(tmp_path):
    """A dump need not have all that the file had, so nobody takes the one for the other; the audit of it comes along."""
    path, dumped = make_farm(tmp_path), str(tmp_path / "dumped.db")
    shell(path, "INSERT INTO pens(pen_number, capacity) VALUES('P1', 1)")
    with closing(connect(path)) as db:
        version, before = db.pragma("user_version"), Position.of_head(db)
    (tmp_path / "dump.sql").write_text(shell(path, ".dump"))
    shell(dumped, f".read {tmp_path / 'dump.sql'}")
    assert shell(dumped, "PRAGMA user_version") == "0"
    farm.open_farm(dumped)
    with closing(connect(dumped)) as db:
        assert db.pragma("user_version") == version and before.epoch in ancestors_of(db)
        assert Position.of_head(db).epoch != before.epoch
        assert db.execute("SELECT count(*) FROM changelog WHERE tbl='pens' AND op='I'").fetchall() == [(1,)]


def test_a_database_of_the_earlier_system_is_taken_over_with_all_its_rows(tmp_path):
    path = tmp_path / "farm.db"
    make_earlier(path)
    earlier = str(tmp_path / "farm.db.earlier")
    counts = {table: rows(str(path), f"SELECT count(*) FROM {table}") for table in farm.TABLES}
    farm.open_farm(path)

    assert {table: rows(str(path), f"SELECT count(*) FROM {table}") for table in farm.TABLES} == counts
    for table in ("batches", "pens", "cattle", "weight_records", "pair_history", "lora_payload_buffer", "users"):
        names = f"SELECT name FROM pragma_table_info('{table}')"
        kept = sorted(set(rows(earlier, names)) & set(rows(str(path), names)))
        kept = [name for name in kept if not name.endswith("_at") and name not in ("password_hash", "status", "error_message")]
        kept = [name for name in kept if (table, name) != ("cattle", "induction_date")]
        query = f"SELECT {', '.join(kept)} FROM {table} ORDER BY id"
        assert rows(str(path), query) == rows(earlier, query), table
    assert rows(str(path), "SELECT DISTINCT induction_date, created_at, updated_at FROM cattle") == [("2023-05-06T07:08:09",) * 3]
    assert rows(str(path), "SELECT DISTINCT recorded_at, created_at FROM weight_records") == [("2023-05-06T07:08:09",) * 2]
    assert rows(str(path), "SELECT DISTINCT induction_date FROM batches") == ["2023-05-06"]
    assert rows(str(path), "SELECT id, username, email, password_hash, role, is_active FROM users") == [
        (3, "ann", "a@x", "!", "admin", 1), (5, "bob", "b@x", "!", "user", 0),
    ]  # fmt: skip
    assert rows(str(path), "SELECT version_num FROM alembic_version") == ["abc"]


def test_what_was_taken_over_has_the_schema_of_a_new_farm(tmp_path):
    make_earlier(tmp_path / "old.db", "DROP TABLE alembic_version")
    farm.open_farm(tmp_path / "old.db")
    with closing(connect(tmp_path / "old.db")) as old, closing(connect(make_farm(tmp_path))) as new:
        assert schema_of(old) == schema_of(new)
        assert old.pragma("user_version") == new.pragma("user_version")
        assert one(old, "SELECT count(*) FROM pragma_foreign_key_check") == 0


def test_payloads_left_in_processing_by_the_earlier_system_are_processed_after_the_takeover(tmp_path):
    path = tmp_path / "farm.db"
    make_earlier(path)
    farm.open_farm(path)
    assert set(rows(str(path), "SELECT DISTINCT status FROM lora_payload_buffer")) == {"received", "processed", "error"}
    assert rows(str(path), "SELECT error_message FROM lora_payload_buffer WHERE status='error' GROUP BY 1") == [
        "status duplicate in the earlier system", "why",
    ]  # fmt: skip
    with running_writer(str(path)):
        wait_until(lambda: rows(str(path), "SELECT count(*) FROM lora_payload_buffer WHERE status='received'") == [0])
    assert rows(str(path), "SELECT count(*) FROM cattle") == [ANIMALS]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("UPDATE batches SET batch_number='B1' WHERE id=60", "B1 more than once"),
        ("ALTER TABLE cattle ADD COLUMN breed TEXT", "cattle differs in: breed"),
        ("DROP TABLE pair_history", "pair_history differs"),
    ],
)
def test_a_takeover_that_fails_says_why_and_leaves_the_file_untouched(tmp_path, changes, said):
    path = tmp_path / "farm.db"
    make_earlier(path, changes)
    before = path.read_bytes()
    with pytest.raises(Conflict, match=said):
        farm.open_farm(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["farm.db"]


def test_a_takeover_killed_half_way_leaves_the_earlier_rows(tmp_path, monkeypatch):
    path = tmp_path / "farm.db"
    make_earlier(path)
    convert = farm._convert

    def fail_late(db: apsw.Connection) -> dict[str, int]:
        convert(db)
        raise KeyboardInterrupt

    monkeypatch.setattr(farm, "_convert", fail_late)
    with pytest.raises(KeyboardInterrupt):
        farm.open_farm(path)
    assert rows(str(path), "SELECT count(*) FROM lora_payload_buffer WHERE payload_hash NOTNULL") == [ANIMALS]


def test_another_database_is_left_as_it_is_and_only_made_a_primary(tmp_path):
    path = str(tmp_path / "other.db")
    shell(path, "CREATE TABLE t(a PRIMARY KEY, b); INSERT INTO t VALUES(1, 2)")
    farm.open_farm(path)
    farm.open_farm(path)
    with closing(connect(path)) as db:
        assert not farm.has_farm(db)
        assert is_installed(db)
    tables = rows(path, "SELECT name FROM sqlite_schema WHERE type='table'")
    assert [name for name in tables if not name.startswith(("changelog", "sqlite"))] == ["t"]
    assert rows(path, "SELECT a, b FROM t") == [(1, 2)]


def test_a_file_that_is_no_database_is_named_and_kept(tmp_path):
    path = tmp_path / "farm.db"
    path.write_text("this is not a database, it is a letter to the farmer\n" * 100)
    before = path.read_bytes()
    with pytest.raises(DamagedFile, match="not a database"):
        farm.open_farm(path)
    assert path.read_bytes() == before
