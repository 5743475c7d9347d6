"""`python -m pi restore`: farm.db on a new card, out of the bucket or out of the server's replica."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from changelog.cli.ltx import Txid, bar
from changelog.errors import BadRequest
from changelog.ltx.restore import restore as restore_image
from changelog.ltx.store.names import as_text, from_text
from changelog.node.settings import Settings, prepare_data_dir
from changelog.promote import copy_of, promote, replacing
from pi import farm
from pi.ship import store_of


@click.command()
@click.option("--from-bucket", is_flag=True, help="The newest state in LITESTREAM_BUCKET. What is done where nothing else is said.")
@click.option("--from-replica", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A copy of the server's replica.db.")
@click.option("--txid", type=Txid(), help="Of the bucket: the state right after this transaction.")
@click.option("--timestamp", metavar="TIME", help="Of the bucket: the last state before this time (UTC), such as 2026-11-23T06:00:00Z.")
@click.option("--force", is_flag=True, help="Replace the farm.db that is there; it is kept beside it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def restore(
    settings: Settings, *, from_bucket: bool, from_replica: Path | None, txid: int | None, timestamp: str | None, force: bool, as_json: bool
) -> None:
    """Make farm.db anew after its disk was lost: from the bucket that it was shipped to, or from a copy of the server's replica.db.

    \b
    python -m pi restore --from-bucket
    python -m pi restore --from-replica /media/stick/replica.db

    It goes on with the same history: the server takes one copy and follows, nothing has to be accepted. Keys and certificate are in no
    backup: what is to be made anew is printed.
    """
    if from_replica is not None and (from_bucket or txid is not None or timestamp is not None):
        raise click.UsageError("--from-replica alone: the other options are of the bucket")
    if txid is not None and timestamp is not None:
        raise click.UsageError("--txid or --timestamp, not both")
    prepare_data_dir(settings)
    started, target = time.monotonic(), settings.farm_db
    with replacing(target, f"replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}", force) as incoming:
        facts = _copied(from_replica, incoming, target) if from_replica else _fetched(settings, incoming, txid, timestamp)
        ended = promote(incoming)
        farm.open_farm(incoming)
    facts |= {"farm": str(target), "restored_to": str(ended) if ended else None, "seconds": round(time.monotonic() - started, 3)}
    if as_json:
        click.echo(json.dumps(facts))
    else:
        _print(settings, facts)


def _copied(replica: Path, incoming: Path, target: Path) -> dict[str, Any]:
    if target.exists() and replica.samefile(target):
        raise BadRequest(f"{replica} is farm.db itself")
    copy_of(replica, incoming)
    return {"source": str(replica), "txid": None, "shipped_at": None}


def _fetched(settings: Settings, incoming: Path, txid: int | None, timestamp: str | None) -> dict[str, Any]:
    store = store_of(settings)
    with bar("restoring") as progress:
        got = restore_image(store, incoming, txid, None if timestamp is None else from_text(timestamp), progress=progress)
    return {"source": store.url, "txid": f"{got.txid:016x}", "shipped_at": as_text(got.timestamp_ms)}


def _print(settings: Settings, facts: dict[str, Any]) -> None:
    shipped = f", shipped at {facts['shipped_at']}" if facts["shipped_at"] else ""
    click.echo(f"{facts['farm']} is back, from {facts['source']}{shipped}, in {facts['seconds']:.1f} s")
    if facts["restored_to"]:
        click.echo(f"it holds the history up to {facts['restored_to']}, and goes on in an epoch that descends from it")
    else:
        click.echo("it had no changelog: one begins now, and servers have to accept it (python -m server accept)")
    steps = []
    if not settings.pi_db.exists():
        steps.append("keys are in no backup. Make them anew, one for the server and one for each device or program:")
        steps.append("  python -m pi pair        (prints what to type on the server; python -m pi key add NAME --role ROLE for the others)")
    if settings.pi_tls and not settings.pi_cert.exists():
        steps.append(f"the certificate {settings.pi_cert} too: scripts/run.sh pi makes one, and python -m pi pair brings it to the server")
    steps.append("start it: python -m pi serve, and python -m pi ship (after the old Pi is off for good)")
    steps.append("what the server has beyond this it keeps in a file when it has taken its copy: python -m server rescued lists them;")
    steps.append("  carry the file over and play it back here: python -m pi adopt FILE")
    click.echo("next:\n" + "\n".join(f"  {step}" for step in steps))
