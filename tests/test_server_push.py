"""The server hears the Pi: what is pushed is replayed where it fits exactly, and everything else is pulled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cutting_proxy import Behaviour, CuttingProxy
from farm_processes import eventually
from pushing_pi import Office, PushingPi, following

from changelog.compression import DICTIONARY_BYTES, pack
from changelog.connection import one
from changelog.position import Position
from server.offers import LARGEST_FRAME, WAITING, Hearing, Offer, Offers

EPOCH = "0123456789abcdef" * 2
Both = tuple[PushingPi, Office]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    """A Pi and an office at the same position, the socket up, and no pull due for a minute."""
    with following(tmp_path) as (pi, office):
        settle(pi, office)
        yield pi, office


def settle(pi: PushingPi, office: Office) -> None:
    """Wait until the socket is up and the pull that this asks for is done: no other one follows."""
    eventually(lambda: office.state.facts().push and pi.asked and "wait=0" in pi.asked[-1] and at_head(pi, office))


def at_head(pi: PushingPi, office: Office) -> bool:
    head = pi.primary.head()
    return office.replica.position() == (head.epoch, head.seq)


def counts(office: Office, *, applied: int, ignored: int) -> bool:
    """Whether so many frames were replayed, and events ignored: counted when the rows can be read already."""
    return (applied, ignored) == tuple(office.counted(f"drover_pushed_{name}_total") for name in ("applied", "ignored"))


def pens(office: Office) -> int:
    with office.replica.read() as db:
        return int(one(db, "SELECT count(*) FROM pens"))


def new_pen(number: int) -> str:
    return f"INSERT INTO pens(pen_number, capacity) VALUES('N{number}', 1)"


def test_a_frame_that_fits_is_replayed_without_a_pull(both: Both) -> None:
    pi, office = both
    asked, told = len(pi.asked), len(office.told)
    before = pi.write(new_pen(1))
    pi.push(before)
    eventually(lambda: at_head(pi, office))
    assert pens(office) == 1
    eventually(lambda: counts(office, applied=1, ignored=0))
    assert len(pi.asked) == asked
    assert eventually(lambda: office.told[told:]) == [(before.seq, before.seq + 1)]
    assert office.state.facts().head == before.seq + 1


def test_a_burst_is_replayed_in_order_without_a_pull_in_between(both: Both) -> None:
    pi, office = both
    asked, frames = len(pi.asked), []
    for number in range(50):
        before = pi.write(new_pen(number))
        frames.append((before, pi.primary.head().seq, pi.frame(before)))
    for before, head, frame in frames:
        pi.emit({"epoch": before.epoch, "head": head, "frame": frame})
    eventually(lambda: at_head(pi, office))
    eventually(lambda: counts(office, applied=50, ignored=0))
    assert len(pi.asked) == asked


def test_what_does_not_follow_our_position_is_pulled(both: Both) -> None:
    pi, office = both
    pi.write(new_pen(1))
    before = pi.write(new_pen(2))
    pi.push(before)  # the first was never pushed
    eventually(lambda: at_head(pi, office))
    assert counts(office, applied=0, ignored=1)


def test_a_head_without_a_frame_is_pulled(both: Both) -> None:
    pi, office = both
    pi.write(new_pen(1))
    head = pi.primary.head()
    pi.emit({"epoch": head.epoch, "head": head.seq, "frame": None})
    eventually(lambda: at_head(pi, office))
    assert counts(office, applied=0, ignored=0)


def test_what_is_behind_us_is_dropped(both: Both) -> None:
    pi, office = both
    before = pi.write(new_pen(1))
    pi.push(before)
    eventually(lambda: at_head(pi, office))
    asked = len(pi.asked)
    pi.push(before)
    pi.push(before)
    middle = pi.write(new_pen(2))
    pi.push(middle)
    eventually(lambda: at_head(pi, office))
    assert len(pi.asked) == asked and pens(office) == 2


def wrong_frames(pi: PushingPi, before: Position) -> dict[str, bytes]:
    frame = pi.frame(before)
    lines = frame.split(b"\n")
    row = lines[1]
    return {
        "cut short": b"\n".join(lines[:-2]) + b"\n",
        "no header": b"\n".join(lines[1:]),
        "not JSON": b"\x00" * 100,
        "half a header": lines[0][:-5],
        "another protocol": frame.replace(b'"protocol":1', b'"protocol":2'),
        "an unknown table": b"\n".join([lines[0], row.replace(b'"pens"', b'"pans"'), *lines[2:]]),
        "a row for two tables": b"\n".join([lines[0], row.replace(b'"I"', b'"D"'), *lines[2:]]),
        "more rows than it says": b"\n".join([lines[0], row, row, *lines[2:]]),
        "something behind the end": frame + b"[]\n",
    }


def test_a_broken_frame_changes_nothing_and_what_it_was_to_bring_is_pulled(both: Both) -> None:
    pi, office = both
    kinds = list(wrong_frames(pi, pi.write(new_pen(0))))
    pi.emit({"epoch": pi.primary.head().epoch, "head": pi.primary.head().seq, "frame": None})
    eventually(lambda: at_head(pi, office))
    for number, kind in enumerate(kinds, 1):
        before = pi.write(new_pen(number))
        head = pi.primary.head()
        pi.emit({"epoch": head.epoch, "head": head.seq, "frame": wrong_frames(pi, before)[kind]})
        eventually(lambda: at_head(pi, office))
        assert counts(office, applied=0, ignored=number), kind
    assert pens(office) == 1 + len(kinds)
    assert office.sync.measures.metrics.registry.get_sample_value("drover_bootstraps_total", {"reason": "divergence"}) == 0
    assert office.state.facts().state == "following"


WRONG_ARGUMENTS: list[Any] = [
    *(None, 7, "x", [], {}, {"epoch": EPOCH, "head": 1}),
    *({"epoch": epoch, "head": 1, "frame": None} for epoch in (1, None, "", EPOCH[:-1], EPOCH.upper(), EPOCH + "\n")),
    *({"epoch": EPOCH, "head": head, "frame": None} for head in (-1, 2**63, True, 1.0, None, "1", 10**4000)),
    *({"epoch": EPOCH, "head": 1, "frame": frame} for frame in ("text", b"", [], b"x" * (LARGEST_FRAME + 1))),
    *({"epoch": EPOCH, "head": 1, "frame": None, "dictionary": said} for said in ("text", b"", [], b"x" * (DICTIONARY_BYTES + 1))),
    *({"epoch": EPOCH, "head": 1, "packed": packed} for packed in (None, "text", b"", [], pack(b"", b"said"), b"\xff" * 9)),
    {"epoch": EPOCH, "head": 1, "packed": pack(b"frame", b"said")[:-1]},
    {"epoch": EPOCH, "head": 1, "packed": pack(b"frame", b"said") + b"more"},
    {"epoch": EPOCH, "head": 1, "packed": pack(bytes(1000 * LARGEST_FRAME), b"said")},
]


@pytest.mark.parametrize("argument", WRONG_ARGUMENTS, ids=range(len(WRONG_ARGUMENTS)))
def test_a_malformed_argument_is_no_offer(argument: Any) -> None:
    hearing = Hearing()
    assert hearing.offer({"epoch": EPOCH, "head": 1, "frame": None, "dictionary": b"said"})
    assert hearing.offer(argument) is None


def test_a_packed_frame_is_heard_on_the_connection_that_brought_its_dictionary_and_on_no_other() -> None:
    hearing, told = Hearing(), {"epoch": EPOCH, "head": 1, "packed": pack(b"frame", b"said")}
    assert hearing.offer(told) is None
    assert hearing.offer({"epoch": EPOCH, "head": 0, "frame": None, "dictionary": b"said"}) == Offer(EPOCH, 0, None)
    assert hearing.offer(told) == Offer(EPOCH, 1, b"frame")
    assert Hearing().offer(told) is None


def test_malformed_events_are_counted_and_ignored_and_the_socket_stays(both: Both) -> None:
    pi, office = both
    for argument in WRONG_ARGUMENTS:
        pi.emit(argument)
    pi.emit((1, 2, 3))
    pi.emit([b"one", b"two", b"three"])
    pi.emit({"seq": 1}, "batch:created")  # for others, and no fault
    before = pi.write(new_pen(1))
    pi.push(before)
    eventually(lambda: at_head(pi, office))
    eventually(lambda: office.counted("drover_pushed_applied_total") == 1)
    assert office.counted("drover_pushed_ignored_total") >= len(WRONG_ARGUMENTS) + 2 and len(pi.sids) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of the sender, whose socket we close under it
def test_a_huge_message_ends_the_connection_and_the_next_one_works(both: Both) -> None:
    pi, office = both
    pi.emit("x" * 5_000_000)
    eventually(lambda: len(pi.sids) == 2 and office.state.facts().push)
    settle(pi, office)
    before = pi.write(new_pen(1))
    pi.push(before)
    eventually(lambda: at_head(pi, office) and counts(office, applied=1, ignored=0))


def test_the_key_is_in_a_header_and_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with following(tmp_path) as (pi, office):
        settle(pi, office)
        ((url, headers),) = pi.handshakes
        key = office.settings.pi_api_key
        assert headers["X-Api-Key"] == key and headers["X-Replica-Id"] == office.store.replica_id
        assert key not in url and "Origin" not in headers
        pi.refusal = "enough"
        pi.socket.server.disconnect(pi.sids[0])
        eventually(lambda: "enough" in caplog.text)
    assert key not in caplog.text


def test_a_wrong_key_is_said_once_and_tried_for_ever_and_a_right_one_heals_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with following(tmp_path, db_sync_interval=0.2) as (pi, office):
        settle(pi, office)
        pi.refusal = "a key of a replica is needed"
        pi.socket.server.disconnect(pi.sids[0])
        eventually(lambda: len(pi.handshakes) > 5)
        assert not office.state.facts().push
        pi.write(new_pen(1))
        eventually(lambda: at_head(pi, office))
        pi.refusal = ""
        eventually(lambda: office.state.facts().push)
        said = [record.message for record in caplog.records if record.name == "server.push_client"]
    assert [line for line in said if "a key of a replica is needed" in line]
    assert all(line != after for line, after in pairwise(said)), "what goes on is said when it begins, not at each attempt"
    assert said[0] == said[-1] == "The Pi pushes its changes over a socket"


def test_another_certificate_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with following(tmp_path) as (pi, office):
        other = PushingPi(tmp_path / "other")
        stranger = Office(tmp_path / "stranger", pi, office.settings.pi_api_key, remote_pi_port=other.port)
        try:
            stranger.push.start()
            eventually(lambda: "is not the one pinned" in caplog.text)
            assert not other.handshakes
        finally:
            stranger.close()
            other.close()


def test_a_pi_without_a_socket_is_said_once_and_followed_by_pulls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pi = PushingPi(tmp_path / "pi", sockets=False)
    office = Office(tmp_path / "office", pi, pi.keys.add("office", "replica"), db_sync_interval=0.2)
    try:
        office.start()
        eventually(lambda: "HTTP 404 instead of a WebSocket" in caplog.text)
        pi.write(new_pen(1))
        eventually(lambda: at_head(pi, office))
        time.sleep(1.5)
        assert caplog.text.count("does not push") == 1 and not office.state.facts().push
        assert "wait=1" in pi.asked[-1], "it lets the Pi answer when there is news"
    finally:
        office.close()
        pi.close()


def test_a_dead_link_is_noticed_and_the_pull_goes_on(tmp_path: Path) -> None:
    pi = PushingPi(tmp_path / "pi")
    with CuttingProxy(pi.port) as proxy:
        office = Office(tmp_path / "office", pi, pi.keys.add("office", "replica"), remote_pi_port=proxy.port, db_sync_interval=1)
        try:
            office.start()
            settle(pi, office)
            proxy.behaviour = Behaviour(black_hole=True)
            for link in list(proxy.links):  # nothing passes any more, and nothing is closed
                link.behaviour = Behaviour(stall_after=0, direction="both")
            began = time.monotonic()
            eventually(lambda: not office.state.facts().push, 15)
            assert time.monotonic() - began < 15
            proxy.behaviour = Behaviour()
            pi.write(new_pen(1))
            eventually(lambda: at_head(pi, office) and office.state.facts().push, 30)
        finally:
            office.close()
            pi.close()


def test_a_restarted_pi_is_found_again(tmp_path: Path) -> None:
    with following(tmp_path, db_sync_interval=0.5) as (pi, office):
        settle(pi, office)
        pi.close()
        eventually(lambda: not office.state.facts().push)
        again = PushingPi(pi.folder, pi.port)
        try:
            again.write(new_pen(1))
            eventually(lambda: at_head(again, office) and office.state.facts().push)
        finally:
            again.close()
            pi.primary = again.primary


def test_a_lost_replica_is_noticed_while_nothing_is_pushed(both: Both) -> None:
    pi, office = both
    pens(office)
    office.settings.replica_db.unlink()
    eventually(lambda: office.settings.replica_db.exists() and at_head(pi, office))
    assert office.told[-1] == (0, pi.primary.head().seq)


def test_jobs_are_done_while_the_service_waits_for_a_push(both: Both) -> None:
    _, office = both
    assert office.sync.submit(lambda: 7).result(1) == 7


def test_a_pull_is_made_every_interval_all_the_same(tmp_path: Path) -> None:
    with following(tmp_path, db_sync_interval=0.3) as (pi, office):
        settle(pi, office)
        pi.write(new_pen(1))  # and nobody pushes it
        eventually(lambda: at_head(pi, office))
        asked = len(pi.asked)
        time.sleep(1.5)
        assert 3 <= len(pi.asked) - asked <= 6


def test_of_too_many_offers_a_pull_remains() -> None:
    offers = Offers(10, threading.Event(), lambda: 0.0)
    offers.pulling()
    for seq in range(WAITING):
        offers.put(Offer(EPOCH, seq, b"x"))
    assert not offers.pull_is_due
    offers.put(Offer(EPOCH, WAITING, b"x"))
    assert offers.pull_is_due and offers.take() == []


def test_a_server_that_starts_again_is_told_at_once_where_the_pi_stands_and_lets_it_wait_for_news_only_then(tmp_path: Path) -> None:
    pi = PushingPi(tmp_path / "pi", sockets=False)
    key = pi.keys.add("office", "replica")
    try:
        for _ in range(2):  # the first time it takes a copy, the second time nothing is new
            pi.asked.clear()
            office = Office(tmp_path / "office", pi, key)
            office.sync.start()
            try:
                eventually(lambda: len(pi.asked) > 1)
            finally:
                office.close()
        assert "wait=0" in pi.asked[0] and "wait=2" in pi.asked[1]
    finally:
        pi.close()
