"""A sign of life in the store: who sees nothing else can tell a database that is quiet from a shipper that is dead.

The note says up to which moment the newest transaction there is the newest one at all. Litestream passes it over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from changelog.errors import BadRequest
from changelog.ltx.store.names import Store, as_text, from_text

NOTE = "drover-complete.json"
EVERY = 60.0  # s between two signs, while nothing else is put


@dataclass(frozen=True)
class Complete:
    """Until `at_ms` (since 1970, by the primary's clock) nothing was committed after the transaction `txid`."""

    txid: int
    at_ms: int


def give_sign(store: Store, complete: Complete) -> None:
    """Write it. Raises what the store raises."""
    store.put_note(NOTE, json.dumps({"txid": f"{complete.txid:016x}", "at": as_text(complete.at_ms)}).encode())


def last_sign(store: Store) -> Complete | None:
    """The last one, None where there is none. Raises what the store raises."""
    try:
        found = json.loads(store.note(NOTE) or b"null")
        return Complete(int(found["txid"], 16), from_text(found["at"]))
    except (ValueError, KeyError, TypeError, AttributeError, BadRequest):
        return None
