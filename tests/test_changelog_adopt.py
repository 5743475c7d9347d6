"""Lost changes played back into the primary that lost them: all that does not contradict what was written since, and once only."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from changelog_parts import assert_alike, contents, log_of, make_primary, make_replica, run_sql, shell

from changelog.connection import connect
from changelog.errors import Conflict, NotFound
from changelog.primary import Primary
from changelog.pull import pull_file
from changelog.rescue.adopt import adopt
from changelog.rescue.lost import list_rescued
from changelog.rescue.outcome import Adopted

TIME = "DEFAULT (strftime('%Y-%m-%dT%H:%M:%f','now'))"
SCHEMA = f"""
CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT NOT NULL UNIQUE, size, secret, created_at TEXT {TIME});
CREATE TABLE animals(id INTEGER PRIMARY KEY, pen_id INTEGER REFERENCES pens(id), name TEXT, mother_id INTEGER REFERENCES animals(id));
CREATE TABLE weights(id INTEGER PRIMARY KEY, animal_id INTEGER NOT NULL REFERENCES animals(id) ON DELETE CASCADE, kg, at TEXT {TIME});
CREATE TABLE spots(x INTEGER, y TEXT COLLATE NOCASE, what, PRIMARY KEY(x, y)) WITHOUT ROWID;
CREATE TABLE notes(t, u);
INSERT INTO pens(pen, size) VALUES('P1', 1), ('P2', 2), ('P3', 3);
INSERT INTO animals(pen_id, name) VALUES(1, 'Ann'), (2, 'Bob'), (3, 'Cid');
INSERT INTO weights(animal_id, kg) VALUES(1, 400), (2, 500);
INSERT INTO spots VALUES(1, 'a', 'one'), (2, 'b', 'two');
INSERT INTO notes VALUES('n1', x'00ff'), ('n1', x'00ff');
"""


class Story:
    """A primary, what it loses, and what is written to it after it went back."""

    def __init__(self, folder: Path, schema: str = SCHEMA, *before: str) -> None:
        self.folder, self.replica = folder, folder / "r.db"
        self.primary = make_primary(folder / "p.db", schema, *before, masks=["pens.secret"] if schema is SCHEMA else None)

    def lose(self, *lost: str, since: tuple[str, ...] = ()) -> Path:
        """The file of the lost changes, after the replica has followed the primary back."""
        shell(self.primary, "PRAGMA wal_checkpoint(TRUNCATE)")
        older = self.folder / "older.db"
        shutil.copy(self.primary, older)
        run_sql(self.primary, *lost)
        make_replica(self.primary, self.replica)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.primary}{suffix}").unlink(missing_ok=True)
        older.replace(self.primary)
        run_sql(self.primary, *since)
        self.pull()
        (kept,) = list_rescued(self.folder)
        return kept.path

    def pull(self) -> None:
        source = Primary(self.primary)
        pull_file(source, self.replica)
        source.close()

    def adopt(self, kept: Path) -> Adopted:
        """Twice, and the second time does nothing; the replica follows, and all foreign keys hold."""
        done = adopt(self.primary, kept)
        before = log_of(self.primary)
        again = adopt(self.primary, kept)
        assert log_of(self.primary) == before and again.first == again.last == 0, [*map(str, again.conflicts), again.tables]
        assert len(again.conflicts) == len(done.conflicts), list(map(str, again.conflicts))
        self.pull()
        assert_alike(self.primary, self.replica)
        assert shell(self.primary, "PRAGMA foreign_key_check") == ""
        return done


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def without_log(path: Path) -> dict[str, object]:
    return {name: held for name, held in contents(path).items() if name != "sequences"}


EVERYTHING = (
    "INSERT INTO pens(pen, size) VALUES('L1', 1), ('L2', CAST(x'61ff' AS TEXT))",
    "INSERT INTO animals(pen_id, name) VALUES(4, 'Dee')",
    "INSERT INTO weights(animal_id, kg) VALUES(4, -0.0), (4, 9e999)",
    "UPDATE pens SET size=x'00', secret='hush' WHERE id=2",
    "UPDATE animals SET mother_id=1 WHERE id IN (2, 4)",
    "UPDATE spots SET x=7, what='moved' WHERE x=1",
    "INSERT INTO spots VALUES(1, 'A', 'new')",
    "DELETE FROM weights WHERE id=1",
    "DELETE FROM notes WHERE rowid=1",
    "INSERT INTO notes VALUES('n1', x'00ff'), (NULL, NULL)",
    "UPDATE notes SET u=1.0 WHERE t IS NULL",
    "INSERT INTO pens(pen) VALUES('gone')",
    "DELETE FROM pens WHERE pen='gone'",
)


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_a_primary_that_wrote_nothing_since_is_again_what_it_was(tmp_path: Path, encoding: str) -> None:
    story = Story(tmp_path, SCHEMA, f"PRAGMA encoding='{encoding}'")
    shell(story.primary, "PRAGMA wal_checkpoint(TRUNCATE)")
    expected = shutil.copy(story.primary, tmp_path / "expected.db")
    kept = story.lose(*EVERYTHING)
    run_sql(Path(expected), *EVERYTHING)
    rows = "SELECT pen, created_at FROM pens WHERE id>3"
    done = story.adopt(kept)
    assert done.conflicts == [] and done.tables["pens"] == {"inserted": 2, "updated": 1, "came and went": 2}
    held, wanted = without_log(story.primary), without_log(Path(expected))
    for found in (held, wanted):  # made at another time
        found["table pens"] = [row[:8] for row in found["table pens"]]  # type: ignore[attr-defined]
        found["table weights"] = [row[:6] for row in found["table weights"]]  # type: ignore[attr-defined]
    assert held == wanted
    assert shell(story.primary, rows) and list_rescued(tmp_path)[0].adopted


def test_the_audit_says_who_and_that_it_was_adopted(story: Story) -> None:
    kept = story.lose(
        "INSERT INTO pens(pen) VALUES('L1')", "UPDATE changelog SET actor='ann' WHERE key=4", "UPDATE pens SET size=8 WHERE id=4"
    )
    done = story.adopt(kept)
    actors = shell(
        story.primary, f"SELECT seq, actor FROM changelog_audit WHERE seq>={done.first} AND col IN ('pen','size') AND seq<={done.last}"
    )
    assert set(actors.splitlines()) == {f"{done.first}|adopted: ann", f"{done.last}|adopted: unknown writer"}


def test_a_number_that_was_given_away_is_replaced_and_everything_follows(story: Story) -> None:
    kept = story.lose(
        "INSERT INTO pens(id, pen) VALUES(4, 'L4')",
        "INSERT INTO animals(id, pen_id, name) VALUES(4, 4, 'Dee')",
        "INSERT INTO animals(id, pen_id, name, mother_id) VALUES(5, 4, 'Eve', 5), (6, 4, 'Fay', 4)",
        "INSERT INTO weights(animal_id, kg) VALUES(4, 77)",
        "UPDATE pens SET size=44 WHERE id=4",
        "UPDATE animals SET name='Dee 2' WHERE id=4",
        since=(
            "INSERT INTO pens(id, pen, size) VALUES(4, 'N4', 1)",
            "INSERT INTO animals(pen_id, name) VALUES(1, 'Zoe'), (1, 'Yak')",
            "INSERT INTO weights(animal_id, kg) VALUES(4, 1)",
        ),
    )
    done = story.adopt(kept)
    assert done.conflicts == []
    assert shell(story.primary, "SELECT id, pen, size FROM pens WHERE id>3") == "4|N4|1\n5|L4|44\n"
    shown = "SELECT a.name, p.pen, m.name FROM animals a JOIN pens p ON p.id=a.pen_id LEFT JOIN animals m ON m.id=a.mother_id WHERE a.id>3"
    assert shell(story.primary, f"{shown} ORDER BY 1") == "Dee 2|L4|\nEve|L4|Eve\nFay|L4|Dee 2\nYak|P1|\nZoe|P1|\n"
    assert shell(story.primary, "SELECT a.name, kg FROM weights w JOIN animals a ON a.id=animal_id WHERE w.id>2") == "Zoe|1\nDee 2|77\n"


def test_what_was_typed_again_is_there_already_once_for_each_time(story: Story) -> None:
    kept = story.lose(
        "INSERT INTO pens(pen, size) VALUES('L1', 1), ('L2', 2)",
        "INSERT INTO weights(animal_id, kg) VALUES(1, 300), (1, 300), (1, 400)",
        since=("INSERT INTO pens(pen, size) VALUES('L2', 2)", "INSERT INTO weights(animal_id, kg) VALUES(1, 300)"),
    )
    done = story.adopt(kept)
    assert done.conflicts == []
    assert done.tables == {"pens": {"inserted": 1, "already there": 1}, "weights": {"inserted": 2, "already there": 1}}
    assert shell(story.primary, "SELECT kg, count(*) FROM weights WHERE animal_id=1 GROUP BY 1") == "300|2\n400|2\n"


def test_a_natural_key_that_was_used_for_something_else_is_a_conflict_that_children_follow(story: Story) -> None:
    kept = story.lose(
        "INSERT INTO pens(pen, size, secret) VALUES('L1', 1, 'hush')",
        "INSERT INTO animals(pen_id, name) VALUES(4, 'Dee')",
        since=("INSERT INTO pens(pen) VALUES('other')", "INSERT INTO pens(pen, size, secret) VALUES('L1', 99, 'tell')"),
    )
    done = story.adopt(kept)
    (conflict,) = done.conflicts
    assert (conflict.table, conflict.op, conflict.key) == ("pens", "I", 4)
    assert "pen is taken by the row 5" in str(conflict) and "size is 99, lost 1" in str(conflict) and "stays" in str(conflict)
    assert "hush" not in str(conflict) and "tell" not in str(conflict)
    assert shell(story.primary, "SELECT pen, size FROM pens WHERE id>3") == "other|\nL1|99\n"
    assert shell(story.primary, "SELECT pen_id, name FROM animals WHERE id=4") == "5|Dee\n"


def test_only_columns_that_nobody_changed_since_are_written(story: Story) -> None:
    kept = story.lose(
        "UPDATE pens SET size=10, pen='P1x' WHERE id=1",
        "UPDATE pens SET size=11 WHERE id=1",
        "UPDATE pens SET size=20 WHERE id=2",
        "UPDATE pens SET size=30 WHERE id=3",
        since=("UPDATE pens SET size=7 WHERE id=1", "UPDATE pens SET size=20 WHERE id=2", "UPDATE pens SET pen='P3y' WHERE id=3"),
    )
    done = story.adopt(kept)
    (conflict,) = done.conflicts
    assert "size is 7, lost 10" in str(conflict)
    assert shell(story.primary, "SELECT pen, size FROM pens") == "P1x|7\nP2|20\nP3y|30\n"


def test_rows_that_are_gone_or_were_made_anew_under_the_same_number_are_not_touched(story: Story) -> None:
    kept = story.lose(
        "UPDATE weights SET kg=401 WHERE id=1",
        "UPDATE weights SET kg=501 WHERE id=2",
        "UPDATE spots SET what='uno' WHERE x=1",
        "DELETE FROM spots WHERE x=2",
        since=(
            "DELETE FROM weights WHERE id=1",
            "DELETE FROM weights WHERE id=2",
            "INSERT INTO weights(id, animal_id, kg) VALUES(2, 3, 500)",
            "UPDATE spots SET x=9 WHERE x=1",
            "DELETE FROM spots WHERE x=2",
        ),
    )
    done = story.adopt(kept)
    assert ["its row is gone" in str(c) for c in done.conflicts] == [True, True]
    assert shell(story.primary, "SELECT * FROM spots") == "9|a|uno\n", "the row is followed to its new key"
    assert shell(story.primary, "SELECT animal_id, kg FROM weights") == "3|500\n"


def test_what_was_changed_since_is_not_deleted_nor_what_hangs_on_it(story: Story) -> None:
    kept = story.lose(
        "DELETE FROM weights WHERE animal_id=2",
        "DELETE FROM animals WHERE id=2",
        "DELETE FROM weights",
        "DELETE FROM animals WHERE id=1",
        "DELETE FROM animals WHERE id=3",
        since=("UPDATE animals SET name='Bobby' WHERE id=2", "INSERT INTO weights(animal_id, kg) VALUES(3, 1)"),
    )
    done = story.adopt(kept)
    assert [c.key for c in done.conflicts] == [2, 3]
    assert 'name is "Bobby", lost "Bob"' in str(done.conflicts[0]) and "to delete it would change weights" in str(done.conflicts[1])
    assert shell(story.primary, "SELECT id, name FROM animals") == "2|Bobby\n3|Cid\n"
    assert shell(story.primary, "SELECT animal_id, kg FROM weights") == "3|1\n"


def test_a_child_of_a_row_that_is_not_here_is_a_conflict_and_never_given_to_another_one(story: Story) -> None:
    kept = story.lose(
        "INSERT INTO animals(pen_id, name) VALUES(3, 'Dee')",
        since=(
            "DELETE FROM weights",
            "DELETE FROM animals",
            "DELETE FROM pens WHERE id=3",
            "INSERT INTO pens(id, pen) VALUES(3, 'another')",
        ),
    )
    (conflict,) = story.adopt(kept).conflicts
    assert "it names the row 3 of pens, which is not here" in str(conflict)


def test_swapped_keys_are_swapped_once(story: Story) -> None:
    kept = story.lose(
        "UPDATE animals SET id=-1 WHERE id=1", "UPDATE animals SET id=1 WHERE id=3", "UPDATE animals SET id=3 WHERE id=-1",
    )  # fmt: skip
    run_sql(story.primary, "DELETE FROM weights")
    done = story.adopt(kept)
    assert done.conflicts == []
    assert shell(story.primary, "SELECT id, name FROM animals") == "1|Cid\n2|Bob\n3|Ann\n"


def test_an_adopted_row_that_was_changed_or_deleted_afterwards_does_not_come_again(story: Story) -> None:
    kept = story.lose("INSERT INTO weights(animal_id, kg) VALUES(1, 1), (2, 2), (3, 3)")
    adopt(story.primary, kept)
    run_sql(story.primary, "UPDATE weights SET kg=10 WHERE kg=1", "DELETE FROM weights WHERE kg=2")
    before = log_of(story.primary)
    again = adopt(story.primary, kept)
    assert again.conflicts == [] and again.tables == {"weights": {"already there": 3}}
    assert log_of(story.primary) == before


@pytest.mark.parametrize("forget", ["trimmed", "went back again"])
def test_without_the_primary_s_own_log_only_equal_rows_are_there_already(story: Story, forget: str) -> None:
    lost = "INSERT INTO weights(animal_id, kg, at) VALUES(1, 300, 'now'), (1, 301, 'then')"
    kept = story.lose(
        lost, "UPDATE pens SET size=9 WHERE id=1", since=("INSERT INTO weights(id, animal_id, kg, at) VALUES(9, 1, 300, 'now')",)
    )
    change = "DELETE FROM changelog WHERE seq<=(SELECT max(seq)-1 FROM changelog)"
    run_sql(
        story.primary, change if forget == "trimmed" else "UPDATE changelog SET nonce=nonce+1 WHERE seq=(SELECT max(seq)-1 FROM changelog)"
    )
    done = adopt(story.primary, kept)
    assert done.conflicts == [] and done.tables["weights"] == {"inserted": 1, "already there": 1}
    assert shell(story.primary, "SELECT size FROM pens WHERE id=1") == "9\n"
    before = log_of(story.primary)
    again = adopt(story.primary, kept)
    assert again.conflicts == [] and log_of(story.primary) == before


def test_deferred_foreign_keys_may_be_broken_on_the_way_and_not_at_the_end(tmp_path: Path) -> None:
    schema = """CREATE TABLE a(id INTEGER PRIMARY KEY, b INTEGER REFERENCES b(id) DEFERRABLE INITIALLY DEFERRED, v);
      CREATE TABLE b(id INTEGER PRIMARY KEY, v); INSERT INTO b VALUES(1, 1);"""
    story = Story(tmp_path, schema)
    kept = story.lose(
        "INSERT INTO a VALUES(1, 2, 'early')", "INSERT INTO b VALUES(2, 2)", "INSERT INTO a VALUES(2, 1, 'orphan')",
        since=("DELETE FROM b",),
    )  # fmt: skip
    done = story.adopt(kept)
    assert [c.key for c in done.conflicts] == [2]
    assert shell(story.primary, "SELECT v FROM a") == "early\n"


def test_a_trigger_of_the_application_does_its_work_once(tmp_path: Path) -> None:
    schema = """CREATE TABLE t(id INTEGER PRIMARY KEY, v, updated);
      CREATE TABLE audit(id INTEGER PRIMARY KEY, what, at DEFAULT (random()));
      CREATE TRIGGER stamp AFTER UPDATE OF v ON t BEGIN UPDATE t SET updated=random() WHERE id=NEW.id; END;
      CREATE TRIGGER noted AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES(NEW.v); END;
      INSERT INTO t VALUES(1, 1, NULL);"""
    story = Story(tmp_path, schema)
    kept = story.lose("INSERT INTO t(v) VALUES('x')", "UPDATE t SET v=2 WHERE id=1", since=("INSERT INTO t(v) VALUES('y')",))
    done = story.adopt(kept)
    assert done.conflicts == []
    assert shell(story.primary, "SELECT id, v FROM t") == "1|2\n2|y\n3|x\n"
    assert shell(story.primary, "SELECT what FROM audit ORDER BY id") == "1\ny\nx\n"


def test_a_lost_change_of_the_schema_is_named_and_its_rows_come_when_it_was_made_again(story: Story) -> None:
    kept = story.lose("INSERT INTO notes VALUES('n2', 1)", "CREATE TABLE extra(a PRIMARY KEY NOT NULL)", "INSERT INTO extra VALUES('e')")
    done = adopt(story.primary, kept)
    assert [c.op for c in done.conflicts] == ["X", "I"] and "no table of this name" in str(done.conflicts[1])
    run_sql(story.primary, "CREATE TABLE extra(a PRIMARY KEY NOT NULL)")
    done = story.adopt(kept)
    assert done.conflicts == [] and "schema is as this change left it" in done.notes[0]
    assert shell(story.primary, "SELECT a FROM extra") == "e\n"


def test_a_dry_run_changes_nothing_and_says_the_same(story: Story) -> None:
    kept = story.lose(*EVERYTHING)
    before, bytes_before = contents(story.primary), kept.read_bytes()
    said = adopt(story.primary, kept, dry_run=True)
    assert contents(story.primary) == before and kept.read_bytes() == bytes_before
    done = adopt(story.primary, kept)
    assert (said.tables, said.conflicts, said.first, said.last) == (done.tables, done.conflicts, done.first, done.last)


@pytest.mark.parametrize("what", ["another database", "another primary's"])
def test_only_a_file_of_this_history_is_adopted(story: Story, tmp_path: Path, what: str) -> None:
    kept = story.lose("INSERT INTO notes VALUES(1, 1)")
    other = make_primary(tmp_path / "other.db", SCHEMA)
    wrong: Callable[[], Adopted] = (lambda: adopt(story.primary, other)) if what == "another database" else (lambda: adopt(other, kept))
    with pytest.raises((NotFound, Conflict)):
        wrong()


def test_a_file_that_cannot_be_written_is_adopted_all_the_same(story: Story) -> None:
    kept = story.lose("INSERT INTO notes VALUES('n3', 1)")
    kept.chmod(0o440)
    assert adopt(story.primary, kept).conflicts == []
    db = connect(story.primary)
    db.close()
