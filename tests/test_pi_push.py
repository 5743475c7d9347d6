"""The Pi's push, as it runs: gunicorn, TLS, clients that are let in, kept out, slow, silent or rude."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import socketio
import websocket
from cutting_proxy import Behaviour, CuttingProxy
from farm_processes import Farm, Seed, eventually
from listener import Listener, Refused

from changelog.compression import unpack
from changelog.connection import connect
from changelog.log import head
from changelog.node import sockets
from changelog.node.runner import Role
from pi.keys import Keys
from pi.push import FRAME_BYTES, FRAME_ROWS

MEDIA_TYPE = "application/x-ndjson"
UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: pi\r\nConnection: {connection}\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: {key}\r\n{more}\r\n"
)
SOCKET = "/socket.io/?EIO=4&transport=websocket"
TRIGGERS = Path(__file__).parents[1] / "triggers.sql"
NONCE = "AAAAAAAAAAAAAAAAAAAAAA=="

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory, seed: Seed) -> Iterator[Farm]:
    """A Pi that runs, and a table for what is odd."""
    farm = Farm(tmp_path_factory.mktemp("push"), seed)
    try:
        farm.pi.start()
        farm.pi.sql("CREATE TABLE odd(k PRIMARY KEY, v)")
        yield farm
    finally:
        farm.close()


@pytest.fixture
def one_pi(tmp_path: Path, seed: Seed) -> Iterator[Farm]:
    """A Pi that only this test uses."""
    farm = Farm(tmp_path, seed)
    try:
        farm.pi.start()
        yield farm
    finally:
        farm.close()
        gc.collect()  # the library leaves a socket to it when a server goes: here, not in somebody else's test


def listen(farm: Farm, key: str | None = "", replica: str = "", url: str = "", **more: Any) -> closing[Listener]:
    return closing(Listener(url or farm.pi.url, farm.pi.data / "pi-cert.pem", farm.api_key if key == "" else key, replica, **more))


def greeted(listener: Listener) -> dict[str, Any]:
    told: dict[str, Any] = listener.next_named("changelog")
    assert told["frame"] is None
    return told


def metric(farm: Farm, name: str) -> float:
    lines = farm.ask("GET", "/metrics", farm.api_key).text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def pulled(farm: Farm, frame: bytes) -> bytes:
    """What a pull returns from where this frame starts."""
    start = json.loads(frame.split(b"\n", 1)[0])
    parameters = {name: start[name] for name in ("after", "epoch", "check")}
    answer = farm.ask("GET", "/api/sync/changes", farm.api_key, params=parameters, headers={"Accept": MEDIA_TYPE})
    assert answer.ok, answer.text
    return answer.content


def raw(farm: Farm, text: str) -> ssl.SSLSocket:
    """A connection on which `text` was sent."""
    context = ssl.create_default_context(cafile=farm.pi.data / "pi-cert.pem")
    plain = socket.create_connection(("127.0.0.1", int(farm.pi.settings["PI_PORT"])), timeout=15)
    sock = context.wrap_socket(plain, server_hostname="localhost")
    sock.sendall(text.encode())
    return sock


def whole(sock: ssl.SSLSocket) -> bytes:
    """The head of an upgrade, or a problem document with its head."""
    answer = sock.recv(3000)
    while not answer.startswith(b"HTTP/1.1 101") and not answer.endswith(b"}\n"):
        piece = sock.recv(3000)
        assert piece, answer
        answer += piece
    return answer


def memory(farm: Farm) -> float:
    """MB resident in the Pi's worker."""
    return max(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in farm.pi.pids()) * os.sysconf("SC_PAGE_SIZE") / 1e6


# --- who is let in


def test_without_the_key_of_a_replica_nobody_listens(pi: Farm) -> None:
    made = pi.pi.command("key", "add", "radio", "--role", "device")
    for key, reason in ((None, "a key is needed"), ("hxb_wrong", "not known here"), (made.stdout.strip(), "the role device")):
        with pytest.raises(Refused, match=reason):
            listen(pi, key)
    with pytest.raises(Refused, match="not known here"):
        listen(pi, "ключ".encode().decode("latin-1"))
    assert metric(pi, "drover_sockets") == 0


def test_a_client_is_told_at_once_where_the_log_stands(pi: Farm) -> None:
    with listen(pi) as listener:
        told = greeted(listener)
        assert listener.opened["pingInterval"] == 5000 and listener.opened["pingTimeout"] == 5000
        assert metric(pi, "drover_sockets") == 1
    facts = pi.sync("/schema")
    assert (told["epoch"], told["head"]) == (facts["epoch"], facts["seq"])
    eventually(lambda: metric(pi, "drover_sockets") == 0)


def test_beyond_the_cap_a_client_is_refused_and_the_others_are_served_until_there_is_room(pi: Farm) -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen(pi)) for _ in range(Role.sockets)]
        for listener in listeners:
            greeted(listener)
        with pytest.raises(Refused, match=f"all {Role.sockets} sockets are taken"):
            listen(pi)
        assert metric(pi, "drover_sockets") == Role.sockets
        pi.pi.sql("INSERT INTO odd VALUES('cap', 1)")
        assert all(listener.next_named("changelog")["frame"] for listener in listeners)
        listeners[0].close()
        last = stack.enter_context(eventually(lambda: _try_to_listen(pi)))
        greeted(last)


def _try_to_listen(farm: Farm) -> closing[Listener] | None:
    with suppress(Refused):
        return listen(farm)
    return None


def test_who_listens_with_a_key_that_is_revoked_hears_no_more(pi: Farm) -> None:
    key = pi.pi.command("key", "add", "former", "--role", "replica").stdout.strip()
    with listen(pi, key) as former, listen(pi) as listener:
        greeted(former)
        greeted(listener)
        assert pi.pi.command("key", "revoke", "former").returncode == 0
        assert former.ended(10) < 5
        pi.pi.sql("INSERT INTO odd VALUES('revoked', 1)")
        assert listener.next_named("changelog")["frame"]
    assert key not in pi.pi.log and "former" in pi.pi.log


def test_what_is_committed_after_a_key_was_revoked_is_not_told_to_who_listens_with_it(pi: Farm) -> None:
    """Five times: who was judged by the clock alone heard of a commit that came at once."""
    for attempt in range(5):
        name = f"former {attempt}"
        key = _add_key(pi, name)
        with listen(pi, key) as former, listen(pi) as listener:
            greeted(former)
            greeted(listener)
            with closing(Keys(pi.pi.data / "pi.db")) as keys:
                keys.revoke(name)
            pi.pi.sql(f"INSERT INTO odd VALUES('{name}', 1)")
            assert listener.next_named("changelog")["frame"]
            with pytest.raises((websocket.WebSocketConnectionClosedException, OSError)):
                former.next_named("changelog", 5)


def _add_key(farm: Farm, name: str) -> str:
    with closing(Keys(farm.pi.data / "pi.db")) as keys:
        return keys.add(name, "replica")


def test_a_long_poll_with_a_key_that_is_revoked_meanwhile_brings_nothing(pi: Farm) -> None:
    key = _add_key(pi, "poller")
    facts = pi.sync("/schema")
    asked = {"after": facts["seq"], "epoch": facts["epoch"], "check": facts["check"], "wait": 20}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pi.ask, "GET", "/api/sync/changes", key, params=asked, headers={"Accept": MEDIA_TYPE})
        with closing(Keys(pi.pi.data / "pi.db")) as keys:
            eventually(lambda: any(row["name"] == "poller" and row["last_used_at"] for row in keys.rows()))
            keys.revoke("poller")
        pi.pi.sql("INSERT INTO odd VALUES('while it waits', 1)")
        answer = waiting.result(30)
    assert answer.status_code == 401 and "while it waits" not in answer.text


@pytest.mark.parametrize("let_in", [True, False])
def test_who_upgrades_and_then_is_silent_is_cut_off(pi: Farm, let_in: bool) -> None:
    key = f"X-API-Key: {pi.api_key}\r\n" if let_in else ""
    began = time.monotonic()
    with raw(pi, UPGRADE.format(path=SOCKET, connection="Upgrade", key=NONCE, more=key)) as sock:
        assert sock.recv(100).startswith(b"HTTP/1.1 101")
        with suppress(OSError):
            while sock.recv(1000):
                pass
    assert time.monotonic() - began < sockets.PATIENCE + 2 * sockets.LOOK + 2


def test_strangers_take_no_more_than_a_few_sockets_and_no_place_of_a_replica(one_pi: Farm) -> None:
    with ExitStack() as stack:
        request = UPGRADE.format(path=SOCKET, connection="Upgrade", key=NONCE, more="")
        first = [stack.enter_context(raw(one_pi, request)) for _ in range(sockets.STRANGERS + 3)]
        answers = [whole(sock) for sock in first]
        assert sum(answer.startswith(b"HTTP/1.1 101") for answer in answers) == sockets.STRANGERS
        [*_, last] = (answer for answer in answers if not answer.startswith(b"HTTP/1.1 101"))
        assert last.startswith(b"HTTP/1.1 401") and b"application/problem+json" in last
        with listen(one_pi) as listener:
            greeted(listener)


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: pi\r\n\r\n",
        "POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: pi\r\nContent-Length: 2\r\n\r\n40",
        "GET /socket.io/ HTTP/1.1\r\nHost: pi\r\n\r\n",
        UPGRADE.format(path=SOCKET, connection="close", key=NONCE, more=""),
        UPGRADE.format(path=SOCKET, connection="Upgrade", key="short", more=""),
        UPGRADE.format(path=SOCKET + "&sid=made-up", connection="Upgrade", key=NONCE, more=""),
        UPGRADE.format(path="/socket.io/?EIO=3&transport=websocket", connection="Upgrade", key=NONCE, more=""),
    ],
)
def test_half_a_websocket_is_a_bad_request(pi: Farm, request_text: str) -> None:
    with raw(pi, request_text) as sock:
        answer = whole(sock)
    assert answer.startswith(b"HTTP/1.1 400") and b"transports=['websocket']" in answer


def test_a_client_that_talks_too_much_or_nonsense_is_cut_off_and_logged_without_a_traceback(pi: Farm) -> None:
    with listen(pi) as chatty, listen(pi) as rude, listen(pi) as twice, listen(pi) as good:
        greeted(good)
        with suppress(OSError, websocket.WebSocketException):
            for _ in range(2 * sockets.TALK // 50_000):
                chatty.ws.send('42["hello","' + 50_000 * "x" + '"]')
        rude.ws.send_binary(b"\xff\x00")
        rude.ws.send("9{not json")
        twice.ws.send("40")
        assert chatty.ended(5) < 4
        pi.pi.sql("INSERT INTO odd VALUES('talk', 1)")
        assert good.next_named("changelog")["frame"]
    assert "Traceback" not in pi.pi.log


@pytest.mark.parametrize("packet", ["", "x", "bA", "4" + 100_000 * "["], ids=["empty", "no number", "no base64", "too deep"])
def test_what_is_no_packet_ends_that_socket_and_leaves_neither_thread_nor_traceback(one_pi: Farm, packet: str) -> None:
    """The library raised, gunicorn logged it, and the socket's writer stayed behind: a stranger could fill the log."""
    with listen(one_pi) as good:
        greeted(good)
        one_pi.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('before', 1)")
        assert good.next_named("changelog")["frame"]  # the file is watched now, which takes threads
        few = _threads(one_pi)
        with listen(one_pi) as rude:
            rude.ws.send(packet)
            assert rude.ended(5) < 2
        one_pi.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('heard', 1)")
        assert good.next_named("changelog")["frame"]
        eventually(lambda: metric(one_pi, "drover_sockets") == 1)
        eventually(lambda: _threads(one_pi) <= few + 1)  # one more of the pool
    assert "[ERROR]" not in one_pi.pi.log and "Traceback" not in one_pi.pi.log


def test_a_write_to_who_has_gone_is_the_error_that_gunicorn_does_not_log() -> None:
    """It judges by the number: without one, who goes while the upgrade is answered left a traceback."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(BrokenPipeError) as failed:
        for _ in range(2):
            sockets.Wire(ours).send(b"HTTP/1.1 101")
    assert failed.value.errno == errno.EPIPE


def is_watched(farm: Farm) -> bool:
    """Whether the Pi has the kernel tell it of writes."""
    files = [os.readlink(fd) for pid in farm.pi.pids() for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    return "anon_inode:inotify" in files


# --- what is told


def test_the_file_is_watched_only_once_somebody_listens_and_who_comes_later_hears_all_the_same(one_pi: Farm) -> None:
    assert one_pi.post("hxb:PUSH:LF1:UHF1").status_code == 201
    assert not is_watched(one_pi)
    for number in range(3):
        with listen(one_pi) as listener:
            greeted(listener)
            one_pi.pi.sql(f"INSERT INTO pens(pen_number, capacity) VALUES('N{number}', 1)")
            assert listener.next_named("changelog")["frame"]
            assert is_watched(one_pi)
        eventually(lambda: metric(one_pi, "drover_sockets") == 0)
        assert one_pi.post(f"hxb:PUSH:LF{number}:UHF").status_code in (201, 409)  # told to nobody


def test_a_frame_is_byte_for_byte_what_a_pull_returns_whoever_wrote(pi: Farm) -> None:
    with listen(pi) as listener:
        greeted(listener)
        assert pi.post("hxb:PUSH:LF1:UHF1").status_code == 201
        ours = listener.next_named("changelog")
        assert ours["frame"] == pulled(pi, ours["frame"])
        pi.pi.sql("INSERT INTO odd VALUES(x'00ff', CAST(x'61ff' AS TEXT)), (9e999, -0.0), (9007199254740993, 'ä')")
        typed = listener.next_named("changelog")
        assert typed["frame"] == pulled(pi, typed["frame"])
        assert json.loads(typed["frame"].split(b"\n", 1)[0])["after"] == ours["head"]
        assert typed["head"] == ours["head"] + 3


def test_who_takes_packed_frames_is_given_a_dictionary_and_frames_of_a_fifth(one_pi: Farm) -> None:
    one_pi.pi.sql("INSERT INTO pens(pen_number, capacity, description) VALUES('B', 3, '" + "x" * 10_000 + "')")
    one_pi.pi.sql(
        "INSERT INTO users(username, password_hash) VALUES('eve', 'scrypt:secret'); INSERT INTO pens(pen_number, capacity) VALUES('A', 1)"
    )
    with listen(one_pi) as plain, listen(one_pi, replica="one", packing="deflate") as one:
        greeted(plain)
        dictionary = greeted(one)["dictionary"]
        assert b'"pens"' in dictionary and b"secret" not in dictionary
        one_pi.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('P1', 3)")
        told, packed = plain.next_named("changelog"), one.next_named("changelog")
        assert told.keys() == {"epoch", "head", "frame"} and packed.keys() == {"epoch", "head", "packed"}
        assert unpack(packed["packed"], dictionary, FRAME_BYTES) == told["frame"] == pulled(one_pi, told["frame"])
        assert len(packed["packed"]) < len(told["frame"]) / 2.5
        with listen(one_pi, replica="two", packing="deflate") as two, listen(one_pi, replica="three", packing="of another time") as three:
            assert greeted(two)["dictionary"] == dictionary and "dictionary" not in greeted(three)
            one_pi.pi.sql("UPDATE pens SET capacity=4 WHERE pen_number='P1'")
            later = plain.next_named("changelog")
            assert one.next_named("changelog") == two.next_named("changelog")
            assert three.next_named("changelog") == later
        one_pi.pi.sql(f"UPDATE pens SET description=zeroblob({FRAME_BYTES}) WHERE pen_number='P1'")
        assert one.next_named("changelog") == plain.next_named("changelog")  # the head alone


def test_a_replica_gets_the_log_and_others_what_it_means_too(pi: Farm) -> None:
    with listen(pi) as listener, listen(pi, replica="office") as replica:
        greeted(listener)
        greeted(replica)
        pi.pi.sql(
            """BEGIN; INSERT INTO users(username, password_hash) VALUES('eve', 'scrypt:secret');
            INSERT INTO pens(pen_number, capacity) VALUES('E1', 3); COMMIT;"""
        )
        told = listener.next_named("changelog")
        name, user = listener.next()
        assert name == "user:created" and user["new"]["password_hash"] == "***" and user["new"]["username"] == "eve"
        name, pen = listener.next()
        assert name == "pen:created" and pen["seq"] == told["head"] and pen["new"]["capacity"] == 3
        pi.pi.sql("UPDATE pens SET capacity=4")
        assert b"secret" in replica.next()[1]["frame"]
        name, facts = replica.next()
        assert name == "changelog" and facts["head"] == told["head"] + 1


def test_of_a_large_commit_only_the_head_is_told(pi: Farm) -> None:
    with listen(pi) as listener:
        before = greeted(listener)["head"]
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<={FRAME_ROWS})"
        for sql, rows in (
            (f"{numbers} INSERT INTO odd(v) SELECT i FROM n", FRAME_ROWS + 1),
            (f"INSERT INTO odd(v) VALUES(zeroblob({FRAME_BYTES}))", 1),
            (f"INSERT INTO odd(v) VALUES(zeroblob({FRAME_BYTES // 2}))", 1),  # larger as a line
        ):
            pi.pi.sql(sql)
            name, told = listener.next()
            assert name == "changelog" and told["frame"] is None and told["head"] == before + rows
            assert listener.next() == ("changes", {"first": before + 1, "last": before + rows, "count": rows})
            before += rows
        pi.pi.sql("INSERT INTO odd(v) VALUES(1)")
        assert json.loads(listener.next_named("changelog")["frame"].split(b"\n", 1)[0])["after"] == before


def test_many_rows_that_are_small_go_as_a_frame_and_as_one_event(pi: Farm) -> None:
    with listen(pi) as listener:
        before = greeted(listener)["head"]
        pi.pi.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<=150) INSERT INTO odd(v) SELECT i FROM n")
        told = listener.next_named("changelog")
        assert told["frame"] == pulled(pi, told["frame"])
        assert listener.next() == ("changes", {"first": before + 1, "last": before + 151, "count": 151})


def test_a_new_epoch_is_told_by_its_head(one_pi: Farm) -> None:
    with listen(one_pi) as listener:
        before = greeted(listener)
        one_pi.pi.sql(TRIGGERS.read_text().replace("PRAGMA journal_mode=WAL;", ""))  # which would print
        told = listener.next_named("changelog")
        assert told["epoch"] != before["epoch"] and told["frame"] is None
        one_pi.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('seen', 1);")
        assert listener.next_named("changelog")["frame"]


def test_without_tls_it_is_the_same(tmp_path: Path, seed: Seed) -> None:
    farm = Farm(tmp_path, seed)
    farm.pi.settings["PI_TLS"] = False
    try:
        farm.pi.start()
        with listen(farm) as listener:
            greeted(listener)
            farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('A', 1)")
            assert listener.next_named("changelog")["frame"]
    finally:
        farm.close()


# --- the client that people use


def test_the_library_connects_gets_frames_and_comes_again_after_a_restart(one_pi: Farm) -> None:
    heard: list[Any] = []
    session = requests.Session()
    session.verify, session.trust_env = str(one_pi.pi.data / "pi-cert.pem"), False
    client = socketio.Client(http_session=session, reconnection_delay=0.1, reconnection_delay_max=0.5)
    client.on("changelog", heard.append)
    client.connect(one_pi.pi.url, headers={"X-API-Key": one_pi.api_key, "X-Replica-Id": "lib"}, transports=["websocket"])
    try:
        eventually(lambda: len(heard) == 1)
        one_pi.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('A', 1)")
        eventually(lambda: len(heard) == 2)
        assert isinstance(heard[1]["frame"], bytes) and heard[1]["frame"] == pulled(one_pi, heard[1]["frame"])
        one_pi.pi.restart()
        eventually(lambda: len(heard) == 3, 20)
        assert heard[2]["frame"] is None and heard[2]["head"] == heard[1]["head"]
    finally:
        client.disconnect()


# --- slow and dead clients


@pytest.mark.parametrize("large", [False, True])
def test_a_client_that_does_not_read_slows_nobody_and_is_dropped(one_pi: Farm, large: bool) -> None:
    """Though it says that it is there: by the packets, or by the bytes, that wait for it."""
    value = "zeroblob(30000)" if large else "zeroblob(10)"
    db = connect(one_pi.pi.database)
    db.execute("CREATE TABLE odd(k INTEGER PRIMARY KEY, v)")
    with listen(one_pi) as slow, listen(one_pi, replica="fast") as fast:
        slow.ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader = Reader(fast)
        small, began = memory(one_pi), time.monotonic()
        largest, commits = small, []
        while metric(one_pi, "drover_sockets_dropped_total") == 0:
            assert time.monotonic() - began < 60
            slow.ws.send("3")  # an answer to no ping, or to one that it has not read
            for _ in range(50):
                before = time.monotonic()
                db.execute(f"INSERT INTO odd(v) VALUES({value})")
                commits.append(time.monotonic() - before)
                reader.sent[head(db)] = time.monotonic()
                time.sleep(0.003)
            largest = max(largest, memory(one_pi))
        newest = head(db)
        db.close()
        eventually(lambda: reader.head == newest)
        assert slow.ended(20) < 15
    assert reader.gaps == 0
    assert largest - small < 40
    assert statistics.median(commits) < 0.05 and statistics.median(reader.late()) < 0.2
    assert "reads too slowly" in one_pi.pi.log and "Traceback" not in one_pi.pi.log


class Reader:
    """Reads all that comes, and notes when, and whether a frame did not follow the one before."""

    def __init__(self, listener: Listener) -> None:
        self.head: int = greeted(listener)["head"]
        self.gaps = 0
        self.sent: dict[int, float] = {}
        self._came: dict[int, float] = {}
        self._listener = listener
        threading.Thread(target=self._run, daemon=True).start()

    def late(self) -> list[float]:
        """Seconds from commit to frame."""
        return [at - self.sent[seq] for seq, at in self._came.items() if seq in self.sent]

    def _run(self) -> None:
        with suppress(OSError, websocket.WebSocketException):
            while True:
                told = self._listener.next_named("changelog", 60)
                if told["frame"] is not None:
                    self.gaps += json.loads(told["frame"].split(b"\n", 1)[0])["after"] != self.head
                self.head = told["head"]
                self._came[self.head] = time.monotonic()


def test_a_dead_link_is_noticed_within_15_seconds(pi: Farm) -> None:
    """Everything is swallowed, nothing closed: by a client that vanished, or a router that forgot."""
    with CuttingProxy(int(pi.pi.settings["PI_PORT"]), behaviour=Behaviour(stall_after=6_000)) as proxy:
        with listen(pi, url=f"https://127.0.0.1:{proxy.port}") as listener:
            greeted(listener)
            eventually(lambda: metric(pi, "drover_sockets") == 1)
            pi.pi.sql("INSERT INTO odd(v) VALUES(hex(zeroblob(4000)))")
            eventually(lambda: proxy.stalls)
            began = time.monotonic()
            eventually(lambda: metric(pi, "drover_sockets") == 0, 15)
            assert time.monotonic() - began < 15
            eventually(lambda: _threads(pi) <= _threads_of_sockets(0) + 2, 5)


def test_clients_that_come_and_go_leave_nothing_behind(one_pi: Farm) -> None:
    def visit() -> None:
        with listen(one_pi) as listener:
            greeted(listener)
        with suppress(Refused, websocket.WebSocketBadStatusException):
            listen(one_pi, None)

    def settled() -> float:
        eventually(lambda: _threads(one_pi) < few + 10)  # those that watch the file; the library's last ping of each client sleeps out
        return memory(one_pi)

    few = _threads(one_pi)
    for _ in range(200):
        visit()
    warm = settled()
    for _ in range(200):
        visit()
    assert settled() - warm < 2
    eventually(lambda: metric(one_pi, "drover_sockets") == 0)


def _threads(farm: Farm) -> int:
    return max(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in farm.pi.pids())


def _threads_of_sockets(count: int) -> int:
    return 2 * Role.sockets + 32 + 3 * count + 10


def test_a_client_that_answers_no_ping_is_dropped_though_it_reads(pi: Farm) -> None:
    with listen(pi) as listener:
        greeted(listener)
        listener.answers_pings = False
        assert 4 < listener.ended(20) < 15


# --- the end


def test_a_pi_with_open_sockets_ends_in_time_and_leaves_one_file(one_pi: Farm) -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen(one_pi)) for _ in range(20)]
        stuck = stack.enter_context(listen(one_pi))
        for listener in listeners:
            greeted(listener)
        one_pi.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('A', 1)")
        began = time.monotonic()
        one_pi.pi.stop()
        assert time.monotonic() - began < 5
        assert all(listener.ended(2) < 1 for listener in [*listeners, stuck])
    assert "did not stop" not in one_pi.pi.log and "Traceback" not in one_pi.pi.log
    left = {path.name for path in one_pi.pi.data.iterdir() if path.name.startswith("farm.db")}
    assert left == {"farm.db"}


def test_a_client_that_was_stopped_by_a_signal_holds_up_no_end(one_pi: Farm) -> None:
    """Its kernel takes nothing more, and the Pi's threads stand in a write."""
    with listen(one_pi) as stuck:
        stuck.ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greeted(stuck)
        for _ in range(30):
            one_pi.pi.sql("UPDATE users SET username=hex(zeroblob(10000)); UPDATE users SET username='boss'")
        began = time.monotonic()
        os.killpg(one_pi.pi.pids()[0], signal.SIGTERM)
        assert one_pi.pi.wait_for_exit() == 0
        assert time.monotonic() - began < 5
