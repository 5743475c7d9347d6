"""The part of the description that reads: sync, verify, payload lists and probes."""

from __future__ import annotations

from changelog.node.openapi import (
    ANY_OBJECT,
    EPOCH,
    FLAG,
    NUMBER,
    SEQ,
    TEXT,
    TIME,
    WHOLE,
    Schema,
    a_list,
    an_object,
    answer,
    operation,
    or_null,
    parameter,
    ref,
    success,
)
from changelog.snapshot import COPY_MEDIA_TYPE
from changelog.verify.answers import MOST_PARTS, MOST_RANGES, NEVER
from changelog.wire import MEDIA_TYPE
from pi import herd
from pi.ingest import PAGE, PAYLOAD_COLUMNS
from pi.keys import COVERS, OFFICE, ROLES
from pi.lora import MAX_PAYLOAD
from pi.sync import LIMIT, LONGEST_ID, MAX_LIMIT, MAX_PAGE, MAX_WAIT, SQLITE_MEDIA_TYPE

KEYED = (401, 403, 429, 503)  # what a request with a key may meet
RANGE: Schema = {"type": "array", "description": "[table, after, upto], where after and upto are keys (a list of values) or null"}

SCHEMAS: Schema = {
    "Change": an_object(
        {
            "seq": SEQ,
            "at": {"description": "UTC, by the Pi's clock; nothing is ordered by it"},
            "actor": {"description": "who wrote; null for a shell, a cron job, a program that does not say"},
            "table": or_null(TEXT),
            "op": {"enum": ["I", "U", "D", "X", "B"], "description": "insert, update, delete; X: the schema; B: the birth of an epoch"},
            "key": {"description": "of the row, before the change"},
            "old": {"type": "object", "description": "the key and what changed"},
            "new": {"type": "object", "description": "the whole row"},
        }
    ),
    "Digests": an_object(
        {
            "success": {"const": True},
            "epoch": EPOCH,
            "seq": SEQ,
            "check": SEQ,
            "schema": TEXT,
            "facts": ANY_OBJECT,
            "oldest": SEQ,
            "slots": WHOLE,
            "tables": ANY_OBJECT,
        },
        optional=("schema", "facts", "oldest", "slots"),
    ),
    "Compared": success(
        epoch=EPOCH,
        seq=SEQ,
        check=SEQ,
        facts=ANY_OBJECT,
        oldest=SEQ,
        slots=WHOLE,
        ranges={"type": ["array", "null"], "description": "null: the schema is another one, look at the tables anew"},
    ),
    "Payload": an_object({name: {} for name in PAYLOAD_COLUMNS} | {"id": WHOLE, "status": TEXT}),
}

EPOCH_AND_CHECK = (
    parameter("epoch", EPOCH, "of the position that is asked after: names the life of a log. Needs `check`"),
    parameter("check", SEQ, "the nonce of the row `after`: is it still the write that the caller has seen? Needs `epoch`"),
)


def opened_by(*roles: str) -> list[Schema]:
    """Keys of these roles, and of those that may what these may."""
    return [{"key": [role for role in ROLES if role in roles or set(roles) & set(COVERS.get(role, ()))]}]


def paths() -> Schema:
    """Everything that changes no row."""
    return {
        "/api/sync/changes": {"get": _changes()},
        "/api/sync/full-export": {"get": _full_export()},
        "/api/sync/schema": {"get": _schema()},
        "/api/sync/health": {"get": _health()},
        "/api/sync/digest": {"get": _digest(), "post": _question("parts", "The parts of ranges of tables, each with its digest", 3)},
        "/api/sync/compare": {"post": _question("compare", "The rows of ranges that differ", 5)},
        "/api/lora/buffer-status": {"get": _buffer_status()},
        "/api/lora/payloads": {"get": _payloads()},
        "/api/key": {"get": _key()},
        "/livez": {"get": operation("livez", "Does the process answer?", {200: answer("It does.", success())}, tag="health")},
        "/readyz": {"get": operation("readyz", "Can this Pi take writes?", {200: answer("It can.", success())}, (503,), tag="health")},
        "/metrics": {"get": _metrics()},
    }


def _changes() -> Schema:
    reply = success(
        timestamp=TIME,
        epoch=EPOCH,
        after=SEQ,
        next=SEQ | {"description": "the next `after`"},
        upto=SEQ,
        head=SEQ,
        has_more=FLAG,
        data={"type": "object", "description": "by table: the newest row of each key in this reply"},
        counts={"type": "object", "description": "by table, 0 included", "additionalProperties": WHOLE},
        deleted={"type": "object", "description": "by table: the keys of rows that are gone"},
        changes=a_list(ref("Change")),
    )
    limit: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": LIMIT}
    return operation(
        "changes",
        "The log after an offset",
        {200: answer("The changes, oldest first.", reply, more=(MEDIA_TYPE,))},
        (400, *KEYED, 409, 410, 426),
        tag="sync",
        security=opened_by("replica"),
        words=f"With `Accept: {MEDIA_TYPE}` the frame that replicas take (changelog/README.md), for which epoch and check are required.",
        parameters=(
            parameter("after", SEQ | {"default": 0}, "the `next` of the reply before; 0 at first"),
            parameter("limit", limit, f"changes in one reply; of a frame up to {MAX_PAGE}"),
            *EPOCH_AND_CHECK,
            parameter("upto", SEQ, "no change behind this one: pages of a long catch-up end at the same commit"),
            parameter("upto_check", SEQ, f"the nonce of the row `upto`, which must still be that write ({MEDIA_TYPE} only)"),
            parameter("wait", {"type": "integer", "minimum": 0, "maximum": MAX_WAIT, "default": 0}, "seconds to wait for a change"),
            _replica_id(),
            parameter("X-Replica-Position", TEXT, "epoch/seq/check of what the replica has, where `after` is ahead of it", "header"),
        ),
    )


def _full_export() -> Schema:
    reply = success(
        exported_at=TIME, epoch=EPOCH, seq=SEQ, check=SEQ,
        data={"type": "object", "description": "by table: its rows", "additionalProperties": a_list(ANY_OBJECT)},
        counts={"type": "object", "additionalProperties": WHOLE},
    )  # fmt: skip
    file = {"description": "A part of the file, for Range.", "content": {SQLITE_MEDIA_TYPE: {"schema": {}}}}
    return operation(
        "full_export",
        "All rows of all tables, at one position",
        {200: answer("The database.", reply, more=(SQLITE_MEDIA_TYPE, COPY_MEDIA_TYPE)), 206: file},
        (400, *KEYED, 409, 416),
        tag="sync",
        security=opened_by("replica"),
        words=f"With `Accept: {SQLITE_MEDIA_TYPE}` the database file, resumable by Range and If-Range; its position is in a header."
        f" With `Accept: {COPY_MEDIA_TYPE}` the same for a replica: compressed, and its SHA-256 is the last 32 bytes.",
        parameters=(
            parameter("epoch", TEXT, "refuse (409) where the history here does not contain this epoch"),
            parameter("copy", TEXT, f"go on with the copy of this id (`X-Changelog-Copy`), of {COPY_MEDIA_TYPE}"),
            parameter("from", SEQ, "from this byte on"),
            _replica_id(),
        ),
    )


def _replica_id() -> Schema:
    return parameter("X-Replica-Id", TEXT | {"maxLength": LONGEST_ID}, "which replica asks: its acknowledgement keeps the log", "header")


def _schema() -> Schema:
    column = an_object({"name": TEXT, "affinity": TEXT, "key": WHOLE})
    reply = success(
        schema_version=TEXT, tables=a_list(TEXT), timestamp=TIME, epoch=EPOCH, seq=SEQ, check=SEQ, ancestors=a_list(EPOCH), schema=TEXT,
        columns={"type": "object", "additionalProperties": a_list(column)},
    )  # fmt: skip
    words = "The tables that are replicated, their columns, and the hash of the schema"
    return operation("schema", words, {200: answer("The schema.", reply)}, KEYED, tag="sync", security=opened_by("replica"))


def _health() -> Schema:
    members: Schema = {"success": {"const": True}, "status": {"const": "ok"}, "head": SEQ, "uptime": NUMBER, "schema_version": TEXT}
    members |= {"sqlite_version": TEXT, "timestamp": TIME, "ship": ANY_OBJECT | {"description": "the shipper, where there is one"}}
    reply = answer("It answers.", an_object(members, optional=("ship",)))
    return operation("health", "How the Pi is, with nothing secret", {200: reply}, (503,), tag="health")


def _digest() -> Schema:
    parts: Schema = {"type": "integer", "minimum": 1, "maximum": MOST_PARTS}
    return operation(
        "digest",
        "Digests of all tables at one position",
        {200: answer("For each table, one digest or that of its ranges.", ref("Digests"))},
        (400, *KEYED),
        tag="verify",
        security=opened_by("replica"),
        parameters=(
            parameter("ranges", parts, "cut each table into so many ranges; without it, one SHA-256 a table"),
            parameter("log_from", SEQ | {"default": 0}, "the log is compared from this seq on; needs `ranges`"),
        ),
    )


def _question(name: str, summary: str, width: int) -> Schema:
    more = {3: "", 5: "; behind them: whether the range cannot be cut up, and [key, hash] of each row that the other side has"}[width]
    each = RANGE | {"description": RANGE["description"] + more, "minItems": width, "maxItems": width}
    body = an_object(
        {
            "schema": TEXT | {"description": "the hash of the schema that the question is about"},
            "log_from": {"type": "integer", "minimum": NEVER, "maximum": 2**63 - 1},
            **({"parts": {"type": "integer", "minimum": 1, "maximum": MOST_PARTS}} if width == 3 else {}),
            "ranges": a_list(each) | {"maxItems": MOST_RANGES},
        }
    )
    reply = answer("An answer for each range, all at one position.", ref("Compared"))
    statuses = (400, *KEYED, 413)
    return operation(name, summary, {200: reply}, statuses, tag="verify", security=opened_by("replica"), body=body)


def _buffer_status() -> Schema:
    counts = an_object(dict.fromkeys(herd.STATUSES, WHOLE))
    reply = answer("The counts.", success(counts=counts, total=WHOLE))
    summary = "How many payloads there are, by status"
    opened = opened_by("device", "replica", "writer")
    return operation("buffer_status", summary, {200: reply}, (*KEYED, 404), tag="lora", security=opened)


def _payloads() -> Schema:
    limit: Schema = {"type": "integer", "minimum": 1, "maximum": PAGE, "default": 100}
    reply = success(limit=WHOLE, offset=WHOLE, payloads=a_list(ref("Payload")))
    return operation(
        "payloads",
        f"What the radio sent (payloads of up to {MAX_PAYLOAD} bytes), newest first",
        {200: answer("The payloads.", reply)},
        (400, *KEYED, 404),
        tag="lora",
        security=opened_by("replica", "writer"),
        parameters=(
            parameter("status", {"enum": list(herd.STATUSES)}, "only these"),
            parameter("limit", limit, "payloads in one reply"),
            parameter("offset", {"type": "integer", "minimum": 0, "maximum": 2**53, "default": 0}, "payloads that are skipped"),
        ),
    )


def _key() -> Schema:
    reply = success(name=TEXT, role={"enum": list(ROLES)}, writes=FLAG | {"description": "whether it may change herd data"})
    return operation("key", "Whose key this is", {200: answer("The key.", reply)}, KEYED, tag="health", security=opened_by(*ROLES))


def _metrics() -> Schema:
    reply = answer("The figures.", TEXT, "text/plain", more=("application/openmetrics-text",))
    opened = [*opened_by("metrics", "replica"), {}]
    words = f"Without a key only for a program on the same machine (TRUST_LOOPBACK). {OFFICE} keys may, as they may all that replicas may."
    return operation("metrics", "Figures for Prometheus", {200: reply}, KEYED, tag="health", security=opened, words=words)
