"""What the proofs with real processes share: a farm of any size, a steady writer beside it, readers of its pages, and figures in words."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import apsw
import click
import requests

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from cutting_proxy import Behaviour, CuttingProxy  # noqa: E402  # of tests
from farm_processes import USER, Farm, PageWatch, Role, Seed, shell  # noqa: E402  # of tests
from office_farm import free_port  # noqa: E402

from changelog.connection import connect, one  # noqa: E402
from changelog.install import is_installed, uninstall  # noqa: E402
from changelog.verify.digest import digest_tables  # noqa: E402

__all__ = ["USER", "Behaviour", "CuttingProxy", "Farm", "free_port", "shell"]

IN_A_BATCH = 100  # animals
PAGES = ("/office/batches", "/office/batches/1", "/office/payloads")
ALWAYS_THERE = {"/office/batches": "B", "/office/batches/1": "B00000-0000", "/office/payloads": "hxb:"}  # what an emptied database lacks


def add_animals(path: Path, first: int, count: int, *, logged: bool) -> None:
    """`count` animals from number `first` on, each with a weight, a payload and, one in ten, a former pair of tags; a batch for each 100.

    `logged`: the changelog tells of each row; otherwise it is taken out first, and the Pi installs a new one when it starts.
    """
    with closing(connect(path)) as db:
        if not logged and is_installed(db):
            uninstall(db)
        db.pragma("synchronous", "OFF")
        with db:
            db.execute(
                f"""WITH RECURSIVE n(i) AS (SELECT ?1/{IN_A_BATCH} UNION ALL SELECT i+1 FROM n WHERE i<(?1+?2-1)/{IN_A_BATCH})
                    INSERT OR IGNORE INTO batches(id, batch_number, induction_date) SELECT i+1, printf('B%05d', i), '2026-11-01' FROM n""",
                (first, count),
            )
            animals = "WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i+1 FROM n WHERE i<?1+?2-1)"
            for sql in (
                f"""INSERT INTO cattle(id, batch_id, cattle_id, sex, weight, lf_tag, uhf_tag)
                    SELECT i+1, i/{IN_A_BATCH}+1, printf('B%05d-%06d', i/{IN_A_BATCH}, i), 'cow', 200+i%500+0.1,
                      printf('LF%08d', i), printf('UHF%012d', i) FROM n""",
                "INSERT INTO weight_records(cattle_id, weight, recorded_by) SELECT i+1, 200+i%500+0.1, 'scale' FROM n",
                """INSERT INTO pair_history(cattle_id, lf_tag, uhf_tag, updated_by)
                    SELECT i+1, 'old'||i, 'old'||i, 'lora' FROM n WHERE i%10=0""",
                f"""INSERT INTO lora_payload_buffer(raw_payload, source_type, batch_number, lf_tag, uhf_tag, status, batch_id)
                    SELECT printf('hxb:B%05d:LF%08d:UHF%012d', i/{IN_A_BATCH}, i, i), 'hxb', printf('B%05d', i/{IN_A_BATCH}),
                      printf('LF%08d', i), printf('UHF%012d', i), 'processed', i/{IN_A_BATCH}+1 FROM n""",
            ):
                db.execute(f"{animals} {sql}", (first, count))
        db.wal_checkpoint(mode=3)  # TRUNCATE: nobody else has it open


def random_changes(path: Path, count: int, seed: int, a_commit: int = 1_000) -> int:
    """`count` mixed changes (3 in 10 new animals, 3 new weights, 3 updates, 1 delete), so many a commit; returns the head."""
    chance = random.Random(seed)
    with closing(connect(path, checkpoints=True)) as db:
        db.pragma("synchronous", "OFF")
        top = one(db, "SELECT max(id) FROM cattle")
        head = one(db, "SELECT max(seq) FROM changelog")
        reached = head
        while reached < head + count:
            with db:
                for _ in range(min(a_commit, head + count - reached)):
                    top = _change(db, chance, top)
            reached = one(db, "SELECT max(seq) FROM changelog")
    return reached


def _change(db: apsw.Connection, chance: random.Random, top: int) -> int:
    """One change; returns the newest animal."""
    run, kind, animal = db.execute, chance.random(), chance.randint(1, top)
    if kind < 0.3:
        name = f"N{top + 1}-{chance.getrandbits(40):010x}"
        run("INSERT INTO cattle(id, batch_id, cattle_id, weight, lf_tag, uhf_tag) VALUES(?, 1, ?, 1.5, ?, ?)", (top + 1, name, name, name))
        return top + 1
    if kind < 0.6:
        run("INSERT INTO weight_records(cattle_id, weight) VALUES(?, ?)", (animal, chance.uniform(200, 700)))
    elif kind < 0.9:
        run("UPDATE cattle SET weight=?, notes='weighed' WHERE id=?", (chance.uniform(200, 700), animal))
    else:
        run("DELETE FROM weight_records WHERE id=(SELECT max(id) FROM weight_records WHERE id<=?)", (animal,))
    return top


@contextmanager
def new_farm(folder: Path) -> Iterator[Farm]:
    """A Pi and a server in `folder`, not started; ended with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    farm = Farm(folder, Seed(folder / "seed"))
    try:
        yield farm
    finally:
        farm.close()


@contextmanager
def readers(farm: Farm) -> Iterator[list[PageWatch]]:
    """Three readers that load pages of the server all the time."""
    browser = farm.login()
    with ExitStack() as stack:
        yield [stack.enter_context(PageWatch(farm, _copy(browser), ALWAYS_THERE[path], path)) for path in PAGES]


def page_problems(watches: Sequence[PageWatch]) -> list[str]:
    """What was wrong with any answer."""
    found = [f"{status}: {' '.join(text.split())[:200]}" for watch in watches for status, text in watch.wrong]
    refused = sum(watch.refused for watch in watches)
    return found + ([f"{refused} connections refused"] if refused else [])


def pages_in_words(watches: Sequence[PageWatch]) -> str:
    """How many pages, how many of them wrong, and the longest wait."""
    good, wrong = sum(watch.good for watch in watches), len(page_problems(watches))
    longest = max(watch.longest for watch in watches)
    return f"{good} pages read, {wrong} wrong or empty, the slowest took {longest * 1000:.0f} ms"


def _copy(browser: requests.Session) -> requests.Session:
    other = requests.Session()
    other.cookies.update(browser.cookies)
    return other


class InVain(Exception):
    """What a proof waited for did not come."""


class SteadyWriter:
    """scripts/write_steadily.py on the Pi's file while the block runs; afterwards its `commits`: (begun at, seconds)."""

    def __init__(self, path: Path, rate: float, seed: int) -> None:
        self._command = [sys.executable, str(ROOT / "scripts/write_steadily.py"), str(path), "--rate", str(rate), "--seed", str(seed)]
        self.commits: list[tuple[float, float]] = []

    def __enter__(self) -> SteadyWriter:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.terminate()
        printed, _ = self._process.communicate(timeout=30)
        self.commits = [(float(at), float(seconds)) for at, seconds in (line.split() for line in printed.splitlines())]

    def between(self, since: float, until: float) -> list[float]:
        """The seconds of the commits that began then."""
        return [seconds for at, seconds in self.commits if since <= at < until]


def waits_in_words(seconds: Sequence[float]) -> str:
    """p50, p99 and the longest, in ms."""
    if len(seconds) < 2:
        return f"{len(seconds)} writes: too few"
    half, most, longest = (sorted(seconds)[int(part * (len(seconds) - 1))] * 1000 for part in (0.5, 0.99, 1.0))
    return f"{len(seconds)} writes: p50 {half:.1f}, p99 {most:.1f}, longest {longest:.1f} ms"


def peak_memory(role: Role) -> int:
    """Bytes of resident memory that a process of this role had at most since its start (the worker's: the master only watches)."""
    peaks = []
    for pid in role.pids():
        text = Path(f"/proc/{pid}/status").read_text()
        peaks.append(next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM")))
    return max(peaks)


def megabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB"


def figure(farm: Farm, name: str) -> float:
    """The sum over all labels of a figure that the server tells."""
    text = requests.get(f"{farm.server.url}/metrics", timeout=30).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name) and not line.startswith("#"))


def wait_for(condition: Callable[[], bool], seconds: float, what: str, every: float = 0.05) -> None:
    """Look until it is true. Raises InVain when that takes longer than `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise InVain(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(every)


def contents(path: Path) -> dict[str, object]:
    """The digest of every table."""
    with closing(connect(path, readonly=True)) as db, db:
        return dict(digest_tables(db))


def judge(problems: Sequence[str]) -> None:
    """The end of a proof: exit code 1 when something was wrong."""
    for problem in problems[:20]:
        click.echo(f"FAILED: {problem}")
    click.echo(f"{len(problems)} failed" if problems else "all held")
    sys.exit(1 if problems else 0)
