"""What the processes have freed goes back to the system: their memory does not grow with the months."""

from __future__ import annotations

import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from farm_processes import Farm
from shipping import ship_to

from changelog.memory import ARENAS

ROOT = Path(__file__).parents[1]
HEAP = 64 * 2**20  # bytes of address space that glibc reserves for each further arena, and the multiple that it lies at
AT_ONCE = 12  # requests

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps it")

WORK = """
import re, sys, threading
from changelog.memory import give_back_what_is_freed

if sys.argv[1] == "settled":
    give_back_what_is_freed()

def own():  # kB of memory of this process
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

def work(kept, together):
    together.wait()
    for size in (1_000_000, 2_000_000, 4_000_000):  # as files that are fetched and merged
        large = b"x" * size
        kept.append(b"x" * 2_000)  # and something that stays lies behind it
        del large

before = own()
kept = []
for _ in range(3):
    together = threading.Barrier(8)
    threads = [threading.Thread(target=work, args=(kept, together)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print(own() - before)
"""


def kept(how: str) -> int:
    """kB that a process has more than before, when its threads have had pieces of some MB."""
    done = subprocess.run([sys.executable, "-c", WORK, how], capture_output=True, text=True, check=True, cwd=ROOT)
    return int(done.stdout)


def test_what_threads_have_freed_goes_back_to_the_system() -> None:
    assert 5 * kept("settled") < kept("as glibc does it") > 16_000


def arenas(pid: int) -> int:
    """How many arenas a process has, its first one among them: the others begin at a multiple of HEAP, and reserve all up to the next one.

    Other memory may begin at such a place by chance; it does not end in what nobody may touch.
    """
    reserved = set()
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        place, rights = line.split()[:2]
        begin, end = (int(each, 16) for each in place.split("-"))
        if rights == "---p" and end % HEAP == 0 and begin // HEAP == end // HEAP - 1:
            reserved.add(end)
    return 1 + len(reserved)


def test_the_processes_of_both_sides_and_the_shipper_are_settled_like_this(running_farm: Farm, tmp_path: Path) -> None:
    farm = running_farm
    farm.fill(500)
    shipper = ship_to(farm, tmp_path / "bucket")
    try:
        shipper.start()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda _: farm.ask("GET", "/api/sync/full-export", farm.api_key).status_code, range(10 * AT_ONCE)))
        assert set(answers) == {200}
        found = {role.name: [arenas(pid) for pid in role.pids()] for role in (farm.pi, farm.server)} | {
            "ship": [arenas(pid) for pid in shipper.pids()]
        }
        assert max(max(each) for each in found.values()) <= ARENAS, found
    finally:
        shipper.stop()
