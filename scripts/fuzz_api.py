#!/usr/bin/env python3
"""Asks both HTTP APIs for whatever their descriptions allow and forbid, by schemathesis: `scripts/fuzz_api.py 200`.

A Pi (TLS, gunicorn) and a server that follows it run meanwhile. Each caller (a key of each role, none, a program elsewhere) sends to each
operation what lies at the edges of its description (unless --no-edges), and so many random requests. Exit code 1 unless every answer is one
that the description names, in status, media type, headers and body; what it forbids is refused; no key is ignored; every error is a problem
document; no log has a traceback; and both sides end equal.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from changelog.node.problems import PROBLEM
from pi.keys import ROLES
from scripts.large_farm import ROOT, USER, Farm, new_farm

SEED = 1
ELSEWHERE = {"X-Forwarded-For": "192.0.2.7"}  # then nobody is taken for a program on this machine
WITH_FRAMES = ("/api/sync/changes", "/api/sync/full-export")
FRAMES = "application/x-ndjson, application/vnd.sqlite3"
SHOWN = 400  # characters of an answer that is not as it should be
REFUSALS = ["400", "401", "403", "404", "405", "409", "413", "414", "415", "429", "431"]  # of what is not as described
# That valid data is taken depends on what is in the tables, and what the printable characters are, no JSON schema tells.
LEFT_OUT = ("positive_data_acceptance", "use_after_free", "ensure_resource_availability", "object_level_authorization")


@dataclass(frozen=True)
class Caller:
    """Who asks which API: with these headers, and `parameters` that are always the same."""

    api: str
    name: str
    headers: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()  # paths


@dataclass
class Result:
    """What came of all requests."""

    requests: Counter[str] = field(default_factory=Counter)  # by caller
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: dict[str, str] = field(default_factory=dict)  # what, and an example


@contextmanager
def running_farm(folder: Path) -> Iterator[Farm]:
    """A Pi and a server that run, with some rows."""
    with new_farm(folder) as farm:
        farm.start()
        farm.fill(30)
        yield farm


def callers(farm: Farm) -> list[Caller]:
    """A key of each role and none, on both sides."""
    keys = {role: farm.pi.command("key", "add", f"{role} of the fuzzer", "--role", role).stdout.strip() for role in ROLES}
    token = farm.server.command("token", "add", "fuzzer").stdout.strip()
    return [
        *(Caller("pi", role, {"X-API-Key": key}) for role, key in keys.items()),
        Caller("pi", "office for an admin", {"X-API-Key": keys["office"]}, {"X-Actor": USER}),
        Caller("pi", "replica, frames", {"X-API-Key": keys["replica"], "Accept": FRAMES}, only=WITH_FRAMES),
        Caller("pi", "no key", ELSEWHERE),
        Caller("server", "token", {"Authorization": f"Bearer {token}", **ELSEWHERE}),
        Caller("server", "this machine"),
        Caller("server", "nobody", ELSEWHERE),
    ]


def fuzz(farm: Farm, caller: Caller, examples: int, edges: bool, result: Result) -> None:
    """Send `examples` random requests, and with `edges` those at the edges, to each operation."""
    role = farm.pi if caller.api == "pi" else farm.server
    described = json.loads((ROOT / caller.api / "openapi.json").read_text())
    if caller.only:
        described["paths"] = {path: described["paths"][path] for path in caller.only}
    schema = schemathesis.openapi.from_dict(described, config=_config(role.url, role.data / "pi-cert.pem", caller, examples, edges))
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _judge(event.recorder, caller, result)
        elif isinstance(event, events.NonFatalError | events.FatalError):
            error = event.value if isinstance(event, events.NonFatalError) else event.exception
            result.wrong.setdefault(f"{caller.api} {caller.name}: schemathesis failed", repr(error)[:SHOWN])


def _config(url: str, certificate: Path, caller: Caller, examples: int, edges: bool) -> SchemathesisConfig:
    phases = {"examples": {"enabled": False}, "stateful": {"enabled": False}, "coverage": {"enabled": edges}}
    return SchemathesisConfig.from_dict(
        {
            "base-url": url,
            "headers": caller.headers,
            "tls-verify": str(certificate),
            "seed": SEED,
            "request-timeout": 60,
            "continue-on-failure": True,
            "parameters": {"wait": "0"} | caller.parameters,  # nobody waits half a minute for a change
            "generation": {"max-examples": examples, "deterministic": True, "database": "none"},
            "phases": phases | {"fuzzing": {"enabled": examples > 0}},
            "checks": {name: {"enabled": False} for name in LEFT_OUT} | {"negative_data_rejection": {"expected-statuses": REFUSALS}},
        }
    )


def _judge(recorder: Any, caller: Caller, result: Result) -> None:
    """Count what was sent, and keep what was answered wrongly."""
    who = f"{caller.api} {caller.name}"
    result.requests[who] += len(recorder.interactions)
    for case_id, found in recorder.interactions.items():
        asked = f"{found.request.method} {found.request.uri} as {who}: {found.request.body!r}"
        if found.response is None:
            result.wrong.setdefault(f"{recorder.label}: no answer", asked)
            continue
        status, body = found.response.status_code, found.response.content
        result.statuses[status] += 1
        kind = (found.response.headers.get("content-type") or [""])[0]
        if status >= 400 and (kind != PROBLEM or (found.request.method != "HEAD" and not json.loads(body or b"{}").get("message"))):
            result.wrong.setdefault(f"{recorder.label}: an error that is no problem document", f"{asked} -> {status} {body[:SHOWN]!r}")
        for check in recorder.checks.get(case_id, ()):
            if check.failure_info is not None:
                failure = check.failure_info.failure
                shown = f"{asked} -> {status} {body[:SHOWN]!r}\n{failure.message[:SHOWN]}"
                result.wrong.setdefault(f"{recorder.label}: {failure.title}", shown)


@click.command(help=__doc__)
@click.argument("examples", type=click.IntRange(0), default=100)
@click.option("--edges/--no-edges", default=True)
@click.option("--caller", "only", multiple=True, help="The name of a caller; may be given again. Without it, all.")
def main(examples: int, edges: bool, only: tuple[str, ...]) -> None:
    logging.disable(logging.WARNING)
    began, result = time.monotonic(), Result()
    with tempfile.TemporaryDirectory() as folder, running_farm(Path(folder)) as farm:
        for caller in (each for each in callers(farm) if not only or each.name in only):
            fuzz(farm, caller, examples, edges, result)
            print(f"{result.requests[f'{caller.api} {caller.name}']:>8} requests  {caller.api}: {caller.name}", flush=True)
        for role in farm.roles:
            if "Traceback" in role.log:
                result.wrong[f"{role.name}: a traceback in its log"] = role.log[role.log.index("Traceback") :][:2_000]
        try:
            farm.assert_identical(60)
        except AssertionError as exc:
            result.wrong["both sides end equal"] = str(exc)
    for what, example in result.wrong.items():
        print(f"\n{what}\n  {example}")
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(result.statuses.items()))
    print(f"\n{statuses}\n{result.requests.total()} requests in {time.monotonic() - began:.0f} s: {len(result.wrong)} faults")
    sys.exit(bool(result.wrong))


if __name__ == "__main__":
    main()
