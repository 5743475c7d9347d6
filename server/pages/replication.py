"""How the replica follows the Pi: state, lag, history, comparisons, and what an admin may ask of the sync service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import apsw
from flask import flash, g, redirect, render_template, request, url_for

from changelog.errors import Conflict, Forbidden
from changelog.rescue.lost import list_rescued
from server.audit.changes import newest_changes
from server.login import signed_in
from server.office import office
from server.pages.routes import pages
from server.status import request_resync, request_verify
from server.verifier import next_due

RECENT_CHANGES = 10


@pages.get("/office/replication")
@signed_in
def replication(db: apsw.Connection) -> str:
    """How the replica follows the Pi: state, lag, history, comparisons."""
    store, settings = office().store, office().settings
    due = next_due(datetime.now(UTC), settings.verify_at) if office().sync is not None else None
    return render_template(
        "replication.html",
        totals=store.totals(),
        history=store.history(request.args),
        changes=newest_changes(db, RECENT_CHANGES),
        rescued=list_rescued(settings.data_dir),
        settings=settings,
        next_verify=due and due.strftime("%Y-%m-%dT%H:%M:%S"),
    )


@pages.get("/office/replication/verify")
@signed_in
def confirm_verify(db: apsw.Connection) -> str:
    """Whether a comparison is really wanted; admins only. Raises Forbidden and Conflict."""
    _require_admin("A comparison")
    return render_template("verify.html")


@pages.post("/office/replication/verify")
@signed_in
def verify(db: apsw.Connection) -> Any:
    """Ask the sync service for a comparison; admins only. Raises Forbidden and Conflict."""
    _require_admin("A comparison")
    repair = request.form.get("repair") == "1"
    request_verify(repair)
    flash(f"A comparison with the Pi{', and the repair of what differs,' if repair else ''} was asked for. Its result comes to stand here.")
    return redirect(url_for("pages.replication"))


@pages.get("/office/replication/resync")
@signed_in
def confirm_resync(db: apsw.Connection) -> str:
    """Whether a bootstrap is really wanted; admins only. Raises Forbidden and Conflict."""
    _require_admin("A resync")
    return render_template("resync.html", size=office().settings.replica_db.stat().st_size)


@pages.post("/office/replication/resync")
@signed_in
def resync(db: apsw.Connection) -> Any:
    """Ask the sync service for a bootstrap; admins only. Raises Forbidden and Conflict."""
    _require_admin("A resync")
    request_resync(f"asked for by {g.user.username}")
    flash("A fresh copy of the whole database was asked for. The pages go on with the old rows until it is here.")
    return redirect(url_for("pages.replication"))


def _require_admin(what: str) -> None:
    if not g.user.is_admin:
        raise Forbidden(f"{what} is for admins.")
    if office().sync is None:
        raise Conflict(f"This server shows pages only (IS_SERVER_UI=False): it does not follow the Pi. {what} needs a server that does.")
