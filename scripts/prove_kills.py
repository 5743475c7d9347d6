#!/usr/bin/env python3
"""kill -9 between any two steps of the work on either side: `scripts/prove_kills.py [--share 1.0] [--only NAME]`.

A step is a call that writes, syncs, cuts, renames or removes a file (scripts/kill_at.c counts them, and kills at one; it needs a C
compiler). Each piece of work below runs in a process of its own over real files, those of the server against a real Pi over TLS; it is
killed at its 1st step, then from the same files at its 2nd, and so on to its last. After each kill the files are sound and hold what was
there before or what was to be there after, never something in between; then the same work runs again, as after a restart, and must end
where it would have ended. Exit code 1 when one did not. `--share 0.05` takes that share of the steps, evenly spread.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apsw
import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

from farm_processes import Farm, Seed

from changelog import retention
from changelog.connection import connect, one, remove_journal
from changelog.node.settings import Settings
from changelog.position import Position
from changelog.primary import Primary
from changelog.pull import pull_file
from changelog.replay import connect_replica, position_of
from changelog.rescue.adopt import adopt
from changelog.verify.digest import digest_tables
from pi import farm as pi_farm
from pi import herd
from pi.lora import parse_payload
from pi.writer import Writer
from server.replica import Replica
from server.state import SyncState
from server.store import Store
from server.sync import SyncService

ROOT = Path(__file__).resolve().parents[1]
LEFT_OVERS = ("*.incoming*", "*.staged")
YEAR = 366 * 86_400.0  # s
ANIMALS = 60
PAYLOADS = 12
KILLED = -9  # the exit code of a process that was

State = tuple[Position, object]  # where a database stands, and what it holds


@dataclass(frozen=True)
class Case:
    """A piece of work: `prepare` makes the files, `work` is what is killed, `check` says what is wrong after the second run."""

    name: str
    prepare: Callable[[Path, Farm], None]
    work: Callable[[Path], None]
    check: Callable[[Path, Farm, set[str]], None]
    database: str  # in the folder, which must hold the state before or the state after


def begin() -> None:
    """From here on steps are counted."""
    ctypes.CDLL(None).kill_at_begin()


def state_of(path: Path) -> State | None:
    """None where there is no database yet. Raises AssertionError where it is damaged."""
    if not path.exists():
        return None
    with closing(connect(path)) as db:
        check = one(db, "PRAGMA integrity_check")
        assert check == "ok", f"integrity_check: {check}"
        replica = db.table_exists("main", "changelog_position")
        return (position_of(db) if replica else Position.of_head(db)), digest_tables(db)


def _alike(state: State | None) -> object:
    """A state without the check of its position, which is another one each time that the same is written."""
    return state and (state[0].epoch, state[0].seq, state[1])


# --- the server -----------------------------------------------------------------------------------------------------------------


@contextmanager
def service(folder: Path) -> Iterator[SyncService]:
    """The sync service over the files of `folder`, without its thread."""
    os.chdir(folder)
    settings = Settings.load(Path(".env"), {})
    store, replica = Store(settings.server_db), Replica(settings.replica_db)
    sync = SyncService(settings, replica, store, SyncState(settings.stale_after))
    try:
        with sync.lock:
            yield sync
    finally:
        sync.follower.close()
        replica.close()
        store.close()


def follow(folder: Path) -> None:
    """One step, as after a start: whatever it takes to be where the Pi is."""
    with service(folder) as sync:
        begin()
        sync.follower.step()


def trim_audit(folder: Path) -> None:
    """What AUDIT_KEEP_DAYS does."""
    with service(folder) as sync:
        sync.follower.step()
        begin()
        retention.trim_old(sync.follower.file.db, 1, now=time.time() + YEAR)


def repair(folder: Path) -> None:
    """A comparison with the Pi that mends what differs."""
    with service(folder) as sync:
        sync.follower.step()
        begin()
        sync.verify(repair=True)


def a_server(folder: Path, farm: Farm) -> None:
    """A server that has never followed."""
    shutil.copytree(farm.server.folder, folder)


def followed(folder: Path, farm: Farm) -> None:
    """A server that is where the Pi is."""
    a_server(folder, farm)
    run(CASES[0].name, folder)


def a_few_changes(folder: Path, farm: Farm) -> None:
    """And a few changes later."""
    followed(folder, farm)
    farm.pi.sql("UPDATE cattle SET weight=weight+1 WHERE id<9; DELETE FROM pens; INSERT INTO pens(pen_number, capacity) VALUES('P1', 1)")


def many_changes(folder: Path, farm: Farm) -> None:
    """And so many that they are staged."""
    followed(folder, farm)
    farm.pi.sql("UPDATE cattle SET weight=weight+1, notes=hex(randomblob(4000))")


def a_new_epoch(folder: Path, farm: Farm) -> None:
    """And something that no log tells: a snapshot goes into the live file."""
    followed(folder, farm)
    farm.pi.sql("CREATE TABLE brief(id); DROP TABLE brief; UPDATE cattle SET weight=weight+1")


def another_make(folder: Path, farm: Farm) -> None:
    """The same, and the replica's file is of another page size: the snapshot takes its place."""
    a_new_epoch(folder, farm)
    replica = folder / "data" / "replica.db"
    with closing(connect(replica)) as db:
        db.pragma("journal_mode", "delete")
        db.execute("PRAGMA page_size=1024; VACUUM")
        db.pragma("journal_mode", "wal")


def corrupted(folder: Path, farm: Farm) -> None:
    """And somebody damaged rows of three tables, and the log."""
    followed(folder, farm)
    with closing(connect_replica(folder / "data" / "replica.db")) as db, db:
        db.execute(
            """UPDATE cattle SET weight=-1 WHERE id%7=0; DELETE FROM cattle WHERE id%11=0; DELETE FROM users;
            INSERT INTO pens(id, pen_number, capacity) VALUES(777, 'forged', 1); UPDATE changelog SET o3='forged' WHERE op='U'"""
        )


def ahead_of_the_pi(folder: Path, farm: Farm) -> None:
    """A Pi that went back in time: what it lost is kept beside the new copy."""
    followed(folder, farm)
    with closing(connect_replica(folder / "data" / "replica.db")) as db, db:
        position = position_of(db)
        db.execute("UPDATE changelog_position SET seq=?, nonce=1", (position.seq + 1,))
        db.execute("INSERT INTO changelog(seq, nonce, op, tbl, key) VALUES(?, 1, 'D', 'pens', 77)", (position.seq + 1,))


def is_where_the_pi_is(folder: Path, farm: Farm, _: set[str]) -> None:
    """The replica holds what the Pi does, and nothing is left over."""
    source = Primary(farm.pi.database)
    with source.snapshot() as db:
        theirs = Position.of_head(db), digest_tables(db)
    source.close()
    ours = state_of(folder / "data" / "replica.db")
    assert ours == theirs, f"the replica is at {ours and ours[0]}, the Pi at {theirs[0]}"
    left = [str(path) for pattern in LEFT_OVERS for path in (folder / "data").glob(pattern)]
    assert not left, f"left over: {left}"


def keeps_what_was_lost(folder: Path, farm: Farm, said: set[str]) -> None:
    """And the lost change stands in one file."""
    is_where_the_pi_is(folder, farm, said)
    kept = list((folder / "data").glob("*.rescued-*.db"))
    assert len(kept) == 1, f"kept: {kept}"
    with closing(connect(kept[0])) as db:
        assert one(db, "SELECT count(*) FROM changelog WHERE key=77") == 1


# --- the Pi ---------------------------------------------------------------------------------------------------------------------


def a_pi(folder: Path, farm: Farm) -> None:
    """A farm.db that nobody serves, and a replica of it."""
    folder.mkdir()
    farm.pi.sql(f".backup {folder / 'farm.db'}")
    pi_farm.open_farm(folder / "farm.db")
    source = Primary(folder / "farm.db")
    pull_file(source, folder / "replica.db")
    source.close()


def changed_schema(folder: Path, farm: Farm) -> None:
    """And somebody typed DDL, and rows."""
    a_pi(folder, farm)
    with closing(connect(folder / "farm.db")) as db:
        db.execute(
            """ALTER TABLE pens ADD COLUMN shade TEXT DEFAULT 'none';
            CREATE TABLE feed(id INTEGER PRIMARY KEY, kind TEXT); INSERT INTO feed(kind) VALUES('hay'), ('silage');
            CREATE INDEX feed_kind ON feed(kind); UPDATE pens SET shade='roof'"""
        )


def work_off(folder: Path) -> None:
    """Payloads arrive, are stored, processed and answered; others stand there unprocessed."""
    path = folder / "farm.db"
    with closing(connect(path)) as db:
        waiting = [(9000 + i, f"hxb:KILL:LFK{i}:UHFK{i}") for i in range(3)]
        db.executemany("INSERT OR IGNORE INTO lora_payload_buffer(id, raw_payload) VALUES(?,?)", waiting)
    writer = Writer(path, 0.1)
    writer.start()
    begin()
    for number in range(PAYLOADS):
        reading = parse_payload(f"hxb:KILL{number % 3}:LF{number}:UHF{number}")
        writer.write(partial(herd.receive, reading=reading, now=herd.utc_now()), "test")
        print(f"LF{number}", flush=True)
    writer.process()
    writer.stop()


def with_lost_changes(folder: Path, farm: Farm) -> None:
    """And it went back in time: a file of what it lost lies beside it."""
    a_pi(folder, farm)
    path, older = folder / "farm.db", folder / "older.db"
    with closing(connect(older, create=True)) as copy, closing(connect(path)) as db:
        with copy.backup("main", db, "main") as backup:
            backup.step(-1)
        db.execute("UPDATE cattle SET weight=weight+1 WHERE id<9; INSERT INTO pens(pen_number, capacity) VALUES('LOST', 7)")
    source = Primary(path)
    pull_file(source, folder / "replica.db")
    source.close()
    remove_journal(path)
    older.replace(path)
    pi_farm.open_farm(path)
    source = Primary(path)
    pull_file(source, folder / "replica.db")
    source.close()


def adopt_back(folder: Path) -> None:
    """What `python -m pi adopt` does."""
    (lost,) = folder.glob("*.rescued-*.db")
    begin()
    adopt(folder / "farm.db", lost)


def has_it_back(folder: Path, farm: Farm, said: set[str]) -> None:
    """What was lost is there again, once."""
    follows(folder, farm, said)
    with closing(connect(folder / "farm.db")) as db:
        assert one(db, "SELECT count(*) FROM pens WHERE pen_number='LOST'") == 1


def reconcile(folder: Path) -> None:
    """What the Pi does before it serves again."""
    begin()
    pi_farm.open_farm(folder / "farm.db")


def trim(folder: Path) -> None:
    """All but the newest rows go."""
    with closing(connect(folder / "farm.db", checkpoints=True)) as db:
        begin()
        for _ in retention.trim(db, retention.Limits(below=one(db, "SELECT max(seq) FROM changelog")), None):
            pass


def follows(folder: Path, _: Farm, said: set[str]) -> None:
    """What was answered is there and processed, and the replica becomes the same."""
    source, path = Primary(folder / "farm.db"), folder / "farm.db"
    pull_file(source, folder / "replica.db")
    source.close()
    with closing(connect(path)) as db:
        theirs = Position.of_head(db), digest_tables(db)
        for tag in said:
            found = one(db, "SELECT count(*) FROM cattle c JOIN lora_payload_buffer p ON p.lf_tag=c.lf_tag WHERE c.lf_tag=?", (tag,))
            assert found == 1, f"{tag} was answered 201 and is {'lost' if found == 0 else 'there more than once'}"
        seqs = db.execute("SELECT min(seq), max(seq), count(*) FROM changelog").fetchone()
        assert seqs and seqs[1] - seqs[0] + 1 == seqs[2], "the log has a gap"
    assert state_of(folder / "replica.db") == theirs


CASES = [
    Case("first bootstrap", a_server, follow, is_where_the_pi_is, "data/replica.db"),
    Case("replay", a_few_changes, follow, is_where_the_pi_is, "data/replica.db"),
    Case("staged replay", many_changes, follow, is_where_the_pi_is, "data/replica.db"),
    Case("bootstrap into the live file", a_new_epoch, follow, is_where_the_pi_is, "data/replica.db"),
    Case("bootstrap by another file", another_make, follow, is_where_the_pi_is, "data/replica.db"),
    Case("bootstrap that rescues", ahead_of_the_pi, follow, keeps_what_was_lost, "data/replica.db"),
    Case("trim of the replica", followed, trim_audit, is_where_the_pi_is, "data/replica.db"),
    Case("repair", corrupted, repair, is_where_the_pi_is, "data/replica.db"),
    Case("worker", a_pi, work_off, follows, "farm.db"),
    Case("reconcile", changed_schema, reconcile, follows, "farm.db"),
    Case("trim of the Pi", a_pi, trim, follows, "farm.db"),
    Case("adopt", with_lost_changes, adopt_back, has_it_back, "farm.db"),
]
BY_NAME = {case.name: case for case in CASES}
ANY_PREFIX = ("worker", "reconcile", "trim of the Pi", "trim of the replica")  # these commit several times: any commit's end is sound


def run(name: str, folder: Path, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    """The work of a case in a process of its own, which prints what it has answered, and last how many steps it took."""
    shim = Path(tempfile.gettempdir()) / f"kill_at-{os.getpid()}.so"
    if not shim.exists():
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, ROOT / "scripts" / "kill_at.c", "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(shim), "KILL_AT": str(kill_at), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, __file__, "--work", name, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def prove(case: Case, farm: Farm, folder: Path, share: float) -> tuple[int, int, list[str]]:
    """Kill `case` at its steps; returns how many steps it has, how many of them were tried, and what went wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    before, trial = folder / "before", folder / "trial"
    case.prepare(before, farm)
    first = state_of(before / case.database)
    shutil.copytree(before, trial)
    whole = run(case.name, trial)
    assert whole.returncode == 0, f"{case.name} does not even run: {whole.stderr}"
    last, steps = state_of(trial / case.database), int(whole.stdout.split()[-1])
    faults, tried = [], 0
    for at in sorted({round(1 + i / share) for i in range(int(steps * share) + 1)}):
        if at > steps:
            break
        tried += 1
        shutil.rmtree(trial)
        shutil.copytree(before, trial)
        killed = run(case.name, trial, at)
        try:
            assert killed.returncode in (KILLED, 0), killed.stderr[-2000:]
            found = state_of(trial / case.database)
            known = case.name in ANY_PREFIX or _alike(found) in (_alike(first), _alike(last))
            assert known, f"neither the state before nor the one after: {found and found[0]}"
            again = run(case.name, trial)
            assert again.returncode == 0, again.stderr[-2000:]
            case.check(trial, farm, set(killed.stdout.split()))
        except (AssertionError, apsw.Error) as exc:
            faults.append(f"{case.name}, step {at} of {steps}: {type(exc).__name__}: {exc}")
            click.echo(faults[-1], err=True)
    return steps, tried, faults


@click.command()
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True, help="Of the steps, evenly spread.")
@click.option("--only", type=click.Choice(list(BY_NAME)), multiple=True, help="Only this piece of work.")
@click.option("--work", nargs=2, hidden=True)
def main(share: float, only: tuple[str, ...], work: tuple[str, str] | None) -> None:
    """Kill each piece of work between any two of its steps."""
    if work:
        BY_NAME[work[0]].work(Path(work[1]))
        print(ctypes.CDLL(None).kill_at_steps(), flush=True)
        os._exit(0)
    kills, faults = 0, []
    with tempfile.TemporaryDirectory() as name:
        farm = Farm(Path(name) / "farm", Seed(Path(name) / "seed"))
        farm.server.command("status")  # writes its .env
        farm.pi.start()
        try:
            farm.fill(ANIMALS)
            farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('P0', 1)")
            for case in [BY_NAME[name] for name in only] or CASES:
                steps, tried, wrong = prove(case, farm, Path(name) / "case", share)
                kills += tried
                faults += wrong
                click.echo(f"{case.name:<30} {steps:4} steps, killed at {tried:4}: {tried - len(wrong)} converged")
        finally:
            farm.close()
    click.echo(f"{kills} kills: {kills - len(faults)} converged, {len(faults)} did not")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
