"""What is done with a bucket: shipping to it, keeping it small, and whatever is made of it."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from farm_processes import Farm, shell

from changelog.__main__ import main as changelog
from changelog.connection import connect, remove_database
from changelog.errors import DroverError
from changelog.ltx import ship as ltx_ship
from changelog.ltx import upload as ltx_upload
from changelog.ltx.check import verify as verify_store
from changelog.ltx.fence import survey
from changelog.ltx.restore import restore
from changelog.ltx.ship import Shipper
from changelog.ltx.status import StatusFile, read_status
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import Store
from changelog.ltx.upkeep import Upkeep
from changelog.position import Position
from changelog.verify.digest import digest_tables
from pi.__main__ import main as pi
from scripts.faults.inject import Fault, run
from scripts.faults.of_pi import a_pi, is_a_primary
from scripts.faults.of_server import REPLICA, a_server, is_where_the_pi_is, service
from scripts.faults.work import Work, nothing_left
from server import bucket as server_bucket
from server.__main__ import main as server

COMMITS = 4
LATER = 90_000.0  # s: by then everything in a bucket is due to be merged or deleted
BACKLOG = 2**30  # bytes
TURNS = 20  # in which a shipper has to be through, once its disk is sound
PAUSE = 0.001  # s between two attempts, where a true shipper waits half a second


def bucket_of(folder: Path) -> FolderStore:
    """The folder that is shipped to."""
    return FolderStore(folder / "bucket")


def commit(folder: Path) -> None:
    """Somebody writes to farm.db."""
    shell(folder / "farm.db", "UPDATE cattle SET weight=weight+1 WHERE id%5=0")


def ship(folder: Path, fault: Fault) -> None:
    """A shipper that is started, hands out every commit, and ends."""
    _ship(folder, fault)


def ship_much(folder: Path, fault: Fault) -> None:
    """The same with so much that the shipper moves the -wal into the file each time."""
    ltx_ship.WAL_AUTOCHECKPOINT, ltx_ship.CHECKPOINT_RETRY = 1, 0.0  # type: ignore[attr-defined]
    _ship(folder, fault)


def ship_beyond_the_limit(folder: Path, fault: Fault) -> None:
    """And with so little that may wait for the store that it is dropped."""
    _ship(folder, fault, backlog=1, puts=False)


def _ship(folder: Path, fault: Fault, backlog: int = BACKLOG, puts: bool = True) -> None:
    ltx_upload.FIRST_PAUSE = ltx_upload.LONGEST_PAUSE = PAUSE
    store = bucket_of(folder)
    fault.begin()
    try:
        shipper = Shipper(folder / "farm.db", store, backlog)
    except DroverError as exc:  # it ends, and systemd starts another one
        logging.getLogger(__name__).warning("%s", exc.message)
        fault.over()
        shipper = Shipper(folder / "farm.db", store, backlog)
    for _ in range(COMMITS):
        commit(folder)
        shipper.turn()
        while puts and shipper.uploader.turn(0):
            pass
    fault.over()
    _until(lambda: _is_through(shipper))
    shipper.close()


def _is_through(shipper: Shipper) -> bool:
    """After one more turn of each thread: nothing was new, and nothing waits."""
    before = shipper.staging.newest
    shipper.turn()
    while shipper.uploader.turn(0):
        pass
    told = shipper.status
    return before is not None and before is shipper.staging.newest and told.state == "shipping" and not shipper.staging.waiting


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(TURNS):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it does not recover")


def tidy(folder: Path, fault: Fault) -> None:
    """What the upkeep of a bucket does when everything is due: merging, a whole database, deleting what is old."""
    status = StatusFile(folder / "farm.db")
    upkeep = Upkeep(bucket_of(folder), folder, lambda: True, lambda: None, status)
    upkeep.compactor.clock = lambda: time.time() + LATER
    fault.begin()
    upkeep.step()
    fault.over()
    upkeep.step()
    assert not status.status.upkeep, status.status.upkeep


def restore_ltx(folder: Path, fault: Fault) -> None:
    """`python -m changelog ltx restore`."""
    fault.begin()
    changelog(["ltx", "restore", "--force", "--integrity-check", str(folder / "bucket"), str(folder / "farm.db")])


def restore_pi(folder: Path, fault: Fault) -> None:
    """`python -m pi restore --from-bucket`."""
    os.environ |= {"DATA_DIR": str(folder), "LITESTREAM_BUCKET": str(folder / "bucket")}
    os.chdir(folder)
    fault.begin()
    pi(["restore", "--force"])


def bootstrap(folder: Path, fault: Fault) -> None:
    """`python -m server bootstrap --from-bucket`."""
    os.chdir(folder)
    fault.begin()
    server(["bootstrap", "--from-bucket"])


def follow(folder: Path, fault: Fault) -> None:
    """A server that follows the bucket alone."""
    server_bucket.POLL = server_bucket.POLL_IDLE = PAUSE  # type: ignore[misc]
    with service(folder) as sync:
        fault.begin()
        done = sync.step()
        fault.over()
        if not done:
            _until(sync.step)


def with_a_bucket(folder: Path, farm: Farm) -> None:
    """A farm.db and a bucket that has a few of its commits, the newest not yet."""
    a_pi(folder, farm)
    _shipped(folder)
    commit(folder)


def a_full_bucket(folder: Path, farm: Farm) -> None:
    """A farm.db and a bucket that has all of it, in several files."""
    a_pi(folder, farm)
    _shipped(folder)


def older_than_the_bucket(folder: Path, farm: Farm) -> None:
    """And the farm.db is an old one."""
    a_pi(folder, farm)
    shutil.copy(folder / "farm.db", folder / "old.db")
    _shipped(folder)
    remove_database(folder / "farm.db")
    (folder / "old.db").replace(folder / "farm.db")


def a_server_with_a_bucket(folder: Path, farm: Farm) -> None:
    """A server that has never followed, and a bucket that has all that the Pi has."""
    a_server(folder, farm)
    _ship_the_pi(folder, farm)
    with (folder / ".env").open("a") as env:
        env.write(f"LITESTREAM_BUCKET={folder.with_name('bucket-of-the-pi')}\nFOLLOW=bucket\n")


def a_server_that_follows_a_bucket(folder: Path, farm: Farm) -> None:
    """A server that is where the bucket was a few changes ago."""
    a_server_with_a_bucket(folder, farm)
    done = run(lambda fault: follow(folder, fault))
    assert not done.code, done.printed
    farm.pi.sql("UPDATE cattle SET weight=weight+1 WHERE id<9")
    _ship_the_pi(folder, farm)


def _shipped(folder: Path) -> None:
    done = run(lambda fault: _ship(folder, fault))
    assert not done.code, done.printed


def _ship_the_pi(folder: Path, farm: Farm) -> None:
    """All that the Pi has, to a bucket beside the folder, as its shipper would."""

    def shipped(fault: Fault) -> None:
        shipper = Shipper(farm.pi.database, FolderStore(folder.with_name("bucket-of-the-pi")), BACKLOG)
        _until(lambda: _is_through(shipper))
        shipper.close()

    done = run(shipped)
    assert not done.code, done.printed


def holds_the_farm(folder: Path, farm: Farm, said: set[str]) -> None:
    """What can be restored is the farm.db, and every file of the bucket is sound."""
    is_sound(folder)
    restored = folder / "restored.db"
    remove_database(restored)
    restore(bucket_of(folder), restored, check=True)
    with closing(connect(folder / "farm.db")) as db, closing(connect(restored)) as copy:
        assert Position.of_head(copy) == Position.of_head(db) and digest_tables(copy) == digest_tables(db), "the bucket has another state"
    is_a_primary(folder, farm, said)


def is_sound(folder: Path) -> None:
    """No file of the bucket is damaged or missing, and the shipper claims nothing that is not there."""
    store: Store = bucket_of(folder)
    if not (last := survey(store).last):
        return
    found = verify_store(store, scratch=True)
    assert not found.faults, f"the bucket: {found.faults}"
    told = read_status(folder / "farm.db")
    assert told is None or told[0].txid <= last, f"transaction {told[0].txid} is said to be in the bucket, which ends at {last}"


def is_what_was_shipped(folder: Path, farm: Farm, said: set[str]) -> None:
    """The file holds what the bucket does, and serves as a primary."""
    restored = folder / "restored.db"
    remove_database(restored)
    restore(bucket_of(folder), restored)
    with closing(connect(folder / "farm.db")) as db, closing(connect(restored)) as copy:
        assert digest_tables(copy) == digest_tables(db), "it is not what was shipped"
    remove_database(folder / "replica.db")
    is_a_primary(folder, farm, said)


def follows_the_bucket(folder: Path, farm: Farm, said: set[str]) -> None:
    """The replica holds what the Pi does, by way of the bucket."""
    is_where_the_pi_is(folder, farm, said)
    nothing_left(folder)


WORKS = [
    Work("ship", with_a_bucket, ship, holds_the_farm, "farm.db", lives=True, many=True, sound=is_sound),
    Work("ship for the first time", a_pi, ship, holds_the_farm, "farm.db", lives=True, many=True, sound=is_sound),
    Work("ship and checkpoint", with_a_bucket, ship_much, holds_the_farm, "farm.db", lives=True, many=True, sound=is_sound),
    Work("ship beyond the limit", with_a_bucket, ship_beyond_the_limit, holds_the_farm, "farm.db", lives=True, many=True, sound=is_sound),
    Work("upkeep of a bucket", a_full_bucket, tidy, holds_the_farm, "farm.db", lives=True, sound=is_sound),
    Work("restore of a bucket", older_than_the_bucket, restore_ltx, is_what_was_shipped, "farm.db"),
    Work("restore of the Pi", older_than_the_bucket, restore_pi, is_what_was_shipped, "farm.db", many=True),
    Work("bootstrap from a bucket", a_server_with_a_bucket, bootstrap, follows_the_bucket, REPLICA),
    Work("following a bucket", a_server_that_follows_a_bucket, follow, follows_the_bucket, REPLICA, lives=True),
]
