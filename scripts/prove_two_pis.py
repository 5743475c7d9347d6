#!/usr/bin/env python3
"""Two Pis answer under one address, with real processes: `scripts/prove_two_pis.py [SECONDS]`, for so long each.

The server follows our Pi through a proxy that then sends each new connection to one of two Pis, by chance, and cuts all connections every
now and then; both have the certificate and the keys, both are written to. First the other one is a stranger (a farm of its own), then a
clone of ours that went another way. Exit code 1 when the rows shown go to and fro, more copies are fetched than one, nothing warns of it on
the page, or the server does not hold our rows again when the other Pi is gone.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import click
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.large_farm import CuttingProxy, Farm, InVain, Role, figure, free_port, judge, new_farm, shell, wait_for

SEED = 1
SWITCH = 0.4  # s between two cuts of all connections, about
WRITE = 0.3  # s between two writes on each Pi
LOOK = 0.05  # s between two looks at the page
LONGEST_CALM = 5.0  # s without a warning, once there was one
MOST_COPIES = {"stranger": 0, "clone": 1}  # a clone that answers for the first time may be our Pi, restored from a backup
AGAIN_OURS = 20.0  # s after which the server is to hold our rows again
CALM = ("starting", "bootstrapping", "following", "stale", "snapshots", "pages-only")  # states that are no alarm
ALARM = re.compile(r"accept|another history|Two Pis|lost \d+ changes")  # what else the line says only when it warns
OURS, THEIRS = "the rows of ours", "the rows of the other"  # notes of a batch on the page
NOTES = "UPDATE batches SET notes='{}' WHERE id=1"


class Office:
    """Looks at the list of batches and its replication line all the time while the block runs."""

    def __init__(self, farm: Farm) -> None:
        self._url, self._browser = f"{farm.server.url}/office/batches", farm.login()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.shown: list[str] = []  # each change of what is shown
        self.looks = 0
        self.warned = 0  # looks at which the replication line or the status warned
        self.calm = 0.0  # s, the longest without a warning after the first one
        self.warnings = Counter[str]()
        self.wrong: list[str] = []

    def __enter__(self) -> Office:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        last_warned: float | None = None
        while not self._ended.wait(LOOK):
            answer = self._browser.get(self._url, timeout=15, allow_redirects=False)
            self.looks += 1
            if not answer.ok:
                self.wrong.append(f"{answer.status_code} {' '.join(answer.text.split())[:200]}")
                continue
            shown = next((name for name, text in (("ours", OURS), ("theirs", THEIRS)) if text in answer.text), "neither")
            if not self.shown or self.shown[-1] != shown:
                self.shown.append(shown)
            if self._warns(answer.text):
                self.warned, last_warned = self.warned + 1, time.monotonic()
            elif last_warned is not None:
                self.calm = max(self.calm, time.monotonic() - last_warned)

    def _warns(self, page: str) -> bool:
        """Whether the replication line of the page is one of alarm."""
        line = re.search(r'<aside id="replication" class="replication ([\w-]+)( alarm)?".*?</aside>', page, re.DOTALL)
        if line is None or (line[1] in CALM and not line[2] and not ALARM.search(line[0])):
            return False
        self.warnings[" ".join(re.sub(r"<[^>]+>", " ", line[0]).split())[:200]] += 1
        return True


class TwoPis:
    """The proxy in front of both, which from `begin` on chooses by chance; and the writers on both."""

    def __init__(self, farm: Farm, other: Role, seed: int) -> None:
        self._roles = {"ours": farm.pi, "theirs": other}
        self._chance, self._both = random.Random(seed), False
        self.reached = Counter[str]()
        self.proxy = CuttingProxy(choose=self._choose)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._cut, daemon=True)]
        self._threads += [threading.Thread(target=self._write, args=(role,), daemon=True) for role in self._roles.values()]

    def begin(self) -> None:
        """From now on the other one answers too."""
        self._both = True
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """The other one is gone, and nobody writes."""
        self._both = False
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self.proxy.cut_all()

    def _choose(self, _number: int) -> int:
        name = "theirs" if self._both and self._chance.random() < 0.5 else "ours"
        self.reached[name] += self._both
        return int(str(self._roles[name].settings["PI_PORT"]))

    def _cut(self) -> None:
        while not self._ended.wait(SWITCH * self._chance.uniform(0.5, 1.5)):
            self.proxy.cut_all()

    def _write(self, role: Role) -> None:
        while not self._ended.wait(WRITE):
            role.sql("INSERT INTO pens(pen_number, capacity) VALUES('P'||hex(randomblob(8)), 1)")


@click.command(help=__doc__)
@click.argument("seconds", type=float, default=30.0)
@click.option("--kind", "kinds", type=click.Choice(list(MOST_COPIES)), multiple=True, default=list(MOST_COPIES), help="Only this one.")
@click.option("--folder", type=click.Path(file_okay=False, exists=True), help="Where the files go.")
@click.option("--seed", default=SEED, show_default=True, help="Of who answers, and when the connections are cut.")
def main(seconds: float, kinds: tuple[str, ...], folder: str | None, seed: int) -> None:
    """The command line."""
    problems: list[str] = []
    click.echo(f"seed {seed}")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for kind in kinds:
            with new_farm(Path(work) / kind) as farm:
                other = second_pi(farm, Path(work) / kind / "other")
                try:
                    problems += [f"with a {kind}: {problem}" for problem in tried(farm, other, kind, seconds, seed)]
                finally:
                    other.kill9()
    judge(problems)


def second_pi(farm: Farm, folder: Path) -> Role:
    """Another Pi with the certificate and the keys of ours, and no farm.db yet."""
    settings = {**farm.pi.settings, "PI_PORT": free_port()}
    other = Role("pi", folder, "farm.db", "/api/sync/health", **settings)
    shutil.copytree(farm.pi.data, other.data, ignore=shutil.ignore_patterns("farm.db*", "snapshots", "log"))
    return other


def tried(farm: Farm, other: Role, kind: str, seconds: float, seed: int) -> list[str]:
    """What went wrong while both answered for so many seconds, and after that."""
    farm.fill(20)
    pis = TwoPis(farm, other, seed)
    with pis.proxy:
        farm.server.settings["REMOTE_PI_PORT"] = pis.proxy.port
        farm.pi.sql(NOTES.format(OURS))
        farm.start()
        set_up(farm, other, kind)
        copies = figure(farm, "drover_bootstraps_total")
        with Office(farm) as office:
            wait_for(lambda: office.shown == ["ours"], AGAIN_OURS, "the first page")
            pis.begin()
            time.sleep(seconds)
            copies = figure(farm, "drover_bootstraps_total") - copies
            shown, looks = list(office.shown), office.looks
            pis.end()
            problems = became_ours(farm)
    click.echo(f"with a {kind}: {seconds:g} s, {pis.reached['ours']} connections to ours, {pis.reached['theirs']} to the other")
    click.echo(f"  shown   {' -> '.join(shown[:12])}{' ...' if len(shown) > 12 else ''}: {len(shown) - 1} changes in {looks} looks")
    click.echo(f"  copies  {copies:.0f} fetched")
    click.echo(f"  warning at {office.warned} looks, the longest time without one {office.calm:.1f} s")
    for warning, times in office.warnings.most_common(3):
        click.echo(f"          {times} times: {warning}")
    return [*problems, *judged(kind, office, shown, copies), *office.wrong]


def set_up(farm: Farm, other: Role, kind: str) -> None:
    """Fill and start the other Pi."""
    if kind == "clone":
        shell(farm.pi.database, f"VACUUM INTO '{other.database}'")
        shell(other.database, "PRAGMA journal_mode=WAL")
        other.sql(NOTES.format(THEIRS))
    other.start()
    if kind == "stranger":
        other.sql(f"INSERT INTO batches(batch_number, notes) VALUES('STRANGER', '{THEIRS}')")
    farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('only ours', 1)")  # the clone has another change at this seq
    farm.assert_identical()


def judged(kind: str, office: Office, shown: list[str], copies: float) -> list[str]:
    """What is not as it should be."""
    found = []
    if len(shown) - 1 > MOST_COPIES[kind]:
        found.append(f"the rows shown changed {len(shown) - 1} times")
    if copies > MOST_COPIES[kind]:
        found.append(f"{copies:.0f} copies were fetched")
    if not office.warned:
        found.append("nothing warned on the page")
    elif office.calm > LONGEST_CALM:
        found.append(f"for {office.calm:.1f} s nothing warned on the page")
    return found


def became_ours(farm: Farm) -> list[str]:
    """Whether the server comes to hold the rows of our Pi, by itself or as soon as somebody accepts that one."""
    for way in ("by itself", "after `python -m server accept`"):
        try:
            wait_for(lambda: not farm.difference(), AGAIN_OURS, "our rows", 0.3)
        except InVain:
            if way == "by itself":
                farm.server.command("accept", "--yes")
            continue
        click.echo(f"  after   the server holds our rows again, {way}")
        return []
    ready = requests.get(f"{farm.server.url}/readyz", timeout=10).text
    return [f"the server does not come back to ours: {farm.difference()[:300]}; {ready}"]


if __name__ == "__main__":
    main()
