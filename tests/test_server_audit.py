"""The changelog as pages: found by any mixture of filters, told cell by cell, a row as it once stood, and the same in the shell."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from office_farm import PASSWORD_HASH, make_replica
from office_pages import Office, make_office, run_shown, shown_command, text_of

from changelog.connection import connect, rows
from server.audit.search import WALKED
from server.audit.timeline import BLOCK
from server.indexes import CHANGES_BY_KIND

pytestmark = pytest.mark.usefixtures("patience")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    make_replica(tmp_path / "replica.db").close()
    made = make_office(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(office: Office) -> FlaskClient:
    return office.client()


def seqs_on(page: str) -> list[int]:
    return [int(seq) for seq in re.findall(r'<tr data-key="(\d+)">', page)]


def every_seq(client: FlaskClient, **asked: str) -> list[int]:
    """What all pages of this list show, from the newest to the oldest, by their links."""
    found: list[int] = []
    page = client.get("/office/changes", query_string=asked).text
    for _ in range(10_000):
        found += seqs_on(page)
        link = re.search(r'id="(?:pager-onward|further)"[^>]* href="\?([^"]+)"', page)
        if link is None:
            return found
        page = client.get("/office/changes?" + link[1].replace("&amp;", "&")).text
    raise AssertionError("the list does not end")


def log_of(office: Office, condition: str = "1", bindings: Any = ()) -> list[int]:
    db = connect(office.path, readonly=True)
    try:
        return [seq for (seq,) in rows(db, f"SELECT seq FROM changelog WHERE {condition} ORDER BY seq DESC", bindings)]
    finally:
        db.close()


def test_the_newest_changes_come_first_and_all_are_reached(office: Office, client: FlaskClient) -> None:
    office.write(*(f"UPDATE pens SET capacity={number} WHERE id=2" for number in range(120)))
    assert every_seq(client) == log_of(office)


def test_the_list_is_paged_back_to_where_it_began(office: Office, client: FlaskClient) -> None:
    office.write(*(f"UPDATE pens SET capacity={number} WHERE id=2" for number in range(120)))
    first = client.get("/office/changes").text
    onward = re.findall(r'id="pager-onward"[^>]* href="(\?[^"]+)"', first)[0]
    second = client.get("/office/changes" + onward).text
    back = re.findall(r'id="pager-back"[^>]* href="(\?[^"]+)"', second)[0]
    assert seqs_on(client.get("/office/changes" + back).text) == seqs_on(first)


FILTERS = {
    "table": ("pens", "tbl='pens'"),
    "key": ("2", "key=2"),
    "actor": ("scale", "actor='scale'"),
    "column": ("capacity", "tbl='pens' AND (op<>'U' OR substr(chg,3,1)='1')"),
    "kind": ("changed", "op='U'"),
}


@pytest.mark.parametrize("names", [names for count in range(1, 6) for names in itertools.combinations(FILTERS, count)], ids=" ".join)
@pytest.mark.parametrize("indexed", [True, False], ids=["by the index", "by walking"])
def test_any_mixture_of_filters_finds_what_fits(office: Office, client: FlaskClient, names: tuple[str, ...], indexed: bool) -> None:
    office.write("UPDATE pens SET capacity=9 WHERE id=2", "UPDATE cattle SET weight=7 WHERE id=2", actor="scale")
    office.write("UPDATE pens SET description='x' WHERE id=2", "DELETE FROM pens WHERE id=1", "UPDATE pens SET capacity=3", actor="scale")
    office.write("UPDATE pens SET capacity=10 WHERE id=2", "INSERT INTO pens(id, pen_number, capacity) VALUES(7, 'P7', 1)")
    if not indexed:
        office.write(f"DROP INDEX {CHANGES_BY_KIND}")
    wanted = log_of(office, " AND ".join(FILTERS[name][1] for name in names))
    assert wanted
    assert every_seq(client, **{name: FILTERS[name][0] for name in names}) == wanted


def test_an_unknown_writer_can_be_asked_for(office: Office, client: FlaskClient) -> None:
    office.write("UPDATE pens SET capacity=9 WHERE id=2", actor="scale")
    assert every_seq(client, actor="unknown writer", table="pens") == log_of(office, "tbl='pens' AND actor IS NULL")


def test_births_are_found_as_a_change_of_the_schema(office: Office, client: FlaskClient) -> None:
    assert every_seq(client, kind="schema") == [1]
    assert "began a new log" in client.get("/office/changes?kind=schema").text


def test_times_are_found_though_the_clock_was_set_back(office: Office, client: FlaskClient) -> None:
    """Blocks of the log at three hours, the clock being wrong in the middle one and for two changes in another."""
    db = connect(office.path)
    first = db.execute("SELECT max(seq)+1 FROM changelog").fetchall()[0][0]
    many = f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i+1 FROM n WHERE i<{first + 4 * BLOCK})"
    db.execute(f"{many} INSERT INTO changelog(seq, at, tbl, op, key, nonce) SELECT i, '2026-05-01T10:00:00.000Z', 'pens', 'D', i, i FROM n")
    db.execute("UPDATE changelog SET at='1970-01-01T00:00:07.000Z' WHERE seq BETWEEN ? AND ?", (first + BLOCK, first + 2 * BLOCK))
    db.execute("UPDATE changelog SET at='1970-01-01T00:00:08.000Z' WHERE seq IN (?, ?)", (first + 3 * BLOCK, first + 3 * BLOCK + 9))
    db.close()
    wanted = log_of(office, "at<'1971'")
    assert every_seq(client, **{"before": "1971-01-01T00:00"})[:60] == wanted[:60]
    assert every_seq(client, **{"from": "1970-01-01T00:00:08", "before": "1970-01-01T00:00:09"}) == [
        first + 3 * BLOCK + 9,
        first + 3 * BLOCK,
    ]
    assert every_seq(client, **{"from": "1980-01-01T00:00", "before": "1981-01-01T00:00"}) == []
    both = every_seq(client, **{"from": "1970-01-01T00:00:08", "before": "1971-01-01T00:00", "table": "pens", "kind": "removed"})
    assert both == [first + 3 * BLOCK + 9, first + 3 * BLOCK]


def test_from_is_inclusive_and_before_is_not(office: Office, client: FlaskClient) -> None:
    seq = office.write("UPDATE pens SET capacity=9 WHERE id=2")
    office.write(f"UPDATE changelog SET at='2031-01-02T03:04:05.000Z' WHERE seq={seq}")
    assert every_seq(client, **{"from": "2031-01-02T03:04:05"}) == [seq]
    assert every_seq(client, **{"from": "2031-01-02T03:04:06"}) == []
    assert seq not in every_seq(client, **{"before": "2031-01-02T03:04:05"})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"from": "yesterday"}, "“yesterday” is no time"),
        ({"before": "17"}, "“17” is no time"),
        ({"kind": "eaten"}, "A kind of change is one of created, changed, removed, schema"),
        ({"table": "x" * 300}, "too long"),
        ({"onward": "x"}, "is no number of a change"),
        ({"back": "9" * 40}, "is no number of a change"),
    ],
)
def test_what_cannot_be_asked_for_is_said_and_kept(client: FlaskClient, asked: dict[str, str], said: str) -> None:
    answer = client.get("/office/changes", query_string=asked, headers={"Accept": "text/html"})
    assert answer.status_code == 400
    assert said in text_of(answer.text)
    for typed in asked.values():
        assert typed[:40] in answer.text


def test_what_fits_nothing_says_so(client: FlaskClient) -> None:
    page = client.get("/office/changes?actor=nobody&table=none").text
    assert "No change fits." in text_of(page)
    assert 'value="nobody"' in page
    assert "none</option>" in page


def test_a_walk_ends_and_says_how_far_it_came(office: Office, client: FlaskClient) -> None:
    office.write(f"DROP INDEX {CHANGES_BY_KIND}")
    db = connect(office.path)
    first = db.execute("SELECT max(seq)+1 FROM changelog").fetchall()[0][0]
    many = f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i+1 FROM n WHERE i<{first + WALKED + 5_000})"
    db.execute(f"{many} INSERT INTO changelog(seq, tbl, op, key) SELECT i, 'pens', 'D', i FROM n")
    db.close()
    page = client.get("/office/changes?table=batches").text
    assert seqs_on(page) == []
    assert f"Look further back from change {first + 5_000:,}".replace(",", " ") in text_of(page)
    assert every_seq(client, table="batches") == log_of(office, "tbl='batches'")


def test_what_was_left_empty_in_the_form_is_not_in_the_address(client: FlaskClient) -> None:
    answer = client.get("/office/changes?table=pens&key=&column=&actor=&kind=&from=&before=&_external=1&_scheme=javascript")
    assert answer.location == "/office/changes?table=pens"
    assert client.get("/office/payloads?status=&tag=LF1&source=").location == "/office/payloads?tag=LF1"


def test_a_change_of_the_schema_is_told_object_by_object(office: Office, client: FlaskClient) -> None:
    before = ["table", "pens", "pens", "CREATE TABLE pens(id INTEGER PRIMARY KEY, pen_number)"]
    index = ["index", "old", "pens", "CREATE INDEX old ON pens(id)"]
    after = ["table", "yards", "yards", "CREATE TABLE yards(id INTEGER PRIMARY KEY, yard_number, shade)"]
    made = ["table", "gates", "gates", "CREATE TABLE gates(id)"]
    told = {"before": [before, index], "objects": [after, made], "tables": {"yards": "pens"}, "masks": [], "hash": ""}
    told["columns"] = {"yards": [["id", "id"], ["yard_number", "pen_number"], ["shade", None]]}
    seq = log_of(office)[0] + 1
    db = connect(office.path)
    summary = "table pens renamed to yards"
    db.execute(
        "INSERT INTO changelog(seq, at, op, key, n0) VALUES(?, '2026-05-01T10:00:00.000Z', 'X', ?, ?)", (seq, summary, json.dumps(told))
    )
    db.close()
    page = client.get(f"/office/changes/{seq}").text
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == ["table pens is called yards now", "table gates was created", "index old was removed"]
    assert summary in page
    assert "CREATE TABLE gates(id)" in page
    assert run_shown(page)[1][3] == summary


# One change


def test_a_change_is_told_cell_by_cell(office: Office, client: FlaskClient) -> None:
    seq = office.write("UPDATE pens SET capacity=9, description='' WHERE id=2", actor="anna")
    page = client.get(f"/office/changes/{seq}").text
    cells = re.findall(r'<tr(?: class="(moved)")?>\s*<th scope="row">(\w+).*?Before">(.*?)</td>.*?After">(.*?)</td>', page, re.DOTALL)
    told = {name: (bool(moved), text_of(old), text_of(new)) for moved, name, old, new in cells}
    assert told["capacity"] == (True, "40", "9")
    assert told["description"] == (True, "NULL", "empty text")
    assert told["pen_number"] == (False, "P2", "P2")
    assert "anna" in text_of(page)
    assert "2026" in page or "datetime=" in page


def test_values_are_shown_as_they_are(office: Office, client: FlaskClient) -> None:
    blob, long, bad = "x'00ff10'", "long " * 9_000, "CAST(x'61ff' AS TEXT)"
    seq = office.write(f"UPDATE pens SET description={blob} WHERE id=1")
    assert "x'00ff10' blob of 3 bytes" in text_of(client.get(f"/office/changes/{seq}").text)
    seq = office.write(f"UPDATE pens SET description='{long}' WHERE id=1")
    page = client.get(f"/office/changes/{seq}").text
    assert '<details class="long">' in page
    assert "45,000 characters, of which the first 20,000 signs are shown" in text_of(page)
    seq = office.write(f"UPDATE pens SET description={bad} WHERE id=1")
    assert "x'61ff' text that is not UTF-8, 2 bytes" in text_of(client.get(f"/office/changes/{seq}").text)
    assert client.get("/office/changes").status_code == 200
    seq = office.write("UPDATE pens SET description='<b>&' , capacity=9e999 WHERE id=1")
    page = client.get(f"/office/changes/{seq}").text
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "inf" in text_of(page)


def test_no_page_shows_a_password_hash_masked_or_not(office: Office, client: FlaskClient) -> None:
    made = office.write("INSERT INTO users(username, password_hash) VALUES('new', 'scrypt:secret')")
    changed = office.write("UPDATE users SET password_hash='scrypt:other' WHERE username='new'")
    office.write("UPDATE changelog_cols SET mask=0", "DELETE FROM changelog_meta WHERE name='mask'")
    for path in ("", f"/{made}", f"/{changed}", f"/{changed}/row", f"/{made}/row?at={made}", f"/2/row?at={changed}"):
        page = client.get(f"/office/changes{path}").text
        assert "scrypt" not in page
        assert PASSWORD_HASH[:20] not in page
        assert not path or "***" in page


def test_a_change_leads_to_the_one_before_and_after_even_when_the_key_changed(office: Office, client: FlaskClient) -> None:
    first = office.write("INSERT INTO pens(id, pen_number, capacity) VALUES(50, 'P50', 1)")
    other = office.write("UPDATE pens SET capacity=2 WHERE id=1")
    second = office.write("UPDATE pens SET id=60 WHERE id=50")
    third = office.write("DELETE FROM pens WHERE id=60")
    links = {seq: client.get(f"/office/changes/{seq}").text for seq in (first, second, third)}
    assert re.findall(r'id="(earlier|later)"[^>]* href="/office/changes/(\d+)"', links[first]) == [("later", str(second))]
    assert re.findall(r'id="(earlier|later)"[^>]* href="/office/changes/(\d+)"', links[second]) == [
        ("earlier", str(first)),
        ("later", str(third)),
    ]
    assert re.findall(r'id="(earlier|later)"[^>]* href="/office/changes/(\d+)"', links[third]) == [("earlier", str(second))]
    assert str(other) not in "".join(re.findall(r'href="/office/changes/(\d+)"', links[second]))
    assert "then 60" in text_of(links[second])


def test_a_change_that_is_not_there_says_why(office: Office, client: FlaskClient) -> None:
    head = log_of(office)[0]
    answer = client.get(f"/office/changes/{head + 7}", headers={"Accept": "text/html"})
    assert answer.status_code == 404
    assert f"There is no change {head + 7} yet: the newest here is {head}." in answer.text
    office.write("DELETE FROM changelog WHERE seq<5")
    answer = client.get("/office/changes/3", headers={"Accept": "text/html"})
    assert answer.status_code == 404
    assert "begins at change 5" in answer.text
    assert client.get(f"/office/changes/{'9' * 30}").status_code == 404


def test_a_birth_is_told_and_has_no_row(client: FlaskClient) -> None:
    assert "begins here" in client.get("/office/changes/1").text
    answer = client.get("/office/changes/1/row", headers={"Accept": "text/html"})
    assert answer.status_code == 400
    assert "of no single row" in answer.text


# A row as it stood


def cells_of(page: str) -> dict[str, str]:
    return {name: text_of(value) for name, value in re.findall(r'<th scope="row">(\w+).*?Value">(.*?)</td>', page, re.DOTALL)}


def test_a_row_is_read_as_it_was_at_every_change(office: Office, client: FlaskClient) -> None:
    made = office.write("INSERT INTO pens(id, pen_number, capacity) VALUES(50, 'P50', 1)")
    states: dict[int, str | None] = {made - 1: None, made: "1"}
    for capacity in (2, 3):
        states[office.write("UPDATE pens SET capacity=9 WHERE id=1")] = str(capacity - 1)
        states[office.write(f"UPDATE pens SET capacity={capacity} WHERE id=50")] = str(capacity)
    states[office.write("DELETE FROM pens WHERE id=50")] = None
    states[office.write("INSERT INTO pens(id, pen_number, capacity) VALUES(50, 'again', 8)")] = "8"
    for seq, capacity in states.items():
        page = client.get(f"/office/changes/{made}/row?at={seq}").text
        assert cells_of(page).get("capacity") == capacity, seq
        assert ("There was no such row" in page) == (capacity is None), seq


def test_where_the_log_begins_later_the_first_change_or_the_row_itself_tells(office: Office, client: FlaskClient) -> None:
    seq = office.write("UPDATE pens SET capacity=77 WHERE id=2")
    office.write("UPDATE pens SET capacity=5 WHERE id=1")
    last = office.write("UPDATE pens SET description='x' WHERE id=2")
    office.write(f"DELETE FROM changelog WHERE seq<{seq}")
    page = client.get(f"/office/changes/{seq}/row?at={seq - 1}").text
    assert cells_of(page)["capacity"] == "40"
    assert "the first one of this row after it" in page
    office.write(f"DELETE FROM changelog WHERE seq<{last}")
    page = client.get(f"/office/changes/{last}/row?at={last - 1}").text
    assert (cells_of(page)["capacity"], cells_of(page)["description"]) == ("77", "NULL")


def test_a_time_before_the_log_begins_is_told_by_nothing_that_was_lost(office: Office, client: FlaskClient) -> None:
    """Changes that are gone lie between the asked seq and the log's first: then nothing is told."""
    for capacity in (1, 2, 3):
        last = office.write(f"UPDATE pens SET capacity={capacity} WHERE id=2")
    office.write(f"DELETE FROM changelog WHERE seq<{last}")
    page = client.get(f"/office/changes/{last}/row?at={last - 3}").text
    assert f"begins at change {last}" in text_of(page)
    assert not cells_of(page)


def test_nothing_is_told_across_the_birth_of_an_epoch(office: Office, client: FlaskClient) -> None:
    """What was written unseen before the birth stands in no log: only changes of the same epoch tell."""
    seq = office.write("UPDATE pens SET capacity=77 WHERE id=2")
    between = office.write("UPDATE pens SET capacity=1 WHERE id=1")
    begin_epoch(office)
    assert cells_of(client.get(f"/office/changes/{seq}/row?at={between}").text)["capacity"] == "77"
    page = client.get(f"/office/changes/{seq}/row?at={between + 1}").text
    assert "it is what it is now" in page
    office.write(f"DELETE FROM changelog WHERE seq<{between}", "UPDATE pens SET capacity=5 WHERE id=2")
    last = log_of(office)[0]
    page = client.get(f"/office/changes/{last}/row?at={between}").text
    assert f"A new epoch began at change {between + 1}" in page
    assert not cells_of(page)


def begin_epoch(office: Office) -> int:
    """A new epoch as the next change, as the replica of a Pi has it that was installed anew; returns its seq."""
    birth = log_of(office)[0] + 1
    office.write(
        f"INSERT INTO changelog(seq, at, op, key) VALUES({birth}, '2026-11-01T00:00:00.000Z', 'B', 'e2')",
        f"INSERT INTO changelog_meta(name, value, seq) SELECT 'ancestor', value, {birth - 1} FROM changelog_meta WHERE name='epoch'",
        f"UPDATE changelog_meta SET value='e2', seq={birth} WHERE name='epoch'",
    )
    return birth


@pytest.mark.parametrize("at", ["x", "-1", "9999999", ""])
def test_a_number_that_is_none_is_said_on_the_page_that_keeps_it(office: Office, client: FlaskClient, at: str) -> None:
    seq = office.write("UPDATE pens SET capacity=77 WHERE id=2")
    answer = client.get(f"/office/changes/{seq}/row?at={at}")
    assert answer.status_code in (200, 400)
    assert 'role="alert"' in answer.text
    assert f'value="{at}"' in answer.text


# The same in the shell


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"table": "pens"},
        {"table": "pens", "key": "2", "column": "capacity"},
        {"actor": "o'brien\" $(touch x) `id`\\"},
        {"actor": "unknown writer", "kind": "changed"},
        {"actor": "two\nlines\nSQL\ntouch x"},
        {"table": "pens", "key": "x'00ff'"},
        {"from": "2020-01-01T00:00", "before": "2099-01-01T00:00", "kind": "created"},
    ],
)
def test_the_list_is_the_same_in_the_shell(office: Office, client: FlaskClient, asked: dict[str, str]) -> None:
    for actor in (None, "o'brien\" $(touch x) `id`\\", "two\nlines\nSQL\ntouch x"):
        office.write("UPDATE pens SET capacity=capacity+1, description=NULL WHERE id=2", actor=actor)
    page = client.get("/office/changes", query_string=asked).text
    wanted = [seq for seq in seqs_on(page) if seq != 1]  # a birth has no columns
    assert wanted or "key" in asked
    printed = [int(row[0]) for row in run_shown(page)[1:]]
    assert list(dict.fromkeys(printed)) == wanted


def test_one_change_and_a_row_of_then_are_the_same_in_the_shell(office: Office, client: FlaskClient) -> None:
    made = office.write("INSERT INTO pens(id, pen_number, capacity, description) VALUES(50, 'it''s', 1, 'a')")
    changed = office.write("UPDATE pens SET capacity=2, description='b' WHERE id=50")
    printed = run_shown(client.get(f"/office/changes/{changed}").text)
    assert [row[-3:] for row in printed[1:]] == [["capacity", "1", "2"], ["description", "a", "b"]]
    office.write("DELETE FROM pens WHERE id=50")
    for at in (made, changed):
        page = client.get(f"/office/changes/{made}/row?at={at}").text
        [names, values] = run_shown(page)
        assert dict(zip(names, values, strict=True)) == cells_of(page)
    office.write(f"DELETE FROM changelog WHERE seq<{changed}")  # now the first change after it tells
    page = client.get(f"/office/changes/{changed}/row?at={changed - 1}").text
    [names, values] = run_shown(page)
    assert dict(zip(names, values, strict=True)) == cells_of(page)
    assert cells_of(page)["description"] == "a"


def test_a_row_that_nothing_touched_is_the_same_in_the_shell(office: Office, client: FlaskClient) -> None:
    seq = office.write("UPDATE pens SET capacity=2 WHERE id=2")
    birth = begin_epoch(office)
    page = client.get(f"/office/changes/{seq}/row?at={birth}").text
    assert "it is what it is now" in page
    [names, values] = run_shown(page)
    assert dict(zip(names, values, strict=True)) == {name: "" if text == "NULL" else text for name, text in cells_of(page).items()}


def test_the_shown_command_never_shows_a_password_hash(office: Office, client: FlaskClient) -> None:
    changed = office.write("UPDATE users SET email='x' WHERE id=1")
    page = client.get(f"/office/changes/{changed}/row").text
    assert "password_hash" not in shown_command(page)
