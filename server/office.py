"""What the views of one server share: its settings, its files and its sync service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import current_app

from changelog.node.settings import Settings
from server.measures import Measures
from server.replica import Replica
from server.state import SyncState
from server.store import Store
from server.tallies import Tallies

if TYPE_CHECKING:
    from server.live import Live
    from server.sync import SyncService


@dataclass(frozen=True, slots=True)
class Office:
    """The parts of a running server. `sync` is None where the pages run alone (IS_SERVER_UI=False)."""

    settings: Settings
    replica: Replica
    store: Store
    state: SyncState
    sync: SyncService | None
    measures: Measures
    tallies: Tallies
    live: Live | None = None  # tells browsers what is new, where there is something to follow


def office() -> Office:
    """The parts of the server that answers this request."""
    return current_app.extensions["office"]
