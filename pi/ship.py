"""`python -m pi ship`: farm.db goes to a bucket or a folder, in the format of Litestream."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click

from changelog.errors import ConfigError, DroverError
from changelog.ltx.status import read_status
from changelog.ltx.store.names import Store
from changelog.ltx.store.place import open_store
from changelog.node.logs import start_logging
from changelog.node.metrics import Metric, counted, gauge
from changelog.node.settings import Settings, prepare_data_dir

logger = logging.getLogger(__name__)


@click.command()
@click.option("--take-over", is_flag=True, help="Ship although somebody else did: after what is there a whole database follows.")
@click.pass_obj
def ship(settings: Settings, take_over: bool) -> None:
    """Ship every commit to LITESTREAM_BUCKET, until a signal ends it.

    It is a process of its own beside `python -m pi serve`. A store that is away is waited for.
    """
    from changelog.ltx.ship import Shipper  # the process that serves has no use for all that

    store = store_of(settings)
    prepare_data_dir(settings)
    start_logging(settings, "ship")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    try:
        shipper = Shipper(settings.farm_db, store, settings.ship_max_backlog)
        if take_over:
            shipper.take_over()
        shipper.run(stopping)
    except DroverError as exc:
        logger.error("nothing is shipped: %s", exc.message)
        sys.exit(1)


def store_of(settings: Settings) -> Store:
    """Where the settings say that the database goes. Raises ConfigError when they do not, or name no place."""
    bucket, path = settings.litestream_bucket, settings.litestream_path
    if not bucket:
        raise ConfigError("LITESTREAM_BUCKET is empty: set the name of a bucket, or a folder such as file:///mnt/backup")
    if "://" not in bucket and not bucket.startswith(("/", ".", "~")):
        bucket = f"s3://{bucket}"
    try:
        whole = bucket if "://" in bucket else str(Path(bucket).expanduser())
        return open_store(f"{whole.rstrip('/')}/{path.strip('/')}".rstrip("/"), settings.litestream_endpoint, settings.litestream_region)
    except DroverError as exc:
        raise ConfigError(f"LITESTREAM_BUCKET: {exc.message}") from exc


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
