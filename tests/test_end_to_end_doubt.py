"""The one road out of doubt, between two real machines: what cannot be replayed, what is cut, and who answers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from farm_processes import Farm, PageWatch, eventually, shell

from server.road import PAUSE, REPEATS

# The outer UPDATE goes on with the row whose key has changed, and OLD still shows the former key to every trigger.
UNREPEATABLE = """
CREATE TABLE tricky(k TEXT NOT NULL PRIMARY KEY, v INTEGER);
CREATE TRIGGER tricky_key BEFORE UPDATE OF v ON tricky BEGIN UPDATE tricky SET k=k||'!' WHERE k=OLD.k; END;
"""


def test_what_cannot_be_replayed_again_and_again_is_followed_by_whole_copies(farm: Farm) -> None:
    farm.start()
    farm.fill(5)
    farm.pi.sql(UNREPEATABLE)
    farm.pi.sql("INSERT INTO tricky VALUES" + ",".join(f"('k{i}', 0)" for i in range(1, 20)))
    farm.assert_identical()
    browser = farm.login()
    copies = farm.server.log.count("Starting full database sync")
    with PageWatch(farm, browser, "BATCH001") as watch:
        for number in range(1, REPEATS + 1):
            farm.pi.sql(f"UPDATE tricky SET v={number} WHERE k='k{number}'")
            eventually(lambda wanted=copies + number: farm.server.log.count("Full sync completed") == wanted)
            farm.assert_identical()
        status = eventually(lambda: (found := farm.status())["state"] == "snapshots" and found)
        assert "seq" in status["last_error"], "the cause is named"
        assert "whole copies" in farm.page(browser, "/office/replication")
        farm.pi.sql("UPDATE tricky SET v=9 WHERE k='k9'; UPDATE cattle SET weight=77")
        eventually(lambda: (farm.status()["lag_changes"] or 0) >= 6)  # the page knows how far it is behind meanwhile
        farm.assert_identical(2 * PAUSE)
        assert farm.status()["state"] == "snapshots"
    assert not watch.wrong and not watch.refused and watch.good > 10, watch.wrong[:1]
    assert farm.server.sql("SELECT min(weight), count(*) FROM cattle") == "77.0|5"
    assert farm.server.log.count("Starting full database sync") == copies + REPEATS + 1
    farm.server.restart()
    farm.pi.sql("UPDATE cattle SET weight=78")
    farm.assert_identical()
    assert farm.status()["state"] == "following", "after a restart replay has another chance"


def remade(farm: Farm, pragma: str) -> Path:
    """The Pi's database in a new file of another make, by what an operator has: the shell's .dump."""
    made = farm.pi.database.with_name("remade.db")
    text = subprocess.run(["sqlite3", str(farm.pi.database), ".dump"], capture_output=True, check=True).stdout
    subprocess.run(["sqlite3", "-bail", "-cmd", f"PRAGMA {pragma}", str(made)], input=text, capture_output=True, check=True)
    return made


@pytest.mark.parametrize("pragma", ["page_size=512", "page_size=65536", "encoding='UTF-16le'", "encoding='UTF-16be'"])
def test_a_farm_in_a_file_of_another_make_is_followed_and_no_reader_notices(farm: Farm, pragma: str) -> None:
    farm.start()
    farm.fill(200)
    farm.pi.sql("INSERT INTO pens(pen_number, capacity, description) VALUES('P1', 7, 'Grüße, 牧场')")
    farm.assert_identical()
    browser = farm.login()
    with PageWatch(farm, browser, "BATCH001") as watch:
        remade(farm, pragma).replace(farm.pi.database)  # the -wal of the former file stands there still
        eventually(lambda: "the database can be written again" in farm.pi.log)
        farm.pi.sql("UPDATE cattle SET weight=2")
        eventually(lambda: farm.server.sql("SELECT DISTINCT weight FROM cattle") == "2.0")
        eventually(lambda: farm.server.log.count("Full sync completed") == 2)  # a dump need not have all that the file had: a new epoch
        farm.pi.sql("BEGIN; CREATE TABLE brief(id); DROP TABLE brief; COMMIT")  # what nobody saw: another one
        eventually(lambda: farm.server.log.count("Full sync completed") == 3)
        farm.assert_identical()
        farm.pi.sql("UPDATE pens SET capacity=8")
        farm.assert_identical()
        good = watch.good
        eventually(lambda: watch.good > good + 3)
    assert not watch.wrong and not watch.refused, watch.wrong[:1]
    made = f"PRAGMA {pragma.split('=', maxsplit=1)[0]}"
    assert shell(farm.server.database, made) == shell(farm.pi.database, made) == pragma.partition("=")[2].strip("'")
    assert shell(farm.server.database, "SELECT capacity, description FROM pens; PRAGMA integrity_check") == "8|Grüße, 牧场\nok"
    lost = farm.server.sql("SELECT count(*) FROM changelog_audit WHERE tbl='cattle' AND col='weight' AND op='I'")
    assert lost == "200", "the audit came along"


def test_a_vacuum_to_another_page_size_while_the_pi_is_stopped(farm: Farm) -> None:
    farm.start()
    farm.fill(200)
    farm.assert_identical()
    browser = farm.login()
    with PageWatch(farm, browser, "BATCH001") as watch:
        for size in (65536, 512):
            farm.pi.stop()
            farm.pi.sql(f"PRAGMA journal_mode=DELETE; PRAGMA page_size={size}; VACUUM; UPDATE cattle SET weight={size}")
            farm.pi.start()
            farm.assert_identical()
            assert farm.server.sql("SELECT DISTINCT weight FROM cattle") == f"{size}.0"
    assert not watch.wrong and not watch.refused, watch.wrong[:1]
