"""A Pi whose disk was lost comes back from the bucket, or from the server's replica, and everybody goes on."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from changelog_parts import make_primary, make_replica, run_sql
from farm_processes import Farm, content, eventually
from shipping import Shipper, position, ship_to

from changelog.connection import connect, one, rows
from changelog.errors import Conflict, DamagedFile
from changelog.position import Position, ancestors_of
from changelog.promote import copy_of, promote, replacing

SCHEMA = "CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT UNIQUE); INSERT INTO pens(pen) VALUES('A')"


@pytest.fixture
def shipper(farm: Farm, tmp_path: Path) -> Iterator[Shipper]:
    """The Pi serves and ships to a folder, the server follows, and something is in all three."""
    made = ship_to(farm, tmp_path / "bucket")
    farm.start()
    farm.fill(20)
    farm.assert_identical()
    try:
        made.start()
        yield made
    finally:
        made.kill9()


def lose_the_card(farm: Farm, shipper: Shipper, tmp_path: Path) -> Path:
    """The Pi is cut off and its card is gone, but for what an operator keeps elsewhere; a new card is empty. Returns the lost one."""
    farm.pi.kill9()
    shipper.kill9()
    lost = tmp_path / "lost"
    farm.pi.data.rename(lost)
    farm.pi.data.mkdir()
    for name in ("pi-cert.pem", "pi-key.pem", "pi.db"):
        shutil.copy(lost / name, farm.pi.data)
    return lost


def adopted(farm: Farm) -> None:
    """What the server kept is played back, as the restore says."""
    listed = farm.server.command("rescued", "--json")
    assert listed.returncode == 0, listed.stderr
    files = [farm.server.folder / each["path"] for each in json.loads(listed.stdout)]
    assert files, listed.stdout
    for file in files:
        carried = shutil.copy(file, farm.pi.folder)
        done = farm.pi.command("adopt", str(carried))
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_pi_on_a_new_card_from_the_bucket_and_its_old_server_converge_without_hands(farm: Farm, shipper: Shipper, tmp_path: Path) -> None:
    shipped = shipper.caught_up()
    shipper.stop()
    farm.fill(3, "BATCH002")
    farm.assert_identical()
    lost = lose_the_card(farm, shipper, tmp_path)
    made = farm.pi.command("restore", "--from-bucket")
    assert made.returncode == 0, made.stderr
    assert str(shipped) in made.stdout and "python -m pi adopt" in made.stdout and "key add" not in made.stdout
    farm.pi.start()
    eventually(lambda: farm.status()["epoch"] == position(farm.pi.database).epoch, 20)
    farm.assert_identical()
    assert farm.status()["state"] == "following" and "lost" in farm.status()["alarm"]
    adopted(farm)
    farm.assert_identical()
    before, now = content(lost / "farm.db"), content(farm.pi.database)
    assert before["batches"] == now["batches"] and before["cattle"] == now["cattle"]
    shipper.start()
    assert shipper.shipped() == position(farm.pi.database)


def test_a_pi_on_a_new_card_from_the_replica_has_all_that_the_server_had(farm: Farm, shipper: Shipper, tmp_path: Path) -> None:
    farm.fill(3, "BATCH002")
    farm.assert_identical()
    lost = lose_the_card(farm, shipper, tmp_path)
    carried = tmp_path / "carried.db"
    farm.server.sql(f".backup {carried}")
    made = farm.pi.command("restore", "--from-replica", str(carried), "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["restored_to"].split("/")[1] == str(farm.status()["seq"])
    farm.pi.start()
    eventually(lambda: farm.status()["epoch"] == position(farm.pi.database).epoch, 20)
    farm.fill(1, "BATCH003")
    farm.assert_identical()
    before, now = content(lost / "farm.db"), content(farm.pi.database)
    assert before["batches"] < now["batches"] and before["users"] == now["users"]
    assert farm.post("hxb:BATCH004:LF9:UHF9").status_code == 201
    farm.assert_identical()
    assert farm.status()["alarm"] is None
    shipper.start()  # goes on behind what the lost one shipped
    farm.fill(1, "BATCH005")
    shipper.caught_up()


def test_a_server_that_only_has_the_bucket_follows_the_restored_pi_too(farm: Farm, shipper: Shipper, tmp_path: Path) -> None:
    shipper.caught_up()
    farm.server.stop()
    farm.server.settings["FOLLOW"] = "bucket"
    farm.server.start()
    farm.assert_identical()
    lose_the_card(farm, shipper, tmp_path)
    made = farm.pi.command("restore")
    assert made.returncode == 0, made.stderr
    farm.pi.start()
    shipper.start()
    farm.fill(2, "BATCH002")
    farm.assert_identical(20)
    assert farm.status()["source"] == "bucket" and farm.status()["epoch"] == position(farm.pi.database).epoch


def test_an_earlier_state_comes_back_by_its_transaction_or_time_and_says_what_to_make_anew(
    farm: Farm, shipper: Shipper, tmp_path: Path
) -> None:
    first = shipper.caught_up()
    listed = json.loads(farm.pi.command_of("changelog", "ltx", "list", str(tmp_path / "bucket"), "--json").stdout)
    txid = max(file["max_txid"] for file in listed)
    farm.fill(3, "BATCH002")
    shipper.caught_up()
    lose_the_card(farm, shipper, tmp_path)
    (farm.pi.data / "pi.db").unlink()
    (farm.pi.data / "pi-cert.pem").unlink()
    made = farm.pi.command("restore", "--txid", txid)
    assert made.returncode == 0, made.stderr
    assert str(first) in made.stdout and "python -m pi key add" in made.stdout and "certificate" in made.stdout
    assert "BATCH002" not in farm.pi.sql("SELECT batch_number FROM batches")
    again = farm.pi.command("restore", "--txid", "ffff", "--force")
    assert again.returncode == 1 and "no state right after" in again.stderr and farm.pi.database.exists()
    wrong = farm.pi.command("restore", "--from-replica", str(farm.pi.database), "--txid", txid)
    assert wrong.returncode == 2


def test_a_farm_that_is_there_is_never_replaced_unasked_and_never_under_a_running_pi(farm: Farm, shipper: Shipper, tmp_path: Path) -> None:
    shipper.caught_up()
    refused = farm.pi.command("restore")
    assert refused.returncode == 1 and "--force" in refused.stderr
    running = farm.pi.command("restore", "--force")
    assert running.returncode == 1 and "open in another program" in running.stderr
    farm.assert_identical()
    farm.pi.stop()
    shipper.stop()
    farm.pi.sql("INSERT INTO batches(batch_number) VALUES('KEPT')")
    forced = farm.pi.command("restore", "--force")
    assert forced.returncode == 0, forced.stderr
    [kept] = farm.pi.data.glob("farm.db.replaced-*Z")
    with closing(sqlite3.connect(kept)) as db:
        assert db.execute("SELECT count(*) FROM batches WHERE batch_number='KEPT'").fetchone() == (1,)
    assert "KEPT" not in farm.pi.sql("SELECT batch_number FROM batches")
    assert not list(farm.pi.data.glob("farm.db.incoming*"))


def test_a_promoted_replica_is_a_primary_in_every_respect(tmp_path: Path) -> None:
    primary = make_primary(tmp_path / "farm.db", SCHEMA)
    replica = make_replica(primary, tmp_path / "replica.db")
    run_sql(replica, "CREATE INDEX changelog_local_pens ON pens(pen)")
    made = tmp_path / "made.db"
    copy_of(replica, made)
    with closing(connect(primary)) as db:
        ended = Position.of_head(db)
    assert promote(made) == ended
    with closing(connect(made)) as db:
        assert not db.table_exists("main", "changelog_position") and db.pragma("journal_mode") == "wal"
        assert ancestors_of(db) == {ended.epoch: ended.seq} and Position.of_head(db).seq == ended.seq + 1
        assert rows(db, "SELECT name FROM sqlite_schema WHERE name GLOB 'changelog_local*'") == []
        db.execute("INSERT INTO pens(pen) VALUES('B')")
        assert one(db, "SELECT count(*) FROM changelog WHERE tbl='pens' AND op='I' AND seq>?", (ended.seq,)) == 1
        assert one(db, "PRAGMA integrity_check") == "ok"
    assert made.stat().st_mode & 0o777 == 0o660


def test_a_damaged_replica_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    replica = make_replica(make_primary(tmp_path / "farm.db", SCHEMA), tmp_path / "replica.db")
    content = bytearray(replica.read_bytes())
    content[4096:8192] = b"\x55" * 4096
    replica.write_bytes(content)
    with pytest.raises((DamagedFile, Conflict)), replacing(tmp_path / "new.db", "old", force=False) as incoming:
        copy_of(replica, incoming)
        promote(incoming)
    assert not list(tmp_path.glob("new.db*"))


def test_a_stick_that_cannot_be_written_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    replica = make_replica(make_primary(tmp_path / "farm.db", SCHEMA), stick / "replica.db")
    before = sorted(path.name for path in stick.iterdir())
    with closing(connect(replica, immutable=True)) as db:
        assert one(db, "SELECT count(*) FROM pens") == 1
    assert sorted(path.name for path in stick.iterdir()) == before
