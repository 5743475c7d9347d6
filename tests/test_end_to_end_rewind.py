"""A Pi that goes back in time, over its real API: found out, mirrored, and given back what it lost by the commands that people type."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from farm_processes import Farm, eventually, shell

from changelog.connection import connect
from changelog.verify.digest import digest_tables

LOST = 5
WAL_HEADER, FRAME = 32, 24 + 4096


def pull(farm: Farm) -> subprocess.CompletedProcess[str]:
    """A replica of its own, as `python -m server pull` makes it: over TLS, by the wire."""
    done = farm.server.command("pull", farm.pi.url, str(target_of(farm)))
    assert done.returncode == 0, done.stderr
    return done


def target_of(farm: Farm) -> Path:
    return farm.server.data / "copy.db"


def adopt(farm: Farm, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return farm.pi.command("adopt", str(file), *options)


def assert_alike(farm: Farm) -> None:
    ours, theirs = connect(target_of(farm), readonly=True), connect(farm.pi.database, readonly=True)
    try:
        assert digest_tables(ours) == digest_tables(theirs)
    finally:
        ours.close()
        theirs.close()


def lose(farm: Farm, how: str, chance: random.Random) -> None:
    """Five pens, each in a commit of its own, that the replica has and the Pi then has not."""
    farm.pi.start()
    farm.fill(20)
    older = farm.pi.database.with_name("older.db")
    farm.pi.stop()
    shell(farm.pi.database, "PRAGMA wal_checkpoint(TRUNCATE)")
    older.write_bytes(farm.pi.database.read_bytes())
    farm.pi.start()
    for number in range(LOST):
        farm.pi.sql(f"INSERT INTO pens(pen_number, capacity) VALUES('L{number}', 1)")
    pull(farm)
    wal = Path(f"{farm.pi.database}-wal")
    farm.pi.kill9()
    if how == "a power cut":
        frames = (wal.stat().st_size - WAL_HEADER) // FRAME
        with wal.open("r+b") as file:  # nobody has it open
            file.truncate(WAL_HEADER + chance.randrange(frames * 3 // 4) * FRAME)  # so two are lost, or more
    else:
        wal.unlink(missing_ok=True)
        older.replace(farm.pi.database)
    Path(f"{farm.pi.database}-shm").unlink(missing_ok=True)


@pytest.mark.parametrize("how", ["a power cut", "a restored copy"])
@pytest.mark.parametrize("serving", [True, False])
def test_what_a_pi_lost_is_kept_listed_and_adopted_back(farm: Farm, how: str, serving: bool) -> None:
    lose(farm, how, random.Random(f"{how} {serving}"))
    held = int(farm.pi.sql("SELECT count(*) FROM pens"))
    assert held < LOST
    farm.pi.start()
    farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('N', 2), ('L4', 77)")  # under the same seqs; L4 is another one now

    pulled = pull(farm)
    assert "took a snapshot" in pulled.stdout and "that the primary has lost are kept in" in pulled.stdout
    assert_alike(farm)
    [facts] = json.loads(farm.server.command("rescued", "--json").stdout)
    assert facts["tables"] == {"pens": LOST - held} and facts["adopted"] is None
    name = Path(facts["path"]).name
    assert name in farm.server.command("rescued").stdout and "not adopted" in farm.server.command("rescued").stdout
    shown = farm.server.command("rescued", name)
    assert shown.returncode == 0 and "unknown writer  I pens" in shown.stdout and 'pen_number="L4"' in shown.stdout

    carried = farm.pi.data / "carried.db"
    carried.write_bytes(Path(facts["path"]).read_bytes())
    if not serving:
        farm.pi.stop()
    tried = adopt(farm, carried, "--dry-run")
    assert tried.returncode == 3 and farm.pi.sql("SELECT count(*) FROM pens") == str(held + 2)
    done = adopt(farm, carried, "--json")
    assert done.returncode == 3, done.stderr
    said = json.loads(done.stdout)
    assert Counter(said["tables"]["pens"]) == Counter({"inserted": LOST - held - 1, "left out": 1})
    assert "pen_number is taken" in said["conflicts"][0]["reason"]
    assert farm.pi.sql("SELECT count(*), sum(capacity) FROM pens WHERE pen_number LIKE 'L%'") == f"{LOST}|{LOST - 1 + 77}"
    assert farm.pi.sql("SELECT DISTINCT actor FROM changelog_audit WHERE actor LIKE 'adopted%'") == "adopted: unknown writer"
    again = adopt(farm, carried)
    assert again.returncode == 3 and "nothing was written" in again.stdout
    if not serving:
        farm.pi.start()
    pull(farm)
    assert_alike(farm)
    assert int(shell(target_of(farm), "SELECT min(seq) FROM changelog")) == 1


def test_all_adopted_is_exit_code_0_and_a_wrong_file_is_1(farm: Farm, tmp_path: Path) -> None:
    lose(farm, "a restored copy", random.Random(1))
    farm.pi.start()
    pull(farm)
    assert_alike(farm)
    (kept,) = farm.server.data.glob("copy.db.rescued-*.db")
    done = adopt(farm, kept)
    assert done.returncode == 0 and f"pens: {LOST} inserted" in done.stdout, done.stdout + done.stderr
    assert "  adopted " in farm.server.command("rescued").stdout
    wrong = adopt(farm, farm.pi.database)
    assert wrong.returncode == 1 and "no file of rescued changes" in wrong.stderr
    missing = farm.server.command("rescued", "nothing.db")
    assert missing.returncode == 1 and "there is no file" in missing.stderr
    eventually(lambda: farm.pi.sql("SELECT count(*) FROM pens") == str(LOST))
