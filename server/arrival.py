"""The first copy of the farm on its way: what anybody may be told before there are users who could sign in.

No names and no addresses: only how far it is, and which sort of thing is in the way.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.measures import FailureCause
from server.state import Facts

NOT_FOLLOWING = (
    "This server shows pages only (IS_SERVER_UI=False) and fetches nothing itself: set it to True, or bring a replica with"
    " `python -m server pull`."
)
IN_THE_WAY: dict[FailureCause, str] = {
    "unreachable": "The Pi does not answer. It is tried again and again; the page goes on by itself when it is back.",
    "refused": "The Pi does not let this server in: its key (PI_API_KEY) or its certificate (PI_CERT) is not the one that the Pi knows.",
    "stranger": "The Pi that answers has another history than the one that was accepted here, so it is refused: `python -m server accept`.",
    "protocol": "The Pi and this server speak different versions of the protocol: update the older one.",
    "disk": "The copy cannot be stored: the disk of this server is full, or may not be written.",
}
OTHER = "Something is in the way."
MORE = "The log of this server, and `python -m server status` on it, say more."


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the page of the first copy shows: the state, a sentence, and the bytes that are here and of how many, if any are."""

    state: str
    sentence: str
    in_the_way: str = ""
    progress: tuple[int, int | None] | None = None


def in_the_way(facts: Facts) -> str:
    """What keeps the Pi's rows from coming, without a name or an address; "" where nothing does."""
    if facts.cause is None or not facts.last_error:
        return f"{IN_THE_WAY['unreachable']} {MORE}" if facts.state in ("stale", "refused") else ""
    return f"{IN_THE_WAY.get(facts.cause, OTHER)} {MORE}"


def arrival(facts: Facts) -> Arrival:
    """How the first copy comes along."""
    if facts.state == "pages-only":
        return Arrival(facts.state, "There is no copy of the farm here yet.", NOT_FOLLOWING)
    obstacle = in_the_way(facts)
    if facts.state in ("stale", "refused"):
        return Arrival(facts.state, "The first copy of the farm could not be fetched yet.", obstacle)
    if facts.progress and facts.progress[0]:
        done, total = facts.progress
        sentence = (
            "The first copy of the farm has arrived and is being put in place." if done == total else "The first copy of the farm arrives."
        )
        return Arrival(facts.state, sentence, obstacle, facts.progress)
    return Arrival(facts.state, "The first copy of the farm is being fetched from the Pi.", obstacle)
