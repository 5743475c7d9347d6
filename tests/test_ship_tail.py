"""The tailer: every commit as the pages it changed, whoever checkpoints; and after a restart only where nothing can be missing."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import apsw
import pytest
from ship_parts import bytes_of, is_sound, make_bank, transfer

from changelog.connection import connect, one
from changelog.errors import ConfigError, DamagedFile
from changelog.ltx.tail import Change, Tail
from changelog.ltx.wal import Mark

KINDS = (
    apsw.SQLITE_CHECKPOINT_PASSIVE,
    apsw.SQLITE_CHECKPOINT_FULL,
    apsw.SQLITE_CHECKPOINT_RESTART,
    apsw.SQLITE_CHECKPOINT_TRUNCATE,
)
IMPATIENT = 1  # ms: a checkpoint here waits for the tailer in vain, they share a thread


class Copy:
    """The database as one has it who was handed all changes."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}
        self.size = 0

    def take(self, change: Change) -> None:
        """Apply a change, which must be complete."""
        found = dict(change.read())
        assert len(found) == change.count and list(found) == sorted(found)
        assert set(range(self.size + 1, change.size + 1)) <= set(found)
        self.pages = {page: data for page, data in (self.pages | found).items() if page <= change.size}
        self.size = change.size

    def bytes(self) -> bytes:
        """All of it."""
        return b"".join(self.pages[page] for page in range(1, self.size + 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_bank(tmp_path / "bank.db")
    return tmp_path / "bank.db"


@pytest.fixture
def db(path: Path) -> Iterator[apsw.Connection]:
    with closing(connect(path, patience=IMPATIENT)) as db:
        yield db


def follow(tail: Tail, copy: Copy) -> Change | None:
    """Take what is new."""
    if change := tail.change():
        copy.take(change)
        tail.advance(change)
    return change


def disturb(db: apsw.Connection, chance: random.Random) -> None:
    with suppress(apsw.BusyError):
        db.wal_checkpoint(mode=chance.choice(KINDS))
    if chance.random() < 0.1:
        db.execute("VACUUM")


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_nothing_is_missed_whoever_checkpoints(tmp_path: Path, page_size: int) -> None:
    path, chance, copy = tmp_path / "bank.db", random.Random(page_size), Copy()
    make_bank(path, page_size)
    with closing(connect(path, patience=IMPATIENT)) as db, closing(Tail(path)) as tail:
        for turn in range(400):
            for _ in range(chance.randrange(3)):
                transfer(db, chance)
            if chance.random() < 0.5:
                disturb(db, chance)
            if chance.random() < 0.7:
                follow(tail, copy)
            if chance.random() < 0.05:
                tail.checkpoint(copy.take)
            if turn % 50 == 0:
                change = tail.change()
                assert dict(tail.whole(change).read()) == dict(_taken(copy, change))
                if change:
                    copy.take(change)
                    tail.advance(change)
        follow(tail, copy)
    assert copy.bytes() == bytes_of(path)
    assert is_sound(path)


def _taken(copy: Copy, change: Change | None) -> Iterator[tuple[int, bytes]]:
    """What the copy will be after a change."""
    other = Copy()
    other.pages, other.size = dict(copy.pages), copy.size
    if change:
        other.take(change)
    return iter(other.pages.items())


def test_a_change_holds_only_what_was_changed(path: Path, db: apsw.Connection) -> None:
    copy = Copy()
    with closing(Tail(path)) as tail:
        whole = follow(tail, copy)
        assert whole and whole.whole
        assert tail.change() is None
        db.execute("UPDATE accounts SET balance=balance+1")
        change = follow(tail, copy)
        assert change and not change.whole and change.count < whole.count


def test_many_commits_between_two_looks_are_one_change_with_the_newest_of_each_page(path: Path, db: apsw.Connection) -> None:
    copy = Copy()
    with closing(Tail(path)) as tail:
        follow(tail, copy)
        for balance in range(50):
            db.execute("UPDATE accounts SET balance=?", (balance,))
        change = follow(tail, copy)
        assert change and change.count < 5
    db.close()
    assert copy.bytes() == bytes_of(path)


def test_a_transaction_that_is_not_committed_is_not_seen(path: Path, db: apsw.Connection) -> None:
    with closing(Tail(path)) as tail:
        follow(tail, Copy())
        db.execute("PRAGMA cache_size=1; BEGIN; UPDATE accounts SET balance=0")
        db.execute("INSERT INTO ballast SELECT zeroblob(4000) FROM accounts, (SELECT 1 UNION SELECT 2)")  # spills into the -wal
        assert path.with_name("bank.db-wal").stat().st_size > 100_000
        assert tail.change() is None
        db.execute("ROLLBACK")
        assert tail.change() is None


def test_no_checkpoint_of_others_goes_further_than_what_was_handed_out(path: Path, db: apsw.Connection) -> None:
    with closing(Tail(path)) as tail:
        follow(tail, Copy())
        db.execute("UPDATE accounts SET balance=balance+1")
        with pytest.raises(apsw.BusyError):
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        assert tail.change()


def test_a_checkpoint_of_others_that_waits_for_us_is_let_through_by_a_look(path: Path, db: apsw.Connection) -> None:
    copy = Copy()
    with closing(Tail(path)) as tail:
        follow(tail, copy)
        db.execute("UPDATE accounts SET balance=balance+1")
        follow(tail, copy)
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        with pytest.raises(apsw.BusyError):
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        assert tail.change() is None
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        assert path.with_name("bank.db-wal").stat().st_size == 0


def test_our_checkpoint_lets_the_wal_begin_anew(path: Path, db: apsw.Connection) -> None:
    copy = Copy()
    with closing(Tail(path)) as tail:
        follow(tail, copy)
        for _ in range(300):
            db.execute("UPDATE accounts SET balance=balance+1")
        assert tail.frames() >= 300
        assert tail.checkpoint(copy.take)
        db.execute("UPDATE accounts SET balance=balance+1")
        assert tail.frames() < 10
        follow(tail, copy)
    db.close()
    assert copy.bytes() == bytes_of(path)


def test_our_checkpoint_gives_way_to_a_writer_that_does_not_end(path: Path, db: apsw.Connection) -> None:
    with closing(Tail(path)) as tail:
        follow(tail, Copy())
        with db:
            db.execute("UPDATE accounts SET balance=0")
            assert not tail.checkpoint(Copy().take)


def test_a_restart_goes_on_where_it_was(path: Path, db: apsw.Connection) -> None:
    copy = Copy()
    with closing(Tail(path)) as tail:
        follow(tail, copy)
        db.execute("UPDATE accounts SET balance=1")
        follow(tail, copy)
        mark = tail.mark
    db.execute("UPDATE accounts SET balance=2")
    with closing(Tail(path)) as tail:
        assert mark and tail.resume(mark, copy.size)
        change = follow(tail, copy)
        assert change and not change.whole
    db.close()
    assert copy.bytes() == bytes_of(path)


def test_a_restart_does_not_go_on_in_another_wal(path: Path, db: apsw.Connection) -> None:
    copy = Copy()
    with closing(Tail(path)) as tail:
        follow(tail, copy)
        db.execute("UPDATE accounts SET balance=1")
        follow(tail, copy)
        mark = tail.mark
    db.execute("UPDATE accounts SET balance=2")
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    for _ in range(20):
        db.execute("UPDATE accounts SET balance=3")
    with closing(Tail(path)) as tail:
        assert mark and not tail.resume(mark, copy.size)
        change = tail.change()
        assert change and change.whole


def test_a_restart_does_not_go_on_in_a_copy_that_took_another_way(tmp_path: Path, path: Path, db: apsw.Connection) -> None:
    """The same -wal up to some commit, then other ones: an older copy of the folder was put back and written to."""
    older = tmp_path / "older"
    older.mkdir()
    db.execute("UPDATE accounts SET balance=1")
    db.close()  # no other connection: the files may be copied here
    with closing(connect(path, leaves_wal=True)) as keeper:
        keeper.execute("UPDATE accounts SET balance=2")
    for name in ("bank.db", "bank.db-wal"):
        shutil.copy(path.with_name(name), older / name)
    marks: list[Mark] = []
    for file, balance in ((path, 3), (older / "bank.db", 4)):
        with closing(connect(file, leaves_wal=True)) as other, closing(Tail(file)) as tail:
            other.execute("UPDATE accounts SET balance=?", (balance,))
            follow(tail, Copy())
            assert tail.mark
            marks.append(tail.mark)
    assert marks[0].salts == marks[1].salts and marks[0].frame == marks[1].frame
    with closing(Tail(older / "bank.db")) as tail:
        assert not tail.resume(marks[0], 4)
        assert tail.resume(marks[1], 4)


def test_a_link_to_the_database_is_followed(path: Path, db: apsw.Connection) -> None:
    copy, link = Copy(), path.with_name("link.db")
    link.symlink_to(path)
    with closing(Tail(link)) as tail:
        db.execute("UPDATE accounts SET balance=balance+1")
        follow(tail, copy)
    db.close()
    assert copy.bytes() == bytes_of(path)


def test_a_database_without_a_wal_is_refused_with_the_cause(path: Path, db: apsw.Connection) -> None:
    db.pragma("journal_mode", "delete")
    with pytest.raises(ConfigError, match="journal_mode delete"):
        Tail(path)
    db.close()


def test_a_database_that_is_missing_or_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="is missing"):
        Tail(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("no database, and long enough to be taken for one" * 20)
    with pytest.raises(DamagedFile, match="not a database"):
        Tail(tmp_path / "text.db")


def test_the_wal_stays_when_the_tailer_is_the_last_to_close(path: Path, db: apsw.Connection) -> None:
    with closing(Tail(path)) as tail:
        db.execute("UPDATE accounts SET balance=5")
        db.close()
        follow(tail, Copy())
    assert path.with_name("bank.db-wal").stat().st_size > 0
    with closing(connect(path)) as other:
        assert one(other, "SELECT min(balance) FROM accounts") == 5
