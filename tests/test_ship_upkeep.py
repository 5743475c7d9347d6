"""The upkeep of a store: what it leaves in memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


FREED = """
import re, threading
from changelog.ltx.upkeep import give_memory_back

def own():  # kB of memory of this process
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

def work(kept, together):
    pieces = [bytes(1000) for _ in range(5000)]
    together.wait()
    kept += pieces[::100]  # here and there something stays

kept, together = [], threading.Barrier(8)
threads = [threading.Thread(target=work, args=(kept, together)) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
before = own()
give_memory_back()
print(before - own())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps it")
def test_what_a_merge_has_freed_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) > 20_000, "of 40,000"
