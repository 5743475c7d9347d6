#!/usr/bin/env python3
"""A LoRa radio without a radio: a pseudo-terminal that speaks as one does, for LORA_SERIAL_PORT.

It writes bare lines and `+RCV=<addr>,<len>,<data>,<rssi>,<snr>` frames for the animals of a few batches, split and glued as a serial line
does,
repeats itself as radios do, and with --noise disturbs. Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import array
import fcntl
import os
import random
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator

BATCHES = 4
ANIMALS = 500  # tags in circulation
REPEATED, REPAIRED, EXPORTED = 0.15, 0.03, 0.05  # parts of all payloads
NOISY = 0.1  # part of all writes that noise precedes, with --noise
SPLIT_PAUSE = 0.02  # s between the pieces of a frame
DRAIN = 5.0  # s that the end waits for the last frames to be read


class Herd:
    """The animals that pass the antenna."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.uhf_of = {number: number for number in range(1, ANIMALS + 1)}
        self.last = ""

    def payload(self) -> str:
        """What the next animal's tags say."""
        chance = self.rng.random()
        if self.last and chance < REPEATED:
            return self.last
        number = self.rng.randint(1, ANIMALS)
        if chance > 1 - REPAIRED:
            self.uhf_of[number] = max(self.uhf_of.values()) + 1  # it lost a tag and got a new one
        export = REPEATED <= chance < REPEATED + EXPORTED
        batch = f"EXP{1 + number % 2:03d}" if export else f"BATCH{1 + number % BATCHES:03d}"
        self.last = f"{'hxe' if export else 'hxb'}:{batch}:LF{number:06d}:UHF{self.uhf_of[number]:08d}"
        return self.last


def frame(payload: str, rng: random.Random) -> bytes:
    """The payload as it comes out of a radio: framed, or as a bare line."""
    if rng.random() < 0.5:
        return f"{payload}\r\n".encode()
    return f"+RCV={rng.randint(1, 20)},{len(payload)},{payload},{rng.randint(-119, -41)},{rng.randint(-9, 12)}\r\n".encode()


def noise(rng: random.Random) -> bytes:
    """What a disturbed line brings: bytes of any kind, half a frame, or a frame whose length is wrong."""
    kind = rng.randrange(3)
    if kind == 0:
        return rng.randbytes(rng.randint(1, 40))
    return (b"+RCV=7,40,hxb:BATCH0", b"+RCV=7,4,hxb:BATCH001:LF1:UHF1,-70,9\r\n")[kind - 1]


def pieces(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """`data` whole, or cut at one or two places."""
    cuts = sorted(rng.randint(0, len(data)) for _ in range(rng.choice((0, 0, 1, 2))))
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        yield data[start:end]


class Line:
    """The pseudo-terminal, and a link by which readers find it."""

    def __init__(self, link: str) -> None:
        self.master, self.slave = os.openpty()  # the slave stays open, so that a reader may come and go
        tty.setraw(self.slave)
        os.set_blocking(self.master, False)
        self.name, self.link = os.ttyname(self.slave), link
        os.makedirs(os.path.dirname(os.path.abspath(link)), exist_ok=True)
        temporary = f"{link}.{os.getpid()}"
        os.symlink(self.name, temporary)
        os.replace(temporary, link)

    def write(self, data: bytes) -> None:
        """Send bytes; like a radio, it waits for nobody: what a full line cannot take is lost."""
        try:
            os.write(self.master, data)
        except BlockingIOError:
            print(f"line full, {len(data)} bytes lost", file=sys.stderr)

    def drain(self) -> None:
        """Wait until all has been read."""
        deadline = time.monotonic() + DRAIN
        unread = array.array("i", [1])
        while unread[0] and time.monotonic() < deadline:
            fcntl.ioctl(self.slave, termios.FIONREAD, unread)
            time.sleep(0.02)

    def close(self) -> None:
        """Remove the link, if it is still ours, and the terminal."""
        if os.path.islink(self.link) and os.readlink(self.link) == self.name:
            os.unlink(self.link)
        os.close(self.slave)
        os.close(self.master)


def transmit(line: Line, rng: random.Random, *, rate: float, count: int | None, noisy: bool) -> None:
    """Send `count` payloads (None: without end), `rate` a second on average."""
    herd, sent = Herd(rng), 0
    while count is None or sent < count:
        glued = min(rng.choice((1, 1, 1, 2)), (count or sent + 2) - sent)
        data = b"".join(frame(herd.payload(), rng) for _ in range(glued))
        if noisy and rng.random() < NOISY:
            line.write(noise(rng) + b"\r\n")
        for piece in pieces(data, rng):
            line.write(piece)
            time.sleep(min(SPLIT_PAUSE, 0.1 / rate))
        sent += glued
        time.sleep(glued * rng.uniform(0.5, 1.5) / rate)


def main() -> None:
    """Run until all is sent or a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--link", default="data/lora", help="where readers find the line (default: data/lora)")
    parser.add_argument("--rate", type=float, default=0.5, help="payloads a second (default: 0.5)")
    parser.add_argument("--count", type=int, help="payloads to send (default: without end)")
    parser.add_argument("--seed", type=int, help="makes a run repeatable")
    parser.add_argument("--noise", action="store_true", help="disturb the line now and then")
    options = parser.parse_args()
    if options.rate <= 0:
        parser.error("--rate must be over 0")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    line = Line(options.link)
    try:
        print(f"a simulated radio speaks on {options.link} ({line.name})", flush=True)
        transmit(line, random.Random(options.seed), rate=options.rate, count=options.count, noisy=options.noise)
        line.drain()
    finally:
        line.close()


if __name__ == "__main__":
    main()
