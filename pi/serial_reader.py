"""The serial line of the radio, read by a thread of its own that never waits for the disk.

Payloads go into the writer's bounded queue; when that is full they are counted and logged as overflow. Bad frames are counted by reason
and kept in the log (reason and bytes in hex), at a bounded rate.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import serial

from changelog.errors import BadRequest, TooLarge, TooMany, Unavailable
from changelog.node.access import RateLimit
from pi import herd
from pi.lora import BadFrame, Frame, FrameSplitter, parse_payload
from pi.writer import Writer

SILENCE = 0.5  # s without a byte after which half a frame is broken
READ = 4_096  # bytes at most in one read
REOPEN_FIRST, REOPEN_MOST = 0.5, 15.0  # s between attempts to open a line that is away; doubled each time
BAD_LOGGED, BAD_BURST = 0.2, 50  # bad frames logged a second, and at once: noise shall not fill the disk
LOST_BURST = 5  # payloads that were lost or refused, likewise

logger = logging.getLogger(__name__)


@dataclass
class Statistics:
    """What the line has brought since the start."""

    frames: int = 0  # good ones
    bad: Counter[str] = field(default_factory=Counter)  # by reason
    overflow: int = 0  # good ones lost because the writer's queue was full
    failed: int = 0  # good ones that the database refused
    last_frame_at: str | None = None  # UTC
    connected: bool = False


class SerialReader:
    """The service that reads `port` at `baud` and gives what it hears to the writer."""

    def __init__(self, port: str, baud: int, writer: Writer) -> None:
        self.port, self.baud, self.writer = port, baud, writer
        self.statistics = Statistics()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serial", daemon=True)
        self._bad_logged = RateLimit(BAD_LOGGED, BAD_BURST)
        self._lost_logged = RateLimit(BAD_LOGGED, LOST_BURST)
        self._overflowing = False

    def start(self) -> None:
        """Begin to read; a line that is not there yet is waited for. A database without the farm has no use for it."""
        if self.writer.has_farm:
            self._thread.start()
        else:
            logger.error("serial line not read port=%s cause=%s has no farm tables", self.port, self.writer.path)

    def stop(self) -> None:
        """End within a moment; what was heard is with the writer."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        wait, reported = REOPEN_FIRST, False
        while not self._stop.is_set():
            try:
                with serial.Serial(self.port, self.baud, timeout=SILENCE, exclusive=True) as line:
                    logger.info("serial line open port=%s baud=%d", self.port, self.baud)
                    wait, reported, self.statistics.connected = REOPEN_FIRST, False, True
                    self._listen(line)
            except OSError as exc:  # SerialException is one: not there, in use by another program, unplugged
                if not reported:
                    logger.warning("serial line away, waiting for it port=%s cause=%s", self.port, exc)
                    reported = True
            except Exception:
                logger.exception("the serial reader failed, and opens the line again port=%s", self.port)
            self.statistics.connected = False
            self._stop.wait(wait)
            wait = min(2 * wait, REOPEN_MOST)

    def _listen(self, line: serial.Serial) -> None:
        """Read until the line is unplugged (OSError) or stop() is called."""
        splitter = FrameSplitter()
        try:
            while not self._stop.is_set():
                data = line.read(min(max(1, line.in_waiting), READ))
                for frame in splitter.feed(data) if data else splitter.silence():
                    self._take(frame)
        finally:
            for frame in splitter.silence():  # the half of a frame, where the line was unplugged in its middle
                self._take(frame)

    def _take(self, frame: Frame | BadFrame) -> None:
        if isinstance(frame, BadFrame):
            self._keep_bad(frame.data, frame.reason)
            return
        try:
            reading = parse_payload(frame.payload)
        except (BadRequest, TooLarge) as exc:
            self._keep_bad(frame.payload, "no payload", exc.message)
            return
        self.statistics.frames += 1
        self.statistics.last_frame_at = herd.utc_now()
        job = partial(herd.receive, reading=reading, now=self.statistics.last_frame_at, rssi=frame.rssi, snr=frame.snr)
        try:
            self.writer.submit(job, f"lora:{self.port}").add_done_callback(self._stored)
        except Unavailable as exc:
            self._lose(str(reading), exc)
        else:
            self._overflowing = False

    def _keep_bad(self, data: bytes, reason: str, more: str = "") -> None:
        """`reason` is one of few, `more` what is said besides, which noise chooses."""
        self.statistics.bad[reason] += 1
        if self._may_log(self._bad_logged):
            logger.warning("bad frame port=%s reason=%s bytes=%s", self.port, more or reason, data.hex())

    def _may_log(self, limit: RateLimit) -> bool:
        try:
            limit.check(self.port)
        except TooMany:
            return False
        return True

    def _lose(self, payload: str, cause: Unavailable) -> None:
        """Count a payload that found no place, and say so once until there is place again; not often, where that comes and goes."""
        self.statistics.overflow += 1
        if not self._overflowing and self._may_log(self._lost_logged):
            logger.error("payload lost port=%s payload=%s lost=%d cause=%s", self.port, payload, self.statistics.overflow, cause)
        self._overflowing = True

    def _stored(self, future: Future[Any]) -> None:
        if future.cancelled() or future.exception() is None:
            return
        self.statistics.failed += 1
        if self._may_log(self._lost_logged):
            logger.error("payload not stored port=%s failed=%d", self.port, self.statistics.failed, exc_info=future.exception())
