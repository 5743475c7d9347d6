"""The part of the description that writes: payloads, the herd and users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from changelog.node.openapi import (
    LARGEST,
    TEXT,
    TIME,
    WHOLE,
    Schema,
    an_object,
    answer,
    operation,
    parameter,
    ref,
    success,
)
from pi import herd
from pi.herd.rows import ANIMALS, BATCHES, PENS, USERS, Kind
from pi.keys import OFFICE
from pi.lora import MAX_PAYLOAD
from pi.openapi.reading import KEYED, opened_by
from pi.write_api import KEY_PATTERN, batches, cattle, pens, users
from pi.write_api.bodies import EXPECTED, Check
from pi.write_api.callers import LONGEST_NAME

Checks = Mapping[str, Check]

POSITION: Schema = TEXT | {"description": "epoch/seq/check of this write: wait for it on the replica"}
IDEMPOTENCY = parameter(
    "Idempotency-Key",
    TEXT | {"pattern": f"^{KEY_PATTERN}$"},
    "the same for a repetition, which is answered as the first was and written once",
    "header",
)
ACTOR = parameter(
    "X-Actor",
    TEXT | {"minLength": 1},
    f"for whom an office writes (role {OFFICE}): 1 to {LONGEST_NAME} characters, percent-encoded UTF-8",
    "header",
)
WRITING = (400, *KEYED, 404, 409, 413)


def _row(kind: Kind) -> Schema:
    return an_object({name: {} for name in kind.columns} | {"id": WHOLE})


SCHEMAS: Schema = {
    "Pen": _row(PENS),
    "Batch": _row(BATCHES),
    "Animal": _row(ANIMALS),
    "User": _row(USERS),
    "Weight": an_object({"id": WHOLE, "cattle_id": WHOLE, "weight": {"type": "number"}, "recorded_at": TIME, "recorded_by": TEXT}),
}


def paths() -> Schema:
    """Everything that may change a row."""
    pen, batch, animal = ("pen", "Pen", "pen_id"), ("batch", "Batch", "batch_id"), ("animal", "Animal", "animal_id")
    one_animal = "/api/cattle/{animal_id}"
    return {
        "/api/lora/receive": {"post": _receive()},
        "/api/lora/process": {"post": _process()},
        "/api/pens": {"post": _add("add_pen", "Make a pen", pen, pens.CHECKS, pens.REQUIRED)},
        "/api/pens/{pen_id}": _one("pen", "an empty pen", pen, pens.CHECKS),
        "/api/batches": {"post": _add("add_batch", "Make a batch", batch, batches.CHECKS, batches.REQUIRED)},
        "/api/batches/{batch_id}": _one("batch", "a batch to which nothing refers", batch, batches.CHECKS),
        "/api/cattle": {"post": _add("add_animal", "Make an animal", animal, cattle.ANIMAL, cattle.ANIMAL_REQUIRED)},
        one_animal: _one("animal", "an animal to which nothing refers", animal, cattle.FACTS),
        f"{one_animal}/move": {"post": _change("move", "Move an animal to a pen, or out of it", animal, cattle.MOVE)},
        f"{one_animal}/tags": {"post": _change("pair", "Give an animal other tags", animal, cattle.TAGS)},
        f"{one_animal}/weights": {"post": _weigh()},
        "/api/users": {"post": _add("add_user", "Make a user", ("user", "User", ""), users.USER, tuple(users.USER), role=OFFICE)},
        "/api/users/{user_id}": {"patch": _change("change_user", "Change a user", ("user", "User", "user_id"), users.USER_CHANGE, OFFICE)},
        "/api/users/password": {"post": _password_of()},
        "/api/users/{name}/password": {"post": _password()},
    }


def body_of(checks: Checks, required: Iterable[str] = ()) -> Schema:
    """The JSON schema of a body with these members."""
    properties = {name: check.schema for name, check in checks.items()}
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False, "minProperties": 1}


def _change_of(checks: Checks) -> Schema:
    """The same for a change, which may say what the caller saw; one of the others must be there."""
    schema = body_of(checks)
    seen = {"type": ["object", "null"], "description": "values that the caller saw: where one is another by now, nothing is written (409)"}
    schema["properties"][EXPECTED] = seen
    schema["anyOf"] = [{"required": [name]} for name in checks]
    return schema


def _written(name: str, schema: str, words: str) -> Schema:
    return answer(words, success(**{name: ref(schema), "position": POSITION}))


def _row_id(name: str) -> Schema:
    return parameter(name, {"type": "integer", "minimum": 0, "maximum": LARGEST}, "the id of the row", "path")


def _add(name: str, summary: str, made: tuple[str, str, str], checks: Checks, required: Iterable[str], *, role: str = "writer") -> Schema:
    return operation(
        name, summary, {201: _written(made[0], made[1], "Written, durable.")}, WRITING,
        tag="herd", security=opened_by(role), parameters=(IDEMPOTENCY, ACTOR), body=body_of(checks, required),
    )  # fmt: skip


def _change(name: str, summary: str, changed: tuple[str, str, str], checks: Checks, role: str = "writer") -> Schema:
    member, schema, row_id = changed
    return operation(
        name, summary, {200: _written(member, schema, "The row as it is now.")}, WRITING,
        tag="herd", security=opened_by(role), parameters=(_row_id(row_id), IDEMPOTENCY, ACTOR), body=_change_of(checks),
    )  # fmt: skip


def _one(noun: str, deletable: str, row: tuple[str, str, str], checks: Checks) -> Schema:
    deleted = {200: _written("deleted", row[1], "The row that was deleted.")}
    parameters = (_row_id(row[2]), IDEMPOTENCY, ACTOR)
    article = "an" if noun[0] in "aeiou" else "a"
    return {
        "patch": _change(f"change_{noun}", f"Change {article} {noun}", row, checks),
        "delete": operation(
            f"delete_{noun}", f"Delete {deletable}", deleted, (400, *KEYED, 404, 409),
            tag="herd", security=opened_by("writer"), parameters=parameters,
        ),
    }  # fmt: skip


def _weigh() -> Schema:
    parameters = (_row_id("animal_id"), IDEMPOTENCY, ACTOR)
    body = body_of(cattle.WEIGHT, cattle.WEIGHT_REQUIRED)
    reply = {201: _written("weight", "Weight", "Written, durable.")}
    summary = "Record a weight"
    return operation(
        "record_weight", summary, reply, WRITING, tag="herd", security=opened_by("writer"), parameters=parameters, body=body
    )  # fmt: skip


def _password() -> Schema:
    parameters = (parameter("name", TEXT | {"minLength": 1}, "the user; X-Actor names the same, or an admin", "path"), IDEMPOTENCY, ACTOR)
    body, reply = _change_of(users.PASSWORD), {200: _written("user", "User", "The user has a new password.")}
    summary = "A new password: one's own, or by an admin"
    return operation(
        "set_password", summary, reply, WRITING, tag="herd", security=opened_by(OFFICE), parameters=parameters, body=body
    )  # fmt: skip


def _password_of() -> Schema:
    body, reply = _change_of(users.PASSWORD_OF), {200: _written("user", "User", "The user has a new password.")}
    body["required"] = list(users.PASSWORD_OF)
    summary = "The same for any name: one with a slash in it, or of dots alone, is no part of an address"
    return operation(
        "set_password_of", summary, reply, WRITING, tag="herd", security=opened_by(OFFICE), parameters=(IDEMPOTENCY, ACTOR), body=body
    )  # fmt: skip


def _receive() -> Schema:
    payload = TEXT | {"description": f"<hxb|hxe>:<batch>:<lf tag>:<uhf tag>, printable ASCII, at most {MAX_PAYLOAD} bytes"}
    reply = success(message=TEXT, id=WHOLE, status={"enum": list(herd.STATUSES)}, position=POSITION)
    return operation(
        "receive",
        "A payload that a tag reader has read",
        {201: answer("Buffered, durable; `status` says what came of it.", reply)},
        (400, *KEYED, 404, 409, 413),
        tag="lora",
        security=[*opened_by("device"), {}],
        words="409: the same payload again, with the time of the first. Without a key from the same machine (TRUST_LOOPBACK), or where"
        " LORA_OPEN_INGEST is on.",
        body=an_object({"payload": payload}),
    )


def _process() -> Schema:
    reply = answer("How many were processed.", success(processed=WHOLE))
    summary = "Process what stands in the buffer now"
    return operation("process", summary, {200: reply}, (*KEYED, 404), tag="lora", security=opened_by("writer"))
