"""The process of a role, as it really runs: gunicorn, TLS, rude clients, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from changelog.node import worker

HERE = Path(__file__).parent
START_DEADLINE = 20.0  # s for a process to serve
STOP_DEADLINE = 5.0  # s for a process to end
RUDE = 80  # clients of each rude kind; the role under test has 36 threads
GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Running:
    """A role that runs, and how to talk with it."""

    def __init__(self, folder: Path, certificate: tuple[Path, Path] | None, **facts: Any) -> None:
        self.port = facts.setdefault("port", free_port())
        self.diary = folder / f"diary-{self.port}"
        self.diary.touch()
        self.tls = ssl.create_default_context(cafile=certificate[0]) if certificate else None
        facts["diary"] = str(self.diary)
        if certificate:
            facts["certificate"], facts["key"] = map(str, certificate)
        environ = os.environ | {"PYTHONPATH": str(HERE.parent)} | facts.pop("environ", {})
        command = [sys.executable, str(HERE / "node_role.py"), json.dumps(facts)]
        self.process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, start_new_session=True)

    def ready(self) -> Running:
        until(lambda: self.process.poll() is not None or self.answers(), START_DEADLINE)
        assert self.process.poll() is None, self.said()
        return self

    def answers(self) -> bool:
        with suppress(OSError):
            return self.get("/").startswith(b"HTTP/1.1 200")
        return False

    def connect(self, timeout: float = 10) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        return self.tls.wrap_socket(sock, server_hostname="localhost") if self.tls else sock

    def get(self, path: str) -> bytes:
        with self.connect() as sock:
            sock.sendall(GET % path.encode())
            return answer(sock)

    def worker(self) -> int:
        """The pid of the worker."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def said(self) -> str:
        """What the ended process has written on stderr."""
        return self.process.communicate(timeout=STOP_DEADLINE)[1].decode()

    def stop(self, sig: int = signal.SIGTERM) -> float:
        """Send `sig` to the master; the seconds that the end took."""
        began = time.monotonic()
        self.process.send_signal(sig)
        self.process.wait(STOP_DEADLINE + 5)
        return time.monotonic() - began

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def until(condition: Callable[[], Any], seconds: float) -> None:
    """Wait until `condition` holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def answer(sock: socket.socket) -> bytes:
    """One answer with a Content-Length, whole."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += some(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    assert length, data
    while len(body) < int(length[1]):
        body += some(sock)
    return head + b"\r\n\r\n" + body


def some(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    if not data:
        raise ConnectionResetError("the server closed")
    return data


def closed(sock: socket.socket) -> bool:
    """Whether the server ends this connection, having sent nothing more."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def client_hello() -> bytes:
    """The first bytes of a real TLS handshake."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(into, out, server_hostname="localhost").do_handshake()
    return out.read()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    curve, names = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1", "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = f"openssl req -x509 {curve} -nodes -days 2 -keyout {key} -out {cert} {names}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return cert, key


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start roles; all of them are ended after the test."""
    started: list[Running] = []

    def start(certificate: tuple[Path, Path] | None = None, **facts: Any) -> Running:
        started.append(Running(tmp_path, certificate, **facts))
        return started[-1]

    yield start
    for role in started:
        role.kill()


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Running]:
    """A role with TLS, short deadlines and few threads, for the tests that leave it running."""
    role = Running(
        tmp_path_factory.mktemp("https"), certificate, worker={"HANDSHAKE_DEADLINE": 1.0, "REQUEST_DEADLINE": 1.5, "BODY_DEADLINE": 1.0}
    )
    yield role.ready()
    role.kill()


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same without TLS."""
    role = Running(tmp_path_factory.mktemp("http"), None, worker={"REQUEST_DEADLINE": 1.5, "BODY_DEADLINE": 1.0})
    yield role.ready()
    role.kill()


@pytest.fixture(params=["http", "https"])
def role(request: pytest.FixtureRequest) -> Running:
    """Either of the two."""
    running: Running = request.getfixturevalue(request.param)
    return running


# --- Requests


def test_one_connection_carries_many_requests(role: Running) -> None:
    with role.connect() as sock:
        for _ in range(3):
            sock.sendall(GET % b"/")
            assert answer(sock).startswith(b"HTTP/1.1 200")


def test_a_small_answer_is_one_record_of_tls(https: Running) -> None:
    with https.connect() as sock:
        for _ in range(3):
            sock.sendall(GET % b"/")
            head, _, body = some(sock).partition(b"\r\n\r\n")  # what is read at a time is of one record
            assert int(re.findall(rb"\r\nContent-Length: (\d+)", head)[0]) == len(body) > 0


def test_an_answer_without_a_body_comes_before_the_next_one(role: Running) -> None:
    with role.connect() as sock:
        sock.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert some(sock).endswith(b"\r\n\r\n")
        sock.sendall(GET % b"/")
        assert answer(sock).startswith(b"HTTP/1.1 200")


def test_a_file_comes_behind_its_head(role: Running) -> None:
    head, _, body = role.get("/file").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and body == (HERE / "node_role.py").read_bytes()


def test_requests_that_come_in_one_piece_are_answered_in_order(role: Running) -> None:
    with role.connect() as sock:
        sock.sendall(GET % b"/" + GET % b"/nothing" + GET[:20])
        data = b""
        while data.count(b"HTTP/1.1 ") < 2 or not data.endswith(b"}\n"):
            data += some(sock)
        assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"404"]


@pytest.mark.parametrize("size", [0, 300, worker.GATHERED_BODY, worker.GATHERED_BODY + 1, 300_000])
def test_a_body_may_come_in_pieces(role: Running, size: int) -> None:
    body = b"x" * size
    with role.connect() as sock:
        sock.sendall(b"POST /size HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + body[:100])
        time.sleep(0.05)  # not a wait for something: two pieces are the point
        sock.sendall(body[100:])
        assert answer(sock).endswith(b'{"size":%d}\n' % size)


def test_a_chunked_body_is_read(role: Running) -> None:
    with role.connect() as sock:
        sock.sendall(b"POST /size HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        sock.sendall(b"1\r\n!\r\n0\r\n\r\n")
        assert answer(sock).endswith(b'{"size":6}\n')


def test_a_client_that_waits_for_our_consent_gets_it(role: Running) -> None:
    with role.connect() as sock:
        sock.sendall(b"POST /size HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert some(sock) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hello")
        assert answer(sock).endswith(b'{"size":5}\n')


def test_a_websocket_takes_over_its_connection(role: Running) -> None:
    with role.connect() as sock:
        sock.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: abc\r\n\r\n")
        assert some(sock).startswith(b"HTTP/1.1 101 ")
        for piece in (b"one", b"two"):
            sock.sendall(piece)
            assert some(sock) == piece
    assert role.answers()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_role_bound_to_all_addresses_serves_both_families(run: Callable[..., Running]) -> None:
    role = run(bind="::").ready()
    assert b'"peer":"::ffff:127.0.0.1"' in role.get("/")
    with socket.create_connection(("::1", role.port), timeout=10) as sock:
        sock.sendall(GET % b"/")
        assert b'"peer":"::1"' in answer(sock)


def test_forwarded_headers_change_nothing(role: Running) -> None:
    with role.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: ftp\r\nX-Forwarded-For: 8.8.8.8\r\nForwarded: for=8.8.8.8\r\n")
        sock.sendall(b"SCRIPT_NAME: /evil\r\n\r\n")
        body = json.loads(answer(sock).partition(b"\r\n\r\n")[2])
    assert body == {"scheme": "https" if role.tls else "http", "peer": "127.0.0.1", "length": 0}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /?" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % number for number in range(200)) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\nhello", 400),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999999999999\r\n\r\n{", 413),
    ],
)
def test_a_malformed_request_is_refused_with_a_problem_document(role: Running, request_: bytes, status: int) -> None:
    with role.connect() as sock:
        sock.sendall(request_)
        data = answer(sock)
    assert data.startswith(b"HTTP/1.1 %d " % status) and b"application/problem+json" in data
    assert json.loads(data.partition(b"\r\n\r\n")[2])["success"] is False


def test_http_to_the_https_port_is_told_so(https: Running) -> None:
    with socket.create_connection(("127.0.0.1", https.port), timeout=10) as sock:
        sock.sendall(GET % b"/")
        assert b"This port speaks https" in answer(sock)


def test_old_tls_is_refused(https: Running) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", https.port), timeout=10) as sock, pytest.raises(ssl.SSLError):
        old.wrap_socket(sock)


# --- Rude clients


def drip(role: Running, opening: bytes, dripped: bytes, *, tls: bool, pause: float = 0.2) -> float:
    """Send `opening` and then `dripped` byte by byte; the seconds until the server ends it (it must, before the bytes are out)."""
    with role.connect() if tls else socket.create_connection(("127.0.0.1", role.port)) as sock:
        began = time.monotonic()
        sock.sendall(opening)
        sock.settimeout(pause)
        for byte in dripped:
            try:
                if closed(sock):
                    return time.monotonic() - began
            except TimeoutError:
                with suppress(ConnectionError):
                    sock.sendall(bytes([byte]))
    raise AssertionError("the server waited to the end")


def test_a_dripping_handshake_ends_at_its_deadline(https: Running) -> None:
    hello = client_hello()
    assert drip(https, hello[:100], hello[100:150], tls=False) < 1 + 1.5


def test_a_dripping_head_ends_at_its_deadline(role: Running) -> None:
    assert drip(role, b"GET / HTTP/1.1\r\nX: ", b"x" * 50, tls=True) < 1.5 + 1.5


def test_a_dripping_small_body_ends_at_its_deadline(role: Running) -> None:
    assert drip(role, b"POST /size HTTP/1.1\r\nContent-Length: 100\r\n\r\n", b"x" * 50, tls=True) < 1.5 + 1.5


def test_a_dripping_second_request_ends_at_its_deadline(role: Running) -> None:
    with role.connect() as sock:
        sock.sendall(GET % b"/")
        answer(sock)
        began = time.monotonic()
        sock.sendall(b"G")
        assert closed(sock)
        assert time.monotonic() - began < 1.5 + 1.5


@pytest.mark.parametrize("body", [b"Content-Length: 1000000\r\n\r\nx", b"Transfer-Encoding: chunked\r\n\r\n5\r\nx"])
def test_a_large_body_that_stops_is_a_400(role: Running, body: bytes) -> None:
    with role.connect() as sock:
        sock.sendall(b"POST /size HTTP/1.1\r\nHost: x\r\n" + body)
        assert answer(sock).startswith(b"HTTP/1.1 400 ")


def test_a_malformed_chunk_is_a_400(role: Running) -> None:
    with role.connect() as sock:
        sock.sendall(b"POST /size HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert answer(sock).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_never_closes_holds_up_nobody(role: Running) -> None:
    lazy = [role.connect() for _ in range(5)]
    for sock in lazy:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer(sock)
    began = time.monotonic()
    assert role.answers()
    assert time.monotonic() - began < 1
    for sock in lazy:
        sock.close()


def test_a_client_that_takes_nothing_of_its_answer_is_given_up(run: Callable[..., Running]) -> None:
    role = run(worker={"SEND_STALL": 1000}).ready()
    with role.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(GET % b"/flood")
        until(lambda: "flood ended" in role.diary.read_text(), 10)


def test_the_connection_held_longest_makes_room_for_a_new_one(run: Callable[..., Running]) -> None:
    role = run(worker={"HELD_LIMIT": 5}).ready()
    held = [role.connect() for _ in range(20)]
    assert role.answers()
    assert all(closed(sock) for sock in held[:14])
    for sock in held:
        sock.close()


def test_half_handshakes_and_half_requests_hold_up_nobody(https: Running) -> None:
    over = threading.Event()
    hello = client_hello()[:100]

    def rude(connect: Callable[[], socket.socket], opening: bytes) -> None:
        while not over.is_set():
            with suppress(OSError), connect() as sock:
                sock.sendall(opening)
                sock.settimeout(0.5)
                while not over.is_set():
                    with suppress(TimeoutError):
                        if closed(sock):
                            break

    kinds = [(lambda: socket.create_connection(("127.0.0.1", https.port)), hello), (https.connect, b"GET / HTTP/1.1\r\n")]
    clients = [threading.Thread(target=rude, args=kind) for kind in kinds for _ in range(RUDE)]
    for client in clients:
        client.start()
    took = []
    until_ = time.monotonic() + 4
    while time.monotonic() < until_:
        began = time.monotonic()
        assert https.answers()
        took.append(time.monotonic() - began)
    over.set()
    for client in clients:
        client.join()
    assert sorted(took)[int(len(took) * 0.99)] <= 1, f"{len(took)} requests, the slowest took {max(took):.2f} s"


# --- Start


def test_services_start_in_order_and_stop_in_reverse(run: Callable[..., Running]) -> None:
    role = run().ready()
    assert role.diary.read_text().splitlines() == ["start first", "start second"]
    role.stop()
    assert role.process.returncode == 0
    assert role.diary.read_text().splitlines()[2:] == ["stop second", "stop first"]


def refusal(role: Running) -> str:
    """The one line of a role that cannot start."""
    text = role.said()
    assert role.process.returncode == 1
    assert text.count("\n") == 1, text
    return text


def test_a_taken_port_is_one_clear_line(run: Callable[..., Running]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"127.0.0.1:{port} is taken by another program" in refusal(run(port=port))


def test_an_address_of_another_machine_is_one_clear_line(run: Callable[..., Running]) -> None:
    assert "correct PI_BIND" in refusal(run(bind="192.0.2.1"))
    assert "correct PI_BIND" in refusal(run(bind="no.such.host.invalid"))


def test_a_certificate_that_cannot_be_used_is_one_clear_line(
    run: Callable[..., Running], certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    good, key = certificate
    missing, text, locked = tmp_path / "missing.pem", tmp_path / "text.pem", tmp_path / "locked.pem"
    text.write_text("no key")
    subprocess.run(f"openssl ec -aes128 -passout pass:x -in {key} -out {locked}".split(), check=True, capture_output=True)
    assert f"{missing} cannot be read: No such file" in refusal(run((good, missing)))
    assert "not a certificate and its private key" in refusal(run((good, text)))
    assert "passphrase" in refusal(run((good, locked)))


def test_a_role_that_cannot_be_made_ends_with_one_clear_line(run: Callable[..., Running]) -> None:
    assert refusal(run(fail="farm.db is damaged")) == "pi cannot start: farm.db is damaged\n"


def test_a_service_that_cannot_start_ends_the_role_and_the_services_before_it(run: Callable[..., Running]) -> None:
    role = run(fail_service="second")
    assert refusal(role) == "pi cannot start: the file of the service is damaged\n"
    assert role.diary.read_text().splitlines() == ["start first", "stop first"]


def test_systemd_is_told_when_the_role_is_ready(run: Callable[..., Running], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(START_DEADLINE)
        run(environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert b"READY=1" in systemd.recv(1000)


# --- Stop


def test_a_killed_worker_is_replaced_within_two_seconds(run: Callable[..., Running]) -> None:
    role = run().ready()
    first = role.worker()
    os.kill(first, signal.SIGKILL)
    until(role.answers, 2)
    assert role.worker() != first


def test_a_worker_whose_master_is_gone_ends_too(run: Callable[..., Running]) -> None:
    role = run().ready()
    orphan = role.worker()
    role.process.kill()
    until(lambda: not Path(f"/proc/{orphan}").exists(), STOP_DEADLINE)
    assert role.diary.read_text().splitlines()[2:] == ["stop second", "stop first"]


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_an_idle_role_stops_at_once(run: Callable[..., Running], sig: int) -> None:
    role = run().ready()
    with role.connect() as kept:
        kept.sendall(GET % b"/")
        answer(kept)
        assert role.stop(sig) < 2
    assert role.process.returncode == 0
    socket.create_server(("127.0.0.1", role.port)).close()


def test_ctrl_c_reaches_master_and_worker_and_the_end_is_orderly(run: Callable[..., Running]) -> None:
    role = run().ready()
    os.killpg(role.process.pid, signal.SIGINT)
    role.process.wait(STOP_DEADLINE)
    assert role.process.returncode == 0
    assert role.diary.read_text().splitlines()[2:] == ["stop second", "stop first"]


def test_a_running_request_is_finished_before_the_end(run: Callable[..., Running]) -> None:
    role = run().ready()
    with role.connect() as sock:
        sock.sendall(GET % b"/sleep/1.0")
        until(lambda: threads(role.worker()) > 1, 5)
        role.process.terminate()
        assert answer(sock).startswith(b"HTTP/1.1 200")
    role.process.wait(STOP_DEADLINE)


def test_the_end_comes_within_five_seconds_whatever_clients_do(run: Callable[..., Running], certificate: tuple[Path, Path]) -> None:
    role = run(certificate, sockets=4, slow_stop=60).ready()
    raw = [socket.create_connection(("127.0.0.1", role.port)) for _ in range(10)]
    for sock in raw[5:]:
        sock.sendall(client_hello()[:100])
    half, poll, stream, sleep, echo = (role.connect() for _ in range(5))
    half.sendall(b"GET / HTTP/1.1\r\n")
    poll.sendall(GET % b"/poll")
    stream.sendall(GET % b"/stream")
    sleep.sendall(GET % b"/sleep/60.0")
    echo.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: abc\r\n\r\n")
    assert some(echo).startswith(b"HTTP/1.1 101 ") and some(stream).startswith(b"HTTP/1.1 200")
    assert role.stop() < STOP_DEADLINE
    assert role.process.returncode == 0
    assert answer(poll).endswith(b'{"stopped":true}\n')
    assert "did not stop in" in role.said()
    socket.create_server(("127.0.0.1", role.port)).close()
    for sock in (*raw, half, poll, stream, sleep, echo):
        sock.close()


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))
