"""What the HTTP API of a role takes and gives, as an OpenAPI 3.1 document: the parts that both descriptions are made of.

A role builds its own from the constants and checks that its routes use, so that the two cannot part; a test compares the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flask import Flask, jsonify

from changelog import VERSION
from changelog.errors import Conflict, Forbidden, HistoryTrimmed, NotFound, ProtocolMismatch, TooLarge, TooMany, Unauthorized, Unavailable
from changelog.node.problems import PROBLEM

JSON = "application/json"
LARGEST = 2**63 - 1  # of an integer in SQLite

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
ANY_OBJECT: Schema = {"type": "object"}
TIME: Schema = {"type": "string", "description": "UTC, such as 2024-01-15T10:30:00"}
EPOCH: Schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
SEQ: Schema = {"type": "integer", "minimum": 0, "maximum": LARGEST}

_WORDS = {
    400: "The request is malformed: `message` says what, and what is taken instead.",
    401: Unauthorized.__doc__,
    403: Forbidden.__doc__,
    404: NotFound.__doc__,
    409: Conflict.__doc__,
    410: HistoryTrimmed.__doc__,
    413: TooLarge.__doc__,
    416: "The range is not in the file.",
    426: ProtocolMismatch.__doc__,
    429: TooMany.__doc__,
    503: Unavailable.__doc__,
}
_RETRY: Schema = {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 0}}}

_PROBLEM: Schema = {
    "type": "object",
    "description": "RFC 9457. More members tell facts of this error, each described where it can come.",
    "required": ["type", "title", "status", "detail", "success", "message"],
    "properties": {
        "type": {"const": "about:blank"},
        "title": TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": TEXT,
        "success": {"const": False},
        "message": {"type": "string", "minLength": 1, "description": "the cause, and mostly what to do; the same as `detail`"},
        "action": {"enum": ["resync", "retry", "upgrade"], "description": "what a program should do, where there is one such thing"},
        "field": {"type": "string", "description": "the member of the body that is at fault"},
    },
}


def an_object(properties: Mapping[str, Schema], optional: Iterable[str] = ()) -> Schema:
    """An object with these members, of which all but the `optional` ones are always there; more may come with later versions."""
    return {"type": "object", "required": [name for name in properties if name not in optional], "properties": dict(properties)}


def a_list(items: Schema) -> Schema:
    """A list of such items."""
    return {"type": "array", "items": items}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return schema | {"type": [schema["type"], "null"]}


def success(**more: Schema) -> Schema:
    """The object with which an API answers: `success`, and these members."""
    return an_object({"success": {"const": True}, **more})


def ref(name: str) -> Schema:
    """What stands under components/schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def answer(words: str, schema: Schema, media_type: str = JSON, more: Iterable[str] = ()) -> Schema:
    """One response; `more` media types come to whom names them in Accept."""
    others: Schema = {other: {"schema": {}} for other in more}
    return {"description": words, "content": {media_type: {"schema": schema}} | others}


def parameter(name: str, schema: Schema, words: str, where: str = "query") -> Schema:
    """A parameter; those in the path are required."""
    return {"name": name, "in": where, "description": words, "schema": schema} | ({"required": True} if where == "path" else {})


def operation(
    name: str,
    summary: str,
    answers: Mapping[int, Schema],
    problems: Iterable[int] = (),
    *,
    tag: str,
    parameters: Iterable[Schema] = (),
    body: Schema | None = None,
    security: Iterable[Schema] = (),
    words: str = "",
) -> Schema:
    """One method of one path. `problems`: the statuses of its errors; `security`: what opens it (any of them), nothing where it is open."""
    failing = {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in sorted(set(problems))}
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        **({"description": words} if words else {}),
        "security": list(security),
        **({"parameters": list(parameters)} if parameters else {}),
        **({"requestBody": {"required": True, "content": {JSON: {"schema": body}}}} if body is not None else {}),
        "responses": {str(status): found for status, found in answers.items()} | failing,
    }


def document(title: str, words: str, *, paths: Schema, schemas: Schema, security_schemes: Schema) -> Schema:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": VERSION, "description": words},
        "paths": paths,
        "components": {
            "securitySchemes": security_schemes,
            "responses": {f"Problem{status}": _problem(status) for status in _WORDS},
            "schemas": {"Problem": _PROBLEM, **schemas},
        },
    }


def add_description(app: Flask, path: str, described: Schema) -> None:
    """Serve the description at `path`, to anybody."""

    @app.get(path)
    def openapi() -> Any:
        return jsonify(described)


def described_itself(tag: str) -> Schema:
    """The operation that `add_description` adds."""
    return {"get": operation("openapi", "This description", {200: answer("OpenAPI 3.1.", ANY_OBJECT)}, tag=tag)}


def _problem(status: int) -> Schema:
    response = answer(str(_WORDS[status]), ref("Problem"), PROBLEM)
    return response | ({"headers": _RETRY} if status in (429, 503) else {})
