"""Commands on a bucket or folder of LTX files, ours or Litestream's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from changelog.audit import printable
from changelog.cli.group import FAILED, JSON, print_json, say
from changelog.ltx.check import verify as verify_store
from changelog.ltx.plan import list_all
from changelog.ltx.restore import restore as restore_to
from changelog.ltx.store.names import LEVELS, as_text, from_text
from changelog.ltx.store.place import open_store

STEPS = 1000  # of a progress bar


class Txid(click.ParamType):
    """A transaction as `ltx list` prints it: up to sixteen hexadecimal digits."""

    name = "txid"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        text = str(value)
        try:
            found = int(text, 16) if len(text) <= 16 and text.isalnum() else 0
        except ValueError:
            found = 0
        if not found:
            self.fail(f"{text!r} is no transaction as `ltx list` prints it, such as 000000000000000a", param, ctx)
        return found


@click.group()
def ltx() -> None:
    """Databases in a bucket or folder, in Litestream's format (0.5).

    \b
    python -m changelog ltx list s3://bucket/path
    python -m changelog ltx verify /mnt/backup/farm
    python -m changelog ltx restore s3://bucket/path copy.db

    URL is s3://bucket/path, with ?endpoint=https://... for a store that is not Amazon's, or file:///path, or a plain path. Keys for S3 are
    taken from the environment or a profile (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE).
    """


@ltx.command("list")
@click.argument("url")
@click.option("--level", type=click.IntRange(min(LEVELS), max(LEVELS)), help="Only this level: 0 as shipped, 1 to 3 merged, 9 whole.")
@JSON
def list_(url: str, level: int | None, as_json: bool) -> None:
    """List the files at URL: level, first and last transaction, size, time.

    In a bucket the time is that of the upload.
    """
    levels = list_all(open_store(url))
    files = [file for at, found in levels.items() if level in (None, at) for file in found]
    if as_json:
        print_json(
            [
                {
                    "level": file.name.level,
                    "min_txid": f"{file.name.min_txid:016x}",
                    "max_txid": f"{file.name.max_txid:016x}",
                    "size": file.size,
                    "timestamp": as_text(file.modified_ms),
                }
                for file in files
            ]
        )
        return
    for file in files:
        name = file.name
        click.echo(f"{name.level}  {name.min_txid:016x}  {name.max_txid:016x}  {file.size:>12}  {as_text(file.modified_ms)}")
    if not files:
        say("nothing is there")


@ltx.command()
@click.argument("url")
@click.option("--restore", "scratch", is_flag=True, help="Also restore the newest state into a temporary file and let SQLite check it.")
@JSON
def verify(url: str, scratch: bool, as_json: bool) -> None:
    """Read every file at URL and compare it with its name and checksum; see that none is missing. Exit code 1 when something is wrong."""
    with bar("reading") as progress:
        found = verify_store(open_store(url), scratch=scratch, progress=progress)
    if as_json:
        print_json(found.facts())
    else:
        click.echo(f"read        {found.files} files, {found.bytes} bytes")
        if found.txid:
            click.echo(f"newest      transaction {found.txid:016x} of {as_text(found.timestamp_ms)}, from {found.planned} files")
        if found.restored:
            click.echo("restored    SQLite finds the database sound")
        for name, note in found.notes:
            click.echo(printable(f"note        {name}: {note}"))
        for name, fault in found.faults:
            click.echo(printable(f"WRONG       {name}: {fault}"))
        click.echo("sound" if not found.faults else f"{len(found.faults)} faults")
    sys.exit(FAILED if found.faults else 0)


@ltx.command()
@click.argument("url")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--txid", type=Txid(), help="The state right after this transaction, the last one of some file.")
@click.option("--timestamp", metavar="TIME", help="The last state before this time (UTC), such as 2026-11-23T06:00:00Z.")
@click.option("--force", is_flag=True, help="Replace TARGET, which no program may have open.")
@click.option("--integrity-check", "check", is_flag=True, help="Let SQLite check the database before it becomes TARGET.")
@JSON
def restore(url: str, target: Path, *, txid: int | None, timestamp: str | None, force: bool, check: bool, as_json: bool) -> None:
    """Make TARGET the database that is kept at URL: its newest state, or an earlier one.

    \b
    python -m changelog ltx restore /mnt/backup/farm copy.db
    python -m changelog ltx restore s3://bucket/farm copy.db --timestamp 2026-11-23T06:00:00Z

    Everything is checked while it is read; TARGET appears when it is whole, or not at all.
    """
    if txid is not None and timestamp is not None:
        raise click.UsageError("--txid or --timestamp, not both")
    at = None if timestamp is None else from_text(timestamp)
    with bar("restoring") as progress:
        done = restore_to(open_store(url), target, txid, at, force=force, check=check, progress=progress)
    if as_json:
        facts = asdict(done) | {"txid": f"{done.txid:016x}", "timestamp": as_text(done.timestamp_ms), "target": str(target)}
        facts.pop("timestamp_ms")
        print_json(facts)
    else:
        say(f"{target} holds transaction {done.txid:016x} of {as_text(done.timestamp_ms)}: {done.size} bytes, from {done.files} files")


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a callback (done, total) that draws a bar on stderr, where that is a terminal."""
    with click.progressbar(length=STEPS, label=what, file=sys.stderr, hidden=not sys.stderr.isatty()) as drawn:

        def show(done: int, total: int) -> None:
            drawn.update(max(0, STEPS * done // max(total, 1) - drawn.pos))

        try:
            yield show
        except KeyboardInterrupt:
            say("interrupted")
            sys.exit(FAILED)
