"""A Pi in this process that pushes what a test tells it to: the real sync API over a real farm.db, and a Socket.IO server beside it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from farm_processes import make_certificate
from flask import Flask, Response, request
from flask_socketio import ConnectionRefusedError, SocketIO
from office_farm import free_port
from pi_parts import make_farm
from werkzeug.serving import make_server

from changelog.acks import Acks
from changelog.connection import connect
from changelog.node.problems import install_problems
from changelog.node.settings import Settings
from changelog.node.sockets import Wire
from changelog.position import Position
from changelog.primary import Primary
from pi.keys import Keys
from pi.sync import blueprint
from server.push_client import PushClient
from server.replica import Replica
from server.state import SyncState
from server.store import Store
from server.sync import SyncService

PING = 1  # s, and as long again until a dead client is dropped


class PushingPi:
    """Serves `folder`/farm.db on loopback, with TLS. Nothing is pushed by itself: see `push`."""

    def __init__(self, folder: Path, port: int | None = None, *, sockets: bool = True) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.port = folder, port or free_port()
        if not (folder / "farm.db").exists():
            make_farm(folder)
            make_certificate(folder)
        self.primary, self.acks, self.keys = Primary(folder / "farm.db"), Acks(folder / "pi.db"), Keys(folder / "pi.db", checkpoints=True)
        self.asked: list[str] = []  # the query of each request for changes since the newest socket came up
        self.sids: list[str] = []
        self.handshakes: list[tuple[str, dict[str, str]]] = []
        self.refusal = ""
        self.lie: Callable[[str], Response | None] = lambda path: None  # what is answered in the place of the truth, if anything
        app = Flask("pi")
        install_problems(app, facts=("position", "descends"))
        app.register_blueprint(blueprint(self.primary, self.keys, self.acks, folder / "snapshots"))
        app.before_request(self._count)
        self.socket = SocketIO(
            app if sockets else Flask("aside"), async_mode="threading", transports=["websocket"], ping_interval=PING, ping_timeout=PING
        )
        self.socket.on_event("connect", self._connected)
        certificate = (str(folder / "pi-cert.pem"), str(folder / "pi-key.pem"))
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        inner = app.wsgi_app

        def guarded(environ: dict[str, Any], start_response: Any) -> Any:
            environ["werkzeug.socket"] = Wire(environ["werkzeug.socket"])  # as the Pi does: the library alone would write into our files
            return inner(environ, start_response)

        app.wsgi_app = guarded  # type: ignore[method-assign]
        self._server = make_server("127.0.0.1", self.port, app, threaded=True, ssl_context=certificate)
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _count(self) -> Response | None:
        if request.path.endswith("/changes"):
            self.asked.append(request.query_string.decode())
        return self.lie(request.path.removeprefix("/api/sync"))

    def _connected(self, _auth: object = None) -> None:
        self.handshakes.append((request.url, dict(request.headers)))
        role = self.keys.role_of(request.headers.get("X-API-Key", "")) if not self.refusal else None
        if role is None or not role.may("replica"):
            raise ConnectionRefusedError(self.refusal or "a key of a replica is needed")
        self.asked.clear()
        self.sids.append(request.sid)  # type: ignore[attr-defined]
        head = self.primary.head()
        self.socket.emit("changelog", {"epoch": head.epoch, "head": head.seq, "frame": None}, to=self.sids[-1])

    def write(self, *statements: str) -> Position:
        """Commit each; returns the head before."""
        before = self.primary.head()
        db = connect(self.folder / "farm.db")
        for statement in statements:
            db.execute(statement)
        db.close()
        return before

    def frame(self, after: Position) -> bytes:
        """What a pull after this position would bring."""
        return b"".join(self.primary.encoded_frame(after)[1])

    def push(self, after: Position) -> None:
        """What the contract says: the head, and the frame that leads there."""
        head = self.primary.head()
        self.emit({"epoch": head.epoch, "head": head.seq, "frame": self.frame(after)})

    def emit(self, argument: Any, event: str = "changelog") -> None:
        self.socket.emit(event, argument)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for sid in self.sids:
            self.socket.server.disconnect(sid)
        self.primary.close()
        self.acks.close()
        self.keys.close()


class Office:
    """The sync service and the socket's client of a server that follows a PushingPi."""

    def __init__(self, folder: Path, pi: PushingPi, key: str, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        chosen: dict[str, Any] = {"remote_pi_host": "127.0.0.1", "remote_pi_port": pi.port, "db_sync_interval": 60, **settings}
        self.settings = Settings(data_dir=folder, pi_cert=pi.folder / "pi-cert.pem", pi_api_key=key, **chosen)
        self.replica, self.store = Replica(self.settings.replica_db), Store(self.settings.server_db)
        self.state = SyncState(self.settings.stale_after)
        self.told: list[tuple[int, int]] = []
        self.sync = SyncService(
            self.settings, self.replica, self.store, self.state, lambda before, after: self.told.append((before, after))
        )
        measures = self.sync.measures
        self.push = PushClient(
            self.settings, self.store.replica_id, offer=self.sync.offer, linked=self.sync.linked, ignored=measures.ignored
        )

    def counted(self, name: str) -> float:
        """A figure of its measures."""
        return self.sync.measures.metrics.registry.get_sample_value(name) or 0.0

    def start(self) -> None:
        self.sync.start()
        self.push.start()

    def close(self) -> None:
        self.push.stop()
        self.sync.stop()
        self.replica.close()
        self.store.close()


@contextmanager
def following(folder: Path, **settings: Any) -> Iterator[tuple[PushingPi, Office]]:
    """A Pi and an office that follows it, both in this process."""
    pi = PushingPi(folder / "pi")
    office = Office(folder / "office", pi, pi.keys.add("office", "replica"), **settings)
    try:
        office.start()
        yield pi, office
    finally:
        office.close()
        pi.close()
