"""/metrics, /livez and /readyz of both roles: the figures are those of the databases, and asking for them costs and breaks nothing."""

from __future__ import annotations

import math
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from farm_processes import Farm, eventually
from office_farm import make_replica
from office_pages import ToldToResync, make_office
from pi_parts import make_farm, running_writer, wait_until
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from changelog import VERSION
from changelog.acks import Acks
from changelog.connection import connect, one
from changelog.errors import Unavailable
from changelog.node.metrics import LogFile
from changelog.position import Position
from pi.measures import PAYLOADS_COUNTED, REPLICAS_SHOWN
from pi.measures import Measures as PiMeasures
from pi.probes import not_ready
from pi.retention import Retention
from pi.writer import Writer
from server.measures import Measures, failure_cause
from server.state import State

FEW, MANY = 1_000, 100_000  # rows between which a scrape must not become slower
SCRAPES = 30

Figures = dict[str, dict[tuple[str, ...], float]]


def parsed(text: str) -> Figures:
    """Every sample by its name and the values of its labels."""
    found: Figures = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            key = tuple(value for _, value in sorted(sample.labels.items()))
            assert key not in values, f"{sample.name}{sample.labels} twice"
            values[key] = sample.value
    return found


def of_server(farm: Farm, **how: Any) -> Figures:
    answer = requests.get(f"{farm.server.url}/metrics", timeout=10, **how)
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


def of_pi(farm: Farm, key: str | None = None) -> Figures:
    answer = farm.ask("GET", "/metrics", key)
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


def of(measures: Measures | PiMeasures) -> dict[tuple[str, tuple[str, ...]], float]:
    """What these measures would tell."""
    samples: Iterator[Sample] = (sample for family in measures.metrics.registry.collect() for sample in family.samples)
    return {(sample.name, tuple(sample.labels.values())): sample.value for sample in samples}


def only(figures: Figures, name: str) -> float:
    """The one sample of this name, which has no label."""
    assert list(figures[name]) == [()], figures[name]
    return figures[name][()]


def facts(path: Path, *expressions: str) -> list[Any]:
    """These facts of the log in a file."""
    with closing(connect(path, readonly=True)) as db:
        return [one(db, f"SELECT {expression} FROM changelog") for expression in expressions]


def test_the_figures_of_both_sides_are_those_of_the_databases(farm: Farm) -> None:
    farm.fill(50)
    farm.start()
    (before,) = facts(farm.server.database, "max(seq)")
    for number in range(5):
        assert farm.post(f"hxb:B1:LF{number}:UHF{number}").status_code == 201
    farm.pi.sql("INSERT INTO lora_payload_buffer(raw_payload, status) VALUES('x','error'); DELETE FROM changelog WHERE seq<=3")
    farm.assert_identical()
    (farm_head, oldest), (replica_oldest,) = facts(farm.pi.database, "max(seq)", "min(seq)"), facts(farm.server.database, "min(seq)")

    server = eventually(lambda: (found := of_server(farm))["drover_lag_changes"] == {(): 0.0} and found)
    assert only(server, "drover_head_seq") == only(server, "drover_applied_seq") == farm_head
    assert only(server, "drover_changes_applied_total") == only(server, "drover_changes_received_total") == farm_head - before
    assert 1 <= only(server, "drover_apply_duration_seconds_count") <= farm_head - before
    assert only(server, "drover_lag_seconds") < 1
    assert server["drover_bootstraps_total"].pop(("missing",)) == 1
    assert set(server["drover_bootstraps_total"].values()) == set(server["drover_apply_errors_total"].values()) == {0}
    assert [state for (state,), value in server["drover_state"].items() if value] == ["following"]
    assert {state for (state,) in server["drover_state"]} == set(State.__args__)  # type: ignore[attr-defined]
    assert only(server, "drover_stale") == 0 and only(server, "drover_database_ok") == 1
    assert only(server, "drover_log_oldest_seq") == replica_oldest
    assert abs(only(server, "drover_last_success_timestamp_seconds") - time.time()) < 5
    assert 0 < only(server, "drover_disk_free_bytes") <= shutil.disk_usage(farm.server.data).total
    assert "drover_verify_ok" not in server, "nothing was compared yet"
    assert farm.server.command("resync").returncode == 0
    server = of_server(farm)
    assert only(server, "drover_verify_ok") == 1 and abs(only(server, "drover_last_verify_timestamp_seconds") - time.time()) < 5
    assert server["drover_bootstraps_total"]["asked",] == 1

    pi = of_pi(farm)
    replica = farm.server_id()
    assert only(pi, "drover_head_seq") == farm_head and pi["drover_applied_seq"] == {(replica,): farm_head}
    assert pi["drover_lag_changes"] == {(replica,): 0} and 0 <= pi["drover_ack_age_seconds"][replica,] < 5
    assert only(pi, "drover_log_oldest_seq") == oldest == 4 and only(pi, "drover_trimmed_changes_total") == 3
    assert pi["drover_payloads"] == {("received",): 0, ("processed",): 5, ("error",): 1}
    assert only(pi, "drover_writer_queue") == only(pi, "drover_serial_dropped_total") == 0
    assert only(pi, "drover_commit_duration_seconds_count") >= 5
    assert pi["drover_build_info"] == server["drover_build_info"] == {(farm.sync("/health")["sqlite_version"], VERSION): 1}
    assert pi["process_resident_memory_bytes"][()] > 1e6


def test_every_name_is_in_order_and_explained(running_farm: Farm) -> None:
    for text in (requests.get(f"{running_farm.server.url}/metrics", timeout=10).text, running_farm.ask("GET", "/metrics").text):
        families = list(text_string_to_metric_families(text))
        assert len({family.name for family in families}) == len(families)
        assert all(family.name.startswith(("drover_", "process_")) and len(family.documentation) > 12 for family in families)
        for family in families:
            if family.type == "counter":
                assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)


def test_the_figures_are_not_for_everybody(farm: Farm) -> None:
    for role in farm.roles:
        role.settings["TRUST_LOOPBACK"] = False
    keys = {role: farm.pi.command("key", "add", role, "--role", role).stdout.strip() for role in ("metrics", "device", "writer")}
    farm.start()
    assert farm.ask("GET", "/metrics").status_code == farm.ask("GET", "/metrics", "hxb_wrong").status_code == 401
    assert farm.ask("GET", "/metrics", keys["device"]).status_code == farm.ask("GET", "/metrics", keys["writer"]).status_code == 403
    assert of_pi(farm, keys["metrics"])["drover_head_seq"] == of_pi(farm, farm.api_key)["drover_head_seq"]

    url = f"{farm.server.url}/metrics"
    assert requests.get(url, timeout=10).status_code == 401
    assert requests.get(url, timeout=10, headers={"Authorization": "Bearer drv_wrong"}).status_code == 401
    token = farm.server.command("token", "add", "prometheus").stdout.strip()
    assert of_server(farm, headers={"Authorization": f"Bearer {token}"})["drover_database_ok"] == {(): 1}
    assert farm.login().get(url, timeout=10).status_code == 200

    for role in farm.roles:
        role.settings["TRUST_LOOPBACK"] = True
        role.restart()
    assert of_pi(farm) and of_server(farm)
    behind_a_proxy = {"X-Forwarded-For": "192.0.2.7"}
    assert farm.ask("GET", "/metrics", headers=behind_a_proxy).status_code == 401
    assert requests.get(url, timeout=10, headers=behind_a_proxy).status_code == 401
    for path in ("/livez", "/readyz"):
        assert farm.ask("GET", path, headers=behind_a_proxy).status_code == 200


def test_a_pi_whose_file_is_missing_or_locked_lives_says_why_it_is_not_ready_and_recovers(farm: Farm) -> None:
    farm.pi.start()
    away = farm.pi.database.with_name("away")

    def cause() -> str:
        answer = farm.ask("GET", "/readyz")
        assert answer.status_code in (200, 503) and str(farm.pi.data) not in answer.text
        assert farm.ask("GET", "/livez").status_code == 200
        return "" if answer.ok else answer.json()["message"]

    assert cause() == ""
    farm.pi.database.rename(away)
    assert "missing" in eventually(cause)
    began, figures = time.monotonic(), of_pi(farm)
    assert figures["drover_database_ok"] == {(): 0} and "drover_head_seq" not in figures and only(figures, "drover_writer_queue") == 0
    assert time.monotonic() - began < 1
    away.rename(farm.pi.database)
    eventually(lambda: cause() == "")

    with closing(connect(farm.pi.database)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        sender = threading.Thread(target=lambda: farm.post("hxb:B1:LF1:UHF1"))
        sender.start()
        assert "locked" in eventually(cause)
        assert of_pi(farm)["drover_database_ok"] == {(): 1}, "what can be read is told"
        somebody.execute("ROLLBACK")
        sender.join()
    eventually(lambda: cause() == "")


def test_a_server_without_a_readable_replica_still_tells_how_it_is(farm: Farm) -> None:
    farm.start()
    farm.pi.kill9()
    farm.server.database.write_bytes(b"no database" * 1000)
    figures = eventually(lambda: (found := of_server(farm))["drover_database_ok"] == {(): 0} and found)
    assert "drover_applied_seq" not in figures and only(figures, "drover_stale") in (0, 1)
    assert eventually(lambda: of_server(farm)["drover_apply_errors_total"]["unreachable",])
    began = time.monotonic()
    of_server(farm)
    assert time.monotonic() - began < 1
    assert (
        requests.get(f"{farm.server.url}/livez", timeout=10).ok and requests.get(f"{farm.server.url}/readyz", timeout=20).status_code == 503
    )


def test_a_locked_file_is_a_figure_and_waits_for_nobody(tmp_path: Path) -> None:
    path = tmp_path / "farm.db"
    make_replica(path).close()
    log = LogFile(path)

    def figures() -> dict[str, float]:
        return {family.name: family.samples[0].value for family in log.metrics(lambda db, facts: ())}

    assert figures()["drover_database_ok"] == 1
    with closing(connect(path)) as somebody:
        somebody.pragma("journal_mode", "delete")  # with a -wal, readers are never locked out
        somebody.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        assert figures() == {"drover_database_ok": 0}
        assert time.monotonic() - began < 1
    assert figures()["drover_database_ok"] == 1


def test_a_full_disk_and_a_writer_that_ended_are_named(tmp_path: Path) -> None:
    path = make_farm(tmp_path)
    with running_writer(path) as writer:
        assert not_ready(writer, tmp_path, least_free=0) is None
        assert "nearly full" in str(not_ready(writer, tmp_path, least_free=2**62))
        writer.write(lambda db: db.pragma("max_page_count", 1), "test")
        big = "INSERT INTO pens(pen_number, capacity) VALUES(zeroblob(1000000), 1)"
        waiting = writer.submit(lambda db: db.execute(big) and None, "test")
        assert wait_until(lambda: writer.outage) == "the disk is full"
        writer.file.db.pragma("max_page_count", 2**30)  # type: ignore[union-attr]  # somebody makes room
        waiting.result(10)
        assert wait_until(lambda: writer.outage is None)
    assert writer.outage == "the writer is not running"


def test_one_look_at_a_writer_whose_disk_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pi.writer.HANGS", 0.05)
    released = threading.Event()
    with running_writer(make_farm(tmp_path)) as writer:
        waiting = writer.submit(lambda db: released.wait(10), "test")
        assert "not confirmed" in wait_until(lambda: writer.outage)
        released.set()
        waiting.result(10)
        assert wait_until(lambda: writer.outage is None)


def test_labels_are_few_whoever_asks(tmp_path: Path) -> None:
    with asked(PiMeasures(), make_farm(tmp_path), tmp_path) as (measures, acks):
        for n in range(100):
            acks.acknowledge(f"replica {n}\n\"'\\", "key", Position("e" * 32, n, 1))
        found = of(measures)
    assert sum(name == "drover_ack_age_seconds" for name, _ in found) == REPLICAS_SHOWN

    ours = Measures()
    series = len(of(ours))
    for n in range(100):
        ours.bootstrapped("asked")
        ours.failed(f"cause {n}")
    found = of(ours)
    assert len(found) == series
    assert found["drover_bootstraps_total", ("asked",)] == found["drover_apply_errors_total", ("other",)] == 100


def test_causes_are_classes_of_errors() -> None:
    assert (failure_cause(Unavailable()), failure_cause(OSError()), failure_cause(KeyError())) == ("busy", "disk", "other")


def test_a_server_that_refuses_the_pi_is_not_ready_and_one_that_never_was_at_the_head_has_an_endless_lag(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path, ToldToResync())
    client = office.app.test_client()
    assert math.isinf(only(parsed(client.get("/metrics").text), "drover_lag_seconds"))
    office.state.position("e", 5)
    office.state.following(5)
    assert client.get("/readyz").status_code == 200
    office.store.record_sync("pull", "ok")
    office.state.refused("the Pi at secret:5001 has another history")
    answer = client.get("/readyz")
    assert answer.status_code == 503 and "refused" in answer.json["message"] and "secret" not in answer.text
    figures = parsed(client.get("/metrics").text)
    assert only(figures, "drover_stale") == 1 and figures["drover_state"]["refused",] == 1 and only(figures, "drover_lag_seconds") < 1
    office.store.close()


@contextmanager
def asked(measures: PiMeasures, path: str, folder: Path) -> Iterator[tuple[PiMeasures, Acks]]:
    """The measures of a Pi that serves `path`, and the acknowledgements of its replicas."""
    acks = Acks(folder / "pi.db")
    measures.ask(Path(path), queued=lambda: 0, dropped=lambda: 0, acks=acks, retention=Retention(path, acks, 30, 2**30))
    yield measures, acks
    acks.close()


@contextmanager
def filled_pi(folder: Path, rows: int) -> Iterator[PiMeasures]:
    """The measures of a farm with so many payloads, each with its row in the log."""
    folder.mkdir()
    path = make_farm(folder)
    with closing(connect(path)) as db, db:
        db.execute(
            """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?)
               INSERT INTO lora_payload_buffer(raw_payload, status) SELECT 'hxb:B:L'||i||':U'||i, 'processed' FROM n""",
            (rows,),
        )
    with asked(PiMeasures(), path, folder) as (measures, _):
        yield measures


def scrape_p50(measures: PiMeasures) -> float:
    """Seconds of a scrape."""
    times = []
    for _ in range(SCRAPES):
        began = time.perf_counter()
        list(measures.metrics.registry.collect())
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def test_a_scrape_costs_the_same_however_large_the_database_is(tmp_path: Path) -> None:
    with filled_pi(tmp_path / "few", FEW) as few, filled_pi(tmp_path / "many", MANY) as many:
        small, large = min(scrape_p50(few) for _ in range(3)), min(scrape_p50(many) for _ in range(3))
        found = of(many)
    print(f"scrape p50: {small * 1000:.2f} ms at {FEW} rows, {large * 1000:.2f} ms at {MANY}")
    assert large < 3 * small
    assert found["drover_payloads", ("processed",)] == PAYLOADS_COUNTED
    with closing(connect(tmp_path / "many/farm.db", readonly=True)) as db:
        exact = one(db, "SELECT sum(pgsize) FROM dbstat WHERE name='changelog'")
    assert 0.7 < found["drover_log_bytes", ()] / exact < 1.3


def test_the_first_scrape_of_a_large_database_is_bounded_too(tmp_path: Path) -> None:
    with filled_pi(tmp_path / "many", MANY) as measures:
        began = time.perf_counter()
        list(measures.metrics.registry.collect())
        first = time.perf_counter() - began
        with closing(connect(tmp_path / "many/farm.db", readonly=True)) as db:
            began = time.perf_counter()
            db.execute("SELECT sum(length(n1)) FROM changelog").fetchall()
            scan = time.perf_counter() - began
    print(f"first scrape {first * 1000:.1f} ms, one scan of the log {scan * 1000:.1f} ms")
    assert first < 5 * scan


def test_a_writer_is_measured(tmp_path: Path) -> None:
    seen: list[float] = []
    writer = Writer(make_farm(tmp_path), 60, committed=seen.append)
    writer.start()
    for _ in range(3):
        writer.write(lambda db: None, "test")
    writer.stop()
    assert len(seen) == 3 and all(0 < seconds < 5 for seconds in seen)
