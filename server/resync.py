"""A fresh copy on demand, with the proof: compared before and after."""

from __future__ import annotations

import logging
from typing import Any

from changelog.errors import DamagedFile, Divergence, HistoryTrimmed, PositionMismatch
from server.follower import Follower
from server.road import Doubt
from server.state import SyncState
from server.store import Store
from server.verifier import CannotVerify, Verdict, remember

logger = logging.getLogger(__name__)


def resync(follower: Follower, store: Store, state: SyncState, json_export: bool, reason: str) -> dict[str, Any]:
    """Compare, fetch a new copy (the file, or the rows of the JSON export), compare again; returns what was found, ready for JSON."""
    before = follower.position()
    diverged_before: tuple[str, ...] = ()
    if before is not None:
        try:
            diverged_before = _verify(follower, store, state).differing
        except (PositionMismatch, HistoryTrimmed, Divergence) as exc:
            follower.refuse_stranger(exc)
            logger.warning("Database sync: the old copy cannot be compared: %s", exc.message)
    if json_export:
        follower.refill()
    else:
        follower.bootstrap(Doubt("asked", reason))
    verdict = _verify(follower, store, state)
    return {
        "before": str(before) if before else None,
        "after": str(verdict.position),
        "rows": verdict.rows,
        "diverged_before": list(diverged_before),
        "diverged_after": list(verdict.differing),
    }


def _verify(follower: Follower, store: Store, state: SyncState) -> Verdict:
    """Compare, without a repair, and remember the result. Raises Divergence where it cannot be done."""
    try:
        verdict = follower.compare()
    except CannotVerify as exc:
        raise Divergence(exc.cause.message) if isinstance(exc.cause, DamagedFile) else exc.cause from exc
    remember(store, state, verdict)
    level = logging.INFO if verdict.identical else logging.ERROR
    logger.log(level, "Compared with the Pi after sync: %s", verdict.sentence())
    return verdict
