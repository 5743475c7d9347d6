"""Whatever somebody typed, in a shell or over the radio, is text on every page: it makes no element, no attribute and no address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
from office_farm import make_replica
from office_pages import ELSEWHERE, PAGE, Office, ToldToResync, make_office, sign_in, token_in
from werkzeug.routing import Rule

from changelog.connection import connect, one, rows
from changelog.schema import identifier
from server.store import LastVerify

PLAIN = "plain"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)></textarea></title></option></td></script><!-- {{ 7*7 }} &lt;b&gt;"
HOSTILE = {
    "markup": MARKUP,
    "quotes": f"\" onmouseover=\"alert(1)\" x='\" ' onfocus='alert(1)' autofocus='{MARKUP}",
    "an address": "javascript:alert(1)",
}
ARGUMENTS = ("q", "status", "sort", "after", "before", "table", "key", "actor", "op", "column", "next")
ADDRESSES = {"href", "src", "action", "formaction", "data-url", "content", "srcset"}
KEPT = {("users", "password_hash"), ("users", "role")}

pytestmark = pytest.mark.usefixtures("patience")


class Shape(HTMLParser):
    """The elements of a page with their attributes, without what the values say; and what is wrong by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[tuple[str, frozenset[str]]] = set()
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        self.elements.add((tag, frozenset(names)))
        self.wrong += [f"<{tag} {name}>" for name in names if name.startswith("on") or names.count(name) > 1]
        self.wrong += [
            f"<{tag} {n}={v}>" for n, v in attrs if n in ADDRESSES and (v or "").strip().lower().startswith(("javascript:", "data:text"))
        ]

    def handle_comment(self, data: str) -> None:
        self.wrong.append(f"a comment: {data[:40]}")


def filled(folder: Path, word: str) -> Office:
    """An office in which every text is this word: in all columns of all tables, in the log, and in what the server itself remembers."""
    folder.mkdir()
    db = make_replica(folder / "replica.db", batches=2, animals=2)
    db.pragma("ignore_check_constraints", True)
    with closing(db), db:
        for sql in (
            "INSERT INTO weight_records(cattle_id, weight, recorded_by) VALUES(1, 250, 'x'), (1, 260.5, 'x')",
            "INSERT INTO pair_history(cattle_id, lf_tag, uhf_tag, updated_by) VALUES(1, 'x', 'y', 'z')",
            "INSERT INTO lora_payload_buffer(raw_payload, status, error_message) VALUES('x', 'error', 'why'), ('x', 'received', NULL)",
            "DELETE FROM cattle WHERE id=4",
        ):
            db.execute(sql)
        for (table,) in rows(
            db, "SELECT name FROM pragma_table_list WHERE type='table' AND name NOT LIKE 'sqlite%' AND name NOT LIKE 'change%'"
        ):
            for column, declared in rows(db, "SELECT name, type FROM pragma_table_info(?)", (table,)):
                if declared.upper() == "TEXT" and (table, column) not in KEPT:
                    which = " WHERE username<>'admin'" if (table, column) == ("users", "username") else ""
                    name = identifier(column)
                    unique = column in ("batch_number", "pen_number", "cattle_id", "username", "lf_tag", "uhf_tag")
                    db.execute(f"UPDATE {identifier(table)} SET {name}=?{'||id' if unique else ''}{which}", (word,))
        db.execute("UPDATE users SET role='admin'")
        db.execute("INSERT INTO cattle(batch_id, cattle_id, lf_tag, notes) VALUES(1, ?1, ?1, ?1)", (word,))
        db.execute("UPDATE changelog SET actor=?", (word,))
        db.execute("DELETE FROM changelog_position")
        db.execute(
            "INSERT INTO changelog_position SELECT value, (SELECT max(seq) FROM changelog), 0, ? FROM changelog_meta WHERE name='epoch'",
            (word,),
        )
    office = make_office(folder, ToldToResync())
    office.store.add_token(word)
    office.store.record_sync("bootstrap", "failed", reason=word)
    office.store.last_verify = LastVerify("2026-01-01T00:00:00", False, word)
    office.state.verified(word, "2026-01-01T00:00:00", False)
    office.state.alarmed(word)
    return office


def addresses(office: Office, word: str) -> Iterator[str]:
    """Every page that there is, those of each change too, and each with the word in the place of everything that can be asked."""
    with closing(connect(office.path, readonly=True)) as db:
        last = one(db, "SELECT max(seq) FROM changelog")
    asked = "&".join(f"{name}={quote(word)}" for name in ARGUMENTS)
    for rule in office.app.url_map.iter_rules():
        if "GET" not in (rule.methods or ()) or rule.endpoint == "static":
            continue
        yield from _places(rule, last)
        if not rule.arguments:
            yield f"{rule.rule}?{asked}"
            yield f"{rule.rule}?q={quote(word)}"
            yield f"{rule.rule}?actor={quote(word)}"


def _places(rule: Rule, last: int) -> Iterator[str]:
    if "seq" in rule.arguments:
        for seq in range(1, last + 1, 5 if "row" not in rule.rule else 29):
            yield rule.build({"seq": seq})[1]  # type: ignore[index]
    elif rule.arguments:
        for number in (1, 2, 4):
            yield rule.build(dict.fromkeys(rule.arguments, number))[1]  # type: ignore[index]
    else:
        yield rule.rule


def shapes(office: Office, word: str) -> dict[str, tuple[int, Shape]]:
    """How each page answers, by its address with the word taken out."""
    client = office.app.test_client()
    client.environ_base |= ELSEWHERE
    form = client.get("/office/login")
    failed = client.post("/office/login", data={"username": word, "password": word, "csrf_token": token_in(form.text)})
    found = {"a failed login": (failed.status_code, Shape(failed.text))}
    assert sign_in(client, f"{word}2", "a long enough password").status_code == 302
    for address in addresses(office, word):
        answer = client.get(address, headers=PAGE)
        if answer.mimetype == "text/html":
            found[address.replace(quote(word), PLAIN)] = answer.status_code, Shape(answer.text)
        answer.close()
    return found


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, Shape]]:
    office = filled(tmp_path_factory.mktemp("harmless") / "office", PLAIN)
    found = shapes(office, PLAIN)
    office.close()
    return found


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_was_typed_is_text_on_every_page(harmless: dict[str, tuple[int, Shape]], tmp_path: Path, kind: str) -> None:
    office = filled(tmp_path / "office", HOSTILE[kind])
    found = shapes(office, HOSTILE[kind])
    office.close()
    assert found.keys() >= harmless.keys()
    assert len(harmless) > 60
    usual = {element for _, shape in harmless.values() for element in shape.elements}
    wrong = []
    for address, (status, shape) in found.items():
        wrong += [f"{address}: {what}" for what in (*shape.wrong, *(shape.elements - usual))]
        known = harmless.get(address, (status, shape))[0]
        if status != known and (status >= 500 or "?" not in address):
            wrong.append(f"{address}: {status}")
    assert not wrong, "\n".join(map(str, wrong[:20]))
