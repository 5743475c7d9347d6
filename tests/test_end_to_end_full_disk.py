"""The disk of one side is full: the other goes on, the full one says so, and all is well when there is room again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from farm_processes import Farm, PageWatch, Role, eventually
from shipping import ship_to
from small_disk import MIB, Disk, small_disk

ROOM = 96 * MIB  # bytes of the disk: more than what /readyz of the Pi wants to be free
MANY = 500  # payloads, after which a full disk must have refused one: the -wal has room of its own
PATIENCE = 20.0  # s


@pytest.fixture
def pi_disk(farm: Farm) -> Iterator[Disk]:
    """The disk of the Pi's data, none of which runs any more in the end."""
    with small_disk(farm.pi.data, ROOM) as disk:
        yield disk
        farm.close()


@pytest.fixture
def server_disk(farm: Farm) -> Iterator[Disk]:
    """The same for the server."""
    with small_disk(farm.server.data, ROOM) as disk:
        yield disk
        farm.close()


def readiness(role: Role) -> tuple[int, str]:
    """Status and text of /readyz."""
    answer = requests.get(f"{role.url}/readyz", timeout=10, verify=role.data / "pi-cert.pem")
    return answer.status_code, answer.text


def said(role: Role, words: str) -> int:
    """How many lines of what it printed have these words."""
    return sum(words in line for line in role.log.splitlines())


def send_until_refused(farm: Farm, name: str) -> tuple[list[str], requests.Response]:
    """The payloads that were answered 201, and the first answer that was another one."""
    taken = []
    for number in range(MANY):
        payload = f"hxb:{name}:LF{name}{number}:UHF{name}{number}"
        answer = farm.post(payload)
        if answer.status_code != 201:
            return taken, answer
        taken.append(payload)
    raise AssertionError(f"a full disk has taken {MANY} payloads")


def test_a_full_pi_refuses_says_so_once_serves_its_replica_and_loses_nothing_that_it_took(farm: Farm, pi_disk: Disk) -> None:
    farm.fill(50)
    farm.start()
    assert readiness(farm.pi)[0] == 200
    farm.fill(50, "BATCH002")  # a copy of before this is still there
    pi_disk.fill()
    taken, refused = send_until_refused(farm, "FULL")
    assert (refused.status_code, refused.headers["Content-Type"]) == (503, "application/problem+json")
    assert "disk is full" in refused.json()["message"] and int(refused.headers["Retry-After"]) > 0
    assert readiness(farm.pi) == (503, readiness(farm.pi)[1]) and "the disk is full" in readiness(farm.pi)[1]
    # Those who read are served, however many wait to write.
    with ThreadPoolExecutor(300) as crowd:
        waiting = [crowd.submit(farm.post, f"hxb:CROWD:LFC{number}:UHFC{number}") for number in range(300)]
        assert farm.sync("/changes", after=0)["changes"]
        farm.assert_identical()
        crowd_taken = [n for n, each in enumerate(waiting) if each.result().status_code == 201]
    assert not crowd_taken
    assert farm.status()["state"] == "following"
    export = farm.ask("GET", "/api/sync/full-export", farm.api_key)
    assert (export.status_code, export.headers["Content-Type"]) == (503, "application/problem+json") and "disk" in export.json()["message"]
    assert said(farm.pi, "the database cannot be written") == 1 and "Traceback" not in farm.pi.log
    pi_disk.clear()
    assert eventually(lambda: farm.post("hxb:AFTER:LFA:UHFA").status_code in (201, 409), PATIENCE)
    assert eventually(lambda: readiness(farm.pi)[0] == 200)
    assert said(farm.pi, "the database can be written again") == 1
    stored = farm.pi.sql("SELECT raw_payload, count(*) FROM lora_payload_buffer GROUP BY 1").splitlines()
    assert {f"{payload}|1" for payload in taken} <= set(stored) and len(stored) == len({line.split("|")[0] for line in stored})
    farm.assert_identical()


def test_a_shipper_on_a_full_disk_stands_still_and_goes_on_by_itself(farm: Farm, pi_disk: Disk, tmp_path: Path) -> None:
    ship = ship_to(farm, tmp_path / "bucket")
    farm.pi.start()
    ship.start()
    try:
        pi_disk.fill(leave=800 * 1024)
        farm.pi.sql(
            "INSERT INTO pens(pen_number, capacity, description) VALUES('BIG', 1, randomblob(250000))"
        )  # twice in the -wal, and once more
        eventually(lambda: "disk of the database is full" in (farm.pi.data / "farm.db-ship/status.json").read_text(), PATIENCE)
        assert said(ship, "shipping stands still") == 1
        pi_disk.fill()
        send_until_refused(farm, "SHIP")
        pi_disk.clear()
        eventually(lambda: farm.post("hxb:AFTER:LFA:UHFA").status_code in (201, 409), PATIENCE)
        ship.caught_up()
        assert said(ship, "shipping stands still") == said(ship, "shipping goes on") == 1 and "Traceback" not in ship.log
    finally:
        ship.kill9()


def test_a_full_server_keeps_its_pages_says_so_once_and_catches_up_when_there_is_room(farm: Farm, server_disk: Disk) -> None:
    farm.fill(50)
    farm.start()
    browser = farm.login()
    server_disk.fill()
    with PageWatch(farm, browser, "BATCH001") as watch:
        farm.pi.sql("UPDATE cattle SET notes=hex(randomblob(20000))")  # more than the room that the -wal has of its own
        eventually(lambda: readiness(farm.server)[0] == 503, PATIENCE)
        assert "disk of this server is full" in readiness(farm.server)[1]
        for path in ("/office/", "/office/replication"):
            assert "disk of this server is full" in farm.page(browser, path)
        assert farm.post("hxb:WHILE:LFW:UHFW").status_code == 201  # the Pi does not care
        tries = farm.status()["failed_syncs"]
        eventually(lambda: farm.status()["failed_syncs"] > tries + 3, PATIENCE)  # the service lives
        farm.login()
        good = watch.good
        eventually(lambda: watch.good > good + 5)
        assert said(farm.server, "disk of this server is full") == 1
        server_disk.clear()
        farm.assert_identical(PATIENCE)
    assert not watch.wrong, watch.wrong[:2]
    assert eventually(lambda: readiness(farm.server)[0] == 200)
    assert said(farm.server, "Database sync goes on") == 1 and "Traceback" not in farm.server.log
    assert farm.status()["failed_syncs"] > tries
    assert not list(farm.server.data.glob("*damaged*"))
    assert farm.server.sql("SELECT count(*) FROM changelog") == farm.pi.sql("SELECT count(*) FROM changelog")


def test_a_copy_for_which_there_is_no_room_is_refused_before_it_comes_and_the_old_rows_stay(farm: Farm, server_disk: Disk) -> None:
    farm.pi.sql("CREATE TABLE bulk(data BLOB); INSERT INTO bulk SELECT randomblob(100000) FROM pragma_function_list LIMIT 100")
    farm.fill(50)
    farm.start()
    browser = farm.login()
    server_disk.fill(leave=12 * MIB)  # the copy has 10, and as much again is needed to put it in place
    with PageWatch(farm, browser, "BATCH001") as watch:
        asked = requests.post(f"{farm.server.url}/office/api/resync", timeout=10)
        assert asked.status_code == 202
        reason = eventually(lambda: farm.status()["last_error"], PATIENCE)
        assert "disk of this server is full" in reason and "MiB" in reason
        assert not list(farm.server.data.glob("*.incoming*"))
        assert "disk of this server is full" in farm.page(browser, "/office/replication")
        eventually(lambda: watch.good > 5)
        assert farm.post("hxb:WHILE:LFW:UHFW").status_code == 201
        farm.assert_identical()  # change by change it goes on
        server_disk.clear()
        assert farm.prove_identical()["diverged_after"] == []
    assert not watch.wrong, watch.wrong[:2]


def test_a_first_copy_for_which_there_is_no_room_is_waited_for_and_said(farm: Farm, server_disk: Disk) -> None:
    farm.pi.sql("CREATE TABLE bulk(data BLOB); INSERT INTO bulk SELECT randomblob(100000) FROM pragma_function_list LIMIT 100")
    farm.pi.start()
    server_disk.fill(leave=8 * MIB)
    farm.server.start()
    eventually(
        lambda: "the disk of this server is full" in requests.get(f"{farm.server.url}/office/api/arrival", timeout=10).text, PATIENCE
    )
    tries = farm.status()["failed_syncs"]
    copies = len(list((farm.pi.data / "snapshots").glob("*")))
    eventually(lambda: farm.status()["failed_syncs"] > tries + 2, PATIENCE)
    assert said(farm.server, "disk of this server is full") == 1 and len(list((farm.pi.data / "snapshots").glob("*"))) == copies <= 1
    server_disk.clear()
    farm.assert_identical(PATIENCE)
