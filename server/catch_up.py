"""Fetching a frame over a link that may break: piece after piece into the staging, as long as each try brings one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from changelog.errors import BrokenFrame, HistoryTrimmed, PositionMismatch, Unreachable
from changelog.position import Position
from changelog.staging import Staging
from changelog.wire import Header, Page
from server.pi_client import PiClient

Fetched = Callable[[Header, Position, int], object]  # told now and then: the frame, the last row of it that is here, how many are new


class CatchUp:
    """Fetches frames for the replica at `replica`, and keeps what is here of them beside it."""

    def __init__(
        self,
        client: PiClient,
        replica: Path,
        fetched: Fetched = lambda header, reached, rows: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """`stopping`: when true, a broken link is the end; what is here waits for the next start."""
        self._client, self._fetched, self._stopping = client, fetched, stopping
        self._path = replica.with_name(f"{replica.name}.staged")
        self._made: Staging | None = None

    def frame(self, at: Position, *, wait: int = 0, upto: int | None = None) -> tuple[Header, Iterator[Page]]:
        """The whole frame that leads a replica at `at` to the Pi's head (or `upto`), for `replay`; `discard` it then.

        With `wait` (s) the Pi answers when there is one. What an earlier call or process has fetched is gone on with. Raises
        PositionMismatch, HistoryTrimmed, BrokenFrame, Unreachable and what else the Pi refuses with; where a link breaks again and again,
        only when a try brought nothing.
        """
        staging = self._staging
        if not staging.begins_at(at) or (upto is not None and staging.header is not None and staging.header.upto != upto):
            staging.discard()
        while not staging.whole:
            reached = staging.reached
            try:
                self._fetch_more(at, wait, upto)
            except (PositionMismatch, HistoryTrimmed):
                if staging.header is None:
                    raise
                staging.discard()  # a part of a history that the Pi has no more; whether ours is, its next answer tells
            except (Unreachable, BrokenFrame):
                if staging.reached == reached or self._stopping():
                    raise
        return staging.frame()

    @property
    def begun(self) -> bool:
        """Whether something is here that waits for the rest of its frame."""
        return self._staging.header is not None

    def discard(self) -> None:
        """Forget what was fetched."""
        self._staging.discard()

    def close(self) -> None:
        """Let go of the file; it stays for the next process."""
        if self._made is not None:
            self._made.close()
            self._made = None

    @property
    def _staging(self) -> Staging:
        """Made when it is needed: the file may belong to another process until then."""
        if self._made is None:
            self._made = Staging(self._path)
        return self._made

    def _fetch_more(self, at: Position, wait: int, upto: int | None) -> None:
        staging, begun = self._staging, self._staging.header
        asked = (staging.reached or at, begun.upto, begun.upto_check) if begun else (at, upto, None)
        with self._client.frame(*asked, wait=0 if begun else wait, applied=at) as (header, pieces):
            staging.receive(header, pieces, lambda rows: self._fetched(header, staging.reached or at, rows))
