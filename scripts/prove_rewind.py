#!/usr/bin/env python3
"""Sends a primary back in time again and again, below what its replica has: `scripts/prove_rewind.py 100 [--seed N]`.

It goes back by a restored copy, by a restored backup (which begins a new epoch), or by a -wal that ends at a random frame, as after a power
cut on a disk that forgets. Then other rows are written under the same seqs, some of them the lost ones typed again, or nothing is. Each
case must be found out at the first request, leave no wrong row on the replica, keep the replica's older history, and offer every lost
change in the rescued file. After `adopt` no lost insert, update or delete may be missing on the primary unless a conflict names its row, no
row written since may be gone, and adopting again must change nothing. Exit code 1 otherwise.
"""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.connection import connect, rows
from changelog.errors import PositionMismatch
from changelog.install import install
from changelog.log import head
from changelog.primary import Primary
from changelog.pull import Pulled, pull_file
from changelog.replay import position_of
from changelog.rescue.adopt import adopt
from changelog.rescue.outcome import Adopted
from changelog.schema import identifier, read_tables
from changelog.verify.digest import digest_tables, table_rows
from changelog.wire import FACTS

FARM = (Path(__file__).resolve().parents[1] / "pi" / "schema.sql").read_text()
ODD = """CREATE TABLE spots(x INTEGER, y TEXT COLLATE NOCASE, what, pen_id REFERENCES pens(id), PRIMARY KEY(x, y)) WITHOUT ROWID;
CREATE TABLE papers(a, b);"""
KINDS = ("copy", "backup", "cut")
WAL_HEADER, FRAME_HEADER = 32, 24
TRANSACTIONS = (10, 40)  # before the point, and after it

# What names a row whatever its number is, and by which columns a row names another one.
NATURAL = {"batches": ("batch_number",), "pens": ("pen_number",), "cattle": ("cattle_id",), "spots": ("x", "y")}
PARENTS = {"batch_id": "batches", "pen_id": "pens", "cattle_id": "cattle"}
Row = dict[str, Any]


class Writer:
    """Random transactions, as a shell types them."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self._count = chance, 0

    def transaction(self, name: str) -> str:
        """One; `name` marks what it makes, so that nobody else makes the same by chance."""
        statements = [self._statement(name) for _ in range(self.chance.choice([1, 1, 1, 2, 5]))]
        return f"BEGIN; {'; '.join(statements)}; COMMIT"

    def _statement(self, name: str) -> str:
        self._count += 1
        label, number = f"{name}{self._count}", self.chance.randrange(1000)
        order = f"ORDER BY (id * 7919 + {number}) % 101 LIMIT 1"
        some = {table: f"(SELECT id FROM {table} {order})" for table in ("pens", "batches", "cattle")}
        return self.chance.choice(
            [
                f"INSERT INTO pens(pen_number, capacity) VALUES('{label}', {number})",
                f"INSERT INTO batches(batch_number, notes) VALUES('{label}', CAST(x'61ff' AS TEXT))",
                f"INSERT INTO cattle(batch_id, cattle_id, pen_id) SELECT {some['batches']}, '{label}', {some['pens']} FROM batches LIMIT 1",
                f"INSERT INTO weight_records(cattle_id, weight) SELECT id, {number % 5} FROM cattle {order}",
                f"INSERT INTO spots VALUES({number}, '{label}', x'00ff', {some['pens']})",
                f"INSERT INTO papers VALUES('{label[0]}', {number % 3})",
                f"UPDATE cattle SET weight={number}, pen_id={some['pens']} WHERE id={some['cattle']}",
                f"UPDATE pens SET capacity=capacity+1 WHERE id={some['pens']}",
                f"UPDATE spots SET what={number}.5 WHERE x%5={number % 5}",
                f"UPDATE batches SET notes='{label}' WHERE id={some['batches']}",
                f"UPDATE papers SET b=b+1 WHERE rowid%7={number % 7}",
                f"DELETE FROM weight_records WHERE id%9={number % 9}",
                f"DELETE FROM spots WHERE x%11={number % 11}",
                f"DELETE FROM papers WHERE rowid%11={number % 11}",
                f"DELETE FROM pens WHERE id={some['pens']} AND NOT EXISTS(SELECT 1 FROM cattle WHERE pen_id=pens.id)"
                " AND NOT EXISTS(SELECT 1 FROM spots WHERE pen_id=pens.id)",
            ]
        )


class Case:
    """One primary that goes back once."""

    def __init__(self, seed: int, folder: Path, counts: Counter[str]) -> None:
        self.seed, self.chance, self.counts = seed, random.Random(seed), counts
        self.folder, self.primary, self.replica = folder, folder / "p.db", folder / "r.db"
        self.kind = KINDS[seed % len(KINDS)]
        self._writer = Writer(self.chance)
        self._rewrites = self.chance.random() < 0.7
        self.base: Contents = {}  # what both sides share

    def run(self) -> str | None:
        """What is wrong, or None."""
        shared = self._go_back()
        if self.chance.random() < 0.4:
            trim(self.primary, self.chance.randrange(1, shared + 1))
        position = self._reached()
        source = Primary(self.primary)
        try:
            if not self._is_found_out(source, position):
                return "was not found out at the first request"
            held, log = seen(self.replica), log_rows_of(self.replica)
            pulled = pull_file(source, self.replica)
            return self._problem_of_the_replica(pulled, shared, log) or self._problem_of_adopting(source, pulled, held)
        finally:
            source.close()

    def _go_back(self) -> int:
        """Write, follow, go back and write again; returns the newest seq that both sides share."""
        db = connect(self.primary, create=True)
        db.execute(FARM + ODD)
        install(db)
        db.pragma("synchronous", "NORMAL")
        self._write(db, self.chance.randint(*TRANSACTIONS), "A")
        keep = self._keep_point(db)
        lost = self._write(db, self.chance.randint(*TRANSACTIONS), "L")
        source = Primary(self.primary)
        pull_file(source, self.replica)
        source.close()
        if self.kind == "cut":
            self._keep_cut(db)
        db.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.primary}{suffix}").unlink(missing_ok=True)
            if (kept := Path(f"{keep}{suffix}")).exists():
                kept.rename(f"{self.primary}{suffix}")
        return self._write_again(lost)

    def _keep_point(self, db: apsw.Connection) -> Path:
        """A copy of the file as it is now."""
        kept = self.folder / "kept.db"
        if self.kind == "backup":
            copy = connect(kept, create=True)
            with copy.backup("main", db, "main") as backup:
                backup.step(-1)
            copy.close()
        else:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            subprocess.run(["cp", str(self.primary), str(kept)], check=True)  # not by us: our locks on it would go with the first close()
        return kept

    def _keep_cut(self, db: apsw.Connection) -> None:
        """A -wal of which only the first frames reached the disk, and half of the next one."""
        kept = self.folder / "kept.db-wal"
        subprocess.run(["cp", f"{self.primary}-wal", str(kept)], check=True)
        frame = FRAME_HEADER + db.pragma("page_size")
        frames = (kept.stat().st_size - WAL_HEADER) // frame
        with kept.open("r+b") as file:
            file.truncate(WAL_HEADER + self.chance.randrange(frames) * frame + self.chance.choice([0, 7, frame // 2]))

    def _write_again(self, lost: list[str]) -> int:
        self.base = seen(self.primary)
        db = connect(self.primary)
        shared = head(db)
        if self._rewrites:
            again = self.chance.sample(lost, self.chance.randint(0, len(lost)))
            for sql in again:
                self._execute(db, sql)
            self.counts["typed again"] += bool(again)
            self._write(db, self.chance.randint(1, TRANSACTIONS[1]), "N")
        self.counts["seqs used again"] += head(db) > shared
        db.close()
        return shared

    def _write(self, db: apsw.Connection, count: int, name: str) -> list[str]:
        done = [self._writer.transaction(name) for _ in range(count)]
        for sql in done:
            self._execute(db, sql)
        return done

    def _execute(self, db: apsw.Connection, sql: str) -> None:
        try:
            db.execute(sql)
        except apsw.ConstraintError:  # typed again, and there already
            db.execute("ROLLBACK")

    def _reached(self) -> Any:
        with closing(connect(self.replica)) as db:
            return position_of(db)

    def _is_found_out(self, source: Primary, position: Any) -> bool:
        try:
            source.frame(position)
        except PositionMismatch as exc:
            self.counts["found out at the first request"] += exc.status == 409
            return True
        return False

    def _problem_of_the_replica(self, pulled: Pulled, shared: int, log: dict[int, Any]) -> str | None:
        with closing(connect(self.primary)) as ours, closing(connect(self.replica)) as theirs:
            wrong = [name for name, digest in digest_tables(ours).items() if digest_tables(theirs)[name] != digest]
            oldest = rows(ours, "SELECT min(seq) FROM changelog")[0][0]
        self.counts["wrong tables"] += len(wrong)
        if wrong:
            return f"the replica differs in {wrong}"
        now = log_rows_of(self.replica)
        self.counts["older changes carried over"] += sum(seq < oldest for seq in now)
        carried = {seq: row for seq, row in log.items() if seq <= min(shared, oldest - 1)}
        if {seq: row for seq, row in now.items() if seq < oldest} != carried:
            return "the older history of the replica is not what it was"
        lost = {seq: row for seq, row in log.items() if seq > shared}
        self.counts["lost changes"] += len(lost)
        if not pulled.rescued or log_rows_of(pulled.rescued.path) != lost:
            return f"the rescued file does not hold the {len(lost)} lost changes: {pulled.rescued}"
        self.counts["lost changes offered back"] += len(lost)
        return None

    def _problem_of_adopting(self, source: Primary, pulled: Pulled, held: Contents) -> str | None:
        assert pulled.rescued
        before = seen(self.primary)
        done = adopt(self.primary, pulled.rescued.path)
        after = seen(self.primary)
        self.counts["conflicts named"] += len(done.conflicts)
        for counted in done.tables.values():
            self.counts.update({f"changes {what}": n for what, n in counted.items()})
        fresh = made_since(self.primary, pulled.rescued.common)
        problem = next(missing(Told(pulled.rescued.path, done), (self.base, held, before, after), fresh), None)
        if problem:
            self.counts["missing"] += 1
            return problem
        log = log_rows_of(self.primary)
        again = adopt(self.primary, pulled.rescued.path)
        if log_rows_of(self.primary) != log or len(again.conflicts) != len(done.conflicts):
            return f"adopting again is not the same: {[*map(str, again.conflicts)]} after {[*map(str, done.conflicts)]}"
        pull_file(source, self.replica)
        return None if log_rows_of(self.replica).items() >= log.items() else "the replica does not follow any more"


Contents = dict[str, dict[Any, Row]]  # by table, then by natural key, or by the row's own number where it has none


def seen(path: Path) -> Contents:
    """All rows, as they look to somebody who does not know numbers: a row that is named by another one appears there by its natural key."""
    with closing(connect(path)) as db, db:
        tables = {t.name: t for t in read_tables(db)}
        raw = {n: [dict(zip(_names(t), row, strict=True)) for row in table_rows(db, t)] for n, t in tables.items() if n != "users"}
    found: Contents = {}
    for name in sorted(raw, key=lambda n: (n not in NATURAL, n == "cattle")):
        found[name] = {}
        for row in raw[name]:
            number = row.pop("id", row.pop("rowid", None))
            for column, parent in PARENTS.items():
                if column in row and not (name == "cattle" and column == "cattle_id") and row[column] is not None:
                    row[column] = next((key for key, other in found[parent].items() if other["#"] == row[column]), ("nobody", row[column]))
            key = tuple(row[c] for c in NATURAL[name]) if name in NATURAL else number
            found[name][key] = row | {"#": number}
    return found


def _names(table: Any) -> list[str]:
    return [*([table.rowid] if table.keyed_by_rowid else []), *(c.name for c in table.columns)]


Keys = set[tuple[str, str]]  # rows by table and by their key in the log


class Told:
    """What the rescued file tells of each row, and which of them the conflicts name. (No row changes its key here.)"""

    def __init__(self, path: Path, done: Adopted) -> None:
        self.ops: dict[tuple[str, str], str] = defaultdict(str)  # in order
        self.columns: dict[tuple[str, str], set[str]] = defaultdict(set)  # that were updated since the row was last made
        self.named = {(c.table, repr(c.key)) for c in done.conflicts}
        with closing(connect(path, readonly=True)) as db:
            for table, key, op in rows(db, "SELECT tbl, key, op FROM changelog WHERE tbl IS NOT NULL ORDER BY seq"):
                self.ops[table, repr(key)] += op
            for table, key, column in rows(db, "SELECT DISTINCT tbl, key, col FROM changelog_audit WHERE op='U'"):
                self.columns[table, repr(key)].add(column)


def made_since(path: Path, common: int) -> Keys:
    """The rows that this primary's own log says were inserted since."""
    with closing(connect(path, readonly=True)) as db:
        return {(table, repr(key)) for table, key in rows(db, "SELECT tbl, key FROM changelog WHERE op='I' AND seq>?", (common,))}


def missing(lost: Told, stages: tuple[Contents, Contents, Contents, Contents], fresh: Keys) -> Iterator[str]:
    """Lost changes that are not on the primary and that no conflict names, and rows that are gone for no reason.

    The stages: what both sides shared, what the replica held, what the primary held before and after adopting.
    """
    base, held, before, after = stages
    for table, found in held.items():
        made = Counter(_told(row) for natural, row in found.items() if _is_made(lost, table, natural, row))
        there = Counter(_told(row) for natural, row in after[table].items() if (table, repr(_logged(table, row, natural))) in fresh)
        for told, count in (made - there).items():
            yield f"{table}: {count} times {told} is missing"
        for natural, row in base[table].items():
            key = table, repr(_logged(table, row, natural))
            if key not in lost.named and key not in fresh:
                now = after[table].get(natural)
                same_row = now if now and now["#"] == row["#"] else None  # else somebody made it anew under its natural key
                yield from _not_done(lost, key, found.get(natural), same_row)
        for natural, row in before[table].items():
            if natural not in after[table] and "D" not in lost.ops[table, repr(_logged(table, row, natural))]:
                yield f"{table} {natural} {row} was there and is gone"


def _not_done(lost: Told, key: tuple[str, str], wanted: Row | None, now: Row | None) -> Iterator[str]:
    """What became of a row that was there before the loss: as the replica held it, and as it is on the primary."""
    if "D" in lost.ops[key] and now is not None:
        yield f"{key} was deleted and is there: {now}"
    elif "D" not in lost.ops[key] and any(now is None or wanted is None or repr(now[c]) != repr(wanted[c]) for c in lost.columns[key]):
        yield f"{key}: {lost.columns[key]} of {wanted} is not what is there: {now}"


def _is_made(lost: Told, table: str, natural: Any, row: Row) -> bool:
    key = table, repr(_logged(table, row, natural))
    return "I" in lost.ops[key] and key not in lost.named


def _told(row: Row) -> Any:
    return tuple((c, repr(v)) for c, v in row.items() if c != "#" and not c.endswith(("_at", "_date")))


def _logged(table: str, row: Row, natural: Any) -> Any:
    """The key as the log has it."""
    return "{},'{}'".format(*natural) if table == "spots" else row["#"]


def log_rows_of(path: Path) -> dict[int, Any]:
    """The log by seq, exactly."""
    with closing(connect(path, readonly=True)) as db:
        slots = [name for (name,) in rows(db, "SELECT name FROM pragma_table_info('changelog') WHERE name GLOB '[no][0-9]*'")]
        columns = ",".join([*FACTS, *(f"CASE typeof({c}) WHEN 'text' THEN 't'||hex({c}) ELSE {c} END" for c in map(identifier, slots))])
        return {row[0]: row for row in db.execute(f"SELECT {columns} FROM changelog")}


def trim(path: Path, upto: int) -> None:
    """As retention does: the rows go, and a mark of the last one stays."""
    with closing(connect(path)) as db, db:
        db.execute("INSERT INTO changelog_meta(name,value,seq) SELECT 'trimmed',nonce,seq FROM changelog WHERE seq=?", (upto,))
        db.execute("DELETE FROM changelog WHERE seq<=? AND seq<(SELECT max(seq) FROM changelog)", (upto,))


def cases(first: int) -> Iterator[int]:
    """Seeds."""
    while True:
        yield first
        first += 1


def prove(points: int, first: int, report: Callable[[str], object]) -> Counter[str]:
    """Run so many cases in which something was lost; returns the counts."""
    counts = Counter[str]()
    for seed in cases(first):
        if counts["points"] >= points:
            return counts
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            case = Case(seed, Path(folder), counts)
            problem = case.run()
            counts["points"] += 1
            counts[f"by {case.kind}"] += 1
            if problem:
                counts["failed"] += 1
                report(f"seed {seed} ({case.kind}): {problem}")
    return counts


@click.command(help="Send a primary back POINTS times.")
@click.argument("points", type=int, default=100)
@click.option("--seed", type=int, default=None, help="Of the first case; the others count on. Printed, so that a run can be repeated.")
def main(points: int, seed: int | None) -> None:
    """The command line."""
    logging.disable()  # losses are part of it
    first = random.SystemRandom().randrange(10**9) if seed is None else seed
    counts = prove(points, first, click.echo)
    click.echo(f"seeds from {first}")
    for name, count in counts.items():
        click.echo(f"{count:>8}  {name}")
    click.echo(f"{counts['points']} points, {counts['failed']} failed")
    sys.exit(1 if counts["failed"] else 0)


if __name__ == "__main__":
    main()
