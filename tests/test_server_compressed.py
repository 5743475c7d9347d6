"""What goes over the wire: text compressed for whoever takes it, and no secret that compression could tell."""

from __future__ import annotations

import gzip
import re
from typing import Any

import pytest
from office_pages import Office, token_in

from server.compressed import SMALLEST

pytestmark = pytest.mark.usefixtures("patience")

GZIP = {"Accept-Encoding": "gzip, br"}


def fetched(office: Office, path: str, **headers: str) -> Any:
    return office.client().get(path, headers=GZIP | headers, buffered=True)


@pytest.mark.parametrize("path", ["/office/", "/office/cattle", "/office/batches/1", "/static/office.css", "/static/pico/pico.min.css"])
def test_text_is_compressed_and_the_same(office: Office, path: str) -> None:
    packed, plain = fetched(office, path), office.client().get(path, buffered=True)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert "Accept-Encoding" in packed.headers["Vary"] and "Accept-Encoding" in plain.headers["Vary"]
    assert int(packed.headers["Content-Length"]) == len(packed.data) < len(plain.data) / 2
    unmasked = [re.sub(rb'value="[0-9a-f]{60,}"', b"", text) for text in (gzip.decompress(packed.data), plain.data)]
    assert unmasked[0] == unmasked[1]


def test_what_is_small_or_no_text_is_left(office: Office) -> None:
    assert "Content-Encoding" not in fetched(office, "/livez").headers
    assert len(fetched(office, "/livez").data) < SMALLEST
    assert "Content-Encoding" not in fetched(office, "/office/cattle.csv").headers
    assert "Content-Encoding" not in office.client().get("/office/cattle", headers={"Accept-Encoding": "gzip;q=0"}).headers


def test_a_compressed_file_is_known_again(office: Office) -> None:
    first = fetched(office, "/static/office.css")
    again = fetched(office, "/static/office.css", **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert "Content-Encoding" not in again.headers


def test_a_head_has_no_body(office: Office) -> None:
    for path in ("/office/cattle", "/static/office.css"):
        answer = office.client().head(path, headers=GZIP, buffered=True)
        assert (answer.status_code, answer.data) == (200, b"")


def test_the_token_of_the_forms_is_never_written_twice_the_same(office: Office) -> None:
    client = office.client()
    tokens = {token_in(client.get("/office/pens").text) for _ in range(5)}
    assert len(tokens) == 5
    with client.session_transaction() as session:
        secret = session["csrf"]
    assert all(secret not in token and secret.encode().hex() not in token for token in tokens)
    for token in tokens:
        assert client.post("/office/api/resync", headers={"X-CSRF-Token": token}).status_code == 202


@pytest.mark.parametrize("forged", ["", "00", "zz", "é", "0" * 128, "ab" * 32])
def test_a_token_that_is_none_opens_nothing(office: Office, forged: str) -> None:
    client = office.client()
    client.get("/office/pens")
    assert client.post("/office/logout", data={"csrf_token": forged}).status_code == 403


def test_an_empty_session_accepts_no_empty_token(office: Office) -> None:
    assert office.client(None).post("/office/login", data={"username": "admin", "csrf_token": ""}).status_code == 403
