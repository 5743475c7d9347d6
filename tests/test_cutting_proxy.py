"""The proxy of the tests does what it says, to the byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from cutting_proxy import Behaviour, CuttingProxy

SIZE = 300_000


@contextmanager
def giver(letter: bytes) -> Iterator[int]:
    """A server that answers every connection with SIZE bytes after it has read one line; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer, suppress(OSError):
                    line = peer.makefile("rb").readline()
                    if line:
                        peer.sendall(letter * SIZE)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def fetched(port: int, timeout: float = 5.0) -> tuple[bytes, str]:
    """What a client gets, and how that ended: a reset may already meet the connect, which waits with a time limit."""
    found = bytearray()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
            client.sendall(b"give\n")
            while piece := client.recv(65_536):
                found += piece
    except TimeoutError:
        return bytes(found), "silence"
    except ConnectionError:
        return bytes(found), "reset"
    return bytes(found), "end"


def test_everything_passes_and_is_counted() -> None:
    with giver(b"a") as target, CuttingProxy(target) as proxy:
        for _ in range(2):
            assert fetched(proxy.port) == (b"a" * SIZE, "end")
        assert (proxy.bytes("down"), proxy.bytes("up"), proxy.connections, proxy.cuts) == (2 * SIZE, 2 * len("give\n"), 2, 0)


@pytest.mark.parametrize("after", [1, 100_000, SIZE - 1])
def test_each_connection_is_cut_after_exactly_so_many_bytes(after: int) -> None:
    with giver(b"a") as target, CuttingProxy(target, behaviour=Behaviour(cut_after=after)) as proxy:
        assert fetched(proxy.port) == fetched(proxy.port) == (b"a" * after, "reset")
        assert (proxy.cuts, proxy.bytes("down")) == (2, 2 * after)
        proxy.behaviour = Behaviour()
        assert fetched(proxy.port) == (b"a" * SIZE, "end")


def test_requests_can_be_cut_too() -> None:
    with giver(b"a") as target, CuttingProxy(target, behaviour=Behaviour(cut_after=3, direction="up")) as proxy:
        assert fetched(proxy.port) == (b"", "reset")
        assert (proxy.bytes("up"), proxy.bytes("down")) == (3, 0)
        proxy.behaviour = Behaviour(cut_after=5 + 70, direction="both")
        assert fetched(proxy.port) == (b"a" * 70, "reset")


def test_a_stalled_connection_and_a_black_hole_stay_open_and_silent() -> None:
    with giver(b"a") as target, CuttingProxy(target, behaviour=Behaviour(stall_after=1000)) as proxy:
        assert fetched(proxy.port, 0.2) == (b"a" * 1000, "silence")
        proxy.behaviour = Behaviour(black_hole=True)
        assert fetched(proxy.port, 0.2) == (b"", "silence")
        assert (proxy.stalls, proxy.connections) == (1, 2)


def test_connections_go_to_targets_in_turn_and_a_dead_target_is_a_reset() -> None:
    with giver(b"a") as one, giver(b"b") as two:
        with CuttingProxy(one, two, choose=lambda number: (one, two)[number % 2]) as proxy:
            assert [fetched(proxy.port)[0][:1] for _ in range(4)] == [b"a", b"b", b"a", b"b"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            nobody = free.getsockname()[1]
        with CuttingProxy(nobody) as proxy:
            assert fetched(proxy.port) == (b"", "reset")


def test_a_delay_delays() -> None:
    with giver(b"a") as target, CuttingProxy(target, behaviour=Behaviour(delay=0.3)) as proxy:
        assert fetched(proxy.port, 0.2) == (b"", "silence")


def test_one_byte_is_changed_and_what_drips_is_all_there() -> None:
    how = Behaviour(flip_after=70, piece=100)
    with giver(b"a") as target, CuttingProxy(target, behaviour=how) as proxy:
        assert fetched(proxy.port) == (b"a" * 70 + b"`" + b"a" * (SIZE - 71), "end")
        proxy.behaviour = Behaviour(flip_after=0, direction="up")
        assert fetched(proxy.port) == (b"a" * SIZE, "end")
        assert proxy.flips == 2


def test_closing_it_resets_what_is_open() -> None:
    with giver(b"a") as target, CuttingProxy(target, behaviour=Behaviour(stall_after=10)) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        client.sendall(b"give\n")
        assert client.recv(10)
    with client, pytest.raises(ConnectionResetError):
        client.recv(10)
