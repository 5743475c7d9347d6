"""Every commit is seen soon, whoever makes it, and whatever happens to the file and its folder."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from changelog_parts import REPOSITORY, make_primary, shell, wait_until

from changelog.commits import FLOOR, CommitWatcher
from changelog.connection import connect, identity, one
from changelog.log import head

SCHEMA = "CREATE TABLE pens(pen TEXT PRIMARY KEY, size REAL)"
COMMITS = 40
WRITER = """
import random, sys, time
from changelog.connection import connect
from changelog.log import head
db = connect(sys.argv[1], checkpoints=True)
db.pragma("synchronous", sys.argv[2])
db.pragma("wal_autocheckpoint", 20)
for n in range(int(sys.argv[3])):
    time.sleep(random.random() * 0.04)
    db.execute("INSERT INTO pens(pen) VALUES(?)", (str(n),))
    at = time.monotonic()
    print(head(db), at, flush=True)
"""
# Watches where no file can be opened any more when it begins, so that there is no inotify; then commits, and says whether that was seen.
WITHOUT_INOTIFY = """
import os, resource, sys, threading, time
from changelog.commits import CommitWatcher
from changelog.connection import connect, identity
path = sys.argv[1]
db = connect(path)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
watcher = CommitWatcher(path, lambda: identity(path))
watcher.moved(-1, 0.0)
time.sleep(0.3)
for fd in taken:
    os.close(fd)
seen = 0
while (now := watcher.moved(seen, 0.3)) != seen:
    seen = now
times = []
for n in range(10):
    db.execute("INSERT INTO pens(pen) VALUES(?)", (n,))
    at = time.monotonic()
    before, seen = seen, watcher.moved(seen, 5)
    assert seen != before
    times.append(time.monotonic() - at)
watcher.close()
print(sorted(times)[5])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_primary(tmp_path / "farm.db", SCHEMA)


@contextmanager
def watching(path: Path) -> Iterator[CommitWatcher]:
    watcher = CommitWatcher(path, lambda: identity(path))
    try:
        yield watcher
    finally:
        watcher.close()


class Seen:
    """Reads the head whenever the watcher says that the file has moved, and keeps when it saw which."""

    def __init__(self, path: Path, watcher: CommitWatcher) -> None:
        self._path, self._watcher = path, watcher
        self.at: dict[int, float] = {}
        self.newest = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Seen:
        self._thread.start()
        wait_until(lambda: self.newest)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopped = True
        self._watcher.release()
        self._thread.join()

    def _run(self) -> None:
        db = connect(self._path, readonly=True)
        moves = -1
        while not self._stopped:
            moves = self._watcher.moved(moves, 10)
            now, newest = time.monotonic(), head(db)
            self.at |= dict.fromkeys(range(self.newest + 1, newest + 1), now)
            self.newest = newest
        db.close()


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_each_commit_of_another_process_is_seen_at_once_and_the_last_one_too(path: Path, synchronous: str) -> None:
    """With synchronous=FULL inotify speaks before a commit can be seen, and is silent afterwards."""
    with watching(path) as watcher, Seen(path, watcher) as seen:
        command = [sys.executable, "-c", WRITER, str(path), synchronous, str(COMMITS)]
        printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        committed = {int(seq): float(at) for seq, at in map(str.split, printed.splitlines())}
        assert len(committed) == COMMITS
        wait_until(lambda: seen.newest == max(committed))
        late = [seen.at[seq] - at for seq, at in committed.items()]
    assert statistics.median(late) < 0.05
    assert sum(1 for each in late if each > FLOOR / 2) <= COMMITS // 10, late  # beside other tests the machine may stand still


def test_a_commit_that_our_own_process_announces_needs_no_inotify(path: Path) -> None:
    with watching(path) as watcher:
        seen = _settled(watcher, 0)
        shell(path, "INSERT INTO pens(pen) VALUES('A')")
        watcher.hint()
        assert watcher.moved(seen, 5) > seen


def test_nothing_moves_when_nothing_is_committed(path: Path) -> None:
    with watching(path) as watcher:
        seen = _settled(watcher, 0)
        db = connect(path)
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO pens(pen) VALUES('A')")
        assert watcher.moved(seen, 2 * FLOOR) == seen
        db.execute("ROLLBACK")
        assert watcher.moved(seen, 2 * FLOOR) == seen
        db.close()


def test_what_was_committed_while_nobody_waited_is_seen_by_who_comes_next(path: Path) -> None:
    with watching(path) as watcher:
        seen = _settled(watcher, 0)
        shell(path, "INSERT INTO pens(pen) VALUES('A')")
        time.sleep(2 * FLOOR)  # nobody looks, and no more writes come
        assert watcher.moved(seen, 5) > seen


def test_where_there_is_no_inotify_commits_are_seen_by_looking(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_INOTIFY, str(path)], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the folder cannot be watched" in done.stderr
    assert float(done.stdout) < 0.2


def test_another_file_and_another_folder_at_the_path_are_seen_and_watched_from_then_on(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = make_primary(folder / "farm.db", SCHEMA)
    with watching(path) as watcher:
        seen = _settled(watcher, 0)
        make_primary(tmp_path / "other.db", SCHEMA)
        os.replace(tmp_path / "other.db", path)
        now = watcher.moved(seen, 5)
        assert now > seen
        shutil.copytree(folder, tmp_path / "new")
        os.rename(folder, tmp_path / "old")
        os.rename(tmp_path / "new", folder)
        seen = watcher.moved(now, 5)
        assert seen > now
        for pen in ("A", "B", "C"):  # the first of them may be found only by the floor
            seen = _settled(watcher, seen)
            shell(path, f"INSERT INTO pens(pen) VALUES('{pen}')")
            assert watcher.moved(seen, 5) > seen
    assert shell(path, "SELECT count(*) FROM pens") == "3\n"


def test_a_link_to_the_file_is_watched_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "card").mkdir()
    real = make_primary(tmp_path / "card" / "farm.db", SCHEMA)
    link = tmp_path / "farm.db"
    link.symlink_to(real)
    with watching(link) as watcher, Seen(link, watcher) as seen:
        db = connect(real)
        late = []
        for n in range(10):
            db.execute("INSERT INTO pens(pen) VALUES(?)", (n,))
            at, seq = time.monotonic(), one(db, "SELECT max(seq) FROM changelog")
            wait_until(lambda seq=seq: seen.newest >= seq)  # type: ignore[misc]
            late.append(seen.at[seq] - at)
        db.close()
    assert statistics.median(late) < FLOOR / 4


def _settled(watcher: CommitWatcher, seen: int) -> int:
    """The count when the watcher says nothing more of what is past."""
    while (now := watcher.moved(seen, 0.2)) != seen:
        seen = now
    return seen
