"""`python -m server resync`: a new copy on demand, and the proof that both sides are identical."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from farm_processes import Farm, PageWatch, eventually

WAYS = pytest.mark.parametrize("way", [(), ("--json-export",)], ids=["file", "json export"])
SERVER = pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
CORRUPTED = "UPDATE cattle SET weight=weight+0.5 WHERE cattle_id='BATCH001-8'"


TABLES = ("batches", "cattle", "lora_payload_buffer", "pair_history", "pens", "users", "weight_records")


@contextmanager
def stopped_unless(farm: Farm, running: bool) -> Iterator[None]:
    """The server is away inside the block, unless it is to run on."""
    if not running:
        farm.server.stop()
    try:
        yield
    finally:
        if not running:
            farm.server.start()


@pytest.fixture(scope="module")
def filled_farm(running_farm: Farm) -> Farm:
    """It has some rows to compare, of every kind."""
    running_farm.fill(100)
    running_farm.pi.sql("UPDATE cattle SET notes=CAST(x'ff00' AS TEXT), health_status=x'00ff', weight=9e999 WHERE id%7=0")
    running_farm.assert_identical()
    return running_farm


@SERVER
@WAYS
def test_identical_sides_are_proved_and_the_exit_code_is_0(filled_farm: Farm, way: tuple[str, ...], running: bool) -> None:
    farm = filled_farm
    with stopped_unless(farm, running):
        result = farm.server.command("resync", *way)
        assert result.returncode == 0, result.stdout + result.stderr
        reached = farm.server.sql("SELECT epoch||'/'||seq||'/'||nonce FROM changelog_position")
        rows = sum(int(farm.pi.sql(f"SELECT count(*) FROM {table}")) for table in TABLES)
        for said in (f"position before  {reached}", f"position after   {reached}", f"rows             {rows}", "identical"):
            assert said in result.stdout
        facts = json.loads(farm.server.command("resync", *way, "--json").stdout)
        assert facts["before"] == facts["after"] == reached and facts["rows"] == rows
        assert facts["diverged_before"] == facts["diverged_after"] == []
    farm.assert_identical()


@SERVER
@WAYS
def test_one_corrupted_cell_is_found_named_and_mended_and_the_exit_code_is_3(
    filled_farm: Farm, way: tuple[str, ...], running: bool
) -> None:
    farm = filled_farm
    farm.server.damage(CORRUPTED)
    assert "cattle" in farm.difference()
    with stopped_unless(farm, running):
        result = farm.server.command("resync", *way)
        assert result.returncode == 3, result.stdout + result.stderr
        assert "DIFFERED from the Pi in cattle" in result.stdout and "identical" in result.stdout
        assert farm.difference() == ""
        assert farm.server.command("resync", *way).returncode == 0
    farm.pi.sql("UPDATE cattle SET weight=weight+1")
    farm.assert_identical()


@SERVER
@WAYS
def test_a_resync_of_a_replica_that_lags_behind_reaches_the_head(filled_farm: Farm, way: tuple[str, ...], running: bool) -> None:
    farm = filled_farm
    with stopped_unless(farm, running):
        farm.pi.sql("UPDATE cattle SET weight=weight+1")
        result = farm.server.command("resync", *way, "--json")
        assert result.returncode == 0, result.stdout + result.stderr
        assert json.loads(result.stdout)["after"].split("/")[1] == farm.pi.sql("SELECT max(seq) FROM changelog")
        assert farm.difference() == ""


def test_rows_written_during_a_resync_are_not_lost(filled_farm: Farm) -> None:
    farm = filled_farm
    with PageWatch(farm, farm.login(), "BATCH001") as watch:
        for number in range(3):
            assert farm.server.command("resync").returncode == 0
            assert farm.post(f"hxb:DURING:LF{number}:UHF{number}").status_code == 201
    assert watch.good and not watch.wrong, watch.wrong[:1]
    farm.assert_identical()
    assert farm.server.sql("SELECT count(*) FROM cattle WHERE cattle_id LIKE 'DURING-%'") == "3"


def test_the_proof_is_shown_in_the_status(filled_farm: Farm) -> None:
    assert filled_farm.server.command("resync").returncode == 0
    assert "identical" in filled_farm.status()["last_verify"]


@SERVER
@WAYS
def test_with_the_pi_down_one_line_says_so_and_the_replica_still_serves(farm: Farm, way: tuple[str, ...], running: bool) -> None:
    farm.fill(5)
    farm.start()
    browser = farm.login()
    farm.pi.stop()
    with stopped_unless(farm, running):
        result = farm.server.command("resync", *way)
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1 and not result.stdout, result.stdout + result.stderr
        assert f"localhost:{farm.pi.settings['PI_PORT']}" in result.stderr and "refused" in result.stderr
    assert "BATCH001" in farm.page(browser)
    farm.pi.start()
    eventually(lambda: farm.status()["state"] == "following")
    farm.assert_identical()
