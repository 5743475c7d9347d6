"""A Pi that lies when it is told to, an office that follows it, and a page over its rows. For the tests of what a Pi may send."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from flask import Response
from office_farm import PASSWORD_HASH
from office_pages import ELSEWHERE, sign_in
from pushing_pi import Office, PushingPi

from changelog import wire
from changelog.connection import connect, one, rows
from changelog.verify.digest import digest_tables
from server.app import create_app

Lines = list[bytes]


class Barn:
    """A Pi and an office that has all of it, with a page in a browser's place. The Pi lies when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.pi = PushingPi(folder / "pi", sockets=False)
        user = f"INSERT INTO users(username, password_hash, role) VALUES('admin', '{PASSWORD_HASH}', 'admin')"
        self.pi.write(user, *(f"INSERT INTO pens(pen_number, capacity) VALUES('P{n}', {n})" for n in range(3)))
        self.office = Office(folder / "office", self.pi, self.pi.keys.add("office", "replica"), db_sync_interval=5)
        assert self.office.sync.step()
        app = create_app(self.office.settings, self.office.replica, self.office.store, self.office.state, self.office.sync)
        self.page = app.test_client()
        self.page.environ_base |= ELSEWHERE
        assert sign_in(self.page, "admin", "a long enough password").status_code == 302
        self.number = 0

    @property
    def replica(self) -> Path:
        return self.office.settings.replica_db

    def news(self) -> Lines:
        """Something to fetch, as the lines of an honest frame: a header, an insert, an update, a delete and the end."""
        self.number += 1
        pen = f"pen_number='N{self.number}'"
        before = self.pi.write(
            f"INSERT INTO pens(pen_number, capacity) VALUES('N{self.number}', 1)",
            f"UPDATE pens SET capacity=2 WHERE {pen}",
            f"DELETE FROM pens WHERE {pen}",
        )
        assert before.seq == self.office.replica.position()[1]
        return self.pi.frame(before).splitlines(keepends=True)

    def everything(self) -> Any:
        """What is in the replica, to the last row of its log."""
        with closing(connect(self.replica, readonly=True)) as db:
            log = hashlib.sha256(repr(rows(db, "SELECT * FROM changelog ORDER BY seq")).encode()).hexdigest()
            more = [rows(db, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("changelog_meta", "changelog_cols", "sqlite_schema")]
            return digest_tables(db), log, more, one(db, "SELECT epoch||'/'||seq||'/'||nonce FROM changelog_position")

    def counted(self, cause: str) -> float:
        found = self.office.sync.measures.metrics.registry.get_sample_value("drover_apply_errors_total", {"reason": cause})
        assert found is not None
        return found

    def serves(self) -> bool:
        answer = self.page.get("/office/pens", headers={"Accept": "text/html"})
        return answer.status_code == 200 and "P2" in answer.text

    def refuses(self, answer: bytes | Callable[[], Response], cause: str) -> None:
        """Asked for changes the Pi gives this answer, and no copy instead: nothing comes of it but the counted cause."""
        before, counted = self.everything(), self.counted(cause)

        def lie(asked: str) -> Response | None:
            if asked == "/changes":
                return Response(answer, mimetype=wire.MEDIA_TYPE) if isinstance(answer, bytes) else answer()
            return Response("{}", 503)

        self.pi.lie = lie
        assert not self.office.sync.step()
        self.pi.lie = lambda path: None
        assert self.counted(cause) == counted + 1, self.office.state.facts().last_error
        assert self.everything() == before
        assert self.serves()

    def heals(self) -> None:
        """With the truth it goes on from where it was. (There is news, for nothing new is waited for.)"""
        self.pi.write("UPDATE pens SET capacity=capacity+1 WHERE pen_number='P1'")
        head = self.pi.primary.head()
        for _ in range(2):  # what was fetched in part has its own end
            assert self.office.sync.step()
            if self.office.replica.position() == (head.epoch, head.seq):
                break
        assert self.office.replica.position() == (head.epoch, head.seq)
        assert self.serves()

    def close(self) -> None:
        self.office.sync.follower.close()
        self.office.close()
        self.pi.close()


def changed(lines: Lines, at: int, **facts: Any) -> bytes:
    """The frame with facts of the header (line 0) or of a row changed; a fact of a row by its name in FACTS, a slot as n0..., o0..."""
    parsed = json.loads(lines[at])
    for name, value in facts.items():
        if isinstance(parsed, dict):
            parsed[name] = value
        else:
            parsed[wire.FACTS.index(name)] = value
    return b"".join([*lines[:at], json.dumps(parsed).encode() + b"\n", *lines[at + 1 :]])
