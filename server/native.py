"""A value as SQLite has it, for people: its kind, what is shown of it at once, and what is folded away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from changelog.values import RawText

AT_ONCE = 200  # characters, or bytes of a blob, that are shown unfolded
AT_MOST = 20_000  # characters that a page shows of one value

Kind = Literal["null", "number", "text", "blob"]


@dataclass(frozen=True, slots=True)
class Native:
    """`text` is shown at once; `more` is the value with all that a page shows of it, or "" where `text` is that; `note` says the rest."""

    kind: Kind
    text: str
    note: str = ""
    more: str = ""


def native(found: Any) -> Native:
    """A value of the database for the page of a change. A blob is shown in hex, and so is text that is not UTF-8."""
    if found is None:
        return Native("null", "NULL")
    if isinstance(found, RawText):
        return _folded("text", f"x'{found.hex()}'", f"text that is not UTF-8, {_counted(len(found), 'byte')}")
    if isinstance(found, bytes):
        return _folded("blob", f"x'{found.hex()}'", f"blob of {_counted(len(found), 'byte')}")
    if isinstance(found, str):
        if not found:
            return Native("text", "", "empty text")
        return _folded("text", found, _counted(len(found), "character") if len(found) > AT_ONCE else "")
    return Native("number", repr(found))


def typed(key: Any) -> Any:
    """The key of a row as it is typed into a filter."""
    return f"x'{key.hex()}'" if isinstance(key, bytes) else key


def _folded(kind: Kind, text: str, note: str) -> Native:
    if len(text) <= AT_ONCE:
        return Native(kind, text, note)
    if len(text) > AT_MOST:
        note = f"{note}, of which the first {AT_MOST:,} signs are shown"
    return Native(kind, f"{text[:AT_ONCE]}…", note, text[:AT_MOST])


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
