"""`python -m pi adopt`: changes that the Pi lost and the server kept, played back into farm.db."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import apsw
import click

from changelog.audit import printable
from changelog.errors import Conflict, NotFound
from changelog.node.settings import Settings
from changelog.rescue import adopt as engine
from changelog.rescue.outcome import Adopted
from changelog.values import for_json

CONFLICTS = 3  # exit code


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def adopt(settings: Settings, file: Path, dry_run: bool, as_json: bool) -> None:
    """Play back the changes in FILE, which this Pi has lost and the server kept (python -m server rescued lists the files).

    What was written here since is never overwritten: what contradicts it is named, and stays. It can run while the Pi serves, and again.

    Exit codes: 0 all is here now, 3 some changes were left out, 1 failed and nothing was changed.
    """
    if not settings.farm_db.exists():
        raise NotFound(f"there is no {settings.farm_db} to adopt them into")
    try:
        done = engine.adopt(settings.farm_db, file, dry_run)
    except apsw.BusyError:
        raise
    except apsw.Error as exc:  # a full disk, or a trigger of somebody's that rolls everything back
        raise Conflict(f"nothing was changed: {exc}") from exc
    if as_json:
        click.echo(json.dumps(_facts(done) | {"dry_run": dry_run}, ensure_ascii=False))
    else:
        _print(done, dry_run)
    sys.exit(CONFLICTS if done.conflicts else 0)


def _facts(done: Adopted) -> dict[str, Any]:
    conflicts = [asdict(c) | {"key": for_json(c.key)} for c in done.conflicts]
    return {"tables": done.tables, "conflicts": conflicts, "notes": done.notes, "first": done.first or None, "last": done.last or None}


def _print(done: Adopted, dry_run: bool) -> None:
    for table, counts in sorted(done.tables.items()):
        click.echo(printable(f"{table or 'the schema'}: {', '.join(f'{count} {what}' for what, count in counts.items())}"))
    for note in done.notes:
        click.echo(printable(note))
    for conflict in done.conflicts:
        click.echo(f"conflict  {conflict}")
    written = f"as seq {done.first} to {done.last}" if done.last else "nothing was written"
    click.echo(f"dry run, nothing was changed: {written}" if dry_run else f"adopted: {written}, {len(done.conflicts)} conflicts")
