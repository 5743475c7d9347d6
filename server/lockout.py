"""Who guesses passwords has to wait: counted by address and by user name, in memory, whether the Pi is there or not."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from changelog.errors import TooMany
from changelog.node.access import RateLimit

PER_SECOND = 0.1  # failures, in the long run; so nobody ever waits longer than 10 s for the next try
BURST = 10  # failures at once
KNOWN = 10_000  # pairs of name and address that are remembered as good; the one seen longest ago is forgotten first
LONGEST_NAME = 80  # characters of a name that count: no user has a longer one


class Failures:
    """Failed logins: after some from one address, or for one name from anywhere, the next has to wait. Successes cost nothing.

    An address from which a user has signed in before has a count of its own for this user: whatever others send, from other addresses or
    for other names, this user gets in from there.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back."""
        self._limit, self._clock = RateLimit(PER_SECOND, BURST, clock), clock
        self._closed: dict[str, float] = {}  # what is counted: until when
        self._good: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, name: str, address: str) -> None:
        """Raises TooMany with `retry_after` (s) while this name, or this address, has to wait."""
        with self._lock:
            waits = {counted: math.ceil(self._closed.get(counted, 0) - self._clock()) for counted in self._counted(name, address)}
        counted, wait = max(waits.items(), key=lambda item: item[1])
        if wait > 0:
            whose = "from this address" if counted.startswith("address") else "for this user name"
            raise TooMany(f"Too many failed logins {whose}: wait {wait} s and try again.", retry_after=wait)

    def failed(self, name: str, address: str) -> None:
        """One more failure."""
        with self._lock:
            for counted in self._counted(name, address):
                try:
                    self._limit.check(counted)
                except TooMany as exc:
                    now = self._clock()
                    self._closed = {known: until for known, until in self._closed.items() if until > now}
                    self._closed[counted] = now + float(str(exc.facts["retry_after"]))

    def succeeded(self, name: str, address: str) -> None:
        """This user signed in from here: no failures of others shut it out here."""
        with self._lock:
            pair = _pair(name, address)
            self._good[pair] = None
            self._good.move_to_end(pair)
            if len(self._good) > KNOWN:
                self._good.popitem(last=False)

    def _counted(self, name: str, address: str) -> list[str]:
        """Under which names a login of this user from this address is counted."""
        pair = _pair(name, address)
        return [pair] if pair in self._good else [f"address {address}", f"name {name[:LONGEST_NAME]}"]


def _pair(name: str, address: str) -> str:
    return f"pair {address} {name[:LONGEST_NAME]}"
