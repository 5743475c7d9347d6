"""python -m changelog as people use it: real files, real processes, and a sqlite3 shell that writes beside them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from changelog_parts import REPOSITORY, assert_alike, contents, damage, log_of, make_database, make_primary, run_sql, shell, wait_until

from changelog.cli.group import DIVERGED, FAILED, USAGE
from changelog.connection import connect, rows
from changelog.doctor import has_wal_reset_bug
from changelog.position import Position

sys.path.insert(0, str(REPOSITORY))
from scripts.prove_as_of import History, problem_at

PENS = "CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT UNIQUE, secret TEXT, color TEXT);"
PAIRS = "CREATE TABLE pairs(a TEXT NOT NULL, b INTEGER NOT NULL, v, PRIMARY KEY(a, b)); CREATE TABLE bare(x);"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "changelog", *map(str, arguments)]


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A command that ends with this exit code, and never with a traceback."""
    done = subprocess.run(command(*arguments), cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def lines(*arguments: object) -> list[str]:
    return run(*arguments).stdout.splitlines()


def objects(*arguments: object) -> list[Any]:
    return [json.loads(text) for text in lines(*arguments)]


@pytest.fixture
def primary(tmp_path: Path) -> Path:
    """Three tables with a little history that the shell wrote: seq 1 is the birth, 2 to 9 are changes."""
    path = make_primary(tmp_path / "farm.db", PENS + PAIRS + "INSERT INTO pens VALUES(1,'A','s1','red')", masks=["pens.secret"])
    shell(path, "INSERT INTO pens VALUES(2,'B','s2','blue'),(3,'C','s3',NULL)")
    shell(path, "UPDATE pens SET pen='BB', secret='hunter2' WHERE id=2; UPDATE pens SET id=9 WHERE id=3")
    shell(path, "INSERT INTO pairs VALUES('x',1,x'00ff'); INSERT INTO bare VALUES(1.5),(9e999); DELETE FROM pens WHERE id=1")
    return path


@pytest.fixture
def started() -> Iterator[Any]:
    """Starts commands that go on, and ends them."""
    running: list[Going] = []

    def start(*arguments: object) -> Going:
        running.append(Going(*arguments))
        return running[-1]

    yield start
    for going in running:
        going.end()


class Going:
    """A command that goes on, with what it has printed."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            command(*arguments), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.printed: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.printed.append(text.rstrip("\n"))

    def end(self) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGINT)
        code = self.process.wait(timeout=20)
        self._reader.join(timeout=20)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return code


# --- show


def test_show_prints_one_line_a_change_with_old_and_new_values(primary: Path) -> None:
    shown = [text.split(maxsplit=2)[2] for text in lines("show", primary)[1:]]
    assert shown == [
        'unknown writer  I pens 2  id=2, pen="B", secret=***, color="blue"',
        'unknown writer  I pens 3  id=3, pen="C", secret=***',
        'unknown writer  U pens 2  pen: "B" -> "BB", secret: *** -> ***',
        "unknown writer  U pens 3  id: 3 -> 9",
        """unknown writer  I pairs 'x',1  a="x", b=1, v=x'00ff'""",
        "unknown writer  I bare 1  x=1.5",
        "unknown writer  I bare 2  x=inf",
        'unknown writer  D pens 1  id=1, pen="A", secret=***, color="red"',
    ]


@pytest.mark.parametrize(
    ("chosen", "seqs"),
    [
        (["--table", "PENS"], [2, 3, 4, 5, 9]),
        (["--table", "pens", "--key", "9"], [5]),
        (["--table", "pens", "--key", "3"], [3, 5]),
        (["--table", "pairs", "--key", "'x',1"], [6]),
        (["--column", "pen"], [2, 3, 4, 9]),
        (["--column", "pen", "--op", "u"], [4]),
        (["--op", "I", "--op", "D", "--table", "pens"], [2, 3, 9]),
        (["--actor", "unknown writer"], [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (["--actor", "somebody"], []),
        (["--since", "6"], [7, 8, 9]),
        (["--since", "6", "--until", "8"], [7, 8]),
        (["--until", "2000-01-01"], []),
        (["--last", "2"], [8, 9]),
        (["--last", "1", "--table", "pairs"], [6]),
    ],
)
def test_show_chooses_by_table_key_column_actor_operation_and_seq(primary: Path, chosen: list[str], seqs: list[int]) -> None:
    assert [change["seq"] for change in objects("show", primary, "--json", *chosen)] == seqs


def test_show_chooses_by_the_actor_who_signed(primary: Path) -> None:
    shell(primary, "BEGIN; UPDATE pens SET color='green' WHERE id=2; UPDATE changelog SET actor='vet' WHERE seq=10; COMMIT;")
    [change] = objects("show", primary, "--json", "--actor", "vet")
    assert (change["seq"], change["old"], change["new"]["color"]) == (10, {"id": 2, "color": "blue"}, "green")


def test_show_takes_times_with_and_without_a_zone(primary: Path) -> None:
    run_sql(primary, "UPDATE changelog SET at=printf('2026-11-23T16:00:%02d.000Z', seq)")
    for since in ("2026-11-23T16:00:08", "2026-11-23 16:00:08Z", "2026-11-23T18:00:08+02:00"):
        assert [change["seq"] for change in objects("show", primary, "--json", "--since", since)] == [8, 9]
    assert [change["seq"] for change in objects("show", primary, "--json", "--until", "2026-11-23T16:00:02.000Z")] == [1, 2]


def test_a_masked_value_is_shown_by_no_command_even_after_its_column_had_other_names(primary: Path, tmp_path: Path) -> None:
    shell(primary, "ALTER TABLE pens RENAME COLUMN secret TO hush; ALTER TABLE pens RENAME TO boxes; UPDATE boxes SET hush='hunter2!'")
    run("show", primary)
    run("install", primary, "--mask", "boxes.hush")
    shell(primary, "UPDATE boxes SET hush='s4'")
    replica = tmp_path / "replica.db"
    run("pull", primary, replica)
    printed = [run("show", file, *options).stdout for file in (primary, replica) for options in ([], ["--json"])]
    damage(replica, "UPDATE boxes SET hush='s5'")
    printed += [run("diff", primary, replica, *options, code=DIVERGED).stdout for options in ([], ["--json"])]
    printed += [run("as-of", primary, 14, "--table", "boxes").stdout]
    for text in printed:
        assert "***" in text
        assert not any(value in text for value in ("hunter2", "s1", "s2", "s3", "s4", "s5"))


def test_a_mask_given_later_hides_what_was_written_before(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "p.db", PENS)
    shell(path, "INSERT INTO pens VALUES(1,'A','hunter2','red')")
    assert "hunter2" in run("show", path).stdout
    run("install", path, "--mask", "pens.secret")
    assert "hunter2" not in run("show", path).stdout


def test_show_says_the_summary_of_ddl_and_reads_rows_from_before_and_after_it(primary: Path) -> None:
    shell(primary, "ALTER TABLE pens ADD COLUMN size INTEGER DEFAULT 5; INSERT INTO pens(id,pen,size) VALUES(4,'D',7)")
    shown = lines("show", primary, "--since", "9")
    assert "X  column pens.size added" in shown[1]
    assert lines("show", primary, "--column", "size")[-1].endswith("size: NULL -> 7")


def test_show_moves_no_cursor_whatever_was_written(primary: Path) -> None:
    run_sql(primary, "INSERT INTO pairs VALUES(char(27)||'[2J', 2, char(13)||'x')", "UPDATE changelog SET actor=char(27)||'c' WHERE seq=9")
    assert "\x1b" not in run("show", primary).stdout and "\r" not in run("show", primary).stdout


def test_show_follows_a_primary_and_a_replica(primary: Path, tmp_path: Path, started: Any) -> None:
    replica = tmp_path / "replica.db"
    run("pull", primary, replica)
    both = [started("show", file, "--follow", "--table", "pens", "--json") for file in (primary, replica)]
    wait_until(lambda: all(len(going.printed) == 5 for going in both))
    patient = ("-cmd", ".timeout 5000")  # the log may just be brought in line with the new schema
    shell(primary, "INSERT INTO bare VALUES(3); INSERT INTO pens(id,pen) VALUES(50,'Z'); ALTER TABLE pens ADD COLUMN size", *patient)
    shell(primary, "UPDATE pens SET size=1 WHERE id=50", *patient)
    wait_until(lambda: '"size": 1' in both[0].printed[-1])
    run("pull", primary, replica)
    wait_until(lambda: '"size": 1' in both[1].printed[-1])
    assert both[0].printed == both[1].printed
    for going in both:
        assert {json.loads(text)["key"] for text in going.printed[5:]} == {50}
        assert going.end() == 0


@pytest.mark.parametrize(
    "wrong",
    [["--key", "1"], ["--since", "yesterday"], ["--column", "nothing"], ["--op", "Q"], ["--last", "-1"], ["--nonsense"]],
)
def test_show_refuses_what_it_does_not_understand_as_usage(primary: Path, wrong: list[str]) -> None:
    assert "rror" in run("show", primary, *wrong, code=USAGE).stderr


# --- as-of


def test_as_of_prints_a_row_and_a_table_as_they_were(primary: Path) -> None:
    b, c = {"id": 2, "pen": "B", "secret": "***", "color": "blue"}, {"id": 3, "pen": "C", "secret": "***", "color": None}
    assert objects("as-of", "--json", primary, 3, "--table", "pens") == [{"id": 1, "pen": "A", "secret": "***", "color": "red"}, b, c]
    assert objects("as-of", "--json", primary, 3, "--table", "Pens", "--key", 3) == [c]
    assert objects("as-of", "--json", primary, 5, "--table", "pens", "--key", 3) == []
    assert objects("as-of", "--json", primary, 5, "--table", "pens", "--key", 9) == [{**c, "id": 9}]
    assert objects("as-of", "--json", primary, 9, "--table", "pairs", "--key", "'x',1") == [{"a": "x", "b": 1, "v": {"b": "00ff"}}]
    assert objects("as-of", "--json", primary, 8, "--table", "bare", "--key", 1) == [{"rowid": 1, "x": 1.5}]


def test_as_of_writes_a_file_that_is_the_database_of_then(primary: Path, tmp_path: Path) -> None:
    before = contents(primary)
    shell(primary, "UPDATE pens SET color='black'; DELETE FROM pairs; UPDATE bare SET x=2")
    shell(primary, "CREATE INDEX by_color ON pens(color); ALTER TABLE pens RENAME TO boxes; ALTER TABLE boxes ADD COLUMN size DEFAULT 3")
    run("as-of", primary, 9, "--out", tmp_path / "then.db")
    assert contents(tmp_path / "then.db") == before
    assert shell(tmp_path / "then.db", "PRAGMA integrity_check") == "ok\n"
    assert not [path.name for path in tmp_path.iterdir() if "incoming" in path.name]


def test_as_of_reads_a_replica_alike(primary: Path, tmp_path: Path) -> None:
    replica = tmp_path / "replica.db"
    run("pull", primary, replica)
    shell(primary, "UPDATE pens SET color='black'; ALTER TABLE pens ADD COLUMN size DEFAULT 3")
    run("pull", primary, replica)
    for seq in (1, 4, 9, 11):
        for file in (primary, replica):
            run("as-of", file, seq, "--out", tmp_path / f"{file.stem}{seq}.db")
        assert contents(tmp_path / f"farm{seq}.db") == contents(tmp_path / f"replica{seq}.db")


def test_as_of_a_time_is_the_newest_change_up_to_it_and_warns_of_a_clock_that_went_back(primary: Path) -> None:
    run_sql(primary, "UPDATE changelog SET at=printf('2026-11-23T16:00:%02d.000Z', seq)")
    done = run("as-of", "--json", primary, "2026-11-23T16:00:05.5", "--table", "pens", "--key", 9)
    assert json.loads(done.stdout)["id"] == 9 and "seq 5" in done.stderr and "backwards" not in done.stderr
    run_sql(primary, "UPDATE changelog SET at='2026-11-23T17:00:00.000Z' WHERE seq=3")
    assert "1 changes before seq 5" in run("as-of", primary, "2026-11-23T16:00:05.5", "--table", "pens").stderr


def test_as_of_names_the_dropped_table_that_it_cannot_rebuild_and_rebuilds_the_others(primary: Path, tmp_path: Path) -> None:
    shell(primary, "DROP TABLE pens")
    done = run("as-of", primary, 9, "--out", tmp_path / "then.db", code=FAILED)
    assert "table pens: it was dropped by seq 10" in done.stderr and not (tmp_path / "then.db").exists()
    assert len(lines("as-of", primary, 9, "--table", "bare")) == 2
    assert objects("as-of", "--json", primary, 4, "--table", "pens", "--key", 2)[0]["pen"] == "BB"


def test_as_of_rebuilds_a_dropped_table_whose_whole_life_is_in_the_log(primary: Path, tmp_path: Path) -> None:
    shell(primary, "CREATE TABLE brief(k TEXT NOT NULL PRIMARY KEY, v REAL); INSERT INTO brief VALUES('a',1),('b',2)")
    run("show", primary)
    shell(primary, "UPDATE brief SET v=3 WHERE k='a'")
    before = contents(primary)
    shell(primary, "DELETE FROM brief WHERE k='b'; DROP TABLE brief")
    run("as-of", primary, 13, "--out", tmp_path / "then.db")
    assert contents(tmp_path / "then.db") == before


def test_as_of_names_the_dropped_column_that_it_cannot_rebuild(primary: Path, tmp_path: Path) -> None:
    run("ddl", primary, "ALTER TABLE pens DROP COLUMN color")
    shell(primary, "INSERT INTO pens(id,pen) VALUES(77,'Z')")
    assert objects("as-of", "--json", primary, 9, "--table", "pens", "--key", 2)[0]["color"] == "blue"  # in the log
    assert objects("as-of", "--json", primary, 3, "--table", "pens", "--key", 1)[0]["color"] == "red"  # in its delete
    path = make_primary(tmp_path / "old.db", PENS + "INSERT INTO pens VALUES(1,'A','s1','red')")
    run("ddl", path, "ALTER TABLE pens DROP COLUMN color")
    assert "column pens.color: it was dropped by seq 2" in run("as-of", path, 1, "--table", "pens", code=FAILED).stderr


def test_as_of_before_a_new_epoch_rebuilds_only_single_rows_that_changed(primary: Path) -> None:
    run("install", primary)
    done = run("as-of", primary, 9, "--table", "pens", code=FAILED)
    assert "a new epoch began at seq 10" in done.stderr
    assert objects("as-of", "--json", primary, 3, "--table", "pens", "--key", 2)[0]["pen"] == "B"
    assert len(objects("as-of", "--json", primary, 10, "--table", "pens")) == 2


def test_as_of_before_what_was_trimmed_says_where_the_log_begins(primary: Path) -> None:
    run_sql(primary, "DELETE FROM changelog WHERE seq<6")
    assert "begins at seq 6" in run("as-of", primary, 4, "--table", "pens", code=FAILED).stderr
    assert len(objects("as-of", "--json", primary, 5, "--table", "pens")) == 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["99", "--table", "pens"], USAGE),
        (["soon", "--table", "pens"], USAGE),
        (["3"], USAGE),
        (["3", "--key", "1"], USAGE),
        (["3", "--table", "nothing"], FAILED),
        (["1999-01-01", "--table", "pens"], FAILED),
    ],
)
def test_as_of_says_in_one_line_what_it_does_not_understand(primary: Path, arguments: list[str], code: int) -> None:
    assert "rror" in run("as-of", primary, *arguments, code=code).stderr


def test_as_of_never_writes_over_a_file(primary: Path, tmp_path: Path) -> None:
    (tmp_path / "there.db").write_text("mine")
    assert "exists already" in run("as-of", primary, 9, "--out", tmp_path / "there.db", code=FAILED).stderr
    assert (tmp_path / "there.db").read_text() == "mine"


def test_random_moments_of_random_histories_are_rebuilt_as_they_were(tmp_path: Path) -> None:
    counts, number, chance = Counter[str](), 7_000, random.Random(7)
    while counts["rebuilt"] < 150:
        history = History(number, tmp_path / "random.db")
        for seq in chance.sample(sorted(history.recorded), min(15, len(history.recorded))):
            problem = problem_at(history, seq, counts)
            assert problem is None, f"history {number}, seq {seq}: " + ";\n".join([*history.story, str(problem)])
        number += 1


# --- diff


def test_diff_finds_a_primary_and_its_replica_identical(primary: Path, tmp_path: Path) -> None:
    run("pull", primary, tmp_path / "replica.db")
    [found] = objects("diff", primary, tmp_path / "replica.db", "--json")
    assert found["identical"] and found["positions"][0] == found["positions"][1] and found["tables"]["pens"][0]["rows"] == 2


def test_diff_names_rows_and_columns_and_stays_within_its_limit(primary: Path, tmp_path: Path) -> None:
    replica = tmp_path / "replica.db"
    run("pull", primary, replica)
    damage(replica, "UPDATE pens SET color='gray', secret='x' WHERE id=2; DELETE FROM bare; INSERT INTO pairs VALUES('y',2,0),('z',2,0)")
    found = json.loads(run("diff", primary, replica, "--json", "--limit", "1", code=DIVERGED).stdout)
    by_table = {d["table"]: d for d in found["differences"]}
    assert by_table["pens"]["rows"] == [{"key": 2, "columns": {"secret": ["***", "***"], "color": ["blue", "gray"]}}]
    assert (by_table["bare"]["only_a"], by_table["pairs"]["only_b"]) == (2, 2)
    assert by_table["pairs"]["rows"] == [{"key": ["y", 2], "only": "B"}]
    assert "and 1 more" in run("diff", primary, replica, "--limit", "1", code=DIVERGED).stdout


def test_diff_sees_the_last_bit(tmp_path: Path) -> None:
    sql = "CREATE TABLE t(k TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, v) WITHOUT ROWID;"
    a, b = make_database(tmp_path / "a.db", sql), make_database(tmp_path / "b.db", sql, "PRAGMA encoding='UTF-16le'")
    run_sql(a, "INSERT INTO t VALUES('bob',1),('c',0.0),('d',x'61'),('e',0.1),('f',CAST(x'61ff' AS TEXT)),('g','same')")
    run_sql(b, "INSERT INTO t VALUES('BOB',1),('c',-0.0),('d','a'),('e',0.1+1e-17),('f',NULL),('g','same')")
    [table] = json.loads(run("diff", a, b, "--json", code=DIVERGED).stdout)["differences"]
    assert [row["key"] for row in table["rows"]] == ["bob", "c", "d", "e", "f"]
    assert table["rows"][0]["columns"] == {"k": ["bob", "BOB"]}


def test_diff_tells_schemas_apart(primary: Path, tmp_path: Path) -> None:
    other = make_database(tmp_path / "other.db", PENS.replace("color", "colour") + "CREATE VIEW v AS SELECT 1;")
    printed = run("diff", primary, other, code=DIVERGED).stdout
    for text in ("view v: only in B", "table pens: defined otherwise", "bare: the table is only in A", "no changelog"):
        assert text in printed


# --- pull


def test_pull_makes_a_replica_and_then_replays(primary: Path, tmp_path: Path) -> None:
    replica = tmp_path / "replica.db"
    [made] = objects("pull", primary, replica, "--json")
    assert (made["before"], made["did"]) == (None, "snapshot")
    shell(primary, "UPDATE pens SET color='black'; ALTER TABLE pens ADD COLUMN size DEFAULT 3")
    [advanced] = objects("pull", primary, replica, "--json")
    assert (advanced["before"], advanced["did"], advanced["changes"]) == (made["after"], "replay", 3)
    assert objects("pull", primary, replica, "--json")[0]["did"] == "nothing"
    assert_alike(primary, replica)


@pytest.mark.parametrize("what", ["a new epoch", "a replica that was written to", "a trimmed log", "a primary that went back in time"])
def test_pull_takes_a_snapshot_in_every_case_of_doubt(primary: Path, tmp_path: Path, what: str) -> None:
    replica, kept = tmp_path / "replica.db", tmp_path / "kept.db"
    shell(primary, f"VACUUM INTO '{kept}'")
    shell(primary, "UPDATE pens SET color='white'")
    run("pull", primary, replica)
    if what == "a new epoch":
        run("install", primary)
    elif what == "a replica that was written to":
        damage(replica, "DELETE FROM pens")
    elif what == "a trimmed log":
        shell(primary, "UPDATE pens SET color='x'; UPDATE pens SET color='y'; DELETE FROM changelog WHERE seq<15")
    else:
        primary = kept
    shell(primary, "UPDATE pens SET color='black'")
    [done] = objects("pull", primary, replica, "--json")
    assert done["did"] == "snapshot" and done["reason"]
    if what == "a trimmed log":  # the replica's own goes back further
        assert contents(replica) == contents(primary) and log_of(replica, after=14) == log_of(primary, after=14)
        assert shell(replica, "SELECT min(seq) FROM changelog") == "1\n"
        assert not [line for line in lines("doctor", replica) if "somebody deleted" in line]
        assert "nothing before seq 14" in run("as-of", replica, 9, "--table", "pens", code=FAILED).stderr
    else:
        assert_alike(primary, replica)
    if what == "a primary that went back in time":
        assert "white" in run("show", done["rescued"]).stdout, "what it lost is kept, and shown"


def test_pull_leaves_what_is_not_its_replica_alone_unless_told(primary: Path, tmp_path: Path) -> None:
    other = make_primary(tmp_path / "other.db", PENS)
    follower = tmp_path / "follower.db"
    run("pull", other, follower)
    plain = make_database(tmp_path / "plain.db", "CREATE TABLE mine(a); INSERT INTO mine VALUES(1)")
    text = tmp_path / "text.txt"
    text.write_text("not a database")
    for target in (other, follower, plain, text):
        before = target.read_bytes()
        assert "--yes" in run("pull", primary, target, code=FAILED).stderr
        assert target.read_bytes() == before
        run("pull", primary, target, "--yes")
        assert_alike(primary, target)


def test_no_command_makes_a_primary_of_a_replica_unasked(primary: Path, tmp_path: Path) -> None:
    replica = tmp_path / "replica.db"
    run("pull", primary, replica)
    before = replica.read_bytes()
    assert "its primary" in run("ddl", replica, "ALTER TABLE pens ADD COLUMN a", code=FAILED).stderr
    assert "its primary" in run("pull", replica, tmp_path / "second.db", code=FAILED).stderr
    for reading in (["show"], ["as-of", "4", "--table", "pens"], ["status"], ["doctor"], ["diff", str(primary)]):
        run(reading[0], replica, *reading[1:])
    assert replica.read_bytes() == before and not (tmp_path / "second.db").exists()
    assert objects("pull", primary, replica, "--json")[0]["did"] == "nothing"


def test_a_folder_that_is_not_there_is_named(primary: Path, tmp_path: Path) -> None:
    target = tmp_path / "away" / "new.db"
    assert "there is no folder" in run("pull", primary, target, code=FAILED).stderr
    assert "there is no folder" in run("as-of", primary, 4, "--out", target, code=FAILED).stderr


def test_pull_into_the_primary_itself_is_refused_whatever_is_said(primary: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(primary)
    before = contents(primary)
    for target in (primary, tmp_path / "link.db"):
        assert "same file" in run("pull", primary, target, "--yes", code=USAGE).stderr
    assert contents(primary) == before


def test_pull_follows_every_commit_ddl_and_new_epochs_included(primary: Path, tmp_path: Path, started: Any) -> None:
    replica = tmp_path / "replica.db"
    going = started("pull", primary, replica, "--follow")
    wait_until(lambda: going.printed)
    shell(primary, "UPDATE pens SET color='black'")
    shell(primary, "ALTER TABLE pens ADD COLUMN size DEFAULT 3; CREATE TABLE more(a); INSERT INTO more VALUES(1)")
    run("install", primary)
    shell(primary, "INSERT INTO more VALUES(2)")
    wait_until(lambda: lines("head", primary)[0] in going.printed[-1].split("->")[1])
    assert_alike(primary, replica)
    assert going.end() == 0


# --- ddl, status, doctor


def test_ddl_drops_a_column_and_says_what_was_logged(primary: Path) -> None:
    printed = lines("ddl", primary, "ALTER TABLE pens DROP COLUMN color")
    assert printed[0] == "seq 10: column pens.color dropped" and printed[1].startswith("position ")
    [done] = objects("ddl", primary, "/* a comment */ CREATE INDEX by_pen ON pens(pen); -- and another", "--json")
    assert done["logged"] == [{"seq": 11, "change": "index by_pen created"}] and done["new_epoch"] is None


def test_ddl_says_why_a_new_epoch_began(primary: Path) -> None:
    [done] = objects("ddl", primary, "CREATE VIRTUAL TABLE words USING fts5(a)", "--json")
    assert "virtual table" in done["new_epoch"] and done["logged"] == []


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("DELETE FROM pens", USAGE),
        ("COMMIT", USAGE),
        ("ALTER TABLE pens ADD COLUMN a; DELETE FROM pens", USAGE),
        ("/* ALTER */ VACUUM", USAGE),
        ("", USAGE),
        ("ALTER TABLE pens DROP COLUMN pen", FAILED),
        ("ALTR TABLE pens", FAILED),
    ],
)
def test_ddl_runs_one_statement_of_ddl_or_nothing(primary: Path, sql: str, code: int) -> None:
    before, at = contents(primary), lines("head", primary)
    assert "error: " in run("ddl", primary, sql, code=code).stderr
    assert contents(primary) == before and lines("head", primary) == at
    shell(primary, "INSERT INTO pens(id) VALUES(5)")
    assert len(lines("show", primary, "--since", at[0].split("/")[1])) == 1


def test_status_tells_a_primary_from_a_replica(primary: Path, tmp_path: Path) -> None:
    run("pull", primary, tmp_path / "replica.db")
    [one], [other] = objects("status", primary, "--json"), objects("status", tmp_path / "replica.db", "--json")
    assert (one["role"], other["role"], one["head"], one["changes"]) == ("primary", "replica", 9, 9)
    assert one["epoch"] == other["epoch"] and other["followed_at"] and one["masks"] == ["pens.secret"]
    assert "role            primary" in lines("status", primary)


def findings(path: Path, code: int) -> list[Any]:
    return json.loads(run("doctor", path, "--json", code=code).stdout)["findings"]


def test_doctor_finds_nothing_wrong_with_a_sound_primary_and_its_replica(primary: Path, tmp_path: Path) -> None:
    run("pull", primary, tmp_path / "replica.db")
    for file in (primary, tmp_path / "replica.db"):
        facts = " ".join(f["fact"] for f in findings(file, 0))
        for text in ("pens.secret", "bare", "journal_mode is wal", "sqlite3 shell is SQLite 3", "bytes, seq 1 to 9"):
            assert text in facts


@pytest.mark.parametrize(
    ("done", "said"),
    [
        ('DROP TRIGGER "_changelog_ad_pens (to drop a column: python -m changelog ddl FILE SQL)"', "1 of our 5 triggers are missing"),
        ("CREATE TABLE late(a)", "table late is not captured"),
        ("CREATE TRIGGER theirs AFTER INSERT ON pens BEGIN SELECT 1; END", "a trigger that is newer than ours"),
        ("PRAGMA journal_mode=DELETE", "journal_mode is delete"),
        ("DELETE FROM changelog WHERE seq=4", "the log has a gap"),
    ],
)
def test_doctor_finds_what_is_wrong_and_says_what_to_do(primary: Path, done: str, said: str) -> None:
    shell(primary, done)
    [finding] = [f for f in findings(primary, FAILED) if said in f["fact"]]
    assert finding["wrong"] and finding["advice"]


def test_doctor_of_a_plain_database_says_how_to_install(tmp_path: Path) -> None:
    path = make_database(tmp_path / "plain.db", PENS)
    assert f"install {path}" in run("doctor", path, code=FAILED).stdout


def test_the_versions_with_the_wal_reset_bug() -> None:
    wrong = ("3.7.0", "3.40.1", "3.44.5", "3.45.0", "3.50.6", "3.51.0", "3.51.2")
    right = ("3.6.23", "3.44.6", "3.44.7", "3.50.7", "3.51.3", "3.52.0", "3.54.1")
    assert all(map(has_wal_reset_bug, wrong)) and not any(map(has_wal_reset_bug, right))


# --- all of them


COMMANDS = ("install", "uninstall", "status", "head", "triggers", "ddl", "show", "as-of", "diff", "pull", "trim", "doctor")


def arguments_of(name: str, folder: Path) -> list[object]:
    """What a command needs beside its file."""
    needed = {"ddl": ["CREATE TABLE a(b)"], "as-of": ["1", "--table", "t"], "pull": [folder / "new.db"], "uninstall": ["--yes"]}
    return {**needed, "trim": ["--before", "1", "--dry-run"]}.get(name, [])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_with_an_example_and_fails_in_one_line_on_what_is_no_database(name: str, tmp_path: Path) -> None:
    assert f"python -m changelog {name}" in run(name, "--help").stdout
    junk = tmp_path / "junk.db"
    junk.write_text("this is not a database, however long it is " * 100)
    done = run(name, junk, *(arguments_of(name, tmp_path) or ([junk] if name == "diff" else [])), code=FAILED)
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1 and done.stdout == ""


@pytest.mark.parametrize("name", ["show", "status", "head", "as-of", "ddl", "pull", "uninstall", "trim"])
def test_a_database_without_a_changelog_is_told_how_to_get_one(name: str, tmp_path: Path) -> None:
    path = make_database(tmp_path / "plain.db", PENS)
    assert "python -m changelog install" in run(name, path, *arguments_of(name, tmp_path), code=FAILED).stderr
    assert not (tmp_path / "new.db").exists()


def test_reading_commands_change_nothing(primary: Path) -> None:
    db = connect(primary, readonly=True)
    before, version = str(Position.of_head(db)), db.pragma("data_version")
    for arguments in (["show"], ["status"], ["head"], ["doctor"], ["as-of", "3", "--table", "pens"]):
        run(arguments[0], primary, *arguments[1:])
    assert str(Position.of_head(db)) == before and db.pragma("data_version") == version
    assert rows(db, "SELECT count(*) FROM changelog") == [(9,)]
    db.close()
