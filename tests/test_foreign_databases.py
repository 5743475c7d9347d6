"""Databases that nobody here designed: Django's own schema, the record shop Chinook, and full-text search over a captured table."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from changelog_parts import contents, make_primary, run_sql, shell, story

from changelog.connection import connect, rows
from changelog.install import install
from changelog.primary import Primary
from changelog.pull import Pulled, pull_file
from changelog.reconcile import run_ddl
from scripts.prove_capture import ApswWriter, ShellWriter
from scripts.random_sql import Statements

WRITES = 1_500  # by each of the two SQLites
AT_A_TIME = 250  # between two pulls


class Followed:
    """Somebody's database, made a primary as it is, and the file that pulls from it."""

    def __init__(self, folder: Path) -> None:
        self.path, self.copy = folder / "primary.db", folder / "replica.db"

    def django(self, *what: str) -> None:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("django_project.py")), str(self.path), *what],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def install(self) -> None:
        db = connect(self.path)
        install(db)
        db.close()
        self.source = Primary(self.path)

    def pull(self) -> Pulled:
        done = pull_file(self.source, self.copy)
        assert contents(self.copy) == contents(self.path)
        return done


@pytest.fixture(scope="module")
def chinook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Django site with Chinook's rows."""
    made = Followed(tmp_path_factory.mktemp("chinook"))
    made.django("migrate")
    return made.path


@pytest.fixture
def site(tmp_path: Path, chinook: Path) -> Iterator[Followed]:
    """The same, a primary."""
    made = Followed(tmp_path)
    made.path.write_bytes(chinook.read_bytes())
    made.install()
    assert made.pull().before is None
    yield made
    made.source.close()


def test_an_orm_writes_and_the_replica_follows(site: Followed) -> None:
    for seed in ("1", "2"):
        site.django("write", seed)
        done = site.pull()
        assert not done.reason
        assert done.changes > 1_000


def test_an_orm_migrates_and_the_replica_follows(site: Followed) -> None:
    site.django("alter")
    site.pull()  # a table made anew by way of another name: by a snapshot
    run_sql(site.path, "INSERT INTO chinook_records(title, artist_id) VALUES('after', 1)", "UPDATE chinook_artist SET label='x' WHERE id<9")
    done = site.pull()
    assert (done.reason, done.changes) == ("", 9)


@pytest.mark.parametrize("writer", [ApswWriter, ShellWriter])
def test_thousands_of_random_writes_and_the_replica_follows(site: Followed, writer: type[ApswWriter | ShellWriter]) -> None:
    db = connect(site.path)
    script = Statements(db, random.Random(11))
    write = writer(site.path, ["PRAGMA synchronous=OFF"])
    changes = 0
    for _ in range(WRITES // AT_A_TIME):
        write.run(["BEGIN", *(script.any_write() for _ in range(AT_A_TIME)), "COMMIT", "ROLLBACK"])
        done = site.pull()
        assert not done.reason
        changes += done.changes
    assert changes > WRITES // 4  # many are refused, as NOT NULL or by a foreign key; else this proves little
    write.close()
    db.close()


def test_ddl_of_the_shell_and_the_replica_follows_by_replay(site: Followed) -> None:
    for sql in (
        "ALTER TABLE chinook_track ADD COLUMN rating INTEGER DEFAULT 3; UPDATE chinook_track SET rating=5 WHERE id%7=0",
        "ALTER TABLE chinook_genre RENAME TO genres; INSERT INTO genres(name) VALUES('Drover')",
        "ALTER TABLE auth_user RENAME COLUMN email TO mail; UPDATE auth_user SET mail='x'",
        "CREATE VIEW dear AS SELECT * FROM chinook_track WHERE unit_price>1; CREATE INDEX by_bytes ON chinook_track(bytes)",
        "CREATE TABLE notes(id INTEGER PRIMARY KEY, track REFERENCES chinook_track); INSERT INTO notes(track) SELECT id FROM chinook_track",
        "DROP TABLE django_session; DELETE FROM notes WHERE id%2",
    ):
        shell(site.path, sql)
        assert not site.pull().reason, sql
    db = connect(site.path)
    run_ddl(db, "ALTER TABLE chinook_customer DROP COLUMN fax")
    db.close()
    assert not site.pull().reason


SEARCHABLE = """
CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, body TEXT);
CREATE VIRTUAL TABLE search USING fts5(title, body, content='notes', content_rowid='id');
CREATE TRIGGER notes_ai AFTER INSERT ON notes BEGIN INSERT INTO search(rowid, title, body) VALUES(new.id, new.title, new.body); END;
CREATE TRIGGER notes_ad AFTER DELETE ON notes BEGIN
  INSERT INTO search(search, rowid, title, body) VALUES('delete', old.id, old.title, old.body); END;
CREATE TRIGGER notes_au AFTER UPDATE ON notes BEGIN
  INSERT INTO search(search, rowid, title, body) VALUES('delete', old.id, old.title, old.body);
  INSERT INTO search(rowid, title, body) VALUES(new.id, new.title, new.body); END;
INSERT INTO notes(title, body) VALUES('first', 'the brown cow'), ('second', 'the black bull');
"""
WORDS = ["cow", "bull", "calf", "pen", "barn", "Ünï"]


def found(path: Path, words: str) -> list[int]:
    """The rows in which full-text search finds the words, after SQLite has compared its index with the table."""
    db = connect(path)
    try:
        db.execute("INSERT INTO search(search, rank) VALUES('integrity-check', 1)")
        return [rowid for (rowid,) in rows(db, "SELECT rowid FROM search(?) ORDER BY rowid", (words,))]
    finally:
        db.close()


@pytest.mark.parametrize("writer", [ApswWriter, ShellWriter])
def test_full_text_search_over_a_captured_table_answers_the_same(tmp_path: Path, writer: type[ApswWriter | ShellWriter]) -> None:
    primary, chance = make_primary(tmp_path / "primary.db", SEARCHABLE), random.Random(7)
    # Else OR REPLACE fires no delete trigger, and the application's own index keeps what is gone.
    write = writer(primary, ["PRAGMA recursive_triggers=1"])
    source, replica = Primary(primary), tmp_path / "replica.db"
    pull_file(source, replica)
    for ddl in ("", "ALTER TABLE notes ADD COLUMN pen TEXT DEFAULT 'A'", "CREATE INDEX by_title ON notes(title)", "", ""):
        write.run([ddl, *(_note(chance) for _ in range(60))])
        assert not pull_file(source, replica).reason
        assert contents(replica) == contents(primary)
        for word in WORDS:
            assert found(replica, word) == found(primary, word)
    assert {tbl for _, tbl, _ in story(primary)} == {"notes", None}  # the index itself is in no log
    write.close()
    source.close()


def _note(chance: random.Random) -> str:
    number, text = chance.randint(1, 30), " ".join(chance.sample(WORDS, 3))
    return chance.choice(
        [
            f"INSERT INTO notes(title, body) VALUES('{text}', '{number}')",
            f"INSERT OR REPLACE INTO notes(id, title, body) VALUES({number}, '{text}', 'the {text}')",
            f"UPDATE notes SET body='{text}' WHERE id={number}",
            f"UPDATE OR REPLACE notes SET id=id+1, title=NULL WHERE id={number}",
            f"DELETE FROM notes WHERE id={number}",
        ]
    )
