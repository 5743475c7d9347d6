"""The process of a role: gunicorn with one threaded worker, the role's services in it, and an end within five seconds.

The master only watches; all work is in the worker, which makes its application and services after the fork, so that no SQLite
connection crosses one. On SIGTERM, SIGINT or SIGHUP the worker stops listening, sets the event that long polls and streams ask,
and stops the services in reverse order while running requests come to their end.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]

from changelog.errors import ConfigError, DroverError
from changelog.memory import give_back_what_is_freed
from changelog.node.server_log import ServerLog
from changelog.node.tls import ServerTls
from changelog.node.worker import HELD_LIMIT, PatientWorker

KEEPALIVE = 75  # s that an idle connection is kept
REQUESTS_GRACE = 2  # s that running requests have to end in
SERVICES_GRACE = 3  # s after the signal at which the process ends even with a service that does not stop
PROCESS_GRACE = 4  # s after the signal at which the master kills a worker that hangs
HEARTBEAT = 60  # s without a turn of the main loop after which the master replaces the worker
BACKLOG = 512  # connections that the kernel keeps waiting
SPARE_THREADS = 32  # beyond two a socket

logger = logging.getLogger(__name__)


class Service(Protocol):
    """A background thread of a role."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """Signal and join, within a few seconds."""


@dataclass(frozen=True)
class Role:
    """What is served, where, and what runs beside it."""

    name: str  # pi or server: the first part of its settings' names
    bind: str
    port: int
    certificate: Path | None  # None: plain http
    key: Path | None
    create: Callable[[], tuple[Flask, list[Service]]]  # called in the worker process
    sockets: int = 100  # WebSockets at once; each takes two threads


def serve(role: Role) -> NoReturn:
    """Run `role` until a signal ends it (exit code 0); what prevents the start is one line on stderr and exit code 1."""
    try:
        tls = ServerTls(role.certificate, role.key) if role.certificate is not None else None
        listener = listen(role)
    except ConfigError as exc:
        logger.error("%s cannot start: %s", role.name, exc.message)
        sys.exit(1)
    give_back_what_is_freed()  # here: the worker has it from its fork
    RoleProcess(role, listener, tls).run()
    sys.exit(0)


def stopping(app: Flask) -> threading.Event:
    """The event that is set when the process of `app` begins to stop: streams and long polls end on it."""
    event: threading.Event = app.extensions.setdefault("stopping", threading.Event())
    return event


def listen(role: Role) -> socket.socket:
    """The listening socket of `role`; raises ConfigError saying why there can be none."""
    port_name, bind_name = f"{role.name.upper()}_PORT", f"{role.name.upper()}_BIND"
    family = socket.AF_INET6 if ":" in role.bind else socket.AF_INET
    try:
        return socket.create_server((role.bind, role.port), family=family, backlog=BACKLOG, dualstack_ipv6=role.bind == "::")
    except OSError as exc:
        advice = {
            errno.EADDRINUSE: f"is taken by another program: stop that, or choose another {port_name}",
            errno.EACCES: f"is not allowed for this user: choose a {port_name} from 1024 up",
            errno.EADDRNOTAVAIL: f"is no address of this machine: correct {bind_name}",
        }.get(exc.errno or 0, f"cannot be listened on ({exc.strerror}): correct {bind_name}")
        raise ConfigError(f"{role.bind}:{role.port} {advice}") from exc


class Master(Arbiter):
    """gunicorn's master with the signals that fit one worker: none adds a second one or starts it anew beside the first."""

    SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1)
    handle_hup = Arbiter.handle_term

    def halt(self, reason: str | None = None, exit_status: int = 0) -> NoReturn:
        """End; a worker that could not start has already said why."""
        try:
            super().halt()
        finally:
            sys.exit(1 if exit_status else 0)


class RoleProcess(BaseApplication):
    """`role` as gunicorn runs it; the object is copied into the worker by the fork and lives on there."""

    def __init__(self, role: Role, listener: socket.socket, tls: ServerTls | None = None) -> None:
        self.role = role
        self.listener = listener
        self.tls = tls  # None: plain http
        self.services: list[Service] = []
        self.started: list[Service] = []
        self.stopping = threading.Event()
        self._stopper: threading.Thread | None = None
        self._stop_by = 0.0
        super().__init__()

    def load_config(self) -> None:
        """gunicorn's settings; none of them comes from its own files or variables."""
        threads = 2 * self.role.sockets + SPARE_THREADS
        settings: dict[str, Any] = {
            "bind": f"fd://{self.listener.detach()}",
            "backlog": BACKLOG,
            "workers": 1,
            "worker_class": PatientWorker,
            "threads": threads,
            "worker_connections": threads + HELD_LIMIT,
            "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # a heartbeat on a stalled SD card would kill us
            "timeout": HEARTBEAT,
            "graceful_timeout": PROCESS_GRACE,
            "keepalive": KEEPALIVE,
            "limit_request_line": 4094,
            "limit_request_fields": 64,
            "limit_request_field_size": 8190,
            "forwarded_allow_ips": "",
            "secure_scheme_headers": {},
            "forwarder_headers": "",
            "logger_class": ServerLog,
            "control_socket_disable": True,
            "proc_name": f"drover {self.role.name}",
            "post_fork": self._forked,
            "post_worker_init": self._start,
            "worker_exit": self._exit,
        }
        if self.role.certificate is not None:
            settings |= {"certfile": str(self.role.certificate), "keyfile": str(self.role.key or self.role.certificate)}
            settings["ssl_context"] = self._ssl_context
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """The application; called in the worker."""
        try:
            app, self.services = self.role.create()
        except Exception as exc:
            self._give_up(exc)
        self.stopping = stopping(app)
        return app

    def run(self) -> None:
        """Be the master."""
        Master(self).run()

    def begin_stop(self) -> None:
        """Stop the services, beside the main loop that finishes its requests."""
        if self._stopper is None:
            self._stop_by = time.monotonic() + SERVICES_GRACE
            self.stopping.set()
            self._stopper = threading.Thread(target=self._stop_services, name="stop", daemon=True)
            self._stopper.start()

    def _forked(self, _arbiter: Any, worker: Any) -> None:
        worker.cfg.set("graceful_timeout", REQUESTS_GRACE)  # in this process only: the worker ends before the master loses patience

    def _start(self, _worker: Any) -> None:
        try:
            for service in self.services:
                service.start()
                self.started.append(service)
        except Exception as exc:
            self._stop_services()
            self._give_up(exc)
        logger.info("%s serves %s:%d", self.role.name, self.role.bind, self.role.port)

    def _stop_services(self) -> None:
        while self.started:
            service = self.started.pop()
            try:
                service.stop()
            except Exception:
                logger.exception("%s did not stop", type(service).__name__)

    def _exit(self, _arbiter: Any, worker: Any) -> None:
        """The last act of a worker: not sys.exit, which would wait for every thread that still holds a socket."""
        self.begin_stop()
        if self._stopper is not None:
            self._stopper.join(max(0.0, self._stop_by - time.monotonic()))
            if self._stopper.is_alive():
                logger.warning("%s ends with a service that did not stop in %s s", self.role.name, SERVICES_GRACE)
        logger.info("%s has stopped", self.role.name)
        logging.shutdown()
        os._exit(0)

    def _give_up(self, exc: Exception) -> NoReturn:
        """End the whole process, because the worker cannot start."""
        cause = exc.message if isinstance(exc, DroverError) else f"{type(exc).__name__}: {exc}"
        logger.error("%s cannot start: %s", self.role.name, cause)
        logger.debug("where it failed", exc_info=exc)
        logging.shutdown()
        os._exit(Arbiter.APP_LOAD_ERROR)

    def _ssl_context(self, _conf: Any, _default: Any) -> ssl.SSLContext:
        assert self.tls is not None
        return self.tls.context()
