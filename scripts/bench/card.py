"""What a payload costs the Pi's SD card: bytes written and syncs, from one payload a second to as many as eight clients can send."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.bench.figures import Figure, single
from scripts.bench.ground import Ground
from scripts.bench.ingest import CLIENTS, WARM, send
from scripts.large_farm import Farm

CALL = re.compile(r"(pwrite64|write|fdatasync|fsync)\(\d+<([^>]*)>.*?= (\d+)")
CALLS = "pwrite64,write,fdatasync,fsync"
SLOW = 20_000  # µs: a sync of a card in a bad mood
ATTACHED = 10.0  # s
PACED = 30  # clients of a steady rate: a slow disk delays nobody's next payload
LEAST = 10  # payloads


def card(ground: Ground) -> Iterator[Figure]:
    """Counted by strace in the Pi's worker; with a disk as it is, and with one whose syncs take 20 ms."""
    if shutil.which("strace") is None:
        ground.say("card: there is no strace on this machine (apt-get install strace)")
        return
    with ground.farm(ground.sizes.herd) as farm:
        farm.pi.start()
        send(farm, WARM, CLIENTS, first=0)
        first = WARM
        loads = [(f"{rate}/s", rate, 0) for rate in ground.sizes.rates] + [
            (f"{ground.sizes.rates[-1]}/s, slow card", ground.sizes.rates[-1], SLOW)
        ]
        for name, rate, delay in [*loads, (f"{CLIENTS} clients", 0, 0)]:
            count = max(LEAST, int(rate * ground.sizes.seconds)) if rate else ground.sizes.payloads // 4
            with counted(farm, ground.folder / "strace.out", delay) as found:
                waits = send(farm, count, PACED if rate else CLIENTS, first=first, rate=rate)[1:]
            first += count
            wal = sum(size for (call, path), size in found.items() if path.endswith("farm.db-wal") and call == "bytes")
            file = sum(size for (call, path), size in found.items() if path.endswith("farm.db") and call == "bytes")
            syncs = sum(size for (call, _), size in found.items() if call == "syncs")
            curve = {"series": "write-ahead log, kB a payload", "axis": "payloads a second", "at": rate} if rate and not delay else {}
            yield single(f"card.-wal at {name}", "kB a payload", [wal / count / 1000], **curve)
            yield single(f"card.file at {name}", "kB a payload", [file / count / 1000])
            yield single(f"card.syncs at {name}", "a payload", [syncs / count])
            yield single(f"card.answered at {name}", "ms", [each * 1000 for each in waits])


@contextmanager
def counted(farm: Farm, out: Path, delay: int = 0) -> Iterator[Counter[tuple[str, str]]]:
    """What the Pi's worker writes and syncs while the block runs: ("bytes" or "syncs", file)."""
    out.unlink(missing_ok=True)
    words = ["-f", "-y", "-s", "0", "-e", f"trace={CALLS}", "-o", out]
    words += ["-e", f"inject=fdatasync,fsync:delay_enter={delay}"] if delay else []
    process = subprocess.Popen(["strace", *words, "-p", str(max(farm.pi.pids()))], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    until = time.monotonic() + ATTACHED
    while "attached" not in process.stderr.readline():
        assert time.monotonic() < until and process.poll() is None, "strace may not attach to the Pi"
    found: Counter[tuple[str, str]] = Counter()
    try:
        yield found
    finally:
        process.terminate()
        process.communicate(timeout=10)
    for call, path, result in CALL.findall(out.read_text(errors="replace")):
        found["bytes" if "write" in call else "syncs", path] += int(result) if "write" in call else 1
