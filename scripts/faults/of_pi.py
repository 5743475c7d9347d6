"""What the Pi does on its disk."""

from __future__ import annotations

import logging
import os
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import apsw
from farm_processes import Farm, shell

from changelog import retention
from changelog.__main__ import main as changelog
from changelog.connection import connect, one, remove_journal
from changelog.errors import DroverError, Unavailable
from changelog.position import Position
from changelog.primary import Primary
from changelog.pull import pull_file
from changelog.verify.digest import digest_tables
from pi import farm as pi_farm
from pi import herd
from pi import writer as pi_writer
from pi.__main__ import main
from pi.lora import parse_payload
from pi.writer import Writer
from scripts.faults.inject import Fault, answer
from scripts.faults.work import Work, nothing_left, state_of

PAYLOADS = 12
GIVEN_UP = 0.1  # s after which a payload that was not confirmed is refused: 15 for a true sender
EARLIER = Path(__file__).resolve().parents[2] / "tests" / "earlier_schema.sql"


def a_pi(folder: Path, farm: Farm) -> None:
    """A farm.db that nobody serves, and a replica of it."""
    folder.mkdir(parents=True)
    farm.pi.sql(f".backup {folder / 'farm.db'}")
    pi_farm.open_farm(folder / "farm.db")
    with closing(Primary(folder / "farm.db")) as source:
        pull_file(source, folder / "replica.db")


def with_received(folder: Path, farm: Farm) -> None:
    """And payloads stand there that somebody typed."""
    a_pi(folder, farm)
    with closing(connect(folder / "farm.db")) as db:
        waiting = [(9000 + i, f"hxb:KILL:LFK{i}:UHFK{i}") for i in range(3)]
        db.executemany("INSERT OR IGNORE INTO lora_payload_buffer(id, raw_payload) VALUES(?,?)", waiting)


def changed_schema(folder: Path, farm: Farm) -> None:
    """And somebody typed DDL, and rows."""
    a_pi(folder, farm)
    with closing(connect(folder / "farm.db")) as db:
        db.execute(
            """ALTER TABLE pens ADD COLUMN shade TEXT DEFAULT 'none';
            CREATE TABLE feed(id INTEGER PRIMARY KEY, kind TEXT); INSERT INTO feed(kind) VALUES('hay'), ('silage');
            CREATE INDEX feed_kind ON feed(kind); UPDATE pens SET shade='roof'"""
        )


def an_earlier_system(folder: Path, farm: Farm) -> None:
    """A database of the earlier system, with a batch in it."""
    folder.mkdir(parents=True)
    with closing(connect(folder / "farm.db", create=True)) as db:
        db.execute(EARLIER.read_text())
        db.execute("INSERT INTO batches SELECT 1, 'B1', '2024-01-15', NULL, 'hxb', NULL, '2024-01-15 10:00:00', '2024-01-15 10:00:00'")


def nothing_yet(folder: Path, farm: Farm) -> None:
    """An empty card."""
    folder.mkdir(parents=True)


def work_off(folder: Path, fault: Fault, typed: str = "") -> None:
    """Payloads arrive, are stored, processed and answered; others stand there unprocessed. Who is refused sends it again.

    `typed` is what somebody does in the shell just before.
    """
    pi_writer.WAIT, pi_writer.RETRY = GIVEN_UP, GIVEN_UP / 10  # type: ignore[misc]
    path = folder / "farm.db"
    writer = Writer(path, 0.1)
    writer.start()
    if typed:
        shell(path, typed)
    fault.begin()
    refused = [number for number in range(PAYLOADS) if not _received(writer, number)]
    fault.over()
    deadline = time.monotonic() + 10
    while refused and time.monotonic() < deadline:
        refused = [number for number in refused if not _received(writer, number)]
    assert not refused, f"refused although the disk is sound: {refused}, {writer.outage}"
    writer.process()
    writer.stop()


def work_after_ddl(folder: Path, fault: Fault) -> None:
    """The same, when somebody has changed the schema under it."""
    work_off(
        folder,
        fault,
        f"CREATE TABLE feed{time.time_ns()}(id INTEGER PRIMARY KEY, kind TEXT); CREATE INDEX f{time.time_ns()} ON pens(capacity)",
    )


def _received(writer: Writer, number: int) -> bool:
    reading = parse_payload(f"hxb:KILL{number % 3}:LF{number}:UHF{number}")
    try:
        writer.write(partial(herd.receive, reading=reading, now=herd.utc_now()), "test")
    except Unavailable as exc:
        logging.getLogger(__name__).warning("refused: %s", exc.message)
        return False
    answer(f"LF{number}")
    return True


def open_farm(folder: Path, fault: Fault) -> None:
    """What the Pi does before it serves."""
    fault.begin()
    try:
        pi_farm.open_farm(folder / "farm.db")
    except apsw.Error as exc:
        raise DroverError(f"as the start of the Pi says it: {exc}") from exc


def trim(folder: Path, fault: Fault) -> None:
    """`python -m changelog trim`: all but the newest row goes."""
    retention.PAUSE = retention.LEAST_PAUSE = 0.0  # type: ignore[misc]
    fault.begin()
    changelog(["trim", str(folder / "farm.db"), "--keep-days", "0", "--no-acks", "--yes"])


def with_lost_changes(folder: Path, farm: Farm) -> None:
    """And it went back in time: a file of what it lost lies beside it."""
    a_pi(folder, farm)
    path, older = folder / "farm.db", folder / "older.db"
    with closing(connect(older, create=True)) as copy, closing(connect(path)) as db:
        with copy.backup("main", db, "main") as backup:
            backup.step(-1)
        db.execute("UPDATE cattle SET weight=weight+1 WHERE id<9; INSERT INTO pens(pen_number, capacity) VALUES('LOST', 7)")
    with closing(Primary(path)) as source:
        pull_file(source, folder / "replica.db")
    remove_journal(path)
    older.replace(path)
    pi_farm.open_farm(path)
    with closing(Primary(path)) as source:
        pull_file(source, folder / "replica.db")


def adopt_back(folder: Path, fault: Fault) -> None:
    """`python -m pi adopt`."""
    (lost,) = folder.glob("*.rescued-*.db")
    _command(folder, fault, "adopt", str(lost))


def from_a_replica(folder: Path, fault: Fault) -> None:
    """`python -m pi restore --from-replica`."""
    _command(folder, fault, "restore", "--force", "--from-replica", str(folder / "replica.db"))


def _command(folder: Path, fault: Fault, *words: str) -> None:
    os.environ["DATA_DIR"] = str(folder)
    os.chdir(folder)
    fault.begin()
    main(list(words))


def is_a_primary(folder: Path, _: Farm, said: set[str]) -> None:
    """What was answered is there and processed, and a replica becomes the same."""
    path = folder / "farm.db"
    with closing(Primary(path)) as source:
        pull_file(source, folder / "replica.db", overwrite=True)
    with closing(connect(path)) as db:
        theirs = Position.of_head(db), digest_tables(db)
        for tag in said:
            found = one(db, "SELECT count(*) FROM cattle c JOIN lora_payload_buffer p ON p.lf_tag=c.lf_tag WHERE c.lf_tag=?", (tag,))
            assert found == 1, f"{tag} was answered 201 and is {'lost' if found == 0 else 'there more than once'}"
        if pi_farm.has_farm(db):
            assert not herd.any_received(db), "a payload stands unprocessed"
    state_of(path)
    assert state_of(folder / "replica.db") == theirs
    nothing_left(folder)


def has_it_back(folder: Path, farm: Farm, said: set[str]) -> None:
    """What was lost is there again, once."""
    is_a_primary(folder, farm, said)
    with closing(connect(folder / "farm.db")) as db:
        assert one(db, "SELECT count(*) FROM pens WHERE pen_number='LOST'") == 1


def has_all_rows(folder: Path, farm: Farm, said: set[str]) -> None:
    """And the batch of the earlier system is there."""
    is_a_primary(folder, farm, said)
    with closing(connect(folder / "farm.db")) as db:
        assert one(db, "SELECT count(*) FROM batches WHERE batch_number='B1'") == 1


WORKS = [
    Work("worker", with_received, work_off, is_a_primary, "farm.db", lives=True, many=True),
    Work("worker after DDL", a_pi, work_after_ddl, is_a_primary, "farm.db", lives=True, many=True),
    Work("a new farm", nothing_yet, open_farm, is_a_primary, "farm.db", many=True),
    Work("takeover", an_earlier_system, open_farm, has_all_rows, "farm.db", many=True),
    Work("reconcile", changed_schema, open_farm, is_a_primary, "farm.db", many=True),
    Work("trim of the Pi", a_pi, trim, is_a_primary, "farm.db", many=True),
    Work("adopt", with_lost_changes, adopt_back, has_it_back, "farm.db"),
    Work("restore from a replica", a_pi, from_a_replica, is_a_primary, "farm.db", many=True),
]
