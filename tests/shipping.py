"""The Pi's shipper as it runs, a process of its own, and the folder or bucket that it ships to."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

from farm_processes import Farm, Role, eventually
from ltx_parts import KEYS, S3Server

from changelog.connection import connect
from changelog.errors import NotFound
from changelog.ltx.restore import restore
from changelog.ltx.store.names import Store
from changelog.ltx.store.place import store_at
from changelog.position import Position


class Shipper(Role):
    """`python -m pi ship` for one Pi, with its settings."""

    verb = "ship"

    def __init__(self, pi: Role) -> None:
        super().__init__("pi", pi.folder, "farm.db", "")
        self.settings = pi.settings

    @property
    def store(self) -> Store:
        """Where it ships to."""
        names = ("LITESTREAM_BUCKET", "LITESTREAM_PATH", "LITESTREAM_ENDPOINT", "LITESTREAM_REGION")
        return store_at(*(str(self.settings.get(name, "")) for name in names))

    def start(self, prefix: object = ()) -> None:
        """Start it, and return when all that the Pi has is in the store."""
        self.launch()
        self.caught_up()

    def caught_up(self) -> Position:
        """Wait until the store has all that the Pi has; the position of that."""
        head = position(self.database)
        eventually(lambda: self.shipped() == head, 30)
        return head

    def shipped(self) -> Position | None:
        """The newest position that can be had from the store."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.db"
            try:
                restore(self.store, copy)
            except NotFound:
                return None
            return position(copy)


def position(path: Path) -> Position:
    """The position of the newest change in a primary's file."""
    with closing(connect(path, readonly=True)) as db:
        return Position.of_head(db)


def ship_to(farm: Farm, place: Path | str, **more: object) -> Shipper:
    """Let the Pi ship to a folder or bucket, and the server know it; neither is started."""
    for role in farm.roles:
        role.settings |= {"LITESTREAM_BUCKET": place, **more}
    return Shipper(farm.pi)


def s3_settings(server: S3Server) -> dict[str, str]:
    """The settings that name it. Its keys stand in them, and must stand in the environment of whoever asks it from here."""
    return {"LITESTREAM_BUCKET": server.bucket, "LITESTREAM_ENDPOINT": server.endpoint, **KEYS}
