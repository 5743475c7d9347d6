"""How slowly a Pi may answer: a radio line of 2 kB/s is waited for, one that trickles holds nobody for long, wherever in its answer."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from farm_processes import make_certificate

from changelog.errors import Unreachable
from changelog.node.settings import Settings
from server import pace, pi_client, pi_writer
from server.pi_client import PiClient
from server.pi_writer import PiWriter

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
TRICKLE = 0.1  # s between two bytes: shorter than each wait for one
SHORT = 0.5  # s, for each patience

Send = Callable[[bytes], object]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """All patience is short; what a Pi must send in a second is as it is."""
    monkeypatch.setattr(pace, "GRACE", SHORT)
    monkeypatch.setattr(pi_writer, "GRACE", SHORT)
    for module in (pi_client, pi_writer):
        monkeypatch.setattr(module, "READ_TIMEOUT", SHORT)


@contextmanager
def answering(folder: Path, tls: bool, answer: Callable[[Send], object]) -> Iterator[Settings]:
    """A Pi whose answer is what `answer` sends; the settings of a server that asks it."""
    make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pi-cert.pem", folder / "pi-key.pem")
    over = threading.Event()

    def send(client: socket.socket, data: bytes) -> None:
        if over.is_set():
            raise BrokenPipeError
        client.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                with suppress(OSError), plain, context.wrap_socket(plain, server_side=True) if tls else plain as client:
                    client.recv(65_536)
                    answer(partial(send, client))

        thread = threading.Thread(target=serve)
        thread.start()
        yield Settings(
            data_dir=folder, pi_cert=folder / "pi-cert.pem", remote_pi_host="127.0.0.1", remote_pi_port=listener.getsockname()[1],
            pi_api_key="hxb_x", use_ssl_for_pi=tls,
        )  # fmt: skip
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def trickle(send: Send, beginning: bytes) -> None:
    """A byte now and then, for much longer than anybody should wait."""
    send(beginning)
    for _ in range(150):
        time.sleep(TRICKLE)
        send(b"1")


BEGINNINGS = {
    "in its head": HEAD + b"X-Long: ",
    "in its body": HEAD + b"Content-Length: 5000\r\n\r\n{",
    "in a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5000\r\n{",
    "in the length of a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;",
    "in a refusal": b"HTTP/1.1 503 Busy\r\nContent-Length: 5000\r\n\r\n{",
}


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize("where", BEGINNINGS)
def test_a_pi_that_trickles_is_given_up(tmp_path: Path, where: str, tls: bool) -> None:
    with answering(tmp_path, tls, lambda send: trickle(send, BEGINNINGS[where])) as settings:
        with closing(PiClient(settings, "test")) as client:
            began = time.monotonic()
            with pytest.raises(Unreachable), client._get("/schema", {}, {}, SHORT) as response:
                client._object("/schema", client._chunks(response))
            assert time.monotonic() - began < 10 * SHORT


def test_who_sits_before_a_page_does_not_wait_for_one_either(tmp_path: Path) -> None:
    with (
        answering(tmp_path, True, lambda send: trickle(send, BEGINNINGS["in its body"])) as settings,
        closing(PiWriter(settings)) as writer,
    ):
        began = time.monotonic()
        with pytest.raises(Unreachable):
            writer.send("POST", "/pens", {}, actor="boss", key="k")
        assert time.monotonic() - began < 20 * SHORT  # it is asked twice


def test_a_line_of_two_kilobytes_a_second_is_slow_and_honest(tmp_path: Path) -> None:
    """For many times of all patience together."""
    body = json.dumps({"success": True, "padding": "x" * 8_000}).encode()

    def slowly(send: Send) -> None:
        send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        for place in range(0, len(body), 200):
            time.sleep(0.1)
            send(body[place : place + 200])

    with answering(tmp_path, True, slowly) as settings, closing(PiClient(settings, "test")) as client:
        assert client.facts("/schema")["success"] is True


def test_what_we_do_between_two_pieces_is_not_the_pis_fault(tmp_path: Path) -> None:
    with answering(tmp_path, True, lambda send: send(HEAD + b"Content-Length: 40000\r\n\r\n" + b"x" * 40_000)) as settings:
        with closing(PiClient(settings, "test")) as client, client._get("/full-export", {}, {}, SHORT) as response:
            pieces = client._chunks(response)
            size = len(next(pieces))
            time.sleep(4 * SHORT)
            assert size + sum(map(len, pieces)) == 40_000
