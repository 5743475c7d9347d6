"""The Pi's web application: its blueprints, and the errors that they share."""

from __future__ import annotations

from flask import Flask

from changelog.acks import Acks
from changelog.node.openapi import add_description
from changelog.node.problems import install_problems
from changelog.node.settings import Settings
from changelog.primary import Primary
from pi import ingest, openapi, pairing, probes, renewal, sync, verify_api, write_api
from pi.keys import Keys
from pi.measures import Measures
from pi.repeats import Repeats
from pi.writer import Writer


def create_app(settings: Settings, writer: Writer, primary: Primary, keys: Keys, acks: Acks, *, measures: Measures) -> Flask:
    """The API of a Pi whose `writer` writes and whose `primary` reads farm.db, for callers with `keys`.

    Replicas leave their `acks`; `measures` are its figures.
    """
    app = Flask(__name__, static_folder=None)
    install_problems(app, facts=("id", "received_at", "times_received", "position", "descends", *write_api.FACTS))
    app.register_blueprint(sync.blueprint(primary, keys, acks, settings.data_dir / "snapshots"))
    app.register_blueprint(renewal.blueprint(settings, keys))
    app.after_request(renewal.Renewal(settings).announce)
    app.register_blueprint(pairing.blueprint(settings))
    app.register_blueprint(verify_api.blueprint(primary, keys))
    app.register_blueprint(ingest.blueprint(settings, writer, keys))
    app.register_blueprint(write_api.blueprint(writer, keys, Repeats(settings.pi_db)))
    app.register_blueprint(probes.blueprint(settings, writer, keys, measures))
    add_description(app, openapi.PATH, openapi.described())
    return app
