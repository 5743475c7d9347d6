#!/usr/bin/env python3
"""Loses the disk of a Pi and brings it back on a "new card": `scripts/drill.sh [ANIMALS] [--s3] [--folder F]`.

A Pi with so many animals serves, ships, and is written to; a server follows it. Then the Pi, its shipper and all its files are gone at
once (kill -9 and rm). Once the card is restored from the bucket, and once from the server's replica. For each it prints what was lost by
the restore (RPO: changes, and seconds between the last change that came back and the last one there was), what was still lost after the
changes that only the server had were played back, and how long it took (RTO: from the loss until the Pi takes a payload again, and until
the server follows it). Nobody accepts anything by hand, and what an operator keeps elsewhere (the certificate and the keys) is laid back.

Exit code 1 when one of the promises did not hold: both limits, a server that follows and is identical, no row lost that the server had,
the shipper going on in the same bucket, and a restore of the bucket that is the Pi's file as it is then.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from ltx_parts import KEYS, moto_server  # noqa: E402  # of tests
from shipping import Shipper, position, s3_settings, ship_to  # noqa: E402

from changelog.connection import connect, one  # noqa: E402
from changelog.position import Position  # noqa: E402
from scripts.large_farm import Farm, InVain, SteadyWriter, add_animals, contents, judge, megabytes, new_farm, wait_for  # noqa: E402

KEPT_ELSEWHERE = ("pi-cert.pem", "pi-key.pem", "pi.db")
SOURCES = ("bucket", "replica")
RATE = 50  # commits a second
WAIT = 60.0  # s for whatever is waited for


@dataclass
class Outcome:
    """What one loss cost. Times in seconds."""

    source: str
    changes: int = 0  # that were lost by the restore
    seconds: float = 0.0  # between the newest change that came back and the newest there was
    after_adopt: int = 0  # changes that are nowhere in the end
    restored: float = 0.0  # from the loss on
    writes: float = 0.0
    follows: float = 0.0
    problems: list[str] = field(default_factory=list)


class Drill:
    """One farm and its loss."""

    def __init__(self, farm: Farm, shipper: Shipper, source: str, seconds: float) -> None:
        self.farm, self.shipper, self.load = farm, shipper, seconds
        self.outcome = Outcome(source)
        self._elsewhere = farm.pi.folder / "elsewhere"
        self._lost_at = 0.0
        self._served = 0  # the newest seq that the server had then

    def run(self) -> Outcome:
        """All of it."""
        self.farm.start()
        self.shipper.start()
        shutil.copytree(self.farm.pi.data, self._elsewhere, ignore=lambda _, names: [n for n in names if n not in KEPT_ELSEWHERE])
        with SteadyWriter(self.farm.pi.database, RATE, 1):
            time.sleep(self.load)
            self.farm.pi.kill9()
            self.shipper.kill9()
            self._lost_at = time.monotonic()
        self._served = self.farm.status()["seq"]
        lost, at = self._lose()
        restored = self._restore()
        self._count(lost, at, restored)
        self._go_on()
        self._adopt(lost, restored.seq)
        self._ship_on()
        return self.outcome

    def _lose(self) -> tuple[Path, Position]:
        """The card is gone. What stood on it is kept aside, for this script to count by and nothing else."""
        lost = self.farm.pi.folder / "lost.db"
        with closing(connect(self.farm.pi.database)) as db:
            db.wal_checkpoint(mode=3)
        shutil.move(self.farm.pi.database, lost)
        shutil.rmtree(self.farm.pi.data)
        shutil.copytree(self._elsewhere, self.farm.pi.data)
        return lost, position(lost)

    def _restore(self) -> Position:
        words = ["--from-bucket"]
        if self.outcome.source == "replica":
            carried = self.farm.pi.folder / "carried.db"
            self.farm.server.sql(f".backup {carried}")
            words = ["--from-replica", str(carried)]
        done = self.farm.pi.command("restore", *words, "--json")
        if done.returncode:
            raise InVain(f"the restore failed: {done.stderr}")
        self.outcome.restored = time.monotonic() - self._lost_at
        return Position.parse(json.loads(done.stdout)["restored_to"])

    def _count(self, lost: Path, at: Position, restored: Position) -> None:
        with closing(connect(lost, readonly=True)) as db:
            if one(db, "SELECT nonce FROM changelog WHERE seq=?", (restored.seq,)) != restored.check:
                self.outcome.problems.append(f"what was restored ({restored}) is not the history of what was lost ({at})")
            times = [one(db, "SELECT at FROM changelog WHERE seq=?", (seq,)) for seq in (restored.seq, at.seq)]
        first, last = (datetime.fromisoformat(text) for text in times)
        self.outcome.changes, self.outcome.seconds = at.seq - restored.seq, (last - first).total_seconds()

    def _go_on(self) -> None:
        """The Pi takes a payload again, and the server follows it, by itself."""
        farm = self.farm
        farm.pi.start()
        if farm.post("hxb:DRILL:LF1:UHF1").status_code != 201:
            self.outcome.problems.append("the restored Pi takes no payload")
        self.outcome.writes = time.monotonic() - self._lost_at
        epoch = position(farm.pi.database).epoch
        wait_for(lambda: (status := farm.status())["epoch"] == epoch and status["lag_changes"] == 0, WAIT, "the server to follow")
        self.outcome.follows = time.monotonic() - self._lost_at
        self._compare("after the restore")

    def _adopt(self, lost: Path, restored: int) -> None:
        """Play back what the server kept, and see what is nowhere."""
        farm = self.farm
        listed = json.loads(farm.server.command("rescued", "--json").stdout)
        for kept in listed:
            done = farm.pi.command("adopt", shutil.copy(farm.server.folder / kept["path"], farm.pi.folder))
            if done.returncode:
                self.outcome.problems.append(f"the kept changes cannot be played back: {done.stdout}{done.stderr}")
        head = max([kept["last"] for kept in listed], default=restored)
        if head < self._served:
            self.outcome.problems.append(f"the server had changes up to {self._served}, and {head} is the last that came back")
        with closing(connect(lost, readonly=True)) as db:
            newest = Position.of_head(db).seq
        self.outcome.after_adopt = min(self.outcome.changes, max(0, newest - head))
        wait_for(lambda: farm.status()["lag_changes"] == 0, WAIT, "the server to have what was played back")
        self._compare("after the playback")

    def _ship_on(self) -> None:
        self.shipper.launch()
        head = position(self.farm.pi.database)
        wait_for(lambda: self.shipper.shipped() == head, WAIT, "the shipper to go on in the same bucket", 0.3)

    def _compare(self, when: str) -> None:
        farm = self.farm
        wait_for(lambda: not farm.difference(), WAIT, f"the server to be identical {when}", 0.2)
        theirs, ours = contents(farm.pi.database), contents(farm.server.database)
        for table in theirs:
            if theirs[table] != ours.get(table):
                self.outcome.problems.append(f"{when} the replica differs in {table}")


@click.command(help=__doc__)
@click.argument("animals", default=20_000)
@click.option("--seconds", default=8.0, show_default=True, help="For which the Pi is written to before it is lost.")
@click.option("--s3", is_flag=True, help="Ship to an S3 server (moto) instead of a folder.")
@click.option("--from", "sources", type=click.Choice(SOURCES), multiple=True, default=SOURCES, help="Only from there.")
@click.option("--rpo", default=5.0, show_default=True, help="Seconds of changes that may be lost by the restore.")
@click.option("--rto", default=60.0, show_default=True, help="Seconds from the loss until the server follows again.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where everything stands; default: a temporary folder.")
def main(*, animals: int, seconds: float, s3: bool, sources: tuple[str, ...], rpo: float, rto: float, folder: Path | None) -> None:
    """The command line."""
    problems: list[str] = []
    with nullcontext(str(folder)) if folder else tempfile.TemporaryDirectory() as place:
        for source in sources:
            with _farm(Path(place) / source, animals, s3) as (farm, shipper):
                click.echo(f"{source}: {animals} animals, {megabytes(farm.pi.database.stat().st_size)}, {RATE} commits/s for {seconds:g} s")
                drill = Drill(farm, shipper, source, seconds)
                try:
                    outcome = drill.run()
                except (InVain, AssertionError) as exc:
                    problems.append(f"{source}: {exc}")
                    continue
            _print(outcome)
            problems += [f"{source}: {problem}" for problem in [*outcome.problems, *_over(outcome, rpo, rto)]]
    judge(problems)


@contextmanager
def _farm(place: Path, animals: int, s3: bool) -> Iterator[tuple[Farm, Shipper]]:
    place.mkdir(parents=True)
    os.environ |= KEYS if s3 else {}
    with ExitStack() as stack:
        settings = s3_settings(stack.enter_context(moto_server(place / "s3"))) if s3 else {}
        farm = stack.enter_context(new_farm(place))
        shipper = ship_to(farm, settings.get("LITESTREAM_BUCKET", place / "store"), **settings)
        try:
            add_animals(farm.pi.database, 0, animals, logged=True)
            yield farm, shipper
        finally:
            shipper.kill9()


def _over(outcome: Outcome, rpo: float, rto: float) -> Iterator[str]:
    if outcome.seconds > rpo:
        yield f"{outcome.seconds:.1f} s of changes were lost, {rpo:g} may be"
    if outcome.follows > rto:
        yield f"it took {outcome.follows:.1f} s until the server followed again, {rto:g} may be"


def _print(outcome: Outcome) -> None:
    click.echo(f"  lost by the restore (RPO)   {outcome.changes} changes, {outcome.seconds:.2f} s")
    click.echo(f"  lost after the playback     {outcome.after_adopt} changes")
    click.echo(
        f"  time since the loss (RTO)   restored {outcome.restored:.1f} s, Pi writes {outcome.writes:.1f} s,"
        f" server follows {outcome.follows:.1f} s"
    )


if __name__ == "__main__":
    main()
