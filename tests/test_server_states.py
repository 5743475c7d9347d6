"""What every page says of its rows in each state of the sync service, and what is seen before the first copy is here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from office_farm import make_replica
from office_pages import Office, ToldToResync, make_office, text_of

from server.arrival import IN_THE_WAY
from server.measures import FailureCause

HTML = {"Accept": "text/html"}
EPOCH = "e" * 32
SECRETS = ("barn.local", "5001", "/srv/secret", EPOCH)
PAGES = ("batches", "batches/1", "payloads", "pens", "changes", "changes/2", "changes/2/row", "replication", "replication/verify")


pytestmark = pytest.mark.usefixtures("patience")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    make_replica(tmp_path / "replica.db").close()
    made = make_office(tmp_path, ToldToResync())
    made.state.position(EPOCH, 5)
    yield made
    made.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Office]:
    """An office without a copy."""
    made = make_office(tmp_path, ToldToResync())
    yield made
    made.close()


def line_on(page: str) -> str:
    """The replication line of a page, with its markup."""
    [found] = re.findall(r'<aside id="replication".*?</aside>', page, re.DOTALL)
    return str(found)


def be_starting(office: Office) -> None:
    pass


def be_bootstrapping(office: Office) -> None:
    office.state.bootstrapping(3_000_000, 12_000_000)


def be_following(office: Office) -> None:
    office.state.following(5)


def be_lagging(office: Office) -> None:
    office.state.following(5)
    office.state.fetching(25, 15)


def be_by_snapshots(office: Office) -> None:
    office.state.following(5, by_snapshots="row 7 of pens was there twice")


def be_refused(office: Office) -> None:
    office.state.refused("the Pi has another history", "stranger")


def be_alarmed(office: Office) -> None:
    office.state.following(5)
    office.state.alarmed("Two Pis answer at barn.local")


STATES = {
    be_starting: ("Starting", "This server has just started, and asks the Pi what is new."),
    be_bootstrapping: (
        "Fetching a copy",
        "3.0 MB of 12.0 MB have arrived.",
        "Until it is here these rows stay.",
        'value="3000000" max="12000000"',
    ),
    be_following: ("Following the Pi", "Up to date."),
    be_lagging: ("Following the Pi", "20 changes behind, 10 of them have arrived.", 'value="10" max="20"'),
    be_by_snapshots: ("Following by whole copies", "Changes could not be repeated here", "row 7 of pens was there twice"),
    be_refused: ("Refused", "the Pi has another history", "The Pi was last heard", "these rows are of then"),
    be_alarmed: ("Two Pis answer at barn.local", " alarm"),
}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("path", PAGES)
def test_every_page_says_in_which_state_its_rows_are(office: Office, state: Any, path: str) -> None:
    client = office.client()
    state(office)
    line = line_on(client.get(f"/office/{path}").text)
    for said in STATES[state]:
        assert said in line or said in text_of(line)
    assert "change" in text_of(line)
    assert "applied" in text_of(line)


@pytest.mark.parametrize("path", PAGES)
def test_stale_rows_are_marked_with_their_age_and_the_cause_on_every_page(tmp_path: Path, path: str) -> None:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path, ToldToResync(), stale_after=-1.0)
    office.store.record_sync("pull", "ok")
    client = office.client()
    line = text_of(line_on(client.get(f"/office/{path}").text))
    assert "Stale" in line
    assert "The Pi has not answered for" in line
    assert "The Pi was last heard" in line
    office.state.failed("barn.local:5001: connection refused", "unreachable")
    assert "barn.local:5001: connection refused" in text_of(line_on(client.get(f"/office/{path}").text))
    office.close()


def test_a_pi_that_was_never_heard_is_told(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path, ToldToResync(), stale_after=-1.0)
    assert "The Pi has never been heard by this server." in text_of(office.client().get("/office/pens").text)
    office.close()


@pytest.mark.parametrize("path", PAGES[:-1])
def test_pages_only_says_on_every_page_that_nothing_is_followed(tmp_path: Path, path: str) -> None:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path)
    line = text_of(line_on(office.client().get(f"/office/{path}").text))
    assert "Pages only This server does not follow the Pi (IS_SERVER_UI=False)." in line
    office.close()


def test_an_empty_farm_has_a_sentence_on_every_page(tmp_path: Path) -> None:
    db = make_replica(tmp_path / "replica.db", batches=0)
    db.close()
    office = make_office(tmp_path, ToldToResync())
    office.write("DELETE FROM pens")
    client = office.client()
    assert "has no batches yet" in client.get("/office/batches").text
    assert "has no pens yet" in client.get("/office/pens").text
    assert "has not sent anything yet" in client.get("/office/payloads").text
    office.close()


# Before the first copy


def test_the_first_copy_on_its_way_is_a_page_of_its_own(empty: Office) -> None:
    empty.state.bootstrapping(3_000_000, 12_000_000)
    for path in ("/", "/office/", "/office/login", "/office/batches", "/office/changes"):
        answer = empty.client(None).get(path, headers=HTML, follow_redirects=True)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        for shown in ("The first copy of the farm arrives.", "3.0 MB of 12.0 MB", 'value="3000000" max="12000000"', 'http-equiv="refresh"'):
            assert shown in answer.text
    empty.state.bootstrapping(12_000_000, 12_000_000)
    assert "is being put in place" in empty.client(None).get("/office/login", headers=HTML).text


def test_before_the_first_byte_it_says_that_it_is_fetched(empty: Office) -> None:
    page = empty.client(None).get("/office/", headers=HTML, follow_redirects=True).text
    assert "is being fetched from the Pi" in page
    assert "<progress" in page


@pytest.mark.parametrize("cause", [*IN_THE_WAY, "other"])
@pytest.mark.parametrize("how", ["failed", "refused"])
def test_what_is_in_the_way_is_told_without_names_and_addresses(empty: Office, cause: FailureCause, how: str) -> None:
    getattr(empty.state, how)(f"barn.local:5001: no, for /srv/secret, epoch {EPOCH}", cause)
    for path, headers in (("/office/login", HTML), ("/office/api/arrival", {}), ("/office/login", {})):
        text = empty.client(None).get(path, headers=headers).text
        assert not [secret for secret in SECRETS if secret in text]
        if headers:
            assert IN_THE_WAY.get(cause, "Something is in the way.").replace("`", "`") in text_of(text)


def test_pages_only_without_a_copy_says_what_to_do(tmp_path: Path) -> None:
    office = make_office(tmp_path)
    text = text_of(office.client(None).get("/office/login", headers=HTML).text)
    assert "There is no copy of the farm here yet." in text
    assert "python -m server pull" in text
    office.close()


def test_a_silent_pi_and_no_copy_say_both(tmp_path: Path) -> None:
    office = make_office(tmp_path, ToldToResync(), stale_after=-1.0)
    text = text_of(office.client(None).get("/office/login", headers=HTML).text)
    assert "could not be fetched yet" in text
    assert "The Pi does not answer." in text
    office.close()


def test_the_address_of_the_arrival_tells_only_how_far_it_is(empty: Office, tmp_path: Path) -> None:
    stranger = empty.client(None)
    empty.state.bootstrapping(1_000, 4_000)
    told = stranger.get("/office/api/arrival").json["data"]
    assert told == {"arrived": False, "said": "The first copy of the farm arrives. ", "progress": [1_000, 4_000]}
    make_replica(tmp_path / "replica.db").close()
    assert stranger.get("/office/api/arrival").json["data"] == {"arrived": True}


def test_a_copy_that_broke_names_nothing_to_strangers(office: Office) -> None:
    office.state.failed("barn.local:5001: connection refused", "unreachable")
    office.client()
    office.path.write_bytes(b"x" * 8192)
    office.app.extensions["office"].replica.release()
    text = office.client(None).get("/office/login", headers=HTML).text
    assert "barn.local" not in text
