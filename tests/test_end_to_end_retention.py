"""A Pi that trims its log while it serves: who follows notices nothing and keeps the history; who was away too long takes a snapshot."""

from __future__ import annotations

import json
import sys

from farm_processes import Farm, eventually

# The Pi looks every hour, a minute after its start; here it does so at once and all the time. Nothing else is different.
OFTEN = [
    sys.executable,
    "-c",
    """import runpy, sys
from pi import retention
retention.FIRST, retention.EVERY = 0.2, 0.3
sys.argv = ["pi", "serve"]
runpy.run_module("pi", run_name="__main__", alter_sys=True)""",
]
MIB = 2**20


def oldest(farm: Farm) -> int:
    return int(farm.pi.sql("SELECT min(seq) FROM changelog"))


def reached(farm: Farm) -> int:
    return int(farm.server.sql("SELECT seq FROM changelog_position"))


def start(farm: Farm, **settings: object) -> None:
    farm.pi.settings |= settings
    farm.pi.start(OFTEN)
    farm.server.start()
    farm.assert_identical()


def test_a_replica_that_was_away_too_long_is_told_so_and_takes_a_snapshot(farm: Farm) -> None:
    start(farm, CHANGELOG_MAX_BYTES=MIB)
    farm.server.stop()
    seq = reached(farm)
    farm.fill(8_000)
    eventually(lambda: oldest(farm) > seq + 1, 20)
    eventually(lambda: "passed_over" in farm.pi.log)
    farm.server.start()
    farm.assert_identical()
    assert "are gone" in farm.server.log and "410" in farm.server.log
    assert farm.server.log.count("Starting full database sync") == 2
    [known] = json.loads(farm.pi.command("replica", "list", "--json").stdout)
    assert (known["key"], known["behind"]) == ("office", 0) and known["id"] in farm.pi.log
    farm.pi.sql("UPDATE cattle SET weight=weight+1 WHERE id<5")
    farm.assert_identical()
    assert farm.server.log.count("Starting full database sync") == 2, "from here on it follows"


def test_a_replica_that_follows_keeps_what_the_pi_trims(farm: Farm) -> None:
    start(farm, CHANGELOG_KEEP_DAYS=30)
    farm.fill(3_000)
    farm.assert_identical()
    head = int(farm.pi.sql("SELECT max(seq) FROM changelog"))
    farm.pi.sql("UPDATE changelog SET at='2020-01-01T00:00:00.000Z'")
    eventually(lambda: oldest(farm) > 2_500, 20)
    eventually(lambda: oldest(farm) >= head - 2, 20)
    farm.pi.sql("UPDATE cattle SET weight=2")
    farm.assert_identical()
    assert int(farm.server.sql("SELECT min(seq) FROM changelog")) == 1, "its own log goes back to the start"
    assert farm.server.log.count("Starting full database sync") == 1
    eventually(lambda: "why=age" in farm.pi.log)


def test_a_pi_killed_again_and_again_while_it_trims_loses_no_position(farm: Farm) -> None:
    start(farm, CHANGELOG_MAX_BYTES=MIB)
    for round_ in range(3):
        before = oldest(farm)
        farm.fill(8_000, f"ROUND{round_}")
        eventually(lambda before=before: oldest(farm) > before, 20)
        farm.pi.kill9()
        assert farm.pi.sql("SELECT max(seq)-min(seq)+1=count(*) FROM changelog") == "1"
        assert farm.pi.sql("SELECT seq=(SELECT min(seq) FROM changelog)-1 FROM changelog_meta WHERE name='trimmed'") == "1"
        farm.pi.start(OFTEN)
    farm.assert_identical(20)
    farm.pi.sql("UPDATE cattle SET weight=3 WHERE id%100=0")
    farm.assert_identical()


def test_the_replica_trims_its_own_log_by_age_and_follows_on(farm: Farm) -> None:
    farm.fill(50)
    farm.pi.sql("UPDATE changelog SET at='2020-01-01T00:00:00.000Z'")
    farm.server.settings["AUDIT_KEEP_DAYS"] = 7
    farm.start()
    eventually(lambda: farm.server.sql("SELECT count(*) FROM changelog") == "1")  # the head stays: it is the position
    assert "The replica's own log was trimmed" in farm.server.log
    farm.pi.sql("UPDATE cattle SET weight=2")
    farm.assert_identical()
    assert farm.server.sql("SELECT count(*), count(DISTINCT old) FROM changelog_audit WHERE col='weight' AND op='U'") == "50|1"
    assert int(farm.pi.sql("SELECT count(*) FROM changelog")) > 100, "the Pi keeps its own"
    verified = farm.server.command("verify", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
