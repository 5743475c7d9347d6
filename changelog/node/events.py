"""The log as events for programs and pages that listen: one pure function for both hops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from changelog.render import Columns, as_change

MOST_EVENTS = 100  # rows that are told one by one; more are told as one event
NOUNS = {
    "lora_payload_buffer": "payload",
    "batches": "batch",
    "cattle": "cattle",
    "pens": "pen",
    "weight_records": "weight",
    "pair_history": "pair",
    "users": "user",
}
VERBS = {"I": "created", "U": "updated", "D": "deleted"}


def events_of(rows: Sequence[Sequence[Any]], columns: Columns) -> list[tuple[str, dict[str, Any]]]:
    """The events (name, argument) that these log rows come to, masked."""
    if len(rows) > MOST_EVENTS:
        return [("changes", {"first": rows[0][0], "last": rows[-1][0], "count": len(rows)})]
    changes = [as_change(row, columns, masked=True) for row in rows]
    return [(_name(change), change) for change in changes if change["op"] in VERBS]


def _name(change: dict[str, Any]) -> str:
    noun, verb = NOUNS.get(change["table"], change["table"]), VERBS[change["op"]]
    if noun == "payload":
        done = change["op"] == "U" and change["new"].get("status") in ("processed", "error")
        verb = "received" if change["op"] == "I" else "processed" if done else verb
    return f"{noun}:{verb}"
