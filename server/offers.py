"""What the Pi's socket brings: hints that the sync thread uses where they fit, and the pulled position stays the truth."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from changelog.compression import DICTIONARY_BYTES, unpack
from changelog.errors import BrokenFrame
from changelog.position import Position

LARGEST_FRAME = 2 * 64 * 1024  # bytes: 64 kB of rows, header and end
WAITING = 100  # offers; of more than that none is kept, for a pull brings all of them at once
LONGEST_WAIT = 2.0  # s: between two of them the service looks at its file, and whether something is due

_EPOCH = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Offer:
    """The Pi has come to `head`; `frame` leads there from the head before, None where it is too large to be pushed."""

    epoch: str
    head: int
    frame: bytes | None

    def is_behind(self, position: Position | None) -> bool:
        """Whether a replica at `position` has it already."""
        return position is not None and self.epoch == position.epoch and self.head <= position.seq


class Hearing:
    """What is heard on one connection: the Pi names a dictionary there, and then packs its frames with it (see pi/push.py)."""

    def __init__(self) -> None:
        self._dictionary: bytes | None = None

    def offer(self, argument: object) -> Offer | None:
        """The argument of a `changelog` event; None where it is malformed."""
        if not isinstance(argument, dict) or not {"epoch", "head"} <= argument.keys() or not {"frame", "packed"} & argument.keys():
            return None
        epoch, head = argument["epoch"], argument["head"]
        if type(epoch) is not str or not _EPOCH.fullmatch(epoch) or type(head) is not int or not 0 <= head < 2**63:
            return None
        if (dictionary := argument.get("dictionary")) is not None:
            if not _is_sized(dictionary, DICTIONARY_BYTES):
                return None
            self._dictionary = dictionary
        frame = self._unpacked(argument["packed"]) if "packed" in argument else argument["frame"]
        if (frame is None and "packed" in argument) or (frame is not None and not _is_sized(frame, LARGEST_FRAME)):
            return None
        return Offer(epoch, head, frame)

    def _unpacked(self, packed: object) -> bytes | None:
        if not isinstance(packed, bytes) or self._dictionary is None:
            return None
        try:
            return unpack(packed, self._dictionary, LARGEST_FRAME)
        except BrokenFrame:
            return None


def _is_sized(value: object, most: int) -> bool:
    return type(value) is bytes and 0 < len(value) <= most


class Offers:
    """Between the socket's thread, which puts, and the sync thread, which takes. Knows when the next pull is due all the same."""

    def __init__(self, interval: float, wake: threading.Event, clock: Callable[[], float] = time.monotonic) -> None:
        """`interval`: seconds between pulls while the socket is up. `wake` is set when there is something for the sync thread."""
        self._interval, self._wake, self._clock = interval, wake, clock
        self._lock = threading.Lock()
        self._waiting: list[Offer] = []
        self._pull_at = clock()
        self.up = False  # whether the socket is

    def put(self, offer: Offer) -> None:
        """Keep it for the sync thread; of too many, keep that a pull is needed."""
        with self._lock:
            self._waiting.append(offer)
            if len(self._waiting) > WAITING:
                self._waiting.clear()
                self._pull_at = self._clock()

    def link(self, up: bool) -> None:
        """The socket came up, or went down: nobody knows what was missed meanwhile, so a pull is due."""
        if up != self.up:
            self.up = up
            self.pull_soon()
            self._wake.set()

    def take(self) -> list[Offer]:
        """All that wait, in the order in which they came."""
        with self._lock:
            taken, self._waiting = self._waiting, []
        return taken

    @property
    def pull_is_due(self) -> bool:
        """Whether it is time to ask the Pi, whatever was pushed."""
        return self._clock() >= self._pull_at

    def pull_soon(self) -> None:
        """The next turn is to pull."""
        with self._lock:
            self._pull_at = self._clock()

    def pulling(self) -> None:
        """A pull begins: the next one is due an interval later, unless something happens meanwhile."""
        with self._lock:
            self._pull_at = self._clock() + self._interval

    def wait(self) -> bool:
        """Wait for an offer, a job or the next pull, not for long; whether something came."""
        came = self._wake.wait(max(0.0, min(LONGEST_WAIT, self._pull_at - self._clock())))
        self._wake.clear()
        return came
