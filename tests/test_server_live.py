"""What browsers are told over their sockets, and who may open one: a real Pi, a real server, sockets by hand."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from socket import SHUT_RDWR

import pytest
import requests
from farm_processes import Farm, eventually
from live_socket import CONNECT, PONG, LiveSocket, listening, random_text
from office_farm import add_batches, make_replica, move_position

from changelog.connection import connect
from changelog.node.sockets import FAREWELL, LOOK, PATIENCE, PING, TALK, WAITING
from server.live import LARGEST_EVENT, MOST_ROWS, MOST_SOCKETS, News, events_between
from server.replica import Replica

SOON = 5.0  # s


@pytest.fixture(scope="module")
def browser(running_farm: Farm) -> requests.Session:
    """Somebody who signed in and sees a page."""
    return signed_in(running_farm)


def signed_in(farm: Farm) -> requests.Session:
    session = farm.login()
    farm.page(session)
    return session


def cookie(session: requests.Session) -> str:
    return "; ".join(f"{name}={value}" for name, value in session.cookies.items())


def opened(farm: Farm, session: requests.Session) -> LiveSocket:
    made = LiveSocket(farm.server.url, cookie(session))
    assert made.status == 101, made.head
    return made


def answer_to(farm: Farm, session: requests.Session) -> str:
    """What becomes of one more socket."""
    made = LiveSocket(farm.server.url, cookie(session))
    answer = made.entered()
    made.close()
    return answer


def table_events(listener: LiveSocket) -> list[str]:
    return [event.name for event in list(listener.events) if event.name != "status"]


def test_a_payload_is_told_as_what_it_did_to_the_farm(running_farm: Farm, browser: requests.Session) -> None:
    listener = opened(running_farm, browser)
    with listening(listener):
        eventually(lambda: listener.of("status"))
        assert running_farm.post("hxb:TOLD1:LFT1:UHFT1").status_code == 201
        eventually(lambda: listener.of("payload:processed"))
        assert table_events(listener) == ["payload:received", "batch:created", "cattle:created", "payload:processed"]
        told = listener.of("batch:created")[0].argument
        assert told["table"] == "batches" and told["op"] == "I" and told["new"]["batch_number"] == "TOLD1" and told["seq"] > 0


def test_a_row_typed_in_the_shell_is_told_like_any_other(running_farm: Farm, browser: requests.Session) -> None:
    listener = opened(running_farm, browser)
    with listening(listener):
        eventually(lambda: listener.of("status"))
        running_farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('TOLD2', 7)")
        eventually(lambda: listener.of("pen:created"))
        assert listener.of("pen:created")[0].argument["actor"] is None
        running_farm.pi.sql("UPDATE pens SET capacity=8 WHERE pen_number='TOLD2'; DELETE FROM pens WHERE pen_number='TOLD2'")
        eventually(lambda: listener.of("pen:deleted"))
        assert listener.of("pen:updated")[0].argument["old"]["capacity"] == 7


def test_the_first_event_is_where_the_replica_stands(running_farm: Farm, browser: requests.Session) -> None:
    listener = opened(running_farm, browser)
    with listening(listener):
        first = eventually(lambda: listener.events)[0]
        known = running_farm.status()
        assert first.name == "status"
        assert {name: first.argument[name] for name in ("state", "epoch")} == {name: known[name] for name in ("state", "epoch")}
        assert first.argument["seq"] <= known["seq"]


def test_no_password_hash_is_told(running_farm: Farm, browser: requests.Session) -> None:
    listener = opened(running_farm, browser)
    with listening(listener):
        eventually(lambda: listener.of("status"))
        running_farm.pi.sql("INSERT INTO users(username, password_hash) VALUES('told', 'scrypt:secret')")
        told = eventually(lambda: listener.of("user:created"))[0].argument
        assert told["new"]["username"] == "told" and told["new"]["password_hash"] == "***"


def test_many_rows_in_one_commit_are_told_as_one_event_and_very_many_as_a_reload(running_farm: Farm, browser: requests.Session) -> None:
    listener = opened(running_farm, browser)
    with listening(listener):
        eventually(lambda: listener.of("status"))
        running_farm.fill(200, "TOLDMANY")
        told = eventually(lambda: listener.of("changes"))[0].argument
        assert told["count"] == told["last"] - told["first"] + 1 == 201
        running_farm.fill(MOST_ROWS + 1, "TOLDMORE")
        eventually(lambda: listener.of("reload"))


def test_a_bootstrap_is_told_as_a_reload(running_farm: Farm, browser: requests.Session) -> None:
    listener = opened(running_farm, browser)
    with listening(listener):
        eventually(lambda: listener.of("status"))
        running_farm.prove_identical()
        eventually(lambda: listener.of("reload"))


def test_a_new_column_is_told_too(running_farm: Farm, browser: requests.Session) -> None:
    listener = opened(running_farm, browser)
    with listening(listener):
        eventually(lambda: listener.of("status"))
        running_farm.pi.sql("ALTER TABLE pens ADD COLUMN told TEXT")
        eventually(lambda: set(table_events(listener)) & {"reload", "changes"} or any("schema" in name for name in table_events(listener)))


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"cookie": ""}, "Sign in"),
        ({"cookie": "drover=made.up"}, "Sign in"),
        ({"origin": None}, "Only the pages of this server"),
        ({"origin": "http://evil.example"}, "400"),
        ({"origin": "null"}, "400"),
        ({"upgrade": "h2c"}, "400"),
        ({"path": "/socket.io/?EIO=4&transport=polling"}, "400"),
        ({"path": "/socket.io/?EIO=3&transport=websocket"}, "400"),
    ],
)
def test_only_our_own_page_with_a_session_gets_a_socket(
    running_farm: Farm, browser: requests.Session, options: dict[str, str | None], answer: str
) -> None:
    given = {"cookie": cookie(browser), **options}
    refused = LiveSocket(running_farm.server.url, str(given.pop("cookie")), **given)  # type: ignore[arg-type]
    assert answer in refused.entered()


def test_who_signs_out_loses_the_socket_and_gets_no_other(running_farm: Farm, browser: requests.Session) -> None:
    mine, other = signed_in(running_farm), opened(running_farm, browser)
    listener = opened(running_farm, mine)
    with listening(listener, other):
        eventually(lambda: listener.of("status") and other.of("status"))
        page = running_farm.page(mine)
        token = page.split('name="csrf_token" value="')[1].split('"')[0]
        old = cookie(mine)
        assert mine.post(f"{running_farm.server.url}/office/logout", data={"csrf_token": token}, timeout=10).ok
        eventually(lambda: listener.closed, FAREWELL + LOOK + SOON)
        assert listener.of("signed-out")
        assert not other.closed
    assert old != cookie(mine)
    assert "Sign in" in answer_to(running_farm, mine)


@pytest.mark.parametrize("sql", ["UPDATE users SET is_active=0 WHERE username='gone'", "DELETE FROM users WHERE username='gone'"])
def test_who_is_deactivated_or_deleted_loses_the_socket_at_once(running_farm: Farm, browser: requests.Session, sql: str) -> None:
    farm = running_farm
    farm.pi.sql("INSERT OR REPLACE INTO users(username, password_hash) SELECT 'gone', password_hash FROM users WHERE username='boss'")
    session = eventually(lambda: login_as(farm, "gone"))
    listener, other = opened(farm, session), opened(farm, browser)
    with listening(listener, other):
        eventually(lambda: listener.of("status"))
        farm.pi.sql(sql)
        eventually(lambda: listener.closed, FAREWELL + LOOK + SOON)
        assert not other.closed


def login_as(farm: Farm, name: str) -> requests.Session | None:
    session = requests.Session()
    form = session.get(f"{farm.server.url}/office/login", timeout=10).text
    sent = {"csrf_token": form.split('name="csrf_token" value="')[1].split('"')[0], "username": name, "password": "a long enough password"}
    answer = session.post(f"{farm.server.url}/office/login", data=sent, timeout=10)
    return session if answer.ok and "Sign out" in answer.text else None


def test_who_says_nothing_after_the_handshake_is_cut_off(running_farm: Farm, browser: requests.Session) -> None:
    silent = opened(running_farm, browser)
    silent.socket.settimeout(PATIENCE + LOOK + SOON)
    try:
        while not silent.closed:
            silent.receive()
    finally:
        silent.close()


def test_what_a_browser_sends_is_bounded(running_farm: Farm, browser: requests.Session) -> None:
    listener = opened(running_farm, browser)
    with listening(listener):
        eventually(lambda: listener.of("status"))
        for _ in range(TALK // 60_000 + 1):
            listener.send(f'42["talk","{"x" * 60_000}"]')
        eventually(lambda: listener.closed)


def test_sockets_beyond_the_cap_are_refused_and_pages_go_on(farm: Farm) -> None:
    farm.start()
    session = signed_in(farm)
    sockets = [opened(farm, session) for _ in range(MOST_SOCKETS)]
    with listening(*sockets):
        eventually(lambda: all(each.of("status") for each in sockets))
        assert "taken" in answer_to(farm, session)
        assert "Batches" in farm.page(session)
        sockets[0].socket.shutdown(SHUT_RDWR)
        eventually(lambda: answer_to(farm, session) == "in")
        began = time.monotonic()
        farm.server.stop()
        assert time.monotonic() - began < SOON
        eventually(lambda: all(each.closed for each in sockets))


def test_fifty_sockets_hold_and_one_that_does_not_read_slows_nobody(farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    farm.start()
    session = signed_in(farm)
    sockets = [opened(farm, session) for _ in range(50)]
    with listening(*sockets):
        eventually(lambda: all(each.of("status") for each in sockets))
        alone = delays(farm, sockets, "alone", 20)
        stalled = LiveSocket(farm.server.url, cookie(session), buffer=4096)
        stalled.send(CONNECT)
        beside = delays(farm, sockets, "beside", 20)
        time.sleep(2 * PING + 1)  # pings were answered, or they would have been dropped
        assert not any(each.closed for each in sockets)
        stalled.close()
    with capsys.disabled():
        print(f"\ncommit -> 50 sockets, the slowest of each commit: p50 {alone:.1f} ms, beside one that does not read {beside:.1f} ms")
    assert beside < 5 * alone + 50


def delays(farm: Farm, sockets: list[LiveSocket], name: str, commits: int) -> float:
    """The median of the ms from a commit on the Pi to the event on the last of the sockets."""
    found = []
    db = connect(farm.pi.database)
    for number in range(commits):
        pen = f"{name}{number}"
        db.execute("INSERT INTO pens(pen_number, capacity) VALUES(?, 1)", (pen,))
        began = time.monotonic()
        arrived = [eventually(told_of(each, pen)) for each in sockets]
        found.append(1000 * (max(arrived) - began))
    db.close()
    return statistics.median(found)


def told_of(listener: LiveSocket, pen: str) -> Callable[[], float | None]:
    return lambda: next((event.at for event in listener.of("pen:created") if event.argument["new"]["pen_number"] == pen), None)


def test_a_browser_that_does_not_read_is_dropped_when_too_much_waits(farm: Farm) -> None:
    farm.start()
    session = signed_in(farm)
    healthy, stalled = opened(farm, session), LiveSocket(farm.server.url, cookie(session), buffer=4096)
    stalled.send(CONNECT)
    sent = 0
    with listening(healthy):
        eventually(lambda: healthy.of("status"))
        for commit in range(60):
            stalled.send(PONG)  # it lives, it only does not read
            rows = (
                f"INSERT INTO pens(pen_number, capacity, description) VALUES('{commit}-{i}', 1, '{random_text(6_000)}');" for i in range(90)
            )
            farm.pi.sql(f"BEGIN; {''.join(rows)} COMMIT;")
            sent += 90
            eventually(partial(has_all, healthy, sent))
            if "reads too slowly" in farm.server.log:
                break
        assert "reads too slowly" in farm.server.log
        assert sent > WAITING
        assert not healthy.closed and not healthy.of("reload")
    stalled.close()


def has_all(listener: LiveSocket, sent: int) -> bool:
    return len(listener.of("pen:created")) == sent


def test_calls_that_come_quicker_than_they_are_taken_are_one() -> None:
    news = News()
    assert news.take(0) is None
    for span in ((4, 5), (5, 9), (9, 10)):
        news.put(*span)
    assert news.take(0) == (4, 10)
    for span in ((10, 11), (0, 11), (11, 12)):
        news.put(*span)
    assert news.take(0) == (0, 12)


def test_what_cannot_be_told_one_by_one_is_a_reload(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db")
    before = move_position(db).seq
    with db:
        add_batches(db, 3, 0)
    after = move_position(db).seq
    db.close()

    def told(before: int, after: int, name: str = "replica.db") -> list[str]:
        return [event.name for event in events_between(Replica(tmp_path / name), before, after)]

    assert told(before, after) == ["batch:created"] * 3
    for span in ((0, after), (after, after), (after, after + 5), (after, before)):
        assert told(*span) == ["reload"]
    assert told(before, after, "none.db") == ["reload"]


def test_a_large_value_is_left_out(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db")
    before = move_position(db).seq
    db.execute("UPDATE batches SET notes=? WHERE id=1", ("x" * LARGEST_EVENT,))
    after = move_position(db).seq
    db.close()
    (event,) = events_between(Replica(tmp_path / "replica.db"), before, after)
    assert (event.name, event.facts["key"], event.facts["new"]) == ("batch:updated", 1, None)
