"""The office over a real replica, without a browser: its parts, and clients that are signed in. For the tests of the pages."""

from __future__ import annotations

import html
import re
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from office_farm import PASSWORD, move_position

from changelog.connection import connect
from changelog.node.settings import Settings
from server.app import create_app
from server.measures import Measures
from server.replica import Replica
from server.state import SyncState
from server.store import Store

PAGE = {"Accept": "text/html"}
ELSEWHERE = {"REMOTE_ADDR": "192.0.2.7"}


@dataclass
class ToldToResync:
    """Stands for the sync service, which needs a Pi: keeps what it was asked."""

    running: bool = True
    measures: Measures = field(default_factory=Measures)
    reasons: list[str] = field(default_factory=list)
    jobs: list[Any] = field(default_factory=list)

    def request_resync(self, reason: str) -> None:
        self.reasons.append(reason)

    def submit(self, job: Any) -> None:
        self.jobs.append(job)


@dataclass
class Office:
    """The parts of one server under test."""

    settings: Settings
    path: Path
    store: Store
    state: SyncState
    sync: Any
    app: Any

    def client(self, name: str | None = "admin", password: str = PASSWORD) -> FlaskClient:
        """A client on another machine, signed in as `name`."""
        client = self.app.test_client()
        client.environ_base |= ELSEWHERE
        if name is not None:
            assert sign_in(client, name, password).status_code == 302
        return client

    def write(self, *statements: str, actor: str | None = None) -> int:
        """Change the replica as replay would, in one transaction signed by `actor`; returns the newest seq."""
        db = connect(self.path)
        before = db.execute("SELECT max(seq) FROM changelog").fetchall()[0][0]
        with db:
            for sql in statements:
                db.execute(sql)
            db.execute("UPDATE changelog SET actor=? WHERE seq>?", (actor, before))
        position = move_position(db)
        db.close()
        return position.seq

    def close(self) -> None:
        self.store.close()
        self.app.extensions["office"].replica.close()


def sign_in(client: FlaskClient, name: str, password: str, target: str = "") -> Any:
    form = client.get("/office/login")
    return client.post(f"/office/login{target}", data={"username": name, "password": password, "csrf_token": token_in(form.text)})


def token_in(text: str) -> str:
    return html.unescape(re.findall(r'name="csrf_token" value="([^"]+)"', text)[0])


def make_office(folder: Path, sync: Any = None, **settings: Any) -> Office:
    chosen = replace(Settings(data_dir=folder, trust_loopback=True), **settings)
    store, state = Store(chosen.server_db), SyncState(chosen.stale_after, "starting" if sync else "pages-only")
    app = create_app(chosen, Replica(chosen.replica_db), store, state, sync)
    return Office(chosen, chosen.replica_db, store, state, sync, app)


def numbers(text: str) -> list[str]:
    """The batches that a page lists, in order."""
    return re.findall(r'id="batch-\d+"[^>]*>([^<]+)<', text)


def animals(text: str) -> list[int]:
    """The ids of the animals that a page lists, in order."""
    return [int(number) for number in re.findall(r'id="animal-(\d+)"', text)]


def link_in(text: str, rel: str) -> str | None:
    """Where the pager leads, `next` or `prev`."""
    found = re.search(rf'rel="{rel}" href="([^"]+)"', text)
    return html.unescape(found[1]) if found else None


def walk(client: FlaskClient, path: str, rel: str = "next") -> list[str]:
    """The texts of all pages from `path` on, as somebody sees them who follows the link of the pager."""
    texts = [client.get(path).text]
    while (link := link_in(texts[-1], rel)) is not None:
        texts.append(client.get(path.partition("?")[0] + link.partition("#")[0]).text)
    return texts


def text_of(page: str) -> str:
    """What a page says, without its markup."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def shown_command(page: str) -> str:
    """The command under "The same in the shell"."""
    [found] = re.findall(r'<details class="shell">.*?<code>(.*?)</code>', page, re.DOTALL)
    return html.unescape(found)


def run_shown(page: str) -> list[list[str]]:
    """What the shown command prints when it is pasted into a shell, as rows of cells: without the box, so that they can be told apart."""
    command = shown_command(page).replace(" -box ", " -header -ascii ")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, f"{command}\n{done.stderr}"
    return [row.split("\x1f") for row in done.stdout.split("\x1e") if row]
