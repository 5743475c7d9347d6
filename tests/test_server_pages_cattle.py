"""The list of all animals: searched, filtered, and sorted as a plain ORDER BY would, over values of every type that SQLite takes."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from office_farm import add_batches, make_replica, move_position
from office_pages import PAGE, Office, animals, link_in, make_office, walk

from changelog.connection import connect
from server.pages import animals as animals_module

pytestmark = pytest.mark.usefixtures("patience")

ODD = (  # as a shell could write them: animals without a weight, a pen or a batch that exists, and values of other types
    "UPDATE cattle SET weight=CASE id%7 WHEN 0 THEN NULL WHEN 1 THEN 'heavy' WHEN 2 THEN x'00ff' WHEN 3 THEN 9e999 ELSE id%11-5 END",
    "UPDATE cattle SET weight=CAST(x'ff41' AS TEXT) WHERE id IN (30, 31)",
    "UPDATE cattle SET weight=1e300 WHERE id=33",
    "UPDATE cattle SET pen_id=CASE id%5 WHEN 0 THEN NULL WHEN 1 THEN 77 WHEN 2 THEN 2 ELSE 1 END",
    "UPDATE cattle SET batch_id=99 WHERE id%13=0",
    "UPDATE cattle SET induction_date=CASE id%4 WHEN 0 THEN '' WHEN 1 THEN x'01' WHEN 2 THEN '2026-02-03' ELSE '2026~02' END",
    "UPDATE cattle SET cattle_id='twin ~ ' || id WHERE id%9=0",
    "UPDATE cattle SET cattle_id=replace(hex(zeroblob(400)), '0', 'long') || id WHERE id IN (50, 51)",
    "UPDATE cattle SET status='exported' WHERE id%6=0",
    "UPDATE pens SET pen_number='P1~' WHERE id=1",
    "UPDATE batches SET batch_number=x'beef' WHERE id=4",
)
KEYS = {
    "number": "cattle_id",
    "batch": "(SELECT batch_number FROM batches b WHERE b.id=batch_id)",
    "pen": "(SELECT pen_number FROM pens p WHERE p.id=pen_id)",
    "weight": "weight",
    "induction": "induction_date",
    "newest": "id",
}
SORTS = [f"{sign}{name}" for name in KEYS for sign in ("", "-")]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """120 animals of all kinds."""
    folder = tmp_path_factory.mktemp("odd")
    db = make_replica(folder / "replica.db", batches=8, animals=15)
    db.pragma("foreign_keys", False)
    with db:
        for sql in ODD:
            db.execute(sql)
    move_position(db)
    db.close()
    return make_office(folder)


@pytest.fixture(params=["walks", "few"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to read a list that no index has whole: on a walk, and as a few that are put in order."""
    monkeypatch.setattr(animals_module, "FEW", 0 if request.param == "walks" else 1_000)
    return str(request.param)


def expected(office: Office, sort: str, where: str = "1") -> list[int]:
    key, way = KEYS[sort.lstrip("-")], "DESC" if sort.startswith("-") else "ASC"
    db = connect(office.path, readonly=True)
    owner = {"batch": "batch_id", "pen": "pen_id"}.get(sort.lstrip("-"), "NULL")  # without one, then with one that does not exist
    order = f"{key} IS NULL, {key} {way}, {key} IS NULL AND {owner} IS NOT NULL, id {way}"
    found = db.execute(f"SELECT id FROM cattle WHERE {where} ORDER BY {order}").fetchall()
    db.close()
    return [number for (number,) in found]


def listed(client: FlaskClient, path: str) -> list[int]:
    return [number for text in walk(client, path) for number in animals(text)]


@pytest.mark.parametrize("sort", SORTS)
def test_each_order_is_that_of_a_plain_order_by_page_by_page(odd: Office, sort: str) -> None:
    assert listed(odd.client(), f"/office/cattle?sort={sort}") == expected(odd, sort)


@pytest.mark.parametrize("sort", SORTS)
def test_going_back_shows_the_same_pages_the_other_way_round(odd: Office, sort: str) -> None:
    client = odd.client()
    forward = [animals(text) for text in walk(client, f"/office/cattle?sort={sort}")]
    last = walk(client, f"/office/cattle?sort={sort}")[-1]
    back = [animals(last)]
    while (link := link_in(last, "prev")) is not None:
        last = client.get(f"/office/cattle{link}").text
        back.append(animals(last))
    assert len(forward) == 3
    assert back[::-1] == forward


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize(
    ("question", "where"),
    [
        ("status=exported", "status='exported'"),
        ("pen=P1~", "pen_id=1"),
        ("batch=BATCH00002", "batch_id=2"),
        ("pen=P2&status=active", "pen_id=2 AND status='active'"),
        ("q=LF00", "lf_tag LIKE 'LF00%'"),
        ("q=BATCH00003", "batch_id=3 OR cattle_id LIKE 'BATCH00003%'"),
        ("q=UHF00001", "uhf_tag LIKE 'UHF00001%'"),
        ("q=0011", "uhf_tag LIKE '%0011%' OR lf_tag LIKE '%0011%' OR cattle_id LIKE '%0011%'"),
    ],
)
def test_a_filter_leaves_the_order_as_it_is(odd: Office, either_way: str, question: str, where: str, sort: str) -> None:
    assert listed(odd.client(), f"/office/cattle?{question}&sort={sort}") == expected(odd, sort, where) != []


@pytest.mark.parametrize("sort", ["-newest", "number", "-weight", "weight", "batch", "-pen", "induction"])
def test_what_is_added_while_somebody_pages_neither_repeats_nor_hides_a_row(tmp_path: Path, sort: str) -> None:
    db = make_replica(tmp_path / "replica.db", batches=11, animals=15)
    with db:
        db.execute("UPDATE cattle SET weight=NULLIF(id%17, 0), pen_id=NULLIF(id%3, 0)")
    move_position(db)
    office = make_office(tmp_path)
    client, before = office.client(), set(expected(office, "newest"))
    seen, link = [], f"?sort={sort}"
    for _ in range(20):
        text = client.get(f"/office/cattle{link}").text
        seen += animals(text)
        with db:
            add_batches(db, 2, 1)
            db.execute("UPDATE cattle SET weight=abs(random()%20), pen_id=2 WHERE id>(SELECT max(id)-2 FROM cattle)")
        move_position(db)
        link = link_in(text, "next") or ""
        if not link:
            break
    assert len(seen) > 150
    assert [number for number in seen if number in before] == [n for n in expected(office, sort) if n in before]
    assert len(seen) == len(set(seen))
    db.close()


def test_the_search_says_whether_it_looked_inside(odd: Office) -> None:
    client = odd.client()
    assert "begins with “LF000005”" in html.unescape(client.get("/office/cattle?q=LF000005").text)
    assert "Nothing begins with “000005”" in html.unescape(client.get("/office/cattle?q=000005").text)
    nothing = client.get("/office/cattle?q=no+such+tag")
    assert "No animal is like that" in nothing.text
    for text in ("%", "_", "'; DROP TABLE cattle", "\\"):
        assert animals(client.get("/office/cattle", query_string={"q": text}).text) == [], text


def test_the_whole_state_stands_in_the_address(odd: Office) -> None:
    text = odd.client().get("/office/cattle?q=LF&status=active&sort=-weight").text
    onward = link_in(text, "next")
    assert onward is not None
    for part in ("q=LF", "status=active", "sort=-weight", "onward="):
        assert part in onward
    heads = re.findall(r'aria-sort="(\w+)"><a id="sort-(\w+)" href="([^"]+)"', text)
    assert [(way, name) for way, name, _ in heads] == [("descending", "weight")]
    assert html.unescape(heads[0][2]) == "?q=LF&status=active&sort=weight"
    assert 'value="active" selected' in text and 'value="-weight" selected' in text


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("sort=colour", "can be sorted by"),
        ("onward=x", "not a place in this list"),
        ("onward=9~5", "not a place"),
        ("sort=weight&onward=0t", "not a place"),
        ("sort=weight&onward=0~5", "not a place"),
        ("sort=weight&onward=0i99999999999999999999~5", "not a place"),
        ("sort=weight&onward=0fheavy~5", "not a place"),
        ("q=" + "x" * 101, "100 characters"),
    ],
)
def test_a_wrong_address_is_a_400_in_words(odd: Office, question: str, said: str) -> None:
    answer = odd.client().get(f"/office/cattle?{question}", headers=PAGE)
    assert (answer.status_code, said in answer.text) == (400, True)


def test_a_pen_or_batch_that_is_not_there_is_said(odd: Office) -> None:
    client = odd.client()
    assert "There is no pen “P99”" in html.unescape(client.get("/office/cattle?pen=P99").text)
    assert "There is no batch “B”" in html.unescape(client.get("/office/cattle?batch=B").text)


def test_a_place_that_only_its_row_knows_is_gone_with_the_row_and_that_is_said(odd: Office) -> None:
    answer = odd.client().get("/office/cattle?sort=weight&onward=0r~99999", headers=PAGE)
    assert answer.status_code == 400
    assert "was removed meanwhile" in answer.text


@pytest.mark.parametrize("page", ["cattle", "batches/1", "pens/1"])
def test_animals_lead_to_their_page_from_every_list(odd: Office, page: str) -> None:
    client = odd.client()
    text = client.get(f"/office/{page}").text
    assert f'href="/office/cattle/{animals(text)[0]}"' in text
    assert client.get(f"/office/cattle/{animals(text)[0]}").status_code == 200


def test_a_pen_shows_the_animals_in_it(odd: Office) -> None:
    client = odd.client()
    assert listed(client, "/office/pens/1") == expected(odd, "-newest", "pen_id=1")
    assert listed(client, "/office/pens/1?status=exported&sort=weight") == expected(odd, "weight", "pen_id=1 AND status='exported'")
    assert client.get("/office/pens/12345", headers=PAGE).status_code == 404


def test_pens_are_sorted_by_number_and_by_occupancy(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db", batches=2, animals=100)
    with db:
        db.execute("DELETE FROM pens")
        for number in range(1, 121):
            capacity = {0: 0, 1: "many", 2: -4}.get(number % 40, number % 9 + 1)
            db.execute("INSERT INTO pens(id, pen_number, capacity) VALUES(?, ?, ?)", (number, f"P{number:03}", capacity))
        db.execute("UPDATE cattle SET pen_id=id%110+1, status=CASE id%10 WHEN 0 THEN 'exported' ELSE 'active' END")
    move_position(db)
    client = make_office(tmp_path).client()
    known = "typeof(capacity) IN ('integer','real') AND capacity>0"
    full = f"CASE WHEN {known} THEN 1.0*(SELECT count(*) FROM cattle c WHERE c.pen_id=p.id AND c.status='active')/capacity END"

    def pens(sort: str) -> list[int]:
        texts = walk(client, f"/office/pens?sort={sort}")
        assert len(texts) == 3
        return [int(number) for text in texts for number in re.findall(r'id="pen-(\d+)"', text)]

    def ordered(order: str) -> list[int]:
        return [number for (number,) in db.execute(f"SELECT id FROM pens p ORDER BY {order}")]

    assert pens("number") == ordered("pen_number")
    assert pens("-number") == ordered("pen_number DESC")
    assert pens("-occupancy") == ordered(f"NOT ({known}), {full} DESC, id")
    assert pens("occupancy") == ordered(f"NOT ({known}), {full}, id")
    db.close()


def plan_of(office: Office, wanted: animals_module.Wanted) -> str:
    db = connect(office.path, readonly=True)
    parts = [part for part in animals_module.listed_animals(db, wanted).parts if animals_module.MISSING[:14] not in part.sql]
    plan = []
    for part in parts:
        sql = f"EXPLAIN QUERY PLAN {part.sql} {part.order(not wanted.descending)} LIMIT 51"
        plan += [row[3] for row in db.execute(sql, tuple(part.bindings))]
    db.close()
    return "\n".join(plan)


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", animals_module.SORTS)
@pytest.mark.parametrize("status", ["", "active"])
def test_no_list_of_all_animals_is_sorted_while_somebody_waits(
    odd: Office, monkeypatch: pytest.MonkeyPatch, sort: str, status: str, descending: bool
) -> None:
    monkeypatch.setattr(animals_module, "FEW", 0)  # as if there were more
    plan = plan_of(odd, animals_module.Wanted(status=status, sort=sort, descending=descending))
    assert "TEMP B-TREE" not in plan
