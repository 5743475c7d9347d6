"""An external-content FTS5 table over a captured table answers the same on the replica as on the primary."""

from __future__ import annotations

from pathlib import Path

import pytest
from changelog_parts import contents, damage, follow, make_primary, make_replica, shell

from changelog.connection import connect, rows

NOTES = """CREATE TABLE "no tes"(id INTEGER PRIMARY KEY, title TEXT, "the text" TEXT, stars);
CREATE VIRTUAL TABLE found USING fts5(title, "the text", tokenize='porter', content="no tes", content_rowid='id');
CREATE TRIGGER notes_ai AFTER INSERT ON "no tes" BEGIN
  INSERT INTO found(rowid, title, "the text") VALUES(NEW.id, NEW.title, NEW."the text"); END;
CREATE TRIGGER notes_ad AFTER DELETE ON "no tes" BEGIN
  INSERT INTO found(found, rowid, title, "the text") VALUES('delete', OLD.id, OLD.title, OLD."the text"); END;
CREATE TRIGGER notes_au AFTER UPDATE ON "no tes" BEGIN
  INSERT INTO found(found, rowid, title, "the text") VALUES('delete', OLD.id, OLD.title, OLD."the text");
  INSERT INTO found(rowid, title, "the text") VALUES(NEW.id, NEW.title, NEW."the text"); END;
INSERT INTO "no tes"(title, "the text") VALUES('first', 'a heifer by the gate')"""

WRITES = """INSERT INTO "no tes"(title, "the text") VALUES('second', 'steers running'), ('third', 'the gates are open');
UPDATE "no tes" SET "the text"='a heifer runs' WHERE id=1;
UPDATE "no tes" SET stars=5;
UPDATE "no tes" SET id=40 WHERE id=2;
REPLACE INTO "no tes"(id, title, "the text") VALUES(3, 'third again', 'closed gates');
DELETE FROM "no tes" WHERE id=1"""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    primary = make_primary(tmp_path / "primary.db", NOTES)
    return primary, make_replica(primary, tmp_path / "replica.db")


def answers(path: Path) -> list[list[tuple[object, ...]]]:
    db = connect(path)
    try:
        words = ("heifer", "run", "gate", "steer", "third", "nothing", "first")
        return [rows(db, "SELECT rowid, title FROM found(?) ORDER BY rowid", (word,)) for word in words]
    finally:
        db.close()


def test_the_index_of_the_replica_answers_like_that_of_the_primary(pair: tuple[Path, Path]) -> None:
    primary, replica = pair
    for statement in WRITES.split(";\n"):
        shell(primary, f"PRAGMA recursive_triggers=ON; {statement}")
        follow(primary, replica)
        assert answers(replica) == answers(primary)
    assert any(answers(replica))
    assert contents(replica)["table no tes"] == contents(primary)["table no tes"]
    db = connect(replica)
    db.execute("INSERT INTO found(found) VALUES('integrity-check')")
    db.close()


def test_a_row_that_is_missing_on_the_replica_is_noticed_with_an_index_too(pair: tuple[Path, Path]) -> None:
    primary, replica = pair
    damage(replica, 'DELETE FROM "no tes"')
    shell(primary, "UPDATE \"no tes\" SET title='x' WHERE id=1")
    with pytest.raises(Exception, match="not on the replica"):
        follow(primary, replica)


def test_an_index_without_content_of_its_own_or_over_nothing_is_left_alone(tmp_path: Path) -> None:
    primary = make_primary(
        tmp_path / "primary.db",
        """CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE VIRTUAL TABLE own USING fts5(a);
        CREATE VIRTUAL TABLE none USING fts5(a, content='');
        CREATE VIEW v AS SELECT id, a FROM t;
        CREATE VIRTUAL TABLE over USING fts5(a, content='v', content_rowid='id')""",
    )
    replica = make_replica(primary, tmp_path / "replica.db")
    shell(primary, "INSERT INTO t VALUES(1,'x'); UPDATE t SET a='y'")
    follow(primary, replica)
    assert contents(replica)["table t"] == contents(primary)["table t"]
