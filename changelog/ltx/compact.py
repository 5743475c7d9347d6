"""What keeps a bucket small: files merged into larger ones, a whole database once a day, and the old ones taken away.

Levels, times and retention are those of Litestream 0.5. It works from the store's own files, so any machine that reaches the store can do
it, but only one should: whoever ships.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from changelog.errors import Conflict, DamagedObject, NotFound
from changelog.ltx.codec import Decoder, decode
from changelog.ltx.fetch import decoded, opened
from changelog.ltx.merge import merge
from changelog.ltx.pages import Encoding
from changelog.ltx.plan import plan
from changelog.ltx.store.names import SNAPSHOTS, Name, Store, Stored

logger = logging.getLogger(__name__)

INTERVALS = {1: 30.0, 2: 300.0, 3: 3600.0}  # s between files of a level
SNAPSHOT_INTERVAL = 86_400.0  # s between whole databases
SNAPSHOT_KEPT = 86_400.0  # s
SHIPPED_KEPT = 300.0  # s that a file of level 0 stays after it was merged
RETENTION_INTERVAL = 15.0  # s between two looks at level 0
TIDY_INTERVAL = 86_400.0  # s between two looks for what was left behind; one at the start
MOST_INPUTS = 100  # files that are open at once
HELD = 8 * 1024 * 1024  # bytes of a file under construction that are held in memory


@dataclass
class Compactor:
    """Compaction of one store. `folder` is for temporary files, which may become as large as the database."""

    store: Store
    folder: Path | None = None
    encoding: Encoding = "block"
    clock: Callable[[], float] = time.time  # s since 1970: files bear such times
    _tidied: float | None = None  # the day on which it was last looked for what was left behind
    _looked: dict[int, float] = field(default_factory=dict)  # level -> the beginning of the interval in which it was last looked at

    def step(self) -> list[Name]:
        """Do what is due now; returns the names of new files. To be called every few seconds.

        Raises what the store raises, and DamagedObject; what was done until then is done, and the rest is due again.
        """
        now, made = self.clock(), []
        for level, interval in INTERVALS.items():
            if self._due(level, interval, now):
                made += compact(self.store, level, self.folder, self.encoding)
                self._looked[level] = now // interval
        if self._due(SNAPSHOTS, SNAPSHOT_INTERVAL, now):
            made += [name] if (name := snapshot(self.store, self.folder, self.encoding)) else []
            retain_snapshots(self.store, now)
            self._looked[SNAPSHOTS] = now // SNAPSHOT_INTERVAL
        if now // RETENTION_INTERVAL != self._looked.get(0):
            retain_shipped(self.store, now)
            self._looked[0] = now // RETENTION_INTERVAL
        if now // TIDY_INTERVAL != self._tidied:
            if count := self.store.tidy():
                logger.info("what uploads left behind is taken away store=%s count=%d", self.store.url, count)
            self._tidied = now // TIDY_INTERVAL
        return made

    def _due(self, level: int, interval: float, now: float) -> bool:
        """Once in every interval, as the clock divides the day; after a restart the newest file tells."""
        begin = now // interval
        if level not in self._looked:
            newest = max((file.modified_ms for file in self.store.list(level)), default=None)
            self._looked[level] = begin - 1 if newest is None else newest / 1000 // interval
        return begin != self._looked[level]


def compact(store: Store, level: int, folder: Path | None = None, encoding: Encoding = "block") -> list[Name]:
    """Merge the files of the level below that this level has not yet; returns the names of the new files.

    One, unless there are very many to merge. Raises DamagedObject for what is missing or damaged, unless it is before a whole database:
    then it goes on behind that, and the level has a gap.
    """
    try:
        return _compacted(store, level, _reached(store, level), folder, encoding)
    except DamagedObject:
        whole = _reached(store, SNAPSHOTS)
        if whole <= _reached(store, level):
            raise
        return _compacted(store, level, whole, folder, encoding)


def _reached(store: Store, level: int) -> int:
    return max((file.name.max_txid for file in store.list(level)), default=0)


def _compacted(store: Store, level: int, reached: int, folder: Path | None, encoding: Encoding) -> list[Name]:
    inputs = [file for file in store.list(level - 1, reached) if file.name.max_txid > reached]
    made = []
    for first in range(0, len(inputs), MOST_INPUTS):
        some = inputs[first : first + MOST_INPUTS]
        made.append(_merged(store, some, level, folder, encoding))
    return made


def snapshot(store: Store, folder: Path | None = None, encoding: Encoding = "block") -> Name | None:
    """Make a whole database of the newest state from what the store has; None where the newest file is one, or nothing is there."""
    try:
        files = plan(store)
    except NotFound:
        return None
    if files[-1].name.level == SNAPSHOTS:
        return None
    return _merged(store, files, SNAPSHOTS, folder, encoding)


def retain_shipped(store: Store, now: float) -> list[Name]:
    """Delete files of level 0 that are in level 1 and have had their time; the newest stays, because Litestream goes on from it."""
    merged = _reached(store, 1)
    if not merged:
        return []
    shipped, old = store.list(0), (now - SHIPPED_KEPT) * 1000
    gone = []
    for file in shipped[:-1]:
        if file.modified_ms > old:
            break
        if file.name.max_txid <= merged:
            gone.append(file.name)
    return _delete(store, 0, gone)


def retain_snapshots(store: Store, now: float) -> list[Name]:
    """Delete whole databases that have had their time, but for the newest, and what only led to them."""
    snapshots, old = store.list(SNAPSHOTS), (now - SNAPSHOT_KEPT) * 1000
    gone = _delete(store, SNAPSHOTS, [file.name for file in snapshots[:-1] if file.modified_ms < old])
    oldest = min((file.name.max_txid for file in snapshots if file.modified_ms >= old), default=0)
    for level in INTERVALS:
        gone += _delete(store, level, [file.name for file in store.list(level)[:-1] if file.name.max_txid < oldest])
    return gone


def _delete(store: Store, level: int, names: list[Name]) -> list[Name]:
    if names:
        store.delete(names)
        logger.info("objects deleted level=%d count=%d upto=%016x", level, len(names), max(name.max_txid for name in names))
    return names


def _merged(store: Store, files: Sequence[Stored], level: int, folder: Path | None, encoding: Encoding) -> Name:
    """One file of `files`, oldest first, put into the store. Raises Conflict where another one of that name is there."""
    name = Name(level, files[0].name.min_txid, files[-1].name.max_txid)
    with ExitStack() as stack:
        decoders = _decoders(stack, store, files, folder)
        out = stack.enter_context(_scratch(folder))
        header, written = merge(decoders, out, str(name), encoding)
        taken = store.put(name, out, header.timestamp_ms)
    if taken and not taken.same:
        raise Conflict(f"{name} of {store.url} is there with another content: two programs work on it")
    logger.info("objects merged name=%s inputs=%d pages=%d bytes=%d", name, len(files), written.pages, written.size)
    return name


def _decoders(stack: ExitStack, store: Store, files: Sequence[Stored], folder: Path | None) -> list[Decoder]:
    """The files, open until `stack` ends; where they are many, merged a hundred at a time into temporary files."""
    if len(files) <= MOST_INPUTS:
        inputs = stack.enter_context(opened(store, files, folder))
        return [decoded(file, stored, store.url) for file, stored in zip(inputs, files, strict=True)]
    found = []
    for first in range(0, len(files), MOST_INPUTS):
        some = files[first : first + MOST_INPUTS]
        out = stack.enter_context(_scratch(folder))
        name = f"{some[0].name} to {some[-1].name} of {store.url}"
        with ExitStack() as inner:
            merge(_decoders(inner, store, some, folder), out, name)
        out.seek(0)
        found.append(decode(out, name))
    return found


def _scratch(folder: Path | None) -> BinaryIO:
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(HELD, dir=str(folder) if folder else None))
