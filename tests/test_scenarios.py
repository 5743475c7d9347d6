"""Every case of scenarios.sql, written by both SQLite versions: the replica ends with the same rows, by replay or by a new epoch."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from changelog.bootstrap import fit_out
from changelog.connection import connect
from changelog.install import install
from changelog.position import Position
from changelog.primary import Primary
from changelog.reconcile import reconcile
from changelog.replay import connect_replica, position_of, replay
from changelog.schema import sequences_of
from changelog.verify.digest import digest_tables
from changelog.wire import decode_frame, encode_frame

# Cases that leave replay no way: the schema version moves, a descending epoch begins, and the replica takes one snapshot.
BY_SNAPSHOT = {"VACUUM after deletes then write nopk/tk"}


class Scenarios(NamedTuple):
    """scenarios.sql, cut into its parts."""

    schema: str
    triggers: str
    seed: str
    cases: dict[str, str]


def read_scenarios() -> Scenarios:
    sections = (Path(__file__).parent / "scenarios.sql").read_text().split("-- section: ")[1:]
    schema, triggers, rest = (section.split("\n", 1)[1] for section in sections)
    seed, *cases = rest.split("-- case: ")
    return Scenarios(schema, triggers, seed, dict(case.split("\n", 1) for case in cases))


SCENARIOS = read_scenarios()


def write_by_shell(path: Path, sql: str) -> None:
    subprocess.run(["sqlite3", path], input=sql, capture_output=True, text=True, check=False)


def write_by_apsw(path: Path, sql: str) -> None:
    db = connect(path)
    try:
        for statement in sql.split(";\n" if "\n" in sql.strip() else "; "):
            with contextlib.suppress(apsw.Error):  # some cases are refused by SQLite itself
                db.execute(statement)
    finally:
        db.close()


@pytest.mark.parametrize("late", [False, True], ids=["triggers before", "triggers after"])
@pytest.mark.parametrize("recursive", [False, True], ids=["recursive off", "recursive on"])
@pytest.mark.parametrize("write", [write_by_shell, write_by_apsw], ids=["shell", "apsw"])
@pytest.mark.parametrize("case", SCENARIOS.cases)
def test_the_replica_ends_with_the_same_rows(tmp_path: Path, case: str, write, recursive: bool, late: bool) -> None:
    primary, copy = tmp_path / "primary.db", tmp_path / "replica.db"
    db = connect(primary, create=True)
    db.execute(SCENARIOS.schema)
    if not late:
        db.execute(SCENARIOS.triggers)
    db.execute(SCENARIOS.seed)
    install(db)
    if late:
        db.execute(SCENARIOS.triggers)
        assert reconcile(db)
    db.close()
    source = Primary(primary)
    source.copy_to(copy)
    fit_out(copy, None)

    write(primary, f"PRAGMA recursive_triggers={int(recursive)}; " + SCENARIOS.cases[case].strip())

    replica = connect_replica(copy)
    start = position_of(replica)
    head = source.head()
    if case in BY_SNAPSHOT:
        assert head.epoch != start.epoch
        replica.close()
        again = tmp_path / "again.db"
        source.copy_to(again)
        fit_out(again, start.epoch)  # refuses what does not descend
        replica = connect_replica(again)
    else:
        header, rows = source.frame(start)
        reached = replay(replica, *decode_frame(encode_frame(header, rows)))
        assert reached == head
    with source.snapshot() as db:
        assert digest_tables(db) == digest_tables(replica)
        assert sequences_of(db) == sequences_of(replica)
        assert Position.of_head(db) == position_of(replica)
    replica.close()
    source.close()
