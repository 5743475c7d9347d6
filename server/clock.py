"""UTC as the text that all our tables hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def utc_text(ago: float = 0.0) -> str:
    """The moment `ago` seconds before now, as `YYYY-MM-DDTHH:MM:SS` in UTC."""
    return (datetime.now(UTC) - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%S")
