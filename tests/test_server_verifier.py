"""When the nightly comparison is due, and what is remembered of the newest one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from changelog.verify.report import Report
from server.state import SyncState
from server.store import Store
from server.verifier import Nightly, Verdict, is_due, recall, record


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NOON = at("2026-11-20T12:00:00")


@pytest.mark.parametrize(
    ("now", "last", "due"),
    [
        ("2026-11-21T03:29:59", "2026-11-20T03:30:05", False),
        ("2026-11-21T03:30:00", "2026-11-20T03:30:05", True),
        ("2026-11-21T03:30:05", "2026-11-21T03:30:01", False),
        ("2026-11-21T12:00:00", "2026-11-20T03:30:05", True),  # it was off in the night
        ("2026-11-25T01:00:00", "2026-11-20T03:30:05", True),  # for some nights: one is made up
        ("2026-11-21T01:00:00", "2026-11-20T12:00:00", False),
        ("2026-11-21T12:00:00", "2030-01-01T00:00:00", False),  # by a clock that was wrong
        ("2026-11-01T00:00:00", "2026-10-31T03:30:00", False),
    ],
)
def test_a_comparison_is_due_when_its_time_has_passed_since_the_last_one(now: str, last: str, due: bool) -> None:
    assert is_due(at(now), "03:30", at(last), None) is due


def test_one_that_failed_is_tried_again_after_a_while() -> None:
    last = NOON - timedelta(days=2)
    assert not is_due(NOON, "03:30", last, NOON - timedelta(minutes=9))
    assert is_due(NOON, "03:30", last, NOON - timedelta(minutes=10))
    assert is_due(NOON, "03:30", last, NOON + timedelta(days=1))  # the clock was set back


def test_the_first_night_is_the_one_after_the_first_start(tmp_path: Path) -> None:
    store, now = Store(tmp_path / "server.db"), [NOON]
    nightly = Nightly(store, "03:30", lambda: now[0])
    assert not nightly.due()
    now[0] = at("2026-11-21T03:31:00")
    assert nightly.due()
    nightly.failed()
    assert not nightly.due()
    now[0] += timedelta(minutes=11)
    assert nightly.due()
    nightly.done()
    assert not nightly.due()
    now[0] = at("2026-11-22T15:00:00")
    assert Nightly(store, "03:30", lambda: now[0]).due()  # another start, and the night was missed
    store.close()


def test_a_comparison_that_a_wrong_clock_dated_into_the_future_does_not_end_the_nightly_ones(tmp_path: Path) -> None:
    store, now = Store(tmp_path / "server.db"), [at("2046-11-21T03:31:00")]
    nightly = Nightly(store, "03:30", lambda: now[0])
    nightly.done()
    for clock_is_set in (nightly, Nightly(store, "03:30", lambda: now[0])):
        now[0] = NOON
        assert not clock_is_set.due()
        now[0] = NOON + timedelta(days=1)
        assert clock_is_set.due()
    store.close()


def verdict(**difference: object) -> Verdict:
    report = Report(rows=7)
    if difference:
        report.note(difference)
        report.repaired = 1
    return Verdict(report, moved=1234, seconds=0.5, repair=True, at="2026-11-20T12:00:00")


def test_the_newest_result_survives_a_restart(tmp_path: Path) -> None:
    store, state = Store(tmp_path / "server.db"), SyncState(30)
    recall(store, state)
    assert state.facts().last_verify is None
    record(store, state, verdict(table="cattle", key=8, columns={"weight": [1.5, 1.0]}))
    store.close()
    store, state = Store(tmp_path / "server.db"), SyncState(30)
    recall(store, state)
    facts = state.facts()
    assert facts.last_verify == "differed in cattle (1); 1 row repaired, 2026-11-20T12:00:00Z"
    assert (facts.last_verify_at, facts.last_verify_ok) == ("2026-11-20T12:00:00", False)
    record(store, state, verdict())
    assert store.last_verify is not None and store.last_verify.ok and "identical" in store.last_verify.result
    store.close()


def test_comparisons_are_lines_of_the_history_and_count_as_no_sync(tmp_path: Path) -> None:
    store, state = Store(tmp_path / "server.db"), SyncState(30)
    record(store, state, verdict(table="cattle", key=8, only="primary"))
    record(store, state, verdict())
    unmended = verdict(table="cattle", key=8, only="here")
    unmended.repair = False
    record(store, state, unmended)
    lines = [(line.kind, line.outcome, line.reason, line.bytes) for line in store.history().rows]
    assert lines == [
        ("verify", "failed", "cattle 8: only here", 1234),
        ("verify", "ok", None, 1234),
        ("repair", "ok", "cattle 8: missing here", 1234),
    ]
    assert store.totals().total_syncs == 0
    store.close()
