"""The Pi trims its log by itself, between its jobs, by what its replicas have acknowledged over the API."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from flask import Flask
from flask.testing import FlaskClient
from pi_parts import make_farm, rows, send, shell, wait_until

from changelog.acks import Acks, read_acks
from changelog.connection import connect
from changelog.errors import HistoryTrimmed, PositionMismatch
from changelog.node.problems import install_problems
from changelog.position import Position
from changelog.primary import Primary
from changelog.reader import check_position
from changelog.retention import cutoff, log_bytes
from changelog.wire import MEDIA_TYPE
from pi import retention, sync
from pi.keys import Keys
from pi.retention import Retention
from pi.writer import Writer

MIB = 2**20
OLD = 40  # days


@pytest.fixture
def path(tmp_path: Path) -> str:
    return make_farm(tmp_path)


@pytest.fixture
def acks(tmp_path: Path) -> Iterator[Acks]:
    with closing(Acks(tmp_path / "pi.db")) as made:
        yield made


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at once and often."""
    monkeypatch.setattr(retention, "FIRST", 0.0)
    monkeypatch.setattr(retention, "EVERY", 0.05)


def fill(path: str, count: int, size: int = 100) -> None:
    """So many log rows, that are old."""
    shell(
        path,
        f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{count})
        INSERT INTO pens(pen_number, capacity, description) SELECT hex(randomblob(8)), 1, hex(randomblob({size // 2})) FROM n;
        UPDATE changelog SET at='{cutoff(OLD)}'""",
    )


def position(path: str, seq: int) -> Position:
    return Position(
        *rows(path, "SELECT value, ?, (SELECT nonce FROM changelog WHERE seq=?) FROM changelog_meta WHERE name='epoch'", seq, seq)[0]
    )


def oldest(path: str) -> int:
    return rows(path, "SELECT min(seq) FROM changelog")[0]


@contextmanager
def writing(path: str, acks: Acks, keep_days: int = 30, max_bytes: int = 2**30) -> Iterator[Writer]:
    writer = Writer(path, 0.1, Retention(path, acks, keep_days, max_bytes))
    writer.start()
    try:
        yield writer
    finally:
        writer.stop()


def test_old_rows_that_all_replicas_have_go_and_one_line_says_so(
    path: str, acks: Acks, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fill(path, 3_000)
    acks.acknowledge("slow", "office", position(path, 2_500))
    acks.acknowledge("quick", "office", position(path, 3_001))
    with writing(path, acks) as writer:
        figures = writer.retention.figures if writer.retention else None
        assert figures is not None
        wait_until(lambda: figures.trimmed == 2_499)
        wait_until(lambda: figures.oldest == 2_500)
        assert (oldest(path), figures.head) == (2_500, 3_001)
        with closing(connect(path, readonly=True)) as db:
            assert figures.log_bytes < 2 * log_bytes(db)
        acks.acknowledge("slow", "office", position(path, 3_001))
        wait_until(lambda: figures.oldest == 3_001)
    lines = [record.getMessage() for record in caplog.records if "changelog trimmed" in record.getMessage()]
    assert len(lines) == 2
    assert "rows=2499 oldest=2500" in lines[0] and "why=age" in lines[0] and "slowest_replica_at=2500" in lines[0]


def test_nothing_goes_that_is_young_or_unacknowledged(path: str, acks: Acks, soon: None) -> None:
    fill(path, 100)
    shell(path, "UPDATE changelog SET at=strftime('%Y-%m-%dT%H:%M:%fZ','now') WHERE seq>50")
    with writing(path, acks) as writer:
        looked = lambda: writer.retention.figures.looked_at  # noqa: E731
        first = wait_until(looked)
        wait_until(lambda: looked() > first)
        assert oldest(path) == 1, "no replica is known"
        acks.acknowledge("r", "office", position(path, 101))
        wait_until(lambda: oldest(path) == 51)
        then = looked()
        wait_until(lambda: looked() > then)
        assert oldest(path) == 51


def test_a_log_over_its_cap_is_trimmed_though_a_replica_needs_it_and_that_is_said_by_name(
    path: str, acks: Acks, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    fill(path, 8_000, 200)
    shell(path, "UPDATE changelog SET at=strftime('%Y-%m-%dT%H:%M:%fZ','now')")
    slow = position(path, 100)
    acks.acknowledge("slow-one", "office", slow)
    with writing(path, acks, max_bytes=MIB) as writer:
        wait_until(lambda: writer.retention and writer.retention.figures.trimmed and "passed_over" in caplog.text)
        with closing(connect(path, readonly=True)) as db:
            assert 0.8 * MIB < log_bytes(db) < 1.2 * MIB
            with pytest.raises(HistoryTrimmed):
                check_position(db, slow)
            with pytest.raises(PositionMismatch):
                check_position(db, Position(slow.epoch, slow.seq, slow.check ^ 1))
        send(writer, "hxb:B1:L1:U1")
    [line] = [record.getMessage() for record in caplog.records if "passed_over" in record.getMessage()]
    assert "'slow-one' (key office, seq 100)" in line and "why=cap" in line


def test_jobs_go_first_and_trimming_goes_on_all_the_same(path: str, acks: Acks, soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BUSY_PAUSE", 0.1)
    fill(path, 20_000)
    acks.acknowledge("r", "office", position(path, 20_001))
    stop = threading.Event()

    def radio(name: str) -> None:
        number = 0
        while not stop.is_set():
            send(writer, f"hxb:B{name}:L{name}{number}:U{name}{number}")
            number += 1

    with writing(path, acks) as writer:
        radios = [threading.Thread(target=radio, args=(name,)) for name in "abcd"]
        for thread in radios:
            thread.start()
        try:
            wait_until(lambda: oldest(path) == 20_001, 60)
        finally:
            stop.set()
            for thread in radios:
                thread.join()
        count = rows(path, "SELECT count(*) FROM cattle")[0]
    assert count > 50
    assert rows(path, "SELECT max(seq)-min(seq)+1=count(*) FROM changelog") == [1]


def test_a_locked_file_delays_trimming_and_is_said_once(
    path: str, acks: Acks, soon: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FAILED_PAUSE", 0.05)
    fill(path, 500)
    acks.acknowledge("r", "office", position(path, 501))
    tries: list[object] = []
    trim_run = retention.trim_run
    monkeypatch.setattr(retention, "trim_run", lambda *given: tries.append(1) or trim_run(*given))
    with closing(connect(path)) as other, writing(path, acks, keep_days=365) as writer:
        wait_until(lambda: tries)
        other.execute("BEGIN IMMEDIATE")
        assert writer.retention
        writer.retention._keep_days = 30
        count = len(tries)
        wait_until(lambda: "cannot be trimmed" in caplog.text and len(tries) > count + 2)
        assert oldest(path) == 1 and writer._outage is None
        other.execute("ROLLBACK")
        wait_until(lambda: oldest(path) == 501)
    assert caplog.text.count("cannot be trimmed") == 1


def test_a_look_that_fails_is_tried_again_and_lets_go_of_the_file(
    path: str, acks: Acks, soon: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, 8_000, 200)
    failures = iter([apsw.IOError("the card does not answer")] * 3)
    read = retention.Survey.read

    def fails(survey: retention.Survey, seconds: float | None = None) -> bool:
        for error in failures:
            raise error
        return read(survey, seconds)

    monkeypatch.setattr(retention.Survey, "read", fails)
    with writing(path, acks, max_bytes=MIB):
        wait_until(lambda: oldest(path) > 1)
    assert caplog.text.count("the card does not answer") == 1
    assert sorted(file.name for file in Path(path).parent.glob("farm.db*")) == ["farm.db"]


def test_a_plan_for_one_file_never_trims_another(tmp_path: Path, path: str, acks: Acks) -> None:
    """The file is replaced while the pages of the former one are counted: nothing that was found there holds for the new one."""
    fill(path, 8_000, 200)
    (tmp_path / "other").mkdir()
    other = make_farm(tmp_path / "other")
    fill(other, 500)
    ticks = iter(range(0, 10**7, 10))
    keeper = Retention(path, acks, 30, MIB, lambda: float(next(ticks)))
    keeper._next_look = 0.0
    with closing(connect(path)) as first, closing(connect(other)) as second:
        while keeper._look is None or keeper._look.limits.cap == 0:
            keeper.step(first, busy=False)
        keeper._next_look = float("inf")
        for _ in range(20):
            keeper.step(second, busy=False)
        keeper.close()
    assert oldest(other) == 1 and oldest(path) == 1


def test_an_idle_pi_writes_nothing_for_retention(path: str, acks: Acks, soon: None) -> None:
    fill(path, 100)
    acks.acknowledge("r", "office", position(path, 101))
    with writing(path, acks) as writer:
        wait_until(lambda: oldest(path) == 101)
        looked = lambda: writer.retention.figures.looked_at  # noqa: E731
        with closing(connect(path, readonly=True)) as watcher:
            version, seen = watcher.pragma("data_version"), looked()
            wait_until(lambda: looked() > seen + 0.2)
            assert watcher.pragma("data_version") == version


# --- acknowledgements over the API


@pytest.fixture
def served(tmp_path: Path, path: str, acks: Acks) -> Iterator[tuple[FlaskClient, str, Primary]]:
    """The sync API with a replica's key."""
    app = Flask(__name__)
    install_problems(app)
    keys, primary = Keys(tmp_path / "pi.db", checkpoints=True), Primary(path)
    app.register_blueprint(sync.blueprint(primary, keys, acks, tmp_path / "snapshots"))
    yield app.test_client(), keys.add("office", "replica"), primary
    primary.close()
    keys.close()


def ask(served: tuple[FlaskClient, str, Primary], at: Position, **headers: str) -> int:
    client, key, _ = served
    sent = {"X-API-Key": key, "X-Replica-Id": "r1", "Accept": MEDIA_TYPE} | {k.replace("_", "-"): v for k, v in headers.items()}
    return client.get(f"/api/sync/changes?after={at.seq}&epoch={at.epoch}&check={at.check}", headers=sent).status_code


def test_what_a_replica_asks_after_is_acknowledged_unless_it_says_what_it_has(
    path: str, acks: Acks, served: tuple[FlaskClient, str, Primary]
) -> None:
    fill(path, 50)
    at = {seq: position(path, seq) for seq in (10, 20, 30)}
    assert ask(served, at[20]) == 200
    assert [(ack.replica_id, ack.key_name, ack.seq, ack.nonce) for ack in acks.all()] == [("r1", "office", 20, at[20].check)]
    assert ask(served, at[30], X_Replica_Position=str(at[10])) == 200
    assert [ack.seq for ack in acks.all()] == [10]
    for malformed in ("", "10", "x/1/2", f"{at[10].epoch}/10", f"{at[10].epoch}/{2**63}/1", f"{at[10].epoch}/1/{2**64}", "ü"):
        assert ask(served, at[30], X_Replica_Position=malformed) == 200
        assert [ack.seq for ack in acks.all()] == [30]
        acks.acknowledge("r1", "office", at[10])


def test_no_position_makes_a_500(served: tuple[FlaskClient, str, Primary], path: str) -> None:
    epoch = position(path, 1).epoch
    for seq, check in ((2**63 - 1, 0), (1, 2**63 - 1), (2**63, 1), (1, 2**63), (10**18, 10**18)):
        assert ask(served, Position(epoch, seq, check)) in (400, 409)


def test_without_an_id_nothing_is_acknowledged(acks: Acks, path: str, served: tuple[FlaskClient, str, Primary]) -> None:
    assert ask(served, position(path, 1), X_Replica_Id="") == 200
    assert acks.all() == []


@pytest.mark.parametrize("accept", ["application/vnd.drover.copy", "application/vnd.sqlite3", "application/json"])
def test_a_snapshot_that_is_handed_out_is_acknowledged(
    path: str, acks: Acks, served: tuple[FlaskClient, str, Primary], accept: str
) -> None:
    client, key, _ = served
    fill(path, 20)
    acks.acknowledge("r1", "office", position(path, 5))
    for name in ("r1", "r2"):
        answer = client.get("/api/sync/full-export", headers={"X-API-Key": key, "X-Replica-Id": name, "Accept": accept})
        assert answer.status_code == 200
        answer.close()
    assert [(ack.replica_id, ack.seq) for ack in acks.all()] == [("r1", 21), ("r2", 21)]


def test_a_trimmed_position_is_410_with_what_there_is_in_both_forms(
    path: str, acks: Acks, served: tuple[FlaskClient, str, Primary], monkeypatch: pytest.MonkeyPatch, soon: None
) -> None:
    client, key, _ = served
    fill(path, 50)
    before, mark = position(path, 20), position(path, 50)
    acks.acknowledge("other", "office", position(path, 51))
    with writing(path, acks):
        wait_until(lambda: oldest(path) == 51)
    assert (ask(served, before), ask(served, mark)) == (410, 200)
    answer = client.get("/api/sync/changes?after=20", headers={"X-API-Key": key})
    assert answer.status_code == 410 and (answer.json["oldest"], answer.json["head"]) == (51, 51)
    assert client.get("/api/sync/changes?after=50", headers={"X-API-Key": key}).status_code == 200


# --- commands


def cli(folder: Path, *arguments: str, code: int = 0) -> str:
    environ = os.environ | {"DATA_DIR": str(folder), "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-m", "pi", *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stdout if not code else done.stderr


def listed(folder: Path) -> list[Any]:
    return json.loads(cli(folder, "replica", "list", "--json"))


def test_replica_list_and_forget(tmp_path: Path, path: str, acks: Acks) -> None:
    fill(path, 50)
    acks.acknowledge("r1", "office", position(path, 11))
    acks.acknowledge("stranger", "lab", Position("f" * 32, 5, 1))
    assert [(r["id"], r["key"], r["seq"], r["behind"]) for r in listed(tmp_path)] == [
        ("r1", "office", 11, 40),
        ("stranger", "lab", 5, None),
    ]
    assert "40 behind" in cli(tmp_path, "replica", "list") and "another history" in cli(tmp_path, "replica", "list")
    assert "forgotten" in cli(tmp_path, "replica", "forget", "r1")
    assert "no replica 'r1'" in cli(tmp_path, "replica", "forget", "r1", code=1)
    assert [ack.replica_id for ack in acks.all()] == ["stranger"], "the process that serves knows, too"


def test_replica_list_on_a_new_pi_is_empty(tmp_path: Path) -> None:
    assert listed(tmp_path) == []


def test_revoking_a_key_forgets_its_replicas(tmp_path: Path, path: str, acks: Acks) -> None:
    for name in ("office", "lab"):
        cli(tmp_path, "key", "add", name, "--role", "replica")
    acks.acknowledge("r1", "office", position(path, 1))
    acks.acknowledge("r2", "office", position(path, 1))
    acks.acknowledge("r3", "lab", position(path, 1))
    assert "2 replicas forgotten" in cli(tmp_path, "key", "revoke", "office")
    assert [ack.replica_id for ack in acks.all()] == ["r3"] == [ack.replica_id for ack in read_acks(tmp_path / "pi.db")]
