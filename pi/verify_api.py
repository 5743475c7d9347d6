"""The primary's side of verify: digests of tables and of their ranges, and the rows that a replica has otherwise."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import apsw
from flask import Blueprint, Response, current_app, request

from changelog.compression import choose, compress
from changelog.errors import Unavailable
from changelog.node.access import int_argument, json_body
from changelog.node.runner import stopping
from changelog.position import Position
from changelog.primary import Primary
from changelog.schema import schema_hash
from changelog.verify import answers
from changelog.verify.digest import digest_tables
from pi.keys import Keys

LARGEST_QUESTION = 4 * 2**20  # bytes
LOOK_EVERY = 2_000_000  # steps of SQLite's machine, some tens of ms, between two looks whether the Pi is to stop
TURN = 20.0  # s that a comparison waits for another one: each reads whole tables, and one processor of the Pi is enough


def blueprint(primary: Primary, keys: Keys) -> Blueprint:
    """The routes under /api/sync. What they answer is described in `changelog/verify/answers.py`."""
    routes = Blueprint("verify", __name__, url_prefix="/api/sync")
    turn = threading.Semaphore()

    @contextmanager
    def snapshot() -> Iterator[apsw.Connection]:
        """One snapshot, and one comparison at a time. Raises Unavailable."""
        if not turn.acquire(timeout=TURN):
            raise Unavailable("another replica is being compared with this Pi: try again in a minute", retry_after=60)
        try:
            with primary.snapshot() as db, _ended_by(stopping(current_app), db):
                yield db
        finally:
            turn.release()

    @routes.get("/digest")
    @keys.require("replica")
    def digest() -> Response:
        ranges = int_argument(request.args, "ranges", 1, 1, answers.MOST_PARTS)
        log_from = int_argument(request.args, "log_from", 0, 0, 2**63 - 1)
        if "ranges" not in request.args:
            with snapshot() as db:
                return _json(_whole_tables(db))
        with snapshot() as db:
            return _json(answers.digests(db, ranges, log_from))

    @routes.post("/digest")
    @keys.require("replica")
    def parts() -> Response:
        return answered(answers.parts)

    @routes.post("/compare")
    @keys.require("replica")
    def compare() -> Response:
        return answered(answers.rows)

    def answered(question: Callable[[apsw.Connection, Any], answers.Answer]) -> Response:
        asked = json_body(request, LARGEST_QUESTION)
        with snapshot() as db:
            return _json(question(db, asked))

    return routes


@contextmanager
def _ended_by(event: threading.Event, db: apsw.Connection) -> Iterator[None]:
    """A Pi that is to stop does not read its tables to their end. Raises Unavailable."""
    db.set_progress_handler(event.is_set, LOOK_EVERY)
    try:
        yield
    except apsw.InterruptError as exc:
        raise Unavailable("this Pi is stopping") from exc
    finally:
        db.set_progress_handler(None)


def _whole_tables(db: apsw.Connection) -> dict[str, Any]:
    position = Position.of_head(db)
    tables = {name: asdict(found) for name, found in digest_tables(db).items()}
    return {"epoch": position.epoch, "seq": position.seq, "check": position.check, "schema": schema_hash(db), "tables": tables}


def _json(facts: dict[str, Any]) -> Response:
    text = json.dumps({"success": True, **facts}, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
    encoding = choose(request.headers.get("Accept-Encoding", ""))
    body = b"".join(compress(encoding, [text.encode()]))
    headers = {"Vary": "Accept-Encoding"} | ({"Content-Encoding": encoding} if encoding != "identity" else {})
    return Response(body, mimetype="application/json", headers=headers)
