"""What the office serves to programs, described with the constants that its routes use. `scripts/describe_api.py` writes it."""

from __future__ import annotations

from typing import get_args

from changelog.node.openapi import (
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
    described_itself,
    document,
    operation,
    or_null,
    parameter,
    success,
)
from server.login import COOKIE
from server.state import Source, State
from server.status import SOURCES

PATH = "/office/api/openapi.json"
WORDS = (
    "The replica of Drover, for programs: how it is doing, and what may be asked of its sync service. The farm's data is on the pages"
    " and in their CSV, and in the file replica.db. Errors are problem documents (RFC 9457) whose `message` names the cause."
    " A token is made by `python -m server token add NAME`. A program on the same machine needs nothing (TRUST_LOOPBACK)."
)
OPENED: list[Schema] = [{"token": []}, {"session": []}, {}]  # by whom; and by a program on the same machine
READING = (401, 503)
ASKING = (400, 401, 403, 409, 503)  # of the sync service


def described() -> Schema:
    """The OpenAPI document of the office."""
    paths = {
        "/office/api/sync-status": {"get": _sync_status()},
        "/office/api/lag": {"get": _lag()},
        "/office/api/arrival": {"get": _arrival()},
        "/office/api/resync": {"post": _resync()},
        "/office/api/verify": {"post": _verify()},
        "/livez": {"get": operation("livez", "Does the process answer?", {200: answer("It does.", success())}, tag="health")},
        "/readyz": {"get": _readyz()},
        "/metrics": {"get": _metrics()},
        PATH: described_itself("health"),
    }
    schemes = {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "of a browser; a POST needs X-CSRF-Token too"},
    }
    return document("Drover: the office", WORDS, paths=paths, schemas={}, security_schemes=schemes)


def _sync_status() -> Schema:
    status: dict[str, Schema] = {
        "running": FLAG,
        "sync_interval": NUMBER,
        "last_sync_time": or_null(TIME),
        "total_syncs": WHOLE,
        "successful_syncs": WHOLE,
        "failed_syncs": WHOLE,
        "total_records_synced": WHOLE,
        "state": {"enum": list(get_args(State))},
        "source": {"enum": list(get_args(Source)), "description": "where the rows come from just now"},
        "bucket_at": or_null(TIME),
        "epoch": or_null(EPOCH),
        "seq": or_null(SEQ),
        "head": or_null(SEQ) | {"description": "the Pi's newest known change"},
        "lag_changes": or_null(WHOLE),
        "lag_seconds": or_null(NUMBER),
        "push": FLAG | {"description": "whether the Pi's socket is up"},
        "last_error": or_null(TEXT),
        "alarm": or_null(TEXT),
        "verifying": or_null(TIME),
        "last_verify": or_null(TEXT),
        "last_verify_at": or_null(TIME),
        "last_verify_ok": or_null(FLAG),
    }
    reply = answer("The service in numbers, and where the replica stands.", success(data=an_object(status)))
    return operation("sync_status", "How the replica is doing", {200: reply}, READING, tag="status", security=OPENED)


def _lag() -> Schema:
    series = an_object(
        {
            "every": NUMBER | {"description": "seconds between two samples"},
            "kept": NUMBER | {"description": "seconds in all"},
            "at": a_list(NUMBER | {"description": "UNIX time"}),
            "changes": a_list(or_null(WHOLE)),
            "seconds": a_list(or_null(NUMBER)),
        }
    )
    summary = "How far the replica was behind the Pi in the last hour"
    reply = answer("The samples, as columns.", success(data=series))
    return operation("lag", summary, {200: reply}, READING, tag="status", security=OPENED)


def _arrival() -> Schema:
    facts = {"arrived": FLAG, "said": TEXT, "progress": {"type": ["array", "null"], "description": "bytes that are here, and of how many"}}
    reply = answer("Whether it is here, or how far it is.", success(data=an_object(facts, optional=("said", "progress"))))
    return operation("arrival", "How the first copy comes along", {200: reply}, (503,), tag="status")


def _flag(name: str, words: str) -> Schema:
    return parameter(name, {"enum": ["0", "1"], "default": "0"}, words)


def _resync() -> Schema:
    texts = {"before": or_null(TEXT), "after": or_null(TEXT), "rows": WHOLE}
    texts |= {"diverged_before": a_list(TEXT), "diverged_after": a_list(TEXT), "source": TEXT, "as_of": or_null(TEXT)}
    done = an_object(texts, optional=("rows", "diverged_before", "diverged_after", "source", "as_of"))
    asked = success(message=TEXT)
    return operation(
        "resync",
        "Fetch a fresh copy of the farm",
        {
            200: answer("It is here, compared before and after.", success(data=done)),
            202: answer("It was asked for.", asked),
        },
        ASKING,
        tag="sync",
        security=OPENED,
        parameters=(
            _flag("wait", "1: the answer comes when the copy is here"),
            parameter("from", {"enum": list(SOURCES), "default": "file"}, "json: by the JSON export, with wait=1 only"),
            _flag("force", "1, with from=bucket: take an older state than what is here too"),
        ),
    )


def _verify() -> Schema:
    members = {"identical": FLAG, "mended": FLAG, "snapshot": FLAG, "reason": or_null(TEXT), "moved": WHOLE, "seconds": NUMBER, "at": TIME}
    return operation(
        "verify",
        "Compare with the Pi, and mend what differs",
        {200: answer("What was found.", success(data=an_object(members)))},
        ASKING,
        tag="sync",
        security=OPENED,
        parameters=(_flag("repair", "1: mend what differs"),),
    )


def _readyz() -> Schema:
    reply = answer("They can.", success(state={"enum": list(get_args(State))}))
    return operation("readyz", "Can pages be read, and are they recent?", {200: reply}, (503,), tag="health")


def _metrics() -> Schema:
    reply = answer("The figures.", TEXT, "text/plain", more=("application/openmetrics-text",))
    return operation("metrics", "Figures for Prometheus", {200: reply}, READING, tag="health", security=OPENED)
