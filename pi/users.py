"""`python -m pi user`: who may log in to the office. Users live in farm.db and are replicated, so that login works while the Pi is away."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Callable
from contextlib import closing

import apsw
import click
from werkzeug.security import generate_password_hash

from changelog.connection import connect
from changelog.errors import BadRequest, NotFound
from changelog.log import signed
from changelog.node.settings import Settings, prepare_data_dir
from pi import farm, herd
from pi.herd.users import ROLES

SHORTEST_PASSWORD = 8  # characters
LONGEST_NAME = 80  # characters

_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking for it.")


@click.group()
def user() -> None:
    """Who may log in to the office."""


@user.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="user", show_default=True)
@_stdin
@click.pass_obj
def add(settings: Settings, name: str, role: str, password_stdin: bool) -> None:
    """Make the user NAME."""
    if not name.isprintable() or name != name.strip() or not 0 < len(name) <= LONGEST_NAME:
        raise BadRequest(f"a user name has 1 to {LONGEST_NAME} printable characters and no spaces at its ends")
    hashed = _password(password_stdin)
    _write(settings, lambda db: herd.add_user(db, name, hashed, role, herd.utc_now()))
    click.echo(f"user {name} added, role {role}")


@user.command()
@click.argument("name")
@_stdin
@click.pass_obj
def password(settings: Settings, name: str, password_stdin: bool) -> None:
    """Give the user NAME a new password."""
    hashed = _password(password_stdin)
    _write(settings, lambda db: herd.set_password(db, name, hashed, herd.utc_now()))
    click.echo(f"user {name} has a new password")


@user.command()
@click.argument("name")
@click.argument("new_role", metavar="ROLE", type=click.Choice(ROLES))
@click.pass_obj
def role(settings: Settings, name: str, new_role: str) -> None:
    """Give the user NAME the role ROLE; its sessions of before end."""
    _write(settings, lambda db: _change(db, name, {"role": new_role}))
    click.echo(f"user {name} has the role {new_role}")


@user.command()
@click.argument("name")
@click.pass_obj
def deactivate(settings: Settings, name: str) -> None:
    """Let the user NAME log in no more; the user stays, and its sessions end."""
    _write(settings, lambda db: _change(db, name, {"is_active": 0}))
    click.echo(f"user {name} is inactive")


@user.command()
@click.argument("name")
@click.pass_obj
def activate(settings: Settings, name: str) -> None:
    """Let the user NAME log in again."""
    _write(settings, lambda db: _change(db, name, {"is_active": 1}))
    click.echo(f"user {name} is active")


@user.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="The user is deleted: say so.")
@click.pass_obj
def remove(settings: Settings, name: str, yes: bool) -> None:
    """Delete the user NAME; the changelog keeps what it did."""
    if not yes and not (sys.stdin.isatty() and click.confirm(f"delete the user {name}?")):
        raise click.UsageError(f"this deletes the user {name}; add --yes, or deactivate it")
    _write(settings, lambda db: herd.remove_user(db, name))
    click.echo(f"user {name} removed")


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """Show all users."""
    with closing(connect(settings.farm_db, readonly=True)) as db:
        _require_farm(settings, db)
        rows = db.execute("SELECT username, role, is_active, password_hash<>'!', created_at FROM users ORDER BY username").fetchall()
    if as_json:
        names = ("username", "role", "is_active", "has_password", "created_at")
        click.echo(json.dumps([dict(zip(names, (*row[:2], bool(row[2]), bool(row[3]), row[4]), strict=True)) for row in rows]))
        return
    for username, role, active, has_password, created_at in rows:
        state = "inactive" if not active else "" if has_password else f"no password yet: python -m pi user password {username}"
        click.echo(f"{username:<24} {role:<6} {created_at}  {state}".rstrip())


def _password(from_stdin: bool) -> str:
    """The hash of a password that is asked for or read; never an argument, which every user of the machine could see."""
    if not from_stdin and not sys.stdin.isatty():
        raise BadRequest("there is no terminal to type the password on: add --password-stdin, and give it as the first line")
    text = sys.stdin.readline().rstrip("\r\n") if from_stdin else click.prompt("Password", hide_input=True, confirmation_prompt=True)
    if len(text) < SHORTEST_PASSWORD:
        raise BadRequest(f"a password has at least {SHORTEST_PASSWORD} characters")
    return generate_password_hash(text, method="scrypt")


def _change(db: apsw.Connection, name: str, changes: dict[str, object]) -> None:
    herd.change_user(db, herd.find_user(db, name)["id"], changes, herd.utc_now())


def _write(settings: Settings, job: Callable[[apsw.Connection], object]) -> None:
    """Run a job in a short transaction of its own, signed with the operator's name; the Pi may be serving meanwhile."""
    if not os.path.exists(settings.farm_db):
        prepare_data_dir(settings)
        farm.open_farm(settings.farm_db)
    with closing(connect(settings.farm_db, foreign_keys=True)) as db:
        _require_farm(settings, db)
        with db, signed(db, f"cli:{getpass.getuser()}"):
            job(db)


def _require_farm(settings: Settings, db: apsw.Connection) -> None:
    if not farm.has_farm(db):
        raise NotFound(f"{settings.farm_db} has no farm tables: run `python -m pi serve` once, or correct PI_DATABASE")
