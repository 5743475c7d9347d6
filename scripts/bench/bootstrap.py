"""A first copy over https by the server, beside what restores or copies the same file; memory and growth with the herd."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from changelog.connection import connect, one, remove_database, sync_path
from scripts import peer_litestream
from scripts.bench.figures import Figure, in_turns, single, took
from scripts.bench.ground import ROWS_AN_ANIMAL, Ground, cpu_of
from scripts.large_farm import Farm, figure, peak_memory, wait_for
from scripts.prove_bootstrap import bootstraps_of
from scripts.prove_ltx import cpu_time
from server.indexes import LOCAL_INDEXES

CLAIM = 5_000.0  # ms that the document names for 100,000 records, and at most for any first sync
PATIENCE = 300.0  # s
FIRST_FILES = 60.0  # s that Litestream may take to ship the database
TOUCH = "UPDATE batches SET notes='copied again' WHERE id=1"  # so that the Pi makes a new copy and hands out none that it still has


def bootstrap(ground: Ground) -> Iterator[Figure]:
    """The replica's file is removed again and again; a bootstrap's time is what the server's own history says.

    Then the rows can be read. The indexes for pages follow; CPU time is that of all.
    """
    animals, program = ground.sizes.herd, peer_litestream.find()
    with ground.room("peers") as folder, ground.farm(animals) as farm:
        farm.pi.start()
        farm.server.start()
        wait_for(lambda: copies(farm) == 1, PATIENCE, "the first bootstrap")
        source = folder / "farm.db"
        shutil.copy(ground.herd(animals).folder / "farm.db", source)
        peers = {
            "cp and fsync": partial(_copy_file, source, folder / "cp.db"),
            "backup API": partial(_backup, source, folder / "backup.db"),
        }
        if program is not None:
            url = _ship(program, source, folder / "files")
            peers["litestream restore"] = partial(_restore, program, url, folder / "restored.db")
        found: dict[str, list[float]] = {name: [] for name in peers}
        indexing: list[float] = []  # ms
        cpu: dict[str, list[float]] = {"ours": [], "litestream restore": []}
        for _ in range(ground.sizes.rounds):
            used, indexed = again(farm)
            cpu["ours"].append(used)
            indexing.append(indexed * 1000)
            for name, work in peers.items():
                before = cpu_time()
                found[name].append(took(work) * 1000)
                if name in cpu:
                    cpu[name].append(cpu_time() - before)
        farm.server.stop()  # now all of them are in its history
        ours = [seconds * 1000 for seconds in bootstraps_of(farm)[1:]]
        for name, times in found.items():
            yield in_turns(f"bootstrap.beside {name}", "ms", ours, name, times, claim=CLAIM if name.startswith("lite") else None)
        if program is not None:
            whole = [a + b for a, b in zip(ours, indexing, strict=True)]
            yield in_turns("bootstrap.with all indexes for pages", "ms", whole, "litestream restore", found["litestream restore"])
            yield in_turns("bootstrap.CPU of both sides", "s", cpu["ours"], "litestream restore", cpu["litestream restore"])


def memory(ground: Ground) -> Iterator[Figure]:
    """How much a bootstrap takes at its highest, and how long, from small herds to large ones."""
    for animals in ground.sizes.herds:
        rows = animals * ROWS_AN_ANIMAL
        with ground.farm(animals) as farm:
            farm.pi.start()
            farm.server.start()
            wait_for(lambda farm=farm: copies(farm) == 1, PATIENCE, "the bootstrap")  # type: ignore[misc]
            wait_for(lambda farm=farm: has_indexes(farm.server.database), PATIENCE, "the indexes")  # type: ignore[misc]
            for role in farm.roles:
                peak = [peak_memory(role) / 1e6]
                yield single(f"memory.of the {role.name}", "MB", peak, series=f"memory of the {role.name}, MB", axis="rows", at=rows)
            farm.server.stop()
            times = [bootstraps_of(farm)[-1] / rows * 1e6]
            yield single(f"growth.bootstrap of {animals} animals", "µs a row", times, series="bootstrap, µs a row", axis="rows", at=rows)
            ground.keep_replica(animals, farm.server.database)


def copies(farm: Farm) -> int:
    """How many the server has installed since its start."""
    return int(figure(farm, "drover_bootstraps_total"))


def again(farm: Farm) -> tuple[float, float]:
    """One more bootstrap: the CPU seconds of both sides, and the seconds from the new rows to the last index for pages."""
    farm.pi.sql(TOUCH)
    head = int(farm.pi.sql("SELECT max(seq) FROM changelog"))
    wait_for(lambda: int(farm.server.sql("SELECT seq FROM changelog_position")) == head, PATIENCE, "the change before it", every=0.01)
    before, pids = copies(farm), farm.pi.pids() + farm.server.pids()
    used = cpu_of(pids)
    farm.server.database.unlink()
    wait_for(farm.server.database.exists, PATIENCE, "the new file", every=0.002)
    began = time.monotonic()
    wait_for(lambda: has_indexes(farm.server.database), PATIENCE, "the indexes", every=0.01)
    indexed = time.monotonic() - began
    wait_for(lambda: copies(farm) > before, PATIENCE, "the bootstrap", every=0.1)
    return cpu_of(pids) - used, indexed


def has_indexes(path: Path) -> bool:
    """Whether all that the pages are to have are there."""
    with closing(connect(path, readonly=True)) as db:
        return int(one(db, "SELECT count(*) FROM sqlite_schema WHERE name GLOB 'changelog_local_*'")) == len(LOCAL_INDEXES)


def _copy_file(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    with source.open("rb") as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy, 2**20)
        copy.flush()
        os.fsync(copy.fileno())


def _backup(source: Path, target: Path) -> None:
    remove_database(target)
    with closing(connect(source, readonly=True)) as db, closing(connect(target, create=True, scratch=True)) as copy:
        with copy.backup("main", db, "main") as backup:
            backup.step(-1)
    sync_path(target)


def _ship(program: Path, source: Path, files: Path) -> Path:
    """The database as Litestream ships it, in a folder."""
    config = files.with_suffix(".yml")
    config.write_text(f"dbs:\n  - path: {source}\n    replica:\n      path: {files}\n")
    copy = files.with_suffix(".first")
    with peer_litestream.running([program, "replicate", "-config", config], files.with_suffix(".log")):
        until = time.monotonic() + FIRST_FILES
        while not copy.exists() and time.monotonic() < until:
            time.sleep(0.5)
            with suppress(RuntimeError):
                _restore(program, files, copy)
    return files


def _restore(program: Path, files: Path, target: Path) -> None:
    """Raises RuntimeError."""
    remove_database(target)
    peer_litestream.restore(program, files, target)
