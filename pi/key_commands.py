"""`python -m pi key`: the API keys of replicas, devices and programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import click

from changelog.audit import printable
from changelog.errors import Conflict
from changelog.node.settings import Settings, prepare_data_dir
from pi import replicas
from pi.keys import ROLES, Keys


@click.group()
def key() -> None:
    """The API keys of replicas, devices and programs."""


@key.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="office: what replica and writer may, for people who are named.")
@click.pass_obj
def add(settings: Settings, name: str, role: str) -> None:
    """Make the key NAME and print it: this once."""
    with _keys(settings) as keys:
        click.echo(keys.add(name, role))


@key.command()
@click.argument("name")
@click.pass_obj
def rotate(settings: Settings, name: str) -> None:
    """Make a newer key NAME and print it: this once. The one before works as well, until `retire`."""
    with _keys(settings) as keys:
        click.echo(keys.rotate(name))


@key.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Also where nobody has used the newer one yet.")
@click.pass_obj
def retire(settings: Settings, name: str, yes: bool) -> None:
    """Forget the older of the two keys NAME: whoever still uses that one is refused from now on."""
    with _keys(settings) as keys:
        try:
            keys.retire(name, unused_too=yes)
        except Conflict as exc:
            raise Conflict(f"{exc.message}; --yes does it all the same") from exc
    click.echo(f"the older key {name} is retired")


@key.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """Show names, roles, when each key was last used and from where; of two with one name, which is the older."""
    with _keys(settings) as keys:
        rows = keys.rows()
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        used = f"{row['last_used_at']} from {row['last_used_from'] or 'an address that is not known'}" if row["last_used_at"] else "never"
        line = f"{row['name']:<24} {row['role']:<8} made {row['created_at']}  last used {used}"
        click.echo(printable(line + ("  (the older one: `key retire` ends it)" if row["older"] else "")))


@key.command()
@click.argument("name")
@click.pass_obj
def revoke(settings: Settings, name: str) -> None:
    """Forget the key NAME, or both: whoever uses it is refused from now on, and the log is not kept for replicas that used it."""
    with _keys(settings) as keys, replicas.open_acks(settings) as acks:
        keys.revoke(name)
        count = acks.forget_key(name)
    click.echo(f"key {name} revoked" + (f", and {count} replicas forgotten that used it" if count else ""))


@contextmanager
def _keys(settings: Settings) -> Iterator[Keys]:
    prepare_data_dir(settings)
    keys = Keys(settings.pi_db)
    try:
        yield keys
    finally:
        keys.close()
