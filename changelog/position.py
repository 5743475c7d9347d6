"""A position: how far along which history. It is a value, compared and printed the same everywhere.

The nonce of the log row at `seq` is what makes it trustworthy: a Pi that lost its last commits in a power cut re-issues the same seqs for
other writes, and without a clock even their timestamps may repeat. Equal nonce at equal seq means equal history before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import apsw

from changelog.connection import one
from changelog.errors import BadRequest, NotAPrimary

_TEXT = re.compile(r"([0-9a-f]{32})/(\d{1,19})/(\d{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """`epoch` names one unbroken life of a log (32 hex digits), `seq` its last row applied, `check` the nonce of that row."""

    epoch: str
    seq: int
    check: int

    def __str__(self) -> str:
        return f"{self.epoch}/{self.seq}/{self.check}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that `str` printed. Raises BadRequest."""
        match = _TEXT.fullmatch(text)
        if not match or max(int(match[2]), int(match[3])) >= 2**63:
            raise BadRequest(f"not a position: {text[:80]!r} (expected epoch/seq/check)")
        return cls(match[1], int(match[2]), int(match[3]))

    @classmethod
    def of_head(cls, db: apsw.Connection) -> Position:
        """The position of a primary's newest change, in one snapshot. Raises NotAPrimary where nothing is installed."""
        row = db.execute(
            """SELECT m.value, l.seq, l.nonce FROM changelog_meta m, changelog l
               WHERE m.name='epoch' AND l.seq=(SELECT max(seq) FROM changelog)"""
        ).fetchone()
        if row is None:
            raise NotAPrimary
        return cls(*row)


def epoch_of(db: apsw.Connection) -> str:
    """The epoch in which this log counts now. Raises NotAPrimary."""
    epoch = one(db, "SELECT value FROM changelog_meta WHERE name='epoch'")
    if epoch is None:
        raise NotAPrimary
    return epoch


def ancestors_of(db: apsw.Connection) -> dict[str, int]:
    """The epochs that this one descends from, each with the seq where it ended."""
    return dict(db.execute("SELECT value, seq FROM changelog_meta WHERE name='ancestor'"))
