"""A primary's file, page for page, kept at the newest state of a store: what a replica follows when the primary itself cannot be reached.

Beside the file stands a note of what it holds. Before pages are written the note says how far they will lead (`target`), and afterwards
that they have; the same files laid over it once more give the same pages. So a process that was killed in between is no loss: the next one
goes on from where the file was, at least as far as the killed one meant to go, and every page that it may have written is written again.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from changelog.bootstrap import put_in_place
from changelog.connection import sync_path, write_at, write_whole
from changelog.errors import DamagedObject, NotFound
from changelog.ltx.fetch import decoded, fetched
from changelog.ltx.header import Header, damaged
from changelog.ltx.plan import choose, list_all
from changelog.ltx.restore import restore
from changelog.ltx.store.names import LEVELS, SNAPSHOTS, Name, Store, Stored

NOTE = ".at"  # behind the name of the mirror
RENEW_EVERY = 60.0  # s between two attempts to restore anew because of the same damaged file

logger = logging.getLogger(__name__)


class Gap(Exception):
    """The store does not lead on from what is here: it is restored anew."""


@dataclass(frozen=True)
class Holding:
    """What the file holds: the state after `txid`, shipped at `timestamp_ms`, or something between that and the one after `target`."""

    url: str  # of the store
    txid: int
    target: int
    pages: int
    page_size: int  # bytes
    timestamp_ms: int  # since 1970, by the primary's clock
    seen: str  # by what the newest file of level 0 is known again: another one under its name is of another database
    anchor: str  # the same of the newest snapshot, when this was restored

    @property
    def whole(self) -> bool:
        """Whether nobody was interrupted."""
        return self.txid == self.target


class Mirror:
    """The file at `path`, which nobody else writes. For one thread of one process; nobody may have it open while it is advanced."""

    def __init__(self, store: Store, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` (s) is for tests. The folder is made when it is needed."""
        self.path = path
        self._store, self._clock = store, clock
        self._note = path.with_name(path.name + NOTE)
        self._renewed_at = -RENEW_EVERY

    @property
    def holding(self) -> Holding | None:
        """What is here; None where nothing is that can be gone on with."""
        try:
            found = Holding(**json.loads(self._note.read_bytes()))
            size = self.path.stat().st_size
        except (OSError, ValueError, TypeError):
            return None
        fits = found.url == self._store.url and (not found.whole or size == found.pages * found.page_size)
        return found if fits else None

    def advance(self) -> bool:
        """Bring it to the newest state of the store; whether it moved.

        Raises NotFound where the store holds none, DamagedObject, and what the store cannot be used with; then it is as it was, or the
        next call mends it.
        """
        holding = self.holding
        if holding is None:
            return self._renew("there was no mirror")
        try:
            files, seen = self._newer(holding)
            if not files:
                return False
            self._lay(holding, files, seen)
        except (Gap, NotFound) as exc:  # NotFound: taken away by compaction while it was read
            return self._renew(str(exc))
        except DamagedObject as exc:
            if self._clock() - self._renewed_at < RENEW_EVERY:
                raise
            return self._renew(exc.message)  # a snapshot, or a file that compaction made before, may lead past it
        return True

    def forget(self) -> None:
        """What is here is of no use: the next `advance` begins anew."""
        self._note.unlink(missing_ok=True)

    def copy_to(self, target: Path) -> int:
        """Copy the file, as it is; returns its size in bytes."""
        with suppress(FileNotFoundError):
            target.unlink()
        shutil.copyfile(self.path, target)
        return target.stat().st_size

    def _renew(self, reason: str) -> bool:
        """Restore the newest state."""
        self._renewed_at = self._clock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        incoming = self.path.with_name(f"{self.path.name}.incoming")
        snapshots = self._store.list(SNAPSHOTS)
        got = restore(self._store, incoming, force=True)
        self.forget()
        sync_path(self.path.parent)
        put_in_place(incoming, self.path)
        pages = got.size // got.page_size
        seen = _seen(self._store.list(0, got.txid - 1), got.txid)
        anchor = _identity(snapshots[-1]) if snapshots else ""
        self._write(Holding(self._store.url, got.txid, got.txid, pages, got.page_size, got.timestamp_ms, seen, anchor))
        logger.info("mirror restored txid=%d files=%d bytes=%d reason=%s", got.txid, got.files, got.read, reason)
        return True

    def _newer(self, holding: Holding) -> tuple[list[Stored], str]:
        """The files that lead on, oldest first, and by what the newest is known again. One request, as long as nothing was missed."""
        listed = self._store.list(0, holding.txid - 1)  # with our newest, which stays there until there is a newer one
        seen = _seen(listed, holding.txid)
        if seen and holding.seen and seen != holding.seen:
            raise Gap("another database is shipped to the same place now")
        files, whole = _chain(listed, holding.txid)
        if not seen or not whole:
            files = self._compacted(holding)
        reached = files[-1].name.max_txid if files else holding.txid
        if reached < holding.target:
            raise Gap(f"the store ends at transaction {reached:016x}, and the mirror was being brought to {holding.target:016x}")
        return files, _seen(listed, reached)

    def _compacted(self, holding: Holding) -> list[Stored]:
        """The same from all levels, where level 0 does not reach back to us. Raises Gap where they do not, or a restore is nearer."""
        levels = list_all(self._store)
        if holding.seen and holding.anchor not in map(_identity, levels[SNAPSHOTS]):
            raise Gap("nothing is there any more by which the store is known again")
        newest = max((file.name.max_txid for files in levels.values() for file in files), default=0)
        files, whole = _chain([file for level in LEVELS if level != SNAPSHOTS for file in levels[level]], holding.txid)
        if newest < holding.txid or not whole or (files[-1].name.max_txid if files else holding.txid) < newest:
            raise Gap(f"nothing leads from transaction {holding.txid:016x} to {newest:016x}, the newest there")
        if sum(file.size for file in files) > sum(file.size for file in choose(levels, None, None, self._store.url)):
            raise Gap("a restore has less to fetch")
        return files

    def _lay(self, holding: Holding, files: Sequence[Stored], seen: str) -> None:
        """Write the pages of `files` over the file."""
        self._write(replace(holding, target=files[-1].name.max_txid))
        header, pages = None, holding.pages
        fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if not holding.whole:  # how long an interrupted one left it does not matter: what it added is written again
                os.ftruncate(fd, pages * holding.page_size)
            with fetched(self._store, files, self.path.parent) as each:
                for stored, future in each:
                    with future.result() as file:
                        header = _apply(fd, file, stored, self._store.url, pages=pages, page_size=holding.page_size)
                    pages = header.commit
            os.fsync(fd)
        finally:
            os.close(fd)
        assert header is not None
        reached = header.max_txid
        now = replace(holding, txid=reached, target=reached, pages=pages, timestamp_ms=header.timestamp_ms, seen=seen)
        self._write(now)
        logger.debug("mirror advanced txid=%d files=%d", reached, len(files))

    def _write(self, holding: Holding) -> None:
        write_whole(self._note, json.dumps(asdict(holding)).encode())


def _apply(fd: int, file: BinaryIO, stored: Stored, url: str, *, pages: int, page_size: int) -> Header:
    """Write one file's pages; nothing, and DamagedObject, where it is not whole and sound. `pages` are those that the mirror had."""
    checked = decoded(file, stored, url)
    header = checked.header
    if header.page_size != page_size:
        raise Gap(f"pages have {header.page_size} bytes now, and had {page_size}")
    added = sum(pgno > pages for pgno, _ in checked)
    wanted = max(0, header.commit - pages) - (pages < header.lock_page <= header.commit)
    if added != wanted:
        raise damaged(checked.name, f"it makes {pages} pages {header.commit}, and brings {added} new ones")
    file.seek(0)
    for pgno, page in decoded(file, stored, url):
        write_at(fd, page, (pgno - 1) * page_size)
    os.ftruncate(fd, header.commit * page_size)
    return header


def _chain(files: Sequence[Stored], txid: int) -> tuple[list[Stored], bool]:
    """The files that lead on from `txid`, each as far as any can, and whether they reach the end of all."""
    newest = max((file.name.max_txid for file in files), default=0)
    chain: list[Stored] = []
    ordered, at, best = sorted(files, key=lambda file: file.name.min_txid), 0, None
    while True:
        while at < len(ordered) and ordered[at].name.min_txid <= txid + 1:
            if ordered[at].name.max_txid > txid and (best is None or ordered[at].name.max_txid > best.name.max_txid):
                best = ordered[at]
            at += 1
        if best is None:
            return chain, txid >= newest
        chain.append(best)
        txid, best = best.name.max_txid, None


def _seen(listed: Sequence[Stored], txid: int) -> str:
    """By what the file of level 0 that ends with `txid` is known again; "" where it is not there."""
    name = Name(0, txid, txid)
    return next((_identity(file) for file in listed if file.name == name), "")


def _identity(file: Stored) -> str:
    return f"{file.name}/{file.size}/{file.modified_ms}"
