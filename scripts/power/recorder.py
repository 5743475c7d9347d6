"""Recording what processes do to the files of some folders, by scripts/power/record_io.c (it needs a C compiler)."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from scripts.power.torn_disk import CREATE, MARK, SYNC, SYNC_FOLDER, WRITE, record

SOURCE = Path(__file__).with_name("record_io.c")


class Recorder:
    """Whatever is started with `environment` before its command is recorded in the file `trace`."""

    def __init__(self, scratch: Path, folders: Mapping[str, Path]) -> None:
        """`scratch` is a folder for the trace and what makes it. What is in `folders` by now counts as on the disk."""
        self.trace, library = scratch.resolve() / "trace", scratch.resolve() / "record_io.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl", "-pthread"], check=True)
        paths = {name: folder.resolve() for name, folder in folders.items()}
        self.environment = ["env", f"LD_PRELOAD={library}", f"RECORD_TO={self.trace}", f"RECORD_UNDER={':'.join(map(str, paths.values()))}"]
        with self.trace.open("wb") as file:
            file.write(record(MARK, data=json.dumps({name: str(path) for name, path in paths.items()}).encode()))
            for folder in paths.values():
                for path in sorted(path for path in folder.glob("*") if path.is_file()):
                    inode, name = path.stat().st_ino, str(path)
                    file.write(record(CREATE, inode, path=name) + record(WRITE, inode, path=name, data=path.read_bytes()))
                    file.write(record(SYNC, inode, path=name))
                file.write(record(SYNC_FOLDER, path=str(folder)))

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Nobody is between a call and its record: who is to be killed is killed here."""
        fd = os.open(self.trace, os.O_WRONLY | os.O_APPEND)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def mark(self, **facts: object) -> None:
        """Note what was seen, which had happened before."""
        with self.locked() as fd:
            os.write(fd, record(MARK, data=json.dumps(facts).encode()))
