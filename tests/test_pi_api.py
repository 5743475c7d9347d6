"""The Pi as it runs: `python -m pi serve` behind real gunicorn, and what it answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from pi_parts import rows, shell, wait_until

from changelog.position import Position
from pi.keys import ROLES

HERE = Path(__file__).parent


class Pi:
    """A served Pi in a folder of its own, and how to talk with it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder, self.farm = folder, str(folder / "farm.db")
        facts = {"DATA_DIR": str(folder), "PI_BIND": "127.0.0.1", "PI_PORT": str(self.port), "PI_TLS": "False"}
        facts |= {"LORA_PROCESSING_INTERVAL": "0.2", "PYTHONPATH": str(HERE.parent)}
        self.environ = os.environ | facts | settings

    def command(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "pi", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environ, check=True, capture_output=True, text=True).stdout.strip()

    @contextmanager
    def serving(self):
        command = [sys.executable, "-m", "pi", "serve"]
        process = subprocess.Popen(command, cwd=self.folder, env=self.environ, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            wait_until(lambda: process.poll() is not None or self.up(), 30)
            assert process.poll() is None, process.stderr.read()
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=10)

    def up(self) -> bool:
        try:
            return self.ask("GET", "/api/sync/health")[0] == 200
        except urllib.error.URLError:
            return False

    def ask(self, method, path, body=None, key=None, **headers):
        """(status, the JSON of the answer)."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if key:
            request.add_header("X-API-Key", key)
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as answer:
            with answer:
                assert answer.headers["Content-Type"] == "application/problem+json"
                return answer.code, json.load(answer)

    def receive(self, payload, **more):
        return self.ask("POST", "/api/lora/receive", {"payload": payload}, **more)


@pytest.fixture(scope="module")
def pi(tmp_path_factory):
    pi = Pi(tmp_path_factory.mktemp("pi"))
    with pi.serving():
        yield pi


@pytest.fixture(scope="module")
def keys(pi):
    """A key of every role, made while the Pi serves."""
    return {role: pi.command("key", "add", f"the-{role}", "--role", role) for role in ROLES}


def test_a_payload_is_201_then_409_with_the_first_time(pi):
    status, answer = pi.receive("hxb:TEST001:LF999:UHF888")
    assert (status, answer["success"], answer["status"]) == (201, True, "processed")
    assert rows(pi.farm, "SELECT received_at FROM lora_payload_buffer WHERE id=?", answer["id"]) == rows(
        pi.farm, "SELECT received_at FROM lora_payload_buffer WHERE raw_payload='hxb:TEST001:LF999:UHF888'"
    )
    assert Position.parse(answer["position"]).seq > 0
    assert rows(pi.farm, "SELECT cattle_id FROM cattle WHERE lf_tag='LF999'") == ["TEST001-LF999"]
    assert rows(pi.farm, "SELECT actor FROM changelog WHERE tbl='batches' LIMIT 1") == ["api:loopback"]
    status, again = pi.receive("hxb:TEST001:LF999:UHF888")
    assert (status, again["success"], again["id"], again["times_received"]) == (409, False, answer["id"], 2)
    assert again["received_at"] in again["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"payload": "nonsense"}, 400), ({"payload": "hxb:" + "x" * 296}, 413), ({"payload": ["hxb:A:B:C"]}, 400), ({"payload": None}, 400),
        ({}, 400), (b"hxb:A:B:C", 400), (b"", 400), (b"[]", 400), (b'{"payload": "\\ud800"}', 400), (b"\xff\xfe", 400),
        (b'{"payload":' + b"[" * 3000, 400), (b'{"payload": "' + b"x" * 100_000 + b'"}', 413),
    ],
)  # fmt: skip
def test_bad_input_is_a_problem_document_and_never_a_500(pi, body, status):
    got, answer = pi.ask("POST", "/api/lora/receive", body)
    assert (got, answer["success"], answer["status"]) == (status, False, status)
    assert "Traceback" not in json.dumps(answer)


def test_a_payload_of_two_animals_is_stored_and_says_why_it_was_not_applied(pi):
    pi.receive("hxb:TWO:TA1:TA2")
    pi.receive("hxb:TWO:TB1:TB2")
    status, answer = pi.receive("hxb:TWO:TA1:TB2")
    assert (status, answer["status"]) == (201, "error")
    assert "TWO-TA1" in answer["message"]
    assert "TWO-TB1" in answer["message"]


def test_ingest_from_elsewhere_needs_a_device_key_and_the_401_names_both_ways(pi, keys):
    """The earlier system (failure I01) took payloads from anyone."""
    elsewhere = {"X_Forwarded_For": "192.168.1.9"}  # what a proxy forwards is no direct caller from this machine
    status, answer = pi.receive("hxb:EL:L1:U1", **elsewhere)
    assert status == 401
    assert "device" in answer["message"]
    assert "LORA_OPEN_INGEST" in answer["message"]
    assert pi.receive("hxb:EL:L1:U1", key="hxb_" + "A" * 43, **elsewhere)[0] == 401
    assert pi.receive("hxb:EL:L1:U1", key=keys["writer"], **elsewhere)[0] == 403
    assert pi.receive("hxb:EL:L1:U1", key=keys["device"], **elsewhere)[0] == 201
    assert rows(pi.farm, "SELECT actor FROM changelog WHERE tbl='batches' ORDER BY seq DESC LIMIT 1") == ["api:the-device"]
    assert pi.receive("hxb:EL:L2:U2", key="wrong")[0] == 401, "a wrong key is refused from this machine too"


def test_no_key_opens_the_rest_and_each_role_only_its_own(pi, keys):
    """The earlier system (failure I) took any key while none was set."""
    allowed = {
        ("GET", "/api/lora/buffer-status"): {"device", "replica", "writer", "office"},
        ("GET", "/api/lora/payloads"): {"replica", "writer", "office"},
        ("POST", "/api/lora/process"): {"writer", "office"},
        ("GET", "/api/sync/schema"): {"replica", "office"},
        ("GET", "/api/sync/digest"): {"replica", "office"},
        ("GET", "/api/key"): set(ROLES),
    }
    allowed |= {("POST", "/api/users"): {"office"}, ("PATCH", "/api/users/1"): {"office"}, ("POST", "/api/users/password"): {"office"}}
    writes = ("pens", "batches", "cattle", "cattle/1/weights", "cattle/1/move", "cattle/1/tags")
    allowed |= {("POST", f"/api/{path}"): {"writer", "office"} for path in writes}
    rows_of = ("pens", "batches", "cattle")
    allowed |= {(method, f"/api/{path}/1"): {"writer", "office"} for method in ("PATCH", "DELETE") for path in rows_of}
    for (method, path), roles in allowed.items():
        body = {} if method != "GET" else None
        assert pi.ask(method, path, body)[0] == 401, path
        assert pi.ask(method, path, body, key="any-key-at-all")[0] in (401, 429), path
        for role, key in keys.items():
            assert (pi.ask(method, path, body, key=key)[0] != 403) == (role in roles), (path, role)


def test_buffer_status_and_payloads_show_what_the_buffer_holds(pi, keys):
    shell(pi.farm, "INSERT INTO lora_payload_buffer(raw_payload) VALUES(CAST(x'68ff' AS TEXT)), (x'00ff'), (7)")
    pi.receive("hxb:LIST:L1x:U1x")
    pi.receive("hxb:LIST:L2x:U2x")
    status, counts = pi.ask("GET", "/api/lora/buffer-status", key=keys["writer"])
    assert (status, counts["total"]) == (200, sum(counts["counts"].values()))
    assert set(counts["counts"]) == {"received", "processed", "error"}
    _, listed = pi.ask("GET", "/api/lora/payloads?limit=1&offset=1&status=processed", key=keys["replica"])
    assert [payload["raw_payload"] for payload in listed["payloads"]] == ["hxb:LIST:L1x:U1x"]
    _, listed = pi.ask("GET", "/api/lora/payloads?limit=1000", key=keys["writer"])
    assert {"h\ufffd", "7"} < {payload["raw_payload"] for payload in listed["payloads"]}
    for query in ("limit=0", "limit=x", "offset=-1", "status=lost", "limit=99999999999999999999"):
        assert pi.ask("GET", f"/api/lora/payloads?{query}", key=keys["replica"])[0] == 400, query


def test_process_runs_the_worker_now(pi, keys):
    shell(pi.farm, "INSERT INTO lora_payload_buffer(raw_payload) VALUES('hxb:NOW:N1:N2')")
    assert pi.ask("POST", "/api/lora/process", {}, key=keys["writer"])[0] == 200
    assert rows(pi.farm, "SELECT status FROM lora_payload_buffer WHERE raw_payload='hxb:NOW:N1:N2'") == ["processed"]


def test_pens_by_the_write_api(pi, keys):
    writer = keys["writer"]
    status, made = pi.ask("POST", "/api/pens", {"pen_number": "P9", "capacity": 40}, key=writer)
    assert (status, made["pen"]["pen_number"], made["pen"]["capacity"]) == (201, "P9", 40)
    assert rows(pi.farm, "SELECT actor, op FROM changelog WHERE seq=?", Position.parse(made["position"]).seq) == [("api:the-writer", "I")]
    pen = made["pen"]["id"]
    assert pi.ask("POST", "/api/pens", {"pen_number": "P9", "capacity": 1}, key=writer)[0] == 409
    assert pi.ask("PATCH", f"/api/pens/{pen}", {"capacity": 41}, key=writer)[1]["pen"]["capacity"] == 41
    for body in ({"capacity": "41"}, {"capacity": -1}, {"capacity": True}, {"pen_number": ""}, {"id": 3}, {}, {"pen_number": "x" * 51}):
        assert pi.ask("PATCH", f"/api/pens/{pen}", body, key=writer)[0] == 400, body
    assert pi.ask("POST", "/api/pens", {"capacity": 3}, key=writer)[0] == 400
    assert pi.ask("DELETE", f"/api/pens/{pen}", key=writer)[1]["deleted"]["pen_number"] == "P9"
    assert pi.ask("DELETE", f"/api/pens/{pen}", key=writer)[0] == 404
    assert pi.ask("DELETE", f"/api/pens/{2**64}", key=writer)[0] in (404, 405), "no row can have that id"


def test_weights_by_the_write_api(pi, keys):
    pi.receive("hxb:W:W1:W2")
    [animal] = rows(pi.farm, "SELECT id FROM cattle WHERE lf_tag='W1'")
    body = {"weight": 412.5, "recorded_at": "2024-01-15T10:30:00Z"}
    status, made = pi.ask("POST", f"/api/cattle/{animal}/weights", body, key=keys["writer"])
    assert (status, made["weight"]["weight"], made["weight"]["recorded_at"]) == (201, 412.5, "2024-01-15T10:30:00")
    assert rows(pi.farm, "SELECT weight FROM cattle WHERE id=?", animal) == [412.5]
    for body in ({"weight": 0}, {"weight": "412"}, {"weight": 9e9}, {"weight": True}, {}, {"weight": 1, "recorded_at": "yesterday"}):
        assert pi.ask("POST", f"/api/cattle/{animal}/weights", body, key=keys["writer"])[0] == 400, body
    assert pi.ask("POST", "/api/cattle/999999/weights", {"weight": 1}, key=keys["writer"])[0] == 404


def test_eight_senders_at_once_are_all_answered_and_none_is_processed_twice(pi):
    answers = []

    def send(sender):
        answers.extend(pi.receive(f"hxb:MANY:M{number}:N{number}")[0] for number in range(40))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201] * 40 + [409] * 280
    assert rows(pi.farm, "SELECT count(*), sum(times_received) FROM lora_payload_buffer WHERE batch_number='MANY'") == [(40, 320)]
    assert rows(pi.farm, "SELECT count(*) FROM cattle WHERE lf_tag GLOB 'M[0-9]*'") == [40]


def test_open_ingest_takes_payloads_without_a_key_and_trust_can_be_taken_from_loopback(tmp_path):
    for settings, expected in (({"LORA_OPEN_INGEST": "True"}, 201), ({}, 401)):
        folder = tmp_path / str(expected)
        folder.mkdir()
        pi = Pi(folder, TRUST_LOOPBACK="False", **settings)
        with pi.serving():
            assert pi.receive("hxb:A:B:C")[0] == expected


def test_another_database_is_served_without_farm_routes(tmp_path):
    path = str(tmp_path / "other.db")
    shell(path, "CREATE TABLE t(a); INSERT INTO t VALUES(1)")
    pi = Pi(tmp_path, PI_DATABASE=path)
    with pi.serving():
        status, answer = pi.receive("hxb:A:B:C")
        assert (status, "has no farm tables" in answer["message"]) == (404, True)
        assert pi.ask("POST", "/api/pens", {"pen_number": "P", "capacity": 1})[0] == 404
    assert rows(path, "SELECT count(*) FROM sqlite_schema WHERE name='cattle'") == [0]


def test_a_stop_answers_everything_and_ends_in_time(tmp_path):
    pi = Pi(tmp_path)
    with pi.serving() as process:
        assert pi.receive("hxb:A:B:C")[0] == 201
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    with pi.serving():
        assert pi.receive("hxb:A:B:C")[0] == 409
    assert rows(pi.farm, "SELECT status FROM lora_payload_buffer") == ["processed"]


def test_payloads_left_by_a_crash_are_processed_after_the_restart(tmp_path):
    """The earlier system (failure O) left them in `processing` for good."""
    pi = Pi(tmp_path)
    with pi.serving() as process:
        shell(pi.farm, "INSERT INTO lora_payload_buffer(raw_payload) SELECT 'hxb:C:L'||value||':U'||value FROM generate_series(1, 3000)")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
    with pi.serving():
        wait_until(lambda: rows(pi.farm, "SELECT count(*) FROM lora_payload_buffer WHERE status='processed'") == [3_000])
    assert rows(pi.farm, "SELECT count(*) FROM cattle") == [3_000]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PI_TLS": "True"}, "certificate"),
        ({"PI_PORT": "0"}, "PI_PORT"),
        ({"DATA_DIR": "/proc/nowhere"}, "DATA_DIR"),
    ],
)
def test_what_prevents_the_start_is_one_line_and_exit_1(tmp_path, settings, said):
    pi = Pi(tmp_path, **settings)
    done = subprocess.run([sys.executable, "-m", "pi", "serve"], cwd=tmp_path, env=pi.environ, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert said in done.stderr


def test_a_farm_that_cannot_be_opened_prevents_the_start_and_is_named(tmp_path):
    (tmp_path / "farm.db").write_text("a letter to the farmer " * 500)
    pi = Pi(tmp_path)
    done = subprocess.run([sys.executable, "-m", "pi", "serve"], cwd=tmp_path, env=pi.environ, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "farm.db is not a database" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_secret_has_a_default(tmp_path):
    """The earlier system (failures I0 and E) had one in its source, and an admin with the password admin."""
    pi = Pi(tmp_path)
    with pi.serving():
        assert pi.command("key", "list", "--json") == "[]"
        assert pi.command("user", "list", "--json") == "[]"
