"""Who reads an answer of the Pi byte by byte holds no snapshot of its database: the -wal stays small, whatever is written meanwhile."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from farm_processes import Farm, eventually

from changelog.connection import connect, one, rows

READERS = 3  # of each kind
ANIMALS = 20_000  # so that each answer is many times what the buffers on the way hold
PARTS = 80  # in which they are changed, a transaction each
ROUNDS = 24
MiB = 2**20
GROWTH_LIMIT = 3 * MiB  # of the -wal, some of these transactions; the file itself grows by many times as much
KINDS = {
    "the log as a frame": "/api/sync/changes?after={after}&epoch={epoch}&check={check} application/x-ndjson",
    "the log as JSON": "/api/sync/changes?after=0&limit=5000 application/json",
    "the export as JSON": "/api/sync/full-export application/json",
    "the database file": "/api/sync/full-export application/vnd.sqlite3",
    "the copy for a replica": "/api/sync/full-export application/vnd.drover.copy",
}


class SlowReader:
    """Asks, and takes one byte a second of the answer."""

    def __init__(self, farm: Farm, path: str, accept: str) -> None:
        context = ssl.create_default_context(cafile=str(farm.pi.data / "pi-cert.pem"))
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        raw.settimeout(30)
        raw.connect(("127.0.0.1", int(str(farm.pi.settings["PI_PORT"]))))
        self.sock = context.wrap_socket(raw, server_hostname="localhost")
        lines = [f"GET {path} HTTP/1.1", "Host: pi", f"Accept: {accept}", "Accept-Encoding: identity", f"X-API-Key: {farm.api_key}", "", ""]
        self.sock.sendall("\r\n".join(lines).encode())
        self.head = self.sock.recv(15)
        self.over = threading.Event()
        self.broke = False
        self.thread = threading.Thread(target=self._sip, daemon=True)
        self.thread.start()

    def _sip(self) -> None:
        while not self.over.wait(1):
            with suppress(OSError):
                if self.sock.recv(1):
                    continue
            self.broke = True
            return

    def close(self) -> None:
        self.over.set()
        self.thread.join()
        self.sock.close()


@pytest.mark.parametrize("kind", KINDS)
def test_who_reads_slowly_keeps_nothing_from_being_moved_out_of_the_wal(filled: Farm, kind: str) -> None:
    farm = filled
    path, _, accept = KINDS[kind].partition(" ")
    with closing(connect(farm.pi.database, readonly=True)) as db:
        [(epoch, birth)] = rows(db, "SELECT value, seq FROM changelog_meta WHERE name='epoch'")
        check = one(db, "SELECT nonce FROM changelog WHERE seq=?", (birth,))
    wal = Path(f"{farm.pi.database}-wal")
    with ExitStack() as stack:
        asked = path.format(after=birth, epoch=epoch, check=check)
        slow = [stack.enter_context(closing(SlowReader(farm, asked, accept))) for _ in range(READERS)]
        assert [reader.head for reader in slow] == [b"HTTP/1.1 200 OK"] * READERS
        before, at_first, largest = farm.pi.database.stat().st_size, wal.stat().st_size, 0
        for number in range(ROUNDS):
            farm.pi.sql(f"UPDATE cattle SET notes=hex(randomblob(500))||{number} WHERE id%{PARTS}={number}")
            largest = max(largest, wal.stat().st_size)
            eventually(lambda: _moved(farm), 15)
        assert not any(reader.broke for reader in slow), "they were still reading"
    grown = farm.pi.database.stat().st_size - before
    assert grown > 4 * GROWTH_LIMIT
    assert largest < at_first + GROWTH_LIMIT, f"the -wal grew by {(largest - at_first) / MiB:.1f} MiB, and {grown / MiB:.1f} were written"


def _moved(farm: Farm) -> bool:
    """Whether all of the -wal can be moved into the file, and the next commit begin it anew: no reader holds a snapshot.

    A commit begins it anew by itself only where nobody reads just then, as the Pi does for a moment after each: a matter of luck.
    """
    with closing(connect(farm.pi.database)) as db:
        busy, in_wal, moved = db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()[0]
    return not busy and in_wal == moved


@pytest.fixture(scope="module")
def filled(running_farm: Farm) -> Farm:
    running_farm.server.stop()  # it would take copies meanwhile
    running_farm.fill(ANIMALS)
    return running_farm
