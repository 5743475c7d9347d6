"""`python -m pi serve`: the application of the Pi and the services beside it, in one process."""

from __future__ import annotations

import contextlib

import click
from flask import Flask

from changelog.acks import Acks
from changelog.connection import connect
from changelog.errors import ConfigError, DroverError
from changelog.node.logs import start_logging
from changelog.node.runner import Role, Service
from changelog.node.runner import serve as run_role
from changelog.node.settings import Settings, prepare_data_dir
from changelog.primary import Primary
from pi import farm
from pi.app import create_app
from pi.certificate import settle
from pi.keys import Keys
from pi.measures import Measures
from pi.push import Push
from pi.retention import Retention
from pi.serial_reader import SerialReader
from pi.writer import Writer


@click.command()
@click.pass_obj
def serve(settings: Settings) -> None:
    """Serve the Pi: radio, worker and API, until a signal ends it."""
    prepare_data_dir(settings)
    start_logging(settings, "pi")
    settle(settings)
    if settings.pi_tls and not settings.pi_cert.exists():
        raise ConfigError(
            f"the certificate {settings.pi_cert} is missing: `scripts/run.sh pi` makes it, or: openssl req -x509 -newkey ec"
            f" -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=pi -addext subjectAltName=DNS:pi,DNS:localhost,IP:127.0.0.1"
            f" -keyout {settings.pi_key} -out {settings.pi_cert}"
        )
    certificate, key = (settings.pi_cert, settings.pi_key) if settings.pi_tls else (None, None)
    run_role(Role("pi", settings.pi_bind, settings.pi_port, certificate, key, lambda: create(settings)))


class OpenFiles:
    """The reading side, the keys and the acknowledgements as the first service to start, hence the last to stop."""

    def __init__(self, primary: Primary, keys: Keys, acks: Acks) -> None:
        self.primary, self.keys, self.acks = primary, keys, acks

    def start(self) -> None:
        """They are open already."""

    def stop(self) -> None:
        """Close all, so that no -wal stays behind: the last connection to close removes it, if it may write."""
        self.primary.close()
        with contextlib.suppress(DroverError):
            connect(self.primary.path).close()
        self.acks.close()
        self.keys.close()


def create(settings: Settings, sockets: int = Role.sockets) -> tuple[Flask, list[Service]]:
    """The application of the Pi and the services that run beside it; at most `sockets` clients are pushed to."""
    farm.open_farm(settings.farm_db)
    keys = Keys(settings.pi_db, checkpoints=True)
    acks, measures = Acks(settings.pi_db), Measures()
    retention = Retention(settings.farm_db, acks, settings.changelog_keep_days, settings.changelog_max_bytes)

    def committed(seconds: float) -> None:
        measures.committed(seconds)
        primary.commits.hint()

    writer = Writer(settings.farm_db, settings.lora_processing_interval, retention, committed)
    primary = Primary(settings.farm_db, writer.reconcile, writer.opened)
    services: list[Service] = [OpenFiles(primary, keys, acks), writer]
    radio = SerialReader(settings.lora_serial_port, settings.lora_baud, writer) if settings.lora_serial_port else None
    if radio:
        services.append(radio)
    measures.ask(
        settings.farm_db,
        queued=lambda: writer.queued,
        dropped=lambda: radio.statistics.overflow if radio else 0,
        acks=acks,
        retention=retention,
    )
    app = create_app(settings, writer, primary, keys, acks, measures=measures)
    push = Push(app, primary, keys, sockets)
    measures.ask_push(push)
    services.append(push)  # the last to start, hence the first to stop: its sockets end while everything is still there
    return app, services
