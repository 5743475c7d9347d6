"""A Pi and a server as they run: two processes, TLS between them, each in a folder of its own, as if they stood on two machines."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from changelog_parts import damage
from office_farm import free_port

ROOT = Path(__file__).parent.parent
DEADLINE = 10.0  # s for anything that a test waits for
POLL = 0.03  # s between two looks
STOP_DEADLINE = 8.0  # s for a role to end after SIGTERM
USER, PASSWORD = "boss", "a long enough password"
LOG_SHOWN = 6_000  # characters of a log that a failed test shows

# A value by its type and all its bytes: nothing is lost on the way through the shell's text.
EXACT = "typeof({0})||' '||CASE typeof({0}) WHEN 'real' THEN printf('%!.17g',{0}) ELSE hex({0}) END"
FARM_OBJECTS = r"name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE 'changelog%' AND name NOT LIKE '\_changelog%' ESCAPE '\'"


def eventually(condition: Callable[[], Any], deadline: float = DEADLINE) -> Any:
    """The first true result of `condition`; an assertion with its last result when none comes within `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited {deadline} s in vain, the last result was {found!r}"
        time.sleep(POLL)


def shell(path: Path, sql: str) -> str:
    """What the sqlite3 binary prints for `sql`, typed by an operator who waits for a lock; its error fails the test."""
    typed = subprocess.run(["sqlite3", "-bail", "-cmd", ".timeout 8000", str(path)], input=sql, capture_output=True, text=True, check=False)
    assert typed.returncode == 0 and not typed.stderr, typed.stderr
    return typed.stdout.strip()


def make_certificate(folder: Path, name: str = "pi") -> None:
    """`NAME-cert.pem` and `NAME-key.pem` by openssl, as README and scripts/run.sh make them."""
    subject = ["-subj", "/CN=pi", "-addext", "subjectAltName=DNS:pi,DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(folder / f"{name}-key.pem"), "-out", str(folder / f"{name}-cert.pem")]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    subprocess.run(["openssl", "req", "-x509", *curve, *subject, *files], check=True, capture_output=True)


class Role:
    """One of the two: its folder with `.env` and `data`, its process and what that printed."""

    verb = "serve"

    def __init__(self, name: str, folder: Path, database: str, health: str, **settings: object) -> None:
        """`database` is the file in `data` that `sql` opens; `health` the path that answers 200 as soon as the role serves."""
        self.name, self.folder = name, folder
        self.data = folder / "data"
        self.database = self.data / database
        self.settings = {"DATA_DIR": "data", **settings}
        self._health = health
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it serves."""
        if self.name == "server":
            return f"http://127.0.0.1:{self.settings['SERVER_PORT']}"
        return f"http{'s' if self.settings.get('PI_TLS', True) else ''}://127.0.0.1:{self.settings['PI_PORT']}"

    @property
    def log(self) -> str:
        """All that its processes printed so far."""
        path = self.folder / "out"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, prefix: Sequence[str] = ()) -> None:
        """Start it, by way of the command `prefix` if given, and return when it serves."""
        self.launch(prefix)
        eventually(self._serves, 20)

    def launch(self, prefix: Sequence[str] = ()) -> None:
        """Start it and return at once."""
        assert self._process is None, f"{self.name} runs already"
        self.write_env()
        with (self.folder / "out").open("ab") as out:
            command = [*prefix, sys.executable, "-m", self.name, self.verb]
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def stop(self) -> None:
        """SIGTERM, and wait for the end; nothing when it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_DEADLINE)
            finally:
                self.kill9()

    def kill9(self) -> None:
        """SIGKILL to its processes, as a power cut ends them; nothing when it does not run."""
        if self._process is not None:
            process, self._process = self._process, None
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the worker too; its own group, started by us
            process.wait(STOP_DEADLINE)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def wait_for_exit(self) -> int:
        """Its exit code, when it ends by itself."""
        assert self._process is not None
        code = self._process.wait(15)
        self._process = None
        return code

    def pids(self) -> list[int]:
        """Its processes: the master and the worker."""
        assert self._process is not None
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _group_of(path) == self._process.pid]

    def command(self, *arguments: str, typed: str | None = None) -> subprocess.CompletedProcess[str]:
        """`python -m NAME ...` with the same settings, while it serves or not."""
        return self.command_of(self.name, *arguments, typed=typed)

    def command_of(self, module: str, *arguments: str, typed: str | None = None) -> subprocess.CompletedProcess[str]:
        """`python -m MODULE ...` likewise."""
        self.write_env()
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=_environment(), input=typed, capture_output=True, text=True, timeout=60, check=False
        )

    def sql(self, sql: str) -> str:
        """What the sqlite3 shell prints for `sql` on the role's database."""
        return shell(self.database, sql)

    def damage(self, sql: str) -> None:
        """Change the role's database round the guards of a replica, as no program of ours would."""
        damage(self.database, sql)

    def _serves(self) -> bool:
        assert self._process is not None and self._process.poll() is None, f"{self.name} ended: {self.log[-LOG_SHOWN:]}"
        try:
            return requests.get(self.url + self._health, timeout=5, verify=self.data / "pi-cert.pem").ok
        except requests.ConnectionError:
            return False

    def write_env(self) -> None:
        """Its `.env`, while it runs or not."""
        text = "".join(f"{name}={value}\n" for name, value in self.settings.items())
        (self.folder / ".env").write_text(text)


class Farm:
    """The Pi, the server that follows it, and what people and programs do with them."""

    def __init__(self, folder: Path, seed: Seed) -> None:
        """Neither is started. `seed` is what was set up before: certificate, key, a farm.db with one user."""
        pi_port, server_port = free_port(), free_port()
        self.api_key = seed.api_key
        self.pi = Role(
            "pi", folder / "pi", "farm.db", "/api/sync/health", PI_BIND="127.0.0.1", PI_PORT=pi_port, LORA_PROCESSING_INTERVAL=0.2
        )
        self.server = Role(
            "server",
            folder / "server",
            "replica.db",
            "/livez",
            SERVER_BIND="127.0.0.1",
            SERVER_PORT=server_port,
            REMOTE_PI_HOST="localhost",
            REMOTE_PI_PORT=pi_port,
            PI_API_KEY=seed.api_key,
            DB_SYNC_INTERVAL=0.5,
        )
        self.roles = (self.pi, self.server)
        shutil.copytree(seed.folder, self.pi.data)
        self.server.data.mkdir(parents=True)
        shutil.copy(self.pi.data / "pi-cert.pem", self.server.data)  # what README tells to carry over: the pin

    def start(self) -> None:
        """Both, and the replica holds what the Pi does."""
        self.pi.start()
        self.server.start()
        self.assert_identical()

    def close(self) -> None:
        """End both, the quick way: nobody needs their files any more."""
        for role in self.roles:
            role.kill9()

    def post(self, payload: str) -> requests.Response:
        """What the document's curl sends when a tag was read."""
        return self.ask("POST", "/api/lora/receive", json={"payload": payload})

    def ask(self, method: str, path: str, key: str | None = None, **more: Any) -> requests.Response:
        """A request to the Pi over its own certificate, with `key` in X-API-Key if given."""
        headers = {**({"X-API-Key": key} if key is not None else {}), **more.pop("headers", {})}
        certificate = str(self.pi.data / "pi-cert.pem")
        return requests.request(method, self.pi.url + path, headers=headers, verify=certificate, timeout=15, **more)

    def sync(self, path: str, **parameters: object) -> Any:
        """The JSON of /api/sync + path, asked for with the replica's key."""
        answer = self.ask("GET", f"/api/sync{path}", self.api_key, params=parameters)
        assert answer.ok, answer.text
        return answer.json()

    def status(self) -> dict[str, Any]:
        """The `data` of sync-status."""
        answer = requests.get(f"{self.server.url}/office/api/sync-status", timeout=10)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def server_id(self) -> str:
        """By which name the Pi knows the server."""
        return shell(self.server.data / "server.db", "SELECT value FROM settings WHERE name='replica_id'")

    def prove_identical(self) -> dict[str, Any]:
        """What the server's resync found by digests: before it, and after the new copy that it fetched."""
        answer = requests.post(f"{self.server.url}/office/api/resync", params={"wait": "1"}, timeout=900)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def login(self) -> requests.Session:
        """A browser that signed in through the form."""
        browser = requests.Session()
        form = eventually(lambda: _token_of(browser.get(f"{self.server.url}/office/login", timeout=10)))
        sent = {"csrf_token": form, "username": USER, "password": PASSWORD}
        answer = browser.post(f"{self.server.url}/office/login", data=sent, allow_redirects=False, timeout=10)
        assert answer.status_code == 302, answer.text
        return browser

    def page(self, browser: requests.Session, path: str = "/office/batches") -> str:
        """The text of a page."""
        answer = browser.get(self.server.url + path, allow_redirects=False, timeout=10)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        return answer.text

    def fill(self, animals: int, batch: str = "BATCH001") -> None:
        """One batch with so many animals, typed into the shell, all of weight 1."""
        self.pi.sql(
            f"""BEGIN IMMEDIATE;
            INSERT INTO batches(batch_number, notes) VALUES('{batch}', 'as typed');
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{animals})
            INSERT INTO cattle(batch_id, cattle_id, lf_tag, uhf_tag, weight)
            SELECT last_insert_rowid(), '{batch}-'||i, '{batch}LF'||i, '{batch}UHF'||i, 1 FROM n;
            COMMIT;"""
        )

    def difference(self) -> str:
        """How the replica differs from the Pi's file, in positions, schema or any row; empty when it does not."""
        try:
            return self._difference()
        except AssertionError as exc:  # one of the files cannot be read just now
            return str(exc)

    def _difference(self) -> str:
        position = "SELECT value||'/'||(SELECT max(seq)||'/'||nonce FROM changelog) FROM changelog_meta WHERE name='epoch'"
        head, reached = self.pi.sql(position), self.server.sql("SELECT epoch||'/'||seq||'/'||nonce FROM changelog_position")
        if head != reached:
            return f"the Pi is at {head}, the replica at {reached}"
        theirs, ours = content(self.pi.database), content(self.server.database)
        return "; ".join(
            f"{name}: only on the Pi {sorted(theirs.get(name, set()) - ours.get(name, set()))[:3]},"
            f" only on the replica {sorted(ours.get(name, set()) - theirs.get(name, set()))[:3]}"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        )

    def assert_identical(self, deadline: float = DEADLINE) -> None:
        """The replica becomes the Pi's file, in position, schema and every value of every table."""
        eventually(self.server.database.exists, deadline)
        eventually(lambda: Same(self.difference()), deadline)


class Same(str):
    """A difference, true when there is none: so that a vain wait shows what differs."""

    def __bool__(self) -> bool:
        return not len(self)


class Seed:
    """What is set up once, by the commands that an operator types: certificate, API key, a farm.db with one user."""

    def __init__(self, folder: Path) -> None:
        role = Role("pi", folder, "farm.db", "/")
        role.data.mkdir(parents=True)
        make_certificate(role.data)
        made = role.command("key", "add", "office", "--role", "office")
        assert made.returncode == 0, made.stderr
        self.api_key = made.stdout.strip()
        user = role.command("user", "add", USER, "--role", "admin", "--password-stdin", typed=f"{PASSWORD}\n")
        assert user.returncode == 0, user.stderr
        self.folder = role.data


class PageWatch:
    """Reads one page over and over while the block runs, and keeps every answer that was not that page with `text` on it."""

    def __init__(self, farm: Farm, browser: requests.Session, text: str, path: str = "/office/batches") -> None:
        self._url, self._browser, self._text = farm.server.url + path, browser, text
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.good = 0  # answers
        self.longest = 0.0  # s that one of them took
        self.refused = 0  # times that nobody listened
        self.wrong: list[tuple[int, str]] = []

    def __enter__(self) -> PageWatch:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(POLL):
            began = time.monotonic()
            try:
                answer = self._browser.get(self._url, allow_redirects=False, timeout=15)
            except requests.ConnectionError:
                self.refused += 1
                continue
            self.longest = max(self.longest, time.monotonic() - began)
            if answer.status_code == 200 and self._text in answer.text:
                self.good += 1
            else:
                self.wrong.append((answer.status_code, answer.text))


def content(path: Path) -> dict[str, set[str]]:
    """Every table of a farm with its exact rows, and under `schema` the text of everything that is not the log's."""
    found = {"schema": set(shell(path, f"SELECT type||' '||name||' '||ifnull(sql,'') FROM sqlite_schema WHERE {FARM_OBJECTS}").split("\n"))}
    tables = f"(SELECT name FROM sqlite_schema WHERE type='table' AND {FARM_OBJECTS})"
    listed = shell(path, f"SELECT s.name, c.name FROM {tables} s, pragma_table_info(s.name) c")
    columns: dict[str, list[str]] = {}
    for line in listed.splitlines():
        table, column = line.split("|")
        columns.setdefault(table, []).append(EXACT.format(f'"{column}"'))
    for table, values in columns.items():
        found[table] = set(shell(path, f"""SELECT {"||', '||".join(values)} FROM "{table}" """).splitlines())
    return found


def audit(path: Path, since: int = 0, columns: str = "seq, actor, tbl, op, key, col, old, new") -> str:
    """What the audit view of this file tells about the changes after seq `since`."""
    return shell(path, f"SELECT {columns} FROM changelog_audit WHERE seq>{since} ORDER BY seq, col")


def _group_of(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[2])
    except OSError:  # it has ended
        return None


def _environment() -> dict[str, str]:
    """Nothing of the machine that runs the tests but what a process needs."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(ROOT)}


def _token_of(answer: requests.Response) -> str | None:
    match = re.search(r'name="csrf_token" value="([^"]+)"', answer.text)
    return match[1] if answer.ok and match else None
