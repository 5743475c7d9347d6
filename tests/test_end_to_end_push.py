"""Real time on the first hop: a real Pi under gunicorn and TLS tells its replicas what is committed, whoever commits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from farm_processes import Farm, eventually
from listener import Listener, Refused

from changelog.wire import decode_frame

DEAD_WITHIN = 15.0  # s


def connect(farm: Farm, key: str | None) -> Listener:
    """A socket to the Pi."""
    return Listener(farm.pi.url, farm.pi.data / "pi-cert.pem", key)


Listen = Callable[..., Listener]


@pytest.fixture
def listen(running_farm: Farm) -> Iterator[Listen]:
    """Opens sockets to the running Pi, greeted, with the replica's key unless another is given."""
    opened: list[Listener] = []

    def open_(key: str | None = None) -> Listener:
        opened.append(connect(running_farm, key or running_farm.api_key))
        opened[-1].next_named("changelog")
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


def test_whoever_is_no_replica_gets_no_socket(running_farm: Farm) -> None:
    farm = running_farm
    device = farm.pi.command("key", "add", "gate", "--role", "device").stdout.strip()
    for key, why in ((None, "a key is needed"), ("hxb_wrong-key", "not known"), (device, "has the role device")):
        with pytest.raises(Refused, match=why):
            connect(farm, key)
    plain = farm.ask("GET", "/socket.io/?EIO=4&transport=polling", farm.api_key)
    assert plain.status_code == 400 and plain.json()["success"] is False, plain.text


def test_what_is_pushed_is_byte_for_byte_what_the_next_pull_brings(running_farm: Farm, listen: Listen) -> None:
    farm, listener = running_farm, listen()
    for commit in (
        lambda: farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('PUSH', 1)"),
        lambda: farm.post("hxb:PUSH:LFP1:UHFP1"),
        lambda: farm.pi.sql("BEGIN; UPDATE pens SET capacity=2 WHERE pen_number='PUSH'; DELETE FROM pens WHERE pen_number='PUSH'; COMMIT"),
    ):
        commit()
        told = listener.next_named("changelog")
        header, pages = decode_frame([told["frame"]])
        rows = [row for page in pages for row in page.rows]
        assert told["head"] == header.upto == rows[-1][0] and told["epoch"] == header.epoch
        asked = {"epoch": header.epoch, "after": header.after, "check": header.check, "upto": header.upto}
        plain = {"Accept": "application/x-ndjson", "Accept-Encoding": "identity"}
        pulled = farm.ask("GET", "/api/sync/changes", farm.api_key, params=asked, headers=plain)
        assert pulled.content == told["frame"]


def test_events_of_the_farm_are_told_by_name_and_masked(running_farm: Farm, listen: Listen) -> None:
    farm, listener = running_farm, listen()
    farm.post("hxb:EVENT:LFE1:UHFE1")
    assert listener.next_named("payload:received")["new"]["raw_payload"] == "hxb:EVENT:LFE1:UHFE1"
    assert listener.next_named("batch:created")["actor"] == "api:loopback"
    farm.pi.sql("INSERT INTO batches(batch_number) VALUES('TYPED')")
    created = listener.next_named("batch:created")
    assert (created["table"], created["op"], created["actor"], created["new"]["batch_number"]) == ("batches", "I", None, "TYPED")
    farm.pi.sql("UPDATE users SET password_hash='scrypt:secret'")
    assert listener.next_named("user:updated")["new"]["password_hash"] == "***"


def test_a_large_commit_is_told_and_not_pushed(running_farm: Farm, listen: Listen) -> None:
    farm, listener = running_farm, listen()
    farm.fill(1_500, "LARGE")
    told = listener.next_named("changelog")
    assert told["frame"] is None and told["head"] == int(farm.pi.sql("SELECT max(seq) FROM changelog"))
    assert listener.next_named("changes")["count"] == 1_501
    farm.pi.sql("INSERT INTO pens(pen_number, capacity, description) VALUES('WIDE', 1, hex(zeroblob(100000)))")
    assert listener.next_named("changelog")["frame"] is None
    farm.pi.sql("DELETE FROM pens WHERE pen_number='WIDE'")
    assert listener.next_named("changelog")["frame"] is None
    farm.pi.sql("UPDATE cattle SET weight=2 WHERE cattle_id='LARGE-1'")
    assert listener.next_named("changelog")["frame"]
    farm.assert_identical()


def test_one_who_does_not_read_slows_nobody_and_is_cut_off(running_farm: Farm, listen: Listen) -> None:
    farm = running_farm
    listen()  # reads nothing from here on
    reader = listen()
    waits = []
    for number in range(40):
        began = time.monotonic()
        farm.pi.sql(f"INSERT INTO pens(pen_number, capacity, description) VALUES('SLOW{number}', 1, hex(zeroblob(15000)))")
        assert reader.next_named("changelog")["frame"]
        waits.append(time.monotonic() - began)
    assert sorted(waits)[len(waits) // 2] < 0.5
    farm.assert_identical()


def test_a_dead_link_is_noticed(running_farm: Farm) -> None:
    farm = running_farm
    listener = connect(farm, farm.api_key)
    listener.next_named("changelog")
    sockets = sockets_of(farm)
    began = time.monotonic()  # from here on it answers no ping
    eventually(lambda: sockets_of(farm) < sockets, DEAD_WITHIN)
    print(f"noticed after {time.monotonic() - began:.1f} s")
    listener.close()


def sockets_of(farm: Farm) -> int:
    """How many sockets the Pi says that it has."""
    text = farm.ask("GET", "/metrics", farm.api_key).text
    return int(float(next(line.split()[1] for line in text.splitlines() if line.startswith("drover_sockets "))))


def test_a_pi_with_open_sockets_ends_in_time_and_leaves_one_file(farm: Farm, tmp_path: Path) -> None:
    farm.start()
    eventually(lambda: farm.status()["push"])
    listeners = [connect(farm, farm.api_key) for _ in range(5)]
    began = time.monotonic()
    farm.pi.stop()
    assert time.monotonic() - began < 5
    assert sorted(path.name for path in farm.pi.data.glob("farm.db*")) == ["farm.db"]
    for each in listeners:
        each.close()
    farm.pi.start()
    eventually(lambda: farm.status()["push"])
    farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('AFTER', 1)")
    farm.assert_identical()
    assert requests.get(f"{farm.server.url}/office/api/sync-status", timeout=5).json()["data"]["push"] is True
