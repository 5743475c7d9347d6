"""What the log costs him who writes: one-row commits on the farm's cattle, with the changelog and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import apsw

from changelog.connection import connect
from changelog.install import uninstall
from scripts.bench.figures import Figure, beside
from scripts.bench.ground import CATTLE, Ground

ANIMALS = 10_000
TURN = 50  # commits on one file, then as many on the other: both meet the same disk
KINDS = {
    "insert": (CATTLE, lambda name: (1, name, 1.5, name, name)),
    "update": ("UPDATE cattle SET weight=2, notes='n' WHERE cattle_id=?", lambda name: (name,)),
    "delete": ("DELETE FROM cattle WHERE cattle_id=?", lambda name: (name,)),
}

Times = dict[str, list[float]]


def capture(ground: Ground) -> Iterator[Figure]:
    """Insert, update and delete, at both settings of `synchronous`."""
    with ground.room("capture") as folder:
        files = [_copy(ground, folder / "plain.db", logged=False), _copy(ground, folder / "logged.db", logged=True)]
        for mode in ("FULL", "NORMAL"):
            found: dict[str, tuple[list[float], list[float], list[float]]] = {kind: ([], [], []) for kind in KINDS}
            for number in range(ground.sizes.rounds):
                round_ = _round(files, mode, ground, first=1_000_000 * (number + 1) + (mode == "FULL") * 100_000_000)
                for kind, (plain, logged) in round_.items():
                    found[kind][0].extend(plain)
                    found[kind][1].extend(logged)
                    found[kind][2].append(sum(logged) / sum(plain))
            for kind, (plain, logged, ratios) in found.items():
                yield beside(f"capture.{kind} at {mode}", "µs", _us(logged), "without a log", _us(plain), ratios=ratios)


def _copy(ground: Ground, path: Path, *, logged: bool) -> apsw.Connection:
    with closing(connect(ground.herd(ANIMALS).folder / "farm.db", readonly=True)) as source:
        db = connect(path, create=True, checkpoints=True)
        with db.backup("main", source, "main") as backup:
            backup.step(-1)
    if not logged:
        uninstall(db)
    return db


def _round(files: list[apsw.Connection], mode: str, ground: Ground, first: int) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of each commit, without and with the log, by its kind."""
    for db in files:
        db.pragma("synchronous", mode)
    names = [f"X{first + n}" for n in range(ground.sizes.commits)]
    found: dict[str, tuple[list[float], list[float]]] = {}
    for kind, (sql, values) in KINDS.items():
        found[kind] = ([], [])
        for turn in range(0, len(names), TURN):
            order = (0, 1) if turn // TURN % 2 else (1, 0)
            for which in order:
                found[kind][which].extend(_commits(files[which], sql, map(values, names[turn : turn + TURN]), ground.clock))
    return found


def _commits(db: apsw.Connection, sql: str, bindings: Iterator[tuple[object, ...]], clock: Callable[[], float]) -> Iterator[float]:
    for each in bindings:
        began = clock()
        db.execute(sql, each)
        yield clock() - began


def _us(seconds: list[float]) -> list[float]:
    return [each * 1e6 for each in seconds]
