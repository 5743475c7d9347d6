#!/usr/bin/env python3
"""What the Pi's push costs, and whether all hear everything: `scripts/prove_push.py [REPLICAS=50] [SECONDS=600]`.

A Pi runs as a process of its own, over TLS; REPLICAS clients are connected. Then:

1. Nobody writes for IDLE seconds, first with one client and then with all: the Pi's CPU.
2. Another process makes RATE one-row commits a second for SECONDS, half of them with synchronous=NORMAL: the Pi's CPU and memory, and the
   time from a commit until a client holds its frame. Every client must get every commit, in frames that follow one another without a gap.

The exit code is 1 unless all was so within the limits given.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from farm_processes import Farm, Role, Seed
from listener import Listener

from changelog.connection import connect
from changelog.log import head

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
WARM_UP = 0.2  # the share of the run before memory counts
ARRIVAL = 10.0  # s for the last push to reach everybody


class Audience:
    """One client that keeps when it heard of which seq, and what was wrong."""

    def __init__(self, farm: Farm, number: int) -> None:
        self.heard: dict[int, float] = {}
        self.wrong: list[str] = []
        self.head = 0
        self._listener = Listener(farm.pi.url, farm.pi.data / "pi-cert.pem", farm.api_key, f"replica-{number}", timeout=30)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.head = self._listener.next_named("changelog")["head"]
            while True:
                self._hear(self._listener.next_named("changelog", 3600))
        except Exception as exc:
            self.wrong.append(repr(exc))

    def _hear(self, told: dict[str, Any]) -> None:
        now = time.monotonic()
        if told["frame"] is None:
            self.wrong.append(f"only the head at {told['head']}")
        else:
            after = json.loads(told["frame"].split(b"\n", 1)[0])["after"]
            if after != self.head:
                self.wrong.append(f"a frame after {after}, not {self.head}")
        for seq in range(self.head + 1, told["head"] + 1):
            self.heard[seq] = now
        self.head = told["head"]

    def close(self) -> None:
        """Leave."""
        self._listener.close()


def write(path: str, rate: float, seconds: float, told: Connection) -> None:
    """Be the writing process: send back when the commit of which seq returned."""
    db = connect(path)
    db.execute("INSERT INTO pens(pen_number, capacity) VALUES('prove', 0)")
    committed: dict[int, float] = {}
    until = time.monotonic() + seconds
    due = time.monotonic()
    while due < until:
        due += random.expovariate(rate)
        time.sleep(max(0.0, due - time.monotonic()))
        db.execute(f"PRAGMA synchronous={random.choice(('FULL', 'NORMAL'))}")
        db.execute("UPDATE pens SET capacity=capacity+1 WHERE pen_number='prove'")
        now = time.monotonic()
        committed[head(db)] = now
    db.close()
    told.send(committed)


class Gauge:
    """The CPU and the memory of the Pi's processes."""

    def __init__(self, role: Role) -> None:
        self._pids = role.pids()
        self._at, self._cpu = time.monotonic(), self._ticks()

    def cpu(self) -> float:
        """Percent of a core since the last time this was asked."""
        at, ticks = time.monotonic(), self._ticks()
        used = 100 * (ticks - self._cpu) / TICK / (at - self._at)
        self._at, self._cpu = at, ticks
        return used

    def memory(self) -> float:
        """MB resident in the worker, the larger of the two."""
        return max(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._pids) * PAGE / 1e6

    def _ticks(self) -> int:
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self._pids]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats)


class Judge:
    """Prints each fact, and remembers whether all held."""

    def __init__(self) -> None:
        self.held = True

    def say(self, words: str, holds: bool = True) -> None:
        """One line."""
        self.held &= holds
        click.echo(words if holds else f"{words}   DOES NOT HOLD")


@click.command()
@click.argument("replicas", default=50)
@click.argument("seconds", default=600.0)
@click.option("--rate", default=10.0, help="Commits a second.")
@click.option("--idle", default=30.0, help="Seconds of each look at an idle Pi.")
@click.option("--most-cpu", default=30.0, help="Percent of a core that the Pi may use.")
@click.option("--most-idle", default=1.0, help="The same while nobody writes and one replica listens.")
@click.option("--most-growth", default=5.0, help="MB by which the Pi's memory may grow after the warm-up.")
@click.option("--p99", default=25.0, help="Milliseconds from a commit until a client holds its frame.")
def main(replicas: int, seconds: float, rate: float, idle: float, **most: float) -> None:
    """Measure the push of a Pi."""
    judge = Judge()
    with tempfile.TemporaryDirectory() as folder:
        farm = Farm(Path(folder) / "farm", Seed(Path(folder) / "seed"))
        try:
            farm.pi.start()
            gauge = Gauge(farm.pi)
            audience = [Audience(farm, 0)]
            time.sleep(min(2.0, idle))
            gauge.cpu()
            time.sleep(idle)
            used = gauge.cpu()
            judge.say(f"idle, 1 replica: {used:.2f} % of a core in {idle:g} s", used <= most["most_idle"])
            audience += [Audience(farm, number) for number in range(1, replicas)]
            time.sleep(min(2.0, idle))
            gauge.cpu()
            time.sleep(idle)
            judge.say(f"idle, {replicas} replicas: {gauge.cpu():.2f} % of a core")
            load(farm, audience, Load(seconds, rate, **most), gauge, judge)
            for each in audience:
                each.close()
        finally:
            farm.close()
    click.echo("all held" if judge.held else "NOT ALL HELD")
    sys.exit(not judge.held)


@dataclass(frozen=True)
class Load:
    """What is written, and within which limits."""

    seconds: float
    rate: float
    most_cpu: float
    most_idle: float
    most_growth: float
    p99: float


def load(farm: Farm, audience: list[Audience], what: Load, gauge: Gauge, judge: Judge) -> None:
    """Write, and judge what the Pi did."""
    told, tell = multiprocessing.Pipe(duplex=False)
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(str(farm.pi.database), what.rate, what.seconds, tell))
    writer.start()
    gauge.cpu()
    memory = []
    while not told.poll(what.seconds / 20):
        memory.append(gauge.memory())
        if not writer.is_alive() and not told.poll():
            raise click.ClickException("the writer died")
    committed: dict[int, float] = told.recv()
    used = gauge.cpu()
    writer.join()
    newest, until = max(committed), time.monotonic() + ARRIVAL
    while any(each.head < newest for each in audience) and time.monotonic() < until:
        time.sleep(0.01)
    warm = memory[int(len(memory) * WARM_UP) :] or [gauge.memory()]
    grown = gauge.memory() - warm[0]
    judge.say(f"{len(committed)} commits, {len(audience)} replicas: {used:.1f} % of a core", used <= what.most_cpu)
    judge.say(f"memory {warm[0]:.1f} MB after the warm-up, {gauge.memory():.1f} MB at the end", grown <= what.most_growth)
    missed = sum(1 for each in audience for seq in committed if seq not in each.heard)
    judge.say(f"{missed} of {len(committed) * len(audience)} frames missed", not missed)
    wrong = [f"replica {number}: {words}" for number, each in enumerate(audience) for words in each.wrong]
    judge.say(f"{len(wrong)} wrong {wrong[:3] or ''}", not wrong)
    late = sorted((each.heard[seq] - at) * 1e3 for each in audience for seq, at in committed.items() if seq in each.heard)
    with suppress(IndexError):
        at = {share: late[min(len(late) - 1, int(len(late) * share))] for share in (0.5, 0.9, 0.99)}
        words = f"commit -> frame p50 {at[0.5]:.2f} p90 {at[0.9]:.2f} p99 {at[0.99]:.2f} max {late[-1]:.2f} ms"
        judge.say(words, at[0.99] <= what.p99)


if __name__ == "__main__":
    main()
