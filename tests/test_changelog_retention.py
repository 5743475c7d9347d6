"""Which rows of a log go, and that a log of which rows went is as good a log as before for everybody who follows it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from changelog_parts import REPOSITORY, assert_alike, contents, follow, make_primary, make_replica, run_sql, shell

from changelog.acks import Ack
from changelog.connection import connect, one, rows
from changelog.errors import HistoryTrimmed, PositionMismatch
from changelog.install import install
from changelog.log import head
from changelog.position import Position, epoch_of
from changelog.reader import check_position
from changelog.replay import connect_replica, position_of
from changelog.retention import (
    BITE,
    RUN_ROWS,
    Limits,
    Plan,
    Survey,
    about_log_bytes,
    cutoff,
    file_bytes,
    log_bytes,
    plan,
    trim,
    trim_old,
    trim_run,
)

DAY = 86_400.0
NOW = 1_795_737_600.0  # 2026-11-27 00:00 UTC
T = "CREATE TABLE t(id INTEGER PRIMARY KEY, v);"


def fill(db: apsw.Connection, count: int, size: int = 10) -> None:
    with db:
        db.executemany("INSERT INTO t(v) VALUES(randomblob(?))", [(size,)] * count)


def date(db: apsw.Connection, now: float = NOW, step: float = DAY) -> None:
    """Give each row a day of its own; the head is of `now`."""
    newest = head(db)
    with db:
        for (seq,) in rows(db, "SELECT seq FROM changelog"):
            db.execute("UPDATE changelog SET at=? WHERE seq=?", (cutoff((newest - seq) * step / DAY, now), seq))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_primary(tmp_path / "p.db", T)


@pytest.fixture
def db(path: Path) -> Iterator[apsw.Connection]:
    """A primary with the rows 1 (the birth) to 100, one for each of the last hundred days."""
    with closing(connect(path)) as made:
        fill(made, 99)
        date(made)
        yield made


def position(db: apsw.Connection, seq: int) -> Position:
    return Position(epoch_of(db), seq, one(db, "SELECT nonce FROM changelog WHERE seq=?", (seq,)))


def ack(db: apsw.Connection, seq: int, name: str = "r", epoch: str | None = None) -> Ack:
    nonce = one(db, "SELECT nonce FROM changelog WHERE seq=?", (seq,))
    return Ack(name, "office", epoch or epoch_of(db), seq, "2026-11-27T00:00:00", nonce)


def all_of(db: apsw.Connection, limits: Limits, acks: list[Ack] | None) -> list[Plan]:
    """Everything that may go, without pauses."""
    gone = []
    while run := trim_run(db, limits, acks):
        gone.append(run)
    return gone


def marks(db: apsw.Connection) -> list[Any]:
    return rows(db, "SELECT name, seq, value FROM changelog_meta WHERE name IN ('trimmed','anchor') ORDER BY name DESC, seq")


# --- the plan


def test_a_row_goes_when_it_is_old_and_every_replica_has_a_later_one(db: apsw.Connection) -> None:
    thirty = Limits(cutoff(30, NOW))  # seq 70 is 30 days old to the millisecond, and stays
    assert plan(db, thirty, [ack(db, 100)]).upto == 69
    assert plan(db, thirty, [ack(db, 50), ack(db, 100, "q")]).upto == 49
    assert plan(db, thirty, [ack(db, 50), ack(db, 100, "q")]).slowest == 50
    assert plan(db, Limits(cutoff(0, NOW)), [ack(db, 100)]).upto == 99
    assert plan(db, Limits(cutoff(36_500, NOW)), [ack(db, 100)]).rows == 0


def test_where_no_replica_has_acknowledged_anything_age_lets_nothing_go(db: apsw.Connection) -> None:
    assert plan(db, Limits(cutoff(30, NOW)), []).rows == 0
    assert plan(db, Limits(cutoff(30, NOW)), [ack(db, 90, epoch="f" * 32)]).rows == 0, "of a stranger's history"
    assert plan(db, Limits(cutoff(30, NOW)), [ack(db, 90, epoch="f" * 32), ack(db, 100)]).upto == 69, "which holds nothing back either"
    assert plan(db, Limits(cutoff(30, NOW)), None).upto == 69, "asked not to ask"


def test_an_acknowledgement_past_the_head_counts_as_the_head(db: apsw.Connection) -> None:
    ahead = Ack("r", "office", epoch_of(db), 10**6, "", 1)
    found = plan(db, Limits(cutoff(0, NOW)), [ahead])
    assert (found.slowest, found.upto) == (100, 99)


def test_an_acknowledgement_of_an_ancestor_counts_up_to_where_that_ended(db: apsw.Connection) -> None:
    early, late = ack(db, 40), Ack("q", "office", epoch_of(db), 5_000, "", 1)
    install(db)
    fill(db, 10)
    date(db)
    assert plan(db, Limits(cutoff(0, NOW)), [early]).upto == 39
    assert plan(db, Limits(cutoff(0, NOW)), [late]).upto == 99
    assert plan(db, Limits(cutoff(0, NOW)), [late, ack(db, 111)]).slowest == 100


@pytest.mark.parametrize("jump", [365 * DAY * 40, 40 * DAY, -40 * DAY, -365 * DAY * 60])
def test_a_clock_that_jumps_trims_nothing_unacknowledged(db: apsw.Connection, jump: float) -> None:
    for reached in (1, 50, 100):
        upto = plan(db, Limits(cutoff(30, NOW + jump)), [ack(db, reached)]).upto
        assert upto < reached
        assert upto == min(reached - 1, 100) if jump > 0 and jump > 100 * DAY else upto <= 100


def test_rows_from_another_time_end_what_goes_by_age_until_the_cap_takes_them(db: apsw.Connection) -> None:
    db.execute("UPDATE changelog SET at='2099-01-01T00:00:00.000Z' WHERE seq=20")
    db.execute("UPDATE changelog SET at='1970-01-01T00:00:00.000Z' WHERE seq>90")
    everyone = [ack(db, 100)]
    assert plan(db, Limits(cutoff(30, NOW)), everyone).upto == 19
    assert plan(db, Limits(cutoff(30, NOW), cap=20), everyone).upto == 20
    for odd in (None, b"blob", "", "yesterday"):
        db.execute("UPDATE changelog SET at=? WHERE seq=10", (odd,))
        assert plan(db, Limits(cutoff(30, NOW)), everyone).upto == (9 if odd != "" else 19), "what is no time is not old"


def test_the_cap_wins_over_age_and_replicas_and_names_whom_it_passes_over(db: apsw.Connection) -> None:
    slow, fast = ack(db, 20, "slow"), ack(db, 100, "fast")
    found = plan(db, Limits(cutoff(365, NOW), cap=60), [slow, fast])
    assert (found.upto, found.why, found.passed_over) == (60, "cap", (slow,))
    assert plan(db, Limits(cutoff(30, NOW), cap=60), [fast]).upto == 69
    assert plan(db, Limits(cutoff(30, NOW), cap=60), [fast]).why == "age"


def test_the_head_stays_whatever_is_asked_for(db: apsw.Connection) -> None:
    all_of(db, Limits(cutoff(0, NOW + 9 * DAY), cap=10**9), None)
    assert rows(db, "SELECT seq FROM changelog") == [(100,)]
    assert trim_run(db, Limits(cap=10**9), None) is None
    fill(db, 1)
    assert head(db) == 101, "the next seq goes on from it"


def test_below_a_seq_and_older_than_a_time_must_both_hold(db: apsw.Connection) -> None:
    assert plan(db, Limits(cutoff(30, NOW), below=40), None).upto == 39
    assert plan(db, Limits(cutoff(90, NOW), below=40), None).upto == 9
    assert plan(db, Limits(below=40), [ack(db, 20)]).upto == 19


# --- positions


def test_the_last_trimmed_position_is_good_and_earlier_ones_are_410(db: apsw.Connection) -> None:
    positions = {seq: position(db, seq) for seq in range(1, 101)}
    all_of(db, Limits(cutoff(30, NOW)), [ack(db, 100)])
    assert marks(db) == [("trimmed", 69, positions[69].check)]
    for seq in range(69, 101):
        check_position(db, positions[seq])
    for seq in range(1, 69):
        with pytest.raises(HistoryTrimmed) as caught:
            check_position(db, positions[seq])
        assert caught.value.facts["oldest"] == 70
    with pytest.raises(PositionMismatch):
        check_position(db, Position(epoch_of(db), 69, 1))


def test_a_replica_that_the_cap_passed_over_is_told_the_truth(db: apsw.Connection) -> None:
    good = {seq: position(db, seq) for seq in (30, 60, 70)}
    acks = [ack(db, seq, f"r{seq}") for seq in good]
    for cap in (40, 60, 69, 80):
        all_of(db, Limits(cap=cap), acks)
    assert [mark[:2] for mark in marks(db)] == [("trimmed", 80), ("anchor", 30), ("anchor", 60), ("anchor", 70)]
    for seq, known in good.items():
        with pytest.raises(HistoryTrimmed):
            check_position(db, known)
        with pytest.raises(PositionMismatch, match="another write"):
            check_position(db, Position(known.epoch, seq, known.check ^ 1))
    with pytest.raises(HistoryTrimmed):
        check_position(db, Position(epoch_of(db), 50, 1))  # nobody was known to be there


def test_an_anchor_is_what_this_log_held_not_what_the_replica_says(db: apsw.Connection) -> None:
    ours = position(db, 30)
    all_of(db, Limits(cap=60), [Ack("r", "office", epoch_of(db), 30, "", ours.check ^ 1)])
    with pytest.raises(PositionMismatch):
        check_position(db, Position(ours.epoch, 30, ours.check ^ 1))
    with pytest.raises(HistoryTrimmed):
        check_position(db, ours)


def test_anchors_of_replicas_that_moved_on_are_forgotten(db: apsw.Connection) -> None:
    for step in range(10, 90, 10):
        all_of(db, Limits(cap=step + 5), [ack(db, step)])
        assert len(marks(db)) == 2
    all_of(db, Limits(cap=90), [ack(db, 100)])
    assert [mark[0] for mark in marks(db)] == ["trimmed"]


def test_trimming_without_asking_replicas_keeps_the_anchors_that_are_there(db: apsw.Connection) -> None:
    all_of(db, Limits(cap=60), [ack(db, 30)])
    all_of(db, Limits(cap=80), None)
    assert [mark[:2] for mark in marks(db)] == [("trimmed", 80), ("anchor", 30)]


def test_a_new_epoch_goes_on_from_a_log_of_which_only_the_head_is_left(db: apsw.Connection, path: Path, tmp_path: Path) -> None:
    make_replica(path, tmp_path / "r.db")
    all_of(db, Limits(cap=10**9), None)
    install(db)
    assert head(db) == 101 and one(db, "SELECT seq FROM changelog_meta WHERE name='ancestor'") == 100
    with pytest.raises(PositionMismatch) as caught:
        with closing(connect(tmp_path / "r.db")) as replica:
            check_position(db, position_of(replica))
    assert caught.value.facts["descends"] is True


def test_a_log_that_somebody_emptied_is_left_alone(db: apsw.Connection) -> None:
    db.execute("DELETE FROM changelog")
    survey = Survey(db)
    assert survey.read() and survey.over(0) == 0
    assert trim_run(db, Limits(cutoff(0, NOW), cap=10**6), None) is None
    assert (log_bytes(db) > 0, about_log_bytes(db)) == (True, 0)


# --- in short transactions


def test_a_run_is_short_and_runs_go_on_where_the_last_one_ended(path: Path) -> None:
    with closing(connect(path)) as db:
        fill(db, 3 * RUN_ROWS)
        gone = all_of(db, Limits(cap=2 * RUN_ROWS + 500), None)
        assert max(run.rows for run in gone) <= RUN_ROWS
        assert [run.oldest for run in gone] == [1, *(run.upto + 1 for run in gone[:-1])]
        assert sum(run.rows for run in gone) == 2 * RUN_ROWS + 500
        assert rows(db, "SELECT min(seq), max(seq), count(*) FROM changelog") == [(2501, 3001, 501)]


def test_large_rows_and_a_slow_disk_make_a_run_shorter_not_longer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(connect(path)) as db:
        fill(db, 500)
        ticks = iter(range(10**6))
        monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
        assert [run.rows for run in all_of(db, Limits(cap=20 * BITE), None)] == [BITE] * 20


def test_nothing_to_trim_takes_no_lock_and_writes_nothing(db: apsw.Connection, path: Path) -> None:
    with closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert trim_run(db, Limits(cutoff(365, NOW)), [ack(db, 100)]) is None
        other.execute("ROLLBACK")


def test_others_write_while_a_log_is_trimmed_and_their_replica_follows(path: Path, tmp_path: Path) -> None:
    replica = make_replica(path, tmp_path / "r.db")
    with closing(connect(path)) as db:
        fill(db, 5_000)
        follow(path, replica)
        script = "".join(f"INSERT INTO t(v) VALUES({number}); UPDATE t SET v=v+1 WHERE id={number};\n" for number in range(1, 201))
        typed = subprocess.Popen(["sqlite3", "-bail", "-cmd", ".timeout 5000", str(path)], stdin=subprocess.PIPE, text=True)
        assert typed.stdin
        typed.stdin.write(script)
        typed.stdin.close()
        count = sum(run.rows for run in trim(db, Limits(below=5_001), [ack(db, 5_001)]))
        assert typed.wait(60) == 0
        assert count == 5_000 and rows(db, "SELECT min(seq), max(seq), count(*) FROM changelog") == [(5_001, 5_401, 401)]
    follow(path, replica)
    assert contents(path) == contents(replica)


# --- how large


def test_the_size_is_that_of_the_logs_pages_and_indexes(path: Path) -> None:
    with closing(connect(path)) as db:
        fill(db, 2_000, 300)
        whole = log_bytes(db)
        pages = one(db, "SELECT sum(pgsize) FROM dbstat WHERE name='changelog'")
        assert whole == pages
        assert 0.7 * whole < about_log_bytes(db) < 1.3 * whole
        db.execute("CREATE INDEX changelog_local_x ON changelog(tbl, key)")
        assert log_bytes(db) == pages + one(db, "SELECT sum(pgsize) FROM dbstat WHERE name='changelog_local_x'")
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        assert log_bytes(db) < file_bytes(db) <= os.path.getsize(path)


@pytest.mark.parametrize(("size", "index"), [(10, False), (300, False), (9_000, False), (300, True)])
def test_what_goes_over_the_cap_is_counted_to_a_few_pages(path: Path, size: int, index: bool) -> None:
    with closing(connect(path)) as db:
        fill(db, 6_000_000 // (size + 300), size)
        fill(db, 2_000, 20)
        if index:
            db.execute("CREATE INDEX changelog_local_x ON changelog(tbl, key)")
        for part in (3, 2):
            before = log_bytes(db)
            cap = before * (part - 1) // part
            survey = Survey(db)
            while not survey.read(0.0):
                pass
            assert survey.bytes == before
            all_of(db, Limits(cap=survey.over(cap)), None)
            assert abs(log_bytes(db) - cap) < 200_000
        survey = Survey(db)
        survey.read()
        assert survey.over(survey.bytes) == one(db, "SELECT min(seq) FROM changelog") - 1
        assert survey.over(0) >= head(db)


def test_pages_of_trimmed_rows_are_used_again(path: Path) -> None:
    with closing(connect(path)) as db:
        sizes = []
        for _ in range(6):
            fill(db, 2_000, 200)
            with db:
                db.execute("DELETE FROM t WHERE id<=(SELECT max(id) FROM t)-10")
            all_of(db, Limits(cap=head(db) - 10), None)
            sizes.append(db.pragma("page_count"))
        assert sizes[-1] <= sizes[1] * 1.1, "the file stops growing"
        used = file_bytes(db)
        db.execute("VACUUM")
        assert file_bytes(db) <= used
        check_position(db, Position.of_head(db))


# --- followed by replicas


def test_random_trimming_leaves_every_position_answerable_and_every_replica_able_to_go_on(tmp_path: Path) -> None:
    for seed in range(6):
        folder = tmp_path / str(seed)
        folder.mkdir()
        _one_random_life(folder, random.Random(seed))


def _one_random_life(folder: Path, chance: random.Random) -> None:
    path = make_primary(folder / "p.db", T + "CREATE TABLE k(a TEXT PRIMARY KEY, b) WITHOUT ROWID;")
    replicas = {name: make_replica(path, folder / f"{name}.db") for name in "abc"}
    positions: dict[int, Position] = {}
    db = connect(path)
    for _ in range(25):
        for _ in range(chance.randrange(6)):
            with db:
                db.execute("INSERT INTO t(v) VALUES(?)", (chance.randbytes(chance.randrange(400)),))
                db.execute("INSERT OR REPLACE INTO k(a,b) VALUES(?,?)", (str(chance.randrange(9)), chance.random()))
                db.execute("DELETE FROM t WHERE id=?", (chance.randrange(60),))
        if chance.random() < 0.1:
            db.execute(f"ALTER TABLE k ADD COLUMN c{chance.randrange(10**9)} DEFAULT 3")
        for name, replica in replicas.items():
            if chance.random() < 0.4:
                try:
                    follow(path, replica)
                except (HistoryTrimmed, PositionMismatch):
                    replicas[name] = make_replica(path, replica.with_name(f"{name}{chance.randrange(10**9)}.db"))
        positions[head(db)] = Position.of_head(db)
        reached = {name: _position_of(replica) for name, replica in replicas.items()}
        acks = [Ack(name, "k", at.epoch, at.seq, "", at.check) for name, at in reached.items()]
        slowest = min(at.seq for at in reached.values())
        now = NOW + chance.choice([-60, 0, 60, 10_000]) * 365 * DAY
        cap = chance.randrange(head(db) + 20) if chance.random() < 0.2 else 0
        before = one(db, "SELECT min(seq) FROM changelog")
        all_of(db, Limits(cutoff(chance.choice([0, 30]), now), cap=cap), acks)
        [(oldest, newest, count)] = rows(db, "SELECT min(seq), max(seq), count(*) FROM changelog")
        assert newest == max(positions) and count == newest - oldest + 1
        assert cap or oldest <= max(before, slowest)
        for name, at in reached.items():
            _check_answer(db, at, oldest, name)
    for name, replica in replicas.items():
        try:
            follow(path, replica)
        except HistoryTrimmed:
            assert _position_of(replica).seq < oldest - 1
            replicas[name] = make_replica(path, replica.with_name(f"{name}-anew.db"))
        assert contents(path) == contents(replicas[name])
    db.close()


def _check_answer(db: apsw.Connection, at: Position, oldest: int, name: str) -> None:
    """A position that was acknowledged is good, or known to be trimmed away; and another write at its seq is told apart."""
    other = Position(at.epoch, at.seq, at.check ^ 1)
    if at.seq >= oldest - 1:
        check_position(db, at)
    else:
        with pytest.raises(HistoryTrimmed):
            check_position(db, at)
    with pytest.raises(PositionMismatch):
        check_position(db, other)


def _position_of(replica: Path) -> Position:
    with closing(connect(replica, readonly=True)) as db:
        return position_of(db)


TRIMMING = """
import json, sys
from changelog import retention
from changelog.acks import Ack
from changelog.connection import connect
from changelog.retention import Limits, trim_run
retention.RUN_ROWS = retention.BITE = 50  # many commits to be killed between
db = connect(sys.argv[1])
acks = [Ack(*a) for a in json.loads(sys.argv[2])]
print("begins", flush=True)
while gone := trim_run(db, Limits(cap=int(sys.argv[3])), acks):
    print(gone.upto, flush=True)
"""


def test_a_process_killed_while_it_trims_leaves_a_valid_log_and_its_replicas_go_on(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "p.db", T)
    ahead, behind = make_replica(path, tmp_path / "ahead.db"), make_replica(path, tmp_path / "behind.db")
    with closing(connect(path)) as db:
        fill(db, 20_000, 40)
        follow(path, ahead)
        lost, kept = ack(db, 3_000, "lost"), ack(db, head(db), "kept")
        at_lost, other = position(db, 3_000), Position(epoch_of(db), 3_000, 1)
        fill(db, 500)
    chance, oldest, killed, wanted = random.Random(11), 1, 0, 20_501
    while oldest < 19_000:
        acks = json.dumps([[a.replica_id, a.key_name, a.epoch, a.seq, a.at, a.nonce] for a in (lost, kept)])
        command = [sys.executable, "-c", TRIMMING, str(path), acks, "19500"]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout and process.stdout.readline() == "begins\n"
            time.sleep(chance.random() * 0.02)
            os.kill(process.pid, signal.SIGKILL)
            told = [int(line) for line in process.stdout if line.endswith("\n")]
        killed += process.returncode == -signal.SIGKILL
        with closing(connect(path)) as db:
            [(oldest, newest, count)] = rows(db, "SELECT min(seq), max(seq), count(*) FROM changelog")
            assert (newest, count) == (wanted, newest - oldest + 1)
            assert oldest > max(told, default=0), "what it said was trimmed is durably so"
            assert marks(db)[:1] == ([] if oldest == 1 else [("trimmed", oldest - 1, marks(db)[0][2])])
            check_position(db, Position(kept.epoch, kept.seq, kept.nonce or 0))
            assert one(db, "PRAGMA quick_check") == "ok"
            if oldest > 3_001:
                with pytest.raises(HistoryTrimmed):
                    check_position(db, at_lost)
                with pytest.raises(PositionMismatch):
                    check_position(db, other)
            fill(db, 1)
            wanted += 1
            assert head(db) == wanted
    assert killed > 3
    follow(path, ahead)
    assert contents(ahead) == contents(path)
    with pytest.raises(HistoryTrimmed):
        follow(path, behind)


def test_a_log_trimmed_to_its_head_again_and_again_never_uses_a_seq_twice(path: Path, tmp_path: Path) -> None:
    replica, seen = make_replica(path, tmp_path / "r.db"), set()
    for _ in range(10):
        with closing(connect(path)) as db:
            before = head(db)
            fill(db, 3)
            newest = set(rows(db, "SELECT seq FROM changelog WHERE seq>?", (before,)))
            assert len(newest) == 3 and not newest & seen
            seen |= newest
        follow(path, replica)
        with closing(connect(path)) as db:
            all_of(db, Limits(cutoff(0, time.time() + DAY)), [ack(db, head(db))])
            assert one(db, "SELECT count(*) FROM changelog") == 1
        run_sql(path, "INSERT OR FAIL INTO t(id) VALUES(NULL)")
        shell(path, "VACUUM")
    with closing(connect(path)) as db:
        install(db)
        assert head(db) > max(seen)[0]


# --- a replica's own log


def test_a_replica_trims_its_own_log_by_age_and_follows_on(path: Path, tmp_path: Path) -> None:
    with closing(connect(path)) as db:
        fill(db, 2_500)
        with db:
            db.execute("UPDATE changelog SET at=? WHERE seq<=2000", (cutoff(100, NOW),))
            db.execute("UPDATE changelog SET at=? WHERE seq>2000", (cutoff(1, NOW),))
    replica = make_replica(path, tmp_path / "r.db")
    with closing(connect_replica(replica)) as mine:
        mine.execute("CREATE INDEX changelog_local_changelog_by_key ON changelog(tbl, key)")
        before = position_of(mine)
        assert trim_old(mine, 0, now=NOW) == 0
        assert trim_old(mine, 200, now=NOW) == 0
        assert trim_old(mine, 30, most=1, now=NOW) in range(1, RUN_ROWS + 1)
        first = one(mine, "SELECT min(seq) FROM changelog")
        assert trim_old(mine, 30, now=NOW) == 2_001 - first
        assert trim_old(mine, 30, now=NOW + 1_000 * DAY) == 500
        assert rows(mine, "SELECT seq FROM changelog") == [(2_501,)] and position_of(mine) == before
        assert trim_old(mine, 1, now=NOW + 9_000 * DAY) == 0
    run_sql(path, "UPDATE t SET v=1 WHERE id<5")
    follow(path, replica)
    assert contents(path) == contents(replica)


def test_a_gap_goes_when_all_rows_before_it_have_gone(db: apsw.Connection) -> None:
    db.execute("DELETE FROM changelog WHERE seq BETWEEN 40 AND 59")
    db.execute("INSERT INTO changelog_meta(name,value,seq) VALUES('gap',40,59)")
    assert plan(db, Limits(below=50), None).rows == 39
    assert trim_old(db, 70, now=NOW) == 29
    assert one(db, "SELECT count(*) FROM changelog_meta WHERE name='gap'") == 1
    assert [run.rows for run in all_of(db, Limits(below=50), None)] == [10]
    assert one(db, "SELECT count(*) FROM changelog_meta WHERE name='gap'") == 0
    assert trim_old(db, 30, now=NOW) == 10
    assert_log_is_whole(db)


def assert_log_is_whole(db: apsw.Connection) -> None:
    [(oldest, newest, count)] = rows(db, "SELECT min(seq), max(seq), count(*) FROM changelog")
    assert count == newest - oldest + 1


def test_a_trimmed_primary_still_makes_whole_replicas(path: Path, tmp_path: Path) -> None:
    with closing(connect(path)) as db:
        fill(db, 200)
        all_of(db, Limits(cap=150), None)
    replica = make_replica(path, tmp_path / "r.db")
    run_sql(path, "DELETE FROM t WHERE id%3=0")
    follow(path, replica)
    assert_alike(path, replica)
