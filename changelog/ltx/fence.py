"""One shipper per place: who finds that somebody else has put a transaction there stops, and stays so until somebody decides.

A store that refuses a second file of a name is fence enough. Where it does not, a note in it names who ships, and is renewed; that is as
good as clocks and luck allow, so such a place should have one writer by other means too.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from changelog.connection import write_whole
from changelog.errors import Fenced
from changelog.ltx.store.names import LEVELS, Store, Stored

NOTE = "drover-shipper.json"
RENEW = 10.0  # s between two looks at the note
MARK = "fenced"
REMEDY = "if nothing else ships there any more: python -m pi ship --take-over"


@dataclass(frozen=True)
class Remote:
    """What a store has: its last transaction (0: none) and the newest file of level 0."""

    last: int
    newest: Stored | None


def survey(store: Store) -> Remote:
    """Look at a store. Raises what it raises."""
    levels = {level: store.list(level) for level in LEVELS}
    last = max((file.name.max_txid for files in levels.values() for file in files), default=0)
    return Remote(last, levels[0][-1] if levels[0] else None)


class Fence:
    """What keeps two shippers from one store apart; `folder` is the shipper's own."""

    def __init__(self, store: Store, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._mark, self._clock = store, folder / MARK, clock
        self._owner = _owner(folder / "owner")
        self._looked_at = -RENEW
        self._other: bytes | None = None  # the note of somebody else, as it was at the last look
        self.cause = self._mark.read_text() if self._mark.exists() else ""  # why this side has to stand still

    def close(self, cause: str) -> None:
        """From now on nothing is shipped, after a restart neither."""
        self.cause = f"{cause}; {REMEDY}"
        with suppress(OSError):  # on a full disk it is found out again
            write_whole(self._mark, self.cause.encode())

    def open(self) -> None:
        """Somebody has decided that it is us who ship."""
        self._mark.unlink(missing_ok=True)
        self.cause = ""
        self._write()

    def check(self, first: int, last: int) -> bool:
        """Compare the store with what is staged here: the transactions `first` to `last`, which wait, or `last` alone.

        False when transactions before `first` are missing there. Raises Fenced when it has later ones.
        """
        remote = survey(self._store)
        if remote.last > last:
            raise Fenced(f"{self._store.url} has transaction {remote.last:x}, and the last one that was made here is {last:x}")
        return remote.last >= first - 1

    def hold(self) -> bool:
        """To be asked before each file: False when it is too early to know. Raises Fenced when somebody else ships."""
        if self._store.conditional or self._clock() - self._looked_at < RENEW:
            return self._other is None
        found, self._looked_at = self._store.note(NOTE), self._clock()
        if found is None or _owner_in(found) == self._owner or found == self._other:  # nobody's, ours, or of one that is gone
            self._write()
            self._other = None
            return True
        if self._other is not None:
            raise Fenced(f"somebody else ships to {self._store.url}")
        self._other = found  # whoever renews it is alive
        return False

    def _write(self) -> None:
        if not self._store.conditional:
            self._store.put_note(NOTE, json.dumps({"owner": self._owner, "turn": uuid.uuid4().hex}).encode())


def _owner(path: Path) -> str:
    """The name of this side, made at its first start."""
    if not path.exists() or not path.read_text():
        write_whole(path, uuid.uuid4().hex.encode())
    return path.read_text()


def _owner_in(note: bytes) -> str | None:
    try:
        return str(json.loads(note)["owner"])
    except (ValueError, KeyError, TypeError):
        return None
