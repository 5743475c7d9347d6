"""What the routes of the write API have in common."""

from __future__ import annotations

from typing import Any, Protocol

from flask import Response

from pi.jobs import Job


class Write(Protocol):
    """Runs a job and answers with what it returned, under `name`, and with the position of the write."""

    def __call__(self, name: str, job: Job[dict[str, Any]], status: int = 200) -> tuple[Response, int]:
        """Raises what the job raises."""
