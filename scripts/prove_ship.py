#!/usr/bin/env python3
"""The shipper among those who would make it lose something: `scripts/prove_ship.py [SECONDS=60]`.

Two writers move money between the accounts of a bank, so that its total never changes, while a third process runs all four kinds of
checkpoint and VACUUM, and the shipper is killed (-9) and started again at random moments, and its connections are cut in half of its
lives. Afterwards every transaction in the bucket (an
S3 server on this machine) is restored: each must be sound and hold all the money; the last one must be the live file byte for byte; and
what stock Litestream restores must be the same bytes. Then the time from a commit to its object, memory and idle CPU, stock Litestream at
its defaults and at 100 ms beside it, in turns. Exit code 1 when anything does not hold.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

from cutting_proxy import Behaviour, CuttingProxy
from ltx_parts import KEYS, Litestream, S3Server, environment, litestream, moto_server
from ship_parts import Running, ShipProcess, bytes_of, disturb, make_bank, restored, transfer, txids

from changelog.connection import connect
from changelog.ltx.check import verify
from changelog.ltx.store.names import Store
from changelog.ltx.store.place import open_store

LIFE = (0.3, 6.0)  # s between two kills of the shipper
CUT_AFTER = (2_000, 100_000)  # bytes of a connection
STOCK_SHARE = 10  # of the restores that are compared, this many also with stock Litestream's
COMMITS = 40  # for each median
GAP = (0.3, 1.3)  # s between two of these commits: as long as the longest interval of the peers
LOOK = 0.01  # s between two looks at a bucket
IDLE = 20.0  # s of which the idle CPU is taken
LONGEST = 150.0  # ms, commit to object, median
MEMORY, CPU = 80.0, 1.0  # MB, percent of a core
PATIENCE = 60.0  # s


@click.command()
@click.argument("seconds", type=float, default=60.0)
@click.option("--page-size", type=int, default=4096)
@click.option("--sample", type=int, default=0, help="Restore only so many transactions; 0: all.")
@click.option("--longest", type=float, default=LONGEST, help="ms from a commit to its object, median.")
@click.option("--most-idle", type=float, default=CPU, help="Percent of a core that an idle shipper may take.")
@click.option("--no-times", is_flag=True, help="Only the proof that nothing is lost.")
def main(seconds: float, *, page_size: int, sample: int, longest: float, most_idle: float, no_times: bool) -> None:
    """Run it all."""
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="prove-ship-") as name, ExitStack() as stack:
        folder = Path(name)
        _set_keys()
        server = stack.enter_context(moto_server(folder / "moto.log"))
        faults += lose_nothing(stack, folder / "bank", server, seconds=seconds, page_size=page_size, sample=sample)
        if not no_times:
            faults += be_quick(folder / "times", server, longest, most_idle)
    print(*faults, "all held" if not faults else "failed", sep="\n")
    sys.exit(bool(faults))


def _set_keys() -> None:
    os.environ.update(KEYS)
    os.environ.pop("AWS_CA_BUNDLE", None)


def lose_nothing(stack: ExitStack, folder: Path, server: S3Server, *, seconds: float, page_size: int, sample: int) -> list[str]:
    """The proof; returns what did not hold."""
    folder.mkdir()
    path, chance = folder / "bank.db", random.Random(1)
    make_bank(path, page_size)
    proxy = stack.enter_context(CuttingProxy(server.port))
    ship = _ship(path, server, "bank", proxy.port)
    store = open_store(server.url("bank"))
    writers = [disturb("write", path, seed, seconds, log=folder / f"writer{seed}.log") for seed in (1, 2)]
    rival = disturb("rival", path, 3, seconds, log=folder / "rival.log")
    kills, longest_wal = 0, 0
    stack.callback(ship.kill9)
    ship.start()
    while any(process.process.poll() is None for process in (*writers, rival)):
        until = time.monotonic() + chance.uniform(*LIFE)
        while time.monotonic() < until and any(process.process.poll() is None for process in writers):
            with suppress(FileNotFoundError):
                longest_wal = max(longest_wal, path.with_name("bank.db-wal").stat().st_size)
            time.sleep(0.05)
        if all(process.process.poll() is not None for process in writers):
            break
        ship.kill9()
        kills += 1
        cut = Behaviour(cut_after=chance.randrange(*CUT_AFTER), direction="both")
        proxy.behaviour = chance.choice([Behaviour(), cut])
        ship.start()
    proxy.behaviour = Behaviour()
    proxy.cut_all()
    for process in (*writers, rival):
        process.process.wait(PATIENCE)
    _until(ship.is_through)
    took = ship.stop()
    found = txids(store)
    whole = ship.text.count("whole database staged")
    commits = sum(int((folder / f"writer{seed}.log").read_text().split()[1]) for seed in (1, 2))
    print(
        f"page size {page_size}  commits {commits}  transactions {len(found)}  kills {kills}  cuts {proxy.cuts}  whole databases {whole}",
        end="  ",
    )
    print(f"longest -wal {longest_wal / 2**20:.1f} MB  stopped in {took:.2f} s")
    faults = [] if "Traceback" not in ship.text else [f"the shipper failed: {ship.text[-3000:]}"]
    return faults + _compare(folder, store, server.url("bank"), found=found, path=path, sample=sample)


def _compare(folder: Path, store: Store, url: str, *, found: list[int], path: Path, sample: int) -> list[str]:
    """Restore transactions, and compare."""
    faults, stock, chance = [], litestream(), random.Random(2)
    faults += [f"{name}: {fault}" for name, fault in verify(store).faults]
    some = sorted({*chance.sample(found, min(sample or len(found), len(found))), found[-1]})
    by_stock = {*chance.sample(some, min(STOCK_SHARE, len(some))), found[-1]}
    for txid in some:
        try:
            image = restored(store, folder / "restored.db", txid)
        except AssertionError as exc:
            faults.append(str(exc))
            continue
        if txid in by_stock and stock.restore(url, folder / "stock.db", "-txid", f"{txid:016x}") != image:
            faults.append(f"stock Litestream restores other bytes for transaction {txid:x}")
    if restored(store, folder / "restored.db") != bytes_of(path):
        faults.append("the last transaction is not the live file")
    print(f"restored {len(some)} transactions, {len(by_stock)} of them by stock Litestream too: {len(faults)} faults")
    return faults


def be_quick(folder: Path, server: S3Server, longest: float, most_idle: float) -> list[str]:
    """The times of ours and of stock Litestream; returns what was too slow."""
    folder.mkdir()
    faults, stock = [], litestream()
    for name in ("ours", "stock", "stock at 100 ms"):
        place = name.replace(" ", "-")
        path = folder / place / "bank.db"
        path.parent.mkdir()
        make_bank(path)
        with shipping(name, path, server, place, stock) as process:
            took = times(path, open_store(server.url(place)))
            idle = _idle(process)
            memory = process.memory()
        middle = statistics.median(took)
        print(f"{name:<16} {len(took)} commits  p50 {middle:6.1f} ms  p90 {sorted(took)[-len(took) // 10]:6.1f} ms", end="  ")
        print(f"memory {memory:5.1f} MB  idle CPU {idle:.2f} %")
        if name == "ours":
            for what, value, limit in (("p50", middle, longest), ("memory", memory, MEMORY), ("idle CPU", idle, most_idle)):
                if value > limit:
                    faults.append(f"{what} {value:.1f} is more than {limit:g}")
    return faults


@contextmanager
def shipping(name: str, path: Path, server: S3Server, place: str, stock: Litestream) -> Iterator[Running]:
    """The shipper, or with another name Litestream, while the block runs."""
    if name == "ours":
        ship = _ship(path, server, place)
        with ship.start() as running:
            yield running
        return
    config = path.with_name("litestream.yml")
    rest = f", endpoint: '{server.endpoint}', force-path-style: true, region: us-east-1"
    quick = "100 ms" in name
    monitor = "monitor-interval: 100ms, " if quick else ""
    sync = ", sync-interval: 100ms" if quick else ""
    replica = f"{{type: s3, bucket: {server.bucket}, path: {place}{rest}{sync}}}"
    config.write_text(f"dbs: [{{path: {path}, {monitor}replica: {replica}}}]\n")
    with Running(stock._program, "replicate", "-config", config, log=path.with_name("stock.log"), env=environment()) as running:
        yield running


def times(path: Path, store: Store, commits: int = COMMITS) -> list[float]:
    """ms from the end of a commit until its object is in the bucket."""
    chance, found = random.Random(4), []
    last = _until(lambda: max((file.name.max_txid for file in store.list(0)), default=0))
    time.sleep(2)
    with closing(connect(path)) as db:
        for _ in range(commits):
            last = max([last, *(file.name.max_txid for file in store.list(0, last))])
            transfer(db, chance)
            began = time.monotonic()
            while not store.list(0, last):
                time.sleep(LOOK)
            found.append((time.monotonic() - began) * 1000)
            time.sleep(chance.uniform(*GAP))
    return found


def _idle(process: Running) -> float:
    time.sleep(2)
    before = process.cpu()
    time.sleep(IDLE)
    return (process.cpu() - before) / IDLE * 100


def _ship(path: Path, server: S3Server, place: str, port: int = 0) -> ShipProcess:
    where = {"LITESTREAM_BUCKET": server.bucket, "LITESTREAM_PATH": place, "LITESTREAM_ENDPOINT": f"http://127.0.0.1:{port or server.port}"}
    return ShipProcess(path, environment(), **where, LITESTREAM_REGION="us-east-1")


def _until(condition: Callable[[], Any]) -> Any:
    """The first true value of `condition`."""
    until = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
    return value


if __name__ == "__main__":
    main()
