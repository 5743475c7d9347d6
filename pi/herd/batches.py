"""Batches, apart from what payloads make of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apsw

from pi.herd.rows import BATCHES, Row, delete_row, guarded_row, insert_row, read_row, update_row

REFERRING = {"animals": ("cattle", "batch_id"), "payloads": ("lora_payload_buffer", "batch_id")}


def add_batch(db: apsw.Connection, values: Mapping[str, Any], now: str) -> Row:
    """Make a batch, inducted today (UTC) unless `values` say otherwise, and return its row. Raises Conflict when the number is taken."""
    return insert_row(db, BATCHES, {"induction_date": now[:10], **values}, now)


def change_batch(
    db: apsw.Connection, batch_id: int, changes: Mapping[str, Any], now: str, expected: Mapping[str, Any] | None = None
) -> Row:
    """Give a batch the values of `changes` and return its row. Raises NotFound and Conflict."""
    return update_row(db, BATCHES, guarded_row(db, BATCHES, batch_id, expected), changes, now)


def delete_batch(db: apsw.Connection, batch_id: int) -> Row:
    """Delete a batch to which nothing refers and return the row that it had. Raises NotFound and Conflict."""
    return delete_row(db, BATCHES, read_row(db, BATCHES, batch_id), REFERRING)
