"""The page of one animal: its history is the changelog's, cell by cell, after its end too."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from office_farm import make_replica, move_position
from office_pages import PAGE, Office, make_office, walk

from changelog.connection import connect
from server.history import cells_of, history_page
from server.plot import daily_gain, plot_of, weighing

pytestmark = pytest.mark.usefixtures("patience")

LIFE = (  # of animal 7
    "INSERT INTO weight_records(id, cattle_id, weight, recorded_at, recorded_by) VALUES(1, 7, 260, '2026-02-01T08:00:00', 'maria')",
    "UPDATE cattle SET weight=260 WHERE id=7",
    "UPDATE cattle SET pen_id=2 WHERE id=7",
    "INSERT INTO weight_records(id, cattle_id, weight, recorded_at) VALUES(2, 7, 281, '2026-02-11T08:00:00')",
    "INSERT INTO weight_records(id, cattle_id, weight, recorded_at) VALUES(3, 5, 999, '2026-02-01T08:00:00')",  # of another one
    "UPDATE weight_records SET weight=280 WHERE id=2",
    "INSERT INTO pair_history(id, cattle_id, lf_tag, uhf_tag, updated_by) VALUES(1, 7, 'LF000006', 'UHF000006', 'lora')",
    "UPDATE cattle SET lf_tag='LFNEW', updated_at='2026-03-01T00:00:00' WHERE id=7",
    "UPDATE cattle SET pen_id=NULL, batch_id=3 WHERE id=7",
    "UPDATE weight_records SET cattle_id=5 WHERE id=1",
    "DELETE FROM weight_records WHERE id=2",
    "UPDATE cattle SET notes='<b>' WHERE id=7",
)
OWN = "tbl='cattle' AND key=7"
OWNED = "seq IN (SELECT seq FROM changelog_audit WHERE tbl IN ('weight_records','pair_history') AND col='cattle_id' AND 7 IN (old, new))"
# A row that belongs to the animal is in the history also where an update left its owner as it was.
KEPT = "tbl='weight_records' AND key=2"


def lived(tmp_path: Path) -> Office:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path)
    office.write(*LIFE)
    return office


def told(office: Office) -> dict[int, list[tuple[str, Any, Any]]]:
    """The cells of each change in the history of animal 7, as its pages read them."""
    db = connect(office.path, readonly=True)
    with db:
        found = {row.seq: row.cells for row in history_page(db, 7, {}).rows}
    db.close()
    return found


def test_the_history_is_what_the_changelog_says_cell_by_cell(tmp_path: Path) -> None:
    office = lived(tmp_path)
    db = connect(office.path, readonly=True)
    expected: dict[int, list[tuple[str, Any, Any]]] = {}
    for seq, col, old, new in db.execute(f"SELECT seq, col, old, new FROM changelog_audit WHERE {OWN} OR {OWNED} OR {KEPT}"):
        expected.setdefault(seq, [])
        if col not in ("id", "created_at", "updated_at") and (old, new) != (None, None):
            expected[seq].append((col, old, new))
    db.close()
    found = told(office)
    assert found == expected
    assert list(found) == sorted(found, reverse=True)
    assert len(found) == 12


def test_the_page_shows_each_change_with_who_and_what(tmp_path: Path) -> None:
    office = lived(tmp_path)
    text = html.unescape(re.sub(r"<[^>]+>", "", office.client().get("/office/cattle/7").text))
    for shown in ("weight 250.0 → 260.0", "pen_id nothing → 2", "lf_tag LF000006 → LFNEW", "batch_id 2 → 3", "unknown writer"):
        assert shown in text, shown
    for shown in ("Animal created", "Weight changed", "Weight removed", "Former tags created"):
        assert shown in text, shown


def test_a_long_history_is_paged(tmp_path: Path) -> None:
    office = lived(tmp_path)
    office.write(*(f"UPDATE cattle SET weight={300 + n} WHERE id=7" for n in range(100)))
    texts = walk(office.client(), "/office/cattle/7")
    seqs = [int(seq) for text in texts for seq in re.findall(r'id="change-(\d+)"', text)]
    assert len(texts) == 4
    assert len(seqs) == 112
    assert seqs == sorted(set(seqs), reverse=True)


def test_the_history_costs_the_same_among_many_changes_of_others(tmp_path: Path) -> None:
    office = lived(tmp_path)
    db = connect(office.path)
    with db:
        db.execute(
            """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000)
               INSERT INTO weight_records(cattle_id, weight) SELECT 1, i FROM n"""
        )
    steps = 0

    def counted() -> bool:
        nonlocal steps
        steps += 1
        return False

    db.set_progress_handler(counted, 10)
    assert len(history_page(db, 7, {}).rows) == 12
    db.set_progress_handler(None)
    db.close()
    assert steps < 500, f"{steps * 10} steps of SQLite's machine: not by index"


def test_an_animal_that_is_gone_keeps_its_address(tmp_path: Path) -> None:
    office = lived(tmp_path)
    office.write("DELETE FROM cattle WHERE id=7")
    answer = office.client().get("/office/cattle/7")
    text = html.unescape(answer.text)
    assert answer.status_code == 200
    for shown in ("Animal BATCH00002-LF000006", "This animal was removed", "by unknown writer", "Animal removed", "LFNEW"):
        assert shown in text, shown
    assert len(re.findall(r'id="change-\d+"', text)) == 13


@pytest.mark.parametrize("number", ["9999", str(2**63 - 1), str(2**64), "-1", "x"])
def test_an_animal_that_never_was_is_a_404_in_words(office: Office, number: str) -> None:
    answer = office.client().get(f"/office/cattle/{number}", headers=PAGE)
    assert answer.status_code == 404
    if number == "9999":
        assert "no such animal" in answer.text


def test_pens_and_batches_stand_with_their_times(tmp_path: Path) -> None:
    office = lived(tmp_path)
    office.write("DELETE FROM pens WHERE id=2")
    text = office.client().get("/office/cattle/7").text
    part = text[text.index('id="stays"') : text.index('id="payloads"')]
    stays = re.findall(r'row">(\w+) (?:<a [^>]*href="([^"]+)">)?([^<]+)<', part)
    assert stays == [
        ("Batch", "/office/batches/3", "BATCH00003"),
        ("Pen", "", "P2"),  # it is gone, and has no page
        ("Batch", "/office/batches/2", "BATCH00002"),
    ]
    assert part.count("today") == 1


def test_payloads_of_former_tags_are_found(tmp_path: Path) -> None:
    text = lived(tmp_path).client().get("/office/cattle/7").text
    assert "hxb:BATCH00002:LF000006:UHF000006" in text


def test_an_animal_older_than_the_log_says_so(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db")
    with db:
        db.execute("DELETE FROM changelog WHERE tbl='cattle' AND op='I'")
    move_position(db)
    db.close()
    text = make_office(tmp_path).client().get("/office/cattle/12").text
    assert "older than the log" in text
    assert "before the changelog" in text


def test_weights_are_a_drawing_and_the_same_numbers_a_table(tmp_path: Path) -> None:
    office = lived(tmp_path)
    office.write(
        "INSERT INTO weight_records(cattle_id, weight, recorded_at) VALUES(7, 300, '2026-02-21T08:00:00'), (7, 290, '2026-03-01T08:00:00')",
        "INSERT INTO weight_records(cattle_id, weight, recorded_at) VALUES(7, 'heavy', '2026-02-22T08:00:00'), (7, 310, 'some day')",
        "INSERT INTO weight_records(cattle_id, weight, recorded_at) VALUES(7, 9e999, '2026-02-23T08:00:00')",
    )
    text = office.client().get("/office/cattle/7").text
    assert 'role="img" aria-labelledby="plot-title plot-desc"' in text
    assert len(re.findall("<circle", text)) == 2
    assert "style=" not in text
    for shown in ("300\u00a0kg", "290\u00a0kg", "-1.25\u00a0kg", "heavy", "some day"):
        assert shown in text, shown


@pytest.mark.parametrize(
    "weights",
    [
        [(1, 250.0), (2, 250.0)],
        [(1, 0.0), (1, 0.0)],
        [(1, -5.0), (9, 1e300)],
        [(1, 0.1), (400, 0.2)],
        [(1, 1e-300), (2, 0.0)],
        [(1, -1e300), (2, 1e300)],
    ],
)
def test_every_point_of_a_drawing_is_inside_it(weights: list[tuple[int, float]]) -> None:
    found = [weighing(datetime.fromordinal(738000 + day).isoformat(), weight) for day, weight in weights]
    plot = plot_of([each for each in found if each])
    assert plot is not None
    for point in plot.points:
        assert plot.left <= point.x <= plot.right
        assert 0 <= point.y <= plot.bottom
    assert 2 <= len(plot.across) <= 7


def test_a_gain_needs_half_a_day() -> None:
    morning, noon, next_day = (datetime(2026, 1, day, hour, tzinfo=UTC) for day, hour in ((1, 8), (1, 12), (2, 8)))
    assert daily_gain((morning, 250), (noon, 260)) is None
    assert daily_gain((morning, 250), (next_day, 251.5)) == 1.5


def test_odd_values_do_not_break_the_page(tmp_path: Path) -> None:
    office = lived(tmp_path)
    office.write(
        "UPDATE cattle SET cattle_id=CAST(x'ff41' AS TEXT), weight=x'00', pen_id='many', status='', lf_tag=x'ff' WHERE id=7",
        "UPDATE cattle SET induction_date='' WHERE id=7",
        "UPDATE pair_history SET paired_at=x'00', unpaired_at='never', lf_tag=NULL",
    )
    answer = office.client().get("/office/cattle/7")
    assert answer.status_code == 200
    assert "\ufffdA" in answer.text and "&lt;b&gt;" in answer.text


def test_no_password_is_in_any_cell(office: Office) -> None:
    db = connect(office.path)
    with db:
        db.execute("UPDATE users SET password_hash='scrypt:secret' WHERE id=2")
        seqs = [seq for (seq,) in db.execute("SELECT seq FROM changelog WHERE tbl='users'")]
    assert seqs
    assert all(column != "password_hash" for cells in cells_of(db, seqs).values() for column, _, _ in cells)
    db.close()
