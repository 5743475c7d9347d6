"""What the commands say of a log that was trimmed or has a gap: what it tells, exactly; what it does not, in words. And `trim` itself."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from changelog_parts import REPOSITORY, contents, damage, follow, make_primary, make_replica, run_sql, shell, unguarded, wait_until
from click.testing import CliRunner, Result

from changelog.__main__ import main
from changelog.acks import Acks
from changelog.asof.past import Past
from changelog.cli.group import FAILED, USAGE
from changelog.connection import connect, one, rows
from changelog.errors import CannotRebuild, HistoryTrimmed
from changelog.log import head
from changelog.position import Position, epoch_of
from changelog.primary import Primary
from changelog.retention import Limits, cutoff, log_bytes, trim_run

sys.path.insert(0, str(REPOSITORY))
from scripts.prove_as_of import History, problem_at

PENS = "CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT UNIQUE, color TEXT);"


def run(*arguments: object, code: int = 0) -> Result:
    """A command that ends with this exit code. (That each ends so as a process is tested with the other commands.)"""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


def facts(*arguments: object, code: int = 0) -> list[Any]:
    return [json.loads(text) for text in run(*arguments, "--json", code=code).stdout.splitlines()]


def cut(path: Path, below: int) -> None:
    with unguarded(path) as db:
        while trim_run(db, Limits(below=below), None):
            pass


def gap(path: Path, first: int, last: int) -> None:
    """What a late snapshot leaves in a replica's log."""
    damage(
        path,
        f"DELETE FROM changelog WHERE seq BETWEEN {first} AND {last}",
        f"INSERT INTO changelog_meta(name,value,seq) VALUES('gap',{first},{last})",
    )


@pytest.fixture
def primary(tmp_path: Path) -> Path:
    """Seq 1 is the birth, 2 to 31 give pen 1 its colors 2 to 31."""
    path = make_primary(tmp_path / "farm.db", PENS + "INSERT INTO pens VALUES(1,'A','1')")
    run_sql(path, *(f"UPDATE pens SET color='{seq}' WHERE id=1" for seq in range(2, 32)))
    return path


@pytest.fixture
def gapped(primary: Path, tmp_path: Path) -> Path:
    """A replica that lacks the changes 10 to 19."""
    path = make_replica(primary, tmp_path / "replica.db")
    gap(path, 10, 19)
    return path


# --- as-of


def test_random_moments_of_cut_histories_are_rebuilt_as_they_were_or_refused(tmp_path: Path) -> None:
    counts, number, chance = Counter[str](), 21_000, random.Random(3)
    while counts["rebuilt"] < 120 or counts["gone"] < 60:
        history = History(number, tmp_path / "random.db")
        history.cut(gap=number % 2 == 0)
        for seq in chance.sample(sorted(history.recorded), min(12, len(history.recorded))):
            problem = problem_at(history, seq, counts)
            assert problem is None, f"history {number}, seq {seq}: " + ";\n".join([*history.story, str(problem)])
        number += 1


def test_a_trimmed_log_tells_every_single_seq_as_the_whole_one_does_or_says_why_not(tmp_path: Path) -> None:
    counts = Counter[str]()
    for number in range(30_000, 30_012):
        history = History(number, tmp_path / "whole.db")
        source = Primary(history.path)
        with source.snapshot() as whole:
            for below in random.Random(number).sample(range(2, head(whole)), 2):
                _compare(whole, _copy(source, tmp_path / "cut.db"), below, counts)
        source.close()
    assert counts["same"] > 500 and counts["refused"] < counts["same"] / 10, counts


def _copy(source: Primary, target: Path) -> Path:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
    source.copy_to(target)
    return target


def _compare(whole: apsw.Connection, path: Path, below: int, counts: Counter[str]) -> None:
    cut(path, below)
    with closing(connect(path, readonly=True)) as db:
        db.execute("BEGIN")
        for seq in range(below - 1, min(below + 20, head(db) + 1)):
            expected, found = _tables(whole, seq), _tables(db, seq)
            for table, held in found.items():
                assert held in (None, expected[table]), (seq, table)
                counts["same" if held == expected[table] else "refused"] += 1
        with pytest.raises(HistoryTrimmed):
            Past(db, below - 2)


def _tables(db: apsw.Connection, seq: int) -> dict[str, list[str] | None]:
    past = Past(db, seq)
    found: dict[str, list[str] | None] = {}
    for name, table in past.tables.items():
        try:
            found[name] = sorted(map(repr, past.rows_of(table)))
        except CannotRebuild:
            found[name] = None
    return found


def test_a_log_that_begins_in_the_midst_of_a_statement_with_triggers_says_so(tmp_path: Path) -> None:
    """The trigger's change (seq 2) is hidden from the statement's own row (seq 3), whose old values are those before the statement."""
    hiding = "CREATE TRIGGER x BEFORE UPDATE OF pen ON pens BEGIN UPDATE pens SET color='by trigger' WHERE id=OLD.id; END;"
    path = make_primary(tmp_path / "p.db", PENS + hiding + "INSERT INTO pens VALUES(1,'A','before'),(2,'Z','other')")
    run_sql(path, "UPDATE pens SET pen='B' WHERE id=1")
    then = facts("as-of", path, 2, "--table", "pens", "--key", 1)
    assert then == [{"id": 1, "pen": "A", "color": "by trigger"}]
    cut(path, 3)
    for which in ([], ["--key", 1]):
        assert "in the midst of a statement" in run("as-of", path, 2, "--table", "pens", *which, code=FAILED).stderr
    assert facts("as-of", path, 2, "--table", "pens", "--key", 2) == [{"id": 2, "pen": "Z", "color": "other"}]
    assert facts("as-of", path, 3, "--table", "pens", "--key", 1) == [{"id": 1, "pen": "B", "color": "by trigger"}]


@pytest.mark.parametrize(("seq", "answer"), [(5, None), (9, None), (10, None), (18, None), (19, "19"), (20, "20"), (31, "31")])
def test_as_of_answers_from_the_end_of_a_gap_on_and_not_before(gapped: Path, tmp_path: Path, seq: int, answer: str | None) -> None:
    for asked in (["--table", "pens"], ["--table", "pens", "--key", "1"], ["--out", tmp_path / "then.db"]):
        if answer is None:
            said = run("as-of", gapped, seq, *asked, code=FAILED).stderr
            assert "from seq 10 to 19" in said and "before seq 19" in said
        elif asked[0] == "--table":
            assert facts("as-of", gapped, seq, *asked)[0]["color"] == answer
        else:
            run("as-of", gapped, seq, *asked)
            assert shell(tmp_path / "then.db", "SELECT color FROM pens") == f"{answer}\n"


def test_as_of_a_time_within_a_gap_is_refused(gapped: Path) -> None:
    damage(gapped, "UPDATE changelog SET at=printf('2026-11-23T16:00:%02d.000Z', seq)")
    for time, code in (("16:00:09.5", FAILED), ("16:00:15", FAILED), ("16:00:20", 0)):
        run("as-of", gapped, f"2026-11-23T{time}", "--table", "pens", code=code)


def test_a_table_whose_creation_lies_before_a_gap_is_not_taken_for_whole(primary: Path, tmp_path: Path) -> None:
    shell(primary, "CREATE TABLE brief(a INTEGER PRIMARY KEY)")
    run("show", primary)
    shell(primary, "INSERT INTO brief VALUES(1),(2),(3); UPDATE pens SET color='x'")
    shell(primary, "DROP TABLE brief")
    assert len(facts("as-of", primary, 36, "--table", "brief")) == 3
    replica = make_replica(primary, tmp_path / "r.db")
    gap(replica, 34, 34)
    assert "was dropped by seq 37" in run("as-of", replica, 36, "--table", "brief", code=FAILED).stderr
    assert facts("as-of", replica, 36, "--table", "brief", "--key", 3) == [{"a": 3}]


# --- show, status, doctor


def test_show_says_where_a_trimmed_log_begins_when_more_was_asked_for(primary: Path) -> None:
    cut(primary, 25)
    assert "begins at seq 25" in run("show", primary, "--since", 3).stderr
    assert "begins at seq 25" in run("show", primary, "--since", "2020-01-01").stderr
    assert "begins at seq 25" in run("show", primary, "--last", 0).stderr
    for asked in (["--since", 24], ["--since", "2099-01-01"], []):
        assert run("show", primary, *asked).stderr == ""


@pytest.mark.parametrize(
    ("asked", "seqs"),
    [
        (["--last", "0"], [*range(1, 10), "gap", *range(20, 32)]),
        (["--since", "8"], [9, "gap", *range(20, 32)]),
        (["--since", "15", "--until", "20"], ["gap", 20]),
        (["--since", "12", "--until", "14"], ["gap"]),
        (["--since", "19", "--until", "20"], [20]),
        (["--until", "9", "--last", "2"], [8, 9]),
        (["--last", "13"], [9, "gap", *range(20, 32)]),
        (["--last", "12"], [*range(20, 32)]),
        (["--table", "nothing", "--last", "0"], ["gap"]),
        (["--since", "2026-11-23T16:00:08", "--until", "2026-11-23T16:00:21"], [8, 9, "gap", 20, 21]),
        (["--since", "2026-11-23T16:00:22"], [*range(22, 32)]),
    ],
)
def test_show_has_a_line_for_a_gap_where_it_is(gapped: Path, asked: list[str], seqs: list[Any]) -> None:
    damage(gapped, "UPDATE changelog SET at=printf('2026-11-23T16:00:%02d.000Z', seq)")
    shown = facts("show", gapped, *asked)
    assert [change["seq"] if change["op"] != "gap" else "gap" for change in shown] == seqs
    assert all((change["first"], change["last"]) == (10, 19) for change in shown if change["op"] == "gap")
    assert [line for line in run("show", gapped, *asked).stdout.splitlines() if "gap" in line] == [
        "     10  gap: the changes from seq 10 to 19 are not in this log" for each in seqs if each == "gap"
    ]


def test_status_and_doctor_know_what_is_gone_and_call_only_the_unexplained_wrong(primary: Path, gapped: Path) -> None:
    cut(gapped, 5)
    [found] = facts("status", gapped)
    assert (found["trimmed"], found["gaps"], found["oldest"]) == (4, [{"first": 10, "last": 19}], 5)
    assert "gaps            seq 10 to 19" in run("status", gapped).stdout
    said = run("doctor", gapped).stdout
    assert "seq 10 to 19" in said and "what was before seq 5 is not here" in said
    damage(gapped, "DELETE FROM changelog WHERE seq=25")
    assert "somebody deleted rows" in run("doctor", gapped, code=FAILED).stdout
    assert "rows are missing" in run("as-of", gapped, 21, "--table", "pens", code=FAILED).stderr
    [found] = facts("status", primary)
    assert (found["trimmed"], found["gaps"]) == (0, [])
    with closing(connect(primary, readonly=True)) as db:
        assert found["log_bytes"] == log_bytes(db)


# --- trim


def acknowledge(path: Path, **seqs: int) -> Path:
    """A pi.db beside the primary, in which replicas have acknowledged these seqs."""
    companion = path.with_name("pi.db")
    with closing(connect(path, readonly=True)) as db, closing(Acks(companion)) as acks:
        for name, seq in seqs.items():
            acks.acknowledge(name, "office", Position(epoch_of(db), seq, one(db, "SELECT nonce FROM changelog WHERE seq=?", (seq,))))
    return companion


def oldest(path: Path) -> int:
    with closing(connect(path, readonly=True)) as db:
        return one(db, "SELECT min(seq) FROM changelog")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--before", "9"],
        ["--before", "9", "--yes", "--dry-run"],
        ["--yes"],
        ["--dry-run"],
        ["--before", "soon", "--yes"],
        ["--keep-days", "-1", "--yes"],
        ["--max-bytes", "many", "--yes"],
        ["--before", "9", "--acks", "nothing.db", "--yes"],
    ],
)
def test_trim_without_a_clear_word_is_a_usage_error_and_changes_nothing(primary: Path, wrong: list[str]) -> None:
    assert "rror" in run("trim", primary, *wrong, code=USAGE).stderr
    assert oldest(primary) == 1


def test_a_dry_run_says_what_would_go_and_yes_does_just_that(primary: Path) -> None:
    [would] = facts("trim", primary, "--before", 20, "--dry-run")
    assert would["goes"] == {"first": 1, "last": 19, "rows": 19, "why": "age"} and would["trimmed"] == 0 and oldest(primary) == 1
    assert "would go   seq 1 to 19, 19 rows" in run("trim", primary, "--before", 20, "--dry-run").stdout
    [did] = facts("trim", primary, "--before", 20, "--yes")
    assert did["goes"] == would["goes"] and (did["trimmed"], did["stays_from"], oldest(primary)) == (19, 20, 20)
    assert "nothing goes" in run("trim", primary, "--before", 20, "--yes").stdout


def test_trim_by_days_and_by_time(primary: Path) -> None:
    with closing(connect(primary)) as db:
        for seq in range(1, 32):
            db.execute("UPDATE changelog SET at=? WHERE seq=?", (cutoff(31.5 - seq), seq))
    assert facts("trim", primary, "--keep-days", 30, "--yes")[0]["stays_from"] == 2
    assert facts("trim", primary, "--keep-days", 30, "--before", 20, "--dry-run")[0]["goes"] is None
    assert facts("trim", primary, "--keep-days", 5, "--before", 20, "--dry-run")[0]["stays_from"] == 20
    assert facts("trim", primary, "--before", cutoff(10.2), "--yes")[0]["stays_from"] == 22


def test_trim_asks_the_acknowledgements_beside_the_file(primary: Path) -> None:
    acknowledge(primary, slow=12, quick=31)
    [done] = facts("trim", primary, "--before", 25, "--yes")
    assert done["stays_from"] == 12 and done["replicas_asked"]
    assert [(r["id"], r["seq"], r["behind"], r["snapshot"]) for r in done["replicas"]] == [("quick", 31, 0, False), ("slow", 12, 19, False)]
    assert "slow has only seq 12" in run("trim", primary, "--before", 25, "--yes").stdout
    [done] = facts("trim", primary, "--before", 25, "--no-acks", "--yes")
    assert done["stays_from"] == 25 and not done["replicas_asked"]


def test_trim_takes_another_file_of_acknowledgements_and_the_cap_passes_over(primary: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    companion = acknowledge(primary, slow=12).rename(tmp_path / "elsewhere" / "acks.db")
    before = companion.read_bytes()
    assert facts("trim", primary, "--before", 25, "--acks", companion, "--yes")[0]["stays_from"] == 12
    [done] = facts("trim", primary, "--max-bytes", 0, "--acks", companion, "--yes")
    assert (done["stays_from"], done["goes"]["why"], done["replicas"][0]["snapshot"]) == (31, "cap", True)
    assert companion.read_bytes() == before
    with closing(connect(primary, readonly=True)) as db:
        assert rows(db, "SELECT seq FROM changelog_meta WHERE name='anchor'") == [(12,)]


def test_where_no_replica_is_known_trim_says_how_to_go_on(primary: Path) -> None:
    acknowledge(primary)
    assert "--no-acks" in run("trim", primary, "--before", 25, "--yes").stdout
    assert oldest(primary) == 1


def test_trim_of_a_replica_and_of_a_gapped_log(gapped: Path, primary: Path) -> None:
    acknowledge(primary, slow=2)  # of the primary beside it, whose affair that is
    [done] = facts("trim", gapped, "--before", 15, "--yes")
    assert (done["goes"]["rows"], done["stays_from"]) == (9, 20)
    assert facts("status", gapped)[0]["gaps"] == []
    shell(primary, "UPDATE pens SET color='new'")
    follow(primary, gapped)
    assert contents(primary) == contents(gapped)


def test_trim_of_what_is_no_primary_fails_in_one_line(tmp_path: Path) -> None:
    shell(tmp_path / "plain.db", "CREATE TABLE t(a)")
    assert "python -m changelog install" in run("trim", tmp_path / "plain.db", "--before", 2, "--yes", code=FAILED).stderr


def test_a_shell_writes_and_a_replica_is_pulled_while_a_large_log_is_trimmed(primary: Path, tmp_path: Path) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i+1 FROM n WHERE i<30000)"
    shell(primary, f"{numbers} INSERT INTO pens SELECT i, 'P'||i, hex(randomblob(99)) FROM n")
    replica = make_replica(primary, tmp_path / "r.db")
    command = [sys.executable, "-m", "changelog", "trim", str(primary), "--max-bytes", "1000000", "--yes"]
    written = 0
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as trimming:
        wait_until(lambda: oldest(primary) > 1)
        while trimming.poll() is None:
            shell(primary, "UPDATE pens SET color='typed' WHERE id=1", "-cmd", ".timeout 5000")
            written += 1
            follow(primary, replica)
        assert trimming.returncode == 0 and written > 3
    with closing(connect(primary, readonly=True)) as db:
        assert log_bytes(db) < 1_300_000
    follow(primary, replica)
    assert contents(primary) == contents(replica)
