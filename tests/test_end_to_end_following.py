"""What the earlier system lost in following: deletes, long transactions, clocks that disagree, steady writers, an absent Pi."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from farm_processes import USER, Farm, PageWatch, eventually, free_port

WRITING = 4.0  # s of a steady writer


def test_a_delete_on_the_pi_is_a_delete_in_the_office(running_farm: Farm) -> None:
    farm = running_farm
    farm.fill(3, "GONE")
    farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('GONE', 5)")
    farm.assert_identical()
    farm.pi.sql("DELETE FROM cattle WHERE cattle_id IN ('GONE-1','GONE-3'); DELETE FROM pens WHERE pen_number='GONE'")
    eventually(lambda: farm.server.sql("SELECT cattle_id FROM cattle WHERE cattle_id LIKE 'GONE-%'") == "GONE-2")
    assert farm.server.sql("SELECT count(*) FROM pens WHERE pen_number='GONE'") == "0"
    farm.assert_identical()


@pytest.mark.parametrize("rows", [2_500, 20_000])
def test_one_transaction_of_more_rows_than_any_limit_arrives_whole(running_farm: Farm, rows: int) -> None:
    farm, batch = running_farm, f"MANY{rows}"
    farm.fill(rows, batch)
    farm.assert_identical()
    counted = f"SELECT count(*), min(weight), max(weight) FROM cattle WHERE cattle_id LIKE '{batch}-%'"
    seen = set()
    farm.pi.sql(f"UPDATE cattle SET weight=2 WHERE cattle_id LIKE '{batch}-%'")
    eventually(lambda: seen.add(farm.server.sql(counted)) or f"{rows}|2.0|2.0" in seen)
    assert seen <= {f"{rows}|1.0|1.0", f"{rows}|2.0|2.0"}, "a reader saw a part of the transaction"
    farm.assert_identical()
    farm.pi.sql(f"DELETE FROM cattle WHERE cattle_id LIKE '{batch}-%'")
    farm.assert_identical()


def test_updated_at_decides_nothing(running_farm: Farm) -> None:
    farm = running_farm
    farm.pi.sql("INSERT INTO pens(id, pen_number, capacity) VALUES(900, 'CLOCK', 0)")
    for capacity, stamp in enumerate(("1999-12-31T23:59:59", "2099-01-01T00:00:00", "", "yesterday"), 1):
        farm.pi.sql(f"UPDATE pens SET capacity={capacity}, updated_at='{stamp}' WHERE id=900")
        eventually(lambda row=f"{capacity}|{stamp}": farm.server.sql("SELECT capacity, updated_at FROM pens WHERE id=900") == row)
    farm.assert_identical()
    before = farm.status()
    eventually(lambda: farm.status()["total_syncs"] >= before["total_syncs"] + 2)
    assert farm.status()["total_records_synced"] == before["total_records_synced"], "what was replayed once is not sent again"


# The clock of one process moved by SHIFT seconds, for every library in it; clocks that measure durations stay.
MOVED_CLOCK = """
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t) {
  int r = syscall(SYS_clock_gettime, id, t);
  if (r == 0 && id == CLOCK_REALTIME) t->tv_sec += SHIFT;
  return r;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t) *t = now.tv_sec;
  return now.tv_sec;
}
"""


@pytest.mark.parametrize("shift", [-3600, 3600])
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler for a process with another clock; updated_at is tested without")
def test_a_pi_whose_clock_is_an_hour_off_is_followed_all_the_same(farm: Farm, tmp_path: Path, shift: int) -> None:
    library = tmp_path / "clock.so"
    compiler = ["cc", "-D_GNU_SOURCE", f"-DSHIFT={shift}", "-shared", "-fPIC", "-xc", "-", "-o", str(library)]
    subprocess.run(compiler, input=MOVED_CLOCK, text=True, check=True)
    farm.pi.start(prefix=["env", f"LD_PRELOAD={library}"])
    farm.server.start()
    assert farm.post("hxb:CLOCK:LF1:UHF1").status_code == 201
    farm.assert_identical()
    for stamp in ("received_at FROM lora_payload_buffer", "at FROM changelog ORDER BY seq DESC LIMIT 1"):
        moved = farm.pi.sql(f"SELECT strftime('%s', t)-strftime('%s', 'now') FROM (SELECT {stamp.replace(' FROM', ' AS t FROM')})")
        assert abs(int(moved) - shift) < 60, "the Pi's clock is not the moved one"
    farm.pi.sql("UPDATE cattle SET notes='typed with the right clock'")
    farm.assert_identical()


def test_a_transaction_that_takes_long_is_not_overlooked_by_the_syncs_that_run_meanwhile(running_farm: Farm) -> None:
    farm = running_farm
    farm.fill(1, "SLOW")
    farm.assert_identical()
    operator = subprocess.Popen(["sqlite3", str(farm.pi.database)], stdin=subprocess.PIPE, text=True)
    assert operator.stdin is not None
    operator.stdin.write("BEGIN IMMEDIATE; UPDATE cattle SET notes='slow', updated_at=strftime('%Y-%m-%dT%H:%M:%S','now');\n")
    operator.stdin.flush()
    before = farm.status()["total_syncs"]
    eventually(lambda: farm.status()["total_syncs"] >= before + 2)  # the server asked again and again, and there was nothing to get
    assert farm.server.sql("SELECT count(*) FROM cattle WHERE notes='slow'") == "0"
    operator.stdin.write("COMMIT;\n")
    operator.stdin.close()
    assert operator.wait(10) == 0
    eventually(lambda: farm.server.sql("SELECT count(*) FROM cattle WHERE notes IS NOT 'slow'") == "0")
    farm.assert_identical()


def test_nothing_is_stale_after_a_writer_that_never_paused(running_farm: Farm) -> None:
    farm = running_farm
    farm.fill(900, "STEADY")
    farm.assert_identical()
    first = int(farm.pi.sql("SELECT max(seq) FROM changelog"))
    writer = subprocess.Popen([sys.executable, "-c", STEADY_WRITER, str(farm.pi.database), str(WRITING)], stdin=subprocess.DEVNULL)
    posted = 0
    while writer.poll() is None:  # the radio goes on meanwhile
        assert farm.post(f"hxb:STEADY2:LFS{posted}:UHFS{posted}").status_code == 201
        posted += 1
    assert writer.returncode == 0
    farm.assert_identical()
    assert int(farm.pi.sql("SELECT max(seq) FROM changelog")) - first > 500
    assert farm.server.sql("SELECT count(*) FROM cattle WHERE cattle_id LIKE 'STEADY2-%'") == str(posted)


# A program of somebody else's, with the standard library: one commit for each update.
STEADY_WRITER = """
import itertools, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
end = time.monotonic() + float(sys.argv[2])
for i in itertools.count():
    db.execute("UPDATE cattle SET weight=weight+1 WHERE cattle_id='STEADY-' || (1 + ? % 900)", (i,))
    if i > 1000 and time.monotonic() > end:
        break
"""


def test_every_table_is_replicated_to_the_bit_users_and_histories_and_all_columns(running_farm: Farm) -> None:
    farm = running_farm
    farm.post("hxb:ALL:LFA1:UHFA1")
    farm.post("hxb:ALL:LFA1:UHFA2")  # re-paired: a row of pair_history
    farm.pi.sql(
        """INSERT INTO weight_records(cattle_id, weight, recorded_by) SELECT id, 312.5, 'scale' FROM cattle WHERE lf_tag='LFA1';
        UPDATE cattle SET status='sold', notes='removed', induction_date='2023-05-01T08:00:00' WHERE lf_tag='LFA1';
        INSERT INTO users(username, role) VALUES('helper', 'user')"""
    )
    farm.assert_identical()
    for table in ("batches", "cattle", "weight_records", "pair_history", "lora_payload_buffer", "users"):
        assert farm.server.sql(f"SELECT count(*)>0 FROM {table}") == "1", table
    animal = "SELECT status, notes, induction_date FROM cattle WHERE lf_tag='LFA1'"
    assert farm.server.sql(animal) == "sold|removed|2023-05-01T08:00:00"
    assert farm.server.sql(f"SELECT password_hash LIKE 'scrypt:%' FROM users WHERE username='{USER}'") == "1"
    assert farm.server.sql("SELECT count(*) FROM users WHERE username='admin'") == "0", "the server makes no login of its own"
    here = farm.sync("/digest")
    assert here["tables"].keys() == {"batches", "cattle", "lora_payload_buffer", "pair_history", "pens", "users", "weight_records"}
    proof = farm.server.command("resync", "--json")
    assert proof.returncode == 0, proof.stdout + proof.stderr


def test_an_animal_deleted_and_entered_again_under_its_name_stops_nothing(running_farm: Farm) -> None:
    farm = running_farm
    farm.fill(1, "AGAIN")
    farm.pi.sql(
        """DELETE FROM cattle WHERE cattle_id='AGAIN-1';
        INSERT INTO cattle(id, batch_id, cattle_id) SELECT 77001, id, 'AGAIN-1' FROM batches WHERE batch_number='AGAIN'"""
    )
    farm.assert_identical()
    farm.pi.sql(
        """BEGIN; DELETE FROM cattle WHERE cattle_id='AGAIN-1';
        INSERT INTO cattle(id, batch_id, cattle_id) SELECT 77002, id, 'AGAIN-1' FROM batches WHERE batch_number='AGAIN'; COMMIT;
        INSERT OR REPLACE INTO cattle(id, batch_id, cattle_id) SELECT 77003, id, 'AGAIN-1' FROM batches WHERE batch_number='AGAIN'"""
    )
    farm.assert_identical()
    assert farm.server.sql("SELECT id FROM cattle WHERE cattle_id='AGAIN-1'") == "77003"
    assert farm.status()["last_error"] is None


def test_while_the_pi_is_away_the_pages_go_on_and_the_status_says_so_then_it_catches_up(farm: Farm) -> None:
    farm.server.settings |= {"DB_SYNC_INTERVAL": 2, "STALE_AFTER": 3}
    farm.start()
    farm.fill(5)
    farm.assert_identical()
    browser = farm.login()
    farm.pi.stop()
    with PageWatch(farm, browser, "BATCH001") as watch:
        status = eventually(lambda: (found := farm.status())["state"] == "stale" and found)
        assert f"localhost:{farm.pi.settings['PI_PORT']}" in status["last_error"] and "refused" in status["last_error"]
        assert status["running"] is True and status["failed_syncs"] >= 1
        farm.pi.sql("UPDATE cattle SET weight=9")  # somebody works on the Pi's file meanwhile
        farm.pi.start()
        eventually(lambda: farm.server.sql("SELECT min(weight), max(weight) FROM cattle") == "9.0|9.0")
        status = eventually(lambda: (found := farm.status())["state"] == "following" and found)
    assert status["last_error"] is None and status["lag_changes"] == 0
    assert watch.good > 10 and not watch.wrong and not watch.refused, watch.wrong[:1]
    causes = [line.split(" ", 1)[1] for line in farm.server.log.splitlines() if "Database sync failed" in line]
    assert len(causes) == len(set(causes)) < 3, "each cause is said once, not at each attempt"
    assert farm.server.log.count("Starting full database sync") == 1, "catching up needs no bootstrap"
    farm.assert_identical()


def test_a_server_that_starts_before_its_pi_has_all_data_soon_after_the_pi_is_there(farm: Farm) -> None:
    farm.fill(10)
    farm.server.start()
    status = eventually(lambda: (found := farm.status())["last_error"] and found)
    assert f"localhost:{farm.pi.settings['PI_PORT']}" in status["last_error"] and status["running"] is True
    farm.pi.start()
    farm.assert_identical(5)


def test_no_payload_is_lost_or_stuck_when_the_pi_is_killed_while_its_worker_runs(farm: Farm) -> None:
    farm.start()
    taken: list[str] = []

    def radio(name: str) -> None:
        for number in range(10_000):
            payload = f"hxb:KILL{name}:LF{name}{number}:UHF{name}{number}"
            try:
                if farm.post(payload).status_code == 201:
                    taken.append(payload)
            except OSError:
                return  # the Pi is dead

    for trial in range(3):
        rows = ",".join(f"('hxb:SHELL{trial}:LFX{trial}x{i}:UHFX{trial}x{i}')" for i in range(3_000))
        radios = [threading.Thread(target=radio, args=(f"{trial}{letter}",)) for letter in "ab"]
        for thread in radios:
            thread.start()
        eventually(lambda trial=trial: len(taken) >= 10 * (trial + 1))
        farm.pi.sql(f"INSERT INTO lora_payload_buffer(raw_payload) VALUES{rows}")  # work for the worker
        eventually(lambda trial=trial: farm.pi.sql(f"SELECT max(batch_number)='SHELL{trial}' FROM batches") == "1")
        farm.pi.kill9()
        for thread in radios:
            thread.join()
        farm.pi.start()
    eventually(lambda: farm.pi.sql("SELECT DISTINCT status FROM lora_payload_buffer") == "processed")
    stored = set(farm.pi.sql("SELECT raw_payload FROM lora_payload_buffer").splitlines())
    assert set(taken) <= stored, "what was answered 201 is there"
    animals = "SELECT count(*), count(c.id) FROM lora_payload_buffer p LEFT JOIN cattle c ON c.lf_tag=p.lf_tag AND c.uhf_tag=p.uhf_tag"
    assert farm.pi.sql(animals) == f"{len(stored)}|{len(stored)}", "each has its animal"
    farm.assert_identical()


def test_the_same_payload_from_many_at_once_is_taken_once(running_farm: Farm) -> None:
    farm, answers = running_farm, []

    def radio() -> None:
        answers.append(farm.post("hxb:ONCE:LF1ONCE:UHF1ONCE").status_code)

    radios = [threading.Thread(target=radio) for _ in range(8)]
    for thread in radios:
        thread.start()
    for thread in radios:
        thread.join()
    assert sorted(answers) == [201] + [409] * 7
    farm.assert_identical()
    assert farm.server.sql("SELECT status, times_received FROM lora_payload_buffer WHERE lf_tag='LF1ONCE'") == "processed|8"
    assert farm.server.sql("SELECT count(*) FROM cattle WHERE lf_tag='LF1ONCE'") == "1"


def test_a_restarted_server_never_shows_an_empty_farm(farm: Farm) -> None:
    farm.start()
    farm.fill(2_000)
    farm.assert_identical()
    browser = farm.login()
    with PageWatch(farm, browser, "BATCH001") as watch:
        for again in (farm.server.restart, lambda: (farm.server.kill9(), farm.server.start())):
            again()
            good = watch.good
            eventually(lambda good=good: watch.good > good + 5)
        unseen = "BEGIN; CREATE TABLE brief(id); DROP TABLE brief; COMMIT"  # hence a new epoch, and a bootstrap
        farm.pi.sql(f"{unseen}; UPDATE cattle SET weight=3")
        farm.assert_identical()
        good = watch.good
        eventually(lambda: watch.good > good + 5)
    assert not watch.wrong, watch.wrong[:1]
    assert watch.refused, "the server was away in between"
    assert farm.server.log.count("Starting full database sync") == 2


def test_a_second_server_on_the_same_replica_is_refused_in_one_line(running_farm: Farm) -> None:
    server = running_farm.server
    port, server.settings["SERVER_PORT"] = server.settings["SERVER_PORT"], free_port()
    try:
        second = server.command("serve")
    finally:
        server.settings["SERVER_PORT"] = port
    assert second.returncode == 1 and "another process writes to" in second.stderr, second.stderr
    before = running_farm.status()["total_syncs"]
    eventually(lambda: running_farm.status()["total_syncs"] > before)


def test_who_stops_in_the_middle_of_a_long_poll_leaves_a_database_in_one_file(farm: Farm) -> None:
    farm.start()
    farm.fill(5)
    farm.assert_identical()
    farm.pi.stop()
    assert sorted(path.name for path in farm.pi.data.glob("farm.db*")) == ["farm.db"]
    farm.server.stop()
    assert sorted(path.name for path in farm.server.data.glob("replica.db*")) == ["replica.db"]
