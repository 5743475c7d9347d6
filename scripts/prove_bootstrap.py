#!/usr/bin/env python3
"""Bootstraps a farm with real processes while it is written and read: `scripts/prove_bootstrap.py 100000`.

A Pi and a server over TLS. The server has an older replica, whose next change the Pi has trimmed, so it fetches the whole database;
meanwhile a program of its own commits on the Pi 200 times a second and three readers load pages of the server all the time. Then the same
readers during bootstraps between files of other page sizes and encodings. Exit code 1 when a page is wrong or empty, a commit waits longer
than --longest-wait, a process takes more memory than its target, or the two sides differ.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.connection import remove_database
from scripts.large_farm import (
    Farm,
    SteadyWriter,
    add_animals,
    figure,
    judge,
    megabytes,
    new_farm,
    page_problems,
    pages_in_words,
    peak_memory,
    readers,
    shell,
    wait_for,
    waits_in_words,
)

SEED = 1
LEAST_BASELINE = 3.0  # s of the same writer without a bootstrap
PAUSE = 0.5  # s between the end of the bootstrap and that
OLDER = 0.9  # how much of the farm the server's older replica has
TARGETS = {"pi": 100e6, "server": 120e6}  # bytes of memory
FORMATS = ((512, "UTF-8"), (65536, "UTF-16le"), (4096, "UTF-16be"), (65536, "UTF-8"), (4096, "UTF-8"))
FORMATS_SHARE = 20  # the part with other formats takes one in so many of the animals
DEADLINE = 900.0  # s


@click.command(help=__doc__)
@click.argument("animals", type=int, default=100_000)
@click.option("--rate", default=200.0, show_default=True, help="Commits a second on the Pi.")
@click.option("--longest-wait", default=100.0, show_default=True, help="ms that a commit may take during the bootstrap.")
@click.option("--folder", type=click.Path(file_okay=False, exists=True), help="Where the files go: on the disk that is to be measured.")
@click.option("--seed", default=SEED, show_default=True, help="Of what is written.")
def main(animals: int, rate: float, longest_wait: float, folder: str | None, seed: int) -> None:
    """The command line."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory(dir=folder) as work:
        with new_farm(Path(work) / "large") as farm:
            problems += under_load(farm, animals, rate, longest_wait / 1000, seed)
        with new_farm(Path(work) / "formats") as farm:
            problems += across_formats(farm, max(200, animals // FORMATS_SHARE))
    judge(problems)


def under_load(farm: Farm, animals: int, rate: float, longest_wait: float, seed: int) -> list[str]:
    """The automatic bootstrap of a server with an older replica, while somebody writes and others read."""
    older = int(animals * OLDER)
    add_animals(farm.pi.database, 0, older, logged=False)
    farm.start()
    farm.server.stop()
    add_animals(farm.pi.database, older, animals - older, logged=True)
    farm.pi.stop()
    # What retention does to the log of a replica that is away for too long.
    farm.pi.sql("DELETE FROM changelog WHERE seq<(SELECT max(seq) FROM changelog)")
    size = farm.pi.database.stat().st_size
    farm.server.start()
    with readers(farm) as watches:
        with SteadyWriter(farm.pi.database, rate, seed) as writer:
            began = time.monotonic()
            farm.pi.start()
            wait_for(lambda: figure(farm, "drover_bootstraps_total") == 1, DEADLINE, "the bootstrap")
            ended = time.monotonic()
            time.sleep(max(LEAST_BASELINE, ended - began))
            baseline_ended = time.monotonic()
            memory = {role.name: peak_memory(role) for role in farm.roles}
        proof = farm.prove_identical()
        took = bootstraps_of(farm)[1]
    during, without = writer.between(began, ended), writer.between(ended + PAUSE, baseline_ended)
    click.echo(f"{proof['rows']} rows of {animals} animals, {megabytes(size)}; seed {seed}, {rate:g} commits a second")
    click.echo(f"bootstrap: {took:.2f} s by the server's history, {ended - began:.2f} s from the start of the Pi's process")
    click.echo(f"writer on the Pi meanwhile   {waits_in_words(during)}, {len(during) / (ended - began):.0f} a second")
    click.echo(f"the same without a bootstrap {waits_in_words(without)}, {len(without) / (baseline_ended - ended - PAUSE):.0f} a second")
    click.echo(f"readers of the server        {pages_in_words(watches)}")
    problems = page_problems(watches)
    for name, peak in memory.items():
        click.echo(f"peak memory of the {name:<6}    {megabytes(peak)} (target {megabytes(TARGETS[name])})")
        problems += [f"the {name} took {megabytes(peak)}"] if peak > TARGETS[name] else []
    if not during or max(during) > longest_wait:
        problems.append(f"a commit took {max(during, default=0) * 1000:.1f} ms")
    return problems + ([f"the sides differed in {proof['diverged_before']}"] if proof["diverged_before"] else [])


def bootstraps_of(farm: Farm) -> list[float]:
    """The seconds of each bootstrap that the server made."""
    found = shell(farm.server.data / "server.db", "SELECT seconds FROM sync_history WHERE kind='bootstrap' ORDER BY id")
    return [float(line) for line in found.split()]


def across_formats(farm: Farm, animals: int) -> list[str]:
    """Bootstraps between files of different page size and encoding, where only a rename can install the new one."""
    add_animals(farm.pi.database, 0, animals, logged=True)
    farm.start()
    problems = []
    with readers(farm) as watches:
        for page_size, encoding in FORMATS:
            farm.pi.stop()
            convert(farm.pi.database, page_size, encoding)
            farm.pi.start()
            began, proof = time.monotonic(), farm.prove_identical()
            found = farm.server.sql("PRAGMA page_size; PRAGMA encoding").split()
            took = time.monotonic() - began
            click.echo(f"bootstrap to pages of {page_size} bytes in {encoding}: {proof['rows']} rows in {took:.2f} s")
            if found != [str(page_size), encoding] or proof["diverged_after"]:
                problems.append(f"meant {page_size} {encoding}, the replica is {found} and differs in {proof['diverged_after']}")
    click.echo(f"readers meanwhile            {pages_in_words(watches)}")
    return problems + page_problems(watches)


def convert(path: Path, page_size: int, encoding: str) -> None:
    """The same database, log and all, in another format, by the sqlite3 shell."""
    new = path.with_name("converted.db")
    dump = subprocess.run(["sqlite3", str(path), ".dump"], capture_output=True, check=True).stdout
    pragmas = f"PRAGMA page_size={page_size}; PRAGMA encoding='{encoding}';\n"
    version = subprocess.run(["sqlite3", str(path), "PRAGMA user_version"], capture_output=True, check=True, text=True).stdout.strip()
    end = f"\nPRAGMA user_version={version}; PRAGMA journal_mode=WAL;\n"
    subprocess.run(["sqlite3", "-bail", str(new)], input=pragmas.encode() + dump + end.encode(), capture_output=True, check=True)
    remove_database(path)
    new.rename(path)


if __name__ == "__main__":
    main()
