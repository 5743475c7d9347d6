"""A replica of a small farm as files, and a real server over it: for the tests of the office."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
from werkzeug.security import generate_password_hash

from changelog.connection import connect
from changelog.install import install
from changelog.position import Position
from server.indexes import LOCAL_INDEXES

ROOT = Path(__file__).parent.parent
DEADLINE = 15.0  # s for anything that a test waits for
PASSWORD = "a long enough password"
PASSWORD_HASH = generate_password_hash(PASSWORD, "scrypt:1024:8:1")  # cheaper than real ones: the tests sign in often


def until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """The first true result of `condition`."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {deadline} s in vain for {what}")


def make_replica(path: Path, batches: int = 3, animals: int = 4) -> apsw.Connection:
    """A bootstrapped replica at `path` with two users (admin, user); returned is a connection that writes it, as replay would."""
    db = connect(path, create=True, checkpoints=True)
    db.execute((ROOT / "pi" / "schema.sql").read_text())
    install(db, ["users.password_hash"])
    db.execute("CREATE TABLE changelog_position(epoch TEXT, seq INTEGER, nonce INTEGER, at TEXT)")
    with db:
        for name in ("admin", "user"):
            db.execute("INSERT INTO users(username, password_hash, role) VALUES(?1, ?2, ?1)", (name, PASSWORD_HASH))
        add_batches(db, batches, animals)
        db.execute("INSERT INTO pens(pen_number, capacity, description) VALUES('P1', 2, 'by the gate'), ('P2', 40, NULL)")
        db.execute("UPDATE cattle SET pen_id=1 WHERE id<=3")
    for sql in LOCAL_INDEXES:
        db.execute(sql)
    move_position(db)
    return db


def add_batches(db: apsw.Connection, batches: int, animals: int) -> None:
    """`batches` further batches of `animals` each, one a day from 2026-01-01 on, and the payload of each animal."""
    first = db.execute("SELECT coalesce(max(id), 0) + 1 FROM batches").fetchall()[0][0]
    for number in range(first, first + batches):
        db.execute(
            """INSERT INTO batches(id, batch_number, induction_date, source, source_type)
               VALUES(?1, ?2, date('2025-12-31', ?3), 'Barn (HXB)', 'hxb')""",
            (number, f"BATCH{number:05}", f"+{number} days"),
        )
        start = (number - 1) * animals
        tags = [(number, f"LF{start + i:06}", f"UHF{start + i:06}", f"BATCH{number:05}-LF{start + i:06}") for i in range(animals)]
        db.executemany("INSERT INTO cattle(batch_id, lf_tag, uhf_tag, cattle_id, weight) VALUES(?, ?, ?, ?, 250)", tags)
        db.executemany(
            """INSERT INTO lora_payload_buffer(batch_id, lf_tag, uhf_tag, raw_payload, batch_number, source_type, status, rssi, snr)
               VALUES(?1, ?2, ?3, 'hxb:' || ?4 || ':' || ?2 || ':' || ?3, ?4, 'hxb', 'processed', -71, 9.5)""",
            [(batch, lf, uhf, f"BATCH{number:05}") for batch, lf, uhf, _ in tags],
        )


def move_position(db: apsw.Connection) -> Position:
    """The replica's position is the head of its log."""
    position = Position.of_head(db)
    with db:
        db.execute("DELETE FROM changelog_position")
        db.execute(
            "INSERT INTO changelog_position VALUES(?, ?, ?, strftime('%Y-%m-%dT%H:%M:%S', 'now'))",
            (position.epoch, position.seq, position.check),
        )
    return position


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def running_server(data_dir: Path, **settings: str) -> Iterator[str]:
    """`python -m server serve` over the files in `data_dir`; gives its address. Without a Pi: pages only, unless `settings` say else."""
    port = free_port()
    chosen = {"DATA_DIR": str(data_dir), "SERVER_BIND": "127.0.0.1", "SERVER_PORT": str(port), "IS_SERVER_UI": "False", **settings}
    environment = {"PATH": os.environ["PATH"], "HOME": str(data_dir), "PYTHONPATH": str(ROOT), **chosen}
    address = f"http://127.0.0.1:{port}"
    with (data_dir / "server.out").open("ab") as out:
        process = subprocess.Popen([sys.executable, "-m", "server", "serve"], cwd=data_dir, env=environment, stdout=out, stderr=out)
    try:
        until(lambda: answers(f"{address}/livez") or process.poll() is not None, "the server")
        assert process.poll() is None, (data_dir / "server.out").read_text()
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def answers(address: str) -> bool:
    """Whether there is a 200 at this address."""
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
