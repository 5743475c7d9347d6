"""A primary in a file as the other side of a comparison: the same questions and answers as over HTTP, in the same bytes."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Any, Protocol

import apsw

from changelog.primary import Primary
from changelog.replay import position_of, replay
from changelog.verify import answers
from changelog.verify.answers import Answer
from changelog.wire import decode_frame, encode_frame


class Readable(Protocol):
    """A primary in a file, or in the mirror of a store."""

    def snapshot(self) -> AbstractContextManager[apsw.Connection]:
        """A read transaction on a database whose capture is complete."""


class Answers:
    """Satisfies `check.Asked`. `moved` counts the bytes of questions and answers."""

    def __init__(self, primary: Readable) -> None:
        self._primary = primary
        self.moved = 0

    def digests(self, ranges: int, log_from: int) -> Answer:
        """Every table, in ranges."""
        with self._primary.snapshot() as db:
            return self._sent(answers.digests(db, ranges, log_from))

    def parts(self, asked: dict[str, Any]) -> Answer:
        """The parts of some ranges."""
        with self._primary.snapshot() as db:
            return self._sent(answers.parts(db, self._sent(asked)))

    def rows(self, asked: dict[str, Any]) -> Answer:
        """The rows of some ranges."""
        with self._primary.snapshot() as db:
            return self._sent(answers.rows(db, self._sent(asked)))

    def _sent(self, facts: dict[str, Any]) -> Any:
        text = json.dumps(facts, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        self.moved += len(text)
        return json.loads(text)


class LocalPrimary(Answers):
    """A primary in a file, which can bring the replica to where it answers."""

    def __init__(self, primary: Primary) -> None:
        super().__init__(primary)
        self._frames = primary

    def pull(self, replica: apsw.Connection, seq: int) -> None:
        """Bring the replica to exactly this seq."""
        header, found = self._frames.frame(position_of(replica), upto=seq)
        replay(replica, *decode_frame(encode_frame(header, found)))
