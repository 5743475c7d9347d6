"""What the radio sends: payloads as text, and the frames in which they come out of a serial line. Pure: no clock, no file, no device."""

from __future__ import annotations

import re
from dataclasses import dataclass

from changelog.errors import BadRequest, TooLarge

MAX_PAYLOAD = 255  # bytes
MAX_LINE = 512  # bytes without an end of line, after which it is noise

_PART = rb"([!-9;-~](?:[ -9;-~]*[!-9;-~])?)"  # printable ASCII but the colon, no spaces at its ends
_PAYLOAD = re.compile(rb"[ \t\r\n]*(hxb|hxe):" + b":".join([_PART] * 3) + rb"[ \t\r\n]*")  # barn (induction) or export
_FRAME_START = b"+RCV="
_HEADER = re.compile(rb"\+RCV=(\d{1,5}),(\d{1,3}),")
_HEADER_MAX = len(b"+RCV=65535,255,")
_TAIL = re.compile(rb",(-?\d{1,4}(?:\.\d{1,2})?),(-?\d{1,4}(?:\.\d{1,2})?)\r?\n")
_NEXT = re.compile(rb"\n(?:\+RCV=|hx[be]:)")  # where another frame or payload begins: no payload has it inside
_TAIL_MAX = len(b",-9999.99,-9999.99\r\n")
_CHATTER = (b"+OK", b"+READY")  # what a radio says about itself


@dataclass(frozen=True, slots=True)
class Reading:
    """A payload, parsed: a pair of tags read for a batch. `str` gives the payload back."""

    source_type: str
    batch_number: str
    lf_tag: str
    uhf_tag: str

    def __str__(self) -> str:
        return f"{self.source_type}:{self.batch_number}:{self.lf_tag}:{self.uhf_tag}"


def parse_payload(payload: str | bytes) -> Reading:
    """The reading in `<hxb|hxe>:<batch>:<lf>:<uhf>`, white space around it ignored. Raises TooLarge over 255 bytes and BadRequest."""
    raw = payload.encode("utf-8", "surrogatepass") if isinstance(payload, str) else payload
    if len(raw) > MAX_PAYLOAD:
        raise TooLarge(f"the payload has {len(raw)} bytes; at most {MAX_PAYLOAD} are taken")
    match = _PAYLOAD.fullmatch(raw)
    if match is None:
        raise BadRequest(_fault(raw.strip()))
    return Reading(*(part.decode("ascii") for part in match.groups()))


def _fault(raw: bytes) -> str:
    """What is wrong with a payload that is none, for people."""
    if not all(0x20 <= byte <= 0x7E for byte in raw):
        return "the payload has characters other than printable ASCII"
    parts = raw.decode("ascii").split(":")
    if len(parts) != 4:
        return f"the payload has {len(parts)} parts; expected 4: <hxb|hxe>:<batch>:<lf tag>:<uhf tag>"
    if parts[0] not in ("hxb", "hxe"):
        return f"the payload starts with {parts[0][:20]!r}; expected hxb (barn) or hxe (export)"
    return "a part of the payload is empty, or has spaces at its ends"


@dataclass(frozen=True, slots=True)
class Frame:
    """What one line or one +RCV= frame carried; rssi (dBm) and snr (dB) only where the radio said them."""

    payload: bytes
    rssi: float | None = None
    snr: float | None = None


@dataclass(frozen=True, slots=True)
class BadFrame:
    """Bytes that are no frame, and why."""

    data: bytes
    reason: str


class FrameSplitter:
    """Turns the bytes of a serial line, however split or glued, into frames: bare lines, or `+RCV=<addr>,<len>,<data>,<rssi>,<snr>`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lost = False  # inside noise that was already reported: nothing counts until the next line or frame begins

    def feed(self, data: bytes) -> list[Frame | BadFrame]:
        """The frames that `data` completes. What is incomplete is kept for the next call."""
        self._buffer += data
        return self._frames()

    def silence(self) -> list[Frame | BadFrame]:
        """What the buffer still holds, when the line has been silent: a radio writes a frame in one go, so the first one is broken."""
        found: list[Frame | BadFrame] = []
        while self._buffer:
            found += self._resync("broken off", over=True)
            found += self._frames()
        return found

    def _frames(self) -> list[Frame | BadFrame]:
        found: list[Frame | BadFrame] = []
        while (step := self._step()) is not None:
            found += step
        return found

    def _step(self) -> list[Frame | BadFrame] | None:
        """Take one line, frame or piece of noise off the buffer; None when more bytes are needed."""
        if self._lost:
            return self._skip_noise()
        while self._buffer[:1] in (b"\r", b"\n"):
            del self._buffer[:1]
        if self._buffer.startswith(_FRAME_START):
            return self._radio_frame()
        return self._bare_line()

    def _skip_noise(self) -> list[Frame | BadFrame] | None:
        start, newline = self._buffer.find(_FRAME_START), self._buffer.find(b"\n")
        if start < 0 and newline < 0:
            del self._buffer[: -len(_FRAME_START)]
            return None
        self._lost = False
        del self._buffer[: newline + 1 if start < 0 or 0 <= newline < start else start]
        return []

    def _bare_line(self) -> list[Frame | BadFrame] | None:
        start, newline = self._buffer.find(_FRAME_START), self._buffer.find(b"\n")
        if start > 0 and (newline < 0 or start < newline):
            return [BadFrame(self._take(start), "noise before a frame")]
        if newline < 0:
            return self._resync("no end of line") if len(self._buffer) > MAX_LINE else None
        line = self._take(newline + 1).rstrip(b"\r\n")
        if len(line) > MAX_LINE:
            return [BadFrame(line[:MAX_LINE], "line too long")]
        return [] if line in _CHATTER or not line else [Frame(line)]

    def _radio_frame(self) -> list[Frame | BadFrame] | None:
        header = _HEADER.match(self._buffer)
        if header is None:
            whole = len(self._buffer) >= _HEADER_MAX or b"\n" in self._buffer
            return self._resync("bad frame header") if whole else None
        data_end = header.end() + int(header[2])
        if int(header[2]) > MAX_PAYLOAD:
            return self._resync("bad frame header")
        tail = _TAIL.match(self._buffer, data_end)
        if tail is None:
            rest = bytes(self._buffer[data_end : data_end + _TAIL_MAX])
            return self._resync("length does not fit") if b"\n" in rest or len(rest) == _TAIL_MAX else None
        if _NEXT.search(self._buffer, header.end(), data_end):  # by chance the tail of a later frame stands where a wrong length leads
            return self._resync("length does not fit")
        frame = Frame(bytes(self._buffer[header.end() : data_end]), float(tail[1]), float(tail[2]))
        del self._buffer[: tail.end()]
        return [frame]

    def _resync(self, reason: str, *, over: bool = False) -> list[Frame | BadFrame]:
        """Give up what the buffer starts with, up to where the next line or frame may begin; `over`: nothing of one is still to come."""
        start, newline = self._buffer.find(_FRAME_START, 1), self._buffer.find(b"\n")
        ends = [end for end in (start, newline + 1) if end > 0]
        self._lost = not ends
        begun = 0 if over else next((n for n in range(len(_FRAME_START) - 1, 0, -1) if self._buffer.endswith(_FRAME_START[:n])), 0)
        return [BadFrame(self._take(min(ends, default=len(self._buffer) - begun))[:MAX_LINE], reason)]

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken
