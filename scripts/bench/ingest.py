"""Payloads: as many as eight clients can send, each durable before it is answered, and as many as the worker works off."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw

from changelog.connection import connect
from changelog.install import uninstall
from pi.writer import WORK, Writer
from scripts.bench.clients import RECEIVE, payload
from scripts.bench.figures import Figure, in_turns, single, took
from scripts.bench.ground import CATTLE, Ground, cpu_of, program
from scripts.large_farm import ROOT, Farm

CLIENTS = 8
PROBE = "/livez"
WARM = 200  # payloads before it counts
BUFFERED = """INSERT INTO lora_payload_buffer(raw_payload, source_type, batch_number, lf_tag, uhf_tag, received_at, created_at, updated_at)
  VALUES(?, 'hxb', ?, ?, ?, '2026-11-01T00:00:00', '2026-11-01T00:00:00', '2026-11-01T00:00:00')"""


def ingest(ground: Ground) -> Iterator[Figure]:
    """POST /api/lora/receive over TLS; beside it the same clients asking for nothing at all."""
    count = ground.sizes.payloads
    with ground.farm(ground.sizes.herd) as farm:
        farm.pi.start()
        send(farm, WARM, CLIENTS, first=0)
        rates, probes, waits, cpu, probe_cpu = [], [], [], [], []
        for number in range(3):
            rate, seconds, used = _load(farm, count // 3, WARM + number * count)
            rates.append(rate)
            waits += [each * 1000 for each in seconds]
            cpu.append(used * 1000)
            rate, _, used = _load(farm, count // 3, 0, PROBE)
            probes.append(rate)
            probe_cpu.append(used * 1000)
        stored = int(farm.pi.sql("SELECT count(*) FROM lora_payload_buffer WHERE status='processed' AND batch_number LIKE 'LOAD%'"))
        assert stored == WARM + 3 * (count // 3), f"{stored} payloads were stored"
    yield in_turns("ingest.8 clients", "payloads/s", rates, f"GET {PROBE} likewise", probes)
    yield single("ingest.until it is answered", "ms", waits)
    yield in_turns("ingest.CPU of the Pi", "ms a payload", cpu, f"GET {PROBE} likewise", probe_cpu)


def worker(ground: Ground) -> Iterator[Figure]:
    """A backlog that stands in `received`; beside it the plain inserts of as many payloads and animals, without a log."""
    ours, theirs = [], []
    for _ in range(3):
        with ground.room("worker") as folder:
            for name in ("farm.db", "plain.db"):
                shutil.copy(ground.herd(ground.sizes.herd).folder / "farm.db", folder / name)
            writer = Writer(folder / "farm.db", processing_interval=3_600)
            writer.start()
            try:
                writer.reconcile()
                time.sleep(0.2)  # its first look finds nothing, and the next one is far away
                _fill(folder / "farm.db", ground.sizes.backlog)
                ours.append(ground.sizes.backlog / took(writer.process, ground.clock))
            finally:
                writer.stop()
            with closing(connect(folder / "plain.db")) as db:
                uninstall(db)
                theirs.append(ground.sizes.backlog / took(lambda db=db: _plain(db, ground.sizes.backlog), ground.clock))  # type: ignore[misc]
    yield in_turns("worker.a backlog", "payloads/s", ours, "plain inserts, no log", theirs)


def send(farm: Farm, count: int, clients: int, *, first: int, path: str = RECEIVE, rate: float = 0) -> list[float]:
    """Seconds of the whole, and of each request."""
    words = (farm.pi.settings["PI_PORT"], farm.pi.data / "pi-cert.pem", count, clients, first, path, rate)
    done = subprocess.run(program("clients", *words), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.split()]


def _load(farm: Farm, count: int, first: int, path: str = RECEIVE) -> tuple[float, list[float], float]:
    """Requests a second, the seconds of each, and the Pi's CPU seconds for one."""
    pids = farm.pi.pids()
    used = cpu_of(pids)
    whole, *each = send(farm, count, CLIENTS, first=first, path=path)
    return count / whole, each, (cpu_of(pids) - used) / count


def _fill(path: Path, count: int) -> None:
    with closing(connect(path)) as db, db:
        db.executemany(BUFFERED, (_row(n) for n in range(count)))


def _row(n: int) -> tuple[str, str, str, str]:
    return payload(n), *payload(n).split(":")[1:]  # type: ignore[return-value]


def _plain(db: apsw.Connection, count: int) -> None:
    for first in range(0, count, WORK):
        with db:
            for n in range(first, min(first + WORK, count)):
                raw, batch, lf, uhf = _row(n)
                db.execute(BUFFERED, (raw, batch, lf, uhf))
                db.execute(CATTLE, (1, f"{batch}-{lf}", None, lf, uhf))
