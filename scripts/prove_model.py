#!/usr/bin/env python3
"""A primary and its replica under everything that can happen to them: `scripts/prove_model.py SCHEMAS STATEMENTS [--seed N]`.

A stateful test of hypothesis. Each example draws a file (page size, encoding), tables of every kind, and then that many steps: writes of
every kind and DDL of every kind, in the system's sqlite3 or by apsw, recursive_triggers and foreign_keys off or on; transactions with
savepoints; a writer killed in the middle of one; what reads the primary started anew; and the replica brought up to date, by replay or,
when a new epoch has begun, by a snapshot. Each time both hold the same afterwards: rows to the bit, rowids where they are the key, schema,
counters, log. A failure is printed as the steps that lead to it.
"""

from __future__ import annotations

import logging
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import click
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog.bootstrap import fit_out
from changelog.connection import connect, one, remove_database, rows
from changelog.errors import BadRequest, Divergence, DroverError
from changelog.install import install
from changelog.primary import Primary
from changelog.reconcile import run_ddl
from changelog.replay import connect_replica, position_of, replay
from changelog.schema import identifier, schema_hash
from changelog.wire import decode_frame, encode_frame
from scripts.fuzz_capture import contents
from scripts.prove_capture import ApswWriter, ShellWriter, Writer, attempt
from scripts.random_sql import Statements

SEEDS = st.integers(0, 2**24)  # of one step: small, because all steps of an example together must fit into hypothesis's memory of it
PAGE_SIZES = [512, 1024, 4096, 4096, 4096, 65536]
ENCODINGS = ["UTF-8", "UTF-8", "UTF-8", "UTF-16le", "UTF-16be"]
SYNC_CHANCE = 0.15  # after a write; and it is a step of its own
MOST_ROWS = 40  # of a table, so that it is compared quickly
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None

counts: Counter[str] = Counter()
surprises: list[str] = []  # what replay refused, with the steps that led there


class Replication(RuleBasedStateMachine):
    """One primary, one replica."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=FOLDER))
        self.path, self.copy = self.folder / "primary.db", self.folder / "replica.db"
        self.story: list[str] = []
        self.writers: dict[str, Writer] = {}
        self.replica: Any = None  # the connection
        self.sound = False  # until there is something to compare, and after a comparison has failed

    @initialize(number=SEEDS)
    def prepare(self, number: int) -> None:
        """A database with some tables, the changelog in it, and a replica of it."""
        chance = random.Random(number)
        self.db = connect(self.path, create=True, scratch=True)
        for pragma, values in (("page_size", PAGE_SIZES), ("encoding", ENCODINGS), ("auto_vacuum", [0, 0, 1, 2])):
            self._run(f"PRAGMA {pragma}={chance.choice(values)!r}")
        for _ in range(chance.randint(1, 4)):
            self._run(Statements(self.db, chance).create_table())
        script = Statements(self.db, chance)
        for _ in range(chance.randint(0, 3) if script.tables else 0):
            self._run(script.create_index())
        for _ in range(12 if script.tables else 0):
            self._run(script.insert())
        install(self.db)
        self.db.close()
        self.db = connect(self.path)
        self.db.pragma("synchronous", "OFF")
        self.writers = {
            "apsw": ApswWriter(self.path, ["PRAGMA synchronous=OFF"]),
            "shell": ShellWriter(self.path, ["PRAGMA synchronous=OFF"]),
        }
        self.source = Primary(self.path)
        self.script = Statements(self.db, chance)
        self._bootstrap()
        self.sound = True
        counts["schemas"] += 1

    @rule(number=SEEDS)
    def insert(self, number: int) -> None:
        self._write(number, lambda script: [script.insert()])

    @rule(number=SEEDS)
    def upsert(self, number: int) -> None:
        self._write(number, lambda script: [script.upsert()])

    @rule(number=SEEDS)
    def update(self, number: int) -> None:
        self._write(number, lambda script: [script.update()])

    @rule(number=SEEDS)
    def update_from(self, number: int) -> None:
        self._write(number, lambda script: [script.update_from()])

    @rule(number=SEEDS)
    def change_keys(self, number: int) -> None:
        self._write(number, lambda script: [script.change_keys()])

    @rule(number=SEEDS)
    def delete(self, number: int) -> None:
        self._write(number, lambda script: [script.delete()])

    @rule(number=SEEDS)
    def transaction(self, number: int) -> None:
        self._write(number, lambda script: script.transaction())

    @rule(number=SEEDS)
    def change_schema(self, number: int) -> None:
        self._write(number, lambda script: script.any_ddl())

    @rule(number=SEEDS)
    def drop_column(self, number: int) -> None:
        """By our command, which takes our triggers out of the way."""
        script = self._script(number)
        if script.tables:
            sql = script.drop_column()
            self.story.append(f"-- python -m changelog ddl: {sql}")
            try:
                run_ddl(self.db, sql)
            except (BadRequest, apsw.Error) as exc:  # a key, or indexed: SQLite refuses it
                self.story.append(f"--   {exc}")

    @rule(number=SEEDS)
    def crash(self, number: int) -> None:
        """A writer dies in the middle of its transaction."""
        script = self._script(number)
        if not script.tables:
            return
        lines = ["BEGIN", *(script.any_write() for _ in range(3)), "SELECT 'written'"]
        self.story += [*lines, "-- kill -9"]
        shell = subprocess.Popen(
            ["sqlite3", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        assert shell.stdin and shell.stdout
        shell.stdin.write(";\n".join(lines) + ";\n")
        shell.stdin.flush()
        while shell.stdout.readline() not in ("written\n", ""):
            pass
        shell.kill()
        shell.wait()
        shell.stdin.close()
        shell.stdout.close()
        counts["crashes"] += 1

    @rule()
    def restart(self) -> None:
        """What reads the primary forgets up to where it knew the schema."""
        self.story.append("-- the primary's reader is started anew")
        self.source.close()
        self.source = Primary(self.path)

    @rule()
    def sync(self) -> None:
        """Bring the replica up to date, and compare."""
        self.story.append("-- sync")
        self.sound = False
        self._follow()
        with self.source.snapshot() as db:
            assert schema_hash(db) == schema_hash(self.replica), self._told("the schemas differ")
            mine, theirs = contents(db), contents(self.replica)
            assert repr(mine) == repr(theirs), self._told(f"the primary holds {mine}\n  the replica {theirs}")
            log = "SELECT count(*), max(seq), sum(nonce % 1000003), sum(length(n0)), sum(length(o0)) FROM changelog"
            assert rows(db, log) == rows(self.replica, log), self._told("the logs differ")
        self.sound = True
        counts["comparisons"] += 1
        for name, held in mine.items():
            if len(held) > MOST_ROWS and name != "sqlite_sequence":  # type: ignore[arg-type]
                self._run(f"DELETE FROM {identifier(name)}")

    def teardown(self) -> None:
        """The last comparison, of the files as SQLite checks them too."""
        try:
            if self.sound:
                self.sync()
                if (
                    one(self.db, "PRAGMA integrity_check") == "ok"
                ):  # not where an index was written by a SQLite that makes other text of reals
                    found = one(self.replica, "PRAGMA integrity_check")
                    assert found == "ok", self._told(f"the replica's file is damaged: {found}")
        finally:
            for name in ("source", "replica", "db"):
                if getattr(self, name, None):
                    getattr(self, name).close()
            for writer in self.writers.values():
                writer.close()
            shutil.rmtree(self.folder)

    def _write(self, number: int, lines_of: Callable[[Statements], list[str]]) -> None:
        script, chance = self._script(number), random.Random(-number - 1)
        lines = lines_of(script) if script.tables else [script.create_table()]
        who, recursive, foreign = chance.choice(["apsw", "shell"]), chance.random() < 0.5, chance.random() < 0.6
        pragmas = [f"PRAGMA recursive_triggers={int(recursive)}", f"PRAGMA foreign_keys={int(foreign)}"]
        self.story += [f"-- {who}, {', '.join(pragmas)}", *lines]
        # A deferred foreign key may have refused the COMMIT.
        said = self.writers[who].run([*pragmas, *lines, "ROLLBACK"])
        self.story += [f"--   {line}" for line in said.splitlines() if "rror" in line or who == "apsw"]
        counts["statements"] += len(lines)
        refused = [line for line in said.splitlines() if "_changelog_" in line and "drop column" not in line]
        assert not refused, self._told(f"our triggers stood in the way: {refused}")
        if chance.random() < SYNC_CHANCE:
            self.sync()

    def _script(self, number: int) -> Statements:
        if self.script.version != self.db.pragma("schema_version"):
            self.script = Statements(self.db, random.Random())
        self.script.random = random.Random(number)
        return self.script

    def _run(self, sql: str) -> None:
        self.story += [sql, f"--   {attempt(self.db, sql)}"]

    def _follow(self) -> None:
        try:
            start, head = position_of(self.replica), self.source.head()
        except DroverError as exc:
            raise AssertionError(self._told(f"the primary cannot be read: {exc}")) from exc
        if start.epoch != head.epoch:
            counts["new epochs"] += 1
            self._bootstrap()
            return
        header, found = self.source.frame(start)
        frame = b"".join(encode_frame(header, found))
        try:
            replay(self.replica, *decode_frame([frame]))
        except Divergence as exc:  # said, and mended as the server does
            counts["surprises"] += 1
            self.story.append(f"-- {exc}")
            surprises.append(self._told(str(exc)))
            self._bootstrap()
        else:
            counts["replays"] += 1
            counts["changes replayed"] += header.upto - header.after
            counts["DDL replayed"] += frame.count(b',"X",')

    def _bootstrap(self) -> None:
        if self.replica:
            self.replica.close()
        remove_database(self.copy)
        self.source.copy_to(self.copy)
        fit_out(self.copy, None)
        self.replica = connect_replica(self.copy)
        self.replica.pragma("synchronous", "OFF")

    def _told(self, problem: str) -> str:
        return ";\n  ".join([*self.story, problem])


@click.command(help="Try SCHEMAS random schemas with STATEMENTS random steps each.")
@click.argument("schemas", type=int, default=500)
@click.argument("statements", type=int, default=200)
@click.option("--seed", "number", type=int, default=None, help="Of the whole run. Printed, so that it can be repeated.")
@click.option("--shrink", is_flag=True, help="Make a failure as short as it can be, which takes minutes.")
@click.option("--show-surprises", is_flag=True, help="Print the steps that led to each frame which the replica refused.")
def main(schemas: int, statements: int, number: int | None, shrink: bool, show_surprises: bool) -> None:
    """The command line."""
    logging.disable()  # new epochs are part of it
    first = random.SystemRandom().randrange(10**9) if number is None else number
    click.echo(f"seed {first}")
    try:
        run_state_machine_as_test(
            seed(first)(Replication),
            settings=settings(
                max_examples=schemas,
                stateful_step_count=statements,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        for told in surprises if show_surprises else ():
            click.echo(f"a surprise:\n  {told}")
        click.echo(", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    main()
