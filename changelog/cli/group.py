"""What all commands have in common: errors and exit codes, the FILE, JSON, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import click

from changelog.audit import printable
from changelog.connection import connect
from changelog.errors import BadRequest, Divergence, DroverError, NotAPrimary
from changelog.install import is_installed
from changelog.storage import in_words

FAILED, USAGE, DIVERGED = 1, 2, 3  # exit codes

FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
YES = click.option("--yes", is_flag=True, help="Do it, though it cannot be undone.")


class Commands(click.Group):
    """A group whose errors of ours are one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (DroverError, apsw.Error) as exc:
            for line in str(exc).splitlines():
                click.echo(f"error: {printable(line)}", err=True)
            sys.exit(USAGE if isinstance(exc, BadRequest) else DIVERGED if isinstance(exc, Divergence) else FAILED)
        except BrokenPipeError:
            raise  # click knows what it means
        except OSError as exc:
            click.echo(f"error: {in_words(exc)}", err=True)
            sys.exit(FAILED)
        except KeyboardInterrupt:  # the way to end --follow
            sys.exit(0)


@contextmanager
def opened(file: Path, readonly: bool = False) -> Iterator[apsw.Connection]:
    """FILE for one command."""
    db = connect(file, readonly=readonly)
    try:
        yield db
    finally:
        db.close()


@contextmanager
def opened_log(file: Path, readonly: bool = False) -> Iterator[apsw.Connection]:
    """FILE for one command that needs a changelog in it. Raises NotAPrimary."""
    with opened(file, readonly) as db:
        if not is_installed(db):
            raise NotAPrimary
        yield db


def say(text: str) -> None:
    """Talk, which is not data: to stderr."""
    click.echo(printable(text), err=True)


def print_json(facts: Any) -> None:
    """One JSON value on one line."""
    click.echo(json.dumps(facts, ensure_ascii=False))


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a callback (done, total) that shows how far some work is, on stderr where that is a terminal."""
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // max(total, 1)
        if percent != shown and sys.stderr.isatty():
            shown = percent
            click.echo(f"\r{what} {percent:>3} %", err=True, nl=False)

    yield show
    if shown >= 0:
        click.echo(f"\r{' ' * (len(what) + 6)}\r", err=True, nl=False)
