"""python -m changelog: make any SQLite database a primary, and look at its log. Exit codes: 0 ok, 1 failed, 2 usage, 3 diverged."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import click

from changelog import install as installing
from changelog.connection import connect, one, rows
from changelog.errors import DroverError
from changelog.position import Position
from changelog.schema import read_tables, virtual_tables

FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


class Commands(click.Group):
    """A group whose errors of ours are one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (DroverError, apsw.Error) as exc:
            click.echo(f"error: {exc}", err=True)
            sys.exit(1)


@click.group(cls=Commands)
def main() -> None:
    """The changelog of an SQLite database."""


@main.command()
@FILE
@click.option("--mask", "masks", multiple=True, metavar="TABLE.COLUMN", help="Show this column as *** in all views. Can be repeated.")
def install(file: Path, masks: tuple[str, ...]) -> None:
    """Make FILE a primary: from now on every change of it is logged, whoever writes."""
    with opened(file) as db:
        installing.install(db, masks or None)
        click.echo(f"{len(read_tables(db))} tables are captured from {Position.of_head(db)} on")
        for name in virtual_tables(db):
            click.echo(f"not captured: the virtual table {name}, which no trigger can see; only snapshots carry it", err=True)


@main.command()
@FILE
@click.option("--yes", is_flag=True, help="The whole history goes with it: say so.")
def uninstall(file: Path, yes: bool) -> None:
    """Take the changelog out of FILE, its history included."""
    if not yes:
        raise click.UsageError("this deletes the whole history of the file; add --yes")
    with opened(file) as db:
        installing.uninstall(db)


@main.command()
@FILE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(file: Path, as_json: bool) -> None:
    """Where the log of FILE stands."""
    with opened(file, readonly=True) as db:
        head = Position.of_head(db)
        facts = {
            "epoch": head.epoch,
            "head": head.seq,
            "oldest": one(db, "SELECT min(seq) FROM changelog"),
            "tables": [t.name for t in read_tables(db)],
            "schema_moved": installing.schema_moved(db),
        }
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for name, value in facts.items():
            click.echo(f"{name:<14}{', '.join(value) if isinstance(value, list) else value}")


@main.command()
@FILE
def head(file: Path) -> None:
    """The newest position of FILE, as epoch/seq/check."""
    with opened(file, readonly=True) as db:
        click.echo(str(Position.of_head(db)))


@main.command()
@FILE
@click.option("--mask", "masks", multiple=True, metavar="TABLE.COLUMN", help="As in install; those of FILE, if it is installed, hold too.")
def triggers(file: Path, masks: tuple[str, ...]) -> None:
    """Print the SQL that makes a database with FILE's tables a primary: `sqlite3 OTHER < triggers.sql` runs it."""
    with opened(file, readonly=True) as db:
        known = [m for (m,) in rows(db, "SELECT value FROM changelog_meta WHERE name='mask'")] if installing.is_installed(db) else []
        click.echo(installing.script(read_tables(db), [*known, *(m for m in masks if m not in known)]), nl=False)


@contextmanager
def opened(file: Path, readonly: bool = False) -> Iterator[apsw.Connection]:
    """FILE for one command."""
    db = connect(file, readonly=readonly)
    try:
        yield db
    finally:
        db.close()


if __name__ == "__main__":
    main(prog_name="python -m changelog")
