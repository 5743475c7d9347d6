"""What a recorded farm had promised, and when: every commit of the Pi with its content, and what was answered, served and acknowledged."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import apsw

from changelog.connection import connect, rows
from changelog.errors import DroverError
from changelog.position import Position
from changelog.verify.digest import digest_tables
from scripts.power.torn_disk import CREATE, CUT, MARK, RENAME, SEND, UNLINK, WRITE, Disk, Op

Digest = frozenset[tuple[str, int, str]]

FRAME_HEADER, WAL_HEADER = 24, 32  # bytes
LOG, JOURNAL = "farm.db-wal", "farm.db-journal"
NEAR = 3  # calls before and after a rare one


class Truth:
    """Read from a trace. The numbers are those of ops: what has such a number had happened before the ops behind it."""

    def __init__(self, trace: Sequence[Op], scratch: Path) -> None:
        """`scratch` is a folder that may be used."""
        self.folders: dict[str, str] = json.loads(trace[0].data)
        self.first = next(op.number for op in trace if op.pid)
        self.contents: dict[Position, set[Digest]] = {}
        self.order: dict[Position, int] = {}  # which of two positions is the later one
        self.log: set[tuple[int, int]] = set()  # seq and nonce of every change that there was
        self.answered: list[tuple[int, str]] = []  # the tag of a payload
        self.served: list[tuple[int, Position]] = []
        self.acknowledged: list[tuple[int, int]] = []  # seq
        self.careless: list[tuple[int, int]] = []  # from where to where a program that syncs nothing had made a checkpoint
        self._servers: set[str] = set()
        self.open: dict[str, list[int]] = {"pi": [], "server": [], "both": []}  # before which ops something was uncertain
        self.rare: dict[str, list[int]] = {"pi": [], "server": [], "both": []}  # and a name, a size or a database file changed nearby
        self._read_promises(trace)
        self._read_commits(trace, scratch)

    def is_server(self, replica_id: str) -> bool:
        """Whether this is the name of the recorded server."""
        return replica_id in self._servers

    @staticmethod
    def digest(db: apsw.Connection) -> Digest:
        """All that a database holds besides its log."""
        return frozenset((name, found.rows, found.digest) for name, found in digest_tables(db).items())

    def _read_promises(self, trace: Sequence[Op]) -> None:
        sent = {b"200": 0, b"201": 0}
        for op in trace:
            if op.kind == SEND and (answer := re.match(rb"HTTP/1.1 (20[01]) ", op.data)):
                sent[answer[1]] = op.number
            elif op.kind == SEND and (asked := re.search(rb"X-Replica-Position: [^/\r]+/(\d+)/", op.data)):
                self.acknowledged.append((op.number, int(asked[1])))
                if name := re.search(rb"X-Replica-Id: (\w+)", op.data):
                    self._servers.add(name[1].decode())
            elif op.kind == MARK and op.number:
                facts = json.loads(op.data)
                if "answered" in facts:
                    self.answered.append((sent[b"201"], facts["answered"]))
                elif "served" in facts:
                    self.served.append((sent[b"200"], Position(*facts["served"])))
                    if self.careless and self.careless[-1][1] > op.number:
                        self.careless[-1] = (self.careless[-1][0], sent[b"200"])
                else:
                    self.careless.append((op.number, len(trace)))

    def _read_commits(self, trace: Sequence[Op], scratch: Path) -> None:
        disks = {name: Disk(folder) for name, folder in self.folders.items()}
        rare: dict[str, set[int]] = {"pi": set(), "server": set()}
        commit = 0
        for op in trace:
            if op.number == self.first:
                self._read_commit(disks["pi"], scratch)
            for name, disk in disks.items():
                if op.number > self.first and not disk.is_certain:
                    self.open[name].append(op.number)
                if disk.apply(op) and (op.kind in (CREATE, RENAME, UNLINK, CUT) or (op.kind == WRITE and op.path.endswith(".db"))):
                    rare[name].update(range(op.number - NEAR, op.number + NEAR + 1))
            if op.kind == UNLINK and disks["pi"].name_of(op.path) == JOURNAL:
                self._read_commit(disks["pi"], scratch)
            elif op.kind == WRITE and disks["pi"].name_of(op.path) == LOG:
                if len(op.data) == FRAME_HEADER and op.at >= WAL_HEADER:
                    commit = struct.unpack_from(">I", op.data, 4)[0]
                elif commit and op.at >= WAL_HEADER:
                    self._read_commit(disks["pi"], scratch)
                    commit = 0
        self.open["both"] = sorted({*self.open["pi"]} | {*self.open["server"]})
        for name in ("pi", "server"):
            self.rare[name] = [number for number in self.open[name] if number in rare[name]]
        self.rare["both"] = sorted({*self.rare["pi"]} | {*self.rare["server"]})

    def _read_commit(self, disk: Disk, scratch: Path) -> None:
        """Learn the newest commit of the Pi as it is now."""
        path = scratch / "farm.db"
        files = disk.files()
        for suffix in ("", "-wal", "-shm", "-journal"):
            file = Path(f"{path}{suffix}")
            file.unlink(missing_ok=True)
            if (content := files.get(f"farm.db{suffix}")) is not None:
                file.write_bytes(content)
        try:
            with closing(connect(path, leaves_wal=True)) as db, db:
                at = Position.of_head(db)
                self.contents.setdefault(at, set()).add(self.digest(db))
                self.order.setdefault(at, len(self.order))
                self.log.update(rows(db, "SELECT seq, nonce FROM changelog"))
        except (DroverError, apsw.SQLError):
            pass  # not a primary yet
