"""What a process that runs for months asks of its C library: to give back to the system what it has freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3), from glibc's malloc.h."""
ARENAS = 2
LARGE = 256 * 1024  # bytes from which a piece of memory is mapped by itself
TRIM = 1024 * 1024  # bytes that may lie free at the end of the heap


def give_back_what_is_freed() -> None:
    """To be called before the first thread begins; it does nothing where the C library is another one than glibc.

    glibc has an arena for each of many threads, and keeps what was freed there. It also learns from each large piece that is freed to take
    the next ones, up to 32 MB, from the arenas: a shipper that merged files of some MB had 85 MB of free memory after a few minutes.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((M_ARENA_MAX, ARENAS), (M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, TRIM)):
            mallopt(parameter, value)
