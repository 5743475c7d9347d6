"""Whether a bucket or folder keeps its word: every file read and compared with its name, no gap, and a database that comes out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from changelog.errors import DamagedObject, DroverError, NotFound
from changelog.ltx.codec import Decoder
from changelog.ltx.fetch import Fetched, decoded, fetched
from changelog.ltx.header import Header
from changelog.ltx.plan import ASKED_AT_ONCE, choose, list_all
from changelog.ltx.restore import restore
from changelog.ltx.store.names import SNAPSHOTS, Name, Store, Stored, as_text


@dataclass
class Verified:
    """What was found. Without faults the newest state can be restored, and every file is what it says."""

    url: str
    files: int = 0
    bytes: int = 0
    txid: int = 0  # the newest that can be restored
    timestamp_ms: int = 0  # its time
    planned: int = 0  # files that it is made of
    restored: bool = False  # it was, and SQLite found it sound
    faults: list[tuple[str, str]] = field(default_factory=list)  # (object or level, what is wrong with it)
    notes: list[tuple[str, str]] = field(default_factory=list)  # what harms no restore of the newest state

    def facts(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "url": self.url,
            "ok": not self.faults,
            "files": self.files,
            "bytes": self.bytes,
            "txid": f"{self.txid:016x}" if self.txid else None,
            "timestamp": as_text(self.timestamp_ms) if self.txid else None,
            "from_files": self.planned,
            "restored": self.restored,
            "faults": [{"object": name, "fault": fault} for name, fault in self.faults],
            "notes": [{"object": name, "note": note} for name, note in self.notes],
        }


def verify(
    store: Store, folder: Path | None = None, *, scratch: bool = False, progress: Callable[[int, int], object] = lambda done, total: None
) -> Verified:
    """Read everything that the store has. With `scratch`, also restore it into `folder` (or where temporary files lie) and check that.

    Raises only what the store raises; NotFound where it holds nothing.
    """
    levels, found = list_all(store), Verified(store.url)
    if not any(levels.values()):
        raise NotFound(f"{store.url} holds no backup")
    _check_names(levels, found)
    _check_files(store, levels, found, folder, progress)
    try:  # asked again: what compaction took away meanwhile must be elsewhere
        files = choose(list_all(store), None, None, store.url)
    except (NotFound, DamagedObject) as exc:
        found.faults.append((str(exc.facts.get("object", "restore")), exc.message))
        return found
    found.txid, found.planned = files[-1].name.max_txid, len(files)
    if scratch and not found.faults:
        _restore(store, folder, found)
    return found


def _check_names(levels: Mapping[int, list[Stored]], found: Verified) -> None:
    for level, files in levels.items():
        if level == SNAPSHOTS:
            found.faults += [(str(f.name), "a whole database begins with transaction 1") for f in files if f.name.min_txid != 1]
            continue
        for before, after in pairwise(files):
            if after.name.min_txid != before.name.max_txid + 1:
                what = "a gap" if after.name.min_txid > before.name.max_txid else "transactions twice"
                found.faults.append((str(after.name), f"{what} between it and {before.name.file}"))


def _check_files(
    store: Store, levels: Mapping[int, list[Stored]], found: Verified, folder: Path | None, progress: Callable[[int, int], object]
) -> None:
    every = [file for files in levels.values() for file in files]
    total, done, before, headers = sum(file.size for file in every), 0, None, {}
    with _times(store, every) as times, fetched(store, every, folder) as each:
        for stored, future in each:
            goes_on = before is not None and before[0].level == stored.name.level and before[0].max_txid + 1 == stored.name.min_txid
            try:
                header = _check_file(store, (stored, future), before[1] if before and goes_on else None)
            except DamagedObject as exc:
                found.faults.append((str(stored.name), str(exc.facts.get("fault", exc.message))))
                before = None
            except NotFound:  # compaction took it away meanwhile
                before = None
            else:
                before, headers[stored.name] = (stored.name, header), header
                _compare(times[stored.name], stored, header, found)
            found.files, found.bytes, done = found.files + 1, found.bytes + stored.size, done + stored.size
            progress(done, total)
    sizes = {header.page_size for header in headers.values()}
    if len(sizes) > 1:
        found.faults.append((store.url, f"files of databases with different page sizes: {', '.join(map(str, sorted(sizes)))}"))
    found.timestamp_ms = max(((name.max_txid, header.timestamp_ms) for name, header in headers.items()), default=(0, 0))[1]


def _check_file(store: Store, one: Fetched, before: Header | None) -> Header:
    """Read a file to its end, and see that it brings the pages by which the database has grown since the file before it."""
    stored, future = one
    with future.result() as file:
        decoder: Decoder = decoded(file, stored, store.url)
        header = decoder.header
        grown_from = before.commit if before else header.commit
        grown = sum(pgno > grown_from for pgno, _ in decoder)
    missing = header.commit - grown_from - (grown_from < header.lock_page <= header.commit) - grown
    if missing > 0:
        raise DamagedObject(
            f"{decoder.name} lacks {missing} of the pages by which the database grew",
            fault=f"{missing} of the pages that are new in it are missing",
        )
    if decoder.offset != stored.size:
        raise DamagedObject(f"{decoder.name} has another length than listed", fault="its length is not the one that is listed")
    return header


@contextmanager
def _times(store: Store, files: Sequence[Stored]) -> Iterator[dict[Name, Future[int]]]:
    """The times that the writer gave the files, asked for while the files themselves are read."""
    pool = ThreadPoolExecutor(ASKED_AT_ONCE, "times")
    try:
        yield {file.name: pool.submit(store.timestamp, file.name) for file in files}
    finally:
        pool.shutdown(cancel_futures=True)


def _compare(time: Future[int], stored: Stored, header: Header, found: Verified) -> None:
    try:
        at = time.result()
    except NotFound:
        return
    if at != header.timestamp_ms:
        note = f"its time is {as_text(at)}, in it stands {as_text(header.timestamp_ms)}: restores by time go by the former"
        found.notes.append((str(stored.name), note))


def _restore(store: Store, folder: Path | None, found: Verified) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "scratch.db"
        try:
            restored = restore(store, path, check=True)
        except DroverError as exc:
            found.faults.append(("restore", exc.message))
        else:
            found.txid, found.timestamp_ms, found.restored = restored.txid, restored.timestamp_ms, True
