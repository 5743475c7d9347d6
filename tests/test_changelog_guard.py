"""Nobody but replay writes to a replica: triggers stop every other program, and come and go as the file becomes a replica or a primary."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from changelog_parts import assert_alike, damage, follow, frame_of, make_primary, make_replica, run_sql, shell, shell_run

from changelog.audit import is_replica
from changelog.connection import connect, one, rows
from changelog.doctor import examine
from changelog.guard import MESSAGE, is_guard, keep_guards, unguarded_tables
from changelog.install import install, is_installed, script, uninstall
from changelog.position import Position
from changelog.primary import Primary
from changelog.promote import promote
from changelog.pull import pull_file
from changelog.schema import read_tables, schema_hash
from changelog.verify.digest import digest_tables

SCHEMA = """
CREATE TABLE pens(id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE herd(tag TEXT PRIMARY KEY, pen INTEGER) WITHOUT ROWID;
CREATE TABLE "odd ""name""
over 'lines' [x]"(a, b);
CREATE TABLE "insert_pens"(id INTEGER PRIMARY KEY);
CREATE VIEW of_pens AS SELECT name FROM pens;
CREATE TRIGGER of_pens_new INSTEAD OF INSERT ON of_pens BEGIN INSERT INTO pens(name) VALUES(NEW.name); END;
CREATE VIRTUAL TABLE words USING fts5(name, content='pens', content_rowid='id');
CREATE TRIGGER pens_words AFTER INSERT ON pens BEGIN INSERT INTO words(rowid, name) VALUES(NEW.id, NEW.name); END;
INSERT INTO pens(id, name) VALUES(1, 'north'), (2, 'south');
INSERT INTO herd VALUES('LF1', 1);
INSERT INTO "odd ""name""
over 'lines' [x]" VALUES(1, 2);
"""
OURS = ("changelog", "changelog_cols", "changelog_meta", "changelog_position", "changelog_stash")


@pytest.fixture
def primary(tmp_path: Path) -> Path:
    return make_primary(tmp_path / "primary.db", SCHEMA)


@pytest.fixture
def replica(primary: Path, tmp_path: Path) -> Path:
    return make_replica(primary, tmp_path / "replica.db")


def unguarded_in(path: Path) -> list[str]:
    with closing(connect(path, readonly=True)) as db:
        return unguarded_tables(db)


def guards_in(path: Path) -> list[str]:
    with closing(connect(path, readonly=True)) as db:
        return [name for (name,) in rows(db, "SELECT name FROM sqlite_schema WHERE type='trigger'") if is_guard(name)]


def content_of(path: Path) -> str:
    return hashlib.sha256(shell(path, ".dump").encode()).hexdigest()


SLIPS = (
    "INSERT INTO pens(name) VALUES('forged')",
    "INSERT OR IGNORE INTO pens(name) VALUES('forged')",
    "INSERT OR REPLACE INTO pens(id, name) VALUES(1, 'forged')",
    "REPLACE INTO herd VALUES('LF1', 9)",
    "INSERT INTO pens(id, name) VALUES(1, 'x') ON CONFLICT(id) DO UPDATE SET name='forged'",
    "INSERT INTO of_pens VALUES('forged')",
    "UPDATE pens SET name='forged' WHERE id=1",
    "UPDATE OR IGNORE herd SET pen=2",
    "UPDATE OR REPLACE pens SET name='south'",
    "DELETE FROM pens",
    "DELETE FROM herd WHERE tag='LF1'",
    """DELETE FROM "odd ""name""
over 'lines' [x]\"""",
    "UPDATE changelog SET actor='nobody'",
    "DELETE FROM changelog",
    "DELETE FROM changelog_meta WHERE name='epoch'",
    "UPDATE changelog_position SET seq=seq+1",
    "DELETE FROM changelog_cols",
    "INSERT INTO changelog_stash(tbl) VALUES('pens')",
)


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_the_shell_is_stopped_and_told_where_to_write_instead(replica: Path, slip: str) -> None:
    before = content_of(replica)
    done = shell_run(replica, f"{slip};")
    assert done.returncode != 0
    assert MESSAGE in done.stderr
    assert content_of(replica) == before


def test_a_connection_of_ours_that_is_not_replay_is_stopped_too(replica: Path) -> None:
    with pytest.raises(apsw.ConstraintError, match="this file is a replica"):
        run_sql(replica, "UPDATE pens SET name='forged'")


def test_every_ordinary_table_has_its_guards_and_virtual_ones_have_none(replica: Path) -> None:
    with closing(connect(replica, readonly=True)) as db:
        tables = {t for (t,) in rows(db, "SELECT name FROM pragma_table_list WHERE type='table' AND name NOT LIKE 'sqlite%'")}
        guarded = {t for (t,) in rows(db, "SELECT tbl_name FROM sqlite_schema WHERE name LIKE '\\_changelog\\_guard%' ESCAPE '\\'")}
    assert guarded == tables
    assert guarded >= {"pens", "herd", *OURS}
    assert not {t for t in guarded if t.startswith("words")}


def test_the_guards_are_in_no_schema_and_no_digest_that_is_compared(primary: Path, replica: Path) -> None:
    with closing(connect(primary)) as ours, closing(connect(replica)) as theirs:
        assert schema_hash(ours) == schema_hash(theirs)
        assert digest_tables(ours) == digest_tables(theirs)
        assert is_replica(theirs)
        assert not is_replica(ours)
    assert not guards_in(primary)


def test_replay_and_repair_go_round_the_guards_and_the_full_text_index_follows(primary: Path, replica: Path) -> None:
    run_sql(primary, "INSERT INTO pens(name) VALUES('east')", "UPDATE herd SET pen=3", "DELETE FROM pens WHERE id=2")
    follow(primary, replica)
    assert_alike(primary, replica)
    assert shell(replica, "SELECT rowid FROM words WHERE words MATCH 'east'").split() == ["3"]
    assert unguarded_in(replica) == []


DDL = (
    "CREATE TABLE young(id INTEGER PRIMARY KEY)",
    "ALTER TABLE pens RENAME TO paddocks",
    "ALTER TABLE pens ADD COLUMN capacity INTEGER",
    "ALTER TABLE herd RENAME COLUMN pen TO place",
    "DROP TABLE herd",
    "CREATE VIEW few AS SELECT * FROM pens LIMIT 1",
)


@pytest.mark.parametrize("ddl", DDL)
def test_a_change_of_the_schema_leaves_every_table_guarded(primary: Path, replica: Path, ddl: str) -> None:
    run_sql(primary, ddl, "DELETE FROM insert_pens")
    follow(primary, replica)
    assert_alike(primary, replica)
    assert unguarded_in(replica) == []
    assert len(guards_in(replica)) == 3 * (4 + ("CREATE TABLE" in ddl) - ("DROP" in ddl) + len(OURS))


def test_tables_that_change_names_with_each_other_are_guarded_under_the_new_ones(primary: Path, replica: Path) -> None:
    run_sql(primary, "ALTER TABLE pens RENAME TO x", "ALTER TABLE insert_pens RENAME TO pens", "ALTER TABLE x RENAME TO insert_pens")
    follow(primary, replica)
    assert_alike(primary, replica)
    assert unguarded_in(replica) == []


def test_what_is_complete_is_not_written_again(replica: Path) -> None:
    with closing(connect(replica)) as db:
        before = db.pragma("schema_version")
        with db:
            keep_guards(db)
        assert db.pragma("schema_version") == before


def test_a_pull_puts_back_the_guards_that_somebody_took_away(primary: Path, replica: Path) -> None:
    damage(replica, 'DROP TRIGGER "_changelog_guard_update_pens"', 'DROP TRIGGER "_changelog_guard_delete_changelog"')
    assert unguarded_in(replica) == ["changelog", "pens"]
    with closing(connect(replica, readonly=True)) as db:
        [found] = [f for f in examine(db, replica) if f.check == "guards"]
    assert found.wrong
    assert "changelog, pens" in found.fact
    source = Primary(primary)
    pull_file(source, replica)
    source.close()
    assert unguarded_in(replica) == []


@pytest.fixture(params=["promote", "install"])
def promoted(request: pytest.FixtureRequest, replica: Path) -> Iterator[Path]:
    """A replica that was made a primary."""
    if request.param == "promote":
        promote(replica)
    else:
        with closing(connect(replica)) as db:
            install(db)
    yield replica


def test_a_replica_that_becomes_a_primary_has_no_guards_and_captures(promoted: Path, tmp_path: Path) -> None:
    assert not guards_in(promoted)
    shell(promoted, "INSERT INTO pens(name) VALUES('west'); UPDATE herd SET pen=7; DELETE FROM insert_pens;")
    with closing(connect(promoted)) as db:
        assert one(db, "SELECT count(*) FROM changelog WHERE tbl='pens' AND op='I' AND n1='west'") == 1
        assert Position.of_head(db)
    again = make_replica(promoted, tmp_path / "again.db")
    assert unguarded_in(again) == []
    assert frame_of(promoted, follow(promoted, again))


def test_a_replica_from_which_the_log_is_uninstalled_is_an_ordinary_database(replica: Path) -> None:
    with closing(connect(replica)) as db:
        uninstall(db)
        assert not is_installed(db)
    shell(replica, "INSERT INTO pens(name) VALUES('west')")
    assert not guards_in(replica)


def test_triggers_sql_does_not_turn_a_replica_into_something_between(tmp_path: Path) -> None:
    primary = make_primary(tmp_path / "plain.db", "CREATE TABLE pens(id INTEGER PRIMARY KEY)")
    replica = make_replica(primary, tmp_path / "copy.db")
    with closing(connect(primary)) as db:
        text = script(read_tables(db), [])
    before = content_of(replica)
    done = shell_run(replica, text)
    assert done.returncode != 0
    assert MESSAGE in done.stderr
    assert content_of(replica) == before
