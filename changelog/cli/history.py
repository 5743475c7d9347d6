"""Commands that read the log: what happened, and how it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import apsw
import click

from changelog.asof.past import Past
from changelog.asof.rebuild import in_memory, write_file
from changelog.audit import Chosen, LogFile, begins_later, changes, keys, line, moment, printable, shown
from changelog.cli.group import FILE, JSON, print_json, progress, say
from changelog.connection import one
from changelog.errors import NotFound
from changelog.log import head
from changelog.render import MASK
from changelog.schema import Table, identifier
from changelog.values import exact_rows, for_json

OPS = click.Choice(["I", "U", "D", "X", "B"], case_sensitive=False)
LAST = 20  # changes shown when nothing says which


@click.command()
@FILE
@click.option("--table", "tables", multiple=True, metavar="TABLE", help="Only this table, under this name. Can be repeated.")
@click.option("--key", help="Only the row with this key, before or after the change; as shown. Needs --table.")
@click.option("--column", help="Only changes of this column.")
@click.option("--actor", help="Only what this actor wrote; 'unknown writer' for what nobody signed.")
@click.option("--op", "ops", multiple=True, type=OPS, help="Insert, Update, Delete, DDL (X), birth of an epoch (B). Can be repeated.")
@click.option("--since", metavar="SEQ|TIME", help="Only what came after this seq, or at this time (UTC) or later.")
@click.option("--until", metavar="SEQ|TIME", help="Only what came up to this seq or time.")
@click.option("--last", type=click.IntRange(min=0), help=f"The newest N of them, 0 for all. [{LAST}; all with --since]")
@click.option("--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@JSON
def show(file: Path, tables: tuple[str, ...], key: str | None, follow: bool, as_json: bool, **given: object) -> None:
    """Print the log of FILE, a primary or a replica, one line a change.

    \b
    python -m changelog show farm.db --table cattle --key 7 --column weight
    python -m changelog show farm.db --since 2026-11-23T06:00 --actor "unknown writer"
    python -m changelog show farm.db --follow --json

    A line: seq, time, who, I U D X or B, table, key, and the columns as old -> new. Masked columns are ***. Where the log of a replica has
    a gap, a line says so, whatever is chosen (--json: op "gap", with first and last).
    """
    if key is not None and not tables:
        raise click.UsageError("--key needs --table: a key says nothing without its table")
    if given["last"] is None:
        given["last"] = 0 if given["since"] is not None else LAST
    chosen = Chosen(tables=tables, key=key, **given)  # type: ignore[arg-type]
    source = LogFile(file)
    try:
        seq = _show(source, chosen, 0, as_json)
        while follow:
            source.wait(seq)
            seq = _show(source, replace(chosen, last=0), seq, as_json)
    finally:
        source.close()


def _show(source: LogFile, chosen: Chosen, after: int, as_json: bool) -> int:
    """Print what came after `after`; returns the head of that moment."""
    with source.snapshot() as db:
        now = head(db)
        if not after and (begin := begins_later(db, chosen)):
            say(f"the log begins at seq {begin}: what was before is trimmed here")
        if now != after:
            for change in changes(db, chosen, after):
                if as_json:
                    print_json(change)
                else:
                    click.echo(line(change))
    return now


@click.command("as-of")
@FILE
@click.argument("when", metavar="SEQ|TIME")
@click.option("--table", "table_name", help="Print this table.")
@click.option("--key", help="Print only the row with this key, as `show` prints it. Needs --table.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the whole database to this new file.")
@JSON
def as_of(file: Path, when: str, *, table_name: str | None, key: str | None, out: Path | None, as_json: bool) -> None:
    """Print or write what FILE held right after SEQ, or at TIME (UTC).

    \b
    python -m changelog as-of farm.db 1042 --table cattle --key 7
    python -m changelog as-of farm.db 2026-11-23T06:00 --table cattle
    python -m changelog as-of farm.db 1042 --out yesterday.db

    Rows are printed one a line, masked columns as ***. The new file is a plain database without a log; nothing is masked in it.
    A seq is taken literally: the log does not know which one ended a transaction. A TIME means the newest change up to it, by the clock
    of the primary. What the log does not tell (tables and columns that were dropped, what came before a new epoch, what was trimmed or lies
    before the end of a gap) is named, and exit code 1.
    """
    if (table_name is None) == (out is None) or (key is not None and table_name is None):
        raise click.UsageError("say --table TABLE (and --key KEY), or --out NEWFILE")
    source = LogFile(file)
    try:
        with source.snapshot() as db:
            seq = _seq_at(db, when)
            with progress("reading the log") as show_progress:
                past = Past(db, seq, table_name, show_progress)
            if out:
                _write(db, past, out, as_json)
            elif table_name:
                _print_rows(db, past, past.table(table_name), key, as_json)
    finally:
        source.close()


def _write(db: apsw.Connection, past: Past, out: Path, as_json: bool) -> None:
    notes = write_file(db, past, out)
    for note in notes:
        say(note)
    if as_json:
        print_json({"file": str(out), "seq": past.seq, "tables": list(past.tables), "notes": notes})
    else:
        say(f"{out} holds the database as it was right after seq {past.seq}")


def _print_rows(db: apsw.Connection, past: Past, table: Table, key: str | None, as_json: bool) -> None:
    found = past.rows_of(table) if key is None else past.rows_with_key(table, key, keys(key))
    hidden = past.masked(table)
    copy = in_memory(db, past, table, found)
    try:
        names = [*([table.rowid] if table.keyed_by_rowid and table.rowid else []), *(c.name for c in table.all_columns)]
        for row in exact_rows(copy, [identifier(n) for n in names], f"FROM {identifier(table.name)}"):
            facts = {name: MASK if name in hidden and v is not None else for_json(v) for name, v in zip(names, row, strict=True)}
            if as_json:
                print_json(facts)
            else:
                click.echo(printable(", ".join(f"{name}={shown(value)}" for name, value in facts.items())))
    finally:
        copy.close()


def _seq_at(db: apsw.Connection, when: str) -> int:
    """The seq that SEQ|TIME means; says so where the clock went backwards."""
    at = moment(when)
    if isinstance(at, int):
        return at
    seq = one(db, "SELECT max(seq) FROM changelog WHERE at<=?", (at,))
    if seq is None:
        raise NotFound(f"the log has nothing up to {at}: it begins at {one(db, 'SELECT at FROM changelog ORDER BY seq LIMIT 1')}")
    later = one(db, "SELECT count(*) FROM changelog WHERE seq<? AND at>?", (seq, at))
    if later:
        say(f"the clock went backwards: {later} changes before seq {seq} bear a later time than {at}; give a seq to be sure")
    say(f"right after seq {seq}, written at {one(db, 'SELECT at FROM changelog WHERE seq=?', (seq,))}")
    return seq
