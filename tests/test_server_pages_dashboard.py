"""The first page: its numbers are those of the lists they lead to, and what happened is told in words."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from office_farm import make_replica, move_position
from office_pages import Office, ToldToResync, animals, make_office, walk

from changelog.connection import connect, rows
from server.clock import utc_text

pytestmark = pytest.mark.usefixtures("patience")


def words(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def sentences(office: Office) -> list[str]:
    text = office.client().get("/office/").text
    return [re.sub(r" ([,.:])", r"\1", words(each)) for each in re.findall(r'<span class="words">(.*?)</span></li>', text)]


def signed(office: Office, actor: str | None, *statements: str) -> None:
    """As a cooperating writer writes, and replay repeats it."""
    db = connect(office.path)
    with db:
        before = rows(db, "SELECT max(seq) FROM changelog")[0][0]
        for sql in statements:
            db.execute(sql)
        db.execute("UPDATE changelog SET actor=? WHERE seq>?", (actor, before))
    move_position(db)
    db.close()


def test_the_login_leads_to_the_dashboard(office: Office) -> None:
    client = office.client()
    assert client.get("/").location == "/office/"
    answer = client.get("/office/")
    assert answer.status_code == 200
    assert 'aria-current="page">Dashboard' in answer.text


def test_each_number_is_that_of_the_list_it_leads_to(office: Office) -> None:
    office.write("UPDATE cattle SET status='exported' WHERE id IN (1, 5)", "UPDATE cattle SET status='sold' WHERE id=9")
    client = office.client()
    text = client.get("/office/").text
    links = re.findall(r'href="(/office/cattle[^"]*)"><b>(\d+)</b>', text)
    assert [number for _, number in links] == ["9", "2", "1", "12"]
    for link, number in links:
        assert len([each for page in walk(client, html.unescape(link)) for each in animals(page)]) == int(number)
    assert "<b>3</b> batches" in text
    assert "<b>12</b> processed" in text and "<b>0</b> waiting" in text and "<b>0</b> errors" in text
    assert f"UTC day {utc_text()[:10]}" in text


def test_payloads_of_another_day_are_not_counted(office: Office) -> None:
    office.write(
        "UPDATE lora_payload_buffer SET received_at='2026-01-01T23:59:59' WHERE id<=4",
        "UPDATE lora_payload_buffer SET status='error' WHERE id=5",
    )
    text = words(office.client().get("/office/").text)
    assert "7 processed" in text and "1 error" in text


def test_the_fullest_pens_stand_first_and_say_when_they_are_too_full(office: Office) -> None:
    office.write("UPDATE cattle SET pen_id=2 WHERE id>3", "INSERT INTO pens(pen_number, capacity) VALUES('P3', 0)")
    text = office.client().get("/office/").text
    assert re.findall(r'id="pen-\d+" href="[^"]+">([^<]+)<', text) == ["P1", "P2", "P3"]
    assert "150 %, 1 too many" in words(text) and "9 of 40" in words(text)


def test_what_happened_is_told_in_words_with_who_did_it(office: Office) -> None:
    signed(office, "lora", "INSERT INTO batches(id, batch_number, source_type) VALUES(17, 'B017', 'hxb')")
    signed(office, "lora", "INSERT INTO cattle(id, batch_id, cattle_id) VALUES(90, 17, 'B017-LF3')")
    signed(
        office,
        "office:maria",
        "INSERT INTO weight_records(cattle_id, weight) VALUES(90, 412)",
        "UPDATE cattle SET weight=412, updated_at='2026-11-27T00:00:00' WHERE id=90",
    )
    signed(office, "office:maria", "UPDATE cattle SET pen_id=2 WHERE id=90")
    signed(office, "lora", "UPDATE cattle SET status='exported', batch_id=1 WHERE id=90")
    signed(office, None, "INSERT INTO pens(id, pen_number, capacity) VALUES(3, 'P3', 7)", "DELETE FROM pens WHERE id=3")
    signed(office, None, "UPDATE users SET password_hash='scrypt:secret', email='a@b' WHERE id=2")
    signed(office, "lora", "UPDATE lora_payload_buffer SET status='error', error_message='two animals' WHERE id=1")
    signed(office, "lora", "UPDATE lora_payload_buffer SET updated_at='2026-11-27T00:00:00' WHERE id=2")
    assert sentences(office)[:10] == [
        "Payload hxb:BATCH00001:LF000000:UHF000000 ended in an error: two animals by the barn radio",
        "User user has another password by unknown writer",
        "Pen P3 removed by unknown writer",
        "Pen P3 created by unknown writer",
        "Animal B017-LF3 moved to batch BATCH00001, is exported now by the barn radio",
        "Animal B017-LF3 moved to pen P2 by office:maria",
        "Animal B017-LF3 weighed 412 kg by office:maria",
        "Animal B017-LF3 added to batch B017 by the barn radio",
        "Batch B017 created from the barn radio",
        "Animal BATCH00001-LF000002 moved to pen P1 by unknown writer",
    ]
    assert "scrypt" not in office.client().get("/office/").text


def test_what_somebody_wrote_is_never_markup_in_a_sentence(office: Office) -> None:
    signed(office, "<i>me</i>", "UPDATE pens SET pen_number='<b>P' WHERE id=2", "UPDATE cattle SET pen_id=2 WHERE id=5")
    signed(
        office,
        None,
        "UPDATE cattle SET notes=x'00', sex='<script>' WHERE id=5",
        "UPDATE cattle SET cattle_id=CAST(x'ff3c' AS TEXT) WHERE id=6",
    )
    text = office.client().get("/office/").text
    for raw in ("<i>me", "<b>P", "<script>&"):
        assert raw not in text
    assert "&lt;b&gt;P" in text and "&lt;i&gt;me" in text


def test_an_empty_farm_is_told_in_sentences(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db", batches=0)
    with db:
        db.execute("DELETE FROM pens")
        db.execute("DELETE FROM changelog WHERE op<>'B'")
    move_position(db)
    db.close()
    client = make_office(tmp_path).client()
    assert "no pens yet" in client.get("/office/").text
    assert "no animals yet" in client.get("/office/cattle").text
    assert "no pens yet" in client.get("/office/pens").text


def test_replication_is_told_at_a_glance(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path, ToldToResync())
    office.state.position("e" * 32, 5)
    office.state.following(9)
    office.state.verified("Both sides are the same.", utc_text(), True)
    text = words(office.client().get("/office/").text)
    for shown in ("Following the Pi", "At change", "4 changes behind", "The Pi was heard", "Compared", "no difference"):
        assert shown in text, shown
