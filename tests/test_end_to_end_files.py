"""Files that are deleted, damaged, swapped or set back while both roles run, or while one is away: the office mends itself, or asks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from changelog_parts import unguarded
from farm_processes import Farm, PageWatch, Seed, eventually, shell

SELF_HEALED = 10.0  # s until all data are there again
FIRST_COPY = "The first copy of the farm has not arrived yet"


def remove(path: Path) -> None:
    """What the document says: rm."""
    path.unlink()


def remove_with_its_journal(path: Path) -> None:
    """rm replica.db*"""
    for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        each.unlink(missing_ok=True)


def remove_only_its_journal(path: Path) -> None:
    """rm replica.db-*"""
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def overwrite_its_start(path: Path) -> None:
    """A bad sector, or somebody's dd."""
    with path.open("r+b") as file:
        file.write(b"\xa5" * 100)


def overwrite_its_start_after_a_checkpoint(path: Path) -> None:
    """The same when no newer copy of that page stands in the -wal."""
    shell(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite_its_start(path)


def put_a_text_file_there(path: Path) -> None:
    """By another program's rename: the file is another one."""
    beside = path.with_name("notes.txt")
    beside.write_text("this is no database\n" * 500)
    beside.replace(path)


def put_a_copy_of_it_there(path: Path) -> None:
    """A sound replica under the name, by mv: the -wal beside it is another file's."""
    beside = path.with_name("copy.db")
    shell(path, f".backup {beside}")
    with unguarded(beside) as db:
        db.execute("DELETE FROM cattle")
    beside.replace(path)


def write_text_into_it(path: Path) -> None:
    """By the shell's `>`: the same file with another content."""
    path.write_text("this is no database\n" * 500)


def empty_it(path: Path) -> None:
    """By `> replica.db`."""
    path.write_bytes(b"")


DAMAGES = [
    remove,
    remove_with_its_journal,
    remove_only_its_journal,
    overwrite_its_start,
    overwrite_its_start_after_a_checkpoint,
    put_a_text_file_there,
    write_text_into_it,
    empty_it,
]
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def filled_farm(running_farm: Farm) -> Farm:
    """It has a batch to look at."""
    running_farm.fill(500)
    running_farm.assert_identical()
    return running_farm


@pytest.mark.parametrize("damage", [*DAMAGES, put_a_copy_of_it_there])
def test_a_lost_or_damaged_replica_is_whole_again_by_itself_while_the_server_runs(filled_farm: Farm, damage: Damage) -> None:
    farm = filled_farm
    with PageWatch(farm, farm.login(), "BATCH001") as watch:
        eventually(lambda: watch.good > 3)
        damage(farm.server.database)
        farm.assert_identical(SELF_HEALED)
        good = watch.good
        eventually(lambda: watch.good > good + 3)
    assert not watch.wrong, watch.wrong[:2]
    assert farm.post(f"hxb:{damage.__name__}:LF1:UHF1").status_code == 201
    farm.assert_identical()


def test_a_lost_replica_is_whole_again_in_time_with_the_interval_that_nobody_changed(farm: Farm) -> None:
    del farm.server.settings["DB_SYNC_INTERVAL"]
    farm.fill(500)
    farm.start()
    with PageWatch(farm, farm.login(), "BATCH001") as watch:
        remove(farm.server.database)
        farm.assert_identical(SELF_HEALED)
    assert not watch.wrong, watch.wrong[:2]
    assert farm.status()["sync_interval"] == 10


@pytest.mark.parametrize("damage", [*DAMAGES, put_a_copy_of_it_there])
def test_a_lost_or_damaged_replica_is_whole_again_by_itself_after_a_start(filled_farm: Farm, damage: Damage) -> None:
    farm = filled_farm
    browser = farm.login()
    farm.server.stop()
    damage(farm.server.database)
    with PageWatch(farm, browser, "BATCH001") as watch:
        farm.server.start()
        farm.assert_identical(SELF_HEALED)
        good = watch.good
        eventually(lambda: watch.good > good + 3)
    assert all(status == 503 and FIRST_COPY in text for status, text in watch.wrong), watch.wrong[:2]


@pytest.fixture(scope="module")
def other_farm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The farm.db of another Pi: same tables, another history."""
    made = Seed(tmp_path_factory.mktemp("other") / "pi").folder / "farm.db"
    shell(made, "INSERT INTO batches(batch_number) VALUES('STRANGE')")
    return made


def put_farm(farm: Farm, source: Path | None) -> None:
    """A copy of `source` becomes the Pi's farm.db; None: there is none any more, as on a fresh SD card."""
    path = farm.pi.database
    remove_with_its_journal(path)
    if source:
        beside = path.with_suffix(".copy")
        shutil.copy(source, beside)
        beside.replace(path)


@pytest.mark.parametrize("stranger", ["an empty farm", "a file of no bytes", "another farm"])
def test_a_stranger_in_the_pis_place_is_refused_until_somebody_accepts_it(
    farm: Farm, other_farm: Path, tmp_path: Path, stranger: str
) -> None:
    farm.fill(20)
    farm.start()
    browser = farm.login()
    farm.pi.stop()
    (tmp_path / "nothing").touch()
    put_farm(farm, {"an empty farm": None, "a file of no bytes": tmp_path / "nothing", "another farm": other_farm}[stranger])
    with PageWatch(farm, browser, "BATCH001") as watch:
        farm.pi.start()
        status = eventually(lambda: (found := farm.status())["state"] == "refused" and found)
        assert f"localhost:{farm.pi.settings['PI_PORT']}" in status["last_error"] and "python -m server accept" in status["last_error"]
        assert [line for line in farm.server.log.splitlines() if "[ERROR]" in line and "refused" in line], "the log raises an alarm"
        assert "accept" in farm.page(browser, "/office/replication")
        farm.server.restart()
        eventually(lambda: farm.status()["state"] == "refused")
        eventually(lambda: watch.good > 20)
    assert not watch.wrong, watch.wrong[:1]
    assert farm.server.sql("SELECT count(*) FROM cattle") == "20"

    unsure = farm.server.command("accept")
    assert unsure.returncode == 2 and "--yes" in unsure.stderr
    accepted = farm.server.command("accept", "--yes")
    assert accepted.returncode == 0, accepted.stderr
    farm.assert_identical()
    assert farm.server.sql("SELECT group_concat(batch_number) FROM batches") == ("STRANGE" if stranger == "another farm" else "")
    (archive,) = farm.server.data.glob("replica.db.archive-*")
    assert shell(archive, "SELECT batch_number, (SELECT count(*) FROM cattle) FROM batches; PRAGMA integrity_check") == "BATCH001|20\nok"
    farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('NEW', 1)")
    farm.assert_identical()


def test_a_lost_replica_does_not_open_the_office_to_a_stranger(farm: Farm, other_farm: Path) -> None:
    farm.fill(20)
    farm.start()
    farm.server.stop()
    farm.pi.stop()
    put_farm(farm, other_farm)
    remove_with_its_journal(farm.server.database)
    farm.pi.start()
    farm.server.start()
    status = eventually(lambda: (found := farm.status())["state"] == "refused" and found)
    assert "python -m server accept" in status["last_error"]
    assert not farm.server.database.exists(), "server.db remembers whose rows are ours"
    assert farm.server.command("accept", "--yes").returncode == 0
    farm.assert_identical()


def test_a_farm_that_is_swapped_while_the_pi_runs_is_noticed_and_refused(farm: Farm, other_farm: Path) -> None:
    farm.fill(20)
    farm.start()
    put_farm(farm, other_farm)
    eventually(lambda: farm.status()["state"] == "refused")
    assert farm.server.sql("SELECT count(*) FROM cattle") == "20"
    assert farm.server.command("accept", "--yes").returncode == 0
    farm.assert_identical()


@pytest.mark.parametrize(
    ("again", "running", "how"),
    [(0, False, "cp"), (3, True, "cp"), (5, False, "cp"), (5, True, "cp"), (12, False, "cp"), (12, True, "cp"), (5, False, ".backup")],
)
def test_a_farm_restored_from_an_older_copy_is_found_out_whatever_was_written_since(
    farm: Farm, again: int, running: bool, how: str
) -> None:
    farm.fill(5)
    older = farm.pi.database.with_name("older.db")
    if how == "cp":  # of a file that nobody has open
        farm.pi.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(farm.pi.database, older)
    farm.start()
    if how == ".backup":
        farm.pi.sql(f".backup '{older}'")
    farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('L1',1),('L2',1),('L3',1),('L4',1),('L5',1)")  # will be lost
    farm.assert_identical()
    reached = int(farm.pi.sql("SELECT max(seq) FROM changelog"))

    if again:
        shell(older, "INSERT INTO pens(pen_number, capacity) VALUES" + ",".join(f"('N{i}', 2)" for i in range(again)))
        shell(older, "PRAGMA wal_checkpoint(TRUNCATE)")
    if not running:
        farm.pi.stop()
    put_farm(farm, older)
    if not running:
        farm.pi.start()
    farm.assert_identical()
    assert farm.server.sql("SELECT count(*), total(pen_number LIKE 'N%') FROM pens") == f"{again}|{again}.0"
    (kept,) = farm.server.data.glob("replica.db.rescued-*.db")
    lost = shell(kept, "SELECT group_concat(new) FROM changelog_audit WHERE col='pen_number'")
    assert lost == "L1,L2,L3,L4,L5", "what the Pi lost is kept"
    listed = json.loads(farm.server.command("rescued", "--json").stdout)
    assert [each["changes"] for each in listed] == [5]
    assert kept.name in farm.page(farm.login(), "/office/replication")
    assert "5 changes" in farm.status()["alarm"]
    assert farm.server.log.count("Starting full database sync") == 2
    if how == "cp":  # a copy by SQLite's own backup begins a new epoch, as every change of schema_version does
        assert int(farm.pi.sql("SELECT max(seq) FROM changelog")) == reached - 5 + again, "the seqs were used again"
        assert "went back in time" in farm.server.log or "has lost changes" in farm.server.log
    farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('LAST', 1)")
    farm.assert_identical()
