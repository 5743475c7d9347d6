"""What the page of replication rests on: the samples of the lag, when the next comparison is due, and who may ask for one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from office_farm import make_replica
from office_pages import Office, ToldToResync, make_office, text_of, token_in

from server.lag import EVERY, KEPT, LagHistory
from server.live import Live
from server.state import SyncState
from server.verifier import next_due

HTML = {"Accept": "text/html"}


pytestmark = pytest.mark.usefixtures("patience")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    make_replica(tmp_path / "replica.db").close()
    made = make_office(tmp_path, ToldToResync())
    yield made
    made.close()


def test_a_sample_is_taken_every_few_seconds_and_an_hour_is_kept() -> None:
    state, moments = SyncState(30), iter(range(10_000))
    history = LagHistory(lambda: float(next(moments)))
    state.position("e", 3)
    state.following(10)
    for half in range(2 * int(KEPT / EVERY) + 20):
        history.look(state, 1_000 + half * EVERY / 2)
    kept = history.series()
    assert len(kept["at"]) == KEPT / EVERY
    assert kept["at"][-1] - kept["at"][0] == KEPT / EVERY - 1, "one sample for every second look"
    assert set(kept["changes"]) == {7}


def test_what_is_not_known_while_the_pi_is_silent_is_no_number() -> None:
    state = SyncState(-1.0)
    state.position("e", 3)
    state.following(3)
    history = LagHistory()
    history.look(state)
    assert history.series()["changes"] == [None]


def test_each_turn_of_the_live_service_looks_whether_anybody_listens_or_not(tmp_path: Path, office: Office) -> None:
    live = Live(office.app.extensions["office"].replica, office.state)
    live.step(0.0)
    assert len(live.lag.series()["at"]) == 1


def test_the_lag_is_told_to_who_is_signed_in(office: Office) -> None:
    assert office.client(None).get("/office/api/lag").status_code == 401
    assert office.client("user").get("/office/api/lag").json["data"] == {
        "every": 5.0,
        "kept": 3600.0,
        "at": [],
        "changes": [],
        "seconds": [],
    }


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-05-01T02:00:00", "2026-05-01T03:30:00"),
        ("2026-05-01T03:30:00", "2026-05-02T03:30:00"),
        ("2026-12-31T23:59:59", "2027-01-01T03:30:00"),
    ],
)
def test_the_next_comparison_is_that_of_the_coming_night(now: str, due: str) -> None:
    assert next_due(datetime.fromisoformat(now).replace(tzinfo=UTC), "03:30") == datetime.fromisoformat(due).replace(tzinfo=UTC)


@pytest.mark.parametrize("what", ["verify", "resync"])
def test_comparisons_and_copies_are_for_admins_and_need_a_token(office: Office, what: str) -> None:
    admin, user, address = office.client("admin"), office.client("user"), f"/office/replication/{what}"
    assert f'href="{address}"' not in user.get("/office/replication").text
    assert user.get(address).status_code == 403
    assert user.post(address, data={"csrf_token": token_in(user.get("/office/pens").text)}).status_code == 403
    assert admin.post(address).status_code == 403
    assert admin.post(address, data={"csrf_token": token_in(admin.get(address).text), "repair": "1"}).status_code == 302
    assert len(office.sync.jobs) + len(office.sync.reasons) == 1


def test_a_comparison_that_runs_or_failed_is_shown(office: Office) -> None:
    client = office.client()
    office.state.verifying()
    assert "A comparison runs, begun" in text_of(client.get("/office/replication").text)
    office.state.verify_ended("barn.local went away")
    page = text_of(client.get("/office/replication").text)
    assert "A comparison runs" not in page
    assert "The newest one came to no end barn.local went away" in page
    office.state.verified("identical at seq 5, 2026-05-01T02:00:00Z", "2026-05-01T02:00:00", True)
    assert "Last result identical at seq 5" in text_of(client.get("/office/replication").text)


def test_pages_only_offers_neither(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path)
    client = office.client()
    assert "Verify now" not in client.get("/office/replication").text
    answer = client.get("/office/replication/verify", headers=HTML)
    assert answer.status_code == 409
    assert "IS_SERVER_UI=False" in answer.text
    office.close()
