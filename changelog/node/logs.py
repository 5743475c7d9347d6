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
    logging.getLogger("watchdog.observers.inotify").setLevel(logging.CRITICAL)  # its error says that it has been stopped, as it was
    logging.getLogger("urllib3.connection").setLevel(logging.ERROR)  # it warns with a traceback of a head that breaks off


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
        self._lost = self._loses = False  # whether the line before, and the one at hand, found no place
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record` into the file that has the name now."""
        if self.stream is not None and not self._has_the_name(self.stream.fileno()):
            self.stream.close()
            self.stream = self._open()
        self._loses = False
        super().emit(record)
        self._lost = self._loses

    def handleError(self, record: logging.LogRecord) -> None:
        """A file that cannot be written, as on a full disk, is said once, on stderr: that has every line of its own."""
        cause = sys.exc_info()[1]
        if not isinstance(cause, OSError):
            super().handleError(record)
        elif not self._lost:
            sys.stderr.write(f"{self.baseFilename} cannot be written, what is logged stands here only: {cause.strerror}\n")
        self._loses = True

    def _has_the_name(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.baseFilename), os.fstat(fd))
        except FileNotFoundError:
            return False
