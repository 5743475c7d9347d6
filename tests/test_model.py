"""Short runs of the proofs that take minutes: everything that can happen to a primary and its replica, and the log against full states."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from changelog_parts import contents, make_primary, shell
from hypothesis import HealthCheck, settings

from changelog.connection import connect, rows
from changelog.primary import Primary
from changelog.pull import pull_file
from changelog.schema import identifier
from scripts.prove_capture import History
from scripts.prove_model import Replication

STATEMENTS_A_SCHEMA = 1_000
SCHEMAS = 50  # a twentieth of the long run: scripts/prove_capture.py 1000000

TestReplication = Replication.TestCase  # a twentieth of the long run: scripts/prove_model.py 500 200
TestReplication.settings = settings(
    max_examples=25, stateful_step_count=200, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)


def test_the_log_holds_every_change_and_no_other(tmp_path: Path) -> None:
    counts = Counter[str]()

    for seed in range(SCHEMAS):
        problem = History(seed, tmp_path / "primary.db").run(STATEMENTS_A_SCHEMA, counts)
        assert problem is None, f"scripts/prove_capture.py {STATEMENTS_A_SCHEMA} --seed {seed}: {problem}"

    assert counts["changes"] > counts["transactions"]  # else this proves little
    assert counts["missing"] == counts["extra"] == 0


def test_a_log_that_misses_a_change_is_found_out(tmp_path: Path) -> None:
    history = History(3, tmp_path / "primary.db")
    db = connect(tmp_path / "primary.db")
    [gone, *_] = [name for (name,) in rows(db, "SELECT name FROM sqlite_schema WHERE type='trigger'") if "_changelog_ai_" in name]
    db.execute(f"DROP TRIGGER {identifier(gone)}")
    db.close()

    counts = Counter[str]()
    assert history.run(STATEMENTS_A_SCHEMA, counts) is not None
    assert counts["missing"] + counts["extra"] > 0


def test_a_row_that_a_trigger_puts_in_the_way_of_a_replace_is_noticed(tmp_path: Path) -> None:
    """The one surprise that the long runs found: no trigger sees this row die, so the log does not fit the replica, which says so."""
    primary = make_primary(
        tmp_path / "primary.db",
        """CREATE TABLE t(k TEXT NOT NULL PRIMARY KEY, v);
        CREATE TRIGGER app BEFORE UPDATE ON t BEGIN INSERT OR IGNORE INTO t(k) VALUES(NEW.v); END;
        INSERT INTO t VALUES('a', 'b')""",
    )
    source, replica = Primary(primary), tmp_path / "replica.db"
    pull_file(source, replica)
    shell(primary, "UPDATE OR REPLACE t SET k='b'")

    assert "UNIQUE constraint failed" in pull_file(source, replica).reason
    assert contents(replica) == contents(primary)
    source.close()
