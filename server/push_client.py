"""The server's ear at the Pi: a socket over which the Pi says what is new as soon as it is committed.

Whatever goes wrong here costs time and never a change: the sync service pulls all the same. So it is said once and tried again for ever.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from functools import partial

from changelog.errors import DroverError
from changelog.node.settings import Settings
from server.credentials import Credentials
from server.offers import Hearing, Offer
from server.pi_socket import PiSocket

FIRST_BACKOFF = 0.25  # s; it doubles
LONGEST_BACKOFF = 10.0  # s, or DB_SYNC_INTERVAL where that is less
LOOK = 2.0  # s between two looks whether another key, or another certificate, counts by now
LASTED = 5.0  # s that a connection must last for the back-off to begin anew
STOP_TIMEOUT = 1.0  # s

logger = logging.getLogger(__name__)


class PushClient:
    """Listens in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        replica_id: str,
        *,
        offer: Callable[[Offer], object],
        linked: Callable[[bool], object],
        ignored: Callable[[], object],
        credentials: Credentials | None = None,
    ) -> None:
        """Key and trust are those of `credentials`, else of `settings`.

        `offer` is given what is new, `linked` told that the socket is up or down, `ignored` that an event was malformed."""
        self._settings, self._offer, self._linked, self._ignored = settings, offer, linked, ignored
        self._credentials, self._replica_id = credentials or Credentials(settings), replica_id
        self._longest = min(LONGEST_BACKOFF, settings.db_sync_interval)
        self._stopping = threading.Event()
        self._socket: PiSocket | None = None
        self._said = ""
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Hang up and end."""
        self._stopping.set()
        if self._socket is not None:
            self._socket.ended.set()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT)

    def _run(self) -> None:
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                if self._listen():
                    self._say("down", "the connection to it ended")
            except DroverError as exc:
                self._say(str(exc.facts.get("state")), exc.message)
            except Exception as exc:  # what nobody foresaw ends one connection, not the service
                logger.debug("the socket broke", exc_info=exc)
                self._say("broke", f"{type(exc).__name__}: {exc}")
            backoff = FIRST_BACKOFF if time.monotonic() - began >= LASTED else min(2 * backoff, self._longest)
            self._stopping.wait(backoff * random.uniform(0.5, 1.0))

    def _listen(self) -> bool:
        """One connection, from its beginning to its end, or until another key or trust counts; whether the former. Raises Unreachable."""
        credential = self._credentials.present(again=True)
        received = partial(self._received, Hearing())
        self._socket = connection = PiSocket(self._settings, credential.context, received, self._ignored)
        try:
            connection.open({"X-API-Key": credential.key, "X-Replica-Id": self._replica_id, "X-Frame-Packing": "deflate"})
            self._linked(True)
            self._say("up")
            while not connection.ended.wait(LOOK):
                if self._credentials.present() is not credential:
                    return False
            return True
        finally:
            self._linked(False)
            connection.hang_up()

    def _received(self, hearing: Hearing, argument: object) -> None:
        offer = hearing.offer(argument)
        if offer is None:
            self._ignored()
        else:
            self._offer(offer)

    def _say(self, state: str, why: str = "") -> None:
        """One line each time the state changes; that a Pi cannot be reached after its connection ended is no change."""
        if self._stopping.is_set() or state == self._said or (state, self._said) == ("unreachable", "down"):
            return
        self._said = state
        if state == "up":
            logger.info("The Pi pushes its changes over a socket")
        else:
            logger.warning("The Pi does not push its changes, they are asked for until it does: %s", why)
