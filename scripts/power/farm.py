"""A farm at work under record_io.c: a Pi and a server as real processes, shells that write beside them, and a trace of it all."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from farm_processes import Farm, Role, Seed, eventually

from changelog.wire import MEDIA_TYPE, decode_frame
from scripts.power.recorder import Recorder
from scripts.prove_rewind import ODD, Writer

ROOT = Path(__file__).resolve().parents[2]
ANIMALS = 90
PATIENCE = 60.0  # s that the server may take to be where the Pi is, beside whatever else runs
PAYLOADS, TYPED = 3, 3  # a round: payloads that are sent, transactions that are typed
LONG = 90  # of them get notes of 4 kB, in a catch-up that is staged
NORMAL, FULL, OFF = (f"PRAGMA synchronous={level};" for level in ("NORMAL", "FULL", "OFF"))
LEAVES = "PRAGMA wal_autocheckpoint=0;\n.dbconfig no_ckpt_on_close on"  # the checkpoints to others


class RecordedFarm:
    """The farm; `trace` is the file of what it did."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._typist = Writer(self._chance)
        self.farm = Farm(folder / "farm", Seed(folder / "seed"))
        self.pi, self.server = self.farm.roles
        self.pi.settings["PI_TLS"] = self.server.settings["USE_SSL_FOR_PI"] = False  # so that the trace shows what is asked and answered
        self.farm.fill(ANIMALS)
        self.pi.sql(ODD)
        self._sent = self._vacuumed = 0
        self._recorder = Recorder(folder, {role.name: role.data for role in self.farm.roles})
        self.trace, self.mark = self._recorder.trace, self._recorder.mark

    def start(self, *roles: Role) -> None:
        """Start them, recorded."""
        for role in roles:
            role.start(self._recorder.environment)

    def kill(self, role: Role) -> None:
        """kill -9."""
        with self._recorder.locked():
            role.kill9()

    def type(self, role: Role, sql: str, settings: str = "") -> None:
        """A recorded sqlite3 shell. What it cannot do (a constraint) is not done."""
        command = [*self._recorder.environment, "sqlite3", str(role.database)]
        text = "\n".join([".timeout 8000", *settings.split("\n"), sql])
        subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)

    def run(self, role: Role, *words: str) -> None:
        """A recorded command in the role's folder."""
        done = subprocess.run(
            [*self._recorder.environment, sys.executable, "-m", *words],
            cwd=role.folder, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def caught_up(self) -> None:
        """Wait until the server is where the Pi is."""

        def is_there() -> bool:
            theirs, ours = self.farm.sync("/schema"), self.farm.status()
            return (theirs["epoch"], theirs["seq"]) == (ours["epoch"], ours["seq"])

        eventually(is_there, PATIENCE)

    def round(self) -> None:
        """Payloads are sent, shells type, somebody else pulls."""
        for _ in range(PAYLOADS):
            self.send()
        for _ in range(TYPED):
            settings = self._chance.choice([NORMAL, FULL, f"{OFF}\n{LEAVES}"])
            self.type(self.pi, self._typist.transaction("T") + ";", settings)
            if self._chance.random() < 0.5:
                self.pull()
        self.pull()

    def send(self) -> None:
        """One payload, which is answered."""
        self._sent += 1
        tag = f"SENT{self._sent}"
        answer = self.farm.post(f"hxb:BATCH{self._sent % 5}:{tag}:U{tag}")
        assert answer.status_code == 201, answer.text
        self.mark(answered=tag)

    def pull(self) -> None:
        """What a replica asks for: all of the log, as far as it is still there."""
        facts = self.farm.sync("/schema")
        self.mark(served=[facts["epoch"], facts["seq"], facts["check"]])
        asked = {"after": facts["seq"], "epoch": facts["epoch"], "check": facts["check"]}
        answer = self.farm.ask("GET", "/api/sync/changes", self.farm.api_key, params=asked, headers={"Accept": MEDIA_TYPE})
        if answer.ok:
            header, _ = decode_frame([answer.content])
            self.mark(served=[header.epoch, header.upto, header.upto_check])

    def long_catch_up(self) -> None:
        """The server was away, and what it has missed is staged."""
        self.server.stop()
        self.type(self.pi, f"UPDATE cattle SET notes=hex(randomblob(2000)) WHERE id<={LONG};", NORMAL)
        self.type(self.pi, "UPDATE cattle SET notes=NULL;", f"{OFF}\n{LEAVES}")
        self.start(self.server)
        self.caught_up()

    def new_copies(self) -> None:
        """What no log tells: a copy goes into the live file; and then, since the Pi's pages are of another size, in its place."""
        self.type(self.pi, "CREATE TABLE brief(id); DROP TABLE brief; UPDATE cattle SET weight=weight+1 WHERE id<9;")
        self.caught_up()
        self.round()
        self.pi.stop()
        self.type(self.pi, "PRAGMA journal_mode=delete; PRAGMA page_size=1024; VACUUM; PRAGMA journal_mode=wal;")
        self.start(self.pi)
        self.caught_up()
        self.round()

    def stranger(self) -> None:
        """Somebody else's DDL, checkpoint and VACUUM."""
        self._vacuumed += 1
        self.type(self.pi, f"ALTER TABLE pens ADD COLUMN shade{self._vacuumed} TEXT DEFAULT 'none'; PRAGMA wal_checkpoint(TRUNCATE);")
        self.round()
        self.type(self.pi, "VACUUM;", NORMAL)
        self.caught_up()
        self.type(self.pi, "PRAGMA wal_checkpoint(RESTART);", NORMAL)
        self.round()
        self.mark(careless=True)
        self.type(self.pi, f"{self._typist.transaction('C')}; PRAGMA wal_checkpoint(TRUNCATE);", OFF)
        self.round()

    def trim(self) -> None:
        """The log's oldest rows go, as far as all replicas have them."""
        self.caught_up()
        self.run(self.pi, "changelog", "trim", str(self.pi.database), "--keep-days", "0", "--yes")
        self.round()

    def restarts(self) -> None:
        """The Pi ends, well or not; a careless program is the first to open the file; the Pi serves what that has written."""
        self.pi.stop()
        self.mark(careless=True)
        self.type(self.pi, self._typist.transaction("S") + ";", OFF)
        self.start(self.pi)
        self.pull()
        self.round()
        self.kill(self.pi)
        self.type(self.pi, self._typist.transaction("K") + ";", f"{OFF}\n{LEAVES}")
        self.start(self.pi)
        self.pull()
        self.caught_up()
        self.kill(self.server)
        self.round()
        self.start(self.server)
        self.caught_up()

    def work(self, rounds: int) -> None:
        """All of it, with so many rounds of the usual between."""
        self.start(self.pi, self.server)
        try:
            self.caught_up()
            for step in (self.long_catch_up, self.stranger, self.trim, self.new_copies, self.restarts):
                for _ in range(rounds):
                    self.round()
                step()
            for role in (self.server, self.pi):
                role.stop()
        finally:
            self.farm.close()
