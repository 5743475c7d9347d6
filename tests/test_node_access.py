"""Who may call, with what: loopback, rate limit, bodies and arguments; and how errors leave."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from flask import Flask, Response, abort, redirect, request
from flask.testing import FlaskClient
from werkzeug.exceptions import MethodNotAllowed

from changelog.errors import BadRequest, HistoryTrimmed, PositionMismatch, TooLarge, TooMany, Unavailable
from changelog.node import access
from changelog.node.access import RateLimit, from_loopback, int_argument, json_body
from changelog.node.problems import install_problems

LIMIT = 255  # bytes


@pytest.fixture
def app() -> Flask:
    """A role with one view for each kind of error."""
    app = Flask(__name__)

    def page(status: int, message: str) -> Response:
        return Response(f"<h1>{status}</h1>{message}", mimetype="text/html")

    install_problems(app, csp="default-src 'self'", html=page, facts=("received_at",))
    mismatch = PositionMismatch("other epoch", epoch="e2", head=7, path="/secret")
    app.add_url_rule("/api/mismatch", view_func=fails(mismatch), endpoint="mismatch")
    app.add_url_rule("/api/trimmed", view_func=fails(HistoryTrimmed(oldest=5)), endpoint="trimmed")
    app.add_url_rule("/api/many", view_func=fails(TooMany("slow down", retry_after=2.2)), endpoint="many")
    app.add_url_rule("/api/busy", view_func=fails(Unavailable()), endpoint="busy")
    app.add_url_rule("/api/broken", view_func=fails(ZeroDivisionError("the password is 1234")), endpoint="broken")
    app.add_url_rule("/moved", view_func=lambda: redirect("/api/busy"), endpoint="moved")
    app.add_url_rule("/made", view_func=lambda: abort(Response("mine", 418)), endpoint="made")
    app.add_url_rule("/body", view_func=lambda: json_body(request, LIMIT), endpoint="body", methods=["POST"])
    app.add_url_rule("/loopback", view_func=lambda: {"yes": from_loopback(request, request.args.get("trust") != "no")}, endpoint="loopback")
    app.add_url_rule("/limit", view_func=lambda: {"limit": int_argument(request.args, "limit", 1000, 1, 5000)}, endpoint="limit")
    return app


def fails(exc: Exception) -> Any:
    def view() -> Response:
        raise exc

    return view


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def test_an_error_of_ours_is_a_problem_document_with_its_facts_and_action(client: FlaskClient) -> None:
    answer = client.get("/api/mismatch")
    assert (answer.status_code, answer.mimetype) == (409, "application/problem+json")
    assert json.loads(answer.data) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "other epoch",
        "success": False,
        "message": "other epoch",
        "epoch": "e2",
        "head": 7,
        "action": "resync",
    }
    assert json.loads(client.get("/api/trimmed").data)["oldest"] == 5


def test_what_nobody_foresaw_is_logged_once_and_tells_nothing_outside(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    answer = client.get("/api/broken")
    assert answer.status_code == 500
    assert b"1234" not in answer.data and b"Traceback" not in answer.data
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "1234" in caplog.text


def test_too_many_and_unavailable_say_when_to_come_again(client: FlaskClient) -> None:
    assert client.get("/api/many").headers["Retry-After"] == "3"
    assert client.get("/api/busy").headers["Retry-After"] == "5"


def test_flasks_own_errors_are_problem_documents_too(client: FlaskClient) -> None:
    missing = client.get("/api/nothing")
    assert (missing.status_code, missing.mimetype) == (404, "application/problem+json")
    wrong = client.delete("/body")
    assert wrong.status_code == MethodNotAllowed.code and "POST" in wrong.headers["Allow"]


def test_a_redirect_and_a_ready_made_answer_stay_what_they_are(client: FlaskClient) -> None:
    assert client.get("/moved").location == "/api/busy"
    assert (client.get("/made").status_code, client.get("/made").data) == (418, b"mine")


def test_a_browser_sees_a_page_and_curl_a_problem_document(client: FlaskClient) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = client.get("/nothing", headers=browser)
    assert (page.status_code, page.mimetype) == (404, "text/html") and page.data.startswith(b"<h1>404</h1>")
    assert client.get("/nothing", headers={"Accept": "*/*"}).mimetype == "application/problem+json"
    assert client.get("/office/api/nothing", headers=browser).mimetype == "application/problem+json"


@pytest.mark.parametrize("path", ["/limit", "/nothing", "/api/broken"])
def test_every_answer_has_the_security_headers(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin" and headers["Content-Security-Policy"] == "default-src 'self'"


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_a_direct_caller_on_this_machine_is_loopback_if_that_is_trusted(client: FlaskClient, peer: str) -> None:
    assert client.get("/loopback", environ_base={"REMOTE_ADDR": peer}).json == {"yes": True}
    assert client.get("/loopback?trust=no", environ_base={"REMOTE_ADDR": peer}).json == {"yes": False}


@pytest.mark.parametrize("peer", ["192.168.1.5", "::ffff:192.168.1.5", "fe80::1", "", "0.0.0.0", "unix"])
def test_any_other_caller_is_not_loopback(client: FlaskClient, peer: str) -> None:
    assert client.get("/loopback", environ_base={"REMOTE_ADDR": peer}).json == {"yes": False}


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "x-forwarded-proto", "X-Forwarded-Anything", "X-Real-IP"])
def test_a_forwarded_caller_is_never_loopback(client: FlaskClient, header: str) -> None:
    answer = client.get("/loopback", headers={header: "127.0.0.1"}, environ_base={"REMOTE_ADDR": "127.0.0.1"})
    assert answer.json == {"yes": False}


def test_a_burst_is_allowed_and_then_a_steady_rate() -> None:
    now = [0.0]
    limit = RateLimit(per_second=0.5, burst=3, clock=lambda: now[0])
    for _ in range(3):
        limit.check("pen")
    with pytest.raises(TooMany) as caught:
        limit.check("pen")
    assert caught.value.facts == {"retry_after": 2}
    limit.check("another caller")
    now[0] = 2.0
    limit.check("pen")
    with pytest.raises(TooMany):
        limit.check("pen")


def test_a_rate_limit_forgets_the_caller_seen_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "CALLERS_REMEMBERED", 3)
    limit = RateLimit(per_second=1, burst=1, clock=lambda: 0.0)
    for caller in "abcd":
        limit.check(caller)
    limit.check("a")
    with pytest.raises(TooMany):
        limit.check("d")


def post(client: FlaskClient, body: bytes, **options: Any) -> Any:
    return client.post("/body", data=body, **{"content_type": "application/json"} | options)


def test_a_json_object_is_returned(client: FlaskClient) -> None:
    assert post(client, '{"payload": "hxb:BATCH001:LF123:UHF456", "n": [1, -0.5, null, "ü😀"]}'.encode()).json == {
        "payload": "hxb:BATCH001:LF123:UHF456",
        "n": [1, -0.5, None, "ü😀"],
    }


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"", "not JSON"),
        (b"nonsense", "not JSON"),
        (b"[1]", "must be an object"),
        (b'"text"', "must be an object"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "not a JSON number"),
        (b'{"a": 1e999}', "not a JSON number"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": "\\ud800"}', "UTF-8"),
        (b'{"\\udfff": 1}', "UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
        (b'{"a": 1} trailing', "not JSON"),
    ],
)
def test_anything_but_one_plain_json_object_is_a_400(client: FlaskClient, body: bytes, cause: str) -> None:
    answer = post(client, body)
    assert answer.status_code == 400
    assert cause in answer.get_json(force=True)["message"]


def test_json_nested_too_deeply_or_with_an_endless_number_is_a_400(app: Flask) -> None:
    for body in (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'{"a":' + b"[" * 50_000, b'{"a":' + b"9" * 5000 + b"}"):
        context = app.test_request_context("/body", method="POST", data=body, content_type="application/json")
        with context, pytest.raises(BadRequest, match=r"nested too deeply|9\.\.\. is not a JSON number"):
            json_body(request, 10**6)


def test_a_body_that_is_not_called_json_is_a_400(client: FlaskClient) -> None:
    assert post(client, b'{"a": 1}', content_type="text/plain").status_code == 400


def test_a_body_over_the_limit_is_refused_without_being_read(app: Flask) -> None:
    body = BytesIO(b'{"a": "' + b"x" * 300 + b'"}')
    with app.test_request_context("/body", method="POST", input_stream=body, content_length=309, content_type="application/json"):
        with pytest.raises(TooLarge):
            json_body(request, LIMIT)
    assert body.tell() == 0


def test_a_body_of_unknown_length_is_read_up_to_the_limit_only(app: Flask) -> None:
    body = BytesIO(b"x" * 10_000)
    environ = {"wsgi.input_terminated": True}
    with app.test_request_context("/body", method="POST", input_stream=body, content_type="application/json", environ_overrides=environ):
        with pytest.raises(TooLarge):
            json_body(request, LIMIT)
    assert body.tell() <= LIMIT + 1


def test_a_whole_number_of_the_query_is_read_or_refused_naming_the_range(client: FlaskClient) -> None:
    assert [client.get(f"/limit{query}").get_json()["limit"] for query in ("", "?limit=1", "?limit=5000")] == [1000, 1, 5000]
    for text in ("0", "5001", "-1", "1.5", "", "ten", "\uff11", "9" * 30, "1%00"):
        answer = client.get(f"/limit?limit={text}")
        assert (answer.status_code, answer.get_json(force=True)["message"]) == (400, "limit must be a whole number from 1 to 5000")
