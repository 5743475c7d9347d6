"""How the replica is doing, for programs: sync-status, resync, verify, metrics, livez, readyz."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, request

from changelog.errors import Conflict, DroverError, Forbidden, Stranger, Unauthorized, Unavailable
from changelog.node.access import choice_argument, from_loopback
from server.arrival import arrival
from server.bucket import LateBucket
from server.lag import LagHistory
from server.login import check_csrf, session_user
from server.metrics import OfficeMetrics
from server.office import office
from server.sync import SyncService

BEARER = "Bearer "
SOURCES = ("file", "json", "bucket")  # of a resync
RESYNC_TIMEOUT = 900  # s
VERIFY_TIMEOUT = 1800  # s

status = Blueprint("status", __name__)


@status.get("/office/api/sync-status")
def sync_status() -> Any:
    """The sync service in numbers, for a session, a token or loopback."""
    _require_reader()
    return {"success": True, "data": status_data()}


@status.post("/office/api/resync")
def resync() -> Any:
    """Ask for a bootstrap: 202, and sync-status tells how it goes. With `wait=1` the answer comes when it is done, with the proof.

    With `from=bucket` the copy is the newest state of the bucket (an older one than what is here only with `force=1`); nothing proves it.
    """
    if not _by_key():
        if _session_role() != "admin":
            raise Unauthorized("A resync needs an admin's session, or `Authorization: Bearer TOKEN` with a token of this server.")
        check_csrf()
    source, force, wait = choice_argument(request.args, "from", SOURCES), _flag("force"), _flag("wait")
    if source == "bucket":
        sync = _sync()
        return {"success": True, "data": _done(sync.submit(lambda: sync.bootstrap_from_bucket(force)), RESYNC_TIMEOUT)}
    if wait:
        sync = _sync()
        return {"success": True, "data": _done(sync.submit(lambda: sync.resync(source == "json", "asked for by the API")), RESYNC_TIMEOUT)}
    request_resync("asked for by the API")
    return {"success": True, "message": "A bootstrap was asked for: see /office/api/sync-status."}, 202


@status.get("/office/api/arrival")
def arrival_data() -> Any:
    """How the first copy comes along, for anybody: before it is here there is nobody who could sign in. Then only that it is here."""
    try:
        with office().replica.read():
            return {"success": True, "data": {"arrived": True}}
    except Unavailable:
        now = arrival(office().state.facts())
        return {"success": True, "data": {"arrived": False, "said": f"{now.sentence} {now.in_the_way}", "progress": now.progress}}


@status.get("/office/api/lag")
def lag() -> Any:
    """How far the replica was behind the Pi in the last hour, sampled every few seconds; empty where this server follows nobody."""
    _require_reader()
    live = office().live
    return {"success": True, "data": (live.lag if live else LagHistory()).series()}


@status.get("/metrics")
def metrics() -> Response:
    """The figures for Prometheus, for whom sync-status answers too."""
    _require_reader()
    shown: OfficeMetrics = current_app.extensions["metrics"]
    return shown.response()


@status.post("/office/api/verify")
def verify() -> Any:
    """Compare with the Pi now, and with `repair=1` mend what differs; the answer comes when it is done, and says what was found."""
    if not _by_key():
        if _session_role() != "admin":
            raise Unauthorized("A verify needs an admin's session, or `Authorization: Bearer TOKEN` with a token of this server.")
        check_csrf()
    repair, sync = _flag("repair"), _sync()
    return {"success": True, "data": _done(sync.submit(lambda: sync.verify(repair).facts()), VERIFY_TIMEOUT)}


@status.get("/livez")
def livez() -> Any:
    """200 as long as the process answers."""
    return {"success": True}


@status.get("/readyz")
def readyz() -> Any:
    """200 when pages can be read and are not older than READY_MAX_LAG seconds. Raises Unavailable.

    A Pi that is refused is a no at once: its rows will not come until somebody decides, and another replica may follow the right one.
    """
    parts = office()
    with parts.replica.read():
        facts = parts.state.facts()
    if facts.state == "refused":
        raise Unavailable("The Pi that answers is refused and the rows stand still: sync-status and the log say why.")
    if facts.state == "pages-only" or (facts.lag_seconds is not None and facts.lag_seconds <= parts.settings.ready_max_lag):
        return {"success": True, "state": facts.state}
    raise Unavailable(f"The replica is {facts.state} and behind the Pi: {facts.last_error or 'it is catching up'}.")


def status_data() -> dict[str, Any]:
    """The document's fields first, then where the replica stands."""
    parts, facts = office(), office().state.facts()
    epoch, seq = (facts.epoch, facts.seq) if facts.seq is not None else parts.replica.position()
    return {
        "running": parts.sync is not None and parts.sync.running,
        "sync_interval": parts.settings.db_sync_interval,
        **_totals(),
        "state": facts.state,
        "source": facts.source,
        "bucket_at": facts.bucket_at,
        "epoch": epoch,
        "seq": seq,
        "head": facts.head,
        "lag_changes": facts.lag_changes,
        "lag_seconds": None if facts.lag_seconds is None else round(facts.lag_seconds, 3),
        "push": facts.push,
        "last_error": facts.last_error,
        "alarm": facts.alarm,
        "verifying": facts.verifying,
        "last_verify": facts.last_verify,
        "last_verify_at": facts.last_verify_at,
        "last_verify_ok": facts.last_verify_ok,
    }


def request_resync(reason: str) -> None:
    """Hand the wish to the sync service. Raises Conflict where there is none."""
    _sync().request_resync(reason)


def request_verify(repair: bool) -> None:
    """Hand the wish for a comparison to the sync service; its result comes to stand in the state. Raises Conflict where there is none."""
    sync = _sync()
    sync.submit(lambda: sync.verify(repair))


def _sync() -> SyncService:
    sync = office().sync
    if sync is None:
        raise Conflict("This server shows pages only (IS_SERVER_UI=False): nothing here can fetch a copy.")
    return sync


def _done(job: Future[Any], seconds: float) -> Any:
    """What came of a job of the sync service. Raises Conflict where somebody has to decide, and Unavailable for all else."""
    try:
        return job.result(seconds)
    except (Conflict, Stranger, LateBucket) as exc:
        raise Conflict(exc.message) from exc
    except TimeoutError as exc:
        raise Unavailable(f"This is not done after {seconds} s and goes on: see /office/api/sync-status.") from exc
    except DroverError as exc:  # such as a 401 of the Pi, which is none of ours
        raise Unavailable(exc.message) from exc


def _flag(name: str) -> bool:
    return choice_argument(request.args, name, ("0", "1")) == "1"


def _totals() -> dict[str, Any]:
    totals = office().store.totals()
    order = ("last_sync_time", "total_syncs", "successful_syncs", "failed_syncs", "total_records_synced")
    return {name: getattr(totals, name) for name in order}


def _require_reader() -> None:
    """Raises Unauthorized unless the caller has a token or a session, or is a program on this machine."""
    if not _by_key() and not _session_role():
        raise Unauthorized("Sign in, or send `Authorization: Bearer TOKEN` with a token of `python -m server token add NAME`.")


def _by_key() -> bool:
    """Whether the caller has a token, or is a program on this machine."""
    header = request.headers.get("Authorization", "")
    if header.startswith(BEARER):
        return office().store.is_token(header.removeprefix(BEARER).strip())
    if not from_loopback(request, office().settings.trust_loopback):
        return False
    if request.method == "POST":
        _refuse_foreign_page()
    return True


def _refuse_foreign_page() -> None:
    # A page of anybody, open in a browser on this machine, posts from loopback too; browsers always name its origin.
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise Forbidden("A page of another site sent this.")


def _session_role() -> str | None:
    """The role of the session's user, or None."""
    try:
        with office().replica.read() as db:
            user = session_user(db)
    except Unavailable:
        return None
    return user.role if user else None
