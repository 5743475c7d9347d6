"""The status of this machine's server, for the command line: of the running one, else of its files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import requests

from changelog.errors import Conflict, Unavailable
from changelog.node.settings import Settings
from server.replica import Replica
from server.state import SyncState
from server.store import Store
from server.sync import SyncService

ASK_TIMEOUT = 3.0  # s
RESYNC_TIMEOUT = 900.0  # s
VERIFY_TIMEOUT = 1800.0  # s
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


def resync_here_or_there(settings: Settings, json_export: bool) -> dict[str, Any]:
    """A resync by the server that runs here, else in this process. Raises what it raises, or Unavailable when that server refuses us."""
    path = f"/office/api/resync?wait=1{'&from=json' if json_export else ''}"
    return _here_or_there(settings, lambda sync: sync.resync(json_export, "asked for on the command line"), path, RESYNC_TIMEOUT)


def bootstrap_here_or_there(settings: Settings, force: bool) -> dict[str, Any]:
    """The newest state of the bucket, installed by the server that runs here, else in this process. Raises likewise."""
    path = f"/office/api/resync?from=bucket&force={int(force)}"
    return _here_or_there(settings, lambda sync: sync.bootstrap_from_bucket(force), path, RESYNC_TIMEOUT)


def verify_here_or_there(settings: Settings, repair: bool) -> dict[str, Any]:
    """A comparison with the Pi by the server that runs here, else in this process. Raises likewise."""
    path = f"/office/api/verify?repair={int(repair)}"
    return _here_or_there(settings, lambda sync: sync.verify(repair).facts(), path, VERIFY_TIMEOUT)


def _here_or_there(settings: Settings, here: Callable[[SyncService], dict[str, Any]], there: str, timeout: float) -> dict[str, Any]:
    store, replica = Store(settings.server_db), Replica(settings.replica_db)
    sync = SyncService(settings, replica, store, SyncState(settings.stale_after))
    try:
        try:
            sync.lock.acquire()
        except Conflict:
            return _ask(settings, there, timeout, post=True)["data"]
        return here(sync)
    finally:
        sync.lock.release()
        sync.follower.close()
        replica.close()
        store.close()


def local_status(settings: Settings) -> dict[str, Any] | None:
    """What the server that runs here says of itself, or None when none answers us."""
    try:
        return _ask(settings, "/office/api/sync-status", ASK_TIMEOUT)["data"]
    except Unavailable:
        return None


def stored_status(settings: Settings) -> dict[str, Any]:
    """The same of a server that does not run (or does not trust loopback), as far as its files know it."""
    store, replica = Store(settings.server_db), Replica(settings.replica_db)
    epoch, seq = replica.position()
    totals, last = store.totals()._asdict(), store.last_verify
    replica.close()
    store.close()
    verified = {"last_verify": last and last.result, "last_verify_at": last and last.at, "last_verify_ok": last and last.ok}
    return {"running": False, "sync_interval": settings.db_sync_interval, **totals, "state": None, "epoch": epoch, "seq": seq} | verified


def _ask(settings: Settings, path: str, timeout: float, post: bool = False) -> dict[str, Any]:
    """The JSON answer of the server on this machine. Raises Unavailable with what it said."""
    host = ANY_ADDRESS.get(settings.server_bind, settings.server_bind)
    session = requests.Session()
    session.trust_env = False
    try:
        with session:
            answer = session.request("POST" if post else "GET", f"http://{host}:{settings.server_port}{path}", timeout=timeout)
        body = answer.json()
    except (requests.RequestException, ValueError) as exc:
        raise Unavailable(f"the server on this machine does not answer: {exc}") from exc
    if not answer.ok:
        raise Unavailable(f"the server on this machine refused: {body.get('message')}")
    return body
