"""`python -m server verify`: a Pi and a server that run, a replica that somebody changed, and what is said about it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests
from farm_processes import Farm, eventually, shell
from test_end_to_end_resync import SERVER, stopped_unless

CORRUPTED = "UPDATE cattle SET weight=weight+0.5 WHERE cattle_id='BATCH001-8'"


@pytest.fixture(scope="module")
def filled_farm(running_farm: Farm) -> Farm:
    """It has some rows to compare, of every kind."""
    running_farm.fill(2_000)
    running_farm.pi.sql("UPDATE cattle SET notes=CAST(x'ff00' AS TEXT), health_status=x'00ff', weight=9e999 WHERE id%7=0")
    running_farm.assert_identical()
    return running_farm


def verify(farm: Farm, *options: str, code: int) -> dict[str, Any]:
    """The JSON of the command, which must end with this exit code."""
    done = farm.server.command("verify", "--json", *options)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


@SERVER
def test_identical_sides_are_said_to_be_so(filled_farm: Farm, running: bool) -> None:
    farm = filled_farm
    with stopped_unless(farm, running):
        found = verify(farm, code=0)
        assert (
            found["identical"]
            and not found["differences"]
            and found["position"].split("/")[1] == farm.pi.sql("SELECT max(seq) FROM changelog")
        )
        done = farm.server.command("verify")
        assert done.returncode == 0 and "both sides       identical" in done.stdout
        assert re.search(r"bytes moved +\d+\nseconds +\d", done.stdout)
        assert found["moved"] < 10_000


@SERVER
def test_a_changed_cell_is_named_and_with_repair_that_row_alone_is_mended(filled_farm: Farm, running: bool) -> None:
    farm = filled_farm
    farm.server.damage(CORRUPTED)
    with stopped_unless(farm, running):
        inode = farm.server.database.stat().st_ino
        for _ in range(2):
            found = verify(farm, code=3)
            [named] = found["differences"]
            assert (named["table"], named["key"], named["columns"]) == ("cattle", 8, {"weight": [1.5, 1.0]})
            assert not found["mended"]
        done = farm.server.command("verify", "--repair")
        assert (
            done.returncode == 3 and "cattle 8  weight: 1.5 here | 1.0 on the Pi" in done.stdout and "repaired         1 row" in done.stdout
        )
        assert int(re.search(r"bytes moved +(\d+)", done.stdout)[1]) < 20_000  # type: ignore[index]
        assert farm.difference() == "" and farm.server.database.stat().st_ino == inode
        assert verify(farm, code=0)["identical"]


def test_what_was_found_is_in_status_history_and_log_and_survives_a_restart(filled_farm: Farm) -> None:
    farm = filled_farm
    farm.server.damage(CORRUPTED)
    verify(farm, "--repair", code=3)
    status = farm.status()
    assert "differed in cattle (1); 1 row repaired" in status["last_verify"] and status["last_verify_ok"] is False
    assert "Differs from the Pi: cattle 8: weight 1.5 here, 1.0 on the primary" in farm.server.log
    assert "cattle 8" in farm.page(farm.login(), "/office/replication")
    farm.server.restart()
    assert farm.status()["last_verify"] == status["last_verify"] and farm.status()["last_verify_at"] == status["last_verify_at"]
    kinds = "SELECT kind||' '||outcome FROM sync_history WHERE kind IN ('verify','repair') ORDER BY id DESC LIMIT 1"
    assert farm.server.database.exists() and shell_of_store(farm, kinds) == "repair ok"
    verify(farm, code=0)
    assert farm.status()["last_verify"].startswith("identical") and farm.status()["last_verify_ok"] is True


def shell_of_store(farm: Farm, sql: str) -> str:
    return shell(farm.server.data / "server.db", sql)


def test_what_rows_cannot_mend_a_snapshot_does(filled_farm: Farm) -> None:
    farm = filled_farm
    with stopped_unless(farm, False):
        farm.server.sql("CREATE TABLE somebodys(x)")
        found = verify(farm, code=3)
        assert "schema" in found["reason"] and not found["snapshot"]
        found = verify(farm, "--repair", code=3)
        assert found["snapshot"] and found["mended"]
        assert farm.difference() == ""


def test_rows_written_meanwhile_are_no_difference(filled_farm: Farm) -> None:
    farm = filled_farm
    for number in range(5):
        assert farm.post(f"hxb:VERIFY{number}:VLF{number}:VUHF{number}").status_code == 201
        farm.pi.sql("UPDATE cattle SET weight=weight+1 WHERE id%3=0")
        assert verify(farm, "--repair", code=0)["identical"]


def test_a_new_epoch_is_no_difference(filled_farm: Farm) -> None:
    farm = filled_farm
    epoch = "SELECT value FROM changelog_meta WHERE name='epoch'"
    with stopped_unless(farm, False):
        before = farm.pi.sql(epoch)
        trigger = "CREATE TRIGGER unseen AFTER INSERT ON pens BEGIN SELECT 1; END"
        farm.pi.sql(f"BEGIN; {trigger}; INSERT INTO pens(pen_number, capacity) VALUES('E1', 1); COMMIT")  # the Pi sees both, or none
        assert verify(farm, "--repair", code=0)["identical"]
        assert farm.pi.sql(epoch) != before
        farm.pi.sql("DROP TRIGGER unseen")
    farm.assert_identical()


def test_who_may_ask_for_it(filled_farm: Farm) -> None:
    farm = filled_farm
    address = f"{farm.server.url}/office/api/verify"
    assert requests.post(address, headers={"X-Forwarded-For": "10.0.0.1"}, timeout=10).status_code == 401
    assert requests.post(address, headers={"Origin": "http://elsewhere"}, timeout=10).status_code == 403
    assert requests.post(address, timeout=30).json()["data"]["identical"]
    assert requests.get(address, timeout=10).status_code == 405


@pytest.mark.parametrize("path", ["/digest", "/compare"])
def test_the_pi_answers_a_replica_only_and_refuses_nonsense(filled_farm: Farm, path: str) -> None:
    farm = filled_farm
    assert farm.ask("POST", f"/api/sync{path}", json={}).status_code == 401
    assert farm.ask("POST", f"/api/sync{path}", farm.api_key, data="{", headers={"Content-Type": "application/json"}).status_code == 400
    assert farm.ask("POST", f"/api/sync{path}", farm.api_key, data="x" * (5 * 2**20)).status_code in (400, 413)
    for asked in ({}, {"ranges": [["cattle"]]}, {"ranges": "x"}, {"schema": "x", "ranges": [], "parts": "x", "log_from": None}):
        answer = farm.ask("POST", f"/api/sync{path}", farm.api_key, json=asked)
        assert answer.status_code in (200, 400), answer.text
        assert answer.status_code == 400 or answer.json()["ranges"] is None
    assert farm.ask("GET", "/api/sync/digest?ranges=0", farm.api_key).status_code == 400
    assert farm.sync("/digest")["tables"]["cattle"].keys() == {"rows", "digest"}
    assert len(farm.sync("/digest", ranges=8)["tables"]["cattle"]) == 8


def test_with_the_pi_away_one_line_says_so(farm: Farm) -> None:
    farm.fill(5)
    farm.start()
    farm.pi.stop()
    done = farm.server.command("verify")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and not done.stdout, done.stdout + done.stderr


def test_a_night_that_was_missed_is_made_up_at_the_next_start_with_repair(farm: Farm) -> None:
    farm.fill(5)
    farm.start()
    farm.server.stop()
    farm.server.damage("UPDATE cattle SET weight=7 WHERE id=3")
    shell_of_store(farm, "UPDATE settings SET value='2020-01-01T00:00:00' WHERE name='nightly_verify'")
    farm.server.start()
    eventually(lambda: "1 row repaired" in (farm.status()["last_verify"] or ""))
    farm.assert_identical()
    assert shell_of_store(farm, "SELECT value>'2020-01-02' FROM settings WHERE name='nightly_verify'") == "1"
