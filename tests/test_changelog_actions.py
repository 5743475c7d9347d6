"""Foreign keys that do something: what they do stands in the log before the change that caused it, and may come back to the same row."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from changelog_parts import contents, make_primary, shell

from changelog.asof.past import Past
from changelog.asof.rebuild import write_file
from changelog.connection import connect
from changelog.log import head
from changelog.primary import Primary
from changelog.pull import pull_file

TREE = "CREATE TABLE tree(id TEXT NOT NULL PRIMARY KEY, up REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE) WITHOUT ROWID;"
NAMED = """CREATE TABLE named(id INTEGER PRIMARY KEY, name TEXT UNIQUE,
    boss REFERENCES named(name) ON DELETE SET NULL ON UPDATE CASCADE, n);
  INSERT INTO named VALUES(1,'a','a',0),(2,'b','a',0),(3,'c','b',0);"""
COUNTED = """CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT UNIQUE, moved INTEGER DEFAULT 0);
  CREATE TABLE stock(id INTEGER PRIMARY KEY, pen REFERENCES pens(pen) ON UPDATE CASCADE ON DELETE CASCADE);
  CREATE TRIGGER count AFTER UPDATE ON stock BEGIN UPDATE pens SET moved=moved+1 WHERE pen=NEW.pen; END;
  INSERT INTO pens(id,pen) VALUES(1,'A'),(2,'B'); INSERT INTO stock VALUES(7,'A'),(8,'B');"""
CIRCLE = """CREATE TABLE a(id INTEGER PRIMARY KEY, k UNIQUE, x REFERENCES b(id) ON DELETE CASCADE);
  CREATE TABLE b(id INTEGER PRIMARY KEY, y REFERENCES a(id) ON DELETE CASCADE);
  INSERT INTO a VALUES(1,'one',NULL),(2,'two',NULL),(3,'three',NULL); INSERT INTO b VALUES(5,2); UPDATE a SET x=5 WHERE id=1;"""

CASES = {
    "a row that refers to itself gets another key": (
        f"{TREE} INSERT INTO tree VALUES('r','r'),('s','r');",
        "UPDATE tree SET id='R' WHERE id='r'",
    ),
    "and the key of another one": (f"{TREE} INSERT INTO tree VALUES('r','r'),('a','r');", "UPDATE OR REPLACE tree SET id='a' WHERE id='r'"),
    "a row that refers to itself by another column": (NAMED, "UPDATE named SET name='A', n=1 WHERE id=1"),
    "and a trigger is there": (
        NAMED + "CREATE TRIGGER any AFTER INSERT ON named BEGIN SELECT 1; END;",
        "UPDATE named SET name='A', n=1 WHERE id=1",
    ),
    "a trigger on what refers to it writes the row": (COUNTED, "UPDATE pens SET pen='Z' WHERE id=1"),
    "it is replaced by the row that referred to it": (NAMED, "UPDATE OR REPLACE named SET name='b', n=7 WHERE id=3"),
    "what is replaced takes the row with it that was to take its place": (CIRCLE, "UPDATE OR REPLACE a SET k='two' WHERE id=1"),
    "a circle is deleted": (CIRCLE, "DELETE FROM a WHERE id=1"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_replica_and_the_past_are_right_whatever_foreign_keys_do(tmp_path: Path, case: str) -> None:
    schema, change = CASES[case]
    primary, replica = make_primary(tmp_path / "p.db", schema), tmp_path / "r.db"
    source = Primary(primary)
    pull_file(source, replica)
    with closing(connect(primary)) as db:
        before, seq = contents(primary), head(db)
    shell(primary, f"PRAGMA foreign_keys=ON; {change};")
    assert contents(primary) != before
    reason = pull_file(source, replica).reason

    assert contents(replica) == contents(primary)
    shell(primary, "PRAGMA foreign_keys=ON; DELETE FROM " + schema.split("CREATE TABLE ")[1].split("(")[0])
    assert pull_file(source, replica).reason == ""
    assert contents(replica) == contents(primary)
    source.close()
    if not reason:  # else the log does not tell, and as-of says so
        with closing(connect(replica, readonly=True)) as db, db:
            write_file(db, Past(db, seq), tmp_path / "then.db")
        assert contents(tmp_path / "then.db") == before


def test_a_doubtful_order_begins_a_new_epoch_and_an_ordinary_change_does_not(tmp_path: Path) -> None:
    primary = make_primary(tmp_path / "p.db", COUNTED)
    source = Primary(primary)
    shell(primary, "PRAGMA foreign_keys=ON; UPDATE pens SET moved=7; UPDATE stock SET pen='B'; UPDATE pens SET pen='C' WHERE id=1;")
    first = source.head().epoch
    shell(primary, "PRAGMA foreign_keys=ON; UPDATE pens SET pen='D' WHERE id=2;")
    assert source.head().epoch != first
    second = source.head().epoch
    shell(primary, "UPDATE pens SET pen='E' WHERE id=2;")
    assert source.head().epoch == second
    source.close()
