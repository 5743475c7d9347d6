"""The lists of the office: batches, pens and payloads, searched and paged, with odd values and with none."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from office_farm import add_batches, make_replica
from office_pages import PAGE, Office, make_office, numbers

from changelog.connection import connect

pytestmark = pytest.mark.usefixtures("patience")

# Lists


def test_batches_are_paged_forward_and_back_without_loss_or_repeat(office: Office) -> None:
    db = connect(office.path)
    with db:
        add_batches(db, 127, 1)
        db.execute("UPDATE batches SET induction_date='2026-02-02' WHERE id>20 AND id<100")
    expected = [number for (number,) in db.execute("SELECT batch_number FROM batches ORDER BY induction_date DESC, id DESC")]
    db.close()
    client = office.client()
    seen, texts, link = [], [], ""
    while link is not None:
        texts.append(client.get(f"/office/batches{link}").text)
        seen += numbers(texts[-1])
        found = re.search(r'rel="next" href="([^"]+)"', texts[-1])
        link = html.unescape(found[1]) if found else None
    assert seen == expected
    assert [len(numbers(text)) for text in texts] == [50, 50, 30]
    back = html.unescape(re.findall(r'rel="prev" href="([^"]+)"', texts[-1])[0])
    assert numbers(client.get(f"/office/batches{back}").text) == expected[50:100]


@pytest.mark.parametrize("cursor", ["x", "~", "2026-01-01~x", "2026-01-01~99999999999999999999", "2026~²"])
def test_a_cursor_that_is_none_is_a_400(office: Office, cursor: str) -> None:
    answer = office.client().get(f"/office/batches?onward={cursor}", headers=PAGE)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("BATCH00002", ["BATCH00002"]),
        ("batch00002", ["BATCH00002"]),
        ("LF000005", ["BATCH00002"]),
        ("lf000005", ["BATCH00002"]),
        ("UHF000011", ["BATCH00003"]),
        ("00011", ["BATCH00003"]),
        ("LF", ["BATCH00003", "BATCH00002", "BATCH00001"]),
        ("%", []),
        ("_", []),
        ("nothing", []),
        ("'; DROP TABLE batches", []),
    ],
)
def test_batches_are_found_by_number_and_by_any_tag(office: Office, search: str, found: list[str]) -> None:
    answer = office.client().get("/office/batches", query_string={"q": search})
    assert numbers(answer.text) == found


def test_an_animal_is_found_inside_its_batch(office: Office) -> None:
    text = office.client().get("/office/batches/2?q=LF000005").text
    assert "BATCH00002-LF000005" in text
    assert "BATCH00002-LF000006" not in text


def test_a_batch_counts_its_animals_by_status(office: Office) -> None:
    office.write("UPDATE cattle SET status='exported' WHERE id=2")
    client = office.client()
    text = client.get("/office/batches/1").text
    assert re.search(r"Active <small>3<", text)
    assert re.search(r"Exported <small>1<", text)
    assert "BATCH00001-LF000001" in client.get("/office/batches/1?status=exported").text
    assert "BATCH00001-LF000001" not in client.get("/office/batches/1?status=active").text


@pytest.mark.parametrize("number", ["9999", str(2**63 - 1), str(2**64), "-1", "x"])
def test_a_batch_that_is_not_there_is_a_404(office: Office, number: str) -> None:
    assert office.client().get(f"/office/batches/{number}", headers=PAGE).status_code == 404


def test_payloads_show_signal_errors_and_repeats(office: Office) -> None:
    office.write(
        "INSERT INTO lora_payload_buffer(raw_payload, status, error_message, rssi, snr, times_received)"
        " VALUES('hxb:A:B:C', 'error', 'tags of two animals', -97.4, -3.25, 7)"
    )
    client = office.client()
    text = client.get("/office/payloads?status=error").text
    for shown in ("hxb:A:B:C", "tags of two animals", "-97.4\u00a0dBm", "-3.25\u00a0dB", ">7<"):
        assert shown in text
    assert "hxb:A:B:C" not in client.get("/office/payloads?status=processed").text
    assert client.get("/office/payloads?status=odd").status_code == 400


def test_a_full_pen_says_so(office: Office) -> None:
    assert "150 %, 1 too many" in office.client().get("/office/pens").text


def test_text_from_the_farm_is_never_markup(office: Office) -> None:
    office.write("UPDATE batches SET batch_number='<script>alert(1)</script>', notes='<b>&' WHERE id=1")
    client = office.client()
    for page in ("/office/batches", "/office/batches/1", "/office/replication", "/office/batches?q=%3Cscript%3E"):
        text = client.get(page).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;" in text


def test_odd_values_in_the_farm_do_not_break_a_page(office: Office) -> None:
    office.write(
        "UPDATE batches SET notes=CAST(x'ff41' AS TEXT), source=x'00ff' WHERE id=1",
        "UPDATE cattle SET weight='heavy', induction_date='some day', status='' WHERE id=1",
        "UPDATE pens SET capacity='many' WHERE id=1",
        "UPDATE lora_payload_buffer SET rssi='loud', snr=x'01', received_at='' WHERE id=1",
    )
    client = office.client()
    for page in ("/office/batches", "/office/batches/1", "/office/pens", "/office/payloads", "/office/replication"):
        assert client.get(page).status_code == 200, page
    assert "blob of 1 B" in client.get("/office/payloads").text
    assert "\ufffdA" in client.get("/office/batches").text


def test_an_empty_farm_has_its_own_sentence(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db", batches=0).close()
    client = make_office(tmp_path).client()
    assert "no batches yet" in client.get("/office/batches").text
    assert "has not sent anything yet" in client.get("/office/payloads").text


def test_the_changelog_is_told_in_words_and_hides_passwords(office: Office) -> None:
    office.write(
        "UPDATE cattle SET weight=261.5 WHERE id=7",
        "DELETE FROM pens WHERE id=2",
        "UPDATE users SET password_hash='scrypt:secret' WHERE id=2",
    )
    text = html.unescape(office.client().get("/office/replication").text)
    assert "changed animal 7: weight 250.0 → 261.5" in text
    assert "removed pen 2: pen_number P2, capacity 40" in text
    assert "scrypt" not in text
    assert "unknown writer" in text


def test_a_batch_leads_to_the_payloads_that_named_it(office: Office) -> None:
    client = office.client()
    [address] = re.findall(r'id="payloads-of-batch" href="([^"]+)"', client.get("/office/batches/2").text)
    found = set(re.findall(r"hxb:(BATCH\d+):", client.get(html.unescape(address)).text))
    assert found == {"BATCH00002"}
