"""The files of changes that the Pi lost, as `python -m server rescued` prints them."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from changelog.audit import Chosen, LogFile, changes, line, printable
from changelog.errors import NotFound
from changelog.rescue.lost import Rescued, list_rescued, read_rescued


def print_rescued(folder: Path, file: Path | None, as_json: bool) -> None:
    """All files of the folder, or the changes in `file` (a path, or a name in the folder). Raises NotFound."""
    if file is not None:
        _print_changes(_found(folder, file), as_json)
        return
    found = list_rescued(folder)
    if as_json:
        click.echo(json.dumps([_facts(each) for each in found]))
        return
    for each in found:
        click.echo(printable(_line(each)))
    if not found:
        click.echo("the Pi has lost no changes that were here", err=True)


def _found(folder: Path, file: Path) -> Path:
    path = file if file.exists() else folder / file.name
    if not path.exists():
        raise NotFound(f"there is no file {file}, neither here nor in {folder}")
    return read_rescued(path).path


def _print_changes(path: Path, as_json: bool) -> None:
    with closing(LogFile(path)) as log, log.snapshot() as db:
        for change in changes(db, Chosen()):
            click.echo(json.dumps(change, ensure_ascii=False) if as_json else line(change))


def _facts(found: Rescued) -> dict[str, Any]:
    return asdict(found) | {"path": str(found.path)}


def _line(found: Rescued) -> str:
    tables = ", ".join(f"{count} of {table}" for table, count in found.tables.items()) or "none of a table"
    state = f"adopted {found.adopted}" if found.adopted else "not adopted"
    return f"{found.path.name}  found {found.at}  seq {found.first} to {found.last} of epoch {found.epoch}  {tables}  {state}"
