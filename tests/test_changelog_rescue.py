"""A primary that went back in time: how far both histories are one, what is kept of the rest, and older history through every snapshot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from changelog_parts import assert_alike, contents, damage, log_of, make_primary, make_replica, run_sql, shell, unguarded

from changelog.bootstrap import carry_over, fit_out
from changelog.connection import connect, rows
from changelog.install import install
from changelog.primary import Primary
from changelog.pull import pull_file
from changelog.rescue.common import common_seq
from changelog.rescue.lost import Rescued, keep_lost, list_rescued

SCHEMA = "CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT UNIQUE, size, secret);"


def add(path: Path, *names: str) -> None:
    run_sql(path, *(f"INSERT INTO pens(pen, size, secret) VALUES('{name}', 1, 'hush')" for name in names))


def copy_of(primary: Path, target: Path) -> Path:
    """The file itself, as somebody's cp while nothing has it open."""
    shell(primary, "PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(primary, target)
    return target


def snapshot(primary: Path, target: Path) -> Path:
    source = Primary(primary)
    source.copy_to(target)
    source.close()
    fit_out(target, None)
    return target


def common(ours: Path, theirs: Path) -> int:
    one_side, other = connect(ours), connect(theirs)
    try:
        return common_seq(one_side, other)
    finally:
        one_side.close()
        other.close()


def keep(replica: Path, incoming: Path) -> Rescued | None:
    db = connect(replica)
    try:
        return keep_lost(db, incoming, replica)
    finally:
        db.close()


def carry(replica: Path, incoming: Path) -> int:
    db = connect(replica)
    try:
        return carry_over(db, incoming)
    finally:
        db.close()


def trim(path: Path, upto: int) -> None:
    """As retention does: the rows go, and a mark of the last one stays."""
    with unguarded(path) as db, db:
        db.execute("DELETE FROM changelog_meta WHERE name='trimmed'")
        db.execute("INSERT INTO changelog_meta(name,value,seq) SELECT 'trimmed',nonce,seq FROM changelog WHERE seq=?", (upto,))
        db.execute("DELETE FROM changelog WHERE seq<=?", (upto,))


def marks(path: Path) -> list[tuple[str, int | None, int]]:
    """The holes of a log: (name, first missing seq where that is known, last missing seq)."""
    db = connect(path)
    try:
        shown = "SELECT name, CASE name WHEN 'gap' THEN value END, seq FROM changelog_meta"
        return rows(db, f"{shown} WHERE name IN ('trimmed','anchor','gap') ORDER BY 1, 3")
    finally:
        db.close()


def seqs(path: Path) -> list[int]:
    db = connect(path)
    try:
        return [seq for (seq,) in rows(db, "SELECT seq FROM changelog ORDER BY seq")]
    finally:
        db.close()


@pytest.fixture
def primary(tmp_path: Path) -> Path:
    path = make_primary(tmp_path / "p.db", SCHEMA, masks=["pens.secret"])
    add(path, *(f"A{i}" for i in range(10)))
    return path  # its head is seq 11


@pytest.fixture
def older(primary: Path, tmp_path: Path) -> Path:
    return copy_of(primary, tmp_path / "older.db")


@pytest.fixture
def replica(primary: Path, older: Path, tmp_path: Path) -> Path:
    """It holds five changes, 12 to 16, that `older` does not."""
    add(primary, *(f"L{i}" for i in range(5)))
    return make_replica(primary, tmp_path / "r.db")


# --- common_seq


@pytest.mark.parametrize("again", [0, 1, 5, 9])
def test_both_sides_share_all_up_to_the_copy_whatever_was_written_since(replica: Path, older: Path, again: int) -> None:
    add(older, *(f"N{i}" for i in range(again)))
    assert common(replica, older) == 11


def test_a_replica_that_is_behind_shares_all_that_it_has(primary: Path, replica: Path) -> None:
    add(primary, "more")
    assert common(replica, primary) == 16


def test_a_stranger_shares_nothing(replica: Path, tmp_path: Path) -> None:
    assert common(replica, make_primary(tmp_path / "stranger.db", SCHEMA)) == 0


@pytest.mark.parametrize("trimmed", [3, 11, 14])
def test_what_the_primary_trimmed_is_known_by_its_mark(replica: Path, older: Path, trimmed: int) -> None:
    add(older, *(f"N{i}" for i in range(9)))
    trim(older, trimmed)
    shared = common(replica, older)
    assert shared == 11 if trimmed <= 11 else shared == 1  # else what both know for sure is the birth of the epoch


def test_a_primary_that_trimmed_past_the_replica_is_believed_unless_an_anchor_says_otherwise(
    primary: Path, older: Path, replica: Path
) -> None:
    for path in (primary, older):
        add(path, *(f"N{i}" for i in range(20)))
        trim(path, 20)
    assert common(replica, primary) == common(replica, older) == 16
    run_sql(older, "INSERT INTO changelog_meta(name,value,seq) VALUES('anchor',77,13)")
    assert common(replica, older) < 13
    nonce = shell(replica, "SELECT nonce FROM changelog WHERE seq=11").strip()
    run_sql(older, f"INSERT INTO changelog_meta(name,value,seq) VALUES('anchor',{nonce},11)")
    assert common(replica, older) == 11


def test_a_new_epoch_that_ended_ours_below_our_position_is_told_by_the_nonces(replica: Path, older: Path) -> None:
    add(older, "N")
    db = connect(older)
    install(db)
    db.close()
    add(older, *(f"M{i}" for i in range(9)))
    assert common(replica, older) == 11
    trim(older, 18)
    assert common(replica, older) == 12, "the epoch ended at 12, and of no row up to there is more known"


def test_a_replica_with_a_trimmed_log_and_a_gap_finds_it_too(replica: Path, older: Path) -> None:
    add(older, "N1", "N2")
    trim(replica, 4)
    damage(replica, "DELETE FROM changelog WHERE seq BETWEEN 8 AND 10", "INSERT INTO changelog_meta VALUES('gap',8,10)")
    assert common(replica, older) == 11
    damage(replica, "DELETE FROM changelog WHERE seq=11")
    assert common(replica, older) == 7


# --- keep_lost


def test_the_lost_changes_are_in_a_file_that_the_shell_reads(replica: Path, older: Path, tmp_path: Path) -> None:
    add(older, "N")
    kept = keep(replica, snapshot(older, tmp_path / "i.db"))
    assert kept and (kept.common, kept.first, kept.last, kept.changes, kept.tables, kept.adopted) == (11, 12, 16, 5, {"pens": 5}, None)
    assert kept.path.stat().st_mode & 0o777 == 0o660
    assert log_of(kept.path) == log_of(replica, after=11)
    assert shell(kept.path, "SELECT seq, key, new FROM changelog_audit WHERE col='pen'").splitlines()[0] == "12|11|L0"
    assert shell(kept.path, "SELECT DISTINCT actor, pen, secret FROM changelog_of_pens WHERE seq=16") == "unknown writer|L4|***\n"
    assert "hush" not in shell(kept.path, "SELECT * FROM changelog_audit")
    assert list_rescued(tmp_path) == [kept]


def test_the_same_loss_makes_one_file_however_often_it_is_tried(replica: Path, older: Path, tmp_path: Path) -> None:
    incoming = snapshot(older, tmp_path / "i.db")
    Path(f"{tmp_path}/r.db.rescued-x.db.incoming").write_text("what a crash left")
    first = keep(replica, incoming)
    add(older, "N")  # before the next try
    assert first and keep(replica, snapshot(older, tmp_path / "j.db")) == first
    assert len(list_rescued(tmp_path)) == 1


def test_nothing_is_kept_when_nothing_was_lost_and_of_a_stranger(primary: Path, replica: Path, tmp_path: Path) -> None:
    add(primary, "more")
    assert keep(replica, snapshot(primary, tmp_path / "i.db")) is None
    assert keep(replica, snapshot(make_primary(tmp_path / "s.db", SCHEMA), tmp_path / "j.db")) is None
    assert list_rescued(tmp_path) == []


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_text_that_is_not_unicode_is_kept_as_it_was_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    primary = make_primary(tmp_path / "p.db", SCHEMA, f"PRAGMA encoding='{encoding}'")
    older = copy_of(primary, tmp_path / "older.db")
    run_sql(primary, "INSERT INTO pens(pen, size) VALUES(CAST(x'00d8' AS TEXT), x'00ff')", "INSERT INTO pens(pen) VALUES('é')")
    replica = make_replica(primary, tmp_path / "r.db")
    kept = keep(replica, snapshot(older, tmp_path / "i.db"))
    assert kept and log_of(kept.path) == log_of(replica, after=1)


def test_a_pull_keeps_what_its_source_lost(replica: Path, older: Path) -> None:
    source = Primary(older)
    done = pull_file(source, replica)
    again = pull_file(source, replica)
    source.close()
    assert done.rescued and done.rescued.changes == 5 and "lost changes" in done.reason
    assert again.rescued is None
    assert_alike(older, replica)


# --- carry_over


def test_the_replica_s_older_history_survives_a_snapshot(primary: Path, replica: Path, tmp_path: Path) -> None:
    before = log_of(replica)
    add(primary, "more")
    trim(primary, 9)
    incoming = snapshot(primary, tmp_path / "i.db")
    assert carry(replica, incoming) == 9
    assert seqs(incoming) == list(range(1, 18)) and log_of(incoming)[0][:16] == before[0]
    assert marks(incoming) == [("anchor", None, 9)], "the replica's own log was never trimmed"
    assert contents(incoming) == contents(primary)


def test_only_rows_that_are_this_primary_s_history_are_carried(replica: Path, older: Path, tmp_path: Path) -> None:
    add(older, *(f"N{i}" for i in range(9)))
    trim(older, 11)
    incoming = snapshot(older, tmp_path / "i.db")
    assert carry(replica, incoming) == 11
    assert log_of(incoming)[0][11:] == log_of(older)[0]


def test_between_two_logs_that_do_not_meet_a_gap_is_marked(primary: Path, replica: Path, tmp_path: Path) -> None:
    trim(replica, 4)
    add(primary, *(f"M{i}" for i in range(10)))
    trim(primary, 20)
    incoming = snapshot(primary, tmp_path / "i.db")
    assert carry(replica, incoming) == 12
    assert seqs(incoming) == [*range(5, 17), *range(21, 27)]
    assert marks(incoming) == [("anchor", None, 20), ("gap", 17, 20), ("trimmed", None, 4)]
    make_replica_of(incoming, replica)
    add(primary, *(f"O{i}" for i in range(10)))
    trim(primary, 30)
    again = snapshot(primary, tmp_path / "j.db")
    assert carry(replica, again) == 18
    assert marks(again) == [("anchor", None, 20), ("anchor", None, 30), ("gap", 17, 20), ("gap", 27, 30), ("trimmed", None, 4)]
    assert carry(again, snapshot(primary, tmp_path / "k.db")) == 18 + 4 - 4


def make_replica_of(fitted: Path, target: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
    shutil.copy(fitted, target)


def test_a_snapshot_that_holds_all_of_the_history_is_left_alone(primary: Path, replica: Path, tmp_path: Path) -> None:
    incoming = snapshot(primary, tmp_path / "i.db")
    before = incoming.read_bytes()
    assert carry(replica, incoming) == 0
    assert incoming.read_bytes() == before


def test_column_lists_that_are_no_more_come_along_and_are_shown(tmp_path: Path, primary: Path, replica: Path) -> None:
    many = ",".join(f"c{i}" for i in range(30))
    run_sql(primary, f"CREATE TABLE wide({many})", "INSERT INTO wide(c29) VALUES('far')", "DROP TABLE wide")
    source = Primary(primary)
    pull_file(source, replica)
    run_sql(primary, f"CREATE TABLE wide({many})", "INSERT INTO wide(c29) VALUES('far')")
    pull_file(source, replica)
    run_sql(primary, "DROP TABLE wide", "ALTER TABLE pens RENAME COLUMN size TO room")
    pull_file(source, replica)
    source.head()
    trim(primary, int(shell(primary, "SELECT max(seq)-1 FROM changelog")))
    incoming = snapshot(primary, tmp_path / "i.db")
    source.close()
    assert carry(replica, incoming) == seqs(replica)[-1] - 1
    assert seqs(incoming) == seqs(replica)
    assert shell(incoming, "SELECT new FROM changelog_audit WHERE col='c29'") == "far\n"
    assert shell(incoming, "SELECT pen, secret FROM changelog_of_pens WHERE seq=2") == "A0|***\n"


@pytest.mark.parametrize("before", ["PRAGMA page_size=1024", "PRAGMA encoding='UTF-16le'"])
def test_history_goes_over_into_a_file_of_another_page_size_or_encoding(tmp_path: Path, primary: Path, replica: Path, before: str) -> None:
    other = tmp_path / "other.db"
    shell(other, f"{before}; PRAGMA journal_mode=WAL;\n" + shell(primary, ".dump"))
    trim(other, 10)
    incoming = snapshot(other, tmp_path / "i.db")
    assert carry(replica, incoming) == 10
    assert seqs(incoming)[:11] == list(range(1, 12))
    assert shell(incoming, "SELECT new FROM changelog_audit WHERE seq=2 AND col='pen'") == "A0\n"


def test_what_can_be_read_of_a_damaged_replica_is_carried(tmp_path: Path, primary: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(primary, *(f"M{i}" for i in range(3000)))
    replica = make_replica(primary, tmp_path / "r.db")
    trim(primary, 3000)
    incoming = snapshot(primary, tmp_path / "i.db")
    page = int(shell(replica, "SELECT pageno FROM dbstat WHERE name='changelog' AND pagetype='leaf' LIMIT 1 OFFSET 20"))
    with replica.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    carried = carry(replica, incoming)
    assert 2900 < carried < 3000 and "cannot be read" in caplog.text
    assert shell(incoming, "PRAGMA integrity_check") == "ok\n"
