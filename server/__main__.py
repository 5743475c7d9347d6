"""python -m server: the replica's commands. Exit codes: 0 ok, 1 failed, 2 usage, 3 diverged."""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from flask import Flask

from changelog.cli.replicas import print_pull, print_verified
from changelog.connection import connect
from changelog.errors import DroverError
from changelog.node.certificates import parse_fingerprint
from changelog.node.logs import start_logging
from changelog.node.runner import Role, Service
from changelog.node.runner import serve as run_role
from changelog.node.settings import Settings, prepare_data_dir
from changelog.pull import pull as pull_from
from changelog.storage import STORAGE, in_words
from server.app import create_app
from server.bucket import newest_in_bucket
from server.credentials import Credentials
from server.live import MOST_SOCKETS, Live
from server.local import bootstrap_here_or_there, local_status, resync_here_or_there, stored_status, verify_here_or_there
from server.pairing import pair as join
from server.pairing import print_paired, typed_code
from server.pi_client import PiClient
from server.push_client import PushClient
from server.remote import RemoteSource, settings_for
from server.replica import Replica
from server.rescued import print_rescued
from server.state import SyncState
from server.store import Store
from server.sync import SyncService
from server.verifier import recall

DIVERGED = 3  # exit code

logger = logging.getLogger(__name__)


class OpenFiles:
    """Both databases as the first service to start, hence the last to stop."""

    def __init__(self, store: Store, replica: Replica) -> None:
        self.store, self.replica = store, replica

    def start(self) -> None:
        """They are open already."""

    def stop(self) -> None:
        """Write what is counted, close both, so that no -wal stays behind: the last connection to close removes it, if it may write."""
        self.store.close()
        self.replica.close()
        with suppress(DroverError):
            connect(self.replica.path).close()


@click.group()
def main() -> None:
    """The replica: an exact copy of the farm's database, with its office pages."""


@main.command()
def serve() -> None:
    """Follow the Pi and serve the office pages until a signal ends it."""
    with failing_in_one_line():
        settings = Settings.load()
        prepare_data_dir(settings)
        start_logging(settings, "server")
    run_role(Role("server", settings.server_bind, settings.server_port, None, None, lambda: create(settings), MOST_SOCKETS))


def create(settings: Settings) -> tuple[Flask, list[Service]]:
    """The application and what runs beside it, made in the worker process."""
    replica, store = Replica(settings.replica_db), Store(settings.server_db, checkpoints=True)
    services: list[Service] = [OpenFiles(store, replica)]
    state = SyncState(settings.stale_after, "starting" if settings.is_server_ui else "pages-only")
    recall(store, state)
    if not settings.is_server_ui:
        logger.info("Pages only (IS_SERVER_UI=False): this server does not follow the Pi")
        return create_app(settings, replica, store, state, None), services
    credentials = Credentials(settings, Path(".env"))
    live = Live(replica, state)
    sync = SyncService(settings, replica, store, state, live.applied, credentials=credentials)
    replica.when_broken = sync.replica_broke
    if settings.follow == "bucket":
        return create_app(settings, replica, store, state, sync, live=live, credentials=credentials), [*services, sync, live]
    push = PushClient(
        settings, store.replica_id, offer=sync.offer, linked=sync.linked, ignored=sync.measures.ignored, credentials=credentials
    )
    return create_app(settings, replica, store, state, sync, live=live, credentials=credentials), [*services, sync, live, push]


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """How the replica is doing: asked of the running server, else read from its files."""
    with failing_in_one_line():
        settings = Settings.load()
        facts = local_status(settings) or stored_status(settings)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for name, value in facts.items():
            click.echo(f"{name:<22}{'-' if value is None else value}")


@main.command()
@click.option("--yes", is_flag=True, help="The present copy is replaced (it is kept as a file beside it): say so.")
@click.option("--from-bucket", is_flag=True, help="The Pi whose newest state is in the bucket: for one that cannot be reached.")
def accept(yes: bool, from_bucket: bool) -> None:
    """Take the Pi that answers now as ours, though its history does not go on from the accepted one."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("this replaces the office's copy by that of the Pi which answers now; add --yes")
    with failing_in_one_line():
        settings = Settings.load()
        prepare_data_dir(settings)
        with closing(Store(settings.server_db)) as store:
            where, epoch, seq = _found_in_bucket(settings) if from_bucket else _found_at_the_pi(settings, store.replica_id)
            if not yes:
                click.confirm(f"Take the Pi at {where} (epoch {epoch}, head {seq}) as ours?", abort=True)
            store.accepted_epoch = epoch
    click.echo(f"accepted epoch {epoch}: the server fetches its copy at the next try")


def _found_at_the_pi(settings: Settings, replica_id: str) -> tuple[str, str, int]:
    """Where, which epoch, and its head."""
    with closing(PiClient(settings, replica_id)) as client:
        facts = client.facts("/schema")
        return client.host, facts["epoch"], facts["seq"]


def _found_in_bucket(settings: Settings) -> tuple[str, str, int]:
    url, head = newest_in_bucket(settings)
    return url, head.epoch, head.seq


@main.command()
@click.option("--from-bucket", is_flag=True, help="The newest state of the bucket; the Pi is not asked, and need not run.")
@click.option("--force", is_flag=True, help="Also where it is older than what is here: what is lost is kept in a file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bootstrap(from_bucket: bool, force: bool, as_json: bool) -> None:
    """Make the replica out of the bucket that the Pi ships to (LITESTREAM_BUCKET); then it goes on with the Pi from there.

    A copy of the Pi itself is fetched by `resync`, and at the first start.
    """
    if not from_bucket:
        raise click.UsageError("add --from-bucket; a copy of the Pi itself is fetched by: python -m server resync")
    with failing_in_one_line():
        settings = Settings.load()
        prepare_data_dir(settings)
        result = bootstrap_here_or_there(settings, force)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"from             {result['source']}")
        click.echo(f"shipped at       {result['as_of']} UTC by the Pi's clock")
        click.echo(f"position before  {result['before'] or 'none: there was no replica'}")
        click.echo(f"position after   {result['after']}")


@main.command()
@click.option("--json-export", is_flag=True, help="Refill the tables from the JSON export instead of fetching the file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def resync(json_export: bool, as_json: bool) -> None:
    """Fetch a new copy now and prove that it is identical; exit code 3 when a divergence was found, before or after."""
    with failing_in_one_line():
        result = resync_here_or_there(Settings.load(), json_export)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"position before  {result['before'] or 'none: there was no replica'}")
        if result["diverged_before"]:
            click.echo(f"before           the replica DIFFERED from the Pi in {', '.join(result['diverged_before'])}")
        click.echo(f"position after   {result['after']}")
        click.echo(f"rows             {result['rows']}")
        differing = result["diverged_after"]
        verdict = f"DIFFER in {', '.join(differing)}" if differing else "identical, by the digests of both at this position"
        click.echo(f"both sides       {verdict}")
    sys.exit(DIVERGED if result["diverged_before"] or result["diverged_after"] else 0)


@main.command()
@click.option("--repair", is_flag=True, help="Mend what differs: those rows alone; where rows cannot, by a new copy.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(repair: bool, as_json: bool) -> None:
    """Compare the replica with the Pi, row by row where digests differ; exit code 3 when something differed, repaired or not."""
    with failing_in_one_line():
        result = verify_here_or_there(Settings.load(), repair)
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))
    else:
        print_verified(result, "the Pi")
        click.echo(f"bytes moved      {result['moved']}")
        click.echo(f"seconds          {result['seconds']}")
    sys.exit(0 if result["identical"] else DIVERGED)


@main.command()
@click.argument("url")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--yes", is_flag=True, help="TARGET may be replaced where it is no replica of this Pi.")
def pull(url: str, target: Path, as_json: bool, yes: bool) -> None:
    """Make or advance TARGET, a replica of the primary at URL (https://HOST:PORT), whatever database that is.

    The key is PI_API_KEY and the certificate PI_CERT, as for the server. It does not touch the server's own replica.
    """
    with failing_in_one_line():
        settings = settings_for(url, Settings.load())
        with closing(PiClient(settings, f"pull-{socket.gethostname()}"[:64])) as client:
            print_pull(pull_from(RemoteSource(client, lambda done, total: None), target, yes), as_json)
            client.keep_trust()


@main.command()
@click.argument("host", metavar="HOST[:PORT]")
@click.option("--fingerprint", required=True, help="SHA-256 of the Pi's certificate, as `python -m pi pair` prints it there.")
def pair(host: str, fingerprint: str) -> None:
    """Join this server to the Pi at HOST: pin its certificate and fetch a key, both written to .env and PI_CERT.

    The code that `python -m pi pair` prints is asked for; without a terminal it is the first line of standard input, or PAIRING_CODE in
    the environment.
    """
    with failing_in_one_line():
        settings, expected = Settings.load(), parse_fingerprint(fingerprint)
        prepare_data_dir(settings)
        print_paired(join(settings, Path(".env"), host, expected, typed_code()))


@main.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON value a line.")
def rescued(file: Path | None, as_json: bool) -> None:
    """List the changes that the Pi lost when it went back in time, or show those in FILE, one line each.

    To play them back, carry the file to the Pi and run there: python -m pi adopt FILE
    """
    with failing_in_one_line():
        print_rescued(Settings.load().replica_db.parent, file, as_json)


@main.group()
def token() -> None:
    """Tokens for /office/api: `Authorization: Bearer TOKEN`."""


@token.command("add")
@click.argument("name")
def token_add(name: str) -> None:
    """Make a token and print it: it is shown this once."""
    with local_store() as store:
        click.echo(store.add_token(name))


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def token_list(as_json: bool) -> None:
    """The names of all tokens."""
    with local_store() as store:
        known: list[dict[str, Any]] = [{"name": name, "created_at": made} for name, made in store.tokens()]
    if as_json:
        click.echo(json.dumps(known))
    else:
        for each in known:
            click.echo(f"{each['created_at']}  {each['name']}")


@token.command("revoke")
@click.argument("name")
def token_revoke(name: str) -> None:
    """Make the token of this name worthless."""
    with local_store() as store:
        store.revoke_token(name)
    click.echo(f"revoked {name}")


@contextmanager
def local_store() -> Iterator[Store]:
    """server.db, for one command."""
    with failing_in_one_line():
        settings = Settings.load()
        prepare_data_dir(settings)
        store = Store(settings.server_db)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def failing_in_one_line() -> Iterator[None]:
    """An error of ours ends the command with its message on stderr and exit code 1."""
    try:
        yield
    except DroverError as exc:
        cause = exc.message
    except BrokenPipeError:
        raise  # click knows what it means
    except (*STORAGE, OSError) as exc:
        cause = in_words(exc)
    else:
        return
    click.echo(cause, err=True)
    sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m server")
