#!/usr/bin/env python3
"""A radio in bad condition, heard by a real Pi: `scripts/prove_radio.py 20000`.

So many good frames, bare or framed by the radio, in pieces of any length; between them binary noise, halves of frames, lengths that lie,
lines that never end, floods, and a plug that is pulled. Exit code 1 unless each good frame is stored exactly once and nothing else is, and
memory, log and open files of the Pi stay as they are.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
import tty
from collections import Counter
from contextlib import suppress
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.large_farm import Farm, InVain, judge, megabytes, new_farm, wait_for

SEED = 1
NOISY = 0.5  # of the frames follow noise
PULLED = 0.001  # of the frames follow a plug that was pulled; ten times that for a short run
FLOOD = 20_000  # bytes without a pause
GROWTH = 12e6  # bytes of memory by which the Pi may grow, its database's caches included
LOG = 4e6  # bytes of all logs, at most
PATIENCE = 60.0  # s


class Plug:
    """The radio's side of a pseudo-terminal, behind a link."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.put_in()

    def put_in(self) -> None:
        """A new terminal under the old name."""
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        beside = self.link.with_name("beside")
        beside.symlink_to(os.ttyname(self.slave))
        beside.replace(self.link)

    def pull(self) -> None:
        """The terminal is no more."""
        self.link.unlink()
        os.close(self.slave)
        os.close(self.master)

    def say(self, data: bytes) -> None:
        """All of it, however long the reader takes."""
        while data:
            data = data[os.write(self.master, data) :]


class Radio:
    """Says good frames and bad ones by chance."""

    def __init__(self, farm: Farm, plug: Plug, frames: int) -> None:
        self.farm, self.plug, self.frames, self.chance = farm, plug, frames, random.Random(SEED)
        self.done: Counter[str] = Counter()
        self.sent: set[str] = set()
        self._kinds = (self._binary, self._half, self._lie, self._endless, self._nearly, self._flood)

    def run(self) -> None:
        """Until all good frames are said."""
        pulled = PULLED if self.frames > 5_000 else 10 * PULLED
        while len(self.sent) < self.frames:
            if self.chance.random() < NOISY:
                noise = self.chance.choices(self._kinds, (30, 30, 30, 2, 30, 1))[0]
                self.done[noise.__name__.strip("_")] += 1
                self._in_pieces(noise() + b"\r\n")
            if self.chance.random() < pulled:
                self._pull()
            self._in_pieces(self._good())

    def _good(self) -> bytes:
        payload = f"hxb:B{len(self.sent) % 50}:L{len(self.sent)}:U{self.chance.getrandbits(40):x}"
        self.sent.add(payload)
        if self.chance.random() < 0.5:
            return f"{payload}\r\n".encode()
        address, rssi, snr = self.chance.randrange(65_536), -self.chance.randrange(30, 120), self.chance.randrange(12)
        return f"+RCV={address},{len(payload)},{payload},{rssi},{snr}\r\n".encode()

    def _in_pieces(self, data: bytes) -> None:
        while data:
            length = self.chance.choice((1, 3, 20, 1_000, 100_000))
            self.plug.say(data[:length])
            data = data[length:]

    def _pull(self) -> None:
        """In the middle of a frame, too."""
        self.done["plug pulled"] += 1
        wait_for(lambda: self.stored() >= len(self.sent), PATIENCE, "the frames before")  # a real plug takes with it what is on the line
        self.plug.say(b"+RCV=50,240,hxb:B1:L"[: self.chance.randrange(20)])
        before = self._opened()
        self.plug.pull()
        time.sleep(self.chance.uniform(0, 0.6))
        self.plug.put_in()
        wait_for(lambda: self._opened() > before, PATIENCE, "the line to be opened again")

    def stored(self) -> int:
        """How many payloads the Pi has."""
        return int(self.farm.pi.sql("SELECT count(*) FROM lora_payload_buffer"))

    def _opened(self) -> int:
        return self.farm.pi.log.count("serial line open")

    def _binary(self) -> bytes:
        return self.chance.randbytes(self.chance.randint(1, 300)).replace(b"+", b"-")

    def _half(self) -> bytes:
        frame = b"+RCV=50,24,hxb:BATCH001:LF123:UHF456,-99,40"
        return frame[: self.chance.randint(1, len(frame) - 2)]

    def _lie(self) -> bytes:
        return f"+RCV=50,{self.chance.choice((0, 4, 24, 60, 255, 999))},hxb:BATCH001:LF123:UHF456,-99,40".encode()

    def _endless(self) -> bytes:
        return b"\xaa\x55:x" * self.chance.randint(200, 5_000)

    def _nearly(self) -> bytes:
        number = self.chance.getrandbits(30)
        kinds = (f"hxa:B1:L{number}:U", f"x{number}:B:L:U", "hxb::L:U", "hxb:B:L", "+OK", "+READY")
        return self.chance.choice(kinds).encode()

    def _flood(self) -> bytes:
        return b"".join(self.chance.randbytes(self.chance.randint(1, 40)).replace(b"+", b"-") + b"\n" for _ in range(FLOOD // 20))


def memory(farm: Farm) -> int:
    """Bytes that the Pi's worker has in memory."""
    return max(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in farm.pi.pids()) * os.sysconf("SC_PAGE_SIZE")


def open_files(farm: Farm) -> int:
    """How many the Pi's processes have."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in farm.pi.pids())


def prove(farm: Farm, frames: int, folder: Path) -> list[str]:
    """All of it; what was wrong."""
    plug = Plug(folder / "lora")
    farm.pi.settings |= {"LORA_SERIAL_PORT": plug.link}
    farm.pi.start()
    wait_for(lambda: "serial line open" in farm.pi.log, PATIENCE, "the line")
    warm, radio = Radio(farm, plug, frames // 4), Radio(farm, plug, frames)
    warm.run()
    radio.sent |= warm.sent
    wait_for(lambda: warm.stored() >= len(warm.sent), PATIENCE, "the first frames")
    before, files, began = memory(farm), open_files(farm), time.monotonic()
    radio.run()
    seconds = time.monotonic() - began
    with suppress(InVain):
        wait_for(lambda: radio.stored() >= frames, PATIENCE / 6, "the last frame", every=0.5)
    stored = farm.pi.sql("SELECT raw_payload||' '||times_received||' '||status FROM lora_payload_buffer").splitlines()
    grown, logged = memory(farm) - before, sum(path.stat().st_size for path in (farm.pi.data / "log").iterdir())
    told = ", ".join(f"{times:,} {what}" for what, times in sorted((warm.done + radio.done).items()))
    click.echo(f"{frames:,} good frames in {seconds:.0f} s, and between them: {told}")
    more = open_files(farm) - files
    click.echo(f"memory grew by {megabytes(grown)} to {megabytes(before + grown)}; {megabytes(logged)} of log; {more} more files open")
    problems = []
    if sorted(stored) != sorted(f"{payload} 1 processed" for payload in radio.sent):
        found = {line.split(" ")[0] for line in stored}
        missing, others = sorted(radio.sent - found), sorted(found - radio.sent)
        problems.append(f"{len(stored)} stored, {len(missing)} missing {missing[:3]}, {len(others)} others {others[:3]}")
    if grown > GROWTH or logged > LOG or more > 0:
        problems.append("memory, log or open files grew")
    if "Traceback" in farm.pi.log:
        problems.append("there is a traceback in the log")
    plug.pull()
    return problems


@click.command(help=__doc__)
@click.argument("frames", type=click.IntRange(20), default=20_000)
def main(frames: int) -> None:
    """The proof."""
    with tempfile.TemporaryDirectory() as made, new_farm(Path(made) / "farm") as farm:
        judge(prove(farm, frames, Path(made)))


if __name__ == "__main__":
    main()
