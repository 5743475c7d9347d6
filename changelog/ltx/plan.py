"""Which files make a database as of some moment. The rules are those of `litestream restore`, so that both give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from changelog.errors import BadRequest, DamagedObject, NotFound
from changelog.ltx.store.names import LEVELS, SNAPSHOTS, Store, Stored, as_text

ASKED_AT_ONCE = 10  # requests, for lists and for the times of files


def plan(store: Store, txid: int | None = None, timestamp_ms: int | None = None) -> list[Stored]:
    """The files to lay over one another, oldest first: for the newest state, that after `txid`, or the last one before a time.

    A `txid` must be the last of some file, and a time lie within those of the bucket. Raises NotFound where they are not, or nothing is
    there, and DamagedObject where a file is missing in the middle.
    """
    if txid is not None and timestamp_ms is not None:
        raise BadRequest("a transaction or a time, not both")
    levels = list_all(store)
    if not any(levels.values()):
        raise NotFound(f"{store.url} holds no backup")
    if timestamp_ms is not None:
        _check_time(store, levels, timestamp_ms)
        levels = _with_their_times(store, levels)
    return choose(levels, txid, timestamp_ms, store.url)


def list_all(store: Store) -> dict[int, list[Stored]]:
    """The files of every level."""
    with ThreadPoolExecutor(ASKED_AT_ONCE, "list") as pool:
        return dict(zip(LEVELS, pool.map(store.list, LEVELS), strict=True))


def choose(levels: Mapping[int, list[Stored]], txid: int | None, timestamp_ms: int | None, url: str = "") -> list[Stored]:
    """The choice itself: the newest snapshot, then again and again the file that goes on and reaches furthest."""

    def asked(file: Stored) -> bool:
        return (txid is None or file.name.max_txid <= txid) and (timestamp_ms is None or file.modified_ms < timestamp_ms)

    if txid is None and timestamp_ms is None:
        _check_names(levels)
    chosen = [file for file in levels.get(SNAPSHOTS, ()) if file.name.min_txid == 1 and asked(file)][-1:]
    reached = chosen[0].name.max_txid if chosen else 0
    others = sorted((file for level, files in levels.items() if level != SNAPSHOTS for file in files), key=lambda file: file.name.min_txid)
    at, best = 0, None
    while True:
        while at < len(others) and others[at].name.min_txid <= reached + 1:
            file = others[at]
            at += 1
            if file.name.max_txid > reached and asked(file) and (best is None or _rank(file) > _rank(best)):
                best = file
        if best is None:
            break
        chosen.append(best)
        reached, best = best.name.max_txid, None
    _check_end(chosen, reached, [file for file in others[at:] if asked(file)], others, txid=txid, url=url)
    return chosen


def _rank(file: Stored) -> tuple[int, int, int]:
    return file.name.max_txid, -file.name.min_txid, file.name.level


def _check_names(levels: Mapping[int, list[Stored]]) -> None:
    """Whoever asks for the newest state is told of a name that means nothing: it may be the newest file's."""
    for files in levels.values():
        for file in files:
            if not 1 <= file.name.min_txid <= file.name.max_txid:
                raise DamagedObject(f"the name {file.name} means no transactions", object=str(file.name), fault="its name means nothing")


def _check_end(chosen: list[Stored], reached: int, beyond: list[Stored], files: list[Stored], *, txid: int | None, url: str) -> None:
    hole = beyond and not any(file.name.min_txid <= reached + 1 <= file.name.max_txid for file in files)
    if hole and (txid is None or reached < txid):
        first = beyond[0].name
        if not chosen:
            raise NotFound(f"{url} holds no backup: its first file is {first}, and nothing of what was before is there")
        raise DamagedObject(
            f"{first} does not go on from transaction {reached:016x}: what is between is missing",
            object=str(first),
            fault="a gap before it",
        )
    if not chosen or (txid is not None and reached < txid):
        before = f"; the last one before it is {reached:016x}" if reached else ""
        raise NotFound(f"{url} holds no state " + ("so early" if txid is None else f"right after transaction {txid:016x}{before}"))


def _check_time(store: Store, levels: Mapping[int, list[Stored]], timestamp_ms: int) -> None:
    times = [file.modified_ms for files in levels.values() for file in files]
    first, last = min(times), max(times)
    if not first <= timestamp_ms <= last:
        raise NotFound(f"{store.url} reaches from {as_text(first)} to {as_text(last)}, and not to {as_text(timestamp_ms)}")


def _with_their_times(store: Store, levels: Mapping[int, list[Stored]]) -> dict[int, list[Stored]]:
    """The same with the times that the writer gave."""
    with ThreadPoolExecutor(ASKED_AT_ONCE, "times") as pool:

        def timed(files: Iterable[Stored]) -> list[Stored]:
            known = list(files)
            return [
                replace(file, modified_ms=at) for file, at in zip(known, pool.map(store.timestamp, [f.name for f in known]), strict=True)
            ]

        return {level: timed(files) for level, files in levels.items()}
