"""A tiny role in a process of its own: `python node_role.py '{"port": 5001, ...}'`. Its services keep a diary."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, current_app, request, send_file

from changelog.errors import DamagedFile
from changelog.node import worker
from changelog.node.access import json_body
from changelog.node.problems import install_problems
from changelog.node.runner import Role, Service, serve, stopping

facts: dict[str, Any] = json.loads(sys.argv[1])
WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Diary:
    """A service that notes its start and its stop."""

    def __init__(self, name: str) -> None:
        self.name = name

    def note(self, what: str) -> None:
        with Path(facts["diary"]).open("a") as file:
            file.write(f"{what} {self.name}\n")

    def start(self) -> None:
        if facts.get("fail_service") == self.name:
            raise DamagedFile("the file of the service is damaged")
        self.note("start")

    def stop(self) -> None:
        self.note("stop")
        time.sleep(facts.get("slow_stop", 0))


class Echo:
    """A WebSocket by hand at /echo, as the libraries do it: it takes the raw socket, and gives back what comes."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] != "/echo":
            return self.app(environ, start_response)
        sock = environ["gunicorn.socket"]
        accept = base64.b64encode(hashlib.sha1((environ["HTTP_SEC_WEBSOCKET_KEY"] + WEBSOCKET_GUID).encode()).digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        sock.sendall(head + accept + b"\r\n\r\n")
        while piece := sock.recv(100):
            sock.sendall(piece)
        sock.close()
        raise StopIteration


def create() -> tuple[Flask, list[Service]]:
    if "fail" in facts:
        raise DamagedFile(facts["fail"])
    app = Flask("role")
    install_problems(app)

    @app.get("/")
    def home() -> dict[str, Any]:
        return {"scheme": request.scheme, "peer": request.remote_addr, "length": len(request.query_string)}

    @app.get("/poll")
    def poll() -> dict[str, Any]:
        return {"stopped": stopping(current_app).wait(25)}

    @app.get("/stream")
    def stream() -> Response:
        stop = stopping(current_app)

        def lines() -> Iterator[bytes]:
            yield b"first\n"
            while not stop.wait(0.1):
                yield b"more\n"

        return Response(lines())

    @app.get("/flood")
    def flood() -> Response:
        def pieces() -> Iterator[bytes]:
            try:
                while True:
                    yield b"x" * 65_536
            finally:
                Diary("ended").note("flood")

        return Response(pieces())

    @app.get("/sleep/<float:seconds>")
    def sleep(seconds: float) -> dict[str, Any]:
        time.sleep(seconds)
        return {"slept": seconds}

    @app.post("/json")
    def body() -> dict[str, Any]:
        return json_body(request, 255)

    @app.get("/file")
    def file() -> Response:
        return send_file(__file__, mimetype="text/x-python")

    @app.post("/size")
    def size() -> dict[str, Any]:
        return {"size": len(request.get_data())}

    app.wsgi_app = Echo(app.wsgi_app)  # type: ignore[method-assign]
    return app, [Diary("first"), Diary("second")]


if __name__ == "__main__":
    for name, value in facts.get("worker", {}).items():
        setattr(worker, name, value)
    certificate, key = (Path(facts[name]) if name in facts else None for name in ("certificate", "key"))
    serve(Role("pi", facts.get("bind", "127.0.0.1"), facts["port"], certificate, key, create, facts.get("sockets", 2)))
