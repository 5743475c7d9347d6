"""A twentieth of the proof that lets each piece of work meet faults at its steps; the whole is the same script without --share."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.faults.inject import made_library

ROOT = Path(__file__).parents[1]
LEAST = 20  # faults of each kind
CALLS = (
    "write", "writev", "pwrite64", "pwritev", "sendfile", "copy_file_range", "fallocate", "fsync", "fdatasync", "ftruncate", "truncate",
    "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "openat", "open", "creat",
)  # fmt: skip

needs_a_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="the steps are counted by a library that needs a C compiler")

# A primary is made, written to, pulled from, shipped, and restored.
WORK = """
import ctypes, shutil, sys
from pathlib import Path
from changelog.connection import connect
from changelog.ltx.mirror import Mirror
from changelog.ltx.restore import restore
from changelog.ltx.ship import Shipper
from changelog.ltx.store.folder import FolderStore
from changelog.primary import Primary
from changelog.pull import pull_file
from pi.farm import open_farm
folder, library = Path(sys.argv[1]), ctypes.CDLL(None)
path, store = folder / "farm.db", FolderStore(folder / "bucket")
library.fault_begin(ctypes.c_long(0), 0, 0)
open_farm(path)
db = connect(path, checkpoints=True)
db.execute("INSERT INTO pens(pen_number, capacity) VALUES('A', 1)")
source = Primary(path)
pull_file(source, folder / "replica.db")
shipper = Shipper(path, store, 2**30)
for number in range(3):
    db.execute("INSERT INTO pens(pen_number, capacity) VALUES(?, 1)", (f"B{number}",))
    shipper.turn()
    while shipper.uploader.turn(0):
        pass
shipper.close()
pull_file(source, folder / "replica.db")
source.close()
restore(store, folder / "restored.db", check=True)
mirror = Mirror(store, folder / "mirror.db")
mirror.advance()
mirror.copy_to(folder / "copy.db")
db.close()
library.fault_end(0)
print(library.fault_end(0))
"""


@pytest.mark.timeout(1_200)  # some hundred processes, one after another
@needs_a_compiler
def test_work_that_meets_a_fault_at_any_step_ends_where_it_would_have_ended() -> None:
    command = [sys.executable, ROOT / "scripts" / "prove_faults.py", "--share", "0.05"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-10_000:]
    for kind in ("kill", "EIO", "ENOSPC", "full"):
        found = re.search(rf"(\d+) x {kind}\b", done.stdout)
        assert found and int(found[1]) >= LEAST, done.stdout
    total = re.search(r"^(\d+) faults: (\d+) did no harm, 0 did$", done.stdout, re.MULTILINE)
    assert total and total[1] == total[2], done.stdout


@needs_a_compiler
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not here")
def test_the_system_sees_no_step_that_was_not_counted(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    trace = tmp_path / "trace"
    tracing = ["strace", "-f", "-y", "-o", trace, "-e", f"trace=access,faccessat,{','.join(f'?{call}' for call in CALLS)}"]
    preloaded = ["-E", f"LD_PRELOAD={made_library(tmp_path)}", sys.executable, "-c", WORK, tmp_path / "work"]
    done = subprocess.run(
        [*tracing, *preloaded], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    lines = trace.read_text().splitlines()
    begin, end = (next(at for at, line in enumerate(lines) if f'"/fault-{mark}"' in line) for mark in ("begin", "end"))
    steps = [line for line in lines[begin:end] if is_step(line)]
    assert len(steps) == int(done.stdout) > 300, "\n".join(steps)


def is_step(line: str) -> bool:
    """Whether a line of strace is a call that changes something on the disk."""
    call = re.match(r"\d+ +(\w+)\((?:\d+<([^>]*)>)?(.*)", line)
    if not call or call[1] not in CALLS:
        return False
    if call[1] in ("open", "openat"):
        return "O_CREAT" in line or "O_TRUNC" in line
    if call[1] in ("write", "writev"):
        return call[2].startswith("/") and not call[2].startswith("/dev/pts")
    return True
