"""The fields of a form: how a value of the farm is shown in one, and what a typed text means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Kind = Literal["text", "textarea", "select", "password"]

_UTC_MINUTE = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?Z?", re.ASCII)

# In what people write at length, signs that are joined, and spaces that do not break, have their place; in a name they only mislead.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Field:
    """One field: any short text, unless a subclass says otherwise. `name` is the Pi's name for it."""

    name: str
    label: str
    hint: str = ""
    required: bool = False
    longest: int = 100  # characters
    kind: Kind = "text"
    inputmode: str = "text"
    autocomplete: str = "off"
    suggestions: Sequence[str] = ()
    choices: Sequence[tuple[str, str]] = ()  # of a select: value and what is shown
    zone: str = ""  # of a time: where no script turns it into the viewer's own

    def show(self, value: Any) -> str:
        """The text in which a value stands in the field."""
        if isinstance(value, bytes):
            return ""
        return "" if value is None else plain(str(value))

    def parse(self, text: str) -> Any:
        """What is sent to the Pi for a typed text, or None for nothing. Raises ValueError with a sentence for people."""
        if not text:
            if self.required:
                raise ValueError(f"{self.label} is needed.")
            return None
        if len(text) > self.longest:
            raise ValueError(f"{self.label} may have {self.longest} characters; this has {len(text)}.")
        if _CONTROL.search(text) if self.kind == "textarea" else not text.replace("\t", " ").isprintable():
            raise ValueError(f"{self.label} has a character in it that cannot be seen: type it anew.")
        return text


@dataclass(frozen=True)
class WholeNumber(Field):
    """A whole number from 0 on."""

    inputmode: str = "numeric"
    longest: int = 12

    def parse(self, text: str) -> Any:
        """The number."""
        text = super().parse(text)
        if text is not None and not re.fullmatch(r"[0-9]+", text, re.ASCII):
            raise ValueError(f"{self.label} must be a whole number, such as 40.")
        return None if text is None else int(text)


@dataclass(frozen=True)
class Decimal(Field):
    """A number that may have a fraction, with a point or a comma."""

    inputmode: str = "decimal"
    longest: int = 12

    def parse(self, text: str) -> Any:
        """The number."""
        text = super().parse(text)
        if text is not None and not re.fullmatch(r"[0-9]+([.,][0-9]+)?", text, re.ASCII):
            raise ValueError(f"{self.label} must be a number, such as 412.5.")
        return None if text is None else float(text.replace(",", "."))


@dataclass(frozen=True)
class Moment(Field):
    """A time in UTC."""

    longest: int = 20
    zone: str = "UTC"

    def parse(self, text: str) -> Any:
        """The time as the tables hold it."""
        text = super().parse(text)
        if text is None:
            return None
        match = _UTC_MINUTE.fullmatch(text)
        try:
            if match is not None:
                return datetime.fromisoformat(f"{match[1]}T{match[2]}{match[3] or ':00'}").isoformat()
        except ValueError:
            pass
        raise ValueError(f"{self.label} must be a day and a time, such as 2024-01-15 10:30.")


@dataclass(frozen=True)
class Choice(Field):
    """One of the rows that are offered, by id, or none of them."""

    kind: Kind = "select"

    def parse(self, text: str) -> Any:
        """The id."""
        if text and text not in [value for value, _ in self.choices]:
            raise ValueError(f"{self.label}: what was chosen is not there any more. Choose again.")
        return int(text) if text else None


@dataclass(frozen=True)
class OneOf(Field):
    """One of some words."""

    kind: Kind = "select"
    required: bool = True

    def parse(self, text: str) -> Any:
        """The word."""
        if text not in [value for value, _ in self.choices]:
            raise ValueError(f"{self.label}: choose one of {', '.join(shown for _, shown in self.choices)}.")
        return text


@dataclass
class Typed:
    """What somebody typed into a form, what they saw in it before, and what is wrong with it."""

    texts: dict[str, str]
    seen: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def plain(text: str) -> str:
    """A text as forms compare and send it: browsers send other ends of lines, and nobody means spaces at the ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def changed(fields: Sequence[Field], typed: Typed, row: Mapping[str, Any]) -> list[Field]:
    """The fields in which something else stands now than was seen, or, where that is not known, than is in `row`."""
    return [f for f in fields if typed.texts[f.name] != f.show(typed.seen.get(f.name, row.get(f.name)))]
