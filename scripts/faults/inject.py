"""A process that is killed, or whose disk fails, at one step of its work: forked from one that has imported everything already.

The library scripts/faults/fault_at.c counts the steps and stands before the C library; it needs a C compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from changelog.errors import DroverError

LIBRARY = "FAULT_LIBRARY"  # the environment's name for where it stands
PATIENCE = 60  # s that a piece of work may take
KILLED = -signal.SIGKILL
FAILED, UNFORESEEN = 1, 70  # exit codes
COUNTS = "\0counts "  # begins the last line
ANSWERED = "answered "  # begins a line that says what somebody outside was promised

_UGLY = re.compile(r"Traceback \(most recent call last\)|unforeseen|unexpected|Error in sys.excepthook")


@dataclass(frozen=True)
class Kind:
    """What happens at a step: the process is killed (`error` 0), or the call fails, and all after it too if it `lasts`."""

    name: str
    error: int
    lasts: bool = False

    @property
    def only_room(self) -> bool:
        """Whether it meets only steps that take room on the disk."""
        return self.error == errno.ENOSPC


KINDS = (
    Kind("kill", 0),
    Kind("EIO", errno.EIO),
    Kind("ENOSPC", errno.ENOSPC),
    Kind("full", errno.ENOSPC, lasts=True),
)


@dataclass(frozen=True)
class Fault:
    """Which step of a run meets what; step 0: none does."""

    kind: Kind = KINDS[0]
    step: int = 0

    def begin(self) -> None:
        """Steps count from here on."""
        _library().fault_begin(self.step, self.kind.error, int(self.kind.lasts))

    @staticmethod
    def over() -> None:
        """The disk is sound again, in the process that met the fault."""
        _library().fault_over()


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code, all that it printed, its steps, those that took room, and how many of them met the fault.

    A step is told by a number that is the same for equal calls on the same file.
    """

    code: int
    printed: str
    steps: tuple[int, ...] = ()
    room: tuple[int, ...] = ()
    hits: int = 0

    @property
    def answered(self) -> set[str]:
        """What was promised to somebody outside."""
        return {line.removeprefix(ANSWERED) for line in self.printed.splitlines() if line.startswith(ANSWERED)}

    @property
    def is_clean(self) -> bool:
        """Whether it ended well, or with an error of ours in words; and nowhere with a traceback."""
        return self.code in (0, FAILED) and not _UGLY.search(self.printed)


def answer(what: str) -> None:
    """Somebody outside is promised something."""
    print(f"{ANSWERED}{what}", flush=True)


def made_library(folder: Path) -> Path:
    """The library, compiled."""
    library = folder / "fault_at.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, Path(__file__).with_name("fault_at.c"), "-ldl"], check=True)
    return library


def with_library() -> None:
    """Begin this program anew with the library before the C library, unless it is there."""
    if LIBRARY in os.environ:
        return
    with tempfile.TemporaryDirectory() as folder:
        library = str(made_library(Path(folder)))
        environment = {**os.environ, "LD_PRELOAD": library, LIBRARY: library, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, *sys.argv], env=environment, check=False)
    sys.exit(done.returncode)


def run(work: Callable[[Fault], object], fault: Fault = Fault()) -> Outcome:
    """Do `work` in a process of its own, and wait for its end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _child(work, fault, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        printed = pipe.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text, mark, counts = printed.rpartition(COUNTS)
    return Outcome(code, text, *json.loads(counts)) if mark else Outcome(code, printed)


def _child(work: Callable[[Fault], object], fault: Fault, output: int) -> None:
    code = UNFORESEEN
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.alarm(PATIENCE)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
    try:
        work(fault)
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 0
    except DroverError as exc:
        print(f"error: {exc.message}")
        code = FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        library = _library()
        hits = library.fault_over()
        steps, room = ([library.fault_mark(n, taking) for n in range(1, library.fault_end(taking) + 1)] for taking in (0, 1))
        with contextlib.suppress(OSError):
            print(f"{COUNTS}{json.dumps([steps, room, hits])}", flush=True)
        os._exit(code)


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.fault_over.restype = library.fault_end.restype = ctypes.c_long
    library.fault_mark.argtypes = (ctypes.c_long, ctypes.c_int)
    library.fault_begin.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_int)
    return library
