"""The status of this machine's server, for the command line: of the running one, else of its files."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from changelog.node.settings import Settings
from server.replica import Replica
from server.store import Store

ASK_TIMEOUT = 3.0  # s
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


def local_status(settings: Settings) -> dict[str, Any] | None:
    """What the server that runs here says of itself, or None when none answers us."""
    host = ANY_ADDRESS.get(settings.server_bind, settings.server_bind)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{settings.server_port}/office/api/sync-status", timeout=ASK_TIMEOUT) as answer:
            return json.load(answer)["data"]
    except (OSError, ValueError, KeyError):
        return None


def stored_status(settings: Settings) -> dict[str, Any]:
    """The same of a server that does not run (or does not trust loopback), as far as its files know it."""
    store, replica = Store(settings.server_db), Replica(settings.replica_db)
    epoch, seq = replica.position()
    totals = store.totals()._asdict()
    replica.close()
    store.close()
    return {"running": False, "sync_interval": settings.db_sync_interval, **totals, "state": None, "epoch": epoch, "seq": seq}
