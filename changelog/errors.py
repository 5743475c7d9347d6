"""Every error that Drover raises on purpose: one short family. Loops and views catch them, nothing else does.

The docstring is the message when none is given. `status` is the HTTP status with which the error crosses the wire, and `action` what
the other side should do about it; both ends read this one table.
"""


class DroverError(Exception):
    """Something went wrong in Drover."""

    status = 500
    action: str | None = None

    def __init__(self, message: str | None = None, **facts: object) -> None:
        """`facts` are named values (epoch, seq, table...) that a log line, a page or a problem document can show."""
        self.message = message or type(self).__doc__ or type(self).__name__
        self.facts = facts
        super().__init__(self.message)


class BadRequest(DroverError):
    """The request is malformed."""

    status = 400


class Unauthorized(DroverError):
    """A valid key is needed."""

    status = 401


class Forbidden(DroverError):
    """This key has another role."""

    status = 403


class NotFound(DroverError):
    """There is no such thing here."""

    status = 404


class Conflict(DroverError):
    """The request contradicts what is stored."""

    status = 409


class TooLarge(DroverError):
    """The request is larger than this side takes."""

    status = 413


class TooMany(DroverError):
    """Too many requests: wait a little."""

    status = 429
    action = "retry"


class Unavailable(DroverError):
    """This side cannot answer just now."""

    status = 503
    action = "retry"


class DiskFull(Unavailable):
    """The disk is full."""


class ConfigError(DroverError):
    """A setting is wrong."""


class NotAPrimary(DroverError):
    """This database has no changelog: run `python -m changelog install FILE` first."""

    status = 503


class CannotCapture(DroverError):
    """This database cannot be captured as it is."""


class CannotRebuild(DroverError):
    """The log does not tell what is asked for."""


class PositionMismatch(DroverError):
    """The position is not on this primary's history: another epoch, past the head, or another write at that seq."""

    status = 409
    action = "resync"


class HistoryTrimmed(DroverError):
    """The changes after this position have been trimmed: start again from a snapshot."""

    status = 410
    action = "resync"


class ProtocolMismatch(DroverError):
    """The two sides speak different versions of the protocol: update the older one."""

    status = 426
    action = "upgrade"


class BrokenFrame(DroverError):
    """What arrived is not a whole and well-formed frame."""


class Divergence(DroverError):
    """Replay met a surprise: the replica is not a prefix of the primary's history."""


class Stranger(DroverError):
    """This primary's history does not descend from ours: refused until `python -m server accept` says that it is the right one."""


class DamagedFile(DroverError):
    """A database file is damaged, missing or not a database."""

    status = 503
    action = "retry"


class DamagedObject(DroverError):
    """An object of a bucket is damaged, or is not what its name says."""


class Fenced(DroverError):
    """Somebody else ships to the same place: nothing is shipped from here until it is known who should."""


class Unreachable(DroverError):
    """The primary cannot be reached."""
