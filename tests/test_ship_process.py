"""The shipper as a process against real S3 servers: what goes wrong there is told, harms nothing, and mends itself."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ltx_parts
import pytest
import swift_server
from bad_bucket import BadBucket, Fault
from cutting_proxy import Behaviour, CuttingProxy
from farm_processes import eventually
from ltx_parts import Litestream, S3Server, litestream
from ship_parts import ROOT, STOP_LIMIT, Running, ShipProcess, bytes_of, make_bank, restored, transfer, txids
from test_ltx_store import Busy

from changelog.connection import connect
from changelog.ltx.store.place import open_store, s3_client

SECRET = swift_server.KEYS["AWS_SECRET_ACCESS_KEY"]
PATIENCE = 40.0  # s: the longest pause between two attempts is 30


class Bank:
    """A bank and its shipper's process, to some place in the bucket of a server."""

    def __init__(self, folder: Path, server: S3Server, found: dict[str, str], port: int = 0, bucket: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.path, self.server, self.name = folder, folder / "bank.db", server, f"banks/{folder.name}"
        make_bank(self.path)
        self.db = connect(self.path)
        self.chance = random.Random(7)
        self.store: Any = open_store(server.url(self.name))
        where = {"LITESTREAM_BUCKET": bucket or server.bucket, "LITESTREAM_PATH": self.name, "LITESTREAM_REGION": "us-east-1"}
        env = ltx_parts.environment() | found
        self.ship = ShipProcess(self.path, env, **where, LITESTREAM_ENDPOINT=f"http://127.0.0.1:{port or server.port}")

    def __enter__(self) -> Bank:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.ship.kill9()
        self.db.close()
        self.store._client.close()

    def commit(self, count: int = 1) -> None:
        for _ in range(count):
            transfer(self.db, self.chance)

    def await_state(self, state: str, cause: str = "") -> None:
        eventually(lambda: self.ship.status.state == state and cause in self.ship.status.cause, PATIENCE)

    def await_all(self) -> None:
        eventually(self.ship.is_through, PATIENCE)

    def check(self, secret: str = SECRET) -> None:
        """All is in the store; nothing of what was secret was told."""
        self.await_all()
        assert self.ship.stop() < STOP_LIMIT
        assert restored(self.store, self.folder / "restored.db") == self.bytes()
        assert secret not in self.ship.text and secret not in (self.folder / "log" / "ship.log").read_text()
        assert "Traceback" not in self.ship.text

    def bytes(self) -> bytes:
        self.db.close()
        return bytes_of(self.path)


def test_kills_rivals_and_two_writers_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "scripts" / "prove_ship.py", "8", "--no-times", "--sample", "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  kills 0  " not in done.stdout and done.stdout.endswith("0 faults\nall held\n")


def test_a_commit_is_in_the_bucket_at_once_and_the_end_ships_the_rest(tmp_path: Path, moto: S3Server) -> None:
    with Bank(tmp_path / "quick", moto, ltx_parts.KEYS) as bank:
        bank.ship.start()
        bank.await_state("shipping")
        eventually(lambda: txids(bank.store) == [1])
        bank.commit()
        eventually(lambda: txids(bank.store) == [1, 2], 3)
        bank.commit(20)
        assert bank.ship.stop() < STOP_LIMIT
        assert restored(bank.store, tmp_path / "restored.db") == bank.bytes()
        assert bank.ship.status.state == "stopped" and not bank.path.with_name("bank.db-wal").exists()


def test_a_wrong_secret_is_told_and_mends_with_the_right_one(tmp_path: Path, swift: S3Server) -> None:
    wrong = swift_server.KEYS | {"AWS_SECRET_ACCESS_KEY": "one-that-is-wrong-but-secret"}
    with Bank(tmp_path / "secret", swift, wrong) as bank:
        bank.ship.start()
        bank.await_state("waiting", "AWS_ACCESS_KEY_ID")
        assert "one-that-is-wrong" not in bank.ship.text + bank.ship.status.cause
        bank.ship.stop()
        bank.ship = ShipProcess(bank.path, ltx_parts.environment() | swift_server.KEYS, **bank.ship.settings)
        bank.ship.start()
        bank.commit(3)
        bank.check()


def test_a_bucket_that_is_missing_is_told_and_shipped_to_when_it_is_made(tmp_path: Path, swift: S3Server) -> None:
    with Bank(tmp_path / "gone", swift, swift_server.KEYS, bucket="later") as bank:
        bank.ship.start()
        bank.await_state("waiting", "there is no bucket later")
        s3_client(swift.endpoint, path_style=True).create_bucket(Bucket="later")
        bank.commit()
        bank.await_all()
        bank.ship.stop()
        store = open_store(swift.url(bank.name, bucket="later"))
        assert restored(store, tmp_path / "restored.db") == bank.bytes()


def test_a_server_that_is_too_busy_is_asked_again(tmp_path: Path, swift: S3Server) -> None:
    with ExitStack() as stack:
        busy = stack.enter_context(Busy(swift.port, 10**9))
        thread = threading.Thread(target=busy.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(busy.shutdown)
        bank = stack.enter_context(Bank(tmp_path / "busy", swift, swift_server.KEYS, busy.server_address[1]))
        busy.refusals = 0
        bank.ship.start()
        eventually(lambda: txids(bank.store) == [1], PATIENCE)
        busy.refusals = 10**9
        bank.commit()
        bank.await_state("waiting", "503")
        bank.commit()
        busy.refusals = 0
        bank.check()


def test_uploads_that_are_cut_harm_nothing(tmp_path: Path, swift: S3Server) -> None:
    with CuttingProxy(swift.port) as proxy, Bank(tmp_path / "cut", swift, swift_server.KEYS, proxy.port) as bank:
        bank.ship.start()
        eventually(lambda: txids(bank.store) == [1], PATIENCE)
        proxy.behaviour = Behaviour(cut_after=30_000, direction="up")
        proxy.cut_all()
        with bank.db:
            bank.db.execute("INSERT INTO ballast VALUES(randomblob(200000))")
        eventually(lambda: proxy.cuts >= 3, PATIENCE)
        bank.await_state("waiting", "cannot be reached")
        assert txids(bank.store) == [1]
        proxy.behaviour = Behaviour()
        bank.commit()
        bank.check()


def test_the_parts_of_an_upload_that_was_killed_are_taken_away_by_the_next_start(tmp_path: Path, moto: S3Server) -> None:
    """moto says of every upload that it was begun years ago."""
    client = s3_client(moto.endpoint, path_style=True)

    def uploads() -> int:
        return len(client.list_multipart_uploads(Bucket=moto.bucket).get("Uploads", ()))

    with BadBucket(moto.port) as bad, Bank(tmp_path / "parts", moto, ltx_parts.KEYS, bad.port) as bank:
        with bank.db:
            bank.db.execute("INSERT INTO ballast VALUES(randomblob(7000000))")
        bad.choose = lambda _method, path: Fault("hole", seconds=30) if "partNumber=2" in path else None
        bank.ship.start()
        eventually(lambda: bad.done["hole"], PATIENCE)
        assert uploads() == 1
        bank.ship.kill9()
        bad.choose = lambda _method, _path: None
        bank.ship.start()
        eventually(lambda: uploads() == 0, PATIENCE)
        bank.check(ltx_parts.KEYS["AWS_SECRET_ACCESS_KEY"])
    client.close()


def test_a_full_disk_stops_the_shipping_and_nothing_else(tmp_path: Path, moto: S3Server) -> None:
    """No file of this process may become larger than a limit, which is what a full disk says too."""
    with Bank(tmp_path / "full", moto, ltx_parts.KEYS) as bank:
        running = bank.ship.start()
        eventually(lambda: txids(bank.store) == [1], PATIENCE)
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        with bank.db:
            bank.db.execute("INSERT INTO ballast VALUES(randomblob(200000))")
        bank.await_state("stalled", "the disk of the database is full")
        assert not list((tmp_path / "full").glob("bank.db-ship/*.tmp"))
        bank.commit()
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        bank.check(ltx_parts.KEYS["AWS_SECRET_ACCESS_KEY"])
        assert txids(bank.store) == [1, 2]


def test_a_database_without_a_wal_is_refused_at_the_start(tmp_path: Path, moto: S3Server) -> None:
    with Bank(tmp_path / "nowal", moto, ltx_parts.KEYS) as bank:
        bank.db.pragma("journal_mode", "delete")
        running = bank.ship.start()
        assert running.process.wait(PATIENCE) == 1
        assert "journal_mode delete" in bank.ship.text and "PRAGMA journal_mode=WAL" in bank.ship.text


def test_without_a_bucket_it_says_so_and_is_not_started_again(tmp_path: Path, moto: S3Server) -> None:
    with Bank(tmp_path / "nobucket", moto, ltx_parts.KEYS) as bank:
        bank.ship.settings["LITESTREAM_BUCKET"] = ""
        assert bank.ship.start().process.wait(PATIENCE) == 2
        assert "LITESTREAM_BUCKET is empty" in bank.ship.text


@pytest.fixture(scope="module")
def stock() -> Litestream:
    return litestream()


def replicate(stock: Litestream, bank: Bank) -> Running:
    """Stock Litestream on the same database, to the same place."""
    rest = f"endpoint: '{bank.server.endpoint}', force-path-style: true, region: us-east-1"
    config = bank.folder / "litestream.yml"
    config.write_text(f"dbs: [{{path: {bank.path}, replica: {{type: s3, bucket: {bank.server.bucket}, path: {bank.name}, {rest}}}}}]\n")
    return Running(
        ltx_parts.find(), "replicate", "-config", config, log=bank.folder / "litestream.log", env=ltx_parts.environment() | ltx_parts.KEYS
    )


def test_a_place_goes_from_stock_to_ours_and_back_and_every_state_is_restored_by_both(
    tmp_path: Path, moto: S3Server, stock: Litestream
) -> None:
    with Bank(tmp_path / "both", moto, ltx_parts.KEYS) as bank:
        for begin in (lambda: replicate(stock, bank), bank.ship.start, lambda: replicate(stock, bank)):
            before = max(txids(bank.store), default=0)
            with begin():
                bank.commit()
                eventually(lambda before=before: max(txids(bank.store), default=0) > before, PATIENCE)
                for _ in range(3):
                    last = max(txids(bank.store))
                    bank.commit()
                    eventually(lambda last=last: max(txids(bank.store)) > last, PATIENCE)
        found = txids(bank.store)
        assert found == list(range(1, found[-1] + 1))
        for txid in found:
            image = restored(bank.store, tmp_path / "ours.db", txid)
            assert stock.restore(moto.url(bank.name), tmp_path / "stock.db", "-txid", f"{txid:016x}") == image


def test_who_finds_a_place_in_other_hands_stands_still_and_says_how_to_take_it_back(
    tmp_path: Path, moto: S3Server, stock: Litestream
) -> None:
    with Bank(tmp_path / "hands", moto, ltx_parts.KEYS) as bank:
        with bank.ship.start():
            eventually(lambda: txids(bank.store) == [1], PATIENCE)
        bank.commit()
        with replicate(stock, bank):
            eventually(lambda: max(txids(bank.store)) > 1, PATIENCE)
        bank.commit()
        last = max(txids(bank.store))
        bank.ship.start()
        bank.await_state("fenced", "python -m pi ship --take-over")
        assert max(txids(bank.store)) == last
        assert bank.ship.stop() < STOP_LIMIT
        bank.ship.start("--take-over")
        eventually(lambda: max(txids(bank.store)) > last, PATIENCE)
        bank.check(ltx_parts.KEYS["AWS_SECRET_ACCESS_KEY"])


def test_a_signal_ends_it_while_the_server_hears_nothing(tmp_path: Path, moto: S3Server) -> None:
    with CuttingProxy(moto.port) as proxy, Bank(tmp_path / "deaf", moto, ltx_parts.KEYS, proxy.port) as bank:
        bank.ship.start()
        eventually(lambda: txids(bank.store) == [1], PATIENCE)
        proxy.behaviour = Behaviour(black_hole=True)
        proxy.cut_all()
        bank.commit()
        time.sleep(1)
        assert bank.ship.stop() < STOP_LIMIT
        proxy.behaviour = Behaviour()
        bank.ship.start()
        bank.check(ltx_parts.KEYS["AWS_SECRET_ACCESS_KEY"])
