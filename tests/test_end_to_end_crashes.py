"""kill -9 of the server at any moment of a bootstrap or a replay: with the Pi away it comes back with the old rows or the new ones."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest
from farm_processes import Farm, PageWatch, eventually, free_port

ANIMALS = 50_000
TRIALS = 3
COUNTED = "SELECT count(*), min(weight), max(weight) FROM cattle"


@pytest.fixture(scope="module")
def big_farm(running_farm: Farm) -> Farm:
    """So many rows that a bootstrap and a replay take a moment."""
    running_farm.fill(ANIMALS)
    running_farm.assert_identical(30)
    return running_farm


def change_all(farm: Farm, weight: int) -> None:
    """All animals in one transaction: the next pull brings as many changes."""
    farm.pi.sql(f"UPDATE cattle SET weight={weight}")


def change_all_and_the_schema(farm: Farm, weight: int) -> None:
    """The same where no replay can follow, only a bootstrap."""
    farm.pi.sql(f"BEGIN; UPDATE cattle SET weight={weight}; COMMIT; VACUUM")


@pytest.mark.parametrize("change", [change_all, change_all_and_the_schema], ids=["replay", "bootstrap"])
def test_a_server_killed_at_any_moment_comes_back_with_the_old_rows_or_the_new_ones(
    big_farm: Farm, change: Callable[[Farm, int], None]
) -> None:
    farm = big_farm
    pi_port = farm.pi.settings["PI_PORT"]
    browser = farm.login()
    started = time.monotonic()
    change(farm, 5)
    eventually(lambda: farm.server.sql(COUNTED) == f"{ANIMALS}|5.0|5.0", 30)
    takes = time.monotonic() - started
    for trial in range(TRIALS):
        old, new = float(farm.server.sql("SELECT max(weight) FROM cattle")), trial + 10 + 100 * (change is change_all)
        moment = random.uniform(0, takes)
        killer = threading.Timer(moment, farm.server.kill9)
        killer.start()
        change(farm, new)
        killer.join()
        farm.server.kill9()

        farm.server.settings["REMOTE_PI_PORT"] = free_port()  # where nobody answers
        farm.server.start()
        with PageWatch(farm, browser, "BATCH001") as watch:
            eventually(lambda: farm.status()["last_error"])
            eventually(lambda watch=watch: watch.good > 3)
        assert not watch.wrong, f"killed after {moment:.3f} s: {watch.wrong[:1]}"
        found = farm.server.sql(COUNTED)
        assert found in {f"{ANIMALS}|{weight:.1f}|{weight:.1f}" for weight in (old, new)}, f"killed after {moment:.3f} s: {found}"
        assert farm.server.sql("PRAGMA integrity_check") == "ok"

        farm.server.stop()
        farm.server.settings["REMOTE_PI_PORT"] = pi_port
        farm.server.start()
        eventually(lambda new=new: farm.server.sql(COUNTED) == f"{ANIMALS}|{new:.1f}|{new:.1f}", 30)
    farm.assert_identical(30)
    left = sorted(path.name for path in farm.server.data.iterdir() if "incoming" in path.name)
    assert not left, "the crashed downloads are cleared away"


def test_a_first_bootstrap_that_is_killed_leaves_no_half_farm(big_farm: Farm) -> None:
    farm = big_farm
    farm.server.stop()
    for path in farm.server.data.glob("replica.db*"):
        path.unlink()
    bootstraps = farm.server.log.count("Starting full database sync")
    farm.server.launch()
    eventually(lambda: farm.server.log.count("Starting full database sync") > bootstraps)
    time.sleep(random.uniform(0, 0.3))  # not waiting for anything: any moment is a good one
    farm.server.kill9()
    if farm.server.database.exists():
        assert farm.server.sql("SELECT count(*) FROM cattle") == str(ANIMALS)
    farm.server.start()
    farm.assert_identical(30)


def test_both_killed_at_once_go_on_from_where_they_were(big_farm: Farm) -> None:
    farm = big_farm
    sent = [f"hxb:POWER:LF{number}:UHF{number}" for number in range(30)]
    assert [farm.post(payload).status_code for payload in sent] == [201] * len(sent)
    farm.pi.kill9()
    farm.server.kill9()
    farm.pi.start()
    farm.server.start()
    farm.assert_identical(30)
    assert farm.server.sql("SELECT count(*) FROM cattle WHERE cattle_id LIKE 'POWER-%'") == str(len(sent))
    assert farm.pi.sql("SELECT count(*) FROM lora_payload_buffer WHERE status<>'processed'") == "0"
