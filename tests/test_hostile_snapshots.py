"""A Pi whose copies are damaged or forged: they never take the place of the good rows."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import repeat
from pathlib import Path

import apsw
import pytest
from flask import Response
from lying_pi import Barn

from changelog import space
from changelog.connection import connect, one, rows
from changelog.snapshot import COPY_MEDIA_TYPE
from server import follower

MiB = 2**20
EVIL = "DELETE FROM cattle; DELETE FROM pens"


@pytest.fixture(scope="module")
def barn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Barn]:
    made = Barn(tmp_path_factory.mktemp("barn"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a copy is too large is believed for no time, so that the next test needs not wait."""
    monkeypatch.setattr(follower, "BELIEVED", 0.0)


Forge = Callable[[apsw.Connection], object]


def honest_file(barn: Barn) -> Path:
    path = barn.pi.folder / "forged.db"
    path.unlink(missing_ok=True)
    barn.pi.primary.copy_to(path)
    return path


def forged(*statements: str) -> Callable[[Path], bytes]:
    """A snapshot in which somebody ran these."""

    def forge(path: Path) -> bytes:
        db = apsw.Connection(str(path))
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        db.execute("PRAGMA journal_mode=DELETE")
        for sql in statements:
            db.execute(sql)
        db.close()
        return path.read_bytes()

    return forge


def torn(path: Path) -> bytes:
    """The pages of the tables are overwritten, those of the schema are not."""
    data = path.read_bytes()
    return data[:65_536] + bytes(len(data) - 65_536)


def one_page_wrong(path: Path) -> bytes:
    with closing(connect(path, readonly=True)) as db:
        page, size = one(db, "SELECT rootpage FROM sqlite_schema WHERE name='users'"), db.pragma("page_size")
    data = bytearray(path.read_bytes())
    data[(page - 1) * size : page * size] = b"\xa5" * size
    return bytes(data)


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT i FROM n"
SNAPSHOTS: dict[str, Callable[[Path], bytes]] = {
    "nothing": lambda path: b"",
    "a page for people": lambda path: b"<!doctype html><title>Router</title>" * 1_000,
    "the first half": lambda path: path.read_bytes()[: path.stat().st_size // 2],
    "only its first bytes": lambda path: path.read_bytes()[:100],
    "zeros behind its schema": torn,
    "one page of the users": one_page_wrong,
    "a database that is empty": forged("DROP TABLE changelog_meta"),
    "no log": forged("DROP TABLE changelog"),
    "no names of slots": forged("DROP TABLE changelog_cols"),
    "a log that is a view": forged("ALTER TABLE changelog RENAME TO x", "CREATE VIEW changelog AS SELECT * FROM x"),
    "an epoch out of an endless view": forged("DROP TABLE changelog_meta", f"CREATE VIEW changelog_meta(name) AS {ENDLESS}"),
    "names of slots out of a view": forged(
        "ALTER TABLE changelog_cols RENAME TO x", "CREATE VIEW changelog_cols AS SELECT tbl, gen, pos, col, pk, mask FROM x"
    ),
    "a log with a computed column": forged("ALTER TABLE changelog ADD COLUMN n99 AS (seq)"),
    "a log without old values": forged("ALTER TABLE changelog RENAME COLUMN o15 TO x"),
    "an epoch that is a blob": forged("UPDATE changelog_meta SET value=zeroblob(5) WHERE name='epoch'"),
    "an epoch that is SQL": forged("UPDATE changelog_meta SET value='x''); --' WHERE name='epoch'"),
    "a nonce that is a text": forged("UPDATE changelog SET nonce='x' WHERE seq=(SELECT max(seq) FROM changelog)"),
    "a mask that is a number": forged("INSERT INTO changelog_meta(name, value) VALUES('mask', 5)"),
    "a table under the name of a view of ours": forged("DROP VIEW changelog_audit", "CREATE TABLE changelog_audit(x)"),
    "a table that nothing identifies": forged("CREATE TABLE x(rowid, _rowid_, oid)"),
}


def sent(data: bytes, *, digest: bytes = b"", size: object = None, start: int = 0) -> Response:
    """As the Pi sends a snapshot: with its length and its digest, or with others."""
    facts = {"Copy": "c", "From": start, "Size": len(data) if size is None else size}
    headers = {f"X-Changelog-{name}": str(value) for name, value in facts.items()}
    return Response(iter([data, digest or hashlib.sha256(data).digest()]), mimetype=COPY_MEDIA_TYPE, headers=headers)


def refuses_snapshot(barn: Barn, answer: Callable[[], Response], cause: str) -> None:
    barn.office.sync.request_resync("a test")
    before, counted = barn.everything(), barn.counted(cause)
    barn.pi.lie = lambda path: answer() if path == "/full-export" else Response("{}", 503)
    barn.office.sync.step()
    barn.pi.lie = lambda path: None
    assert barn.counted(cause) >= counted + 1
    assert barn.everything() == before
    assert barn.serves()
    assert not list(barn.replica.parent.glob("*.incoming*"))
    barn.heals()


@pytest.mark.parametrize("lie", SNAPSHOTS)
def test_a_snapshot_that_is_none_or_is_damaged_never_takes_the_place_of_the_good_rows(barn: Barn, lie: str) -> None:
    data = SNAPSHOTS[lie](honest_file(barn))
    refuses_snapshot(barn, lambda: sent(data), "damaged")


def encoded(answer: Response, encoding: str) -> Response:
    answer.headers["Content-Encoding"] = encoding
    return answer


TRANSFERS: dict[str, tuple[Callable[[bytes], Response], str]] = {
    "another digest": (lambda data: sent(data, digest=b"0" * 32), "broken_frame"),
    "a digest that is too long": (lambda data: sent(data, digest=hashlib.sha512(data).digest()), "broken_frame"),
    "a digest that is cut short": (lambda data: sent(data, digest=b"0" * 31), "unreachable"),
    "the file without a word on it": (lambda data: Response(data, mimetype="application/vnd.sqlite3"), "broken_frame"),
    "a length that is no number": (lambda data: sent(data, size="1e6"), "broken_frame"),
    "less than is there": (lambda data: sent(data, size=len(data) - 4_096), "broken_frame"),
    "more than is there": (lambda data: sent(data, size=len(data) + 4_096), "unreachable"),
    "the rest of what was never begun": (lambda data: sent(data, start=4_096), "broken_frame"),
    "no gzip": (lambda data: encoded(sent(data), "gzip"), "broken_frame"),
    "no zstd": (lambda data: encoded(sent(data), "zstd"), "broken_frame"),
    "ten terabytes to come": (lambda data: sent(data, size=10 * 2**40), "disk"),
}


@pytest.mark.parametrize("lie", TRANSFERS)
def test_a_snapshot_that_is_sent_wrongly_is_refused(barn: Barn, lie: str) -> None:
    answer, cause = TRANSFERS[lie]
    data = honest_file(barn).read_bytes()
    refuses_snapshot(barn, lambda: answer(data), cause)


@pytest.mark.parametrize(("size", "cause"), [(10 * MiB, "broken_frame"), (10**18 - 1, "disk")])
def test_a_snapshot_without_an_end_stops_before_the_disk_is_full(
    barn: Barn, monkeypatch: pytest.MonkeyPatch, size: int, cause: str
) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        for piece in repeat(b"x" * MiB, 4_096):
            taken += 1
            yield piece

    monkeypatch.setattr(space, "KEPT_FREE", shutil.disk_usage(barn.replica.parent).free - 20 * MiB)
    monkeypatch.setattr(space, "SMALLEST_PART", 1)
    headers = {"X-Changelog-From": "0", "X-Changelog-Size": str(size)}
    refuses_snapshot(barn, lambda: Response(endless(), mimetype=COPY_MEDIA_TYPE, headers=headers), cause)
    assert taken < 100


def test_what_a_snapshot_would_run_is_not_run_and_the_views_for_people_are_ours(barn: Barn) -> None:
    """Triggers on the tables that we write, functions with an effect, and views under our names that tell something else."""
    data = forged(
        "CREATE TABLE changelog_position(epoch, seq, nonce, at)",
        f"CREATE TRIGGER theirs AFTER INSERT ON changelog_position BEGIN {EVIL}; END",
        f"CREATE TRIGGER theirs_too AFTER INSERT ON changelog_meta BEGIN {EVIL}; END",
        "DROP VIEW changelog_audit",
        f"CREATE VIEW changelog_audit AS {ENDLESS}",
        "DROP VIEW changelog_of_users",
        "CREATE VIEW changelog_of_users AS SELECT password_hash FROM users",
    )(honest_file(barn))
    barn.pi.lie = lambda path: sent(data) if path == "/full-export" else None
    done = barn.office.sync.request_resync("a test")
    barn.office.sync.step()
    done.result()
    barn.pi.lie = lambda path: None
    assert barn.serves()
    with barn.office.replica.read() as db:
        assert one(db, "SELECT count(*) FROM pens") >= 3
        assert "password_hash" in one(db, "SELECT sql FROM sqlite_schema WHERE name='changelog_of_users'")
        assert rows(db, "SELECT DISTINCT password_hash FROM changelog_of_users") == [("***",)]
        assert one(db, "SELECT count(*) FROM changelog_audit WHERE tbl='pens'") > 0
    barn.office.sync.step()  # its schema has triggers more than the Pi's: found out, and mended, at the next frame
    barn.news()
    barn.office.sync.step()
    barn.heals()
