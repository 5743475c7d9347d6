"""`python -m pi replica`: which replicas follow this Pi, how far they are, and forgetting one that is no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import click

from changelog.acks import Acks, read_acks
from changelog.audit import printable
from changelog.connection import connect
from changelog.install import is_installed
from changelog.log import head
from changelog.node.settings import Settings, prepare_data_dir
from changelog.retention import counted
from pi.farm import make_file


@click.group()
def replica() -> None:
    """The replicas that follow this Pi: the log is kept for the slowest of them."""


@replica.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """Show every replica, its key, how far it is, and when it was last heard."""
    found = _replicas(settings)
    if as_json:
        click.echo(json.dumps(found))
        return
    for each in found:
        behind = "of another history" if each["behind"] is None else f"{each['behind']} behind"
        click.echo(printable(f"{each['id']:<36} key {each['key']:<16} seq {each['seq']:>9}  {behind:<18}  heard {each['heard']}"))


@replica.command()
@click.argument("replica_id", metavar="ID")
@click.pass_obj
def forget(settings: Settings, replica_id: str) -> None:
    """Keep nothing for the replica ID any more. One that still follows is known again as soon as it asks."""
    with open_acks(settings) as acks:
        acks.forget(replica_id)
    click.echo(printable(f"replica {replica_id} forgotten"))


@contextmanager
def open_acks(settings: Settings) -> Iterator[Acks]:
    """The acknowledgements in pi.db, for one command."""
    prepare_data_dir(settings)
    make_file(settings.pi_db)
    with closing(Acks(settings.pi_db)) as acks:
        yield acks


def _replicas(settings: Settings) -> list[dict[str, Any]]:
    acks = read_acks(settings.pi_db) if settings.pi_db.exists() else []
    reached, newest = {}, 0
    if settings.farm_db.exists():
        with closing(connect(settings.farm_db, readonly=True)) as db, db:
            if is_installed(db):
                reached, newest = counted(db, acks), head(db)
    behind = {ack: newest - seq for ack, seq in reached.items()}
    return [
        {"id": ack.replica_id, "key": ack.key_name, "epoch": ack.epoch, "seq": ack.seq, "behind": behind.get(ack), "heard": ack.at}
        for ack in acks
    ]
