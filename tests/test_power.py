"""The power goes: what is on the disk then, at any moment of small pieces of work. scripts/prove_power.py does it to a farm at work."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from changelog.connection import connect, one
from changelog.errors import DamagedFile
from changelog.install import install
from scripts.power.recorder import Recorder
from scripts.power.torn_disk import KINDS, SYNC, WRITE, Disk, Files, Op, read_trace, record
from scripts.prove_power import TARGETS, in_memory, prove, record_at

ROOT = Path(__file__).parents[1]
SEEDS = 20
STATES, LIES, CARELESS = 500, 100, 30

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="what programs write is recorded by a library that needs a C compiler")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.fixture
def after() -> Iterator[Path]:
    """Where the disk after a cut is laid out."""
    with in_memory() as folder:
        yield Path(folder) / "after"


def run(recorder: Recorder, code: str, *words: object) -> None:
    command = [*recorder.environment, sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def cuts(trace: list[Op], folder: Path, since: int = 0) -> Iterator[tuple[str, Files]]:
    """What a power cut may leave at any moment of the recorded work, from the op `since` on, and a name for it."""
    disk = Disk(str(folder.resolve()))
    for op in trace:
        disk.apply(op)
        if op.pid and op.number >= since and not disk.is_certain:
            for kind in KINDS:
                for seed in range(SEEDS if kind != "dropped" else 1):
                    yield f"after {op}, {kind} {seed}"[:200], disk.after_cut(kind, random.Random(f"{op.number}/{seed}"))


def content(files: Files, folder: Path, name: str) -> str:
    """The one row of the table t in a file as it is opened after the cut, or what is wrong with it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file, text in files.items():
        (folder / file).write_bytes(text)
    try:
        with closing(connect(folder / name)) as db:
            return f"{one(db, 'PRAGMA integrity_check')} {one(db, 'SELECT group_concat(DISTINCT v) FROM t')}"
    except (DamagedFile, apsw.Error) as exc:
        return str(exc)


def test_a_snapshot_in_the_place_of_the_old_file_is_the_one_or_the_other_after_a_power_cut(disk: Path, tmp_path: Path, after: Path) -> None:
    """Whatever the file system makes of the order of names: an old -wal would be played into the new file."""
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<400) INSERT INTO t SELECT '{}', hex(i) FROM n"
    with closing(connect(disk / "r.db", create=True)) as old:
        old.execute(f"CREATE TABLE t(v, more); {rows.format('old')}")
    with closing(connect(disk / "r.db", leaves_wal=True)) as old:
        old.execute("UPDATE t SET more='newest' WHERE rowid=400")
    with closing(connect(disk / "r.db.incoming", create=True)) as new:
        new.execute(f"CREATE TABLE t(v, more); CREATE INDEX more ON t(more, v); {rows.format('new')}")
    recorder = Recorder(tmp_path, {"disk": disk})
    code = """import sys; from pathlib import Path; from changelog.bootstrap import empty_wal, put_in_place
target = Path(sys.argv[1]); empty_wal(target); put_in_place(Path(f"{target}.incoming"), target)"""
    run(recorder, code, disk / "r.db")
    found = {content(files, after, "r.db"): name for name, files in cuts(read_trace(recorder.trace), disk)}
    assert set(found) == {"ok old", "ok new"}, found


@pytest.mark.parametrize("leaves", [False, True], ids=["who moves it into the file", "who leaves a new -wal"])
@pytest.mark.parametrize("linked", [False, True], ids=["", "through a link"])
def test_what_is_served_survives_a_power_cut_whoever_wrote_it_without_a_sync(
    disk: Path, tmp_path: Path, after: Path, leaves: bool, linked: bool
) -> None:
    path = disk / "p.db"
    with closing(connect(path, create=True)) as db:
        db.execute("CREATE TABLE t(v)")
        install(db)
    (tmp_path / "link.db").symlink_to(path)
    recorder = Recorder(tmp_path, {"disk": disk})
    settings = "PRAGMA wal_autocheckpoint=0;\n.dbconfig no_ckpt_on_close on" if leaves else ""
    typed = f"PRAGMA synchronous=OFF;\n{settings}\nINSERT INTO t VALUES('told');"
    subprocess.run([*recorder.environment, "sqlite3", path], input=typed, text=True, check=True, capture_output=True)
    code = """import os, sys; from pathlib import Path; from changelog.primary import Primary
Primary(Path(sys.argv[1])).head(); os._exit(0)"""
    run(recorder, code, tmp_path / "link.db" if linked else path)
    trace = read_trace(recorder.trace)
    assert sum(op.kind == WRITE and op.pid > 0 for op in trace) > 3
    whole = Disk(str(disk.resolve()))
    for op in trace:
        whole.apply(op)
    for seed in range(SEEDS):
        for kind in KINDS:
            assert content(whole.after_cut(kind, random.Random(seed)), after, "p.db") == "ok told", f"{kind} {seed}"


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a farm did."""
    path = tmp_path_factory.mktemp("farm") / "trace"
    record_at(path, rounds=1, seed=7)
    return path


def test_a_power_cut_at_any_moment_loses_nothing_that_was_answered_served_or_acknowledged(trace: Path) -> None:
    counts, faults = prove(trace, STATES, seed=7)
    assert not faults
    assert sum(counts[f"states of {target}"] for target in TARGETS) == sum(counts[f"states {kind}"] for kind in KINDS) == STATES
    for name in ("farm.db", "farm.db-wal", "replica.db", "replica.db-wal", "replica.db.incoming", "replica.db.staged", "server.db-wal"):
        assert counts[f"of these with a changed {name}"] > 0, name
    assert counts["copies fetched: damaged"] == counts["copies fetched: rewound"] == 0


def test_a_disk_that_forgets_what_was_synced_is_found_out(trace: Path) -> None:
    counts, faults = prove(trace, LIES, seed=7, lying=True)
    assert not faults
    assert counts["rewinds found out"] > 0 and counts["of these with lost changes kept"] > 0


@pytest.mark.parametrize("name", ["farm.db-wal", "replica.db-wal"])
def test_a_program_that_does_not_sync_would_not_pass(trace: Path, tmp_path: Path, name: str) -> None:
    with (tmp_path / "trace").open("wb") as file:
        for op in read_trace(trace):
            if op.kind != SYNC or not op.path.endswith(name):
                file.write(record(op.kind, op.file, op.at, op.path, op.data, pid=op.pid))
    _, faults = prove(tmp_path / "trace", CARELESS, seed=7)
    broken = {"farm.db-wal": "answered 201 and lost|was served", "replica.db-wal": "had acknowledged"}
    assert any(re.search(broken[name], fault) for fault in faults), faults
