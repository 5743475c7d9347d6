"""`python -m pi cert`: the certificate of this Pi, and its renewal."""

from __future__ import annotations

import json
import time

import click

from changelog.audit import printable
from changelog.errors import Conflict
from changelog.node.settings import Settings
from pi.certificate import cancel as cancel_next
from pi.certificate import fingerprint_of, make_next, require_tls, settle
from pi.certificate import switch as switch_to_next
from pi.renewal import certificates, who_has

POLL = 0.5  # s between two looks at who has the next certificate


@click.group()
def cert() -> None:
    """The certificate of this Pi: which one it is, and a renewal that servers follow by themselves."""


@cert.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Show the certificate in use, the next one, and which servers trust that already."""
    _check(settings)
    found = certificates(settings)
    has = who_has(settings, found.next) if found.next else {}
    if as_json:
        click.echo(json.dumps({"present": found.present, "next": found.next, "trusted_by": has}))
        return
    click.echo(f"present  {found.present}  {settings.pi_cert}\nnext     {found.next or 'none: `python -m pi cert renew` makes one'}")
    for replica_id, trusts in has.items():
        click.echo(printable(f"         {'trusted by' if trusts else 'NOT YET trusted by'} {replica_id}"))


@cert.command()
@click.option("--grace", type=click.FloatRange(0), default=600, show_default=True, help="Seconds in which all servers are to have it.")
@click.option("--no-switch", is_flag=True, help="Only make and announce it: `cert switch` puts it in use.")
@click.pass_obj
def renew(settings: Settings, grace: float, no_switch: bool) -> None:
    """Make a new certificate, announce it, and put it in use as soon as every known server trusts it.

    Where one does not in time, nothing changes: the new one stays announced, and `cert switch` puts it in use later.
    """
    _check(settings)
    make_next(settings)
    shown = fingerprint_of(settings.next_cert)
    click.echo(f"announced  {shown}")
    if no_switch:
        return
    until = time.monotonic() + grace
    while (missing := _missing(settings, shown)) and time.monotonic() < until:
        time.sleep(POLL)
    if missing:
        raise Conflict(f"{_names(missing)}; it stays announced: `cert switch` puts it in use, `cert cancel` removes it")
    _switch(settings)


@cert.command()
@click.option("--yes", is_flag=True, help="Also where a known server does not trust it yet: that one has to be paired again.")
@click.pass_obj
def switch(settings: Settings, yes: bool) -> None:
    """Put the next certificate in use, in a running Pi too."""
    _check(settings)
    following = certificates(settings).next
    if following and not yes and (missing := _missing(settings, following)):
        raise Conflict(f"{_names(missing)}; `pi replica forget ID` for one that is no more, or --yes")
    _switch(settings)


@cert.command()
@click.pass_obj
def cancel(settings: Settings) -> None:
    """Remove the next certificate: the present one stays in use."""
    _check(settings)
    cancel_next(settings)
    click.echo("the next certificate is removed")


def _check(settings: Settings) -> None:
    settle(settings)
    require_tls(settings)


def _missing(settings: Settings, shown: str) -> list[str]:
    return [replica_id for replica_id, trusts in who_has(settings, shown).items() if not trusts]


def _names(missing: list[str]) -> str:
    return printable(f"the next certificate is not trusted yet by {', '.join(missing)}")


def _switch(settings: Settings) -> None:
    switch_to_next(settings)
    click.echo(f"in use     {fingerprint_of(settings.pi_cert)}: new connections are made with it, without a restart")
