"""What gunicorn logs, as part of our log."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn import glogging  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]


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
