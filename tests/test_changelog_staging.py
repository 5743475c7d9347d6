"""A frame that arrives in parts: nothing twice, nothing lost, whatever breaks in between."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from changelog_parts import make_primary, make_replica, run_sql

from changelog import staging as staging_module
from changelog.errors import BrokenFrame, PositionMismatch
from changelog.position import Position
from changelog.primary import Primary
from changelog.replay import connect_replica, position_of, replay
from changelog.staging import Staging
from changelog.verify.digest import digest_tables
from changelog.wire import split_frame

Opened = Callable[[], Staging]

ROWS = 3_000  # changes in the frame: several pieces


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    path = make_primary(tmp_path / "farm.db", "CREATE TABLE pens(id INTEGER PRIMARY KEY, name TEXT)")
    source = Primary(path)
    yield source
    source.close()


@pytest.fixture
def replica(primary: Primary, tmp_path: Path) -> Path:
    """A replica that was made before the changes of the frame."""
    path = make_replica(primary.path, tmp_path / "replica.db")
    run_sql(
        primary.path,
        f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ROWS})
            INSERT INTO pens(name) SELECT printf('pen %d ', i) || hex(zeroblob(100)) FROM n""",
    )
    return path


@pytest.fixture
def staged(replica: Path) -> Path:
    return replica.with_name("replica.db.staged")


@pytest.fixture
def open_staging(staged: Path) -> Iterator[Opened]:
    """Opens the staging as a process does at its start."""
    opened: list[Staging] = []

    def open_() -> Staging:
        opened.append(Staging(staged))
        return opened[-1]

    yield open_
    for staging in opened:
        staging.close()


def at(replica: Path) -> Position:
    db = connect_replica(replica)
    try:
        return position_of(db)
    finally:
        db.close()


def receive(staging: Staging, primary: Primary, position: Position, cut: int | None = None) -> int:
    """One request: all that is missing, or its first `cut` bytes, in small pieces. Returns how many bytes came."""
    begun = staging.header
    asked = (staging.reached or position, begun.upto, None, begun.upto_check) if begun else (position,)
    body = b"".join(primary.encoded_frame(*asked)[1])[:cut]
    header, pieces = split_frame(body[i : i + 4096] for i in range(0, len(body), 4096))
    staging.receive(header, pieces)
    return len(body)


def apply(staging: Staging, replica: Path) -> Position:
    db = connect_replica(replica)
    try:
        return replay(db, *staging.frame())
    finally:
        db.close()


def assert_identical(primary: Primary, replica: Path) -> None:
    with primary.snapshot() as db:
        theirs = digest_tables(db), Position.of_head(db)
    ours = connect_replica(replica)
    try:
        assert (digest_tables(ours), position_of(ours)) == theirs
    finally:
        ours.close()


def test_a_short_frame_touches_no_disk(
    primary: Primary, replica: Path, staged: Path, open_staging: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_module, "HELD_BYTES", 10**9)
    staging = open_staging()
    receive(staging, primary, at(replica))
    assert not staged.exists()
    apply(staging, replica)
    assert_identical(primary, replica)


def test_a_long_frame_becomes_a_file_that_is_the_frame_itself(primary: Primary, replica: Path, staged: Path, open_staging: Opened) -> None:
    staging, position = open_staging(), at(replica)
    receive(staging, primary, position)
    staging.close()
    assert staged.read_bytes() == b"".join(primary.encoded_frame(position)[1])


def test_a_frame_that_was_changed_on_the_way_leaves_nothing_that_is_gone_on_with(
    primary: Primary, replica: Path, staged: Path, open_staging: Opened
) -> None:
    staging, position = open_staging(), at(replica)
    body = b"".join(primary.encoded_frame(position)[1])
    start = body.index(b"\n", len(body) // 2) + 20
    place = next(i for i in range(start, len(body)) if body[i : i + 1].isdigit() and body[i + 1 : i + 2].isdigit())
    changed = body[:place] + (b"1" if body[place : place + 1] != b"1" else b"2") + body[place + 1 :]
    header, pieces = split_frame(changed[i : i + 4096] for i in range(0, len(changed), 4096))
    with pytest.raises(BrokenFrame, match="checksum"):
        staging.receive(header, pieces)
    assert staging.reached is None and not staged.exists()
    receive(staging, primary, position)
    apply(staging, replica)
    assert_identical(primary, replica)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_link_that_breaks_everywhere_brings_each_row_about_once(
    primary: Primary, replica: Path, open_staging: Opened, restarts: bool
) -> None:
    chance, position = random.Random(7), at(replica)
    whole = len(b"".join(primary.encoded_frame(position)[1]))
    staging, came, cuts = open_staging(), 0, 0
    while not staging.whole:
        cut = chance.randrange(20_000, 60_000)
        try:
            came += receive(staging, primary, position, cut)
        except BrokenFrame:
            came, cuts = came + cut, cuts + 1
        run_sql(primary.path, f"INSERT INTO pens(name) VALUES('meanwhile {cuts}')")  # the Pi goes on: it is not a part of this frame
        if restarts:
            staging.close()
            staging = open_staging()
    assert cuts > 10 and came < 1.2 * whole, (cuts, came, whole)
    assert apply(staging, replica).seq == position.seq + ROWS
    staging.discard()
    receive(staging, primary, at(replica))
    apply(staging, replica)
    assert_identical(primary, replica)


def test_a_file_torn_at_any_byte_is_gone_on_with_or_begun_anew(primary: Primary, replica: Path, staged: Path, open_staging: Opened) -> None:
    position = at(replica)
    whole = b"".join(primary.encoded_frame(position)[1])
    chance = random.Random(11)
    for size in [0, 1, 50, len(whole) - 1, len(whole), *(chance.randrange(len(whole)) for _ in range(40))]:
        staged.write_bytes(whole[:size])
        staging = open_staging()
        assert staging.begins_at(position) == (b"\n" in whole[:size])
        if not staging.whole:
            receive(staging, primary, position)
        staging.close()
        assert staged.read_bytes() == whole, f"torn at {size}"


def test_a_file_of_noise_is_discarded(primary: Primary, replica: Path, staged: Path, open_staging: Opened) -> None:
    for noise in (b"\0" * 5000, b"{}\n[]\n", b"not a frame", b'{"protocol":99}\n', b"\n\n\n", random.Random(3).randbytes(9999)):
        staged.write_bytes(noise)
        staging = open_staging()
        assert not staging.begins_at(at(replica)) and not staged.exists()


def test_what_was_staged_for_another_position_is_discarded(primary: Primary, replica: Path, staged: Path, open_staging: Opened) -> None:
    staging, position = open_staging(), at(replica)
    receive(staging, primary, position)
    assert staging.begins_at(position)
    assert not staging.begins_at(Position(position.epoch, position.seq, position.check + 1))
    assert staging.header is None and not staged.exists()


def test_a_frame_is_never_finished_with_rows_of_another_history(primary: Primary, replica: Path, open_staging: Opened) -> None:
    """Rewound behind what is staged, then written on: the old `upto` would be no commit boundary there."""
    position = at(replica)
    staging = open_staging()
    with pytest.raises(BrokenFrame):
        receive(staging, primary, position, 200_000)
    half = staging.reached
    assert half is not None and position.seq < half.seq < position.seq + ROWS
    run_sql(primary.path, f"DELETE FROM changelog WHERE seq>{half.seq}")  # what a power cut took
    run_sql(primary.path, *["INSERT INTO pens(name) VALUES('another')"] * 5, "UPDATE pens SET name='other'")
    with pytest.raises(PositionMismatch, match="went back in time"):
        receive(staging, primary, position)


def test_an_answer_that_does_not_go_on_where_the_frame_broke_off_is_refused(primary: Primary, replica: Path, open_staging: Opened) -> None:
    staging, position = open_staging(), at(replica)
    with pytest.raises(BrokenFrame):
        receive(staging, primary, position, 200_000)
    reached = staging.reached
    header, pieces = split_frame([b"".join(primary.encoded_frame(position)[1])])
    with pytest.raises(BrokenFrame, match="does not go on"):
        staging.receive(header, pieces)
    assert staging.reached == reached
