"""Telling the browsers: what replay has written, as events of the farm, and how the replica is doing.

The sync thread says how far it has come and goes on at once; a thread of our own reads those rows from the replica and sends them out.
What a page is told is a hint to fetch itself again. It may come twice or be lost: a page compares positions, and looks now and then.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, request

from changelog.errors import Forbidden, HistoryTrimmed, Unauthorized, Unavailable
from changelog.node.events import Event, events_of
from changelog.node.sockets import Link, Sockets
from changelog.reader import read_log
from changelog.render import Columns, columns_of
from server.lag import LagHistory
from server.login import session_name, session_user
from server.replica import Replica
from server.show import NEVER_SHOWN
from server.state import SyncState

MOST_SOCKETS = 100  # browsers at once
MOST_ROWS = 1_000  # changes that are told in one go; after more a page is told to fetch itself again
LARGEST_EVENT = 16_384  # characters of JSON; a larger one goes out without its values
TURN = 0.5  # s between two looks at the state
STATUS_PAUSE = 1.0  # s between two status events at least
REVIEW = 20.0  # s between two looks whether all who listen still may
STOP_TIMEOUT = 2.0  # s

logger = logging.getLogger(__name__)

Span = tuple[int, int]  # seq before and after; 0 before where the log does not tell all


@dataclass(frozen=True, slots=True)
class Listener:
    """Who listens: the request that asked for it, which says so again whenever it is judged anew, and its session."""

    environ: dict[str, Any]
    session: str  # see `login.session_name`

    def __str__(self) -> str:
        """For the log."""
        return str(self.environ.get("REMOTE_ADDR"))


class News:
    """How far replay has come since somebody took it: calls that come quicker than they are taken are one."""

    def __init__(self) -> None:
        self._span: Span | None = None
        self._moved = threading.Condition()

    def put(self, before: int, after: int) -> None:
        """One step of replay. Returns at once."""
        with self._moved:
            self._span = (before, after) if self._span is None else (min(self._span[0], before), after)
            self._moved.notify()

    def take(self, wait: float) -> Span | None:
        """What was put, or will be within `wait` s."""
        with self._moved:
            self._moved.wait_for(lambda: self._span is not None, wait)
            span, self._span = self._span, None
        return span


class Live:
    """The service that tells browsers what is new. `attach` it to the application before it starts."""

    def __init__(self, replica: Replica, state: SyncState) -> None:
        self._replica, self._state = replica, state
        self.lag = LagHistory()
        self._app: Flask | None = None
        self._sockets: Sockets | None = None
        self._news = News()
        self._stopping = threading.Event()
        self._told: Any = None  # what the last status event came to
        self._told_at = self._reviewed_at = self._times_at = -REVIEW
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def attach(self, app: Flask) -> None:
        """Serve sockets beside the pages of `app`."""
        self._app, self._sockets = app, Sockets(app, self._admit, self._greet, MOST_SOCKETS)

    def start(self) -> None:
        """Begin."""
        if self._sockets is not None:
            self._sockets.start()
        self._thread.start()

    def stop(self) -> None:
        """End, and every socket with it; browsers come again by themselves."""
        self._stopping.set()
        if self._sockets is not None:
            self._sockets.stop()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT)

    def applied(self, before: int, after: int) -> None:
        """Other rows can be read now: the replica went from seq `before` to `after` by replay, or with `before` 0 in another way.

        Returns at once.
        """
        self._news.put(before, after)

    def sign_out(self, session: str) -> None:
        """This session has ended: so do its sockets."""
        self._dismiss(lambda listener: listener.session == session)

    def status(self) -> dict[str, Any]:
        """Where the replica stands, as the argument of the event `status`."""
        facts = self._state.facts()
        lag = None if facts.lag_seconds is None else round(facts.lag_seconds, 3)
        told: dict[str, Any] = {"state": facts.state, "epoch": facts.epoch, "seq": facts.seq, "head": facts.head}
        told |= {"lag_changes": facts.lag_changes, "lag_seconds": lag, "alarm": facts.alarm}
        return told | {"verifying": facts.verifying, "last_verify_at": facts.last_verify_at, "at": round(time.time(), 3)}

    def step(self, wait: float = TURN) -> None:
        """One turn: what has come within `wait` s, the status if it moved, who should not listen any more, and the log's times."""
        span = self._news.take(wait)
        self.lag.look(self._state)
        if self._sockets is None or not self._sockets.links:
            return  # whoever comes is told the position first
        if span is not None:
            events = events_between(self._replica, *span)
            self._tell(events)
            if any(event.name == "reload" or event.facts.get("table") == "users" for event in events):
                self._reviewed_at = -REVIEW
        self._tell_status()
        if time.monotonic() - self._reviewed_at >= REVIEW:
            self._review()
        self._read_times()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.step()
            except Unavailable as exc:  # there is no replica just now
                logger.debug("neither who listens is judged nor the log's times are read: %s", exc.message)
            except Exception:  # one turn is lost, and the pages look by themselves
                logger.exception("the browsers could not be told")
                self._stopping.wait(TURN)

    def _read_times(self) -> None:
        """Read the times of some more changes, so that the page of changes need not. Raises Unavailable."""
        if self._app is None or time.monotonic() < self._times_at:
            return
        with self._replica.read() as db:
            more = self._app.extensions["office"].timeline.warm(db)
        self._times_at = time.monotonic() + (0 if more else REVIEW)

    def _admit(self) -> Listener:
        """Who asks for a socket. Raises Forbidden, Unauthorized, and Unavailable where there is no replica yet."""
        if urlsplit(request.headers.get("Origin", "")).netloc != request.host:
            raise Forbidden("Only the pages of this server may listen here.")
        with self._replica.read() as db:
            user = session_user(db)
        if user is None or not session_name():
            raise Unauthorized("Sign in and load a page first.")
        return Listener(request.environ, session_name())

    def _greet(self, link: Link) -> None:
        assert self._sockets is not None
        self._sockets.tell([link], "status", self.status())

    def _tell(self, events: list[Event]) -> None:
        """Send events to everybody. Under the lock: who comes now is either among them, or greeted with the position behind them."""
        assert self._sockets is not None
        with self._sockets.lock:
            links = self._sockets.links
            for event in events:
                self._sockets.tell(links, event.name, event.facts)
        self._sockets.shed()

    def _tell_status(self) -> None:
        """Send the status when it moved (a lag: by a second), and not twice within a second."""
        now, facts, status = time.monotonic(), self._state.facts(), self.status()
        key = {**status, "at": None, "lag_seconds": int(status["lag_seconds"] or 0)}, facts.last_error, facts.progress, facts.fetched
        if key != self._told and now - self._told_at >= STATUS_PAUSE:
            self._told, self._told_at = key, now
            self._tell([Event("status", status)])

    def _review(self) -> None:
        """Dismiss those whose session has run out, or whose user has changed, was deactivated or deleted. Raises Unavailable."""
        assert self._app is not None
        with self._replica.read() as db:

            def is_over(listener: Listener) -> bool:
                assert self._app is not None
                with self._app.request_context(listener.environ):
                    return session_user(db) is None

            self._dismiss(is_over)
        self._reviewed_at = time.monotonic()

    def _dismiss(self, which: Callable[[Listener], bool]) -> None:
        """Tell these that their session is over, and then nothing more."""
        if self._sockets is None:
            return
        for link in self._sockets.links:
            if which(link.caller):
                self._sockets.tell([link], "signed-out", {})
                self._sockets.dismiss(link)


def events_between(replica: Replica, before: int, after: int) -> list[Event]:
    """What the changes after seq `before` up to `after` come to. Nothing is worth a failure here: in doubt a page fetches itself again."""
    reload = [Event("reload", {"seq": after})]
    if not 0 < before < after <= before + MOST_ROWS:
        return reload
    try:
        with replica.read() as db:
            rows, columns = read_log(db, before, after, MOST_ROWS), columns_of(db)
        return [_slim(event) for event in events_of(rows, _masked(columns))] or reload
    except HistoryTrimmed:  # another file is in its place
        return reload
    except Exception:
        logger.exception("the changes from %d to %d cannot be told one by one", before, after)
        return reload


def _masked(columns: Columns) -> Columns:
    """The columns with a mask on those that are shown nowhere, even where nobody masked them."""
    return {key: [(name, pk, mask or name.endswith(NEVER_SHOWN)) for name, pk, mask in found] for key, found in columns.items()}


def _slim(event: Event) -> Event:
    large = len(json.dumps(event.facts)) > LARGEST_EVENT
    return Event(event.name, {**event.facts, "old": None, "new": None}) if large else event
