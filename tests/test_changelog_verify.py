"""Verify and repair between two files: tables of every kind, cut into ranges, and whatever may differ in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from changelog_parts import assert_alike, contents, damage, make_primary, make_replica, run_sql
from click.testing import CliRunner

from changelog.__main__ import main
from changelog.connection import connect, one, rows
from changelog.errors import BadRequest, DamagedFile, Divergence, PositionMismatch
from changelog.primary import Primary
from changelog.replay import connect_replica, position_of
from changelog.verify import answers, check, hashing, ranges
from changelog.verify.check import Verification
from changelog.verify.local import LocalPrimary
from changelog.verify.ranges import Range, log_scope, part_of, rows_in, scopes_of, split
from changelog.verify.report import Report

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)"

TABLES = {
    "ipk": f"CREATE TABLE t(id INTEGER PRIMARY KEY, v); {NUMBERS} INSERT INTO t SELECT i*7, 'v'||i FROM n",
    "text key": f"CREATE TABLE t(k TEXT NOT NULL PRIMARY KEY, v); {NUMBERS} INSERT INTO t SELECT 'k'||i, i FROM n",
    "nocase key": f"CREATE TABLE t(k TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, v); {NUMBERS} INSERT INTO t SELECT 'k'||i, i FROM n",
    "nocase index": f"CREATE TABLE t(k NOT NULL, v, PRIMARY KEY(k COLLATE NOCASE)); {NUMBERS} INSERT INTO t SELECT 'K'||i, i FROM n",
    "without rowid": f"CREATE TABLE t(k TEXT PRIMARY KEY, v) WITHOUT ROWID; {NUMBERS} INSERT INTO t SELECT 'k'||i, i FROM n",
    "composite": f"CREATE TABLE t(a, b INT, v, PRIMARY KEY(a, b)) WITHOUT ROWID; {NUMBERS} INSERT INTO t SELECT i%3, i, i FROM n",
    "mixed directions": f"CREATE TABLE t(a NOT NULL, b NOT NULL, v, PRIMARY KEY(a COLLATE NOCASE, b DESC)); {NUMBERS}"
    " INSERT INTO t SELECT char(64+i%5), i, i FROM n",
    "no key": f"CREATE TABLE t(a, b); {NUMBERS} INSERT INTO t(rowid, a, b) SELECT i*i, i%3, NULL FROM n",
    "mixed types": f"""CREATE TABLE t(k NOT NULL PRIMARY KEY, v) ; {NUMBERS} INSERT INTO t
      SELECT CASE i%5 WHEN 0 THEN i WHEN 1 THEN i+0.5 WHEN 2 THEN 'k'||i WHEN 3 THEN CAST('b'||i AS BLOB) ELSE -i END, i FROM n""",
    "blob key": f"CREATE TABLE t(k BLOB NOT NULL PRIMARY KEY, v); {NUMBERS} INSERT INTO t SELECT CAST(char(i, 0, 255) AS BLOB), i FROM n",
    "raw text key": f"CREATE TABLE t(k TEXT NOT NULL PRIMARY KEY, v); {NUMBERS} INSERT INTO t SELECT CAST(x'ff' AS TEXT)||i, i FROM n",
    "some raw keys": f"CREATE TABLE t(k NOT NULL PRIMARY KEY, v); {NUMBERS} INSERT INTO t"
    " SELECT CASE WHEN i%3 THEN CAST(x'61ff' AS TEXT)||i ELSE 'a'||i END, i FROM n",
    "strict": f"CREATE TABLE t(k ANY NOT NULL PRIMARY KEY, v ANY) STRICT; {NUMBERS} INSERT INTO t SELECT i, 'v'||i FROM n",
    "generated": f"CREATE TABLE t(k INTEGER PRIMARY KEY, v, g AS (v||'!') STORED); {NUMBERS} INSERT INTO t(v) SELECT i FROM n",
    "names": f"""CREATE TABLE t("a ""b" NOT NULL, "rowid", "x.y", PRIMARY KEY("a ""b")); {NUMBERS} INSERT INTO t SELECT i, i, i FROM n""",
}
ENCODINGS = ["UTF-8", "UTF-16le"]


class Pair:
    """A primary with some table, and its replica."""

    def __init__(self, folder: Path, sql: str, *before: str, masks: list[str] | None = None) -> None:
        self.a = make_primary(folder / "a.db", sql, *before, masks=masks)
        self.b = make_replica(self.a, folder / "b.db")
        self.primary = Primary(self.a)
        self.replica = connect_replica(self.b)
        self.other = LocalPrimary(self.primary)
        self.between: Callable[[], object] = lambda: None  # what happens between an answer and the pull

    def pull(self, seq: int) -> None:
        self.other.pull(self.replica, seq)

    def verify(self, repair: bool = False) -> Report:
        return Verification(self.replica, self.other, self.pull, repair).run()

    def corrupt(self, *statements: str) -> None:
        damage(self.b, *statements)

    def found_and_mended(self) -> list[dict[str, Any]]:
        """What verify names; and that after the repair all is as on the primary."""
        named = self.verify().differences
        repaired = self.verify(repair=True)
        assert repaired.differences[: len(named)] == named and repaired.repaired
        assert self.verify().identical
        assert_alike(self.a, self.b)
        return named

    def close(self) -> None:
        self.primary.close()
        self.replica.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def one_more(sql: str, *before: str, **more: Any) -> Pair:
        made.append(Pair(tmp_path, sql, *before, **more))
        return made[-1]

    yield one_more
    for pair in made:
        pair.close()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", TABLES)
def test_ranges_cover_every_row_once_and_in_order_however_many_there_are(make: Callable[..., Pair], kind: str, encoding: str) -> None:
    pair = make(TABLES[kind], f"PRAGMA encoding='{encoding}'")
    scope = scopes_of(pair.replica, 1)["t"]
    everything = list(rows_in(pair.replica, scope, Range()))
    assert len(everything) == 300
    for parts in (1, 2, 7, 64, 1000):
        found = list(split(pair.replica, scope, Range(), parts))
        assert len(found) <= parts
        assert found[0].range.after is None and found[-1].range.upto is None
        assert [p.range.after for p in found[1:]] == [p.range.upto for p in found[:-1]]
        assert [row for p in found for row in rows_in(pair.replica, scope, p.range)] == everything
        assert [p.rows for p in found] == [len(list(rows_in(pair.replica, scope, p.range))) for p in found]
        for inner in split(pair.replica, scope, found[len(found) // 2].range, 3):
            assert inner == part_of(pair.replica, scope, inner.range)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", TABLES)
def test_the_digest_is_the_same_without_the_extension(
    make: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch, kind: str, encoding: str
) -> None:
    pair = make(TABLES[kind], f"PRAGMA encoding='{encoding}'")
    scopes = scopes_of(pair.replica, 1)
    quick = [list(split(pair.replica, scope, Range(), 4)) for scope in scopes.values()]
    used: list[str] = []
    real = hashing._in_python
    monkeypatch.setattr(hashing, "_has_sha3", lambda db: False)
    monkeypatch.setattr(hashing, "_in_python", lambda *given: used.append("python") or real(*given))
    assert [list(split(pair.replica, scope, Range(), 4)) for scope in scopes.values()] == quick
    assert used


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", TABLES)
def test_a_changed_value_a_missing_row_and_one_too_many_are_found_in_every_kind_of_table(
    make: Callable[..., Pair], kind: str, encoding: str
) -> None:
    pair = make(TABLES[kind], f"PRAGMA encoding='{encoding}'")
    column = ranges.scopes_of(pair.replica, 1)["t"].columns[-1]
    for place in (0, 31, 32, 150, 299):
        row = f"(SELECT _rowid_ FROM t ORDER BY 1 LIMIT 1 OFFSET {place})" if "without" not in kind and kind != "composite" else None
        where = f"_rowid_={row}" if row else f"(v)=(SELECT v FROM t ORDER BY v LIMIT 1 OFFSET {place})"
        pair.corrupt(f"UPDATE t SET {ranges.identifier(column)}='other' WHERE {where}")
        [named] = pair.found_and_mended()
        assert list(named["columns"]) == [column] and named["columns"][column][0] == "other"
        pair.corrupt(f"DELETE FROM t WHERE {where}")
        [named] = pair.found_and_mended()
        assert named["only"] == "primary"


@pytest.mark.parametrize("kind", ["ipk", "no key", "text key"])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_rows_that_only_the_replica_has_are_found_at_both_ends_and_between(make: Callable[..., Pair], kind: str, where: str) -> None:
    pair = make(TABLES[kind])
    key = {"ipk": "id", "no key": "rowid", "text key": "k"}[kind]
    value = (
        {"first": "-99", "middle": "1000", "last": "99999999"}[where]
        if kind != "text key"
        else repr({"first": "", "middle": "k15x", "last": "z"}[where])
    )
    pair.corrupt(f"INSERT INTO t({key}) VALUES({value})")
    [named] = pair.found_and_mended()
    assert named == {"table": "t", "key": json.loads(value.replace("'", '"')), "only": "here"}


ALIKE_TO_SQLITE = [
    (
        "k",
        "'b'",
        "'B'",
        "CREATE TABLE t(k TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, v); INSERT INTO t VALUES('a',1),('b',2),('c',3)",
    ),
    ("k", "2", "2.0", "CREATE TABLE t(k NOT NULL PRIMARY KEY, v); INSERT INTO t VALUES(1,1),(2,2),('2',3)"),
    ("k", "0.0", "-0.0", "CREATE TABLE t(k NOT NULL PRIMARY KEY, v) ; INSERT INTO t VALUES(-1.5,1),(0.0,2),(7,3)"),
    ("v", "0.0", "-0.0", "CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(0.0),(1)"),
    ("v", "1", "1.0", "CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(1),(3)"),
    ("v", "NULL", "''", "CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(NULL),(3)"),
    ("v", "'a'", "x'61'", "CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES('a'),(3)"),
    ("v", "'a'", "'A'", "CREATE TABLE t(k INTEGER PRIMARY KEY, v COLLATE NOCASE); INSERT INTO t(v) VALUES('a'),(3)"),
    ("v", "'a'", "'a '", "CREATE TABLE t(k INTEGER PRIMARY KEY, v COLLATE RTRIM); INSERT INTO t(v) VALUES('a'),(3)"),
    ("v", "'a'", "'a'||char(0)", "CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES('a'),(3)"),
    (
        "v",
        "9007199254740993",
        "9007199254740992.0",
        "CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(9007199254740993)",
    ),
]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("case", ALIKE_TO_SQLITE, ids=str)
def test_values_that_sqlite_calls_equal_and_are_not_the_same_are_told_apart(
    make: Callable[..., Pair], case: tuple[str, ...], encoding: str
) -> None:
    column, right, wrong, sql = case
    pair = make(sql, f"PRAGMA encoding='{encoding}'")
    pair.corrupt(f"UPDATE t SET {column}={wrong} WHERE {column} IS {right}")
    [named] = pair.found_and_mended()
    assert list(named["columns"]) == [column]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_that_is_not_unicode_is_compared_by_its_bytes(make: Callable[..., Pair], encoding: str) -> None:
    raw = {"UTF-8": ("x'61ff'", "x'61fe'"), "UTF-16le": ("x'00d84100'", "x'01d84100'")}[encoding]  # broken text that looks alike
    pair = make(
        f"CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(CAST({raw[0]} AS TEXT))", f"PRAGMA encoding='{encoding}'"
    )
    pair.corrupt(f"UPDATE t SET v=CAST({raw[1]} AS TEXT)")
    [named] = pair.found_and_mended()
    assert [list(v) for v in named["columns"]["v"]] == [["t"], ["t"]]


def test_rows_that_hold_each_others_unique_value_are_mended(make: Callable[..., Pair]) -> None:
    pair = make(f"CREATE TABLE t(id INTEGER PRIMARY KEY, tag UNIQUE); {NUMBERS} INSERT INTO t SELECT i, 'tag'||i FROM n")
    pair.corrupt("UPDATE t SET tag='x' WHERE id=5", "UPDATE t SET tag='tag5' WHERE id=290", "UPDATE t SET tag='tag290' WHERE id=5")
    assert [d["key"] for d in pair.verify().differences] in ([5, 290], [290, 5])
    report = pair.verify(repair=True)
    assert report.repaired >= 2
    assert_alike(pair.a, pair.b)


def test_a_key_that_was_changed_is_a_missing_row_and_one_too_many(make: Callable[..., Pair]) -> None:
    pair = make(TABLES["ipk"])
    pair.corrupt("UPDATE t SET id=1000001 WHERE id=70")
    named = pair.found_and_mended()
    assert {(d["key"], d["only"]) for d in named} == {(70, "primary"), (1000001, "here")}


def test_rowids_stay_where_they_are_the_key(make: Callable[..., Pair]) -> None:
    pair = make(TABLES["no key"])
    pair.corrupt("UPDATE t SET rowid=77777 WHERE rowid=25", "UPDATE t SET a='x' WHERE rowid=81")
    assert {d["key"] for d in pair.found_and_mended()} == {25, 77777, 81}


def test_an_empty_table_and_one_that_was_emptied(make: Callable[..., Pair]) -> None:
    pair = make(f"CREATE TABLE e(id INTEGER PRIMARY KEY, v); {TABLES['ipk']}")
    assert pair.verify().identical
    pair.corrupt("DELETE FROM t", "INSERT INTO e VALUES(1,1)")
    report = pair.verify()
    assert report.differing == {"t": 300, "e": 1}
    assert pair.verify(repair=True).repaired == 301
    assert_alike(pair.a, pair.b)


def test_a_table_that_one_side_lacks_is_no_matter_of_rows(make: Callable[..., Pair]) -> None:
    pair = make(TABLES["ipk"])
    pair.corrupt("CREATE TABLE extra(x)")
    with pytest.raises(Divergence, match="schema"):
        pair.verify(repair=True)
    pair.corrupt("DROP TABLE extra", "DROP TABLE t")
    with pytest.raises(Divergence, match="schema"):
        pair.verify(repair=True)


LOG_CELLS = ["actor='me'", "at=NULL", "key='k'", "n1='x'", "o15=1", "nonce=nonce+1", "op='D'", "gen=1", "tbl='other'", "chg='1'", "rid=5"]


@pytest.mark.parametrize("change", LOG_CELLS)
def test_the_log_is_compared_and_mended_like_a_table(make: Callable[..., Pair], change: str) -> None:
    pair = make(TABLES["ipk"])
    run_sql(pair.a, "UPDATE t SET v='new' WHERE id=7", "DELETE FROM t WHERE id=14")
    pair.pull(2 + 1)
    pair.corrupt(f"UPDATE changelog SET {change} WHERE seq=2")
    [named] = pair.found_and_mended()
    assert (named["table"], named["key"], list(named["columns"])) == ("changelog", 2, [change.partition("=")[0]])


@pytest.mark.parametrize("seq", [-5, 0, 3, 99])
def test_a_log_row_under_another_seq_is_put_back(make: Callable[..., Pair], seq: int) -> None:
    pair = make(TABLES["ipk"])
    run_sql(pair.a, "UPDATE t SET v=v||'!' WHERE id<100")
    pair.pull(one(pair.replica, "SELECT max(seq) FROM changelog") + 14)
    pair.corrupt("DELETE FROM changelog WHERE seq=3", f"UPDATE changelog SET seq={seq} WHERE seq=7")
    assert {d["key"] for d in pair.found_and_mended()} == {3, 7, seq}


@pytest.mark.parametrize("where", ["seq=1", "seq=(SELECT max(seq) FROM changelog)", "1"])
def test_log_rows_that_are_missing_come_back(make: Callable[..., Pair], where: str) -> None:
    pair = make(TABLES["ipk"])
    run_sql(pair.a, "UPDATE t SET v=v||'!' WHERE id<100")
    pair.pull(15)
    pair.corrupt(f"DELETE FROM changelog WHERE {where}")
    assert all(d["only"] == "primary" for d in pair.found_and_mended())


def test_a_log_that_was_trimmed_on_one_side_is_compared_as_far_as_both_have_it(make: Callable[..., Pair]) -> None:
    pair = make(TABLES["ipk"])
    run_sql(pair.a, "UPDATE t SET v=v||'!' WHERE id<100")
    pair.pull(15)
    for path, upto in ((pair.a, 4), (pair.b, 6)):
        damage(
            path,
            f"INSERT INTO changelog_meta SELECT 'trimmed', nonce, seq FROM changelog WHERE seq={upto}",
            f"DELETE FROM changelog WHERE seq<={upto}",
        )
    report = pair.verify()
    assert report.identical and report.log_rows == 15 - 6
    pair.corrupt("UPDATE changelog SET seq=2 WHERE seq=9")
    assert pair.verify().differing == {"changelog": 1}
    assert {d["key"] for d in pair.verify(repair=True).differences} == {9, 2}
    assert pair.verify().identical and one(pair.replica, "SELECT min(seq) FROM changelog") == 7


def test_counters_and_header_fields_that_somebody_changed_are_named_and_mended(make: Callable[..., Pair]) -> None:
    pair = make("PRAGMA user_version=3; CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v); INSERT INTO t(v) VALUES(1)")
    assert pair.verify().identical
    pair.corrupt("PRAGMA user_version=4", "PRAGMA application_id=8", "UPDATE sqlite_sequence SET seq=50 WHERE name='t'")
    named = pair.found_and_mended()
    assert {(d["table"], d["key"]) for d in named} == {("pragma", "user_version"), ("pragma", "application_id"), ("sqlite_sequence", "t")}
    assert {"seq": [50, 1]} in [d["columns"] for d in named]


def test_counters_that_moved_on_the_primary_alone_are_no_difference(make: Callable[..., Pair]) -> None:
    pair = make("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v UNIQUE); INSERT INTO t(v) VALUES(1)")
    run_sql(pair.a, "INSERT OR IGNORE INTO t VALUES(40, 1)", "UPDATE sqlite_sequence SET seq=60", "PRAGMA user_version=9")
    assert pair.verify().identical


def test_masked_columns_are_named_and_not_shown(make: Callable[..., Pair]) -> None:
    pair = make(
        "CREATE TABLE users(id INTEGER PRIMARY KEY, name, secret); INSERT INTO users VALUES(1,'anna','hush')", masks=["users.secret"]
    )
    run_sql(pair.a, "UPDATE users SET secret='hush hush'")
    pair.pull(2)
    pair.corrupt("UPDATE users SET secret='stolen', name='eve'", "UPDATE changelog SET n2='stolen', n1='eve' WHERE seq=2")
    named = pair.found_and_mended()
    assert "stolen" not in json.dumps(named) and "hush" not in json.dumps(named)
    assert [d["columns"] for d in named if d["table"] == "users"] == [{"name": ["eve", "anna"], "secret": ["***", "***"]}]


def test_a_full_text_index_fits_its_table_after_a_repair(make: Callable[..., Pair]) -> None:
    pair = make(
        """CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE VIRTUAL TABLE f USING fts5(v, content='t', content_rowid='id');
        INSERT INTO t VALUES(1,'apple'),(2,'pear'); INSERT INTO f(f) VALUES('rebuild')"""
    )
    run_sql(pair.a, "INSERT INTO t VALUES(3,'plum')")
    pair.pull(2)
    pair.corrupt("UPDATE t SET v='cherry' WHERE id=2")
    assert pair.verify(repair=True).repaired == 1
    assert rows(pair.replica, "SELECT rowid FROM f('pear')") == [(2,)] and not rows(pair.replica, "SELECT rowid FROM f('cherry')")
    pair.replica.execute("INSERT INTO f(f, rank) VALUES('integrity-check', 1)")


def test_a_replica_that_is_behind_is_brought_to_the_position_first(make: Callable[..., Pair]) -> None:
    pair = make(TABLES["ipk"])
    run_sql(pair.a, "UPDATE t SET v=v||'!'", "CREATE TABLE later(x)", "INSERT INTO later VALUES(1)")
    report = pair.verify()
    assert report.identical and report.position == pair.primary.head() == position_of(pair.replica)
    assert report.tables == 2 and report.rows == 301


class Meanwhile(LocalPrimary):
    """Something is written on the primary behind every answer."""

    def __init__(self, pair: Pair, statements: Iterator[str]) -> None:
        super().__init__(pair.primary)
        self._path, self._statements = pair.a, statements

    def _sent(self, facts: dict[str, Any]) -> Any:
        sent = super()._sent(facts)
        sql = next(self._statements, None)
        if sql:
            run_sql(self._path, sql)
        return sent


@pytest.mark.parametrize("repair", [False, True])
def test_rows_that_are_written_meanwhile_are_no_difference_and_the_others_are_found(make: Callable[..., Pair], repair: bool) -> None:
    pair = make(TABLES["ipk"])
    pair.corrupt("UPDATE t SET v='wrong' WHERE id=210")

    def writes() -> Iterator[str]:
        for n in range(200):
            yield f"UPDATE t SET v=v||'+' WHERE id IN (7, 203, 217, {n * 7}) AND id<>210"
            yield f"DELETE FROM t WHERE id={1400 + n * 7}"
            yield f"INSERT OR IGNORE INTO t VALUES({205 + n}, 'new') ON CONFLICT DO NOTHING"
            if n == 3:
                yield "ALTER TABLE t ADD COLUMN more DEFAULT 5"

    pair.other = Meanwhile(pair, writes())
    report = pair.verify(repair)
    assert [d["key"] for d in report.differences] == [210]
    if repair:
        pair.other = LocalPrimary(pair.primary)
        assert pair.verify().identical
        assert contents(pair.a) == contents(pair.b)


def test_a_row_that_was_wrong_and_is_written_meanwhile_is_right_again(make: Callable[..., Pair]) -> None:
    pair = make(TABLES["ipk"])
    pair.corrupt("UPDATE t SET v='wrong' WHERE id=210")
    pair.other = Meanwhile(pair, iter(["UPDATE t SET v='right' WHERE id=210"]))
    assert pair.verify(repair=True).identical
    assert contents(pair.a) == contents(pair.b)


def test_a_new_epoch_in_the_middle_is_told_as_such(make: Callable[..., Pair]) -> None:
    pair = make(TABLES["no key"])
    pair.corrupt("UPDATE t SET a='wrong' WHERE rowid=25")
    pair.other = Meanwhile(pair, iter(["VACUUM"]))
    with pytest.raises(PositionMismatch):
        pair.verify(repair=True)


def test_where_too_much_differs_a_snapshot_is_asked_for(make: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make(TABLES["ipk"])
    monkeypatch.setattr("changelog.verify.report.MOST_DIFFERENCES", 100)
    pair.corrupt("UPDATE t SET v='wrong'")
    with pytest.raises(Divergence, match="snapshot"):
        pair.verify(repair=True)


def test_many_rows_are_mended_in_many_rounds(make: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make(TABLES["some raw keys"])
    for name, value in (("RANGES", 2), ("PARTS", 3), ("LEAF_ROWS", 40), ("ROUND_RANGES", 2), ("ROUND_ROWS", 50)):
        monkeypatch.setattr(check, name, value)
    monkeypatch.setattr(answers, "MOST_BYTES", 500)
    pair.corrupt("UPDATE t SET v=v||'!' WHERE v%2")
    assert pair.verify(repair=True).repaired == 150
    assert_alike(pair.a, pair.b)


def test_a_row_that_cannot_be_stored_rolls_the_repair_back(make: Callable[..., Pair]) -> None:
    pair = make(f"CREATE TABLE t(id INTEGER PRIMARY KEY, v INT NOT NULL) STRICT; {NUMBERS} INSERT INTO t SELECT i, i FROM n")
    pair.corrupt("UPDATE t SET v=0 WHERE id=9")
    scope = scopes_of(pair.replica, 1)["t"]
    with pytest.raises(Divergence, match="cannot be repaired"):
        check.replace_rows(pair.replica, scope, [(9, 0)], [(9, "no number")])


def test_a_damaged_index_is_said_to_be_one(make: Callable[..., Pair]) -> None:
    pair = make(TABLES["text key"])
    db = connect(pair.b)
    db.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
    page, size = one(db, "SELECT rootpage FROM sqlite_schema WHERE name='sqlite_autoindex_t_1'"), db.pragma("page_size")
    db.close()
    pair.replica.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    pair.replica.close()
    with pair.b.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    pair.replica = connect_replica(pair.b)
    with pytest.raises(DamagedFile):
        pair.verify(repair=True)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"ranges": 5},
        {"ranges": [["t"]]},
        {"ranges": [[None, None, None, False, []]]},
        {"ranges": [["nothing", None, None, False, []]]},
        {"ranges": [["t", 5, None, False, []]]},
        {"ranges": [["t", [5, 6], None, False, []]]},
        {"ranges": [["t", [{"b": "zz"}], None, False, []]]},
        {"ranges": [["t", [2**64], None, False, []]]},
        {"ranges": [["t", None, None, False, [[[1], "short"]]]]},
        {"ranges": [["t", None, None, False, 7]]},
        {"ranges": [["t", None, None, False, []]] * 300},
        {"ranges": [["t", None, None, False, []]], "log_from": "1"},
    ],
)
def test_questions_that_make_no_sense_are_refused(make: Callable[..., Pair], asked: dict[str, Any]) -> None:
    pair = make(TABLES["ipk"])
    with pair.primary.snapshot() as db:
        schema = answers.digests(db, 1, 1)["facts"]["schema"]
        with pytest.raises(BadRequest):
            answers.rows(db, {"schema": schema, "log_from": 1, **asked})
        short = {
            **asked,
            "ranges": [r[:3] if isinstance(r, list) and len(r) == 5 else r for r in asked["ranges"]]
            if isinstance(asked.get("ranges"), list)
            else None,
        }
        if "[]" not in json.dumps(asked) or len(asked["ranges"]) > 256:
            with pytest.raises(BadRequest):
                answers.parts(db, {"schema": schema, "log_from": 1, "parts": 0, **short})


def test_the_number_of_digests_in_an_answer_is_bounded(make: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make(TABLES["ipk"])
    monkeypatch.setattr(answers, "MOST_DIGESTS", 8)
    with pair.primary.snapshot() as db:
        assert len(answers.digests(db, 1000, 1)["tables"]["t"]) <= 4


def test_an_index_never_stands_in_for_the_table(make: Callable[..., Pair]) -> None:
    pair = make(TABLES["ipk"])
    pair.corrupt("CREATE INDEX changelog_local_all ON t(id, v)", "CREATE INDEX changelog_local_log ON changelog(seq, at, nonce)")
    for scope in (scopes_of(pair.replica, 1)["t"], log_scope(pair.replica, 1)):
        source, bindings = ranges.ordered(scope, Range((5,), (90,)))
        plan = rows(pair.replica, f"EXPLAIN QUERY PLAN SELECT {','.join(scope.terms[:2])} {source}", bindings)
        assert "USING INTEGER PRIMARY KEY" in plan[0][3] and "TEMP B-TREE" not in str(plan)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_command_compares_names_mends_and_says_so_by_its_exit_code(make: Callable[..., Pair]) -> None:
    pair = make(TABLES["ipk"])
    run_sql(pair.a, "UPDATE t SET v='new' WHERE id=7")
    fine = run("verify", pair.a, pair.b)
    assert (fine.exit_code, "both sides       identical" in fine.output) == (0, True), fine.output
    pair.corrupt("UPDATE t SET v='wrong' WHERE id=70")
    for _ in range(2):
        found = run("verify", pair.a, pair.b)
        assert found.exit_code == 3 and 't 70  v: "wrong" here | "v10" on A' in found.output and "repaired" not in found.output
    mended = run("verify", pair.a, pair.b, "--repair", "--json")
    facts = json.loads(mended.stdout)
    assert (
        mended.exit_code == 3
        and facts["repaired"] == 1
        and facts["differing"] == {"t": 1}
        and facts["position"] == str(pair.primary.head())
    )
    assert run("verify", pair.a, pair.b).exit_code == 0


def test_the_command_says_when_only_a_snapshot_helps(make: Callable[..., Pair]) -> None:
    pair = make(TABLES["ipk"])
    pair.corrupt("CREATE TABLE extra(x)")
    found = run("verify", pair.a, pair.b, "--repair")
    assert found.exit_code == 3 and "schema" in found.output and "changelog pull" in found.output


def test_the_command_refuses_a_replica_of_another_primary(make: Callable[..., Pair], tmp_path: Path) -> None:
    pair = make(TABLES["ipk"])
    stranger = make_primary(tmp_path / "other.db", TABLES["ipk"])
    assert run("verify", stranger, pair.b).exit_code == 1
    assert run("verify", pair.b, pair.a).exit_code == 1
