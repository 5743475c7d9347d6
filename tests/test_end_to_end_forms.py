"""The forms of the office, from the typed text to the Pi and back by replication: two processes, TLS between them."""

from __future__ import annotations

import threading

import pytest
from farm_processes import PASSWORD, USER, Farm
from office_forms import Desk, Filled, flashed, wrong

OTHER_PASSWORD = "  another long password "


@pytest.fixture(scope="module")
def busy_farm(running_farm: Farm) -> Farm:
    running_farm.pi.sql("INSERT INTO pens(id, pen_number, capacity, description) VALUES(1, 'P1', 40, 'by the gate'), (2, 'P2', 1, NULL)")
    running_farm.fill(20)
    running_farm.assert_identical()
    return running_farm


@pytest.fixture
def desk(busy_farm: Farm) -> Desk:
    return Desk(busy_farm)


def test_a_new_pen_is_on_the_page_to_which_the_form_leads(desk: Desk) -> None:
    answer = desk.form("/office/pens/new").send(pen_number="North 7", capacity="12", description="two\nlines")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/office/pens")
    page = desk.get("/office/pens").text
    assert "North 7" in page
    assert "Pen North 7 was made." in page
    assert desk.farm.pi.sql("SELECT capacity, description FROM pens WHERE pen_number='North 7'") == "12|two\nlines"
    assert desk.farm.pi.sql("SELECT actor FROM changelog WHERE tbl='pens' ORDER BY seq DESC LIMIT 1") == f"office:{USER}"


@pytest.mark.parametrize(
    ("path", "typed", "table", "expected"),
    [
        ("/office/pens/1/edit", {"capacity": "50", "description": ""}, "SELECT capacity, description FROM pens WHERE id=1", "50|"),
        ("/office/cattle/2/edit", {"sex": "Steer", "status": "sold"}, "SELECT sex, status FROM cattle WHERE id=2", "Steer|sold"),
        ("/office/cattle/2/notes", {"notes": " a\n\nb "}, "SELECT notes FROM cattle WHERE id=2", "a\n\nb"),
        ("/office/batches/1/notes", {"notes": "<b>&é"}, "SELECT notes FROM batches WHERE id=1", "<b>&é"),
        (
            "/office/cattle/8/notes",
            {"notes": "12\u00a0kg \U0001f469\u200d\U0001f33e"},
            "SELECT notes FROM cattle WHERE id=8",
            "12\u00a0kg \U0001f469\u200d\U0001f33e",
        ),
        ("/office/cattle/3/move", {"pen_id": "1"}, "SELECT pen_id FROM cattle WHERE id=3", "1"),
        ("/office/cattle/3/move", {"pen_id": ""}, "SELECT pen_id FROM cattle WHERE id=3", ""),
        ("/office/cattle/4/tags", {"uhf_tag": "NEW4"}, "SELECT lf_tag, uhf_tag FROM cattle WHERE id=4", "BATCH001LF4|NEW4"),
        ("/office/cattle/5/weight", {"weight": "412,5"}, "SELECT weight FROM cattle WHERE id=5", "412.5"),
        (
            "/office/cattle/6/weight",
            {"weight": "300", "recorded_at": "2024-01-15 10:30"},
            "SELECT recorded_at, recorded_by FROM weight_records WHERE cattle_id=6",
            f"2024-01-15T10:30:00|{USER}",
        ),
    ],
)
def test_what_is_typed_is_on_the_pi_and_on_the_replica_when_the_page_answers(desk: Desk, path, typed, table, expected) -> None:
    answer = desk.form(path).send(**typed)
    assert answer.status_code == 303, answer.text
    assert desk.farm.server.sql(table) == expected, "the page waited for it"
    assert desk.farm.pi.sql(table) == expected
    assert "has not come back" not in flashed(desk)


def test_a_form_shows_what_is_there_and_unchanged_it_writes_nothing(desk: Desk) -> None:
    desk.farm.pi.sql("UPDATE batches SET notes='  as'||char(13,10)||'typed' WHERE id=1")
    desk.farm.assert_identical()
    form = desk.form("/office/batches/1/notes")
    assert form.values["notes"] == "as\ntyped"
    before = desk.farm.pi.sql("SELECT max(seq) FROM changelog")
    assert form.send().status_code == 303
    assert "Nothing was changed." in flashed(desk)
    assert desk.farm.pi.sql("SELECT max(seq) FROM changelog") == before


@pytest.mark.parametrize(
    ("path", "typed", "field", "said"),
    [
        ("/office/pens/new", {"pen_number": "", "capacity": "3"}, "pen_number", "is needed"),
        ("/office/pens/new", {"pen_number": "Q", "capacity": "three"}, "capacity", "whole number"),
        ("/office/pens/new", {"pen_number": "Q", "capacity": "999999"}, "capacity", "from 0 to 100000"),
        ("/office/pens/new", {"pen_number": "P1", "capacity": "3"}, "pen_number", "There is a pen P1 already"),
        ("/office/cattle/7/weight", {"weight": "12.5.1"}, "weight", "a number"),
        ("/office/cattle/7/weight", {"weight": "9999"}, "weight", "up to 5000"),
        ("/office/cattle/7/weight", {"weight": "300", "recorded_at": "2024-02-30 10:00"}, "recorded_at", "a day and a time"),
        ("/office/cattle/7/tags", {"lf_tag": "BATCH001LF8"}, "lf_tag", "is on animal BATCH001-8"),
        ("/office/cattle/7/tags", {"lf_tag": "a:b"}, "lf_tag", "without a colon"),
        ("/office/cattle/7/move", {"pen_id": "4711"}, "pen_id", "Choose again"),
        ("/office/cattle/7/edit", {"status": ""}, "status", "is needed"),
        ("/office/cattle/7/edit", {"sex": "x" * 21}, "sex", "may have 20 characters"),
        ("/office/cattle/7/notes", {"notes": "a\x07b"}, "notes", "cannot be seen"),
        ("/office/pens/new", {"pen_number": "Q\u00a07", "capacity": "3"}, "pen_number", "cannot be seen"),
    ],
)
def test_what_is_wrong_is_said_at_its_field_and_all_that_was_typed_is_still_there(desk: Desk, path, typed, field, said) -> None:
    before = desk.farm.pi.sql("SELECT max(seq) FROM changelog")
    form = desk.form(path)
    answer = form.send(**typed)
    assert answer.status_code in (400, 409)
    assert said in wrong(answer.text, field)
    back = form.again(answer)
    kept = {name: text for name, text in typed.items() if name != "pen_id" and "\x07" not in text}
    assert {name: back.values[name] for name in kept} == kept
    assert desk.farm.pi.sql("SELECT max(seq) FROM changelog") == before


def test_a_full_pen_refuses_and_another_one_can_be_chosen_at_once(desk: Desk) -> None:
    assert desk.form("/office/cattle/9/move").send(pen_id="2").status_code == 303
    form = desk.form("/office/cattle/10/move")
    assert "P2: 1 of 1" in form.text
    answer = form.send(pen_id="2")
    assert answer.status_code == 409
    assert "Pen P2 is full: its capacity is 1, and 1 active animals stand in it." in wrong(answer.text, "pen_id")
    assert form.again(answer).send(pen_id="1").status_code == 303


def test_two_who_edit_at_once_are_told_of_each_other(desk: Desk) -> None:
    ann, bob = desk.form("/office/cattle/11/notes"), Desk(desk.farm).form("/office/cattle/11/notes")
    assert ann.send(notes="ann's").status_code == 303
    answer = bob.send(notes="bob's")
    assert answer.status_code == 409
    assert "was changed meanwhile" in wrong(answer.text)
    assert "“ann's” by now" in wrong(answer.text, "notes")
    again = bob.again(answer)
    assert again.values["notes"] == "bob's"
    assert desk.farm.pi.sql("SELECT notes FROM cattle WHERE id=11") == "ann's"
    assert again.send().status_code == 303, "knowing it, he may"
    assert desk.farm.pi.sql("SELECT notes FROM cattle WHERE id=11") == "bob's"


def test_a_double_submit_is_written_once(desk: Desk) -> None:
    form = desk.form("/office/cattle/12/weight")
    threads = [threading.Thread(target=form.send, kwargs={"weight": "333"}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert form.send(weight="333").status_code == 303, "and once more with the back button"
    assert desk.farm.pi.sql("SELECT count(*) FROM weight_records WHERE cattle_id=12") == "1"


def test_a_pen_is_deleted_after_a_question_and_only_when_it_is_empty(desk: Desk) -> None:
    desk.farm.pi.sql("INSERT INTO pens(id, pen_number, capacity) VALUES(77, 'Old', 3); UPDATE cattle SET pen_id=77 WHERE id=13")
    desk.farm.assert_identical()
    form = desk.form("/office/pens/77/delete")
    assert "1 animals are in it" in form.text
    answer = form.send()
    assert (answer.status_code, "1 animals refer to it" in wrong(answer.text)) == (409, True)
    assert desk.form("/office/cattle/13/move").send(pen_id="").status_code == 303
    assert form.send().status_code == 303
    assert desk.farm.pi.sql("SELECT count(*) FROM pens WHERE id=77") == "0"
    assert desk.get("/office/pens/77/edit").status_code == 404
    assert desk.get("/office/cattle/4711/weight").status_code == 404


def test_odd_values_of_a_shell_stay_what_they_are_when_something_else_is_edited(desk: Desk) -> None:
    desk.farm.pi.sql("UPDATE cattle SET sex=x'00ff', health_status=CAST(x'ff41' AS TEXT) WHERE id=14")
    desk.farm.assert_identical()
    assert desk.form("/office/cattle/14/edit").send(status="sold").status_code == 303
    assert desk.farm.pi.sql("SELECT hex(sex), hex(health_status), status FROM cattle WHERE id=14") == "00FF|FF41|sold"


def test_nobody_writes_without_a_session_or_the_token_of_the_form(desk: Desk) -> None:
    form = desk.form("/office/pens/new")
    form.values["csrf_token"] = "x"
    assert form.send(pen_number="CSRF", capacity="1").status_code == 403
    form = desk.form("/office/pens/new")
    desk.browser.cookies.clear()
    assert form.send(pen_number="CSRF", capacity="1").status_code == 401
    assert desk.farm.pi.sql("SELECT count(*) FROM pens WHERE pen_number='CSRF'") == "0"


def test_what_was_typed_outlives_the_session(desk: Desk) -> None:
    form = desk.form("/office/cattle/15/notes")
    desk.browser.cookies.clear()
    answer = form.send(notes="a long\nstory <b>")
    assert answer.status_code == 401
    assert "what you typed is kept" in answer.text
    assert desk.farm.pi.sql("SELECT count(*) FROM changelog_audit WHERE tbl='cattle' AND key=15 AND col='notes' AND op='U'") == "0"
    login = Filled(desk, "/office/login?next=/office/cattle/15/notes", answer.text)
    wrong_password = login.send(username=USER, password="wrong")
    assert wrong_password.status_code == 401
    login = Filled(desk, login.path, wrong_password.text)
    signed_in = login.send(username=USER, password=PASSWORD)
    assert (signed_in.status_code, 'action="/office/cattle/15/notes"' in signed_in.text) == (200, True)
    resumed = Filled(desk, "/office/cattle/15/notes", signed_in.text).send()
    assert resumed.status_code == 200
    again = form.again(resumed)
    assert again.values["notes"] == "a long\nstory <b>"
    assert desk.farm.pi.sql("SELECT notes FROM cattle WHERE id=15") == "", "nothing before it is sent"
    assert again.send().status_code == 303
    assert desk.farm.pi.sql("SELECT notes FROM cattle WHERE id=15") == "a long\nstory <b>"


def test_a_password_is_not_kept_for_another_login(desk: Desk) -> None:
    form = desk.form("/office/account/password")
    desk.browser.cookies.clear()
    answer = form.send(old=PASSWORD, new=OTHER_PASSWORD, again=OTHER_PASSWORD)
    assert answer.status_code == 401
    assert PASSWORD not in answer.text and OTHER_PASSWORD.strip() not in answer.text


def test_the_longest_notes_of_any_letters_fit(desk: Desk) -> None:
    for letter in ("\N{COW}", "\N{OX}"):
        assert desk.form("/office/cattle/16/notes").send(notes=letter * 10_000).status_code == 303
    assert desk.farm.pi.sql("SELECT length(notes), unicode(notes) FROM cattle WHERE id=16") == "10000|128002"
    assert "may have 10000 characters" in wrong(desk.form("/office/cattle/16/notes").send(notes="x" * 10_001).text, "notes")
