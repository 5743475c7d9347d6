"""What the Pi tells at once: a socket on its own port says what was committed, to replicas the log itself, to others what it means.

`changelog` {epoch, head, frame}: `frame` is what a pull after the previous head would return, or None when that is large; whoever is not
exactly at its start pulls. Who sends `X-Frame-Packing: deflate` is given a `dictionary` with its first head, and then `packed` frames in
the place of frames (`pack` of changelog/compression.py): a commit of one row takes a fifth so. Domain events (`batch:created`, ...:
changelog/node/events.py) go to clients that name no X-Replica-Id, because a replica makes them from its own log. A push is a hint:
whatever is lost here, the next pull brings.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from dataclasses import dataclass, field

import apsw
from flask import Flask, request

from changelog.compression import pack
from changelog.errors import DroverError, HistoryTrimmed, PositionMismatch
from changelog.install import masks_of
from changelog.node.events import Event, changes, events_of
from changelog.node.sockets import Link, Sockets
from changelog.position import Position
from changelog.primary import Primary
from changelog.reader import frame_header, log_rows
from changelog.render import columns_of
from changelog.values import Value
from changelog.wire import FACTS, Header, encode_frame
from pi.keys import Keys

FRAME_ROWS = 1_000  # with more, only the head is told
FRAME_BYTES = 64 * 1024  # the same
SAMPLE_ROWS = 4  # of the log that stand in the dictionary of packed frames, which each connection is sent
SAMPLE_BYTES = 1024  # of values in them, at most
TBL = FACTS.index("tbl")
PACKING = "deflate"  # the one that we know
SPACING = 0.0002  # s and client between two pushes: when commits rain, they are told together
REVIEW = 1.0  # s between two looks whether the keys of those who listen still count, where no key has changed
RETRY = 1.0  # s between two looks at a file that cannot be read
ROLE = "replica"  # of a key with which one may listen

logger = logging.getLogger(__name__)

Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who listens: the name of its key, of the replica ("" where it is none), how it takes frames, and the key, which is never printed."""

    key: str
    replica: str
    packing: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class News:
    """What was committed since the last push."""

    head: Position
    frame: bytes | None
    events: list[Event]


class Push:
    """The service that pushes what is committed to the file of `primary` to those who listen on the sockets of `app`."""

    def __init__(self, app: Flask, primary: Primary, keys: Keys, most: int) -> None:
        """`most` sockets at once. Only a key of the role replica, or one that covers it, may listen."""
        self.pushed = 0  # heads that were told, each to everybody
        self._primary, self._keys = primary, keys
        self._reviewed = (-1, 0.0)  # the version of the keys by which those who listen were last judged, and when (time.monotonic())
        self._told: Position | None = None  # the head that everybody was told; None while nobody listens
        self._dictionary: bytes | None = None  # the one of all who listen; None while nobody does
        self._taught: weakref.WeakSet[Link] = weakref.WeakSet()  # those who have it
        self._failure = ""
        self._listened = threading.Event()  # somebody listens, or did until lately
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)

        def admit() -> Caller:
            name, asked = keys.admit(ROLE).name, request.headers
            return Caller(name, asked.get("X-Replica-Id", ""), asked.get("X-Frame-Packing", ""), asked.get("X-API-Key", ""))

        self.sockets = Sockets(app, admit, self._greet, most)

    def start(self) -> None:
        """Begin."""
        self.sockets.start()
        self._thread.start()

    def stop(self) -> None:
        """End all sockets."""
        self._stopped.set()
        self._listened.set()
        self._primary.commits.release()
        self.sockets.stop()
        if self._thread.is_alive():
            self._thread.join(RETRY + 0.5)

    def step(self) -> bool:
        """Tell what is new. False when nobody had to be told anything. Raises what reading the file raises."""
        with self.sockets.lock:
            links = self.sockets.links
            if not links:
                self._told = self._dictionary = None
                self._listened.clear()
                return False
            after = self._told
            if after is None:  # the file could not be read when they came
                self._told = self._primary.head()
                self._tell_head(links, self._told, None)
                return True
        news = read_news(self._primary, after, with_events=any(not link.caller.replica for link in links))
        if news is None:
            return False
        with self.sockets.lock:
            self._told = news.head
            links = self.sockets.links
            self._tell_head(links, news.head, news.frame)
            others = [link for link in links if not link.caller.replica]
            for event in news.events if others else ():
                self.sockets.tell(others, event.name, event.facts)
        self.pushed += 1
        self.sockets.shed()
        self._stopped.wait(SPACING * len(links))
        return True

    def _greet(self, link: Link) -> None:
        """Tell a new client where the log stands; what it is told next follows that."""
        self._listened.set()
        try:
            self._told = self._told or self._primary.head()
            if link.caller.packing == PACKING and self._dictionary is None:
                self._dictionary = sample(self._primary)
        except (DroverError, apsw.Error) as exc:
            self._failed(exc)  # it is told as soon as the file can be read
            return
        facts: dict[str, object] = {"epoch": self._told.epoch, "head": self._told.seq, "frame": None}
        if link.caller.packing == PACKING:
            self._taught.add(link)
            facts["dictionary"] = self._dictionary
        self.sockets.tell([link], "changelog", facts)

    def _tell_head(self, links: list[Link], head: Position, frame: bytes | None) -> None:
        facts: dict[str, object] = {"epoch": head.epoch, "head": head.seq}
        taught = [link for link in links if frame and link in self._taught]
        if taught and frame and self._dictionary:
            self.sockets.tell(taught, "changelog", facts | {"packed": pack(frame, self._dictionary)})
        self.sockets.tell([link for link in links if link not in taught], "changelog", facts | {"frame": frame})

    def _run(self) -> None:
        seen = -1
        while not self._stopped.is_set():
            if not self._listened.wait(RETRY):
                continue  # nobody asks what is new, so the file need not be watched
            before, seen = seen, self._primary.commits.moved(seen, RETRY)
            if self._stopped.is_set():
                return
            try:
                self._review()
                if seen == before and not self._failure:
                    continue
                self.step()
                self._failure = ""
            except (DroverError, apsw.Error) as exc:
                self._failed(exc)
                self._stopped.wait(RETRY)
            except Exception:  # what nobody foresaw must not end what the replicas hear
                self._failure = "unforeseen"
                logger.exception("a push failed")
                self._stopped.wait(RETRY)

    def _review(self) -> None:
        """Who listens with a key that was revoked meanwhile hears no more, not even what was committed since."""
        version, now = self._keys.version(), time.monotonic()
        if version == self._reviewed[0] and now - self._reviewed[1] < REVIEW:  # somebody may have been let in while the last look was made
            return
        for link in self.sockets.links:
            if not self._keys.still_admits(link.caller.secret, ROLE):
                logger.info("a client is cut off, its key counts no more caller=%s", link.caller)
                self.sockets.dismiss(link)
        self._reviewed = (version, now)

    def _failed(self, exc: Exception) -> None:
        """Remember that there is something to tell, and say why once."""
        cause = str(exc) or type(exc).__name__
        if cause != self._failure:
            logger.warning("nothing can be pushed, trying again cause=%s", cause)
        self._failure = cause


def read_news(primary: Primary, after: Position, with_events: bool) -> News | None:
    """What leads from `after` to the newest commit, None when that is it. Raises what `Primary.snapshot` raises."""
    with primary.snapshot() as db:
        head = Position.of_head(db)
        if head == after:
            return None
        try:
            header = frame_header(db, after)
        except (PositionMismatch, HistoryTrimmed):
            return News(head, None, [])  # another history: who listens finds out by pulling
        rows = _small_rows(db, header)
        columns = columns_of(db) if rows and with_events else {}
    frame = b"".join(encode_frame(header, rows)) if rows else b""
    if not rows or len(frame) > FRAME_BYTES:
        return News(head, None, [changes(after.seq + 1, head.seq)])
    return News(head, frame, events_of(rows, columns) if with_events else [])


def sample(primary: Primary) -> bytes:
    """What a frame looks like just now, with some rows: a dictionary for the next ones. Raises what `Primary.snapshot` raises.

    None is of a table with a masked column: the length of what is packed would tell an onlooker how much of it stands in what he has sent.
    """
    with primary.snapshot() as db:
        head, masks = Position.of_head(db), masks_of(db)
        newest, size = [], 0
        for row in log_rows(db, "WHERE seq>? ORDER BY seq DESC", (head.seq - SAMPLE_ROWS,)):
            if any(mask.startswith(f"{row[TBL]!s}.") for mask in masks):
                continue
            size += _size(row)
            if size > SAMPLE_BYTES:
                break
            newest.append(row)
        return b"".join(encode_frame(frame_header(db, head), newest))[: 2 * SAMPLE_BYTES]


def _small_rows(db: apsw.Connection, header: Header) -> list[Row]:
    """The rows of a frame, none when they are too many or too large."""
    if header.upto - header.after > FRAME_ROWS:
        return []
    rows, size = [], 0
    for row in log_rows(db, "WHERE seq>? AND seq<=? ORDER BY seq", (header.after, header.upto)):
        size += _size(row)
        if size > FRAME_BYTES:
            return []
        rows.append(row)
    return rows if len(rows) == header.upto - header.after else []


def _size(row: Row) -> int:
    return sum(len(value) for value in row if isinstance(value, str | bytes))
