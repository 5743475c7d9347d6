#!/usr/bin/env python3
"""Proves what comes of a bad line to the bucket, or a server there that is not itself: `scripts/prove_bucket.py 2000`.

A proxy before an S3 server on this machine cuts requests and answers at any byte, answers with errors of S3 or with somebody else's page,
says nothing, drips, loses the answer to what was done, and passes things on twice. First each single operation of a store meets each fault
at many places: it must do what it says or raise an error of ours, and a second try must make it good. Then so many requests of a shipper,
which runs as a process, and of restores meanwhile: no restore may give a state that never was, or an older one than was there when it
began; when the line is good again the shipper must be through by itself, what stock Litestream restores be the live file, nothing be
left of uploads, and no log hold a traceback. Exit code 1 when anything does not hold.
"""

from __future__ import annotations

import io
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

from bad_bucket import KINDS, BadBucket, Fault
from ltx_parts import KEYS, S3Server, environment, litestream, moto_server
from ship_parts import ShipProcess, bytes_of, is_sound, make_bank, restored, transfer, txids

from changelog.connection import connect, remove_database
from changelog.errors import DamagedObject, DroverError, NotFound
from changelog.ltx.check import verify
from changelog.ltx.restore import restore
from changelog.ltx.store import place
from changelog.ltx.store.names import Name, Store
from changelog.ltx.store.place import open_store, s3_client
from changelog.ltx.store.s3 import S3Store

AT = 1_790_000_000_123
LARGE = random.Random(1).randbytes(5_300_000)  # two parts
SMALL = b"a file" * 100
PLACES = 40  # in each request or answer
BALLAST = 7_000_000  # bytes of the database at its start, so that it goes in parts
SHARE = 0.12  # of the requests that a fault meets
PATIENCE = 90.0  # s for all to be well again: the longest pause of the shipper is 30


def pick(chance: random.Random, size: int = 3_000) -> Fault:
    """Any fault."""
    kind = chance.choice(KINDS)
    return Fault(kind, chance.choice((0, 1, chance.randrange(size), chance.randrange(100 * size))), chance.uniform(0.05, 1.0))


def s3_store(server: S3Server, port: int = 0) -> S3Store:
    """The bucket of the proof, by way of a proxy that listens on `port` if given."""
    store = open_store(server.url("bank", port))
    assert isinstance(store, S3Store)
    return store


# --- each operation


@dataclass(frozen=True)
class Operation:
    """What is asked of a store, before that made ready; it returns what must come of it."""

    name: str
    ready: Callable[[Store], object]
    ask: Callable[[Store], object]
    good: Callable[[Store, Any], bool]  # the store without faults, and what was returned


def content(store: Store, name: Name) -> bytes:
    """All of a file."""
    with store.open(name) as file:
        return file.read()


def operations() -> Iterator[Operation]:
    """All that the shipper, restore and compaction ask of a store."""
    name = Name(0, 5, 5)

    def put(body: bytes) -> Callable[[Store], object]:
        return lambda store: store.put(name, io.BytesIO(body), AT)

    def nothing(store: Store) -> None:
        store.delete([name])

    def taken(body: bytes) -> Callable[[Store, Any], bool]:
        return lambda store, got: (got is None or (got and got.same)) and content(store, name) == body

    def three(store: Store) -> None:
        for txid in (5, 6, 7):
            store.put(Name(0, txid, txid), io.BytesIO(SMALL), AT, if_absent=False)

    def listed(_store: Store, got: Any) -> bool:
        return bool(got) and [file.name.min_txid for file in got] == [5, 6, 7]

    yield Operation("put", nothing, put(SMALL), taken(SMALL))
    yield Operation("put in parts", nothing, put(LARGE), taken(LARGE))
    yield Operation("open", three, lambda store: content(store, name), lambda _store, got: got == SMALL)
    yield Operation("list", three, lambda store: store.list(0), listed)
    yield Operation("timestamp", three, lambda store: store.timestamp(name), lambda _store, got: got == AT)
    yield Operation("delete", three, lambda store: store.delete([name]), lambda store, _got: len(store.list(0)) == 2)
    yield Operation(
        "note",
        lambda store: store.put_note("lease", b"mine"),
        lambda store: store.note("lease"),
        lambda _store, got: got == b"mine",
    )
    yield Operation(
        "put note",
        lambda store: store.delete_note("lease"),
        lambda store: store.put_note("lease", b"mine"),
        lambda store, _got: store.note("lease") == b"mine",
    )


def is_good(operation: Operation, straight: Store, got: object) -> bool:
    """Whether that has come of it which must."""
    try:
        return operation.good(straight, got)
    except DroverError:
        return False


def uploads(server: S3Server) -> list[Any]:
    """Those that are neither ended nor complete."""
    return list(s3_client(server.endpoint, path_style=True).list_multipart_uploads(Bucket=server.bucket).get("Uploads", ()))


def asked_again(operation: Operation, store: Store) -> object:
    """What comes of it now, False where that is an error of ours: a connection that was kept may be dead still."""
    try:
        return operation.ask(store)
    except DroverError:
        return False


def faults_of(operation: Operation, places: int) -> Iterator[Fault]:
    """Each kind, at places from the first byte to behind the last."""
    size = len(LARGE) if operation.name == "put in parts" else 1_500
    for kind in KINDS:
        if kind in ("hole", "twice", "html", "xhtml", "empty"):
            yield Fault(kind)
        elif kind.startswith("refuse"):
            yield from (Fault(kind, number) for number in range(min(5, places)))
        elif kind == "drip":
            yield from (Fault(kind, piece) for piece in (100, 7)[:places])
        else:
            yield from (Fault(kind, size * number // places) for number in range(places))


def each_operation(server: S3Server, places: int) -> list[str]:
    """Every operation with every fault, at its first request and at later ones; what did not hold."""
    wrong, count, refused = [], 0, 0
    with BadBucket(server.port) as bad:
        straight, store = s3_store(server), s3_store(server, bad.port)
        assert store.conditional and straight.conditional
        for operation in operations():
            for which in range(4 if operation.name == "put in parts" else 1):
                for fault in faults_of(operation, places if operation.name != "put in parts" else max(1, places // 4)):
                    operation.ready(straight)
                    turn = iter(range(100))
                    bad.choose = lambda _method, _path, turn=turn, which=which, fault=fault: fault if next(turn) == which else None  # type: ignore[misc]
                    count += 1
                    said = f"{operation.name}, request {which}, {fault}"
                    try:
                        got = operation.ask(store)
                    except DroverError:
                        refused += 1
                    except Exception as exc:
                        wrong.append(f"{said}: {exc!r}")
                    else:
                        if not is_good(operation, straight, got):
                            wrong.append(f"{said}: it says {str(got)[:100]}, and that is not so")
                    bad.choose = lambda _method, _path: None
                    if not any(is_good(operation, straight, asked_again(operation, store)) for _ in range(2)):
                        wrong.append(f"{said}: a second try does not make it good")
        if straight.tidy(0) and uploads(server):
            wrong.append(f"{len(uploads(server))} uploads are left over")
        straight.delete([file.name for file in straight.list(0)])
    click.echo(f"{count} operations met a fault: {refused} were refused, the others did what they say, {len(wrong)} neither")
    return wrong


# --- a shipper


class Restores:
    """Restores through the bad line, again and again."""

    def __init__(self, straight: Store, crooked: Store, folder: Path) -> None:
        self._straight, self._crooked, self._target = straight, crooked, folder / "restored.db"
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []

    def once(self) -> None:
        """One."""
        there = max(txids(self._straight), default=0)
        remove_database(self._target)
        try:
            got = restore(self._crooked, self._target)
        except DamagedObject as exc:
            self.done[f"said to be damaged ({exc.facts.get('fault', '')})"] += 1
        except DroverError as exc:
            self.done[type(exc).__name__] += 1
            if isinstance(exc, NotFound) and there:
                self.wrong.append(f"a restore says that there is nothing, and there was transaction {there}: {exc}")
        except Exception as exc:
            self.wrong.append(f"a restore: {exc!r}")
        else:
            self.done["good"] += 1
            if not is_sound(self._target):
                self.wrong.append(f"transaction {got.txid} was restored, and is none that ever was")
            if got.txid < there:
                self.wrong.append(f"transaction {got.txid} was restored as the newest, and {there} was there before")


def ship(stack: ExitStack, folder: Path, server: S3Server, requests: int) -> list[str]:
    """The proof with a process; what did not hold."""
    folder.mkdir()
    path, chance = folder / "bank.db", random.Random(1)
    make_bank(path)
    db = stack.enter_context(closing(connect(path)))
    db.execute("CREATE TABLE heavy(data BLOB)")
    db.execute("INSERT INTO heavy VALUES(?)", (chance.randbytes(BALLAST),))
    bad = stack.enter_context(BadBucket(server.port))
    where = {"LITESTREAM_BUCKET": server.bucket, "LITESTREAM_PATH": "bank", "LITESTREAM_REGION": "us-east-1"}
    process = ShipProcess(path, environment(), **where, LITESTREAM_ENDPOINT=f"http://127.0.0.1:{bad.port}")
    straight, crooked = s3_store(server), s3_store(server, bad.port)
    restores = Restores(straight, crooked, folder)
    stack.callback(process.kill9)
    bad.choose = lambda _method, _path: pick(chance) if chance.random() < SHARE else None
    process.start()
    _until(lambda: bool(txids(straight)))
    commits = 0
    while bad.requests < requests:
        for _ in range(5):
            transfer(db, chance)
            commits += 1
            time.sleep(0.02)
        restores.once()
    bad.choose = lambda _method, _path: None
    transfer(db, chance)
    _until(process.is_through)
    process.stop()
    db.close()
    met = ", ".join(f"{kind} {count}" for kind, count in sorted(bad.done.items()) if kind)
    click.echo(f"{bad.requests} requests of a shipper and of restores, {bad.requests - bad.done['']} met a fault: {met}")
    click.echo(f"{commits} commits, {process.text.count('whole database staged')} whole databases, restores: {dict(restores.done)}")
    return restores.wrong + after(server, straight, path, process.text, folder)


def after(server: S3Server, store: S3Store, path: Path, log: str, folder: Path) -> list[str]:
    """What is there in the end."""
    wrong = [f"a traceback: {log[log.index('Traceback') - 300 :][:3_000]}"] if "Traceback" in log else []
    live = bytes_of(path)
    if restored(store, folder / "last.db") != live:
        wrong.append("what is restored in the end is not the live file")
    if litestream().restore(server.url("bank"), folder / "stock.db") != live:
        wrong.append("what stock Litestream restores in the end is not the live file")
    found = verify(store)
    wrong += [f"verify: {fault}" for fault in found.faults]
    left = store.tidy(0)
    wrong += [f"{len(uploads(server))} uploads are left over"] if uploads(server) else []
    click.echo(f"{len(txids(store))} transactions in the bucket, {len(found.faults)} faults, {left} uploads that were left over")
    return wrong


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise SystemExit("FAILED: the shipper is not through by itself")


@contextmanager
def impatient() -> Iterator[None]:
    """Each request is tried once, as the last of four would be."""
    before, place.ATTEMPTS = place.ATTEMPTS, 1
    try:
        yield
    finally:
        place.ATTEMPTS = before


@click.command(help=__doc__)
@click.argument("requests", type=click.IntRange(20), default=2_000)
@click.option("--places", default=PLACES, show_default=True, help="At which a request and an answer are cut.")
def main(requests: int, places: int) -> None:
    os.environ.update(KEYS)
    os.environ.pop("AWS_CA_BUNDLE", None)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="prove-bucket-") as name, ExitStack() as stack:
        server = stack.enter_context(moto_server(Path(name) / "moto.log"))
        with impatient():
            wrong = each_operation(server, places)
        wrong += ship(stack, Path(name) / "bank", server, requests)
    for each in wrong[:20]:
        click.echo(f"FAILED: {each}")
    click.echo(f"{len(wrong)} failed" if wrong else "all held")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
