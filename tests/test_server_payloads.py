"""The page of LoRa payloads: its pictures, its filters, and that no filter reads more than an index gives."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from office_farm import make_replica
from office_pages import Office, make_office, text_of

from changelog.connection import connect, rows
from server.pages.payloads import COUNTED, streams_of

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


def add(office: Office, number: int, **columns: object) -> None:
    """So many payloads of one sort, by the index in {i} different where that stands in a value."""
    names = ", ".join(columns)
    values = ", ".join(f"replace('{value}', '{{i}}', i)" if isinstance(value, str) else str(value) for value in columns.values())
    office.write(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{number})"
        f" INSERT INTO lora_payload_buffer(raw_payload, {names}) SELECT 'raw'||i, {values} FROM n"
    )


def ids_on(page: str) -> list[int]:
    return [int(found) for found in re.findall(r'<tr data-key="(\d+)">', page)]


def every_id(client: FlaskClient, **asked: str) -> list[int]:
    found: list[int] = []
    page = client.get("/office/payloads", query_string=asked).text
    while True:
        found += ids_on(page)
        link = re.search(r'id="pager-onward"[^>]* href="\?([^"]+)"', page)
        if link is None:
            return found
        page = client.get("/office/payloads?" + link[1].replace("&amp;", "&")).text


FILTERS = {
    "status": ("error", "status='error'"),
    "source": ("hxe", "source_type='hxe'"),
    "batch": ("B1", "batch_number='B1'"),
    "tag": ("T1", "(lf_tag='T1' OR uhf_tag='T1')"),
    "repeats": ("1", "times_received>1"),
}


@pytest.mark.parametrize("names", [names for count in range(6) for names in itertools.combinations(FILTERS, count)], ids=" ".join)
def test_any_mixture_of_filters_finds_what_fits(office: Office, client: FlaskClient, names: tuple[str, ...]) -> None:
    for status, source, batch, times in itertools.product(("received", "processed", "error"), ("hxb", "hxe"), ("B1", "B2"), (1, 2)):
        add(office, 9, status=status, source_type=source, batch_number=batch, lf_tag="T1", uhf_tag="U{i}", times_received=times)
        add(office, 9, status=status, source_type=source, batch_number=batch, lf_tag="L{i}", uhf_tag="T1", times_received=times)
    add(office, 1, status="error", source_type="hxe", batch_number="B1", lf_tag="T1", uhf_tag="T1", times_received=3)
    condition = " AND ".join(FILTERS[name][1] for name in names) or "1"
    db = connect(office.path, readonly=True)
    wanted = [found for (found,) in rows(db, f"SELECT id FROM lora_payload_buffer WHERE {condition} ORDER BY id DESC")]
    db.close()
    assert wanted
    assert every_id(client, **{name: FILTERS[name][0] for name in names}) == wanted


@pytest.mark.parametrize("names", [names for count in range(1, 6) for names in itertools.combinations(FILTERS, count)], ids=" ".join)
def test_no_filter_sorts_or_reads_the_whole_table(office: Office, names: tuple[str, ...]) -> None:
    db = connect(office.path, readonly=True)
    for where, bindings in streams_of({name: FILTERS[name][0] for name in names}):
        sql = f"EXPLAIN QUERY PLAN SELECT * FROM lora_payload_buffer WHERE {where} ORDER BY id DESC LIMIT 51"
        plan = " ".join(str(detail) for *_, detail in rows(db, sql, bindings))
        assert "USING INDEX" in plan, plan
        assert "TEMP B-TREE" not in plan or "lf_tag" in plan or "uhf_tag" in plan, plan
    db.close()


def test_pages_lead_there_and_back(office: Office, client: FlaskClient) -> None:
    add(office, 120, status="processed", source_type="hxe")
    first = client.get("/office/payloads?source=hxe").text
    second = client.get("/office/payloads" + re.findall(r'id="pager-onward"[^>]* href="(\?[^"]+)"', first)[0].replace("&amp;", "&")).text
    back = re.findall(r'id="pager-back"[^>]* href="(\?[^"]+)"', second)[0].replace("&amp;", "&")
    assert ids_on(client.get("/office/payloads" + back).text) == ids_on(first)


def test_the_hours_and_the_statuses_are_drawn(office: Office, client: FlaskClient) -> None:
    office.write("DELETE FROM lora_payload_buffer")
    add(office, 3, status="processed", received_at="2001-01-01T00:00:00")
    office.write("UPDATE lora_payload_buffer SET received_at=strftime('%Y-%m-%dT%H:%M:%S', 'now')")
    add(office, 1, status="error", received_at="2001-01-01T00:00:00")
    add(office, 2, status="received", received_at="2001-01-01T00:00:00")
    office.write("UPDATE lora_payload_buffer SET received_at=strftime('%Y-%m-%dT%H:%M:%S', 'now') WHERE status='received'")
    page = client.get("/office/payloads").text
    assert 'aria-label="Waiting 2, Processed 3, Errors 0"' in page
    assert "Payloads received in each of the last 24 hours: 5 in all, 5 in this hour" in page
    heights = dict(re.findall(r'<rect class="(received|processed)"[^>]* height="([\d.]+)"/>', page.split("hours</figcaption>")[-1]))
    assert float(heights["processed"]) == 60.0
    assert " style=" not in page


def test_an_hour_is_counted_as_far_as_it_matters(office: Office, client: FlaskClient) -> None:
    add(office, COUNTED + 500, status="processed")
    page = client.get("/office/payloads").text
    assert f"an hour is counted up to {COUNTED}" in page
    assert f" UTC: {COUNTED}<" in page


def test_a_payload_leads_to_its_batch_and_to_the_animals_of_its_tags(client: FlaskClient) -> None:
    page = client.get("/office/payloads?tag=LF000003").text
    assert 'href="/office/batches/1"' in page
    assert re.search(r'href="/office/cattle/4">BATCH00001-LF000003<', page)


def test_an_error_shows_its_reason_and_the_raw_frame(office: Office, client: FlaskClient) -> None:
    office.write(
        "INSERT INTO lora_payload_buffer(raw_payload, status, error_message) VALUES('garbled <frame>', 'error', 'three parts are missing')"
    )
    page = client.get("/office/payloads?status=error").text
    assert "garbled &lt;frame&gt;" in page
    assert "three parts are missing" in page


def test_what_fits_nothing_says_how_to_type_it(client: FlaskClient) -> None:
    page = client.get("/office/payloads?tag=LF0000&batch=BATCH").text
    assert "a batch number and a tag are to be typed whole" in text_of(page)
    assert 'value="LF0000"' in page
    assert 'value="BATCH"' in page


@pytest.mark.parametrize("asked", ["status=odd", "source=odd", f"tag={'x' * 300}", "onward=x", "back=1~2"])
def test_what_is_no_filter_is_refused(client: FlaskClient, asked: str) -> None:
    assert client.get(f"/office/payloads?{asked}").status_code == 400
