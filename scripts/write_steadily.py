#!/usr/bin/env python3
"""Commits to a farm at a steady rate, as a program of its own: `scripts/write_steadily.py FARM.db [--rate 200] [--seed 1]`, until SIGTERM.

Each commit updates one random animal at synchronous=FULL. At the end a line a commit: when it began (s, CLOCK_MONOTONIC, which all
processes share) and after how many seconds it was on the disk. A writer that fell behind goes on at once, and does not catch up.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.connection import connect, one


@click.command(help=__doc__)
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
@click.option("--rate", default=200.0, show_default=True, help="Commits a second.")
@click.option("--seed", default=1, show_default=True)
def main(path: str, rate: float, seed: int) -> None:
    """The command line."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    chance, done = random.Random(seed), []
    db = connect(path)
    animals = one(db, "SELECT max(id) FROM cattle")
    due = time.monotonic()
    while not ended:
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        db.execute("UPDATE cattle SET weight=? WHERE id=?", (chance.uniform(200, 700), chance.randint(1, animals)))
        done.append((began, time.monotonic() - began))
        due = max(due + 1 / rate, began)
    db.close()
    for at, seconds in done:
        click.echo(f"{at:.6f} {seconds:.6f}")


if __name__ == "__main__":
    main()
