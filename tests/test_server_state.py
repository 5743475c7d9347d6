"""The facts of the sync service: what is stale, how far behind, and since when."""

from __future__ import annotations

import pytest
from clock import Clock

from server.show import replication_note, state_word
from server.state import SyncState

EPOCH = "a" * 32


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def state(clock: Clock) -> SyncState:
    return SyncState(30, clock=clock, utc=lambda: f"t{clock.now:.0f}")


def test_it_starts_and_then_follows(state: SyncState) -> None:
    assert state.facts().state == "starting"
    state.position(EPOCH, 7)
    state.following(head=9)
    facts = state.facts()
    assert (facts.state, facts.seq, facts.head, facts.lag_changes, facts.last_contact) == ("following", 7, 9, 2, "t100")


def test_silence_makes_it_stale_and_an_answer_ends_that(state: SyncState, clock: Clock) -> None:
    state.position(EPOCH, 9)
    state.following(head=9)
    clock.now = 130
    assert state.facts().state == "following"
    clock.now = 131
    state.failed("pi.local:5001: connection refused")
    facts = state.facts()
    assert (facts.state, facts.last_error, facts.silent_seconds) == ("stale", "pi.local:5001: connection refused", 31)
    state.following(head=9)
    assert (state.facts().state, state.facts().last_error) == ("following", None)


@pytest.mark.parametrize("begin", ["starting", "bootstrapping"])
def test_a_pi_that_never_answers_makes_it_stale_too(state: SyncState, clock: Clock, begin: str) -> None:
    if begin == "bootstrapping":
        state.bootstrapping(10, 100)
    clock.now += 31
    assert state.facts().state == "stale"


def test_refused_and_pages_only_do_not_become_stale(state: SyncState, clock: Clock) -> None:
    state.refused("another Pi")
    clock.now += 1000
    assert state.facts().state == "refused"
    assert SyncState(30, "pages-only", clock=clock).facts().state == "pages-only"


def test_lag_in_seconds_counts_from_when_it_was_last_at_the_head(state: SyncState, clock: Clock) -> None:
    assert state.facts().lag_seconds is None
    state.position(EPOCH, 9)
    state.following(head=9)
    clock.now = 105
    assert state.facts().lag_seconds == 0
    state.following(head=12)
    clock.now = 109
    assert state.facts().lag_seconds == 9
    state.position(EPOCH, 12)
    assert state.facts().lag_seconds == 0
    clock.now = 200
    assert state.facts().lag_seconds == 95


def test_a_bootstrap_tells_how_far_it_is(state: SyncState) -> None:
    state.bootstrapping(10, 100)
    assert state.facts().progress == (10, 100)
    state.following(head=1)
    assert state.facts().progress is None


def test_rows_of_the_bucket_are_called_so_with_their_age_and_the_reason() -> None:
    state = SyncState(60.0)
    state.position("e" * 32, 7)
    state.following(7)
    state.from_bucket("2026-11-23T06:00:00", "pi:5001 cannot be reached: <refused>")
    facts = state.facts()
    assert (facts.source, state_word(facts)) == ("bucket", "Following the bucket")
    note = str(replication_note(facts))
    assert "pi:5001 cannot be reached: &lt;refused&gt;" in note and 'datetime="2026-11-23T06:00:00Z"' in note
    state.alarmed("two of them")
    assert str(replication_note(state.facts())).startswith("two of them ")
    state.from_pi()
    assert state_word(state.facts()) == "Following the Pi" and "bucket" not in str(replication_note(state.facts()))


def test_a_bucket_that_falls_silent_is_stale_by_its_name() -> None:
    now = [0.0]
    state = SyncState(60.0, clock=lambda: now[0])
    state.following(7)
    state.from_bucket(None, "")
    now[0] = 61.0
    facts = state.facts()
    assert facts.state == "stale" and "The bucket has not answered" in str(replication_note(facts))
