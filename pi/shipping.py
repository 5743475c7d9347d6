"""What the process that serves tells of the one that ships."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from changelog.ltx.status import read_status
from changelog.node.metrics import Metric, counted, gauge


def metrics(path: Path, now: float) -> Iterator[Metric]:
    """What the shipper of the database at `path` tells of itself; nothing when there never was one. `now`: seconds since 1970."""
    told = read_status(path)
    if told is None:
        return
    status, runs = told
    yield gauge("drover_ship_running", "1 if the shipper runs.", runs)
    yield gauge("drover_ship_last_object", "The last transaction that was put into the bucket.", status.txid)
    age = max(0.0, now - status.shipped_at) if status.shipped_at else 0.0
    yield gauge("drover_ship_last_object_age_seconds", "Seconds since that; it grows while nothing is committed.", age)
    yield counted("drover_ship_objects", "Objects put into the bucket since the shipper started.", status.objects)
    yield counted("drover_ship_bytes", "Their bytes.", status.bytes)
    yield gauge("drover_ship_pending_objects", "Objects that wait for the bucket.", status.pending_objects)
    yield gauge("drover_ship_pending_bytes", "Their bytes.", status.pending_bytes)
    yield counted("drover_ship_errors", "Attempts that failed since the shipper started.", status.errors)
    yield gauge("drover_ship_fenced", "1 if it stands still because somebody else ships to the same place.", status.fenced)
    trouble = "1 if what is in the bucket cannot be merged and tidied up: the cause is in status.json."
    yield gauge("drover_ship_upkeep_failing", trouble, bool(status.upkeep))


def for_health(path: Path) -> dict[str, object] | None:
    """The same for the answer to /api/sync/health: no place, no cause, nothing secret."""
    told = read_status(path)
    if told is None:
        return None
    status, runs = told
    return {
        "state": status.state if runs or status.fenced else "stopped",
        "txid": status.txid,
        "shipped_at": status.shipped_at,
        "pending_objects": status.pending_objects,
        "pending_bytes": status.pending_bytes,
        "errors": status.errors,
    }
