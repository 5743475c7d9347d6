"""A primary behind the sync API as a source to pull from, for a replica of any database and without the office's pages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from urllib.parse import urlsplit

import apsw

from changelog.errors import BadRequest
from changelog.node.settings import Settings
from changelog.position import Position
from changelog.replay import replay
from server.catch_up import CatchUp
from server.download import Progress
from server.pi_client import PiClient


class RemoteSource:
    """Satisfies `changelog.pull.Source` by requests to a Pi."""

    def __init__(self, client: PiClient, progress: Progress) -> None:
        self._client, self._progress = client, progress

    def epochs(self) -> list[str]:
        """Its epoch, and then those that it descends from."""
        facts = self._client.facts("/schema")
        return [facts["epoch"], *facts.get("ancestors", [])]

    def replay_onto(self, replica: apsw.Connection, before: Position) -> Position:
        """Bring a replica that stands at `before` to the newest commit."""
        catch_up = CatchUp(self._client, Path(replica.filename))
        try:
            position = replay(replica, *catch_up.frame(before))
            catch_up.discard()
            return position
        finally:
            catch_up.close()

    def copy_to(self, target: Path) -> int:
        """Download a snapshot to a new file."""
        return self._client.snapshot(target, None, self._progress)


def settings_for(url: str, settings: Settings) -> Settings:
    """`settings` with the Pi that the URL names. Raises BadRequest for what is no address of a Pi."""
    parts = urlsplit(url if "//" in url else f"https://{url}")
    try:
        port = parts.port
    except ValueError as exc:
        raise BadRequest(f"{url} is no address of a Pi ({exc}); write it as https://HOST:PORT") from exc
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise BadRequest(f"{url} is no address of a Pi; write it as https://HOST:PORT")
    return dataclasses.replace(
        settings,
        remote_pi_host=parts.hostname,
        remote_pi_port=port or settings.remote_pi_port,
        use_ssl_for_pi=parts.scheme == "https",
    )
