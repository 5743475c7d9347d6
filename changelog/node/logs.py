"""Logging of both roles: one form, to stderr (the journal) and to a rotated file, with no key or password in it.

`2026-11-23T16:00:00Z [INFO] message`
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from gunicorn import glogging  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]

from changelog.errors import ConfigError
from changelog.node.settings import Settings

FORM = "%(asctime)s [%(levelname)s] %(message)s"
TIME_FORM = "%Y-%m-%dT%H:%M:%SZ"
LOG_BYTES = 2 * 1024 * 1024  # bytes of one log file
LOG_FILES = 5  # older files that are kept beside it
CHATTY = ("urllib3", "botocore", "boto3", "s3transfer", "watchdog", "engineio", "socketio", "werkzeug")  # whose DEBUG is left out

_KEY = re.compile(r"hxb_[A-Za-z0-9_-]{4,}")
_NAMED = re.compile(
    r"""((?:password|passwd|secret|token|authorization|cookie|api[-_]?key)\w*["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^\s,;&]+)""", re.IGNORECASE
)
_BEARER = re.compile(r"(\b(?:bearer|basic)\s+)\S+", re.IGNORECASE)
_USERINFO = re.compile(r"(://)[^/\s@]+@")


def start_logging(settings: Settings, role: str) -> None:
    """Send everything that is logged in this process to stderr and to LOG_FILE; raises ConfigError when that cannot be written."""
    path = settings.log_file or settings.data_dir / "log" / f"{role}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        to_file = LogFile(path)
    except OSError as exc:
        raise ConfigError(f"LOG_FILE={path} cannot be written: {exc.strerror}: choose another file or change its owner") from exc
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in (logging.StreamHandler(sys.stderr), to_file):
        handler.setFormatter(Discreet(settings.secrets))
        root.addHandler(handler)
    root.setLevel(settings.log_level)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))


class Discreet(logging.Formatter):
    """The form of our lines: UTC, one line a message, secrets replaced by ***, in tracebacks too."""

    converter = staticmethod(time.gmtime)

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        """`secrets` are hidden wherever they stand, besides what looks like a key or a password."""
        super().__init__(FORM, TIME_FORM)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`, and its traceback."""
        text = super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = _USERINFO.sub(r"\1***@", _NAMED.sub(r"\1***", _BEARER.sub(r"\1***", text)))
        return _KEY.sub("hxb_***", text)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message on one line: what a caller sent cannot forge another."""
        return super().formatMessage(record).replace("\n", "\\n").replace("\r", "\\r")


class LogFile(RotatingFileHandler):
    """A rotated log file that notices when another process of the role has rotated it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record` into the file that has the name now."""
        if self.stream is not None and not self._has_the_name(self.stream.fileno()):
            self.stream.close()
            self.stream = self._open()
        super().emit(record)

    def _has_the_name(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.baseFilename), os.fstat(fd))
        except FileNotFoundError:
            return False


class ServerLog(glogging.Logger):
    """gunicorn's log as part of ours: its routine is our DEBUG, its own details are nobody's, and each request is one DEBUG line."""

    def setup(self, cfg: Any) -> None:
        """Install no handlers: the root logger has them."""
        self.cfg = cfg
        self.error_log.propagate = self.access_log.propagate = True

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Routine."""
        self.error_log.debug(msg, *args, **kwargs)

    def error(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Faults; a worker that could not start has already told its own."""
        if args[1:] != (Arbiter.APP_LOAD_ERROR,):
            self.error_log.error(msg, *args, **kwargs)

    def debug(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Details of gunicorn, the whole configuration among them."""

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: Any) -> None:
        """One answered request; without its query, where secrets may stand."""
        if self.access_log.isEnabledFor(logging.DEBUG):
            took = request_time.total_seconds() * 1000
            facts = environ.get("REMOTE_ADDR"), environ.get("REQUEST_METHOD"), environ.get("PATH_INFO"), resp.status.split()[0], took
            self.access_log.debug("%s %s %s %s %.1f ms", *facts)

    def close_on_exec(self) -> None:
        """Python's files are so already."""

    def reopen_files(self) -> None:
        """A log file that was moved away is noticed at the next line."""
