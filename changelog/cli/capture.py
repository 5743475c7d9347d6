"""Commands about the capture of one file: installing, DDL, where it stands, what is wrong with it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import apsw
import click

from changelog import doctor as doctoring
from changelog import install as installing
from changelog.audit import is_replica, printable
from changelog.cli.group import FAILED, FILE, JSON, YES, opened, opened_log, print_json, say
from changelog.connection import one, rows
from changelog.errors import Conflict
from changelog.gaps import gaps_of, trimmed_upto
from changelog.log import head as newest
from changelog.position import Position, ancestors_of
from changelog.reconcile import run_ddl
from changelog.replay import position_of
from changelog.retention import log_bytes
from changelog.schema import read_tables, virtual_tables


@click.command()
@FILE
@click.option("--mask", "masks", multiple=True, metavar="TABLE.COLUMN", help="Show this column as *** to people. Can be repeated.")
def install(file: Path, masks: tuple[str, ...]) -> None:
    """Make FILE a primary: from now on every change of it is logged, whoever writes.

    \b
    python -m changelog install farm.db --mask users.password_hash
    """
    with opened(file) as db:
        installing.install(db, masks or None)
        click.echo(f"{len(read_tables(db))} tables are captured from {Position.of_head(db)} on")
        for name in virtual_tables(db):
            say(f"not captured: the virtual table {name}, which no trigger can see; only snapshots carry it")


@click.command()
@FILE
@YES
def uninstall(file: Path, yes: bool) -> None:
    """Take the changelog out of FILE, its whole history included.

    \b
    python -m changelog uninstall farm.db --yes
    """
    if not yes:
        raise click.UsageError("this deletes the whole history of the file; add --yes")
    with opened(file) as db:
        installing.uninstall(db)


@click.command()
@FILE
@click.argument("sql")
@JSON
def ddl(file: Path, sql: str, as_json: bool) -> None:
    """Run one CREATE, ALTER or DROP on FILE and log it.

    \b
    python -m changelog ddl farm.db "ALTER TABLE pens DROP COLUMN color"

    Needed only for what SQLite refuses while a table has triggers, such as DROP COLUMN. All other DDL may be typed in any program, and is
    logged as soon as somebody reads the log. What the log cannot hold exactly begins a new epoch: replicas then take a snapshot.
    """
    with opened_log(file) as db:
        if is_replica(db):
            raise Conflict("this is a replica, whose schema follows that of its primary: run it there")
        before = newest(db)
        reason = run_ddl(db, sql)
        logged = rows(db, "SELECT seq, key FROM changelog WHERE seq>? AND op='X' ORDER BY seq", (before,))
        position = str(Position.of_head(db))
    if as_json:
        print_json({"logged": [{"seq": seq, "change": change} for seq, change in logged], "new_epoch": reason, "position": position})
        return
    for seq, change in logged:
        click.echo(printable(f"seq {seq}: {change}"))
    if reason:
        click.echo(printable(f"a new epoch began: {reason}; replicas start from a snapshot"))
    click.echo(f"position {position}")


@click.command()
@FILE
@JSON
def status(file: Path, as_json: bool) -> None:
    """Where the log of FILE stands.

    \b
    python -m changelog status farm.db
    """
    with opened_log(file, readonly=True) as db:
        with db:
            facts = _status(db)
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        click.echo(printable(f"{name:<16}{_in_words(value)}").rstrip())


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(each if isinstance(each, str) else f"seq {each['first']} to {each['last']}" for each in value)
    return "" if value is None else str(value)


def _status(db: apsw.Connection) -> dict[str, Any]:
    replica = is_replica(db)
    position = position_of(db) if replica else Position.of_head(db)
    [(oldest, count, since, latest)] = rows(db, "SELECT min(seq), count(*), min(at), max(at) FROM changelog")
    return {
        "role": "replica" if replica else "primary",
        "epoch": position.epoch,
        "head": position.seq,
        "check": position.check,
        "oldest": oldest,
        "changes": count,
        "since": since,
        "latest": latest,
        "log_bytes": log_bytes(db),
        "trimmed": trimmed_upto(db),  # the last seq that is not here any more
        "gaps": [asdict(gap) for gap in gaps_of(db)],
        "ancestors": len(ancestors_of(db)),
        "followed_at": one(db, "SELECT at FROM changelog_position") if replica else None,
        "tables": [t.name for t in read_tables(db)],
        "not_captured": virtual_tables(db),
        "masks": installing.masks_of(db),
        # A replica's schema is not looked at: it changes only by replay.
        "schema_moved": False if replica else installing.schema_moved(db),
    }


@click.command()
@FILE
@JSON
def head(file: Path, as_json: bool) -> None:
    """The newest position of FILE, as epoch/seq/check.

    \b
    python -m changelog head farm.db
    """
    with opened_log(file, readonly=True) as db:
        position = Position.of_head(db)
    if as_json:
        print_json(asdict(position))
    else:
        click.echo(str(position))


@click.command()
@FILE
@click.option("--mask", "masks", multiple=True, metavar="TABLE.COLUMN", help="As in install; those of FILE, if it is installed, hold too.")
def triggers(file: Path, masks: tuple[str, ...]) -> None:
    """Print the SQL that makes a database with FILE's tables a primary.

    \b
    python -m changelog triggers farm.db > triggers.sql
    sqlite3 other.db < triggers.sql
    """
    with opened(file, readonly=True) as db:
        known = installing.masks_of(db)
        click.echo(installing.script(read_tables(db), [*known, *(m for m in masks if m not in known)]), nl=False)


@click.command()
@FILE
@JSON
def doctor(file: Path, as_json: bool) -> None:
    """Look for what may be wrong with FILE or around it; exit code 1 when something is.

    \b
    python -m changelog doctor farm.db

    Nothing is changed. Lines with ! must be mended; -> says how.
    """
    with opened(file, readonly=True) as db:
        with db:
            findings = list(doctoring.examine(db, file))
    wrong = any(f.wrong for f in findings)
    if as_json:
        print_json({"sound": not wrong, "findings": [asdict(f) for f in findings]})
    else:
        for f in findings:
            click.echo(printable(f"{'!' if f.wrong else ' '} {f.check:<10}{f.fact}"))
            if f.advice:
                click.echo(printable(f"    -> {f.advice}"))
        click.echo("something is wrong" if wrong else "nothing is wrong")
    sys.exit(FAILED if wrong else 0)
