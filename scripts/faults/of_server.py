"""What the server does on its disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from farm_processes import Farm

from changelog import retention, staging
from changelog.connection import connect, one
from changelog.node.settings import Settings
from changelog.position import Position, ancestors_of
from changelog.primary import Primary
from changelog.replay import connect_replica, position_of
from changelog.verify.digest import digest_tables
from scripts.faults.inject import Fault, run
from scripts.faults.work import Work, nothing_left, state_of
from server import upkeep
from server.__main__ import main
from server.replica import Replica
from server.state import SyncState
from server.store import Store
from server.sync import SyncService

YEAR = 366 * 86_400.0  # s
TRIES = 8  # steps in which the sync service has to be where the Pi is, once its disk is sound


@contextmanager
def service(folder: Path) -> Iterator[SyncService]:
    """The sync service over the files of `folder`, without its thread."""
    os.chdir(folder)
    settings = Settings.load(Path(".env"), {})
    store, replica = Store(settings.server_db), Replica(settings.replica_db)
    sync = SyncService(settings, replica, store, SyncState(settings.stale_after))
    sync.linked(True)  # what comes next is asked for, and not waited for
    try:
        with sync.lock:
            yield sync
    finally:
        sync.follower.close()
        replica.close()
        store.close()


def follow(folder: Path, fault: Fault) -> None:
    """The service steps until it is where the Pi is; after some that failed its disk is sound again."""
    with service(folder) as sync:
        fault.begin()
        if sync.step():
            return
        sync.step()
        fault.over()
        assert any(sync.step() for _ in range(TRIES)), "the service does not recover"


def follow_long(folder: Path, fault: Fault) -> None:
    """The same with a frame that is too long to be held in memory."""
    staging.HELD_BYTES = 1024  # type: ignore[misc]
    follow(folder, fault)


def trim_audit(folder: Path, fault: Fault) -> None:
    """The same a year later, with AUDIT_KEEP_DAYS."""
    upkeep.trim_old = partial(retention.trim_old, now=time.time() + YEAR)
    follow(folder, fault)


def repair(folder: Path, fault: Fault) -> None:
    """`python -m server verify --repair`."""
    os.chdir(folder)
    fault.begin()
    try:
        main(["verify", "--repair"])
    except SystemExit as exc:
        if exc.code != 3:  # it differed, and does not any more
            raise


def resync(folder: Path, fault: Fault) -> None:
    """`python -m server resync`."""
    os.chdir(folder)
    fault.begin()
    main(["resync"])


def refill(folder: Path, fault: Fault) -> None:
    """`python -m server resync --json-export`."""
    os.chdir(folder)
    fault.begin()
    main(["resync", "--json-export"])


def a_server(folder: Path, farm: Farm) -> None:
    """A server that has never followed."""
    shutil.copytree(farm.server.folder, folder)


def followed(folder: Path, farm: Farm) -> None:
    """A server that is where the Pi is."""
    a_server(folder, farm)
    done = run(lambda fault: follow(folder, fault))
    assert not done.code, done.printed


def a_few_changes(folder: Path, farm: Farm) -> None:
    """And a few changes later."""
    followed(folder, farm)
    farm.pi.sql("UPDATE cattle SET weight=weight+1 WHERE id<9; DELETE FROM pens; INSERT INTO pens(pen_number, capacity) VALUES('P1', 1)")


def many_changes(folder: Path, farm: Farm) -> None:
    """And so many that they are staged."""
    followed(folder, farm)
    farm.pi.sql("UPDATE cattle SET weight=weight+1")


def other_tables(folder: Path, farm: Farm) -> None:
    """And the schema has changed."""
    followed(folder, farm)
    name = f"t{time.time_ns()}"
    farm.pi.sql(
        f"""CREATE TABLE {name}(id INTEGER PRIMARY KEY, kind TEXT); CREATE INDEX {name}_kind ON {name}(kind);
        INSERT INTO {name}(kind) VALUES('hay'), ('silage'); ALTER TABLE pens ADD COLUMN {name} TEXT DEFAULT 'none'"""
    )


def a_new_epoch(folder: Path, farm: Farm) -> None:
    """And something that no log tells: a snapshot goes into the live file."""
    followed(folder, farm)
    farm.pi.sql("CREATE TABLE brief(id); DROP TABLE brief; UPDATE cattle SET weight=weight+1")


def another_make(folder: Path, farm: Farm) -> None:
    """The same, and the replica's file is of another page size: the snapshot takes its place."""
    a_new_epoch(folder, farm)
    with closing(connect(folder / "data" / "replica.db")) as db:
        db.pragma("journal_mode", "delete")
        db.execute("PRAGMA page_size=1024; VACUUM")
        db.pragma("journal_mode", "wal")


def with_an_old_log(folder: Path, farm: Farm) -> None:
    """And its own log is not kept for ever."""
    followed(folder, farm)
    with (folder / ".env").open("a") as env:
        env.write("AUDIT_KEEP_DAYS=1\n")


def corrupted(folder: Path, farm: Farm) -> None:
    """And somebody damaged rows of three tables, and the log."""
    followed(folder, farm)
    with closing(connect_replica(folder / "data" / "replica.db")) as db, db:
        db.execute(
            """UPDATE cattle SET weight=-1 WHERE id%7=0; DELETE FROM cattle WHERE id%11=0; DELETE FROM users;
            INSERT INTO pens(id, pen_number, capacity) VALUES(777, 'forged', 1); UPDATE changelog SET o3='forged' WHERE op='U'"""
        )


def ahead_of_the_pi(folder: Path, farm: Farm) -> None:
    """A Pi that went back in time: what it lost is kept beside the new copy."""
    followed(folder, farm)
    with closing(connect_replica(folder / "data" / "replica.db")) as db, db:
        position = position_of(db)
        db.execute("UPDATE changelog_position SET seq=?, nonce=1", (position.seq + 1,))
        db.execute("INSERT INTO changelog(seq, nonce, op, tbl, key) VALUES(?, 1, 'D', 'pens', 77)", (position.seq + 1,))


def is_where_the_pi_is(folder: Path, farm: Farm, _: set[str]) -> None:
    """The replica holds what the Pi does, and nothing is left over."""
    with closing(Primary(farm.pi.database)) as source, source.snapshot() as db:
        theirs = Position.of_head(db), digest_tables(db)
        epochs = {theirs[0].epoch, *ancestors_of(db)}
    ours = state_of(folder / "data" / "replica.db")
    assert ours == theirs, f"the replica is at {ours and ours[0]}, the Pi at {theirs[0]}"
    nothing_left(folder / "data")
    with closing(connect(folder / "data" / "server.db")) as db:
        assert one(db, "PRAGMA integrity_check") == "ok"
        assert one(db, "SELECT value FROM settings WHERE name='accepted_epoch'") in epochs


def keeps_what_was_lost(folder: Path, farm: Farm, said: set[str]) -> None:
    """And the lost change stands in one file."""
    is_where_the_pi_is(folder, farm, said)
    kept = list((folder / "data").glob("*.rescued-*.db"))
    assert kept, "what the Pi lost is kept nowhere"
    for file in kept:
        with closing(connect(file)) as db:
            assert one(db, "SELECT count(*) FROM changelog WHERE key=77") == 1


REPLICA = "data/replica.db"
WORKS = [
    Work("first bootstrap", a_server, follow, is_where_the_pi_is, REPLICA, lives=True),
    Work("replay", a_few_changes, follow, is_where_the_pi_is, REPLICA, lives=True),
    Work("replay of a long frame", many_changes, follow_long, is_where_the_pi_is, REPLICA, lives=True),
    Work("replay of DDL", other_tables, follow, is_where_the_pi_is, REPLICA, lives=True),
    Work("bootstrap into the live file", a_new_epoch, follow, is_where_the_pi_is, REPLICA, lives=True),
    Work("bootstrap by another file", another_make, follow, is_where_the_pi_is, REPLICA, lives=True),
    Work("bootstrap that rescues", ahead_of_the_pi, follow, keeps_what_was_lost, REPLICA, lives=True),
    Work("resync", followed, resync, is_where_the_pi_is, REPLICA),
    Work("resync by JSON", a_few_changes, refill, is_where_the_pi_is, REPLICA, many=True),
    Work("trim of the replica", with_an_old_log, trim_audit, is_where_the_pi_is, REPLICA, lives=True, many=True),
    Work("repair", corrupted, repair, is_where_the_pi_is, REPLICA),
]
