"""The one road out of doubt, between two real machines: what cannot be replayed, what is cut, and who answers."""

from __future__ import annotations

from farm_processes import Farm, PageWatch, eventually

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
        lag = eventually(lambda: farm.status()["lag_changes"])
        assert lag >= 6, "the page knows how far it is behind meanwhile"
        farm.assert_identical(2 * PAUSE)
        assert farm.status()["state"] == "snapshots"
    assert not watch.wrong and not watch.refused and watch.good > 10, watch.wrong[:1]
    assert farm.server.sql("SELECT min(weight), count(*) FROM cattle") == "77.0|5"
    assert farm.server.log.count("Starting full database sync") == copies + REPEATS + 1
    farm.server.restart()
    farm.pi.sql("UPDATE cattle SET weight=78")
    farm.assert_identical()
    assert farm.status()["state"] == "following", "after a restart replay has another chance"
