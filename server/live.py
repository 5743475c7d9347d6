"""Telling the browsers: what replay has written, as events of the farm, and how the replica is doing.

The sync thread says how far it has come and goes on at once; a thread of our own reads those rows from the replica and sends them out.
What a page is told is a hint to fetch itself again. It may come twice or be lost: a page compares positions, and looks now and then.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask

from changelog.errors import HistoryTrimmed
from changelog.node.events import events_of
from changelog.reader import read_log
from changelog.render import Columns, columns_of
from server.replica import Replica
from server.show import NEVER_SHOWN
from server.sockets import Sockets
from server.state import SyncState

MOST_ROWS = 1_000  # changes that are told in one go; after more a page is told to fetch itself again
LARGEST_EVENT = 16_384  # characters of JSON; a larger one goes out without its values
TURN = 0.5  # s between two looks at the state
STATUS_PAUSE = 1.0  # s between two status events at least
REVIEW_USERS = 20.0  # s between two looks whether all who listen still may
STOP_TIMEOUT = 2.0  # s

logger = logging.getLogger(__name__)

Span = tuple[int, int]  # seq before and after; 0 before where the log does not tell all


class Live:
    """The service that tells browsers what is new. `attach` it to the application before it starts."""

    def __init__(self, replica: Replica, state: SyncState) -> None:
        self._replica, self._state = replica, state
        self._sockets: Sockets | None = None
        self._news = threading.Condition()
        self._span: Span | None = None
        self._stopping = False
        self._told: Any = None  # what the last status event came to
        self._told_at = self._reviewed_at = -REVIEW_USERS
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def attach(self, app: Flask) -> None:
        """Serve sockets beside the pages of `app`."""
        self._sockets = Sockets(app, self._replica, lambda: ("status", self.status()))

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and every socket with it."""
        with self._news:
            self._stopping = True
            self._news.notify()
        if self._sockets is not None:
            self._sockets.close()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT)

    def applied(self, before: int, after: int) -> None:
        """Other rows can be read now: the replica went from seq `before` to `after` by replay, or with `before` 0 in another way.

        Returns at once; calls that come quicker than they are told are told as one.
        """
        with self._news:
            self._span = (before, after) if self._span is None else (min(self._span[0], before), after)
            self._news.notify()

    def sign_out(self, session: str) -> None:
        """This session has ended: so do its sockets."""
        if self._sockets is not None:
            self._sockets.sign_out(session)

    def status(self) -> dict[str, Any]:
        """Where the replica stands, as the argument of the event `status`."""
        facts = self._state.facts()
        lag = None if facts.lag_seconds is None else round(facts.lag_seconds, 3)
        told = {"state": facts.state, "epoch": facts.epoch, "seq": facts.seq, "head": facts.head}
        return told | {"lag_changes": facts.lag_changes, "lag_seconds": lag, "alarm": facts.alarm}

    def step(self, wait: float = TURN) -> None:
        """One turn: what has come within `wait` s, the status if it moved, and who should not listen any more."""
        with self._news:
            self._news.wait_for(lambda: self._span or self._stopping, wait)
            span, self._span = self._span, None
        sockets = self._sockets
        if sockets is None or not sockets.any:
            return  # whoever comes is told the position first
        if span is not None:
            for event, argument in self._events(*span):
                sockets.tell(event, argument)
                if event == "reload" or argument.get("table") == "users":
                    self._reviewed_at = -REVIEW_USERS
        self._tell_status(sockets)
        sockets.review_links()
        if time.monotonic() - self._reviewed_at >= REVIEW_USERS:
            sockets.review_users()
            self._reviewed_at = time.monotonic()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self.step()
            except Exception:  # one turn is lost, and the pages look by themselves
                logger.exception("the browsers could not be told")
                time.sleep(TURN)

    def _events(self, before: int, after: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """What these changes come to. Nothing is worth a failure here: in doubt a page fetches itself again."""
        if not 0 < before < after <= before + MOST_ROWS:
            yield "reload", {"seq": after}
            return
        try:
            with self._replica.read() as db:
                rows, columns = read_log(db, before, after, MOST_ROWS), columns_of(db)
            events = [_slim(event) for event in events_of(rows, _masked(columns))]
            yield from events or [("reload", {"seq": after})]  # nothing of the farm, yet the log went on: its schema changed
        except HistoryTrimmed:  # another file is in its place
            yield "reload", {"seq": after}
        except Exception:
            logger.exception("the changes from %d to %d cannot be told one by one", before, after)
            yield "reload", {"seq": after}

    def _tell_status(self, sockets: Sockets) -> None:
        """Send the status when it moved (a lag: by a second), and not twice within a second."""
        now, facts, status = time.monotonic(), self._state.facts(), self.status()
        key = {**status, "lag_seconds": int(status["lag_seconds"] or 0)}, facts.last_error, facts.progress, facts.fetched
        if key != self._told and now - self._told_at >= STATUS_PAUSE:
            self._told, self._told_at = key, now
            sockets.tell("status", status)


def _masked(columns: Columns) -> Columns:
    """The columns with a mask on those that are shown nowhere, even where nobody masked them."""
    return {key: [(name, pk, mask or name.endswith(NEVER_SHOWN)) for name, pk, mask in found] for key, found in columns.items()}


def _slim(event: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    name, argument = event
    if len(json.dumps(argument)) > LARGEST_EVENT:
        argument = {**argument, "old": None, "new": None}
    return name, argument
