"""The frame of the office: login, sessions, CSRF, what every page says of its rows, headers and assets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from office_farm import PASSWORD, PASSWORD_HASH, make_replica
from office_pages import PAGE, Office, make_office, sign_in, token_in

from server import lockout

pytestmark = pytest.mark.usefixtures("patience")

# Login and sessions


def test_pages_lead_to_the_login_and_back(office: Office) -> None:
    client = office.client(None)
    answer = client.get("/office/payloads?status=error")
    assert answer.status_code == 302
    assert answer.location == "/office/login?next=/office/payloads?status%3Derror"
    assert sign_in(client, "admin", PASSWORD, "?next=/office/payloads").location == "/office/payloads"


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/office/\\evil",
        "javascript:alert(1)",
        "",
        "/office/%0d%0aX:y",
        "/office/../metrics",
    ],
)
def test_a_login_never_leads_to_another_host(office: Office, target: str) -> None:
    assert sign_in(office.client(None), "admin", PASSWORD, f"?next={target}").location == "/office/"


@pytest.mark.parametrize(("name", "password"), [("admin", "wrong"), ("nobody", PASSWORD), ("", ""), ("admin", "é\x00")])
def test_a_wrong_name_or_password_is_a_401_that_says_the_same(office: Office, name: str, password: str) -> None:
    answer = sign_in(office.client(None), name, password)
    assert answer.status_code == 401
    assert "do not open anything" in answer.text


@pytest.mark.parametrize("unusable", ["!", "", "$2b$12$abcdefghijklmnopqrstuv", "plain", "scrypt:1:1:1$a$b", "scrypt:x$y$z"])
def test_an_unusable_hash_opens_nothing(office: Office, unusable: str) -> None:
    office.write(f"UPDATE users SET password_hash='{unusable}' WHERE username='user'")
    for password in ("", unusable, "b"):
        assert sign_in(office.client(None), "user", password).status_code == 401


@pytest.mark.parametrize("inactive", ["0", "0.0", "'no'", "'false'", "''", "x'01'"])
def test_an_inactive_user_cannot_sign_in(office: Office, inactive: str) -> None:
    """A word is no yes: who types `is_active='false'` into a shell means it."""
    office.write(f"UPDATE users SET is_active={inactive} WHERE username='user'")
    assert sign_in(office.client(None), "user", PASSWORD).status_code == 401
    users = office.client().get("/office/users").text
    assert re.search(r"user</a></th>.*?May sign in\">no<", users, re.DOTALL)


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE users SET password_hash='{PASSWORD_HASH}x' WHERE username='user'",
        "UPDATE users SET role='admin' WHERE username='user'",
        "UPDATE users SET is_active=0 WHERE username='user'",
        "DELETE FROM users WHERE username='user'",
    ],
)
def test_a_change_of_the_user_on_the_pi_ends_the_session(office: Office, change: str) -> None:
    client = office.client("user")
    assert client.get("/office/pens").status_code == 200
    office.write(change)
    assert client.get("/office/pens").status_code == 302


def test_signing_out_is_a_post_with_a_token(office: Office) -> None:
    client = office.client()
    assert client.get("/office/logout").status_code == 405
    assert client.post("/office/logout").status_code == 403
    token = token_in(client.get("/office/pens").text)
    assert client.post("/office/logout", data={"csrf_token": token}).status_code == 302
    assert client.get("/office/pens").status_code == 302


def test_a_copy_of_the_cookie_opens_nothing_after_signing_out_nor_after_a_restart(office: Office) -> None:
    mine, other = office.client(), office.client()
    cookie = mine.get_cookie("drover")
    assert cookie is not None
    token = token_in(mine.get("/office/pens").text)
    assert mine.post("/office/logout", data={"csrf_token": token}).status_code == 302

    def opened_by_the_copy(office: Office) -> int:
        thief = office.client(None)
        thief.set_cookie("drover", cookie.value)
        return thief.get("/office/pens").status_code

    assert opened_by_the_copy(office) == 302
    assert other.get("/office/pens").status_code == 200
    office.close()
    again = make_office(office.path.parent, secret_key=office.app.secret_key)
    assert opened_by_the_copy(again) == 302
    again.close()


def test_a_form_without_its_token_is_refused(office: Office) -> None:
    client = office.client(None)
    answer = client.post("/office/login", data={"username": "admin", "password": PASSWORD}, headers=PAGE)
    assert answer.status_code == 403
    assert "too old" in answer.text
    client.get("/office/login")
    assert client.post("/office/login", data={"username": "admin", "password": PASSWORD, "csrf_token": "é"}).status_code == 403


def test_the_cookie_is_http_only_and_same_site(office: Office) -> None:
    cookie = office.client(None).get("/office/login").headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


def test_signing_in_often_is_no_offence(office: Office) -> None:
    for _ in range(lockout.BURST + 5):
        office.client()


def test_too_many_failures_are_a_429_with_retry_after(office: Office) -> None:
    client = office.client(None)
    token = token_in(client.get("/office/login").text)
    form = {"username": "nobody", "password": "guess", "csrf_token": token}
    answers = [client.post("/office/login", data=form) for _ in range(lockout.BURST + 2)]
    assert [answer.status_code for answer in answers[-2:]] == [401, 429]
    assert int(answers[-1].headers["Retry-After"]) > 0


def test_the_secret_key_is_made_once_and_only_ours_to_read(office: Office, tmp_path: Path) -> None:
    path = tmp_path / "secret_key"
    assert path.stat().st_mode & 0o777 == 0o600
    first = office.client()
    again = make_office(tmp_path)
    cookie = first.get_cookie("drover")
    assert cookie is not None
    client = again.client(None)
    client.set_cookie("drover", cookie.value)
    assert client.get("/office/pens").status_code == 200


# What a page says about its rows


def test_every_page_tells_state_and_position(office: Office) -> None:
    office.state.position("e" * 32, 5)
    office.state.following(5)
    client = office.client()
    for page in ("batches", "batches/1", "payloads", "pens", "replication", "batches/999"):
        text = client.get(f"/office/{page}", headers=PAGE).text
        assert "Following the Pi" in text
        assert "Up to date." in text


def test_pages_only_says_so(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path)
    client = office.client()
    assert "IS_SERVER_UI=False" in client.get("/office/batches").text
    token = token_in(client.get("/office/pens").text)
    answer = client.post("/office/api/resync", headers={"X-CSRF-Token": token})
    assert (answer.status_code, "IS_SERVER_UI" in answer.text) == (409, True)


def test_a_replica_without_a_table_that_a_page_needs_is_an_error_page(office: Office) -> None:
    client = office.client()
    office.write("DROP TABLE pair_history", "ALTER TABLE lora_payload_buffer RENAME TO buffer")
    answer = client.get("/office/payloads", headers=PAGE)
    assert answer.status_code == 503
    assert "lora_payload_buffer" in answer.text
    assert client.get("/office/batches").status_code == 200


def test_answers_carry_strict_headers(office: Office) -> None:
    answer = office.client().get("/office/batches")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "sources"), [("farm:5000", " ws://farm:5000 wss://farm:5000"), ("[::1]:5000", ""), ("a;script-src *", "")]
)
def test_a_page_may_open_a_socket_to_its_own_host_and_no_other(office: Office, host: str, sources: str) -> None:
    answer = office.client(None).get("/office/login", headers={"Host": host})
    if answer.status_code == 200:
        assert f"connect-src 'self'{sources};" in answer.headers["Content-Security-Policy"]
        assert "script-src *" not in answer.headers["Content-Security-Policy"]


def test_a_script_that_another_one_imports_is_never_an_old_one(office: Office) -> None:
    page = office.client().get("/office/batches").text
    [entry] = re.findall(r'src="(/static/office\.js\?v=[^"]+)" type="module"', page)
    with office.client().get(entry) as answer:
        assert "max-age=3600" in answer.headers["Cache-Control"]
        imported = re.findall(r'from "\./(\w+\.js)"', answer.text)
    assert imported
    for name in imported:
        with office.client().get(f"/static/{name}") as answer:
            assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-cache"
        with office.client().get(f"/static/{name}", headers={"If-None-Match": answer.headers["ETag"]}) as again:
            assert again.status_code == 304


def test_where_nothing_is_followed_there_is_no_socket(office: Office) -> None:
    page = office.client().get("/office/batches").text
    assert "office.js" in page and "socket.io" not in page


def test_what_narrows_the_list_of_animals_is_said_in_sentences(office: Office) -> None:
    office.write("UPDATE cattle SET status='active', pen_id=1")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", office.client().get("/office/cattle?status=active&pen=P1").text))
    assert "Some of the animals. Status active. Pen P1. Show all" in text
