#!/usr/bin/env python3
"""Everything at once for a long time, with real processes: `scripts/soak.sh [MINUTES]`.

A Pi with a noisy radio, a server behind a line that is cut, and a shipper to an S3 server; programs that write over the API, somebody who
types into the shell and changes the schema now and then, people who read pages, listeners on the sockets, restarts of the server,
comparisons. Memory of their own, open files, threads, the -wal of each database and the logs are looked at every few seconds.

Exit code 1 unless each of them stays as it is (a line is fitted through all but the first part), no page was wrong, every comparison found
both sides identical, and so does the end: the two databases, and what the bucket restores to, byte for byte.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
import requests

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from listener import Listener  # noqa: E402  # of tests
from ltx_parts import KEYS, keys, moto_server  # noqa: E402  # of tests
from ship_parts import bytes_of  # noqa: E402  # of tests
from shipping import Shipper, s3_settings, ship_to  # noqa: E402  # of tests

from changelog.ltx.restore import restore  # noqa: E402
from scripts.large_farm import Behaviour, CuttingProxy, Farm, add_animals, contents, judge, new_farm, page_problems, readers  # noqa: E402

SEED = 1
ANIMALS = 2_000
SAMPLE_EVERY = 2.0  # s
WARM_UP, WARM = 0.35, 120.0  # of the time that is not judged; s until everything has been met, if there is as much time
YOUNG = 8.0  # s after a start in which a process is not looked at
RESTARTS = 5  # of the server, at most one a minute
SETTLED = 90.0  # s for both sides to be equal in the end
WRITES, TYPED, CUTS, DDL, VERIFIES = 0.15, 0.2, 4.0, 15.0, 20.0  # s between two of these, on average
FLAT = {"memory": (10e6, 0.15), "files": (12, 0.1), "threads": (10, 0.1), "wal": (12e6, 0.1), "log": (20e6, 1.0)}
"""By how much a figure may have grown from the begin to the end of the fitted line: so much, or such a part of its mean."""
LONGEST_WAL = 64e6  # bytes
LOG_A_MINUTE = 400e3  # bytes


@dataclass
class Figure:
    """Samples of one thing, each with its time (s)."""

    kind: str
    samples: list[tuple[float, float]] = field(default_factory=list)

    def line(self, since: float) -> tuple[float, float, float]:
        """Slope (a second), mean, and growth over the span, of what came after `since`."""
        chosen = [(at, value) for at, value in self.samples if at >= since]
        if len(chosen) < 3:
            return 0.0, sum(value for _, value in chosen) / max(1, len(chosen)), 0.0
        middle = sum(at for at, _ in chosen) / len(chosen)
        mean = sum(value for _, value in chosen) / len(chosen)
        spread = sum((at - middle) ** 2 for at, _ in chosen)
        slope = sum((at - middle) * (value - mean) for at, value in chosen) / spread if spread else 0.0
        return slope, mean, slope * (chosen[-1][0] - chosen[0][0])


class Soak:
    """The farm, those who work on it, and what is wrong."""

    def __init__(self, farm: Farm, shipper: Shipper, proxy: CuttingProxy, seconds: float) -> None:
        self.farm, self.shipper, self.proxy, self.seconds = farm, shipper, proxy, seconds
        self.chance, self.done, self.problems = random.Random(SEED), Counter[str](), list[str]()
        self.figures: dict[str, Figure] = {}
        self.stopped, self.began = threading.Event(), time.monotonic()
        self._restarted = self.began
        self._restarting = threading.Lock()
        made = farm.pi.command("key", "add", "scale", "--role", "writer")
        self._key = made.stdout.strip()

    def run(self) -> None:
        """Until the time is over."""
        self.began = self._restarted = time.monotonic()
        work = (
            (self.write, WRITES), (self.type, TYPED), (self.cut, CUTS), (self.change_schema, DDL), (self.verify, VERIFIES),
            (self.listen, 0.5), (self.restart, max(15.0, self.seconds / RESTARTS)), (self.sample, SAMPLE_EVERY),
        )  # fmt: skip
        threads = [threading.Thread(target=self._repeat, args=each, daemon=True) for each in work]
        with readers(self.farm) as watches:
            for thread in threads:
                thread.start()
            time.sleep(self.seconds)
            self.stopped.set()
            for thread in threads:
                thread.join(60)
        self.problems += [problem for problem in page_problems(watches) if not problem.endswith("connections refused")]
        self.done["pages read"] = sum(watch.good for watch in watches)

    def _repeat(self, work: Callable[[], None], every: float) -> None:
        while not self.stopped.wait(every * self.chance.uniform(0.5, 1.5)):
            try:
                work()
                self.done[work.__name__] += 1
            except Exception as exc:  # whatever it was: the others go on, and it is told
                self.problems.append(f"{work.__name__}: {type(exc).__name__}: {str(exc)[:300]}")

    def write(self) -> None:
        """A weight, a pen or a payload over the API."""
        number = self.chance.randrange(10**9)
        path, body = self.chance.choice(
            (
                (f"/api/cattle/{self.chance.randint(1, ANIMALS)}/weights", {"weight": self.chance.randint(200, 700)}),
                ("/api/pens", {"pen_number": f"S{number}", "capacity": 9}),
                ("/api/lora/receive", {"payload": f"hxb:SOAK{number % 20}:L{number % 500}:U{number % 500}"}),
            )
        )
        answer = self.farm.ask("POST", path, self._key if "lora" not in path else None, json=body)
        if answer.status_code not in (201, 409, 429):
            self.problems.append(f"{path} was answered {answer.status_code}: {answer.text[:200]}")

    def type(self) -> None:
        """What somebody types into the shell."""
        self.farm.pi.sql(
            self.chance.choice(
                (
                    f"UPDATE cattle SET weight=weight+1 WHERE id%{self.chance.randint(50, 500)}=0",
                    "DELETE FROM pens WHERE id=(SELECT min(id) FROM pens WHERE pen_number LIKE 'S%')",
                    f"INSERT INTO pens(pen_number, capacity, description) VALUES('S'||hex(randomblob(6)), 5, '{'x' * 200}')",
                    "DELETE FROM weight_records WHERE id IN (SELECT id FROM weight_records LIMIT 3)",
                )
            )
        )

    def cut(self) -> None:
        """The line breaks, or breaks after some bytes."""
        self.proxy.behaviour = self.chance.choice(
            (Behaviour(), Behaviour(cut_after=self.chance.randint(500, 50_000)), Behaviour(delay=0.02))
        )
        self.proxy.cut_all()
        self.stopped.wait(self.chance.uniform(0.1, 1.0))
        self.proxy.behaviour = Behaviour()

    def change_schema(self) -> None:
        """A table comes, grows and goes."""
        name = f"soak{self.done['change_schema'] % 3}"
        self.farm.pi.sql(f"CREATE TABLE {name}(id INTEGER PRIMARY KEY, x); INSERT INTO {name}(x) VALUES(1),(2)")
        self.farm.pi.sql(f"ALTER TABLE {name} ADD COLUMN y DEFAULT 7; UPDATE {name} SET y=8 WHERE x=1")
        self.farm.pi.sql(f"DROP TABLE {name}")

    def verify(self) -> None:
        """Both sides are compared; while the line is cut, or the server restarts, that comes to no end."""
        with self._restarting, suppress(requests.ConnectionError):
            answer = requests.post(f"{self.farm.server.url}/office/api/verify", timeout=120)
            if answer.ok and not answer.json()["data"]["identical"]:
                self.problems.append(f"a comparison found {answer.text[:300]}")
            self.done["comparisons that came to an end"] += answer.ok

    def listen(self) -> None:
        """Come, hear something, and go."""
        with suppress(OSError):
            listener = Listener(self.farm.pi.url, self.farm.pi.data / "pi-cert.pem", self.farm.api_key)
            with suppress(Exception):
                listener.next_named("changelog", 5)
            listener.close()

    def restart(self) -> None:
        """The server."""
        with self._restarting:
            self.farm.server.restart()
            self._restarted = time.monotonic()

    def sample(self) -> None:
        """Look at everything once."""
        now = time.monotonic()
        for name, role in (("pi", self.farm.pi), ("server", self.farm.server), ("ship", self.shipper)):
            if name == "server" and (self._restarting.locked() or now - self._restarted < YOUNG):
                continue
            with suppress(OSError, AssertionError):
                pids = role.pids()
                self._note("memory", f"{name}: memory", sum(map(_pss, pids)))
                self._note("files", f"{name}: files", sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids))
                self._note("threads", f"{name}: threads", sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids))
        for role, files in ((self.farm.pi, ("farm.db", "pi.db")), (self.farm.server, ("replica.db", "server.db"))):
            for file in files:
                with suppress(OSError):
                    self._note("wal", f"{role.name}: {file}-wal", (role.data / f"{file}-wal").stat().st_size)
            with suppress(OSError):
                self._note("log", f"{role.name}: log", sum(path.stat().st_size for path in (role.data / "log").iterdir()))

    def _note(self, kind: str, name: str, value: float) -> None:
        self.figures.setdefault(name, Figure(kind)).samples.append((time.monotonic() - self.began, value))

    def end(self, folder: Path) -> None:
        """Everything comes to rest, and is the same everywhere."""
        self.proxy.behaviour = Behaviour()
        self.farm.assert_identical(SETTLED)
        if contents(self.farm.pi.database) != contents(self.farm.server.database):
            self.problems.append("the two sides differ")
        for role in (*self.farm.roles, self.shipper):
            if "Traceback" in role.log:
                self.problems.append(f"there is a traceback in the log of {role.name}: {role.log[role.log.index('Traceback') :][:1500]}")
        self.shipper.caught_up()
        self.farm.pi.stop()
        self.shipper.stop()
        restore(self.shipper.store, folder / "restored.db")
        if (folder / "restored.db").read_bytes() != bytes_of(self.farm.pi.database):
            self.problems.append("the bucket restores to other bytes than the Pi's file has")

    def report(self) -> None:
        """Each figure with its slope; what has grown is a problem."""
        judged = max(self.seconds * WARM_UP, min(WARM, self.seconds * 2 / 3))
        for name, figure in sorted(self.figures.items()):
            slope, mean, growth = figure.line(judged)
            most = max((value for _, value in figure.samples), default=0.0)
            click.echo(f"{name:24} mean {mean:14,.0f}  most {most:14,.0f}  grew by {growth:+13,.0f}  ({slope * 3600:+14,.0f} an hour)")
            least, part = FLAT[figure.kind]
            if figure.kind != "log" and growth > max(least, part * mean):
                self.problems.append(f"{name} grew by {growth:,.0f}")
            if figure.kind == "wal" and most > LONGEST_WAL:
                self.problems.append(f"{name} had {most:,.0f} bytes")
            if figure.kind == "log" and slope * 60 > LOG_A_MINUTE:
                self.problems.append(f"{name} grows by {slope * 60:,.0f} bytes a minute")
        click.echo(
            ", ".join(f"{times:,} {what}" for what, times in sorted(self.done.items())) + f", {self.proxy.connections:,} connections"
        )


def _pss(pid: int) -> int:
    """Bytes of memory of its own: what it shares with programs beside it comes and goes with those."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss_Anon:"))


@click.command(help=__doc__)
@click.argument("minutes", type=click.FloatRange(0.3), default=60.0)
def main(minutes: float) -> None:
    """The soak."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(keys(KEYS))
        bucket = stack.enter_context(moto_server(folder / "moto.log"))
        farm = stack.enter_context(new_farm(folder / "farm"))
        shipper = ship_to(farm, "", **s3_settings(bucket), FOLLOW="pi")
        stack.callback(shipper.kill9)
        proxy = stack.enter_context(CuttingProxy(int(str(farm.pi.settings["PI_PORT"]))))
        farm.pi.settings |= {"LORA_SERIAL_PORT": folder / "lora"}
        farm.server.settings |= {"REMOTE_PI_PORT": proxy.port, "DB_SYNC_INTERVAL": 1}
        add_animals(farm.pi.database, 0, ANIMALS, logged=False)
        radio = [sys.executable, str(ROOT / "scripts/simulate_lora.py"), "--link", str(folder / "lora"), "--rate", "5", "--noise"]
        farm.start()  # before anybody disturbs it
        process = subprocess.Popen(radio, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        shipper.launch()
        soak = Soak(farm, shipper, proxy, minutes * 60)
        soak.run()
        process.terminate()
        soak.end(folder)
        soak.report()
    judge(soak.problems)


if __name__ == "__main__":
    main()
