"""Indexes that only the replica has, for its pages: the Pi's SD card does not pay for them, and the schema hash leaves them out.

Names start with `changelog_local_`. The sync service makes them one after another, after a bootstrap; a page works without them, only
slower.
"""

from __future__ import annotations

import logging
import math
import time

import apsw

from changelog.connection import rows

SORTER_KIB = 8_000  # memory for the rows that are sorted, and as much for the pages of the file

CHANGES_BY_KIND = "changelog_local_changelog_by_kind"  # costs a replay 5 to 10 % of its time, and 30 bytes a change
NORMAL = 1  # what SQLite calls so of `synchronous`
NAME = 5  # which word of the statements below is the name
OWNED = "tbl IN ('weight_records','pair_history')"

LOCAL_INDEXES = (
    "CREATE INDEX IF NOT EXISTS changelog_local_batches_newest ON batches(induction_date DESC, id DESC)",
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_of_batch ON cattle(batch_id)",  # in the order of their ids
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_counts ON cattle(batch_id, status)",
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_of_pen ON cattle(pen_id)",
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_in_pen ON cattle(pen_id, status)",
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_by_weight ON cattle(weight)",  # these and the next: the sorted list of all animals,
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_by_induction ON cattle(induction_date)",
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_of_status ON cattle(status)",  # and of those with a status
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_of_status_by_number ON cattle(status, cattle_id)",
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_of_status_by_weight ON cattle(status, weight)",
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_of_status_by_induction ON cattle(status, induction_date)",
    "CREATE INDEX IF NOT EXISTS changelog_local_weights_of_animal ON weight_records(cattle_id, recorded_at)",
    "CREATE INDEX IF NOT EXISTS changelog_local_payloads_by_status ON lora_payload_buffer(status)",
    "CREATE INDEX IF NOT EXISTS changelog_local_payloads_by_source ON lora_payload_buffer(source_type, status)",
    "CREATE INDEX IF NOT EXISTS changelog_local_payloads_by_time ON lora_payload_buffer(received_at, status)",
    "CREATE INDEX IF NOT EXISTS changelog_local_payloads_of_batch ON lora_payload_buffer(batch_number)",
    "CREATE INDEX IF NOT EXISTS changelog_local_payloads_repeated ON lora_payload_buffer(id) WHERE times_received>1",
    "CREATE INDEX IF NOT EXISTS changelog_local_changelog_by_key ON changelog(tbl, key)",
    f"CREATE INDEX IF NOT EXISTS {CHANGES_BY_KIND} ON changelog(tbl, actor, op, chg)",
    "CREATE INDEX IF NOT EXISTS changelog_local_changelog_schema ON changelog(op) WHERE op='X'",
    # Empty but for the rare update that gives a row another key: where it was before is found by it.
    "CREATE INDEX IF NOT EXISTS changelog_local_changelog_rekeyed ON changelog(tbl, n0) WHERE op='U' AND key IS NOT n0",
    # What was written about an animal in other tables, deleted rows too; the owner is their second column: see server/history.py.
    "CREATE INDEX IF NOT EXISTS changelog_local_changelog_by_owner ON changelog(tbl, n1) WHERE n1 IS NOT NULL AND " + OWNED,
    "CREATE INDEX IF NOT EXISTS changelog_local_changelog_by_old_owner ON changelog(tbl, o1) WHERE o1 IS NOT NULL AND " + OWNED,
)

logger = logging.getLogger(__name__)


def add_indexes(db: apsw.Connection, seconds: float = math.inf) -> bool:
    """Make those that are missing, in memory that does not grow with the tables; whether none is left.

    After `seconds` no other one is begun: at least one is made, and with 0 none.
    """
    until = time.monotonic() + seconds
    there = {name for (name,) in rows(db, "SELECT name FROM sqlite_schema WHERE type='index'")}
    missing = [sql for sql in LOCAL_INDEXES if sql.split()[NAME] not in there]
    cache, sync = db.pragma("cache_size"), db.pragma("synchronous")
    db.pragma("synchronous", min(sync, NORMAL))  # what a power cut takes away is made again; the next rows sync it with them
    db.pragma("temp_store", "FILE")  # with MEMORY the sorter keeps a whole table there, and is slower, too
    db.pragma("cache_size", -SORTER_KIB)
    try:
        for number, sql in enumerate(missing):
            if (number or not seconds) and time.monotonic() >= until:
                return False
            try:
                db.execute(sql)
            except apsw.SQLError as exc:  # another database than a farm's, or a column less: the pages are slower, nothing else
                logger.debug("no index for the pages sql=%s cause=%s", sql, exc)
        return True
    finally:
        db.pragma("synchronous", sync)
        db.pragma("temp_store", "MEMORY")
        db.pragma("cache_size", cache)
