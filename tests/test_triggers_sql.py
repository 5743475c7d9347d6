"""triggers.sql, as an operator uses it: `sqlite3 farm.db < triggers.sql`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRIGGERS = ROOT / "triggers.sql"


def shell(path: Path, sql: str | Path) -> subprocess.CompletedProcess[str]:
    """The sqlite3 shell on `path`, fed with the text or the file."""
    text = sql.read_text() if isinstance(sql, Path) else sql
    return subprocess.run(["sqlite3", path], input=text, capture_output=True, text=True, check=False)


def ask(path: Path, sql: str) -> str:
    """What the shell prints for `sql`, which must succeed."""
    done = shell(path, sql)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    """A farm with rows and without a changelog."""
    path = tmp_path / "farm.db"
    ask(path, (ROOT / "pi" / "schema.sql").read_text())
    ask(path, "INSERT INTO pens(pen_number, capacity) VALUES('P1', 40), ('P2', 20); INSERT INTO users(username) VALUES('boss')")
    return path


def test_the_committed_file_is_what_the_schema_gives(farm: Path) -> None:
    command = [sys.executable, "-m", "changelog", "triggers", farm, "--mask", "users.password_hash"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    assert made == TRIGGERS.read_bytes(), f"make it again: {' '.join(map(str, command[1:]))} > triggers.sql"


def test_a_filled_file_keeps_its_rows_and_captures_from_then_on(farm: Path) -> None:
    before = ask(farm, "SELECT * FROM pens; SELECT * FROM users")
    assert shell(farm, TRIGGERS).returncode == 0
    assert ask(farm, "SELECT * FROM pens; SELECT * FROM users") == before
    ask(farm, "UPDATE pens SET capacity=41 WHERE pen_number='P1'; DELETE FROM pens WHERE pen_number='P2'")
    told = ask(farm, "SELECT op, key, col, old, new FROM changelog_audit WHERE col='capacity'")
    assert told.splitlines() == ["U|1|capacity|40|41", "D|2|capacity|20|"]


def test_a_second_run_keeps_rows_and_log_and_goes_on_in_a_descending_epoch(farm: Path) -> None:
    assert shell(farm, TRIGGERS).returncode == 0
    ask(farm, "UPDATE pens SET capacity=41 WHERE pen_number='P1'")
    epoch, log = ask(farm, "SELECT value FROM changelog_meta WHERE name='epoch'"), ask(farm, "SELECT * FROM changelog")
    assert shell(farm, TRIGGERS).returncode == 0
    assert ask(farm, "SELECT * FROM changelog").startswith(log)
    assert ask(farm, "SELECT value FROM changelog_meta WHERE name='ancestor'") == epoch
    ask(farm, "UPDATE pens SET capacity=42 WHERE pen_number='P1'")
    assert ask(farm, "SELECT new FROM changelog_audit WHERE col='capacity' AND op='U'").splitlines() == ["41", "42"]
    assert ask(farm, "SELECT max(seq)=count(*) FROM changelog") == "1"


def test_the_python_side_takes_a_file_that_the_shell_made_a_primary(farm: Path) -> None:
    assert shell(farm, TRIGGERS).returncode == 0
    command = [sys.executable, "-m", "changelog", "status", "--json", farm]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(said)["schema_moved"] is False


def test_passwords_are_masked_in_what_people_read(farm: Path) -> None:
    assert shell(farm, TRIGGERS).returncode == 0
    ask(farm, "UPDATE users SET password_hash='scrypt:a-secret' WHERE username='boss'")
    assert ask(farm, "SELECT old, new FROM changelog_audit WHERE col='password_hash'") == "***|***"
    assert "a-secret" not in ask(farm, "SELECT * FROM changelog_of_users")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        ("ALTER TABLE pens ADD COLUMN color TEXT", "made for another schema"),
        ("CREATE TABLE visitors(name TEXT)", "made for another schema"),
        ("DROP TABLE pair_history", "made for another schema"),
        ("CREATE TABLE changelog(version TEXT); INSERT INTO changelog VALUES('1.0')", "of its own named changelog"),
        ("CREATE TABLE Changelog_Meta(name TEXT)", "of its own named changelog"),
        ("CREATE VIEW changelog_audit AS SELECT 1", "of its own named changelog"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_left_as_it_was(farm: Path, spoil: str, complaint: str) -> None:
    ask(farm, spoil)
    before = farm.read_bytes()
    done = shell(farm, TRIGGERS)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert farm.read_bytes() == before


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    done = shell(tmp_path / "new.db", TRIGGERS)
    assert done.returncode == 1
    assert "made for another schema" in done.stderr
