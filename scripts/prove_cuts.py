#!/usr/bin/env python3
"""The Pi's socket is cut again and again while a writer commits, with real processes: `scripts/prove_cuts.py 1000`.

A proxy stands between the server and the Pi. Half of the cuts hit the socket alone, at random moments, while the pulls go on; the others
hit every connection, TLS, after a random number of bytes, so in the middle of a frame too. Then upgrades are refused, as by a proxy that
knows no WebSocket; and the socket goes silent without being closed. Exit code 1 unless every commit could be read on the replica within
DB_SYNC_INTERVAL and the back-off, each change was applied once, no copy was fetched, and both sides end equal, in rows and in log.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.large_farm import Behaviour, CuttingProxy, Farm, contents, figure, judge, new_farm, wait_for, waits_in_words
from scripts.prove_realtime import Observer

SEED = 1
INTERVAL = 1.0  # s, DB_SYNC_INTERVAL
SLACK = 2.5  # s on a busy machine, over what is promised
COMMIT_EVERY = (0.005, 0.06)  # s
CUT_EVERY = (0.05, 0.6)  # s
CUT_AFTER = (4_000, 40_000)  # bytes from the Pi
BACKOFF = 1.25 * INTERVAL  # s, at most
PULL_TIMEOUT = 20.0  # s that a pull waits for an answer
DEAD_WITHIN = 15.0  # s


class Writer:
    """Types commits into the sqlite3 shell on the Pi, of one row mostly and now and then of many, while the block runs."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._chance = path, random.Random(seed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.commits = 0

    def __enter__(self) -> Writer:
        self._shell = subprocess.Popen(
            ["sqlite3", "-bail", "-cmd", ".timeout 8000", str(self._path)], stdin=subprocess.PIPE, text=True, bufsize=1
        )
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        assert self._shell.wait(30) == 0, "the shell failed"

    def _run(self) -> None:
        assert self._shell.stdin is not None
        while not self._ended.wait(self._chance.uniform(*COMMIT_EVERY)):
            self._shell.stdin.write(self._statement() + "\n")
            self.commits += 1

    def _statement(self) -> str:
        kind, number = self._chance.random(), self.commits
        if kind < 0.5:
            return f"INSERT INTO pens(pen_number, capacity, description) VALUES('W'||hex(randomblob(8)), {number}, 'by hand');"
        if kind < 0.8:
            return f"UPDATE pens SET capacity={number} WHERE id=(SELECT max(id) FROM pens);"
        if kind < 0.98:
            return "DELETE FROM pens WHERE id=(SELECT min(id) FROM pens);"
        return "UPDATE cattle SET weight=weight+1;"  # more than what is pushed


class Trial:
    """One farm behind a proxy, and what is wrong with it in the end."""

    def __init__(self, farm: Farm, proxy: CuttingProxy, seed: int) -> None:
        self.farm, self.proxy, self.chance = farm, proxy, random.Random(seed)
        self.problems: list[str] = []

    def start(self) -> None:
        """The farm runs, and the socket is up."""
        self.farm.server.settings |= {"REMOTE_PI_PORT": self.proxy.port, "DB_SYNC_INTERVAL": INTERVAL}
        self.farm.pi.start()
        self.farm.fill(1_500)
        self.farm.server.start()
        wait_for(lambda: bool(self.farm.status()["push"]), 20, "the socket")

    def run(self, title: str, allowed: float, disturb: Callable[[], str]) -> None:
        """Commit while `disturb` does its work; it tells what that was. No commit may take longer than `allowed` s."""
        farm = self.farm
        began, applied = self._head(), figure(farm, "drover_changes_applied_total")
        with Observer(farm.pi.database, farm.server.database) as observer, Writer(farm.pi.database, self.chance.randrange(10**9)) as writer:
            done = disturb()
            self.proxy.behaviour = Behaviour()
        wait_for(lambda: farm.status()["seq"] == self._head(), allowed + PULL_TIMEOUT, f"{title}: the end")
        waits, missing = observer.waits()
        click.echo(f"{title}: {done}, {writer.commits} commits, {self._head() - began} changes; {waits_in_words(waits)}")
        if missing:  # they came after the observer had ended: it does so as soon as the writer does
            waits.append(0.0)
        if waits and max(waits) > allowed:
            self.problems.append(f"{title}: a commit could be read after {max(waits):.1f} s, and {allowed:.1f} are promised")
        counted = figure(farm, "drover_changes_applied_total") - applied
        if counted != self._head() - began:
            self.problems.append(f"{title}: {counted:.0f} changes were applied, and {self._head() - began} were made")
        self.judge(title)

    def judge(self, title: str) -> None:
        """Both sides equal, the log whole, and by replay alone."""
        farm = self.farm
        facts = "SELECT count(*), max(seq)-min(seq)+1, count(DISTINCT seq) FROM changelog"
        if len(set(farm.server.sql(facts).split("|"))) != 1 or farm.server.sql(facts) != farm.pi.sql(facts):
            self.problems.append(f"{title}: the log is {farm.server.sql(facts)} here and {farm.pi.sql(facts)} on the Pi")
        for role in farm.roles:
            if (found := role.sql("PRAGMA integrity_check")) != "ok":
                self.problems.append(f"{title}: {role.database} is damaged: {found[:200]}")
        if contents(farm.pi.database) != contents(farm.server.database) or farm.difference():
            self.problems.append(f"{title}: the two sides differ: {farm.difference()}")
        if (copies := figure(farm, "drover_bootstraps_total")) != 1:
            self.problems.append(f"{title}: {copies:.0f} copies were fetched, and the first one is all that is needed")

    def cut_socket(self, cuts: int) -> str:
        """Reset the socket alone, so often."""
        done = 0
        while done < cuts:
            time.sleep(self.chance.uniform(*CUT_EVERY))
            for link in self.proxy.sockets():
                link.end(reset=True)
                done += 1
        return f"{done} sockets cut"

    def cut_everything(self, cuts: int) -> str:
        """Reset each connection after so many bytes, until it was so often."""
        before = self.proxy.cuts
        self._renew()
        while self.proxy.cuts - before < cuts:
            self._renew()
            time.sleep(0.01)
        return f"{self.proxy.cuts - before} connections cut"

    def _renew(self) -> None:
        behaviour = Behaviour(cut_after=self.chance.randint(*CUT_AFTER))
        self.proxy.behaviour = behaviour
        for link in self.proxy.links[-4:]:
            if link.behaviour.cut_after is None:
                link.behaviour = replace(behaviour, cut_after=link.passed["down"] + 1 + self.chance.randrange(2_000))

    def refuse(self, seconds: float) -> str:
        """No upgrade for so long."""
        self.proxy.behaviour = Behaviour(refuse_upgrades=True)
        for link in self.proxy.sockets():
            link.end(reset=True)
        wait_for(lambda: not self.farm.status()["push"], 5, "the end of the socket")
        before = self.proxy.connections
        time.sleep(seconds)
        if self.farm.status()["push"]:
            self.problems.append("a refused socket counts as up")
        self.proxy.behaviour = Behaviour()
        wait_for(lambda: bool(self.farm.status()["push"]), 10, "the socket after the refusals")
        return f"upgrades refused for {seconds:.0f} s, {self.proxy.connections - before} connections"

    def silence(self, times: int) -> str:
        """The socket stops to pass anything, and nobody closes it; so often."""
        longest = 0.0
        for _ in range(times):
            wait_for(lambda: bool(self.farm.status()["push"]), 20, "the socket")
            for link in self.proxy.sockets():
                link.behaviour = Behaviour(stall_after=0, direction="both")
            began = time.monotonic()
            wait_for(lambda: not self.farm.status()["push"], 30, "that a dead socket is noticed")
            longest = max(longest, time.monotonic() - began)
        if longest > DEAD_WITHIN:
            self.problems.append(f"a dead socket was noticed after {longest:.1f} s")
        return f"{times} sockets went silent, noticed after {longest:.1f} s at most"

    def _head(self) -> int:
        return int(self.farm.pi.sql("SELECT max(seq) FROM changelog"))


def plain(folder: Path, cuts: int) -> list[str]:
    """Without TLS, so that the proxy knows the socket from the pulls."""
    with new_farm(folder) as farm, CuttingProxy(int(str(farm.pi.settings["PI_PORT"]))) as proxy:
        farm.pi.settings["PI_TLS"] = farm.server.settings["USE_SSL_FOR_PI"] = False
        trial = Trial(farm, proxy, SEED)
        trial.start()
        promised = INTERVAL + BACKOFF + SLACK
        trial.run("the socket cut", promised, lambda: trial.cut_socket(cuts))
        trial.run("no upgrades", promised, lambda: trial.refuse(max(3.0, cuts / 25)))
        trial.run("a silent socket", promised, lambda: trial.silence(max(1, cuts // 100)))
        return trial.problems


def encrypted(folder: Path, cuts: int) -> list[str]:
    """With TLS, and nothing is spared: a pull that breaks is tried again, and may break again."""
    with new_farm(folder) as farm, CuttingProxy(int(str(farm.pi.settings["PI_PORT"]))) as proxy:
        trial = Trial(farm, proxy, SEED + 1)
        trial.start()
        trial.run("everything cut", 3 * (INTERVAL + BACKOFF) + SLACK, lambda: trial.cut_everything(cuts))
        return trial.problems


@click.command(help=__doc__)
@click.argument("cuts", type=click.IntRange(2), default=1_000)
@click.option("--folder", type=click.Path(path_type=Path), help="Where the files stand.  [default: a new one that is removed]")
def main(cuts: int, folder: Path | None) -> None:
    """The proof."""
    with tempfile.TemporaryDirectory() as made:
        place = folder or Path(made)
        judge(plain(place / "plain", cuts // 2) + encrypted(place / "encrypted", cuts - cuts // 2))


if __name__ == "__main__":
    main()
