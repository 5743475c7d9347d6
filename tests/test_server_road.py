"""The one road out of doubt: how often it may be taken, and who answers at the Pi's address."""

from __future__ import annotations

import pytest
from clock import Clock

from changelog.errors import Divergence, HistoryTrimmed, PositionMismatch
from server.instances import RIVALS_FOR, Instances
from server.road import AT_ONCE, ONE_IN, PAUSE, PAUSE_TIMES, REPEATS, SPAN, WITHIN, Doubt, Road


@pytest.fixture
def road(clock: Clock) -> Road:
    return Road(clock)


DAMAGED, SURPRISE = Doubt("damaged", "the file is damaged"), Doubt("divergence", "seq 7: a row is not there")


def test_each_refusal_has_its_word() -> None:
    ours = "a" * 32
    assert Doubt.of(PositionMismatch("x", epoch=ours), ours).cause == "rewound"
    assert Doubt.of(PositionMismatch("x", epoch="b" * 32), ours).cause == "new_epoch"
    assert Doubt.of(HistoryTrimmed("x", epoch=ours), ours).cause == "trimmed"
    assert Doubt.of(Divergence("x"), ours) == Doubt("divergence", "x")


def test_a_few_snapshots_are_taken_at_once_and_then_one_a_minute(road: Road, clock: Clock) -> None:
    for _ in range(AT_ONCE):
        assert road.is_clear
        road.taken(DAMAGED, 1)
    assert not road.is_clear
    clock.now += ONE_IN - 1
    assert not road.is_clear
    clock.now += 1
    assert road.is_clear
    road.taken(DAMAGED, 1)
    assert not road.is_clear


def test_over_hours_the_rate_is_bounded_whatever_happens(road: Road, clock: Clock) -> None:
    made, began = 0, clock.now
    while clock.now - began < 3 * 3600:
        if road.is_clear:
            road.taken(DAMAGED, 0.1)
            made += 1
        clock.now += 0.5
    assert AT_ONCE < made <= AT_ONCE + 3 * 3600 / ONE_IN + 3 * 3600 / (AT_ONCE * ONE_IN) * AT_ONCE


def test_the_same_surprise_again_and_again_means_whole_copies_for_a_while(road: Road, clock: Clock) -> None:
    for _ in range(REPEATS):
        assert road.repeated is None
        road.taken(SURPRISE, 0.1)
    assert road.repeated == SURPRISE and not road.is_due
    clock.now += PAUSE
    assert road.is_due
    road.taken(SURPRISE, 10)
    clock.now += PAUSE_TIMES * 10 - 1
    assert not road.is_due, "a copy that takes long is taken seldom"
    clock.now += 1
    assert road.is_due
    clock.now += SPAN
    assert road.repeated is None, "then replay is tried again"


def test_surprises_far_apart_and_files_that_vanish_leave_replay_alone(road: Road, clock: Clock) -> None:
    for _ in range(20):
        road.taken(SURPRISE, 0.1)
        clock.now += WITHIN / 2
    for _ in range(20):
        road.taken(DAMAGED, 0.1)
    assert road.repeated is None


def test_a_restarted_pi_is_no_rival(clock: Clock) -> None:
    instances = Instances(clock)
    for name in ("first", "first", None, "second", "second", "third"):
        instances.answered(name)
    assert not instances.rivals


def test_a_name_that_comes_back_shows_two_pis_for_a_while(clock: Clock) -> None:
    instances = Instances(clock)
    for name in ("one", "other", "one"):
        instances.answered(name)
    assert instances.rivals
    clock.now += RIVALS_FOR
    assert not instances.rivals
    instances.answered("other")
    assert instances.rivals
