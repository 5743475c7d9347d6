#!/usr/bin/env python3
"""The power goes, again and again: `scripts/prove_power.py 10000 [--seed N] [--lying-disk] [--processes 2]`.

A farm is recorded at work (scripts/power/; it needs a C compiler): every write and sync of the Pi, the server and the shells beside them.
Then disks are built as a power cut at a random moment may leave them, of the Pi, of the server, or of both; the other side is as it was at
that moment. Each time both are opened by our own start path and the server takes its next step. The files must be sound, at the end of a
commit that there was, and hold all that was answered, served or acknowledged before the cut; and both sides must become the same.

With --lying-disk also what was synced may be gone. Then a Pi that went back in time, or a damaged file, must be found out, and both sides
must become the same, or the file be refused. Exit code 1 otherwise. `--trace FILE` keeps the trace, or uses the one that is there.
"""

from __future__ import annotations

import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

from scripts.power.farm import RecordedFarm
from scripts.power.torn_disk import KINDS, Disk, Files, Op, read_trace
from scripts.power.trial import State, Trial
from scripts.power.truth import Truth

MEMORY = Path("/dev/shm")
TARGETS, WEIGHTS = ("pi", "server", "both"), (45, 40, 15)
LIED_ABOUT = 400  # calls before the cut that a lying disk may have forgotten
PART = 500  # states between two reports
ROUNDS = 12  # of the recorded work


def plan(trace: Sequence[Op], truth: Truth, states: int, seed: int, lying: bool) -> list[State]:
    """Which states are built: only such in which something can be lost."""
    found = []
    for number in range(states):
        chance = random.Random(f"{seed}/{number}")
        target = chance.choices(TARGETS, WEIGHTS)[0]
        moments = truth.rare[target] if chance.random() < 0.3 else truth.open[target]
        cut = chance.choice(moments) if not lying else chance.randrange(truth.first, len(trace) + 1)
        since = cut - chance.randint(1, LIED_ABOUT) if lying else cut
        found.append(State(number, target, cut, max(since, truth.first), chance.choice(KINDS), f"{seed}/{number}"))
    return found


class Run:
    """Builds the states of a plan from a trace, in the order of their cuts, and tries each."""

    def __init__(self, trace: Sequence[Op], truth: Truth, folder: Path) -> None:
        self._trace, self._truth, self._folder = trace, truth, folder
        self.counts, self.faults = Counter[str](), list[str]()

    def __getstate__(self) -> dict[str, Any]:
        """What another process wants to know."""
        return {"counts": self.counts, "faults": self.faults}

    def run(self, states: Sequence[State]) -> None:
        """Try them; they are in the order of their cuts."""
        disks = {name: Disk(folder) for name, folder in self._truth.folders.items()}
        begun: dict[int, dict[str, Disk]] = {}  # of lying disks, by the number of the state
        starts = sorted((state.since, state.number) for state in states if state.since < state.cut)
        targets = {state.number: state.target for state in states}
        left = iter(states)
        state = next(left, None)
        for number in range(len(self._trace) + 1):
            while starts and starts[0][0] == number:
                which = starts.pop(0)[1]
                begun[which] = {name: disk.fork(lies=True) for name, disk in disks.items() if targets[which] in (name, "both")}
            while state is not None and state.cut == number:
                self._try(state, {**disks, **self._lied(state, begun.pop(state.number, {}))})
                state = next(left, None)
            if state is None:
                return
            for disk in disks.values():
                disk.apply(self._trace[number])

    def _lied(self, state: State, disks: dict[str, Disk]) -> dict[str, Disk]:
        for op in self._trace[state.since : state.cut]:
            for disk in disks.values():
                disk.apply(op)
        return disks

    def _try(self, state: State, disks: dict[str, Disk]) -> None:
        chance = random.Random(f"{state.seed}/disk")
        files, counts = dict[str, Files](), self.counts
        for name, disk in disks.items():
            cut = state.target in (name, "both")
            files[name] = {n: c for n, c in (disk.after_cut(state.kind, chance) if cut else disk.files()).items() if ".db" in n}
            if cut:
                whole = disk.files()
                for file in {n for n in whole.keys() | files[name].keys() if ".db" in n and whole.get(n) != files[name].get(n)}:
                    counts[f"of these with a changed {file if len(file) < 20 else 'other'}"] += 1
        counts[f"states of {state.target}"] += 1
        counts[f"states {state.kind}"] += 1
        trial = Trial(state, self._truth, self._folder, counts)
        try:
            trial.lay_out(files)
            trial.run()
        except AssertionError as exc:
            self.faults.append(f"{state}: {exc}")
        except Exception as exc:
            self.faults.append(f"{state}: {type(exc).__name__}: {exc}")


def in_memory() -> tempfile.TemporaryDirectory[str]:
    """A folder where a sync takes no time, if there is one."""
    return tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)


def record_at(path: Path, rounds: int, seed: int) -> None:
    """Make a trace, unless there is one."""
    if path.exists():
        return
    with in_memory() as folder:
        recorded = RecordedFarm(Path(folder), seed)
        recorded.work(rounds)
        shutil.move(recorded.trace, path)


def _try(trace: Sequence[Op], truth: Truth, states: Sequence[State]) -> Run:
    with in_memory() as folder:
        run = Run(trace, truth, Path(folder))
        run.run(states)
    return run


def prove(
    path: Path, states: int, seed: int, *, lying: bool = False, processes: int = 1, report: Callable[[str], object] = lambda text: None
) -> tuple[Counter[str], list[str]]:
    """Try so many states of a trace; returns the counts and what went wrong. `report` is told how far it is."""
    trace = read_trace(path)
    with in_memory() as folder:
        truth = Truth(trace, Path(folder))
    planned = plan(trace, truth, states, seed, lying)
    counts, faults = Counter({"calls recorded": len(trace), "commits of the Pi": len(truth.contents)}), list[str]()
    parts = [sorted(planned[i : i + PART], key=lambda state: state.cut) for i in range(0, states, PART)]
    for done, run in enumerate(_forked(partial(_try, trace, truth), parts, processes), 1):
        counts += run.counts
        faults += run.faults
        report(f"{min(done * PART, states)} states, {len(faults)} failed")
    return counts, faults


def _forked(work: Callable[[Sequence[State]], Run], parts: Sequence[Sequence[State]], processes: int) -> Iterator[Run]:
    """The work on each part, in so many processes that know already what it needs."""
    if processes == 1:
        yield from map(work, parts)
        return
    _inherited.append(work)
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        yield from pool.map(_work_on, parts)
    _inherited.clear()


_inherited: list[Callable[[Sequence[State]], Run]] = []


def _work_on(part: Sequence[State]) -> Run:
    return _inherited[0](part)


@click.command(help="Cut the power of a recorded farm in STATES ways.")
@click.argument("states", type=int, default=10_000)
@click.option(
    "--seed", type=int, default=None, help="Of the states, and of the work. Printed; with the same trace it gives the same states."
)
@click.option("--lying-disk", "lying", is_flag=True, help="What was synced may be gone, too.")
@click.option("--trace", type=click.Path(path_type=Path), help="Where the trace is kept, or is already.")
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
def main(states: int, seed: int | None, lying: bool, trace: Path | None, processes: int) -> None:
    """The command line."""
    logging.disable()  # losses are part of it
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    with tempfile.TemporaryDirectory() as folder:
        path = trace or Path(folder) / "trace"
        record_at(path, ROUNDS, seed)
        counts, faults = prove(path, states, seed, lying=lying, processes=processes, report=lambda text: click.echo(text, err=True))
    for fault in faults[:50]:
        click.echo(fault, err=True)
    click.echo(f"seed {seed}")
    for name in sorted(counts):
        click.echo(f"{counts[name]:>8}  {name}")
    click.echo(f"{states} states, {len(faults)} failed")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
