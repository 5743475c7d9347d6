"""What a payload means for batches and animals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apsw

from changelog.connection import one
from changelog.errors import BadRequest, Conflict, TooLarge
from pi.herd.rows import remember_pair
from pi.lora import Reading, parse_payload

SOURCES = {"hxb": "Barn (HXB)", "hxe": "Export (HXE)"}
BATCH_NOTES = "Auto-created from LoRa payload"
STATUSES = ("received", "processed", "error")


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a payload: its row, and whether it was a repetition of one that is there already."""

    id: int
    status: str
    duplicate: bool
    received_at: str  # the first time
    times_received: int
    error_message: str | None = None


def receive(
    db: apsw.Connection, reading: Reading, now: str, *, by: str = "lora", rssi: float | None = None, snr: float | None = None
) -> Stored:
    """Store a payload and, unless it is a repetition, process it at once."""
    stored = store_payload(db, reading, now, rssi, snr)
    if stored.duplicate:
        return stored
    error = process_payload(db, stored.id, str(reading).encode("ascii"), now, by)
    return Stored(stored.id, "error" if error else "processed", False, stored.received_at, stored.times_received, error)


def store_payload(db: apsw.Connection, reading: Reading, now: str, rssi: float | None = None, snr: float | None = None) -> Stored:
    """Put a payload into the buffer with the status `received`.

    The same as the newest one that named either of its tags is a radio repeating itself: only counted on that row. But when that one ended
    in `error`, it is pending again.
    """
    newest = _newest_of_tags(db, reading)
    if newest is not None and newest[1]:
        payload_id, _, status, received_at, times = newest
        again = "status='received', error_message=NULL, processed_at=NULL," if status == "error" else ""
        db.execute(
            f"UPDATE lora_payload_buffer SET {again} times_received=times_received+1, updated_at=? WHERE id=?",
            (now, payload_id),
        )
        return Stored(payload_id, "received" if again else status, not again, received_at, times + 1)
    db.execute(
        """INSERT INTO lora_payload_buffer(raw_payload, source_type, batch_number, lf_tag, uhf_tag, received_at, rssi, snr,
             created_at, updated_at) VALUES(?,?,?,?,?,?,?,?,?,?)""",
        (str(reading), reading.source_type, reading.batch_number, reading.lf_tag, reading.uhf_tag, now, rssi, snr, now, now),
    )
    return Stored(db.last_insert_rowid(), "received", False, now, 1)


def process_payload(db: apsw.Connection, payload_id: int, raw: bytes, now: str, by: str = "lora") -> str | None:
    """Make batch and animal say what the payload `raw` said, and mark its row `processed`; or `error`, then the reason is returned."""
    db.execute("SAVEPOINT payload")
    try:
        _process(db, payload_id, parse_payload(raw), now, by)
        reason = None
    except (BadRequest, TooLarge, Conflict, apsw.ConstraintError, UnicodeDecodeError) as exc:
        db.execute("ROLLBACK TO payload")
        reason = str(exc)
        db.execute(
            "UPDATE lora_payload_buffer SET status='error', error_message=?, processed_at=?, updated_at=? WHERE id=?",
            (reason, now, now, payload_id),
        )
    db.execute("RELEASE payload")
    return reason


def process_received(db: apsw.Connection, limit: int, now: str, by: str = "lora") -> int:
    """Process up to `limit` payloads that stand in `received`, oldest first; returns how many there were."""
    # As bytes: what a shell wrote may be a number, or text that is not UTF-8.
    sql = "SELECT id, CAST(raw_payload AS BLOB) FROM lora_payload_buffer WHERE status='received' ORDER BY id LIMIT ?"
    waiting: Any = db.execute(sql, (limit,)).fetchall()
    for payload_id, raw in waiting:
        process_payload(db, payload_id, raw, now, by)
    return len(waiting)


def any_received(db: apsw.Connection) -> bool:
    """Whether a payload stands in `received`."""
    return one(db, "SELECT 1 FROM lora_payload_buffer WHERE status='received' LIMIT 1") is not None


def _process(db: apsw.Connection, payload_id: int, reading: Reading, now: str, by: str) -> None:
    batch_id = _apply(db, reading, now, by)
    parts = (reading.source_type, reading.batch_number, reading.lf_tag, reading.uhf_tag)
    done = "status='processed', batch_id=?, error_message=NULL, processed_at=?, updated_at=?"
    # SQLite writes the indexes of all columns that are named anew, also where they get the value that they have.
    there = "WHERE id=? AND (source_type, batch_number, lf_tag, uhf_tag) IS (?,?,?,?)"
    db.execute(f"UPDATE lora_payload_buffer SET {done} {there}", (batch_id, now, now, payload_id, *parts))
    if not db.changes():
        named = "source_type=?, batch_number=?, lf_tag=?, uhf_tag=?"
        db.execute(f"UPDATE lora_payload_buffer SET {named}, {done} WHERE id=?", (*parts, batch_id, now, now, payload_id))


def _newest_of_tags(db: apsw.Connection, reading: Reading) -> Any:
    """id, whether it is the same, status, received_at and times_received of the newest payload that named either tag, or None."""
    return db.execute(
        """SELECT id, raw_payload=?, status, received_at, times_received FROM lora_payload_buffer WHERE id = max(
             ifnull((SELECT max(id) FROM lora_payload_buffer WHERE lf_tag=?), 0),
             ifnull((SELECT max(id) FROM lora_payload_buffer WHERE uhf_tag=?), 0))""",
        (str(reading), reading.lf_tag, reading.uhf_tag),
    ).fetchone()


def _apply(db: apsw.Connection, reading: Reading, now: str, by: str) -> int:
    """The batch and animal of a reading, made or changed; returns the batch's id. Raises Conflict."""
    animals = db.execute(
        "SELECT id, cattle_id, batch_id, lf_tag, uhf_tag, status FROM cattle WHERE lf_tag=? OR uhf_tag=?",
        (reading.lf_tag, reading.uhf_tag),
    ).fetchall()
    if len(animals) > 1:
        carried = " and ".join(f"{name} (tags {lf_tag}, {uhf_tag})" for _, name, _, lf_tag, uhf_tag, _ in sorted(animals))
        raise Conflict(f"tags {reading.lf_tag} and {reading.uhf_tag} are of different animals: {carried}; correct their tags first")
    batch_id = _batch(db, reading, now)
    status = "active" if reading.source_type == "hxb" else "exported"
    if not animals:
        db.execute(
            """INSERT INTO cattle(batch_id, cattle_id, lf_tag, uhf_tag, status, induction_date, created_at, updated_at)
               VALUES(?,?,?,?,?,?,?,?)""",
            (batch_id, _free_name(db, reading), reading.lf_tag, reading.uhf_tag, status, now, now, now),
        )
        return batch_id
    animal_id: Any
    animal_id, _, old_batch, lf_tag, uhf_tag, old_status = animals[0]
    if (lf_tag, uhf_tag) != (reading.lf_tag, reading.uhf_tag):
        remember_pair(db, animal_id, now, by)
    # An exported animal stays in the batch of its induction: the payload's own row names the batch of the export.
    new = (batch_id if status == "active" else old_batch, reading.lf_tag, reading.uhf_tag, status)
    if new != (old_batch, lf_tag, uhf_tag, old_status):
        db.execute("UPDATE cattle SET batch_id=?, lf_tag=?, uhf_tag=?, status=?, updated_at=? WHERE id=?", (*new, now, animal_id))
    return batch_id


def _batch(db: apsw.Connection, reading: Reading, now: str) -> int:
    """The id of the reading's batch, which is made if it is new."""
    batch_id = one(db, "SELECT id FROM batches WHERE batch_number=?", (reading.batch_number,))
    if batch_id is None:
        db.execute(
            """INSERT INTO batches(batch_number, induction_date, source, source_type, notes, created_at, updated_at)
               VALUES(?,?,?,?,?,?,?)""",
            (reading.batch_number, now[:10], SOURCES[reading.source_type], reading.source_type, BATCH_NOTES, now, now),
        )
        batch_id = db.last_insert_rowid()
    return batch_id


def _free_name(db: apsw.Connection, reading: Reading) -> str:
    """`<batch>-<lf tag>`, with -2, -3... when an animal that carried this tag before has that name."""
    name = wanted = f"{reading.batch_number}-{reading.lf_tag}"
    count = 1
    while one(db, "SELECT 1 FROM cattle WHERE cattle_id=?", (name,)):
        count += 1
        name = f"{wanted}-{count}"
    return name
