"""The description of the Pi's API, made from the constants and checks that its routes use. `scripts/describe_api.py` writes it."""

from __future__ import annotations

from typing import Any

from changelog.node.openapi import Schema, described_itself, document
from pi.openapi import joining, reading, writing

PATH = "/api/openapi.json"
WORDS = (
    "The primary of Drover: what replicas, radios and programs ask of a Raspberry Pi. Errors are problem documents (RFC 9457) whose"
    " `message` names the cause. Values that JSON cannot hold exactly (blobs, integers beyond 2^53, text that is not UTF-8, infinities)"
    " come in one-key envelopes: see changelog/README.md. The roles of a key stand at each operation; a key is made by"
    " `python -m pi key add NAME --role ROLE` on the Pi. Pushes come over Socket.IO, at /socket.io/ on the same port."
)


def described() -> Schema:
    """The OpenAPI document of the Pi."""
    paths: dict[str, Any] = {**reading.paths(), **writing.paths(), **joining.paths(), PATH: described_itself("health")}
    key: Schema = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    return document("Drover: the Pi", WORDS, paths=paths, schemas={**reading.SCHEMAS, **writing.SCHEMAS}, security_schemes={"key": key})
