"""The shipper beside the Pi's writer: checkpoints, and a farm.db that is replaced under both."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path

import apsw
from farm_processes import eventually
from ltx_parts import environment
from pi_parts import make_farm, running_writer
from ship_parts import STOP_LIMIT, ShipProcess, bytes_of

from changelog.connection import connect, one
from changelog.errors import DroverError
from changelog.ltx.restore import restore
from changelog.ltx.store.folder import FolderStore
from pi.writer import Writer

PATIENCE = 30.0  # s
LONGEST_WAL = 32 * 2**20  # bytes, of some 80 MiB that are written as fast as it goes


def add_pen(writer: Writer, name: str, size: int = 0) -> bool:
    """Whether a pen could be written."""
    sql = "INSERT INTO pens(pen_number, capacity, description) VALUES(?, 1, hex(randomblob(?)))"
    with suppress(DroverError, apsw.Error):
        writer.write(lambda db: db.execute(sql, (name, size)), "test")
        return True
    return False


def ship_process(path: str, bucket: Path) -> ShipProcess:
    return ShipProcess(Path(path), environment(), LITESTREAM_BUCKET=bucket)


def pens(path: Path) -> set[str]:
    with closing(connect(path, readonly=True)) as db:
        assert one(db, "PRAGMA integrity_check") == "ok"
        return {name for (name,) in db.execute("SELECT pen_number FROM pens")}


def test_a_farm_that_is_replaced_under_writer_and_shipper_goes_on_whole(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    path, store = make_farm(tmp_path / "live"), FolderStore(tmp_path / "bucket")
    ship = ship_process(path, tmp_path / "bucket")
    try:
        with running_writer(path) as writer:
            ship.start()
            eventually(ship.is_through, PATIENCE)
            for turn in range(3):
                assert add_pen(writer, f"before {turn}", 50_000)
                new = tmp_path / f"new{turn}"
                new.mkdir()
                with running_writer(make_farm(new)) as other:
                    assert add_pen(other, f"brought {turn}")
                os.replace(new / "farm.db", path)
                eventually(lambda turn=turn: add_pen(writer, f"after {turn}"), PATIENCE)
                add_pen(writer, f"later {turn}")
                shipped = ship.status.txid
                eventually(lambda shipped=shipped: ship.status.txid > shipped and ship.is_through(), PATIENCE)
                restore(store, tmp_path / "restored.db", force=True)
                assert pens(tmp_path / "restored.db") == {f"{when} {turn}" for when in ("brought", "after", "later")}
        assert ship.stop() < STOP_LIMIT
    finally:
        ship.kill9()
    restore(store, tmp_path / "restored.db", force=True)
    assert (tmp_path / "restored.db").read_bytes() == bytes_of(Path(path))
    assert "Traceback" not in ship.text


def test_the_wal_stays_short_while_the_shipper_runs_when_it_is_killed_and_when_it_comes_again(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    path = make_farm(tmp_path / "live")
    ship = ship_process(path, tmp_path / "bucket")
    longest = 0

    def write_much(writer: Writer, name: str) -> None:
        nonlocal longest
        for number in range(60):
            assert add_pen(writer, f"{name} {number}", 60_000)
            longest = max(longest, os.stat(f"{path}-wal").st_size)

    try:
        with running_writer(path) as writer:
            for turn in range(2):
                ship.start()
                eventually(lambda: ship.status.state == "shipping" and not writer.file.checkpoints, PATIENCE)
                write_much(writer, f"shipped {turn}")
                ship.kill9()
                eventually(lambda: writer.file.checkpoints, PATIENCE)
                write_much(writer, f"alone {turn}")
            ship.start()
            eventually(ship.is_through, PATIENCE)
    finally:
        ship.stop()
    assert 4 * 2**20 < longest < LONGEST_WAL
    restore(FolderStore(tmp_path / "bucket"), tmp_path / "restored.db")
    assert len(pens(tmp_path / "restored.db")) == 240
    assert (tmp_path / "restored.db").read_bytes() == bytes_of(Path(path))
