"""Many files of a store, read one after another while the next ones are under way: latency is paid once, and memory is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from changelog.ltx.codec import Decoder, decode
from changelog.ltx.header import damaged
from changelog.ltx.store.names import Store, Stored

THREADS = 8
AHEAD = 16  # files that are fetched and not read yet
MEMORY = 16 * 1024 * 1024  # bytes of them that are held; the rest lies in temporary files

Fetched = tuple[Stored, "Future[BinaryIO]"]


@contextmanager
def fetched(store: Store, files: Sequence[Stored], folder: Path | None = None) -> Iterator[Iterator[Fetched]]:
    """Gives the files in their order, each as a Future of the open file, which its reader closes; `folder` is for temporary files.

    The last is fetched from the start: in a restore it is the snapshot, larger than all others.
    """
    waiting: deque[Fetched] = deque()
    pool = ThreadPoolExecutor(THREADS, "fetch")
    left = deque(files)

    def submit(file: Stored) -> Fetched:
        return file, pool.submit(store.open, file.name, MEMORY // AHEAD, folder)

    def each() -> Iterator[Fetched]:
        while left or waiting:
            while left and len(waiting) < AHEAD:
                waiting.append(submit(left.popleft()))
            yield waiting.popleft()
        if last:
            yield last.pop()

    last = [submit(left.pop())] if len(left) > 1 else []
    try:
        yield each()
    finally:
        pool.shutdown(cancel_futures=True)
        for _, future in [*waiting, *last]:
            if not future.cancelled() and future.exception() is None:
                future.result().close()


@contextmanager
def opened(store: Store, files: Sequence[Stored], folder: Path | None = None) -> Iterator[list[BinaryIO]]:
    """Gives all the files at once, open until the block ends. For some hundred of them."""
    with ThreadPoolExecutor(THREADS, "fetch") as pool:
        futures = [pool.submit(store.open, file.name, MEMORY // len(files), folder) for file in files]
    try:
        yield [future.result() for future in futures]
    finally:
        for future in futures:
            if future.exception() is None:
                future.result().close()


def decoded(file: BinaryIO, stored: Stored, url: str) -> Decoder:
    """Begin to read a file of a store. Raises DamagedObject where it is another one than its name says."""
    shown = f"{stored.name} of {url}"
    decoder = decode(file, shown)
    header = decoder.header
    if (header.min_txid, header.max_txid) != (stored.name.min_txid, stored.name.max_txid):
        raise damaged(shown, f"it holds transactions {header.min_txid:016x} to {header.max_txid:016x}, which its name does not say")
    return decoder
