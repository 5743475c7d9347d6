"""How the replica follows the Pi: state, lag, history, and what the changelog last recorded."""

from __future__ import annotations

from typing import Any

import apsw
from flask import flash, g, redirect, render_template, url_for

from changelog.errors import Forbidden
from changelog.rescue.lost import list_rescued
from server.login import signed_in
from server.office import office
from server.pages.routes import pages
from server.paging import Row, rows_of
from server.show import NEVER_SHOWN
from server.status import request_resync

RECENT_CHANGES = 25
HISTORY_LINES = 30


@pages.get("/office/replication")
@signed_in
def replication(db: apsw.Connection) -> str:
    """How the replica follows the Pi: state, lag, history, and what the changelog last recorded."""
    store, settings = office().store, office().settings
    return render_template(
        "replication.html",
        totals=store.totals(),
        history=store.history(HISTORY_LINES),
        changes=recent_changes(db),
        rescued=list_rescued(settings.data_dir),
        settings=settings,
    )


@pages.post("/office/replication/resync")
@signed_in
def resync(db: apsw.Connection) -> Any:
    """Ask the sync service for a bootstrap; admins only."""
    if not g.user.is_admin:
        raise Forbidden("A resync is for admins.")
    request_resync(f"asked for by {g.user.username}")
    flash("A fresh copy of the whole database was asked for. The pages go on with the old rows until it is here.")
    return redirect(url_for("pages.replication"))


def recent_changes(db: apsw.Connection, limit: int = RECENT_CHANGES) -> list[Row]:
    """The newest changes: seq, at, actor, tbl, op, key, and `columns` [(name, old, new)]."""
    newest = rows_of(db, "SELECT seq, at, actor, tbl, op, key FROM changelog ORDER BY seq DESC LIMIT ?", (limit,))
    since = newest[-1].seq if newest else 0
    details: dict[int, list[tuple[str, Any, Any]]] = {}
    for row in rows_of(db, "SELECT seq, col, old, new FROM changelog_audit WHERE seq>=?", (since,)):
        if not row.col.endswith(NEVER_SHOWN):  # shown nowhere, even where nobody masked it
            details.setdefault(row.seq, []).append((row.col, row.old, row.new))
    for row in newest:
        row.columns = details.get(row.seq, [])
    return newest
