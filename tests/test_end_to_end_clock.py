"""Clocks that are wrong by decades and jump while the real processes run: nothing is ordered by time, and nothing is lost with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests
from farm_processes import Farm, audit, eventually
from shipping import ship_to
from wrong_clock import WrongClock

JUMPS = (7_300, -7_300, 0, -18_000, 3_650)  # days: 2046, 2006, today, 1977, 2036
TWO_DAYS, TEN_YEARS = 2, 3_650


@pytest.fixture
def clock(tmp_path: Path) -> WrongClock:
    """One that is right at first."""
    return WrongClock(tmp_path)


def copies(farm: Farm) -> float:
    """How many whole copies the server has fetched since its start."""
    text = requests.get(f"{farm.server.url}/metrics", timeout=10).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("drover_bootstraps_total"))


def test_changes_arrive_exact_and_in_order_however_the_clock_of_the_pi_jumps(farm: Farm, clock: WrongClock) -> None:
    farm.fill(20)
    farm.pi.start(clock.prefix)
    farm.server.start()
    farm.assert_identical()
    for turn, days in enumerate(JUMPS):
        clock.is_off_by(days)
        for number in range(5):
            assert farm.post(f"hxb:JUMP:LF{turn}-{number}:UHF{turn}-{number}").status_code == 201
        farm.pi.sql(f"UPDATE cattle SET weight={turn + 2} WHERE id={turn + 1}")  # by a shell, whose clock is right
        farm.assert_identical()
        assert farm.status()["state"] == "following"
        assert farm.post(f"hxb:JUMP:LF{turn}-4:UHF{turn}-4").status_code == 409
    told = audit(farm.server.database, columns="DISTINCT substr(at,1,4)").splitlines()
    assert told == audit(farm.pi.database, columns="DISTINCT substr(at,1,4)").splitlines()
    assert len(told) == len(JUMPS), "the clock did jump"
    seen = farm.server.sql("SELECT count(*), max(seq)-min(seq)+1, sum(tbl='cattle' AND op='I') FROM changelog")
    assert seen.split("|")[0] == seen.split("|")[1]
    assert farm.server.sql("SELECT count(*) FROM cattle WHERE cattle_id LIKE 'JUMP%'") == str(5 * len(JUMPS))
    assert farm.prove_identical()["diverged_before"] == [] and copies(farm) == 2  # the first, and the one that was asked for


def test_a_clock_far_ahead_trims_nothing_that_a_replica_has_not_acknowledged(farm: Farm, clock: WrongClock) -> None:
    farm.fill(200)
    farm.start()
    farm.server.stop()
    farm.fill(200, "BATCH002")
    farm.pi.stop()
    acknowledged = int(farm.server.sql("SELECT seq FROM changelog_position"))
    clock.is_off_by(JUMPS[0])
    command = ["-m", "changelog", "trim", str(farm.pi.database), "--keep-days", "30", "--yes"]
    done = subprocess.run([*clock.prefix, sys.executable, *command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    oldest = int(farm.pi.sql("SELECT min(seq) FROM changelog"))
    assert 1 < oldest <= acknowledged + 1, "what is acknowledged was trimmed, and no more"
    farm.pi.start(clock.prefix)
    farm.server.start()
    farm.assert_identical()
    assert copies(farm) == 0


def test_a_session_ends_when_the_clock_of_the_server_jumps_and_begins_anew(farm: Farm, clock: WrongClock) -> None:
    farm.fill(5)
    farm.pi.start()
    farm.server.start(clock.prefix)
    farm.assert_identical()
    for days in (TWO_DAYS, -TEN_YEARS, TEN_YEARS, 0):
        browser = farm.login()
        assert "BATCH001" in farm.page(browser)
        clock.is_off_by(days)
        answer = browser.get(f"{farm.server.url}/office/batches", allow_redirects=False, timeout=10)
        assert (answer.status_code, "/office/login" in answer.headers["Location"]) == (302, True)
        assert farm.post(f"hxb:DAYS:LF{days}:UHF{days}").status_code == 201
        farm.assert_identical()
    assert "BATCH001" in farm.page(farm.login()) and "Traceback" not in farm.server.log


def test_a_clock_of_the_server_that_is_outside_of_the_pinned_certificates_time_stops_nothing(farm: Farm, clock: WrongClock) -> None:
    farm.pi.start()
    farm.server.start(clock.prefix)
    farm.assert_identical()
    for days in (-TEN_YEARS, TEN_YEARS):
        clock.is_off_by(days)
        farm.pi.restart()  # or the server would go on with the connections that it has
        assert farm.post(f"hxb:CERT:LF{days}:UHF{days}").status_code == 201
        farm.assert_identical()
    assert copies(farm) == 1 and "certificate" not in farm.server.log and "SystemTimeWarning" not in farm.server.log


def test_the_shipper_ships_on_in_order_however_its_clock_jumps(farm: Farm, clock: WrongClock, tmp_path: Path) -> None:
    ship = ship_to(farm, tmp_path / "bucket")
    farm.pi.start(clock.prefix)
    ship.launch(clock.prefix)
    try:
        for turn, days in enumerate(JUMPS[:3]):
            ship.caught_up()
            clock.is_off_by(days)
            assert farm.post(f"hxb:SHIP:LF{turn}:UHF{turn}").status_code == 201
            ship.caught_up()
        newest = ship.store.list(0)[-1].name.max_txid
        eventually(lambda: newest in {file.name.max_txid for file in ship.store.list(9)}, 15)  # what is done once a day is done again
        times = [file.modified_ms for file in ship.store.list(0)]
        assert times == sorted(times)
        assert ship.shipped() == ship.caught_up()
        assert "Traceback" not in ship.log and "the store is not tidied up" not in ship.log
    finally:
        ship.kill9()
