"""The replica's file for the one who writes it: what is damage, and what only looks like it."""

from __future__ import annotations

from pathlib import Path

import apsw
from changelog_parts import make_primary, make_replica, run_sql

from server.replica import Replica
from server.replica_file import ReplicaFile


def test_a_smaller_snapshot_is_no_damage_when_its_checkpoint_cuts_the_file(tmp_path: Path) -> None:
    primary = make_primary(tmp_path / "farm.db", "CREATE TABLE t(v)")
    replica, smaller = make_replica(primary, tmp_path / "replica.db"), make_replica(primary, tmp_path / "smaller.db")
    run_sql(replica, "CREATE TABLE somebodys(v)", "INSERT INTO somebodys VALUES(zeroblob(1000000))", "PRAGMA wal_checkpoint(TRUNCATE)")
    file = ReplicaFile(Replica(replica), lambda position: None)
    assert file.doubt() is None
    before = replica.stat().st_size
    file.install(smaller)
    assert file.doubt() is None and replica.stat().st_size == before, "the -wal has it all"
    file.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert replica.stat().st_size < before
    assert file.doubt() is None
    file.close()


def test_a_file_that_is_cut_short_is_damage(tmp_path: Path) -> None:
    primary = make_primary(tmp_path / "farm.db", "CREATE TABLE t(v); INSERT INTO t VALUES(zeroblob(1000000))")
    replica = make_replica(primary, tmp_path / "replica.db")
    file = ReplicaFile(Replica(replica), lambda position: None)
    assert file.doubt() is None
    with replica.open("r+b") as opened:
        opened.truncate(500_000)
    doubt = file.doubt()
    assert doubt is not None and doubt.cause == "damaged"
    file.close()
