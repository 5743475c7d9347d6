"""A server that cannot reach the Pi follows the bucket: real processes, TLS, a folder or an S3 server, kills at any moment."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from farm_processes import Farm, eventually, shell
from ltx_parts import KEYS, moto_server
from shipping import Shipper, s3_settings, ship_to

from changelog.ltx.plan import plan
from changelog.ltx.sign import Complete, give_sign
from changelog.ltx.store.names import from_text


@pytest.fixture
def shipper(farm: Farm, tmp_path: Path) -> Iterator[Shipper]:
    """The Pi serves, and ships to a folder; the server is not started."""
    made = ship_to(farm, tmp_path / "bucket")
    farm.pi.start()
    try:
        made.start()
        yield made
    finally:
        made.kill9()


def test_a_first_start_without_the_pi_takes_the_bucket_and_says_so(farm: Farm, shipper: Shipper) -> None:
    farm.fill(3)
    head = shipper.caught_up()
    shipper.stop()
    give_sign(shipper.store, Complete(plan(shipper.store)[-1].name.max_txid, from_text("2099-01-01T06:00:00Z")))
    farm.pi.stop()
    farm.server.start()
    eventually(lambda: farm.status()["seq"] == head.seq)
    status = eventually(lambda: (found := farm.status())["source"] == "bucket" and found)
    assert (status["state"], status["epoch"], status["lag_changes"]) == ("following", head.epoch, 0)
    assert status["bucket_at"] == "2099-01-01T06:00:00"
    page = farm.page(farm.login())
    assert "BATCH001" in page and "Following the bucket" in page and "The Pi cannot be reached" in page
    farm.assert_identical()
    farm.pi.start()
    eventually(lambda: farm.status()["source"] == "pi")
    farm.fill(2, "BATCH002")
    farm.assert_identical()
    assert farm.server.log.count("Full sync completed") == 1 and "Starting full database sync from the bucket..." in farm.server.log


def test_a_server_that_follows_goes_on_by_the_bucket_when_the_pi_is_away_and_comes_back_by_its_position(
    farm: Farm, shipper: Shipper
) -> None:
    farm.server.start()
    farm.assert_identical()
    farm.pi.stop()
    for batch in ("BATCH001", "BATCH002"):
        farm.fill(40, batch)  # by the shell of the Pi, which only its API is away from
        farm.assert_identical()
    status = farm.status()
    assert (status["source"], status["state"]) == ("bucket", "following")
    farm.pi.start()
    eventually(lambda: farm.status()["source"] == "pi")
    farm.fill(1, "BATCH003")
    farm.assert_identical()
    assert farm.server.log.count("Full sync completed") == 1, "the first start's"


def test_a_mirror_that_is_damaged_on_the_disk_is_restored_anew(farm: Farm, shipper: Shipper) -> None:
    """Only its pages are, and not its size or its note: it is found when the server needs all of it for a new replica."""
    farm.server.settings["FOLLOW"] = "bucket"
    farm.fill(2_000)
    shipper.caught_up()
    farm.server.start()
    farm.assert_identical()
    farm.server.stop()
    mirror, replica = farm.server.data / "bucket" / "mirror.db", farm.server.data / "replica.db"
    size = mirror.stat().st_size
    with mirror.open("r+b") as file:
        file.seek(size // 3)
        file.write(random.Random(1).randbytes(size // 3))
    replica.unlink()
    farm.server.start()
    farm.assert_identical(30)
    assert "damaged" in farm.server.log


def test_the_command_makes_a_replica_without_asking_the_pi_which_then_goes_on(farm: Farm, shipper: Shipper) -> None:
    farm.fill(200)
    head = shipper.caught_up()
    made = farm.server.command("bootstrap", "--from-bucket", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["after"] == str(head)
    farm.fill(5, "BATCH002")
    farm.server.start()
    farm.assert_identical()
    assert farm.status()["source"] == "pi"
    assert "Starting full database sync" not in farm.server.log, "it joined the stream where the image ended"
    assert not (farm.pi.data / "snapshots").exists(), "the Pi made no copy"


def test_what_is_older_in_the_bucket_is_not_applied_and_only_installed_when_forced(farm: Farm, shipper: Shipper) -> None:
    farm.fill(3)
    shipper.caught_up()
    shipper.stop()
    farm.server.start()
    farm.fill(4, "BATCH002")
    farm.assert_identical()
    newest = farm.status()["seq"]
    farm.pi.stop()
    eventually(lambda: "not as far as what is here" in str(farm.status()["last_error"]))
    refused = farm.server.command("bootstrap", "--from-bucket")
    assert refused.returncode == 1 and "--force" in refused.stderr
    assert farm.status()["seq"] == newest and "BATCH002" in farm.page(farm.login())
    forced = farm.server.command("bootstrap", "--from-bucket", "--force")
    assert forced.returncode == 0, forced.stderr
    assert farm.status()["seq"] < newest
    assert len(farm.server.command("rescued").stdout.splitlines()) >= 1, "what it alone held is kept"
    farm.pi.start()
    farm.assert_identical()


def put_a_stranger_there(farm: Farm, shipper: Shipper, tmp_path: Path) -> None:
    """The server has the farm; then the Pi is away, and another farm is shipped to the same place."""
    farm.fill(3)
    farm.server.start()
    farm.assert_identical()
    farm.pi.stop()
    shipper.stop()
    for suffix in ("", "-wal", "-shm"):
        farm.pi.database.with_name(f"farm.db{suffix}").unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "bucket")
    shutil.rmtree(farm.pi.data / "farm.db-ship")
    other = farm.pi.command("user", "add", "other", "--role", "admin", "--password-stdin", typed="a long enough password\n")
    assert other.returncode == 0, other.stderr
    shipper.start()


def test_a_strangers_bucket_is_refused_with_an_alarm(farm: Farm, shipper: Shipper, tmp_path: Path) -> None:
    put_a_stranger_there(farm, shipper, tmp_path)
    eventually(lambda: farm.status()["state"] == "refused")
    assert "another history" in farm.status()["last_error"] and "BATCH001" in farm.page(farm.login())
    command = farm.server.command("bootstrap", "--from-bucket", "--force")
    assert command.returncode == 1 and "another history" in command.stderr
    farm.server.kill9()
    farm.server.database.unlink()
    for suffix in ("-wal", "-shm"):
        farm.server.database.with_name(f"replica.db{suffix}").unlink(missing_ok=True)
    farm.server.start()
    eventually(lambda: farm.status()["state"] == "refused")
    assert not farm.server.database.exists(), "the accepted epoch stands in server.db too"
    accepted = farm.server.command("accept", "--from-bucket", "--yes")
    assert accepted.returncode == 0, accepted.stderr
    farm.assert_identical()
    assert farm.status()["state"] == "following"


def test_a_stranger_that_is_accepted_by_its_bucket_takes_the_place_of_the_old_farm_which_is_kept(
    farm: Farm, shipper: Shipper, tmp_path: Path
) -> None:
    put_a_stranger_there(farm, shipper, tmp_path)
    eventually(lambda: farm.status()["state"] == "refused")
    accepted = farm.server.command("accept", "--from-bucket", "--yes")
    assert accepted.returncode == 0, accepted.stderr
    farm.assert_identical()
    [kept] = farm.server.data.glob("replica.db.archive-*")
    assert shell(kept, "SELECT batch_number FROM batches") == "BATCH001"


def test_a_server_that_is_killed_while_it_advances_converges_alone_and_never_goes_back(farm: Farm, shipper: Shipper) -> None:
    farm.server.start()
    farm.assert_identical()
    farm.pi.stop()
    note = farm.server.data / "bucket" / "mirror.db.at"
    chance, reached, interrupted = random.Random(7), 0, 0
    eventually(note.exists)
    with Load(farm) as load:
        for turn in range(24):
            farm.server.kill9()
            known = note.read_bytes()
            held = json.loads(known)
            interrupted += held["target"] != held["txid"]
            seq = int(farm.server.sql("SELECT seq FROM changelog_position"))
            assert seq >= reached
            reached = seq
            farm.server.launch()
            eventually(lambda: note.read_bytes() != known, 30)  # noqa: B023  # it has begun to write pages
            if turn % 6 == 5:
                eventually(lambda: int(farm.server.sql("SELECT seq FROM changelog_position")) > seq, 90)  # noqa: B023
            else:
                time.sleep(chance.uniform(0, 0.2))
        assert load.written > 24
    farm.assert_identical(60)
    assert farm.server.log.count("Full sync completed") == 1, "replay went on each time"
    assert reached > 100 and interrupted, f"killed at work: {reached} changes, {interrupted} times with pages half written"


def test_an_s3_bucket_is_followed_within_five_seconds(farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with moto_server(tmp_path / "s3") as server:
        shipper = ship_to(farm, server.bucket, **s3_settings(server))
        farm.server.settings["FOLLOW"] = "bucket"
        farm.pi.start()
        shipper.start()
        farm.server.start()
        farm.assert_identical()
        late = []
        for turn in range(12):
            time.sleep(random.Random(turn).uniform(0.2, 3))
            farm.fill(1, f"TURN{turn}")
            began = time.monotonic()
            eventually(lambda: farm.server.sql(f"SELECT count(*) FROM batches WHERE batch_number='TURN{turn}'") == "1")  # noqa: B023
            late.append(time.monotonic() - began)
        assert sorted(late)[-2] < 5, late
        status = farm.status()
        assert (status["source"], status["state"], status["last_error"]) == ("bucket", "following", None)
        page = farm.page(farm.login())
        assert "Following the bucket" in page and "cannot be reached" not in page
        verified = farm.server.command("verify", "--json")
        assert verified.returncode == 0 and json.loads(verified.stdout)["identical"], verified.stdout + verified.stderr
        assert "/api/sync" not in farm.pi.log
        shipper.stop()


class Load:
    """Somebody writes on the Pi while the block runs, in transactions of many rows."""

    def __init__(self, farm: Farm) -> None:
        self._farm, self.written = farm, 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.2):
            self.written += 1
            self._farm.fill(150, f"LOAD{self.written}")
            self._farm.pi.sql(f"UPDATE cattle SET weight=weight+1 WHERE id%7={self.written % 7}")
