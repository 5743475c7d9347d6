"""What a form says when something was not written, and why."""

from __future__ import annotations

from changelog.errors import DroverError, Forbidden, TooMany, Unauthorized, Unavailable, Unreachable
from server.office import office

NO_SYNC = (
    "This server shows pages only (IS_SERVER_UI=False): nothing can be written from here."
    " Open the office of the server that follows the Pi."
)
READ_ONLY = (
    "This server's key may not write, so its office only reads. On the Pi, make a key that may: python -m pi key add NAME --role office,"
    " and set PI_API_KEY to it in the server's .env."
)
UNKNOWN_KEY = "The Pi does not know this server's key (PI_API_KEY). On the Pi: python -m pi key add NAME --role office"
OUTCOMES = {  # of an earlier try, by what the Pi says of it
    "written": "This form was written before, with what stood in it then. Look at what is there now, and send this if it is still wanted.",
    "unknown": "The Pi was cut off while it wrote this, and cannot tell whether it did. Look at what is there, and send it again if not.",
}


def why_closed() -> str | None:
    """Why nothing can be written from here, in words, or None where something can, or nobody knows."""
    writer = office().writer
    if writer is None:
        return NO_SYNC
    return READ_ONLY if writer.may_write() is False else None


def in_words(exc: DroverError) -> str:
    """What the Pi, or the way there, said to a write, as sentences for the page."""
    if isinstance(exc, Unauthorized):
        return UNKNOWN_KEY
    if isinstance(exc, Forbidden) and (closed := why_closed()) is not None:
        return closed
    if isinstance(exc, Unreachable):
        return f"The Pi does not answer: {exc.message}. {_after_silence(bool(exc.facts.get('sent')))}"
    said = OUTCOMES.get(str(exc.facts.get("outcome"))) or f"{exc.message[:1].upper()}{exc.message[1:]}".rstrip(".") + "."
    if isinstance(exc, Unavailable):
        return f"{said} {_after_silence(bool(exc.facts.get('sent')))}"
    return f"{said} Nothing was written." if isinstance(exc, TooMany) else said


def _after_silence(sent: bool) -> str:
    if sent:
        return "It may be written or not: send it again, it is not written twice. All that you typed is still here."
    return "Nothing was written. All that you typed is still here: send it again when the Pi is back."
