"""/api/lora: payloads over HTTP, and a look at the buffer. Only the writer writes; these routes wait for its commit."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Any

from flask import Blueprint, Response, jsonify, request

from changelog.connection import connect
from changelog.errors import BadRequest, Conflict, NotFound, Unauthorized
from changelog.node.access import RateLimit, from_loopback, int_argument, json_body
from changelog.node.settings import Settings
from pi import herd
from pi.keys import Keys
from pi.lora import parse_payload
from pi.writer import Writer

BODY = 4_096  # bytes of a request, of which the payload may be 255
CALLS, CALLS_BURST = 5_000.0, 10_000.0  # receive calls a second and address
PAGE = 1_000  # payloads in one reply, at most

_NUMBERS = ("id", "batch_id", "rssi", "snr", "times_received")
_TEXTS = (
    "raw_payload", "source_type", "batch_number", "lf_tag", "uhf_tag", "status", "error_message",
    "received_at", "processed_at", "created_at", "updated_at",
)  # fmt: skip
PAYLOAD_COLUMNS = (*_NUMBERS, *_TEXTS)
# As bytes: what a shell wrote need not be UTF-8.
_LIST = f"""SELECT {", ".join(_NUMBERS)}, {", ".join(f"CAST({name} AS BLOB)" for name in _TEXTS)}
  FROM lora_payload_buffer WHERE ?1 IS NULL OR status=?1 ORDER BY id DESC LIMIT ?2 OFFSET ?3"""


def blueprint(settings: Settings, writer: Writer, keys: Keys) -> Blueprint:
    """The routes of /api/lora; every one answers 404 while the database has no farm tables."""
    routes = Blueprint("ingest", __name__, url_prefix="/api/lora")
    calls = RateLimit(CALLS, CALLS_BURST)

    @routes.before_request
    def check_farm() -> None:
        require_farm(writer)

    @routes.post("/receive")
    def receive() -> tuple[Response, int]:
        calls.check(request.remote_addr or "")
        actor = _sender(settings, keys)
        payload = json_body(request, BODY).get("payload")
        if not isinstance(payload, str):
            raise BadRequest('send {"payload": "hxb:BATCH001:LF123:UHF456"}')
        written = writer.write(partial(herd.receive, reading=parse_payload(payload), now=herd.utc_now()), actor)
        stored = written.value
        if stored.duplicate:
            raise Conflict(
                f"this payload is a repetition: first received at {stored.received_at} UTC, {stored.times_received} times by now",
                id=stored.id, received_at=stored.received_at, times_received=stored.times_received, position=str(written.position),
            )  # fmt: skip
        message = f"buffered, but not applied: {stored.error_message}" if stored.error_message else "buffered"
        return jsonify(success=True, message=message, id=stored.id, status=stored.status, position=str(written.position)), 201

    @routes.get("/buffer-status")
    @keys.require("device", "replica", "writer")
    def buffer_status() -> Response:
        with closing(connect(writer.path, readonly=True)) as db:
            counts = dict(db.execute("SELECT status, count(*) FROM lora_payload_buffer GROUP BY status"))
        return jsonify(success=True, counts={status: counts.get(status, 0) for status in herd.STATUSES}, total=sum(counts.values()))

    @routes.get("/payloads")
    @keys.require("replica", "writer")
    def payloads() -> Response:
        status = request.args.get("status")
        if status is not None and status not in herd.STATUSES:
            raise BadRequest(f"status must be one of {', '.join(herd.STATUSES)}")
        limit = int_argument(request.args, "limit", 100, 1, PAGE)
        offset = int_argument(request.args, "offset", 0, 0, 2**53)
        with closing(connect(writer.path, readonly=True)) as db:
            rows = db.execute(_LIST, (status, limit, offset)).fetchall()
        return jsonify(success=True, limit=limit, offset=offset, payloads=[_shown(row) for row in rows])

    @routes.post("/process")
    @keys.require("writer")
    def process() -> Response:
        return jsonify(success=True, processed=writer.process())

    return routes


def require_farm(writer: Writer) -> None:
    """Raises NotFound when the served database is not a farm."""
    if not writer.has_farm:
        raise NotFound(f"{writer.path} has no farm tables: it is replicated, but there is no LoRa and no herd here")


def _sender(settings: Settings, keys: Keys) -> str:
    """Who sends a payload, as it stands in the changelog: a device key, a program on this machine, or anyone if that is allowed."""
    if request.headers.get("X-API-Key") is None:
        if from_loopback(request, settings.trust_loopback):
            return "api:loopback"
        if settings.lora_open_ingest:
            return f"api:{request.remote_addr}"
    try:
        return f"api:{keys.admit('device').name}"
    except Unauthorized as exc:
        raise Unauthorized(
            f"{exc.message}. There are two ways to send payloads from another machine: a key of the role device, or LORA_OPEN_INGEST=True"
            " on the Pi, which lets anyone send"
        ) from exc


def _shown(row: tuple[Any, ...]) -> dict[str, Any]:
    """A payload's row as JSON values."""
    values = (value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in row)
    return dict(zip(PAYLOAD_COLUMNS, values, strict=True))
