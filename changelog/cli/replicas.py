"""Commands with two files: a replica made or advanced, and what is the difference."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import apsw
import click

from changelog.audit import LogFile, printable, shown
from changelog.cli.group import DIVERGED, JSON, YES, opened, print_json, say
from changelog.errors import Divergence
from changelog.install import is_installed
from changelog.primary import Primary
from changelog.pull import Pulled
from changelog.pull import pull_file as pull_once
from changelog.replay import checkpoint, connect_replica
from changelog.verify.check import Verification
from changelog.verify.compare import Comparison, TableDifference, compare
from changelog.verify.digest import TableDigest
from changelog.verify.local import LocalPrimary
from changelog.verify.naming import HERE, counted

ROWS_NAMED = 20  # of each table
FOLLOW_WAIT = 1.0  # s between looks when nothing is committed

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("a", type=EXISTING)
@click.argument("b", type=EXISTING)
@click.option("--limit", type=click.IntRange(min=0), default=ROWS_NAMED, show_default=True, help="How many rows of each table are named.")
@JSON
def diff(a: Path, b: Path, limit: int, as_json: bool) -> None:
    """Compare two databases: a primary and its replica, or any two. Exit code 3 when they differ.

    \b
    python -m changelog diff farm.db replica.db

    Each is read as of one moment. A replica that has not everything yet differs too: the positions say so.
    """
    with ExitStack() as stack:
        both = [stack.enter_context(_snapshot(path)) for path in (a, b)]
        found = compare(both[0], both[1], limit, _say_table if sys.stderr.isatty() else lambda table: None)
    if as_json:
        print_json({"identical": found.identical, **asdict(found)})
    else:
        _print(found)
    sys.exit(0 if found.identical else DIVERGED)


@click.command()
@click.argument("source", type=EXISTING)
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--follow", is_flag=True, help="Go on with every commit, until interrupted.")
@YES
@JSON
def pull(source: Path, target: Path, follow: bool, yes: bool, as_json: bool) -> None:
    """Make TARGET a replica of the primary SOURCE, or bring it to SOURCE's newest commit.

    \b
    python -m changelog pull farm.db replica.db
    python -m changelog pull farm.db replica.db --follow

    The way is that of the server: replay where the replica's history goes on, a snapshot in every case of doubt. A TARGET that is no
    replica of SOURCE is left alone unless --yes says that it may be replaced.
    """
    primary = Primary(source)
    try:
        done = pull_once(primary, target, overwrite=yes)
        print_pull(done, as_json)
        while follow:
            primary.commits.wait(done.after.seq, FOLLOW_WAIT)
            done = pull_once(primary, target)
            if done.changes or done.reason:
                print_pull(done, as_json)
    finally:
        primary.close()


@click.command()
@click.argument("a", type=EXISTING)
@click.argument("b", type=EXISTING)
@click.option("--repair", is_flag=True, help="Make the rows of B that differ what they are in A.")
@JSON
def verify(a: Path, b: Path, repair: bool, as_json: bool) -> None:
    """Compare B, a replica, with its primary A: tables, counters, log. Exit code 3 when they differed, repaired or not.

    \b
    python -m changelog verify farm.db replica.db
    python -m changelog verify farm.db replica.db --repair

    B is brought to A's position first. Digests of ranges lead to the rows that differ; only those are read one by one, and mended.
    """
    primary, replica = Primary(a), connect_replica(b)
    try:
        other = LocalPrimary(primary)
        verification = Verification(replica, other, lambda seq: other.pull(replica, seq), repair)
        try:
            found = verification.run().facts()
        except Divergence as exc:
            found = verification.report.facts() | {"identical": False, "reason": f"{exc.message} (python -m changelog pull takes one)"}
        checkpoint(replica)
    finally:
        replica.close()
        primary.close()
    if as_json:
        print_json(found)
    else:
        print_verified(found, "A")
    sys.exit(0 if found["identical"] else DIVERGED)


def print_verified(found: dict[str, Any], primary: str) -> None:
    """What a comparison found, line by line; `found` is `Report.facts` and perhaps more."""
    click.echo(f"position         {found['position'] or 'none was reached'}")
    click.echo(
        f"compared         {found['tables']} tables, {found['rows']} rows, {found['log_rows']} of the log, in {found['ranges']} ranges"
    )
    for difference in found["differences"]:
        click.echo(printable(f"  {_difference(difference, primary)}"))
    left = sum(found["differing"].values()) - len(found["differences"])
    if left:
        click.echo(f"  and {left} more")
    if found.get("reason"):
        click.echo(printable(f"not by rows      {found['reason']}"))
    counts = ", ".join(f"{name} ({count})" for name, count in sorted(found["differing"].items()))
    differing = f"in {counts}" if counts else ""
    click.echo(
        printable(f"both sides       {'identical' if found['identical'] else f'DIFFERED in {differing}' if differing else 'DIFFERED'}")
    )
    if found["repaired"] or found.get("snapshot"):
        click.echo(f"repaired         {'by a snapshot' if found.get('snapshot') else counted(found['repaired'])}")


def _difference(found: dict[str, Any], primary: str) -> str:
    where = f"{found['table']} {shown(found['key'])}"
    if "only" in found:
        return f"{where}  " + ("only here" if found["only"] == HERE else f"only on {primary}")
    return f"{where}  " + ", ".join(f"{name}: {shown(a)} here | {shown(b)} on {primary}" for name, (a, b) in found["columns"].items())


def print_pull(done: Pulled, as_json: bool) -> None:
    """What one pull did, in a line."""
    did = "snapshot" if done.reason else "replay" if done.changes else "nothing"
    if as_json:
        before = str(done.before) if done.before else None
        facts = {"before": before, "after": str(done.after), "did": did, "changes": done.changes, "reason": done.reason or None}
        print_json(facts | ({"rescued": str(done.rescued.path)} if done.rescued else {}))
        return
    what = {"snapshot": f"took a snapshot: {done.reason}", "replay": f"replayed {done.changes} changes", "nothing": "nothing new"}[did]
    click.echo(printable(f"{done.before or 'no replica'} -> {done.after}  {what}"))
    if done.rescued:
        click.echo(printable(f"{done.rescued.changes} changes that the primary has lost are kept in {done.rescued.path}"))


@contextmanager
def _snapshot(path: Path) -> Iterator[apsw.Connection]:
    """Any database as of one moment; a primary with its log in line with its schema."""
    with opened(path, readonly=True) as db:
        if not is_installed(db):
            with db:
                yield db
            return
    source = LogFile(path)
    try:
        with source.snapshot() as db:
            yield db
    finally:
        source.close()


def _say_table(table: str) -> None:
    say(f"comparing the rows of {table}")


def _print(found: Comparison) -> None:
    for name, position in zip("AB", found.positions, strict=True):
        click.echo(f"{name} at {position or 'no position: it has no changelog'}")
    for text in found.schema:
        click.echo(printable(f"schema: {text}"))
    for table, (a, b) in found.tables.items():
        same = "same" if a == b else "DIFFERS"
        click.echo(printable(f"{same:<8}{table}  A {_digest(a)}  B {_digest(b)}"))
    for difference in found.differences:
        _print_rows(difference)
    click.echo("identical" if found.identical else "they differ")


def _digest(digest: TableDigest | None) -> str:
    return f"{digest.rows} rows {digest.digest[:12]}" if digest else "no such table"


def _print_rows(found: TableDifference) -> None:
    if found.reason:
        click.echo(printable(f"{found.table}: {found.reason}"))
        return
    click.echo(printable(f"{found.table}: {found.changed} rows differ, {found.only_a} only in A, {found.only_b} only in B"))
    for row in found.rows:
        key = shown(row["key"])
        columns = ", ".join(f"{name}: {shown(a)} | {shown(b)}" for name, (a, b) in row.get("columns", {}).items())
        click.echo(printable(f"  {key}  " + (columns or f"only in {row['only']}")))
    left = found.changed + found.only_a + found.only_b - len(found.rows)
    if left:
        click.echo(f"  and {left} more (--limit)")
