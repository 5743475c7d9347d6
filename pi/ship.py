"""`python -m pi ship`: farm.db goes to a bucket or a folder, in the format of Litestream."""

from __future__ import annotations

import logging
import signal
import sys
import threading

import click

from changelog.errors import ConfigError, DroverError
from changelog.ltx.ship import Shipper
from changelog.ltx.store.names import Store
from changelog.ltx.store.place import store_at
from changelog.memory import give_back_what_is_freed
from changelog.node.logs import start_logging
from changelog.node.settings import Settings, prepare_data_dir

NO_PLACE = 2  # exit code: systemd does not try that again

logger = logging.getLogger(__name__)


@click.command()
@click.option("--take-over", is_flag=True, help="Ship although somebody else did: after what is there a whole database follows.")
@click.pass_obj
def ship(settings: Settings, take_over: bool) -> None:
    """Ship every commit to LITESTREAM_BUCKET, until a signal ends it.

    It is a process of its own beside `python -m pi serve`. A store that is away is waited for.
    """
    try:
        store = store_of(settings)
    except ConfigError as exc:
        click.echo(f"error: {exc.message}", err=True)
        sys.exit(NO_PLACE)
    give_back_what_is_freed()
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
    return store_at(settings.litestream_bucket, settings.litestream_path, settings.litestream_endpoint, settings.litestream_region)
