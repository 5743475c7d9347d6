"""python -m changelog: make any SQLite database a primary, and look at its log. Exit codes: 0 ok, 1 failed, 2 usage, 3 diverged."""

from __future__ import annotations

import click

from changelog.cli.capture import ddl, doctor, head, install, status, triggers, uninstall
from changelog.cli.group import Commands
from changelog.cli.history import as_of, show
from changelog.cli.ltx import ltx
from changelog.cli.replicas import diff, pull, verify
from changelog.cli.retention import trim


@click.group(cls=Commands)
def main() -> None:
    """The changelog of an SQLite database.

    \b
    python -m changelog install farm.db          every change is logged from now on
    python -m changelog show farm.db --follow    what happens, one line a change
    python -m changelog pull farm.db copy.db     an exact replica, made or advanced
    python -m changelog ltx restore URL copy.db  a database from a bucket or folder

    Exit codes: 0 ok, 1 failed, 2 usage, 3 the two sides differ. Data goes to stdout, all other talk to stderr.
    """


for command in (install, uninstall, status, head, triggers, ddl, show, as_of, diff, pull, verify, trim, doctor, ltx):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m changelog")
