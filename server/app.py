"""The server's Flask application: pages, login and status over one replica."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, make_response, render_template, request

from changelog.node.openapi import add_description
from changelog.node.problems import install_problems
from changelog.node.settings import Settings
from server import openapi, show
from server.arrival import arrival, in_the_way
from server.compressed import install_compression
from server.credentials import Credentials
from server.live import Live
from server.login import install_login
from server.measures import Measures
from server.metrics import OfficeMetrics
from server.office import Office, office
from server.pages import pages
from server.pi_writer import PiWriter
from server.rendering import OfficeEnvironment
from server.replica import NEVER_FETCHED, Replica
from server.state import SyncState
from server.status import status
from server.store import Store
from server.tallies import Tallies

if TYPE_CHECKING:
    from server.sync import SyncService

LARGEST_FORM = 512 * 1024  # bytes: of the longest notes, percent-encoded, with those that were seen
ASSET_AGE = 3600  # s that a browser keeps style sheet and script; their addresses change with the file
CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; img-src 'self' data:"  # data: the arrows and ticks inside pico.min.css
)
PLAIN_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")  # what a policy can name; of an IPv6 address it cannot


def create_app(
    settings: Settings,
    replica: Replica,
    store: Store,
    state: SyncState,
    sync: SyncService | None,
    *,
    live: Live | None = None,
    credentials: Credentials | None = None,
) -> Flask:
    """The application over these parts; `sync` and `live` are None where the server shows pages only. `credentials`: see `PiWriter`."""
    app = Flask(__name__)
    app.jinja_environment = OfficeEnvironment
    app.config.update(MAX_CONTENT_LENGTH=LARGEST_FORM, SEND_FILE_MAX_AGE_DEFAULT=ASSET_AGE)
    writer = PiWriter(settings, credentials=credentials) if settings.is_server_ui else None
    measures = sync.measures if sync else Measures()
    parts = Office(settings, replica, store, state, sync, measures, writer, Tallies(state), live)
    app.extensions["office"] = parts
    app.extensions["metrics"] = OfficeMetrics(parts)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of the default provider: answers keep the order in which they are written
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    install_login(app, settings.secret_key, settings.data_dir)
    install_problems(app, html=error_page, csp=CSP)
    show.install_filters(app)
    app.register_blueprint(pages)
    app.register_blueprint(status)
    add_description(app, openapi.PATH, openapi.described())
    app.context_processor(page_facts)
    install_compression(app)
    app.after_request(keep_out_of_caches)
    app.after_request(allow_the_socket)
    if live is not None:
        live.attach(app)
    return app


def page_facts() -> dict[str, Any]:
    """What the frame of every page shows: the replication line and who is signed in."""
    facts = office().state.facts()
    old = facts.state in ("stale", "refused", "pages-only")
    heard = (facts.last_contact or office().store.totals().last_sync_time) if old else None
    return {"facts": facts, "heard": heard, "live": office().live is not None, "user": g.get("user"), "position": g.get("position")}


def error_page(status: int, message: str) -> Response:
    """An error as a page that says what is going on."""
    facts = office().state.facts()
    if status == 503 and message == NEVER_FETCHED:
        return make_response(render_template("arriving.html", arrival=arrival(facts)))
    return make_response(render_template("error.html", status=status, message=message, reason=in_the_way(facts)))


def keep_out_of_caches(response: Response) -> Response:
    """Pages hold the farm's data: no cache keeps them, and the back button does not show them after signing out.

    A script that another one imports is asked for without a version, so it is kept only as long as the server says that it is the same.
    """
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    elif "v" not in request.args:
        response.headers["Cache-Control"] = "no-cache"
    return response


def allow_the_socket(response: Response) -> Response:
    """Let pages open a WebSocket to this host: that 'self' covers it too, browsers learnt at different times."""
    if response.mimetype == "text/html" and PLAIN_HOST.fullmatch(request.host):
        sources = f"connect-src 'self' ws://{request.host} wss://{request.host}"
        response.headers["Content-Security-Policy"] = CSP.replace("connect-src 'self'", sources)
    return response
