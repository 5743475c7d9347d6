"""A checkout of its own for the tests of the scripts: a copy with the packages that the tests run with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from farm_processes import eventually
from office_farm import free_port

ROOT = Path(__file__).parent.parent
CODE = ("changelog", "pi", "server", "scripts", "requirements.txt", "triggers.sql", ".env.example")
STOP_LIMIT = 5.0  # s from Ctrl-C or SIGTERM to the end of all processes


class Checkout:
    """The copy, its ports, and what runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.settings = {"PI_PORT": str(free_port()), "SERVER_PORT": str(free_port())}
        folder.mkdir()
        for name in CODE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        self._borrow_venv()

    def start(self, *arguments: str, terminal: int | None = None, **settings: str) -> subprocess.Popen[bytes]:
        """scripts/run.sh from another folder; what it prints goes to the file `out`, or it owns the terminal behind this descriptor."""
        script, env = self.folder / "scripts" / "run.sh", self.environment(**settings)
        if terminal is not None:
            command = ["setsid", "--ctty", script, *arguments]
            return subprocess.Popen(command, cwd="/", env=env, stdin=terminal, stdout=terminal, stderr=terminal)
        with (self.folder / "out").open("wb") as out:
            return subprocess.Popen([script, *arguments], cwd="/", env=env, stdout=out, stderr=out, start_new_session=True)

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """A command to its end, run in the checkout: its first word is a script of it or a program."""
        env = self.environment(**settings)
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60, check=False)

    @contextmanager
    def running(self, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """scripts/run.sh while the block runs, from when it serves."""
        process = self.start(*arguments, **settings)
        try:
            eventually(lambda: process.poll() is not None or self.is_up(arguments), 30)
            assert process.poll() is None, self.printed
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_LIMIT + 1)

    def is_up(self, arguments: tuple[str, ...] = ()) -> bool:
        """Whether it has said that it serves."""
        return (f"{arguments[0]} serves" if arguments else "Drover runs") in self.printed

    @property
    def printed(self) -> str:
        """All that scripts/run.sh printed in its last run."""
        return (self.folder / "out").read_text(errors="replace")

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://localhost:{self.settings['SERVER_PORT']}"

    def processes(self) -> dict[int, str]:
        """The processes that work in this checkout, with their command lines."""
        found: dict[int, str] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (entry / "cwd").resolve() == self.folder:
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        return found

    def environment(self, **settings: str) -> dict[str, str]:
        """Nothing of the machine that runs the tests but what a process needs, and the settings."""
        kept: dict[str, Any] = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {**kept, **self.settings, **settings}

    def _borrow_venv(self) -> None:
        """A .venv that scripts/venv.sh takes for its own, with the packages of the Python that runs the tests: no network is needed."""
        venv = self.folder / ".venv"
        (venv / "bin").mkdir(parents=True)
        (venv / "bin" / "python").symlink_to(Path(sys.executable).resolve())
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
        (venv / "lib").symlink_to(Path(sys.prefix) / "lib")
        (venv / "python-version").write_text(f"Python {sys.version.split()[0]}\n")
        shutil.copy(ROOT / "requirements.txt", venv / "installed-requirements.txt")
