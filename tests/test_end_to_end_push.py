"""The Pi pushes and the server listens, as two processes: what the status, the figures and the replica tell of it."""

from __future__ import annotations

import time

import pytest
import requests
from farm_processes import Farm, Same, eventually

from server.offers import LONGEST_WAIT

SLOW = 30  # s, DB_SYNC_INTERVAL: what arrives sooner was pushed


def figure(farm: Farm, name: str) -> float:
    text = requests.get(f"{farm.server.url}/metrics", timeout=10).text
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).rpartition(" ")[2])


@pytest.fixture
def pushed(farm: Farm) -> Farm:
    """Both run, the socket is up, and a question that was asked before has its answer."""
    farm.server.settings["DB_SYNC_INTERVAL"] = SLOW
    farm.start()
    assert eventually(lambda: farm.status()["push"]) is True
    time.sleep(LONGEST_WAIT + 0.5)
    return farm


def test_what_a_shell_and_our_own_writer_commit_is_pushed(pushed: Farm) -> None:
    assert figure(pushed, "drover_push_connected") == 1
    for number in range(5):
        if number % 2:
            assert pushed.post(f"hxb:PUSHED:LF{number}:UHF{number}").status_code == 201
        else:
            pushed.pi.sql(f"INSERT INTO pens(pen_number, capacity) VALUES('S{number}', 1)")
        pushed.assert_identical(5)
    assert figure(pushed, "drover_pushed_applied_total") >= 5
    assert figure(pushed, "drover_pushed_ignored_total") == 0
    assert figure(pushed, "drover_changes_applied_total") == figure(pushed, "drover_changes_received_total")


def test_a_schema_change_and_a_commit_too_large_to_push_arrive_at_once_too(pushed: Farm) -> None:
    pushed.fill(3_000)
    eventually(lambda: Same(pushed.difference()), 5)
    pushed.pi.sql("ALTER TABLE pens ADD COLUMN shade TEXT; INSERT INTO pens(pen_number, capacity, shade) VALUES('A', 1, 'oak')")
    eventually(lambda: Same(pushed.difference()), 5)
    assert pushed.status()["state"] == "following"


def test_a_pi_that_is_killed_and_comes_back_is_heard_again(pushed: Farm) -> None:
    pushed.pi.kill9()
    eventually(lambda: pushed.status()["push"] is False, 15)
    pushed.pi.start()
    eventually(lambda: pushed.status()["push"], 15)
    pushed.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('again', 1)")
    pushed.assert_identical(5)
    assert pushed.server.log.count("pushes its changes over a socket") == 2
    assert pushed.server.log.count("does not push its changes") == 1


def test_a_key_that_is_revoked_is_no_secret_in_the_log(pushed: Farm) -> None:
    assert pushed.pi.command("key", "revoke", "office").returncode == 0
    pushed.pi.restart()
    eventually(lambda: "refuses it" in pushed.server.log, 20)
    assert pushed.api_key not in pushed.server.log and pushed.api_key not in pushed.pi.log


def test_a_server_stops_within_seconds_with_its_socket_open(pushed: Farm) -> None:
    pushed.server.stop()
    assert "did not stop" not in pushed.server.log
