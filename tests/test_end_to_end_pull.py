"""python -m server pull: a replica of any primary over https, without the office."""

from __future__ import annotations

import subprocess
from pathlib import Path

from farm_processes import Farm, shell

from changelog.connection import connect
from changelog.verify.digest import digest_tables


def assert_alike(farm: Farm, target: Path) -> None:
    ours, theirs = connect(target, readonly=True), connect(farm.pi.data / "farm.db", readonly=True)
    try:
        assert digest_tables(ours) == digest_tables(theirs)
    finally:
        ours.close()
        theirs.close()


def pull(farm: Farm, *words: str) -> subprocess.CompletedProcess[str]:
    return farm.server.command("pull", *words)


def test_a_replica_is_made_advanced_and_kept_from_strangers_over_https(farm: Farm, tmp_path: Path) -> None:
    farm.fill(20)
    farm.pi.start()
    target, url = tmp_path / "copy.db", farm.pi.url
    made = pull(farm, url, str(target))
    assert made.returncode == 0 and "took a snapshot" in made.stdout, made.stderr
    assert_alike(farm, target)

    farm.pi.sql("UPDATE cattle SET weight=7; ALTER TABLE pens ADD COLUMN yard; INSERT INTO pens(pen_number, capacity) VALUES('P1', 1)")
    advanced = pull(farm, url, str(target))
    assert advanced.returncode == 0 and "replayed" in advanced.stdout, advanced.stderr
    assert_alike(farm, target)
    assert "nothing new" in pull(farm, url, str(target)).stdout

    stranger = tmp_path / "mine.db"
    shell(stranger, "CREATE TABLE mine(a); INSERT INTO mine VALUES(1)")
    refused = pull(farm, url, str(stranger))
    assert refused.returncode == 1 and "--yes" in refused.stderr
    assert shell(stranger, "SELECT a FROM mine") == "1"


def test_an_address_that_is_none_and_a_pi_that_is_away_are_one_line(farm: Farm, tmp_path: Path) -> None:
    wrong = {"ftp://pi": "address", "https://pi:port": "HOST:PORT", "https://nobody.invalid": "that name", farm.pi.url: "does Drover run"}
    for url, cause in wrong.items():
        done = pull(farm, url, str(tmp_path / "copy.db"))
        assert done.returncode == 1 and cause in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "copy.db").exists()
