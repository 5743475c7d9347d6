"""Indexes that only the replica has, for its pages: the Pi's SD card does not pay for them, and the schema hash leaves them out.

Names start with `changelog_local_`. The sync service makes them after each bootstrap; a page works without them, only slower.
"""

LOCAL_INDEXES = (
    "CREATE INDEX IF NOT EXISTS changelog_local_batches_newest ON batches(induction_date DESC, id DESC)",
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_of_batch ON cattle(batch_id)",  # in the order of their ids
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_counts ON cattle(batch_id, status)",
    "CREATE INDEX IF NOT EXISTS changelog_local_cattle_in_pen ON cattle(pen_id, status)",
    "CREATE INDEX IF NOT EXISTS changelog_local_payloads_by_status ON lora_payload_buffer(status)",
    "CREATE INDEX IF NOT EXISTS changelog_local_changelog_by_key ON changelog(tbl, key)",
)
