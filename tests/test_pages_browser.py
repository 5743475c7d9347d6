"""The office in a real browser, served by the real server: nothing may be logged to the console, and no request may fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from office_browser import DESK, PHONE, faults_of, running_browser
from office_farm import PASSWORD, add_batches, make_replica, move_position, running_server
from playwright.sync_api import Browser, BrowserContext, Page, expect

from changelog.connection import connect

SOON = 10_000  # ms: two looks of the page at the status, with room to spare


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("office") / "replica.db"
    make_replica(path, batches=120, animals=3).close()
    return path


@pytest.fixture(scope="module")
def address(replica: Path) -> Iterator[str]:
    with running_server(replica.parent) as address:
        yield address


@pytest.fixture(scope="module")
def session(browser: Browser, address: str) -> Any:
    """The cookies of somebody who signed in."""
    context = browser.new_context(base_url=address)
    sign_in(context.new_page())
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def context(browser: Browser, address: str) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=address, viewport=DESK, timezone_id="America/Denver", locale="en-US")
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, address: str) -> Iterator[Page]:
    page = context.new_page()
    faults = faults_of(page, address)
    yield page
    assert faults == []


@pytest.fixture
def signed_in(page: Page, context: BrowserContext, session: Any) -> Page:
    """The first page of the office, with the session of another tab."""
    context.add_cookies(session["cookies"])
    page.goto("/office/batches")
    return page


def sign_in(page: Page) -> None:
    page.goto("/office/")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Batches")).to_be_visible()


def add_a_batch(replica: Path) -> str:
    """One more batch, with a position that moved, as replay would leave it; returns its number."""
    db = connect(replica)
    with db:
        add_batches(db, 1, 1)
    move_position(db)
    newest: str = db.execute("SELECT batch_number FROM batches ORDER BY id DESC LIMIT 1").fetchall()[0][0]
    db.close()
    return newest


def test_somebody_signs_in_finds_an_animal_and_signs_out(page: Page) -> None:
    sign_in(page)
    page.get_by_role("searchbox").fill("UHF000100")
    page.keyboard.press("Enter")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="BATCH00034").click()
    expect(page.get_by_role("rowheader", name="BATCH00034-LF000100")).to_be_visible()
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="Show all").click()
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_list_is_paged_there_and_back(signed_in: Page) -> None:
    page = signed_in
    first = page.locator("tbody a").first.inner_text()
    page.get_by_role("link", name="Onward").click()
    page.get_by_role("link", name="Onward").click()
    expect(page.get_by_role("link", name="BATCH00001")).to_be_visible()
    page.get_by_role("link", name="Back").click()
    page.get_by_role("link", name="Back").click()
    expect(page.locator("tbody a").first).to_have_text(first)


def test_a_new_batch_appears_by_itself_and_scroll_and_focus_stay(signed_in: Page, replica: Path) -> None:
    page = signed_in
    page.locator("tbody a").nth(30).focus()
    focused = page.evaluate("document.activeElement.id")
    page.evaluate("window.scrollTo(0, 400)")
    number = add_a_batch(replica)
    expect(page.get_by_role("link", name=number)).to_be_attached(timeout=SOON)
    assert page.evaluate("document.activeElement.id") == focused
    assert abs(page.evaluate("window.scrollY") - 400) < 60


def test_what_is_being_typed_survives_the_refresh(signed_in: Page, replica: Path) -> None:
    page = signed_in
    page.get_by_role("searchbox").type("half a wor")
    number = add_a_batch(replica)
    expect(page.get_by_role("link", name=number)).to_be_attached(timeout=SOON)
    assert page.get_by_role("searchbox").input_value() == "half a wor"
    page.keyboard.type("d")
    assert page.get_by_role("searchbox").input_value() == "half a word"


def test_a_new_payload_appears_by_itself(signed_in: Page, replica: Path) -> None:
    page = signed_in
    page.get_by_role("link", name="LoRa payloads").click()
    number = add_a_batch(replica)
    expect(page.get_by_role("link", name=number, exact=True)).to_be_visible(timeout=SOON)


def test_times_are_the_viewers_and_exact_utc_is_in_the_title(signed_in: Page, replica: Path) -> None:
    page = signed_in
    page.goto("/office/payloads")
    time = page.locator("tbody time").first
    utc, title, shown = time.get_attribute("datetime"), time.get_attribute("title"), time.inner_text()
    assert utc is not None
    assert title == utc.replace("T", " ").replace("Z", " UTC")
    in_denver = page.evaluate("utc => new Date(utc).toLocaleString('sv-SE', {timeZone: 'America/Denver'})", utc)
    assert shown == in_denver


@pytest.mark.parametrize("path", ["batches", "batches/5", "batches?q=LF", "payloads", "pens", "replication", "login"])
def test_pages_fit_a_phone(signed_in: Page, path: str) -> None:
    page = signed_in
    page.set_viewport_size(PHONE)
    page.goto(f"/office/{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_keyboard_alone_is_enough(signed_in: Page) -> None:
    page = signed_in
    page.goto("/office/batches")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="LoRa payloads")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="LoRa payloads")).to_be_visible()


def test_pages_work_without_javascript(browser: Browser, address: str) -> None:
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/office/login?next=/office/payloads")
    page.get_by_label("User name").fill("user")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="LoRa payloads")).to_be_visible()
    expect(page.locator("tbody time").first).to_contain_text("UTC")
    context.close()
