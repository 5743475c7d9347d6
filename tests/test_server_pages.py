"""The office over a real replica, without a browser: login, sessions, CSRF, lists, searches, errors, and the status API."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from office_farm import PASSWORD, PASSWORD_HASH, add_batches, make_replica, move_position

from changelog.connection import connect
from changelog.node.settings import Settings
from server import login
from server.app import create_app
from server.measures import Measures
from server.replica import Replica
from server.state import SyncState
from server.store import Store

PAGE = {"Accept": "text/html"}
ELSEWHERE = {"REMOTE_ADDR": "192.0.2.7"}


@dataclass
class ToldToResync:
    """Stands for the sync service, which needs a Pi: keeps what it was asked."""

    running: bool = True
    measures: Measures = field(default_factory=Measures)
    reasons: list[str] = field(default_factory=list)

    def request_resync(self, reason: str) -> None:
        self.reasons.append(reason)


@dataclass
class Office:
    """The parts of one server under test."""

    settings: Settings
    path: Path
    store: Store
    state: SyncState
    sync: Any
    app: Any

    def client(self, name: str | None = "admin", password: str = PASSWORD) -> FlaskClient:
        """A client on another machine, signed in as `name`."""
        client = self.app.test_client()
        client.environ_base |= ELSEWHERE
        if name is not None:
            assert sign_in(client, name, password).status_code == 302
        return client

    def write(self, *statements: str) -> None:
        """Change the replica as replay would."""
        db = connect(self.path)
        with db:
            for sql in statements:
                db.execute(sql)
        move_position(db)
        db.close()


def sign_in(client: FlaskClient, name: str, password: str, target: str = "") -> Any:
    form = client.get("/office/login")
    return client.post(f"/office/login{target}", data={"username": name, "password": password, "csrf_token": token_in(form.text)})


def token_in(text: str) -> str:
    return html.unescape(re.findall(r'name="csrf_token" value="([^"]+)"', text)[0])


def make_office(folder: Path, sync: Any = None, **settings: Any) -> Office:
    chosen = replace(Settings(data_dir=folder, trust_loopback=True), **settings)
    store, state = Store(chosen.server_db), SyncState(chosen.stale_after, "starting" if sync else "pages-only")
    app = create_app(chosen, Replica(chosen.replica_db), store, state, sync)
    return Office(chosen, chosen.replica_db, store, state, sync, app)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with a limit that remembers nobody."""
    monkeypatch.setattr(login, "failures", login.Failures())


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    make_replica(tmp_path / "replica.db").close()
    yield make_office(tmp_path, ToldToResync())


# Login and sessions


def test_pages_lead_to_the_login_and_back(office: Office) -> None:
    client = office.client(None)
    answer = client.get("/office/payloads?status=error")
    assert answer.status_code == 302
    assert answer.location == "/office/login?next=/office/payloads?status%3Derror"
    assert sign_in(client, "admin", PASSWORD, "?next=/office/payloads").location == "/office/payloads"


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "/office/\\evil", "javascript:alert(1)", ""]
)
def test_a_login_never_leads_to_another_host(office: Office, target: str) -> None:
    assert sign_in(office.client(None), "admin", PASSWORD, f"?next={target}").location == "/office/batches"


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


def test_an_inactive_user_cannot_sign_in(office: Office) -> None:
    office.write("UPDATE users SET is_active=0 WHERE username='user'")
    assert sign_in(office.client(None), "user", PASSWORD).status_code == 401


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
    for _ in range(login.FAILURES_BURST + 5):
        office.client()


def test_too_many_failures_are_a_429_with_retry_after(office: Office) -> None:
    client = office.client(None)
    token = token_in(client.get("/office/login").text)
    form = {"username": "nobody", "password": "guess", "csrf_token": token}
    answers = [client.post("/office/login", data=form) for _ in range(login.FAILURES_BURST + 2)]
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


# Lists


def numbers(text: str) -> list[str]:
    return re.findall(r'id="batch-\d+"[^>]*>([^<]+)<', text)


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


# What a page says about its rows


def test_every_page_tells_state_and_position(office: Office) -> None:
    office.state.position("e" * 32, 5)
    office.state.following(5)
    client = office.client()
    for page in ("batches", "batches/1", "payloads", "pens", "replication", "batches/999"):
        text = client.get(f"/office/{page}", headers=PAGE).text
        assert "Following the Pi" in text
        assert "Up to date." in text


def test_stale_rows_are_marked_with_the_cause(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path, ToldToResync(), stale_after=-1.0)
    office.store.record_sync("pull", "ok")
    office.state.failed("barn.local:5001: connection refused")
    text = office.client().get("/office/batches").text
    assert "Stale" in text
    assert "barn.local:5001: connection refused" in text
    assert "The Pi was last heard" in text


def test_pages_only_says_so(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path)
    client = office.client()
    assert "IS_SERVER_UI=False" in client.get("/office/batches").text
    token = token_in(client.get("/office/pens").text)
    answer = client.post("/office/api/resync", headers={"X-CSRF-Token": token})
    assert (answer.status_code, "IS_SERVER_UI" in answer.text) == (409, True)


def test_during_the_first_bootstrap_the_page_shows_how_far_it_is(tmp_path: Path) -> None:
    office = make_office(tmp_path, ToldToResync())
    office.state.bootstrapping(3_000_000, 12_000_000)
    answer = office.client(None).get("/office/batches", headers=PAGE)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    office.state.failed("barn.local:5001: connection refused")
    assert "barn.local:5001: connection refused" in office.client(None).get("/office/batches", headers=PAGE).text
    for shown in ("first copy of the farm", "3.0 MB of 12.0 MB", 'http-equiv="refresh"'):
        assert shown in answer.text


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


# The status API


FIELDS = ["running", "sync_interval", "last_sync_time", "total_syncs", "successful_syncs", "failed_syncs", "total_records_synced"]
FIELDS += [
    "state",
    "source",
    "bucket_at",
    "epoch",
    "seq",
    "head",
    "lag_changes",
    "lag_seconds",
    "push",
    "last_error",
    "alarm",
    "last_verify",
]
FIELDS += ["last_verify_at", "last_verify_ok"]


def test_the_status_has_the_fields_of_the_document_first(office: Office) -> None:
    office.store.record_sync("pull", "ok", rows=3)
    office.state.position("e" * 32, 41)
    office.state.following(43)
    body = office.client().get("/office/api/sync-status").json
    assert body["success"] is True
    assert list(body["data"]) == FIELDS
    data = body["data"]
    assert (data["running"], data["sync_interval"], data["total_syncs"], data["total_records_synced"]) == (True, 10, 1, 3)
    assert (data["state"], data["seq"], data["head"], data["lag_changes"]) == ("following", 41, 43, 2)


def test_the_status_needs_a_session_a_token_or_loopback(office: Office) -> None:
    stranger, token = office.client(None), office.store.add_token("curl")
    address = "/office/api/sync-status"
    answer = stranger.get(address)
    assert (answer.status_code, answer.mimetype, answer.json["success"]) == (401, "application/problem+json", False)
    assert stranger.get(address, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert stranger.get(address, headers={"Authorization": "Bearer wrong"}).status_code == 401
    here = office.app.test_client()
    assert here.get(address).status_code == 200
    assert here.get(address, headers={"X-Forwarded-For": "192.0.2.7"}).status_code == 401


def test_loopback_can_be_distrusted(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path, trust_loopback=False)
    assert office.app.test_client().get("/office/api/sync-status").status_code == 401


def test_the_status_answers_before_there_is_a_replica(tmp_path: Path) -> None:
    data = make_office(tmp_path).app.test_client().get("/office/api/sync-status").json["data"]
    assert (data["state"], data["seq"], data["running"]) == ("pages-only", None, False)


def test_pages_only_tells_the_position_of_the_file(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db").close()
    assert make_office(tmp_path).app.test_client().get("/office/api/sync-status").json["data"]["seq"] > 0


def test_a_resync_is_for_admins_tokens_and_loopback(office: Office) -> None:
    address, token = "/office/api/resync", office.store.add_token("ops")
    assert office.client(None).post(address).status_code == 401
    user, admin = office.client("user"), office.client("admin")
    assert user.post(address, headers={"X-CSRF-Token": token_in(user.get("/office/pens").text)}).status_code == 401
    assert admin.post(address).status_code == 403
    assert admin.post(address, headers={"X-CSRF-Token": token_in(admin.get("/office/pens").text)}).status_code == 202
    assert office.client(None).post(address, headers={"Authorization": f"Bearer {token}"}).status_code == 202
    here = office.app.test_client()
    assert here.post(address).status_code == 202
    assert here.post(address, headers={"Origin": "https://evil.example"}).status_code == 403
    assert len(office.sync.reasons) == 3


def test_the_resync_button_is_for_admins(office: Office) -> None:
    admin, user = office.client("admin"), office.client("user")
    assert "Fetch a fresh copy" not in user.get("/office/replication").text
    token = token_in(user.get("/office/replication").text)
    assert user.post("/office/replication/resync", data={"csrf_token": token}).status_code == 403
    token = token_in(admin.get("/office/replication").text)
    assert admin.post("/office/replication/resync", data={"csrf_token": token}).status_code == 302
    assert office.sync.reasons == ["asked for by admin"]
    assert "was asked for" in admin.get("/office/replication").text


def test_readyz_says_no_while_the_replica_is_far_behind(tmp_path: Path) -> None:
    office = make_office(tmp_path, ToldToResync())
    client = office.app.test_client()
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    make_replica(tmp_path / "replica.db").close()
    assert client.get("/readyz").status_code == 503
    office.state.position("e" * 32, 5)
    office.state.following(5)
    assert client.get("/readyz").status_code == 200


def test_a_damaged_replica_is_an_error_page_and_never_an_empty_farm(office: Office) -> None:
    client = office.client()
    assert numbers(client.get("/office/batches").text)
    office.path.unlink()
    assert numbers(client.get("/office/batches").text), "old rows while the file is away"
    office.path.write_bytes(b"x" * 8192)
    assert numbers(client.get("/office/batches").text), "old rows while something else is in its place"
