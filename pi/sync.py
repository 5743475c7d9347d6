"""The sync API: the log after an offset, snapshots, schema and health."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
from flask import Blueprint, Response, current_app, g, request, send_file

from changelog.acks import Acks
from changelog.compression import ZSTD_QUICK, choose, compress
from changelog.connection import connect, one
from changelog.errors import BadRequest, HistoryTrimmed, PositionMismatch
from changelog.node.access import int_argument
from changelog.node.runner import stopping
from changelog.position import Position, ancestors_of, epoch_of
from changelog.primary import Primary
from changelog.reader import check_position, read_log
from changelog.render import as_change, columns_of, newest_rows, table_objects
from changelog.schema import read_tables, schema_hash
from changelog.snapshot import COPY_MEDIA_TYPE, Snapshot, SnapshotStore
from changelog.wire import MEDIA_TYPE
from pi.keys import Keys
from pi.shipping import for_health

SQLITE_MEDIA_TYPE = "application/vnd.sqlite3"
LIMIT, MAX_LIMIT = 1000, 5000  # changes in one JSON reply
MAX_PAGE = 1_000_000_000  # rows that a replica may ask for at once
MAX_WAIT = 30  # s that a long poll waits for a change
LONGEST_ID = 64  # characters of a replica's id


def blueprint(primary: Primary, keys: Keys, acks: Acks, folder: Path) -> Blueprint:
    """The routes under /api/sync; `folder` is where snapshots stand while they are fetched."""
    routes = Blueprint("sync", __name__, url_prefix="/api/sync")
    snapshots = SnapshotStore(primary, folder)
    started = time.monotonic()
    instance = uuid.uuid4().hex  # of this process: a server that hears two of them in turns knows that two Pis answer

    @routes.after_request
    def name_instance(response: Response) -> Response:
        response.headers["X-Primary-Instance"] = instance
        return response

    @routes.get("/changes")
    @keys.require("replica")
    def changes() -> Response:
        if "since" in request.args:
            raise BadRequest("timestamps lose changes: instead of since=TIME ask after=SEQ, the `next` of the reply before (0 at first)")
        after = int_argument(request.args, "after", 0, 0, 2**63 - 1)
        replica_id, upto_check = _replica_id(), _upto_check()
        if MEDIA_TYPE in request.headers.get("Accept", ""):
            position = _position(after)
            _acknowledge(acks, replica_id, position)  # before waiting: what is known of a replica is known as soon as it says it
            _wait_for_change(primary, after, keys)
            return _frame(primary, position, upto_check)
        _wait_for_change(primary, after, keys)
        return _json(_changes(primary, after))

    @routes.get("/full-export")
    @keys.require("replica")
    def full_export() -> Response:
        start = int_argument(request.args, "from", 0, 0, 2**63 - 1)
        _refuse_stranger(primary)
        replica_id = _replica_id()
        snapshot = snapshots.newest(request.args.get("copy") or request.headers.get("If-Range", "").strip('"'))
        if replica_id:
            acks.handed_out(replica_id, g.key.name, snapshot.position)
        if COPY_MEDIA_TYPE in request.headers.get("Accept", ""):
            return _copy(snapshot, start)
        if SQLITE_MEDIA_TYPE in request.headers.get("Accept", ""):
            return _file(snapshot)
        return Response(_export(snapshot), mimetype="application/json")

    @routes.get("/schema")
    @keys.require("replica")
    def schema() -> Response:
        with primary.snapshot() as db:
            return _json(_schema(db))

    @routes.get("/health")
    def health() -> Response:
        with primary.snapshot() as db:
            return _json(
                {
                    "success": True,
                    "status": "ok",
                    "head": Position.of_head(db).seq,
                    "uptime": round(time.monotonic() - started, 1),
                    "schema_version": _schema_version(db),
                    "sqlite_version": apsw.sqlite_lib_version(),
                    "timestamp": _now(),
                    **({"ship": shipped} if (shipped := for_health(primary.path)) else {}),
                }
            )

    return routes


def _wait_for_change(primary: Primary, after: int, keys: Keys) -> None:
    """Raises Unauthorized where the key was revoked meanwhile."""
    seconds = int_argument(request.args, "wait", 0, 0, MAX_WAIT)
    if seconds:
        event: threading.Event = stopping(current_app)
        primary.commits.wait(after, seconds, event)
        keys.admit("replica")


def _upto_check() -> int | None:
    return int_argument(request.args, "upto_check", 0, 0, 2**63 - 1) if "upto_check" in request.args else None


def _replica_id() -> str:
    """Which replica asks, if it says so. Raises BadRequest: of two long names the same part must not become one replica."""
    name = request.headers.get("X-Replica-Id", "")
    if len(name) > LONGEST_ID:
        raise BadRequest(f"X-Replica-Id may have {LONGEST_ID} characters")
    return name


def _position(after: int) -> Position:
    """The position that a replica asks after."""
    if "epoch" not in request.args or "check" not in request.args:
        raise BadRequest(f"epoch and check go together, as the position's other two parts; {MEDIA_TYPE} needs them")
    return Position.parse(f"{request.args['epoch']}/{after}/{request.args['check']}")


def _acknowledge(acks: Acks, replica_id: str, asked: Position) -> None:
    """Remember how far the replica is. What it asks after is what it has, unless it says what that is: it may fetch pages ahead."""
    if replica_id:
        with suppress(BadRequest):
            asked = Position.parse(request.headers.get("X-Replica-Position", ""))
        acks.acknowledge(replica_id, g.key.name, asked)


def _frame(primary: Primary, position: Position, upto_check: int | None) -> Response:
    """The log as a replica wants it."""
    upto = int_argument(request.args, "upto", 0, 0, 2**63 - 1) or None
    limit = int_argument(request.args, "limit", 0, 1, MAX_PAGE) if "limit" in request.args else None
    header, chunks = primary.encoded_frame(position, upto, limit, upto_check)
    encoding = choose(request.headers.get("Accept-Encoding", ""))
    headers = {"Content-Encoding": encoding, "Vary": "Accept, Accept-Encoding"} if encoding != "identity" else {"Vary": "Accept"}
    body: Any = compress(encoding, chunks)
    if header.upto - header.after < LIMIT:
        body = b"".join(body)  # small: one write, with its length
    return Response(body, mimetype=MEDIA_TYPE, headers=headers)


def _changes(primary: Primary, after: int) -> dict[str, Any]:
    """The log as people and other programs want it: a rendering of the same rows."""
    limit = int_argument(request.args, "limit", LIMIT, 1, MAX_LIMIT)
    with primary.snapshot() as db:
        head, oldest = Position.of_head(db), one(db, "SELECT min(seq) FROM changelog")
        if "epoch" in request.args or "check" in request.args:
            check_position(db, _position(after))
        elif after > head.seq:
            raise PositionMismatch(f"seq {after} is past the head, which is {head.seq}", epoch=head.epoch, head=head.seq, oldest=oldest)
        elif after < oldest - 1:
            gone = f"the changes after seq {after} are gone: the oldest is {oldest}"
            raise HistoryTrimmed(gone, epoch=head.epoch, head=head.seq, oldest=oldest)
        upto = min(int_argument(request.args, "upto", head.seq, 0, 2**63 - 1), head.seq)
        rows = read_log(db, after, upto, limit) if upto > after else []
        columns = columns_of(db)
        names = [t.name for t in read_tables(db)]
    last = int(str(rows[-1][0])) if rows else after
    return {
        "success": True,
        "timestamp": _now(),
        "epoch": head.epoch,
        "after": after,
        "next": last,
        "upto": upto,
        "head": head.seq,
        "has_more": last < upto,
        **newest_rows(rows, columns, names),
        "changes": [as_change(row, columns, masked=False) for row in rows],
    }


def _refuse_stranger(primary: Primary) -> None:
    """A replica says whose history it has accepted; one that is not in ours must not be handed a copy by mistake."""
    wanted = request.args.get("epoch")
    if wanted:
        with primary.snapshot() as db:
            epoch = epoch_of(db)
            if wanted != epoch and wanted not in ancestors_of(db):
                message = f"the history here (epoch {epoch}) does not contain epoch {wanted[:32]}"
                raise PositionMismatch(message, epoch=epoch, descends=False)


def _copy(snapshot: Snapshot, start: int) -> Response:
    """As a replica wants it: from the byte on up to which it has this very copy, compressed, with the digest at the end."""
    if request.args.get("copy") != snapshot.id or start > snapshot.size:
        start = 0
    encoding = choose(request.headers.get("Accept-Encoding", ""))
    facts = {"Copy": snapshot.id, "From": start, "Size": snapshot.size, "Position": snapshot.position}
    headers = {f"X-Changelog-{name}": str(value) for name, value in facts.items()} | {"Vary": "Accept, Accept-Encoding"}
    if encoding != "identity":
        headers["Content-Encoding"] = encoding
    return Response(compress(encoding, snapshot.stream(start), ZSTD_QUICK), mimetype=COPY_MEDIA_TYPE, headers=headers)


def _file(snapshot: Snapshot) -> Response:
    """As a file, for people and other programs: its digest comes first."""
    response = send_file(snapshot.path, mimetype=SQLITE_MEDIA_TYPE, conditional=True, etag=snapshot.sha256.hex())
    response.headers["X-Changelog-Position"] = str(snapshot.position)
    response.headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(snapshot.sha256).decode()}:"
    return response


def _export(snapshot: Snapshot) -> Iterator[str]:
    """The whole database as one JSON object, row by row from the private copy: a slow client holds nothing of the live file."""
    db = connect(snapshot.path, immutable=True)  # nothing is made beside it: the disk may be full
    try:
        yield json.dumps({"success": True, "exported_at": _now(), **_facts(snapshot.position)})[:-1] + ', "data": {'
        counts: dict[str, int] = {}
        for number, table in enumerate(read_tables(db)):
            yield f"{', ' if number else ''}{json.dumps(table.name)}: ["
            counts[table.name] = 0
            for row in table_objects(db, table):
                yield (",\n" if counts[table.name] else "\n") + json.dumps(row, ensure_ascii=False)
                counts[table.name] += 1
            yield "]"
        yield f'}}, "counts": {json.dumps(counts)}}}\n'
    finally:
        db.close()


def _schema(db: apsw.Connection) -> dict[str, Any]:
    tables = read_tables(db)
    return {
        "success": True,
        "schema_version": _schema_version(db),
        "tables": [t.name for t in tables],
        "timestamp": _now(),
        **_facts(Position.of_head(db)),
        "ancestors": list(ancestors_of(db)),
        "schema": schema_hash(db),
        "columns": {t.name: [{"name": c.name, "affinity": c.affinity, "key": c.pk} for c in t.columns] for t in tables},
    }


def _facts(position: Position) -> dict[str, Any]:
    return {"epoch": position.epoch, "seq": position.seq, "check": position.check}


def _schema_version(db: apsw.Connection) -> str:
    return f"{db.pragma('user_version')}.0"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _json(data: dict[str, Any]) -> Response:
    return Response(json.dumps(data, ensure_ascii=False) + "\n", mimetype="application/json")
