"""Lists as CSV: the whole result in the order shown, safe for spreadsheets, and nothing that a slow reader could hold up."""

from __future__ import annotations

import csv
import io
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from office_farm import add_batches, make_replica, move_position
from office_pages import Office, animals, make_office, numbers, walk
from test_server_pages_cattle import ODD

from changelog.connection import connect

pytestmark = pytest.mark.usefixtures("patience")


@pytest.fixture
def large(tmp_path: Path) -> Office:
    db = make_replica(tmp_path / "replica.db", batches=70, animals=3)
    db.pragma("foreign_keys", False)
    with db:
        for sql in ODD[:4]:
            db.execute(sql)
    move_position(db)
    db.close()
    return make_office(tmp_path)


def files_without_a_name(folder: Path) -> list[str]:
    """What this process has open in the folder that nobody else can find."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(str(folder)) and path.endswith("(deleted)")]


def lines(answer: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.data.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize(
    "question", ["", "sort=weight", "sort=-pen", "status=active&sort=batch", "q=LF0001&sort=-number", "pen=P2", "q=000&pen=P1"]
)
def test_the_file_of_the_cattle_is_their_list(large: Office, question: str) -> None:
    client = large.client()
    shown = [number for text in walk(client, f"/office/cattle?{question}") for number in animals(text)]
    assert shown
    assert [int(line["id"]) for line in lines(client.get(f"/office/cattle.csv?{question}", buffered=True))] == shown


@pytest.mark.parametrize("question", ["", "sort=number", "sort=-number", "q=BATCH0000", "q=LF00001", "q=00017"])
def test_the_file_of_the_batches_is_their_list(large: Office, question: str) -> None:
    client = large.client()
    shown = [number for text in walk(client, f"/office/batches?{question}") for number in numbers(text)]
    found = lines(client.get(f"/office/batches.csv?{question}", buffered=True))
    assert [line["batch_number"] for line in found] == shown != []
    assert {(line["animals"], line["active"]) for line in found} == {("3", "3")}


@pytest.mark.parametrize("question", ["", "sort=-number", "sort=occupancy", "sort=-occupancy"])
def test_the_file_of_the_pens_is_their_list(large: Office, question: str) -> None:
    client = large.client()
    shown = re.findall(r'id="pen-(\d+)"', client.get(f"/office/pens?{question}").text)
    assert [line["id"] for line in lines(client.get(f"/office/pens.csv?{question}", buffered=True))] == shown


def test_the_file_of_the_payloads_is_their_list(large: Office) -> None:
    client = large.client()
    shown = [key for text in walk(client, "/office/payloads") for key in re.findall(r'<tr data-key="(\d+)"', text)]
    assert len(shown) == 210
    assert [line["id"] for line in lines(client.get("/office/payloads.csv", buffered=True))] == shown
    assert lines(client.get("/office/payloads.csv?status=error", buffered=True)) == []
    assert client.get("/office/payloads.csv?status=odd", buffered=True).status_code == 400


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "=cmd|' /C calc'!A0", "\uff1d1+1", "\uff20SUM(A1)"])
def test_no_text_is_a_formula(office: Office, text: str) -> None:
    db = connect(office.path)
    with db:
        db.execute("UPDATE cattle SET notes=?, lf_tag=?, weight=-12.5 WHERE id=1", (text, text))
    move_position(db)
    db.close()
    [line] = [line for line in lines(office.client().get("/office/cattle.csv", buffered=True)) if line["id"] == "1"]
    assert (line["notes"], line["lf_tag"], line["weight"]) == (f"'{text}", f"'{text}", "-12.5")


def test_quotes_newlines_blobs_and_what_is_not_utf_8_arrive(office: Office) -> None:
    office.write(
        """UPDATE cattle SET notes='a "b", c' || char(10) || 'd', health_status=x'00ff', lf_tag=CAST(x'ff41' AS TEXT) WHERE id=2"""
    )
    answer = office.client().get("/office/cattle.csv?sort=newest", buffered=True)
    [line] = [line for line in lines(answer) if line["id"] == "2"]
    assert (line["notes"], line["health_status"], line["lf_tag"]) == ('a "b", c\nd', "00ff", "\ufffdA")
    assert len(lines(answer)) == 12


def test_the_file_says_what_it_is(office: Office) -> None:
    answer = office.client().get("/office/cattle.csv", buffered=True)
    assert answer.mimetype == "text/csv"
    assert re.fullmatch(r'attachment; filename="cattle-\d{4}-\d\d-\d\d\.csv"', answer.headers["Content-Disposition"])
    assert answer.data.startswith(b"\xef\xbb\xbfid,cattle_id,"), "Excel reads the text as UTF-8 where it begins like this only"
    assert answer.data.count(b"\xef\xbb\xbf") == 1
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    assert b"password" not in answer.data


def test_a_file_needs_a_session(office: Office) -> None:
    for name in ("cattle", "batches", "pens", "payloads"):
        assert office.client(None).get(f"/office/{name}.csv").status_code == 302


def test_an_empty_farm_gives_a_file_with_its_heads_only(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db", batches=0).close()
    client = make_office(tmp_path).client()
    for name, first in (("cattle", b"id,cattle_id,"), ("batches", b"id,batch_number,"), ("payloads", b"id,received_at,")):
        data = client.get(f"/office/{name}.csv", buffered=True).data
        assert data.decode("utf-8-sig").encode().startswith(first) and data.count(b"\n") == 1, name


def test_a_reader_that_stops_holds_no_connection_and_leaves_no_file(large: Office, tmp_path: Path) -> None:
    client = large.client()
    answers = [client.get("/office/payloads.csv", buffered=False) for _ in range(12)]  # more than there are connections to the replica
    for answer in answers:
        next(answer.response)  # its first piece, and then nothing
    assert client.get("/office/cattle").status_code == 200
    db = connect(large.path)
    with db:
        add_batches(db, 1, 1)
    move_position(db)
    db.wal_checkpoint(mode=3)  # TRUNCATE: impossible while anybody holds a snapshot
    db.close()
    assert len(files_without_a_name(tmp_path)) == len(answers)
    for answer in answers:
        answer.close()
    assert files_without_a_name(tmp_path) == []
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"replica.db", "server.db", "secret_key"}
