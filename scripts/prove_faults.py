#!/usr/bin/env python3
"""A fault at every step of the work on either side: `scripts/prove_faults.py [--share 1.0] [--kind KIND] [--only NAME]`.

A step is a call that makes, writes, syncs, cuts, renames, links or removes a file (scripts/faults/fault_at.c counts them; it needs a C
compiler). Each piece of work (scripts/faults/of_*.py) runs in a process of its own over real files, those of the server against a real Pi
over TLS, and meets at its 1st step, then from the same files at its 2nd, and so on to its last, each of these:

  kill     the process is gone
  EIO      the call fails, once; of a sync that means that what was written may be lost
  ENOSPC   the call finds no room, once
  full     no call finds room from that step on, until the disk is emptied

After each the files are sound and hold what was there before or what was to be there after, never something in between; nothing is lost
that was answered to anybody; what the process said was an error in words. A service goes on by itself as soon as it can, in the same
process. Then the same work runs again, as after a restart, and must end where it would have ended. Exit code 1 when one did not.

Of a stretch of equal calls on one file, such as the pages of a commit, the first and the last are taken; all of them with `--every`.
`--share 0.05` takes that share, evenly spread.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import apsw
import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

from farm_processes import Farm, Seed

from changelog.errors import DroverError
from scripts.faults import of_pi, of_server, of_ship
from scripts.faults.inject import KILLED, KINDS, Fault, Kind, Outcome, run, with_library
from scripts.faults.work import State, Work, alike, state_of

ANIMALS = 60
MEMORY = "/dev/shm"  # a process that is killed takes nothing with it that it has written, so no true disk is needed
SHOWN = 3_000  # characters of what a process printed, where something went wrong

WORKS = [*of_server.WORKS, *of_pi.WORKS, *of_ship.WORKS]
NAMES = [work.name for work in WORKS]


class Trial:
    """One piece of work, again and again from the same files."""

    def __init__(self, work: Work, farm: Farm, folder: Path) -> None:
        """It is done once without a fault. Raises AssertionError when it does not even run."""
        self.work, self._farm = work, farm
        self._before, self._folder = folder / "before", folder / "trial"
        made = run(lambda fault: work.prepare(self._before, farm))
        assert not made.code, f"{work.name} cannot be prepared: {made.printed[-SHOWN:]}"
        self._first = state_of(self._before / work.database)
        whole = self._run()
        assert not whole.code, f"{work.name} does not even run: {whole.printed[-SHOWN:]}"
        self._last = state_of(self._folder / work.database)
        self._check(whole)
        self.steps, self.room = whole.steps, whole.room

    def meets(self, kind: Kind, step: int) -> bool:
        """Whether the fault was met. Raises what shows that it did harm."""
        found = self._run(Fault(kind, step))
        if kind.error and not found.hits:
            return False
        self._judge(found, kind)
        self.work.sound(self._folder)
        state = state_of(self._folder / self.work.database)
        assert self.work.many or alike(state) in (alike(self._first), alike(self._last)), f"neither before nor after: {_position(state)}"
        again = run(partial(self.work.run, self._folder))
        assert not again.code, f"the next run: {again.printed[-SHOWN:]}"
        self._check(found)
        return True

    def _run(self, fault: Fault = Fault()) -> Outcome:  # noqa: B008
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._before, self._folder)
        return run(partial(self.work.run, self._folder), fault)

    def _judge(self, found: Outcome, kind: Kind) -> None:
        """What a process may do that meets a fault."""
        if not kind.error:
            assert found.code in (KILLED, 0), found.printed[-SHOWN:]
            return
        assert found.is_clean, f"exit code {found.code}: {found.printed[-SHOWN:]}"
        assert not self.work.lives or not found.code, f"it does not go on by itself: {found.printed[-SHOWN:]}"

    def _check(self, found: Outcome) -> None:
        checked = run(lambda fault: self.work.check(self._folder, self._farm, found.answered))
        assert not checked.code, checked.printed[-SHOWN:]


def _position(state: State | None) -> object:
    return state and state[0]


def _ends(steps: Sequence[int]) -> list[int]:
    """The numbers, from 1, of the first and the last of each stretch of equal steps."""
    around = [None, *steps, None]
    return [at for at in range(1, len(steps) + 1) if not around[at - 1] == around[at] == around[at + 1]]


def _spread(numbers: Sequence[int], share: float) -> list[int]:
    """That share of the numbers, evenly."""
    taken = max(1, round(len(numbers) * share))
    return [numbers[(2 * i + 1) * len(numbers) // (2 * taken)] for i in range(taken)]


def prove(trial: Trial, kind: Kind, share: float, every: bool) -> tuple[int, int]:
    """`kind` at the steps of `trial`: how many were tried, and how many did harm."""
    tried, harm, steps = 0, 0, trial.room if kind.only_room else trial.steps
    for step in _spread(list(range(1, len(steps) + 1)) if every else _ends(steps), share):
        try:
            tried += trial.meets(kind, step)
        except (AssertionError, apsw.Error, DroverError, OSError) as exc:
            tried, harm = tried + 1, harm + 1
            click.echo(f"HARM {trial.work.name}, {kind.name} at step {step}: {type(exc).__name__}: {exc}", err=True)
    return tried, harm


@click.command()
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True, help="Of the steps, evenly spread.")
@click.option("--every", is_flag=True, help="Each step of a stretch of equal calls on one file, not its first and last alone.")
@click.option("--kind", "kinds", type=click.Choice([kind.name for kind in KINDS]), multiple=True, help="Only this kind of fault.")
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="Only this piece of work.")
def main(share: float, every: bool, kinds: tuple[str, ...], only: tuple[str, ...]) -> None:
    """Let each piece of work meet faults at its steps."""
    with_library()
    tried: Counter[str] = Counter()
    harm = 0
    chosen = [kind for kind in KINDS if not kinds or kind.name in kinds]
    with tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None) as name:
        farm = Farm(Path(name) / "farm", Seed(Path(name) / "seed"))
        farm.server.command("status")  # writes its .env
        farm.pi.start()
        try:
            farm.fill(ANIMALS)
            farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('P0', 1)")
            for number, work in enumerate(work for work in WORKS if not only or work.name in only):
                trial = Trial(work, farm, Path(name) / str(number))
                counts = []
                for kind in chosen:
                    count, wrong = prove(trial, kind, share, every)
                    tried[kind.name] += count
                    harm += wrong
                    counts.append(f"{kind.name} {count:4}")
                click.echo(f"{work.name:<30} {len(trial.steps):4} steps, faults: {', '.join(counts)}")
                shutil.rmtree(Path(name) / str(number))
        finally:
            farm.close()
    click.echo("; ".join(f"{count} x {kind}" for kind, count in tried.items()))
    click.echo(f"{sum(tried.values())} faults: {sum(tried.values()) - harm} did no harm, {harm} did")
    sys.exit(1 if harm else 0)


if __name__ == "__main__":
    main()
