"""Any name that SQLite takes for a table or a column goes the whole way: captured, sent, replayed, shown, compared."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from changelog_parts import assert_alike, follow, make_primary, make_replica, run_sql
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from changelog.connection import connect, one, rows
from changelog.errors import CannotCapture
from changelog.guard import unguarded_tables
from changelog.primary import Primary
from changelog.replay import connect_replica
from changelog.schema import identifier, is_ours, literal
from changelog.verify.check import Verification
from changelog.verify.local import LocalPrimary

CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=("Cs",))
ODD = st.sampled_from(['"', "'", "`", "[", "]", ";", "--", "/*", "\n", "\r", "\t", " ", "%", "_", "select", "rowid", "é", "🐄", "\u202e"])
NAMES = st.lists(ODD | CHARACTERS, min_size=0, max_size=12).map("".join)


@settings(max_examples=30, deadline=None)
@given(table=NAMES, columns=st.tuples(NAMES, NAMES))
@example(table="", columns=("", "x"))
@example(table='"; DROP TABLE "changelog', columns=("') --", "old_')"))
@example(table="CHANGELOG_of_x\n", columns=("seq", "old_seq"))
@example(table="insert_x", columns=("NEW", "OLD"))
def test_any_name_of_a_table_and_its_columns_goes_the_whole_way(table: str, columns: tuple[str, str]) -> None:
    key, value = columns
    assume(key.lower() != value.lower() and not table.lower().startswith("sqlite_"))
    assume(not any(is_ours(kind, table) for kind in ("table", "view")))
    name, k, v = identifier(table), identifier(key), identifier(value)
    with tempfile.TemporaryDirectory() as folder:
        primary = make_primary(
            Path(folder) / "primary.db", f"CREATE TABLE {name}({k} INTEGER PRIMARY KEY, {v}); INSERT INTO {name} VALUES(1, 'a'), (2, 'b')"
        )
        replica = make_replica(primary, Path(folder) / "replica.db")
        run_sql(primary, f"UPDATE {name} SET {v}='c' WHERE {k}=1", f"DELETE FROM {name} WHERE {k}=2", f"INSERT INTO {name} VALUES(3, NULL)")
        follow(primary, replica)
        assert_alike(primary, replica)
        with closing(connect(replica, readonly=True)) as db:
            shown = "SELECT op, key, col, old, new FROM changelog_audit WHERE tbl=? AND col=? ORDER BY seq"
            assert rows(db, shown, (table, value))[0] == ("U", 1, value, "a", "c")
            assert one(db, f"SELECT count(*) FROM {identifier('changelog_of_' + table)}") == 3
            assert unguarded_tables(db) == []
        with closing(Primary(primary)) as source, closing(connect_replica(replica)) as db:
            other = LocalPrimary(source)
            db.execute(f"UPDATE {name} SET {v}='forged' WHERE {k}=3")
            found = Verification(db, other, lambda seq: other.pull(db, seq), True).run()
            assert [(d["table"], d["key"], list(d["columns"])) for d in found.differences] == [(table, 3, [value])]
        assert_alike(primary, replica)


@settings(max_examples=300, deadline=None)
@given(text=st.text(CHARACTERS))
def test_a_quoted_name_and_a_quoted_text_are_that_and_nothing_more(text: str) -> None:
    with closing(connect(":memory:", create=True, scratch=True)) as db:
        [(found,)] = rows(db, f"SELECT {literal(text)} AS {identifier(text)}")
        assert found == text
        assert db.execute(f"SELECT {literal(text)} AS {identifier(text)}").get_description()[0][0] == text


def test_a_name_with_a_nul_is_refused() -> None:
    for quote in (identifier, literal):
        with pytest.raises(CannotCapture):
            quote("a\0b")
