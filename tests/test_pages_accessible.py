"""Every page of the office, as axe-core judges it: light and dark, on a desk and on a phone, nothing serious or critical.

The addresses come from the application's own URL map, so that a page which is added cannot be forgotten: one whose arguments this file does
not know fails, and asks for an example.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from farm_processes import PASSWORD, USER, Farm, eventually
from office_browser import DESK, PHONE, session_of
from office_farm import running_server
from office_pages import make_office
from playwright.sync_api import Browser, Page
from werkzeug.routing import IntegerConverter

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
GRAVE = ("serious", "critical")
NO_PAGES = ("/static/", "/office/api/", "/metrics", "/livez", "/readyz")  # begin the addresses of what is for programs
FILES = (".csv",)  # end the addresses of what is saved and not shown
EXAMPLES: dict[str, list[dict[str, Any]]] = {  # of arguments, by endpoint, where 1 is not one that is there or does not show enough
    "pages.change": [{"seq": 1}, {"seq": 3}],
    "pages.row_at": [{"seq": 3}],
}
MORE = (  # what an address can ask for, and what goes wrong
    "/office/changes?table=cattle&column=weight&kind=changed&from=2020-01-01T00:00",
    "/office/changes?from=nonsense",
    "/office/changes?actor=nobody",
    "/office/changes/3/row?at=1",
    "/office/payloads?status=error",
    "/office/payloads?tag=none",
    "/office/batches?q=none",
    "/office/nothing-here",
    "/office/changes/999999",
)


def addresses() -> list[str]:
    """Every page that can be read, with an example for each argument."""
    with TemporaryDirectory() as folder:
        office = make_office(Path(folder))
        found = [address for rule in office.app.url_map.iter_rules() for address in addresses_of(rule)]
        office.close()
    return sorted({*found, *MORE})


def addresses_of(rule: Any) -> Iterator[str]:
    """The examples of one rule, none where it leads to no page."""
    path = str(rule)
    if "GET" not in rule.methods or path.startswith(NO_PAGES) or path.endswith(FILES):
        return
    for name in rule.arguments:
        known = isinstance(rule._converters[name], IntegerConverter) or rule.endpoint in EXAMPLES
        assert known, f"{rule.endpoint} has the argument {name}: put an example of it into EXAMPLES"
    for example in EXAMPLES.get(rule.endpoint) or [dict.fromkeys(rule.arguments, 1)]:
        address = path
        for name, value in example.items():
            address = re.sub(rf"<([^<>]*:)?{name}>", str(value), address)
        yield address


@pytest.fixture(scope="module")
def session(browser: Browser, running_farm: Farm) -> Any:
    """The cookies of an admin who signed in, on a farm that has something of everything."""
    running_farm.fill(8)
    running_farm.pi.sql(
        """INSERT INTO pens(pen_number, capacity, description) VALUES('P1', 2, 'by the gate'), ('P2', 40, NULL);
           UPDATE cattle SET pen_id=1, weight=weight+1, health_status='watch' WHERE id<4;
           UPDATE cattle SET status='exported' WHERE id=5;
           INSERT INTO weight_records(cattle_id, weight, recorded_by) VALUES(1, 240.5, 'scale'), (1, 251, NULL);
           INSERT INTO pair_history(cattle_id, lf_tag, uhf_tag, updated_by) VALUES(1, 'OLDLF', 'OLDUHF', 'lora');
           INSERT INTO lora_payload_buffer(raw_payload, status, error_message, times_received) VALUES('bad', 'error', 'no parts', 3);
           UPDATE pens SET description=printf('%.900c', 'x') WHERE id=2;"""
    )
    assert running_farm.post("hxb:SEEN:LFSEEN:UHFSEEN").status_code == 201
    running_farm.assert_identical()
    return session_of(browser, running_farm.server.url, USER, PASSWORD)


def violations(page: Page) -> list[str]:
    """What axe finds, in words. It is put into the page by the debugger's road, which the page's policy says nothing about."""
    page.evaluate(AXE)
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [
        f"{each['impact']} {each['id']}: {node['target']} {node['html'][:200]} {node['failureSummary']}"
        for each in found
        if each["impact"] in GRAVE
        for node in each["nodes"][:5]
    ]


@contextmanager
def windows(browser: Browser, session: Any) -> Iterator[list[Page]]:
    """A page in each colour scheme and at each width."""
    how: dict[str, Any] = {"storage_state": session, "reduced_motion": "reduce", "locale": "en-US"}
    contexts = [browser.new_context(viewport=size, color_scheme=scheme, **how) for scheme in ("light", "dark") for size in (DESK, PHONE)]
    yield [context.new_page() for context in contexts]
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def signed_in(browser: Browser, session: Any) -> Iterator[list[Page]]:
    with windows(browser, session) as pages:
        yield pages


def judged(pages: list[Page], address: str) -> list[str]:
    """What is wrong with the page at this address in any of the windows, all that is folded away being open."""
    wrong = []
    for page in pages:
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        width, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        found = [*violations(page), *(["wider than the window"] if width > room else [])]
        scheme = "dark" if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "light"
        wrong += [f"{scheme} {room}: {each}" for each in found]
    return wrong


def test_what_is_unreadable_is_found(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content("<html lang=en><title>t</title><p style='color: #bbb; background: #fff'>pale</p><input>")
    assert {found.split(":")[0] for found in violations(page)} == {"serious color-contrast", "critical label"}
    page.close()


@pytest.mark.parametrize("address", addresses())
def test_a_page_has_no_serious_violation(signed_in: list[Page], running_farm: Farm, address: str) -> None:
    assert judged(signed_in, running_farm.server.url + address) == []


def test_who_is_not_signed_in_meets_no_serious_violation(browser: Browser, running_farm: Farm) -> None:
    with windows(browser, None) as pages:
        assert judged(pages, f"{running_farm.server.url}/office/login") == []


def test_the_page_of_the_first_copy_has_no_serious_violation(browser: Browser, tmp_path: Path) -> None:
    with running_server(tmp_path) as address, windows(browser, None) as pages:
        assert judged(pages, f"{address}/office/login") == []


def test_stale_rows_are_marked_readably(signed_in: list[Page], running_farm: Farm) -> None:
    """Last, since the Pi is away from here on."""
    running_farm.pi.stop()
    running_farm.server.settings["STALE_AFTER"] = 1
    running_farm.server.restart()
    eventually(lambda: running_farm.status()["state"] == "stale", 30)
    assert judged(signed_in, f"{running_farm.server.url}/office/replication") == []
