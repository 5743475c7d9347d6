"""A server that cannot reach the Pi follows the bucket: real processes, TLS, a folder or an S3 server, kills at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from farm_processes import Farm, eventually
from shipping import Shipper, ship_to


@pytest.fixture
def shipper(farm: Farm, tmp_path: Path) -> Iterator[Shipper]:
    """The Pi serves, and ships to a folder; the server is not started."""
    made = ship_to(farm, tmp_path / "bucket")
    farm.pi.start()
    try:
        made.start()
        yield made
    finally:
        made.kill9()


def test_a_first_start_without_the_pi_takes_the_bucket_and_says_so(farm: Farm, shipper: Shipper) -> None:
    farm.fill(3)
    head = shipper.caught_up()
    farm.pi.stop()
    farm.server.start()
    eventually(lambda: farm.status()["seq"] == head.seq)
    status = eventually(lambda: (found := farm.status())["source"] == "bucket" and found)
    assert (status["state"], status["epoch"], status["lag_changes"]) == ("following", head.epoch, 0) and status["bucket_at"]
    page = farm.page(farm.login())
    assert "BATCH001" in page and "Following the bucket" in page and "The Pi cannot be reached" in page
    farm.assert_identical()
    farm.pi.start()
    eventually(lambda: farm.status()["source"] == "pi")
    farm.fill(2, "BATCH002")
    farm.assert_identical()
    assert farm.server.log.count("Full sync completed") == 1 and "Starting full database sync from the bucket..." in farm.server.log
