#!/usr/bin/env python3
"""LTX files against Litestream's own program: `scripts/prove_ltx.py [--damage N] [--states N] [--mib N] [--race-mib N] [--runs N]`.

1. N kinds of random damage to small files: cut off, bits flipped, pieces moved, files renamed and swapped. Each must be refused with the
   name of an object, or do no harm; a wrong database is a failure.
2. N states of databases of all page sizes, with both kinds of pages: our restore, Litestream's and what was shipped are the same bytes.
3. A database of so many MiB (1100: beyond SQLite's lock page), one change, a merged snapshot of both: restored by both, identical.
4. A race: a database of so many MiB and 200 increments, restored in turns by both from a folder and from moto's S3, as whole processes.

The exit code is 1 unless everything was so. 0 leaves a part out.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ltx_parts import BETWEEN, KEYS, START, Litestream, differing, environment, litestream, moto_server, ship, shipped

from changelog.errors import DroverError
from changelog.ltx.check import verify
from changelog.ltx.codec import encode
from changelog.ltx.compact import compact, snapshot
from changelog.ltx.header import Header, lock_page
from changelog.ltx.pages import Encoding
from changelog.ltx.restore import restore
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import Name, Store
from changelog.ltx.store.place import open_store

ROOT = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.ltx")
PAGE_SIZES = [512 << n for n in range(8)]
PAGE = 4096
CHANGED_ROWS = 85  # in an increment of the race: about as many pages
TIMES = 0.8  # of Litestream's time that ours may take


@dataclass
class Outcome:
    """What came of some damage."""

    refused: int = 0
    harmless: int = 0
    wrong: list[str] = field(default_factory=list)


class Damage:
    """Small folders that are damaged at random, one file at a time, and mended."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.source = random.Random(seed)
        self.places: list[tuple[FolderStore, bytes]] = []
        self._whole: dict[Path, bytes] = {}
        encodings: tuple[Encoding, Encoding] = ("block", "frame")
        for encoding in encodings:
            for merged in (False, True):
                store, images = shipped(folder / f"{encoding}{merged}", 8, seed, 512, encoding)
                if merged:
                    self._merge(store, folder / f"{encoding}{merged}")
                self.places.append((store, images[-1]))
        self._whole = {path: path.read_bytes() for path in folder.rglob("*.ltx")}

    def _merge(self, store: FolderStore, folder: Path) -> None:
        """Level 1 with 1 to 4 and 5 to 7, level 9 with 1 to 6, level 0 with 5 to 8: no two files hold the same transactions."""
        level = folder / "ltx" / "0"
        late = {txid: level / Name(0, txid, txid).file for txid in range(5, 9)}
        for last, reached in ((4, "compact"), (6, "snapshot"), (7, "compact")):
            hidden = [path.rename(f"{path}.hidden") for txid, path in late.items() if txid > last]
            if reached == "compact":
                compact(store, 1)
            else:
                snapshot(store)
            for path in hidden:
                path.rename(str(path).removesuffix(".hidden"))
        store.delete(Name(0, txid, txid) for txid in range(1, 5))

    def once(self, target: Path) -> tuple[str, str]:
        """One kind of damage; returns ("refused", "harmless" or "wrong", what was done)."""
        store, right = self.source.choice(self.places)
        path = self.source.choice([path for path in self._whole if Path(store.url) in path.parents])
        kinds: list[Callable[[Path], str]] = [
            self._truncate,
            self._flip,
            self._flip,
            self._zero,
            self._move,
            self._rename,
            self._swap,
            self._more,
        ]
        try:
            done = f"{self.source.choice(kinds)(path)} of {path}"
            return self._judge(store, right, path, target), done
        finally:
            self._mend(Path(store.url))

    def _judge(self, store: Store, right: bytes, path: Path, target: Path) -> str:
        target.unlink(missing_ok=True)
        try:
            restore(store, target)
            refusal = ""
        except DroverError as exc:
            refusal = exc.message
        if not refusal and target.read_bytes() != right:
            return "wrong"
        if refusal and not NAMED.search(refusal):
            return "wrong"
        faults = verify(store).faults
        if refusal and not faults:
            return "wrong"
        return "refused" if faults else "harmless"

    def _mend(self, folder: Path) -> None:
        for path in folder.rglob("*.ltx"):
            if path not in self._whole:
                path.unlink()
        for path, content in self._whole.items():
            if folder in path.parents and (not path.exists() or path.read_bytes() != content):
                path.write_bytes(content)

    def _truncate(self, path: Path) -> str:
        size = self.source.randrange(len(self._whole[path]))
        os.truncate(path, size)
        return f"truncated to {size}"

    def _flip(self, path: Path) -> str:
        data, bits = bytearray(self._whole[path]), []
        for _ in range(self.source.choice([1, 1, 2, 8])):
            bits.append(self.source.randrange(8 * len(data)))
            data[bits[-1] // 8] ^= 1 << bits[-1] % 8
        path.write_bytes(data)
        return f"bits {bits} flipped"

    def _zero(self, path: Path) -> str:
        data = bytearray(self._whole[path])
        at = self.source.randrange(len(data))
        data[at : at + self.source.randrange(1, 600)] = b""
        path.write_bytes(data.ljust(len(self._whole[path]), b"\0"))
        return f"a piece at {at} lost, zeros at the end"

    def _move(self, path: Path) -> str:
        data = self._whole[path]
        a, b, c = sorted(self.source.randrange(len(data) + 1) for _ in range(3))
        path.write_bytes(data[:a] + data[b:c] + data[a:b] + data[c:])
        return f"{a}..{b} and {b}..{c} exchanged"

    def _rename(self, path: Path) -> str:
        digits = list(path.name)
        place = self.source.choice([n for n, digit in enumerate(digits[:33]) if digit != "-"])
        digits[place] = self.source.choice([d for d in "0123456789abcdef" if d != digits[place]])
        path.rename(path.with_name("".join(digits)))
        return f"renamed to {''.join(digits)}"

    def _swap(self, path: Path) -> str:
        other = self.source.choice([one for one in self._whole if one.parents[2] == path.parents[2] and one != path])
        path.write_bytes(self._whole[other])
        other.write_bytes(self._whole[path])
        return f"exchanged with {other.name}"

    def _more(self, path: Path) -> str:
        path.write_bytes(self._whole[path] + self.source.randbytes(self.source.randrange(1, 200)))
        return "bytes behind the end"


def outcome(damage: Damage, count: int) -> Outcome:
    """So many kinds of damage, one after another."""
    found = Outcome()
    for _ in range(count):
        what, done = damage.once(Path(damage.places[0][0].url).parent / "restored.db")
        if what == "wrong":
            found.wrong.append(done)
        else:
            setattr(found, what, getattr(found, what) + 1)
    return found


def same_states(stock: Litestream, folder: Path, count: int, seed: int) -> list[str]:
    """Restore so many states of databases of all page sizes with both programs; returns what differed."""
    source, wrong, chosen = random.Random(seed), [], 0
    while chosen < count:
        page_size = source.choice(PAGE_SIZES)
        encoding: Encoding = source.choice(["block", "frame"])
        place = folder / f"states{chosen}"
        store, images = shipped(place, 24, source.randrange(1 << 30), page_size, encoding)
        if source.random() < 0.5:
            compact(store, 1)
            snapshot(store)
        for txid in [None, *sorted(source.sample(range(1, 25), min(11, count)))][: count - chosen]:
            wrong += same_state(stock, store, images, txid, folder)
            chosen += 1
    return wrong


def same_state(stock: Litestream, store: Store, images: list[bytes], txid: int | None, folder: Path) -> list[str]:
    """Restore one state with both; returns what differed from what was shipped."""
    right = images[-1 if txid is None else txid - 1]
    restore(store, folder / "ours.db", txid, force=True)
    ours = (folder / "ours.db").read_bytes()
    theirs = stock.restore(f"file://{store.url}", folder / "theirs.db", *([] if txid is None else ["-txid", f"{txid:016x}"]))
    found = [name for name, image in (("ours", ours), ("Litestream's", theirs)) if image != right]
    return [f"{name} at {txid} of {store.url}" for name in found]


def grow(path: Path, mib: int) -> None:
    """A database of about so many MiB."""
    db = apsw.Connection(str(path))
    db.execute(
        f"PRAGMA page_size={PAGE}; PRAGMA journal_mode=off; PRAGMA synchronous=off; CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)"
    ).fetchall()
    with db:
        for _ in range(mib):
            db.execute("INSERT INTO t(v) SELECT randomblob(300000) || zeroblob(748000)")
    db.close()


def file_pages(path: Path) -> Iterator[tuple[int, bytes]]:
    """All but the lock page."""
    with path.open("rb") as file:
        for pgno in range(1, path.stat().st_size // PAGE + 1):
            page = file.read(PAGE)
            if pgno != lock_page(PAGE):
                yield pgno, page


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def large(stock: Litestream, folder: Path, mib: int) -> list[str]:
    """Ship a large database and one change of it, merge both, restore with both programs; returns what differed."""
    live, store = folder / "live.db", FolderStore(folder / "large")
    grow(live, mib)
    with tempfile.TemporaryFile(dir=folder) as out:
        encode(out, Header(PAGE, live.stat().st_size // PAGE, 1, 1, START), file_pages(live))
        store.put(Name(0, 1, 1), out, START)
    first = digest(live)
    before = {pgno: hashlib.md5(page).digest() for pgno, page in file_pages(live)}
    db = apsw.Connection(str(live))
    db.execute("INSERT INTO t(v) SELECT randomblob(9000000); UPDATE t SET v=randomblob(5000) WHERE id%97=3")
    db.close()
    changed = ((pgno, page) for pgno, page in file_pages(live) if before.get(pgno) != hashlib.md5(page).digest())
    with tempfile.TemporaryFile(dir=folder) as out:
        encode(out, Header(PAGE, live.stat().st_size // PAGE, 2, 2, START + BETWEEN), changed)
        store.put(Name(0, 2, 2), out, START + BETWEEN)
    wrong = []
    for what, txid, right in (("first", 1, first), ("newest", None, digest(live)), ("merged", None, digest(live))):
        if what == "merged":
            snapshot(store, folder)
        begin = time.perf_counter()
        restore(store, folder / "ours.db", txid, force=True)
        between = time.perf_counter()
        (folder / "theirs.db").unlink(missing_ok=True)
        done = stock.run("restore", *([] if txid is None else ["-txid", f"{txid:016x}"]), "-o", folder / "theirs.db", f"file://{store.url}")
        end = time.perf_counter()
        wrong += [
            f"{what}: {path.name}" for path in (folder / "ours.db", folder / "theirs.db") if not path.exists() or digest(path) != right
        ]
        spent = f"ours {between - begin:.2f} s, Litestream {end - between:.2f} s"
        print(f"   {what:<7} {live.stat().st_size >> 20} MiB: {spent} {done.stderr[-200:]}")
    return wrong


def build_race(store: Store, mib: int, increments: int) -> bytes:
    """A database of JSON rows and so many small changes of it in a store; returns what it is at last."""
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
    source, text = random.Random(7), '{{"animal": {}, "weight": {:.3f}, "notes": "{}"}}'
    with db:
        for n in range(mib * 880):
            db.execute("INSERT INTO t(v) VALUES(?)", (text.format(n, source.random(), source.randbytes(500).hex()),))
    images = [db.serialize("main")]
    ship(store, images)
    for txid in range(2, increments + 2):
        with db:
            for _ in range(CHANGED_ROWS):
                db.execute(
                    "UPDATE t SET v=? WHERE id=?",
                    (text.format(txid, source.random(), source.randbytes(500).hex()), source.randrange(mib * 880)),
                )
        image, file, at = db.serialize("main"), io.BytesIO(), START + txid * BETWEEN
        encode(file, Header(PAGE, len(image) // PAGE, txid, txid, at), differing(image, images[-1], PAGE))
        store.put(Name(0, txid, txid), file, at)
        images = [image]
    db.close()
    return images[-1]


def race(stock: Litestream, url: str, right: bytes, folder: Path, runs: int) -> float:
    """Restore with both in turns, as whole processes and, ours, within this one; prints the medians and what was reached.

    Returns the smaller of the two ratios of whole processes, by the clock and in CPU time, which a busy machine disturbs less; 9 where a
    result is wrong.
    """
    try:
        times = race_times(stock, url, right, folder, runs)
    except AssertionError as exc:
        print(f"   {exc}")
        return 9.0
    medians = {who: [statistics.median(column) for column in zip(*found, strict=True)] for who, found in times.items()}
    shown = ", ".join(f"{who} {wall:.2f} s ({cpu:.2f} of CPU)" for who, (wall, cpu) in medians.items())
    ratios = [a / b for a, b in zip(medians["ours"], medians["Litestream"], strict=True)]
    inside = medians["ours without a start"][0] / medians["Litestream"][0]
    print(f"   {url.partition('?')[0]}: {shown}")
    print(f"      ours takes {ratios[0]:.2f} of Litestream's time, {ratios[1]:.2f} of its CPU; without the start of a process {inside:.2f}")
    return min(ratios)


def race_times(stock: Litestream, url: str, right: bytes, folder: Path, runs: int) -> dict[str, list[tuple[float, float]]]:
    """The seconds by the clock and of CPU of each run, by who ran. Raises AssertionError where a result is not `right`."""
    ours, theirs = folder / "ours.db", folder / "theirs.db"
    address = url if "://" in url else f"file://{url}"
    command = [sys.executable, "-m", "changelog", "ltx", "restore", url, str(ours)]
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "Litestream": [], "ours without a start": []}
    for _ in range(runs):
        for path in (ours, theirs):
            path.unlink(missing_ok=True)
        for who, run in (
            ("ours", lambda: subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True)),
            ("Litestream", lambda: stock.run("restore", "-o", theirs, address)),
            ("ours without a start", lambda: restore(open_store(url), ours, force=True)),
        ):
            begin, used = time.perf_counter(), cpu_time()
            run()
            times[who].append((time.perf_counter() - begin, cpu_time() - used))
            if (theirs if who == "Litestream" else ours).read_bytes() != right:
                raise AssertionError(f"{who}: WRONG")
    return times


def cpu_time() -> float:
    """s that this process and those that it has waited for have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@click.command()
@click.option("--damage", default=10_000, show_default=True)
@click.option("--states", default=40, show_default=True)
@click.option("--mib", default=1100, show_default=True)
@click.option("--race-mib", default=100, show_default=True)
@click.option("--increments", default=200, show_default=True)
@click.option("--runs", default=5, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--limit", default=TIMES, show_default=True, help="Of Litestream's time that ours may take in the race.")
def main(damage: int, states: int, mib: int, race_mib: int, increments: int, *, runs: int, seed: int, limit: float) -> None:
    """See above."""
    stock, failed = litestream(), False
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(KEYS)
    with tempfile.TemporaryDirectory(prefix="prove-ltx-") as place:
        folder = Path(place)
        if damage:
            found = outcome(Damage(folder / "damage", seed), damage)
            print(f"1. damage: {found.refused} refused by name, {found.harmless} harmless, {len(found.wrong)} WRONG {found.wrong[:5]}")
            failed |= bool(found.wrong)
        if states:
            wrong = same_states(stock, folder, states, seed)
            print(f"2. states: {states} restored by both, {len(wrong)} DIFFERENT {wrong[:5]}")
            failed |= bool(wrong)
        if mib:
            print("3. a large database")
            wrong = large(stock, folder, mib)
            print(f"   {len(wrong)} DIFFERENT {wrong}")
            failed |= bool(wrong)
        if race_mib:
            print(f"4. a race over {race_mib} MiB and {increments} increments, medians of {runs}")
            with moto_server(folder / "moto.log") as server:
                for url in (str(folder / "race"), server.url("race")):
                    right = build_race(open_store(url), race_mib, increments)
                    failed |= race(stock, url, right, folder, runs) > limit
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
